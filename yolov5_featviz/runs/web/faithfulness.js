(() => {
  'use strict';
  const STEP = 100; // rows shown at a time
  const $ = (id) => document.getElementById(id);
  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const { columns, rows } = JSON.parse($('data').textContent);
  const at = Object.fromEntries(columns.map(({ name }, i) => [name, i]));
  const state = { by: -1, down: false, most: STEP };

  const words = (value, { number, digits }) => {
    if (value === null) return '';
    return number ? value.toFixed(digits).replace('-', '−') : String(value);
  };

  /** Order of two values; what is not defined comes last, whichever the direction. */
  const order = (a, b) => {
    if (a === null || b === null) return (a === null) - (b === null);
    const sign = state.down ? -1 : 1;
    return sign * (typeof a === 'number' ? a - b : a < b ? -1 : a > b ? 1 : 0);
  };

  function chosen() {
    const wanted = $('find').value.trim().toLowerCase(), method = $('method').value;
    const found = rows.filter((row) => {
      if (method !== '' && row[at.method] !== rows[Number(method)][at.method]) return false;
      if ($('lacking').checked && !row[at.note]) return false;
      return !wanted || ['image', 'class', 'method', 'note'].some((name) => String(row[at[name]]).toLowerCase().includes(wanted));
    });
    return state.by < 0 ? found : found.sort((a, b) => order(a[state.by], b[state.by]));
  }

  function draw() {
    const found = chosen();
    const shown = found.slice(0, state.most);
    $('rows').tBodies[0].replaceChildren(...shown.map((row) => make('tr', {}, ...columns.map((column, i) => make('td', {
      className: column.number ? 'number' : column.name === 'note' ? 'note' : 'name',
      textContent: words(row[i], column),
      title: column.number ? `${column.title}. ${column.meaning}` : words(row[i], column),
    })))));
    $('count').textContent = found.length > shown.length ? `${shown.length} of ${found.length} maps shown` : `${found.length} of ${rows.length} maps`;
    $('more').hidden = found.length <= shown.length;
    [...$('rows').tHead.rows[0].cells].forEach((cell, i) => {
      if (i === state.by) cell.setAttribute('aria-sort', state.down ? 'descending' : 'ascending');
      else cell.removeAttribute('aria-sort');
    });
  }

  const afresh = () => {
    state.most = STEP;
    draw();
  };
  $('rows').tHead.rows[0].replaceChildren(...columns.map((column, i) => {
    const button = make('button', { type: 'button', textContent: column.title, title: column.meaning });
    button.addEventListener('click', () => {
      Object.assign(state, { by: i, down: state.by === i && !state.down });
      afresh();
    });
    const cell = make('th', { className: column.number ? 'number' : '' }, button);
    cell.setAttribute('scope', 'col');
    return cell;
  }));
  const methods = new Map();
  rows.forEach((row, i) => methods.has(row[at.method]) || methods.set(row[at.method], i));
  $('method').replaceChildren(make('option', { value: '', textContent: 'all' }), ...[...methods].map(([name, i]) => make('option', { value: i, textContent: name })));
  for (const id of ['method', 'lacking']) $(id).addEventListener('change', afresh);
  $('find').addEventListener('input', afresh);
  $('more').addEventListener('click', () => {
    state.most += STEP;
    draw();
  });
  document.documentElement.classList.remove('still');
  draw();
})();
