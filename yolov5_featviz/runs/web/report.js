(() => {
  'use strict';
  const COLOURS = 248, CODES = 254, NO_NUMBER = 255, EXPLANATION = -1;
  const $ = (id) => document.getElementById(id);
  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const option = (value, text) => make('option', { value, textContent: text });
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const number = (x) => (x === null ? NaN : x === 'inf' ? Infinity : x === '-inf' ? -Infinity : x);
  /** Numbers in words with the same number of decimals: three digits for the largest. */
  function words(...numbers) {
    const most = Math.max(0, ...numbers.filter(Number.isFinite).map(Math.abs));
    const decimals = most ? Math.max(0, 2 - Math.floor(Math.log10(most))) : 0;
    return numbers.map((x) => {
      if (Number.isNaN(x)) return 'no number';
      if (x === 0 || !Number.isFinite(x)) return x === 0 ? '0' : x > 0 ? '∞' : '−∞';
      if (most < 1e-4 || most >= 1e5) return x.toExponential(2).replace(/-/g, '−');
      const said = x.toFixed(decimals);
      return (Number(said) === 0 ? String(Number(x.toPrecision(1))) : said).replace(/-/g, '−');
    });
  }
  const scored = (x, by) => (by === 'contrast' && Number.isFinite(x) ? x.toFixed(2).replace('-', '−') : words(x)[0]);
  const clamp = (x, low, high) => Math.min(Math.max(x, low), high);

  const settings = JSON.parse($('settings').textContent);
  const items = [...document.querySelectorAll('#images > li[data-index]')];
  const palettes = Object.fromEntries(settings.palettes.map(([name, text]) => [name, bytes(text)]));
  // What is shown; `box` 0 stands for all boxes, `map` 0 for the heat map. `auto` until the reader chooses a layer or a
  // map: the page then chooses for each box; `plain` if the reader chose a map that is no explanation.
  const state = { index: -1, part: 0, layer: 0, map: 0, box: 0, auto: true, plain: false, cmap: settings.palettes[0][0], alpha: settings.alpha, scale: 'own', smooth: true, grey: settings.grey, boxes: true, hidden: false, zoom: 1 };
  let image = null;
  let probe = null;

  const layers = () => (image.parts.length ? image.parts[state.part].layers : []);
  const mark = (box) => image.marks[box - 1] || {};
  const said = (box) => mark(box).said || image.captions[box - 1];
  const named = (box) => [image.captions[box - 1], mark(box).kind || (mark(box).detected === false ? 'not detected' : '')].filter(Boolean).join(', ');

  /** What can be chosen as a layer: those with feature maps, `of`, and those with explanations, `why`. */
  let choices = [];
  function findChoices() {
    const spots = state.part ? [] : image.spots;
    const spotOf = (name) => spots.find((why) => why.name === name);
    choices = [
      ...layers().map((of) => ({ of, why: spotOf(of.name), name: of.name, label: `${of.name} ${of.type}`, title: of.title })),
      ...spots.filter((why) => !layers().some((of) => of.name === why.name)).map((why) => ({ why, name: why.name, label: why.label, title: why.title })),
    ];
  }
  const choice = () => choices[state.layer] || {};
  const explains = ({ why }, box) => Boolean(why) && why.boxes.includes(box);

  /** The map that is shown, `{ of, map }`; null if there is none. */
  function current() {
    const { of, why } = choice();
    if (state.map === EXPLANATION) return explains(choice(), state.box) ? { of: why, map: why.boxes.indexOf(state.box) } : null;
    return of ? { of, map: state.map } : null;
  }

  /** What a layer is shown with: the explanation of a box, unless something else was asked for, or the heat map. */
  const mapIn = (at, box) => ((!state.plain && explains(choices[at], box)) || !choices[at].of ? EXPLANATION : 0);

  /** What a box is shown with: its explanation, in the layer that was chosen; else, if none was, what stands out on it. */
  function viewOf(box, afresh = state.auto) {
    if (!afresh) return explains(choice(), box) ? { map: EXPLANATION } : { map: choice().of ? Math.max(0, state.map) : EXPLANATION };
    const explained = choices.findIndex((one) => explains(one, box));
    if (explained >= 0) return { layer: explained, map: EXPLANATION };
    const { by, rows } = ranked(box);
    const top = rows.find(([i, channel, score]) => (by === 'std' || score > 0) && layers()[i].channels.includes(channel));
    if (top) return { layer: top[0], map: layers()[top[0]].channels.indexOf(top[1]) + 1 };
    return { layer: image.best, map: layers().length ? 0 : EXPLANATION };
  }
  const viewAfresh = (box) => Object.assign(viewOf(box, true), { auto: true, plain: false });
  const pick = (box) => show({ plain: false, ...viewOf(box), box });

  /** What was found, and what the picture shows. */
  function sentence() {
    const fill = (words, values) => words.replace(/\{(\w+)\}/g, (_, name) => values[name]);
    const shown = current();
    const found = [image.says];
    if (state.box) found.push(fill(settings.words.picked, { said: said(state.box) }));
    if (!shown) return found.join(' ');
    const { of, map } = shown;
    if (state.map === EXPLANATION) return [...found, of.says[map]].join(' ');
    const what = state.box || image.detected === 1 ? 'it' : 'them';
    const { by, rows } = ranked(state.box);
    if (map > 0) {
      const channel = of.channels[map - 1];
      const first = rows.length && rows[0][0] === state.layer && rows[0][1] === channel && (by === 'std' || rows[0][2] > 0);
      return [...found, fill(settings.words[first ? settings.top[by] : 'channel'], { channel, layer: of.title, what })].join(' ');
    }
    if (rows.length && settings.none[by] && rows[0][2] <= 0) found.push(fill(settings.words[settings.none[by]], { what }));
    return [...found, fill(settings.words.heat, { reduce: of.heat[0], n: of.shape[0], layer: of.title })].join(' ');
  }

  function codes(of) {
    if (!of.codes) {
      of.codes = bytes(of.data);
      of.data = null;
    }
    return of.codes;
  }

  const fromZero = (of, map) => state.scale === 'own' && map === 0 && of.heat && of.heat[1] === 'zero';

  /** The values of a map in [0, 1] of the colour scale, NaN where there is none, and the scale's two ends. */
  function scaled(of, map) {
    const size = of.grid[0] * of.grid[1];
    const [low, high] = of.ends[map];
    const [a, b] = of.boxes ? [0, 1] : state.scale === 'layer' ? of.limits : fromZero(of, map) ? [0, Math.max(0, high)] : [low, high];
    const found = new Float32Array(size);
    const all = codes(of);
    for (let i = 0, at = map * size; i < size; i++, at++) {
      const value = low + (all[at] / CODES) * (high - low);
      found[i] = all[at] === NO_NUMBER ? NaN : b > a ? clamp((value - a) / (b - a), 0, 1) : 0;
    }
    return { values: found, ends: [a, b] };
  }

  /** The words at the two ends of the scale, and a remark; without a second end there is no scale. */
  function legend(of, map, { values, ends }) {
    if (of.boxes) return [...of.legends[map], ''];
    if (values.every(Number.isNaN)) return ['no finite value', '', ''];
    if (fromZero(of, map) && ends[1] === 0) return ['all values ≤ 0', '', ''];
    const whole = state.scale === 'layer';
    const [low, high] = words(...ends);
    const below = of.ends[map][0] < ends[0] ? '≤ ' : '', above = of.ends[map][1] > ends[1] ? '≥ ' : '';
    const padded = of.padded.includes(whole ? of.ends.length : map) ? ' · an end lies in the padding' : '';
    return [`${below}${fromZero(of, map) ? low : `min ${low}`}`, `${above}max ${high}${whole ? ' of the layer' : ''}`, padded];
  }

  const value = (of, map, cell) => {
    const code = codes(of)[map * of.grid[0] * of.grid[1] + cell];
    const [low, high] = of.ends[map];
    return code === NO_NUMBER ? NaN : low + (code / CODES) * (high - low);
  };

  /**
   * For each of `out` pixels along `start` to `stop`, in cells, the two cells that it lies between and the weight of
   * the second; `there` is 0 where a crop left something of the image out.
   */
  function along(n, out, start, stop, smooth) {
    const below = new Int32Array(out), above = new Int32Array(out), weight = new Float32Array(out), there = new Uint8Array(out);
    for (let i = 0; i < out; i++) {
      const exact = start + (i + 0.5) * ((stop - start) / out) - 0.5;
      const at = clamp(exact, 0, n - 1);
      there[i] = exact >= -0.5 && exact <= n - 0.5;
      below[i] = smooth ? Math.floor(at) : Math.floor(at + 0.5);
      above[i] = smooth ? Math.min(below[i] + 1, n - 1) : below[i];
      weight[i] = smooth ? at - below[i] : 0;
    }
    return { below, above, weight, there };
  }

  /** The value 0 on a scale between two ends, in [0, 1]. */
  const zeroOf = ([low, high]) => (high > low ? clamp(-low / (high - low), 0, 1) : 0);

  /**
   * Draw values [0, 1] of a part of a map over all of a canvas. Their opacity grows with the distance from `zero`, up
   * to `alpha`, if that is given.
   */
  function paint(canvas, values, [rows, columns], [left, top, right, bottom], smooth, alpha, zero = 0) {
    const { width, height } = canvas;
    const x = along(columns, width, left, right, smooth), y = along(rows, height, top, bottom, smooth);
    const context = canvas.getContext('2d');
    const picture = context.createImageData(width, height);
    const pixels = new Uint32Array(picture.data.buffer);
    const palette = palettes[state.cmap];
    const colours = new Uint32Array(COLOURS + 1);
    const steps = (i) => (i === COLOURS ? steps(zero < 0.5 ? COLOURS - 1 : 0) : Math.trunc(Math.abs(i - zero * (COLOURS - 1))));
    for (let i = 0; i <= COLOURS; i++) {
      const opacity = alpha === undefined ? 255 : Math.round((255 * alpha * steps(i)) / steps(COLOURS));
      colours[i] = ((opacity << 24) | (palette[3 * i + 2] << 16) | (palette[3 * i + 1] << 8) | palette[3 * i]) >>> 0;
    }
    for (let j = 0, at = 0; j < height; j++) {
      const upper = y.below[j] * columns, lower = y.above[j] * columns, v = y.weight[j];
      for (let i = 0; i < width; i++, at++) {
        if (!x.there[i] || !y.there[j]) continue;
        const l = x.below[i], r = x.above[i], u = x.weight[i];
        const above = values[upper + l] * (1 - u) + values[upper + r] * u;
        const t = above * (1 - v) + (values[lower + l] * (1 - u) + values[lower + r] * u) * v;
        pixels[at] = colours[Number.isNaN(t) ? COLOURS : Math.floor(t * (COLOURS - 1) + 0.5)];
      }
    }
    context.putImageData(picture, 0, 0);
  }

  const scoreRow = (of, box) => (box < of.scores.length ? box : -1);
  const best = (of, row) => (row < 0 || !of.top[row].length ? NaN : number(of.top[row][0][1]));
  const mapName = (of, map) => (of.boxes ? of.titles[map] : map === 0 ? `${of.heat[0]} of ${of.shape[0]} channel${of.shape[0] > 1 ? 's' : ''}` : `channel ${of.channels[map - 1]}`);

  /** The best channels of all layers for a box: [position of the layer, channel, score, contrast beside an ablation]. */
  function ranked(box) {
    const by = Object.keys(settings.measures).find((one) => one === 'std' || layers().some((of) => of.by === one));
    const rows = [];
    layers().forEach((of, i) => {
      const row = of.by === by ? scoreRow(of, box) : -1;
      if (row >= 0) for (const [channel, score, beside = null] of of.top[row]) if (score !== null) rows.push([i, channel, number(score), number(beside)]);
    });
    return { by, rows: rows.sort((a, b) => b[2] - a[2]).slice(0, settings.list) };
  }

  function drawMap() {
    const shown = current();
    const strength = image.photo ? state.alpha / 100 : 1;
    $('says').textContent = sentence();
    $('heat').style.opacity = state.hidden || !shown ? 0 : strength;
    $('photo').style.filter = state.grey ? 'grayscale(1)' : '';
    const ramp = $('ramp');
    ramp.hidden = true;
    for (const id of ['low', 'high', 'caption']) $(id).textContent = '';
    $('photo').alt = image.name;
    if (shown) {
      const { of, map } = shown;
      const found = scaled(of, map);
      const [low, high, remark] = legend(of, map, found);
      const zero = zeroOf(found.ends);
      paint($('heat'), found.values, of.grid, of.window, state.smooth, image.photo ? 1 : undefined, zero);
      $('low').textContent = low;
      $('high').textContent = high;
      ramp.hidden = !high;
      ramp.style.background = '#808080';
      paint(ramp, Float32Array.from({ length: COLOURS }, (_, i) => i / (COLOURS - 1)), [1, COLOURS], [0, 0, COLOURS, 1], false, image.photo ? strength : undefined, zero);
      const [height, width] = of.shape.slice(-2);
      const thinned = height !== of.grid[0] ? `shown as ${of.grid.join('×')}` : '';
      const stride = of.stride ? [...new Set(of.stride)].join('×') : '';
      const caption = of.boxes ? [of.titles[map], thinned]
        : [`Layer ${of.name}`, of.type, mapName(of, map), `H×W ${height}×${width}`, thinned, stride && `stride ${stride}`, remark];
      $('caption').textContent = caption.filter(Boolean).join(' · ');
      $('photo').alt = `${image.name}, under ${of.boxes ? of.titles[map] : `${mapName(of, map)} of ${of.title}`}`;
    }
    for (const button of document.querySelectorAll('#explanations button')) button.setAttribute('aria-pressed', String(state.map === EXPLANATION && Number(button.dataset.box) === state.box));
    for (const button of document.querySelectorAll('#tiles button')) button.setAttribute('aria-pressed', String(Number(button.dataset.map) === state.map));
    for (const button of document.querySelectorAll('#rows button')) {
      button.setAttribute('aria-pressed', String(Number(button.dataset.layer) === state.layer && state.map > 0 && Number(button.dataset.channel) === choice().of?.channels[state.map - 1]));
    }
    for (const link of document.querySelectorAll('#errors a[data-index]')) {
      if (Number(link.dataset.index) === state.index && Number(link.dataset.box) === state.box) link.setAttribute('aria-current', 'true');
      else link.removeAttribute('aria-current');
    }
    $('scale').disabled = state.map === EXPLANATION;
    drawShows();
    drawAbsent();
    if (probe) read(probe.x, probe.y, false);
  }

  /** What the layer can be shown with. */
  function drawShows() {
    const { of } = choice();
    const top = of ? (of.top[scoreRow(of, state.box)] || of.top[0]).find(([channel]) => of.channels.includes(channel)) : null;
    const channel = state.map > 0 ? state.map : top ? of.channels.indexOf(top[0]) + 1 : 0;
    const options = [
      ...(explains(choice(), state.box) ? [[EXPLANATION, 'explanation']] : []),
      ...(of ? [[0, 'heat map']] : []),
      ...(channel ? [[channel, `channel ${of.channels[channel - 1]}`]] : []),
    ];
    $('shows-set').hidden = options.length < 2;
    const focused = $('shows').contains(document.activeElement);
    $('shows').replaceChildren(...options.map(([map, label]) => {
      const radio = make('input', { type: 'radio', name: 'show', value: map, checked: map === state.map });
      radio.addEventListener('change', () => choose(map));
      return make('label', {}, radio, make('span', { textContent: label }));
    }));
    if (focused) $('shows').querySelector(':checked')?.focus();
  }
  const choose = (map, layer = state.layer, reveal = false) => show({ layer, map, auto: false, plain: map !== EXPLANATION }, reveal);

  /** Say so if the box has no explanation in this layer, and where it has one. */
  function drawAbsent() {
    const absent = state.part === 0 && image.spots.length > 0 && !explains(choice(), state.box);
    $('absent').hidden = !absent;
    $('absent').replaceChildren();
    if (!absent) return;
    const others = choices.map((one, i) => [one, i]).filter(([one]) => explains(one, state.box));
    const name = state.box ? image.captions[state.box - 1] : 'these boxes';
    const left = image.left_out ? ` ${image.left_out} explanations were left out to keep the page small.` : '';
    $('absent').replaceChildren(
      `No explanation of ${name} in ${choice().title}.`,
      ...(others.length ? [' There is one in ', ...others.flatMap(([one, i], n) => {
        const button = make('button', { type: 'button', className: 'link', textContent: one.title });
        button.addEventListener('click', () => choose(EXPLANATION, i));
        return n ? [', ', button] : [button];
      }), '.'] : [left]),
    );
  }

  /** A small picture of the part of a map that the image covers, as a button. */
  function thumbnail(of, map, described, ...label) {
    const [left, top, right, bottom] = of.window;
    const seen = [Math.max(0, Math.floor(left)), Math.max(0, Math.floor(top)), Math.min(of.grid[1], Math.ceil(right)), Math.min(of.grid[0], Math.ceil(bottom))];
    const canvas = make('canvas', { width: seen[2] - seen[0], height: seen[3] - seen[1] });
    paint(canvas, scaled(of, map).values, of.grid, seen, false);
    canvas.setAttribute('aria-hidden', 'true');
    const button = make('button', { type: 'button', className: 'tile' }, canvas, ...label);
    button.setAttribute('aria-label', described);
    return button;
  }

  /** The explanations of all boxes in this layer. */
  function drawExplanations() {
    const { why } = choice();
    $('explained').hidden = !why;
    if (!why) {
      $('explanations').replaceChildren();
      return;
    }
    $('explained-title').textContent = `Explanations in ${why.title}`;
    const held = document.activeElement && document.activeElement.closest('#explanations button');
    const keep = held ? held.dataset.box : null;
    $('explanations').replaceChildren(...why.boxes.map((box, map) => {
      const { kind } = mark(box);
      const label = box ? [image.captions[box - 1], ...(kind ? [make('b', { className: 'kind', textContent: kind })] : [])] : ['all together'];
      const button = thumbnail(why, map, box ? said(box) : 'all explanations together', ...label);
      button.dataset.box = box;
      button.addEventListener('click', () => show({ box, map: EXPLANATION, plain: false }, true));
      return button;
    }));
    if (keep !== null) $('explanations').querySelector(`[data-box="${keep}"]`)?.focus();
  }

  function drawTiles() {
    const { of } = choice();
    const row = of ? scoreRow(of, state.box) : -1;
    const order = of ? of.channels.map((channel, i) => ({ channel, map: i + 1, score: row < 0 ? NaN : number(of.scores[row][i]) })) : [];
    order.sort((a, b) => (Number.isNaN(b.score) ? -Infinity : b.score) - (Number.isNaN(a.score) ? -Infinity : a.score) || a.channel - b.channel);
    const tile = (map, label, described) => {
      const button = thumbnail(of, map, described, label);
      button.dataset.map = map;
      button.addEventListener('click', () => choose(map, state.layer, true));
      return button;
    };
    const held = document.activeElement && document.activeElement.closest('#tiles button');
    const keep = held ? held.dataset.map : null;
    $('tiles').replaceChildren(
      ...(of ? [tile(0, 'heat map', `heat map, ${mapName(of, 0)}`)] : []),
      ...order.map(({ channel, map, score }) => tile(map, Number.isNaN(score) ? `ch ${channel}` : `ch ${channel} · ${scored(score, of.by)}`, `channel ${channel}, ${Number.isNaN(score) ? 'no score' : `${settings.measures[of.by]} ${scored(score, of.by)}`}`)),
    );
    if (keep !== null) $('tiles').querySelector(`[data-map="${keep}"]`)?.focus();
    const n = order.length, all = of ? of.shape[0] : 0;
    const by = of && (of.by === 'std' ? `standard deviation, since ${of.note}` : `${settings.measures[of.by]} ${state.box ? `of ${image.captions[state.box - 1]}` : 'of the detections'}`);
    const title = choice().title || '';
    $('tiles-title').textContent = n ? `${title[0].toUpperCase()}${title.slice(1)}: ${n === all ? `all ${n}` : `${n} of ${all}`} channels by ${by}` : '';
    const left = image.left_out;
    $('more').textContent = [
      of && n === 0 ? 'For this image the page has no room for single channels. Its pictures are in its folder.' : '',
      n && n < all ? `The other ${all - n} are left out to keep the page small.` : '',
      left ? `${left} explanation${left > 1 ? 's' : ''} of this image ${left > 1 ? 'are' : 'is'} left out to keep the page small.` : '',
    ].filter(Boolean).join(' ');
  }

  const SPACE = { left: 52, right: 10, top: 10, bottom: 40 };
  const draw = (tag, attributes, ...children) => {
    const element = document.createElementNS($('chart').namespaceURI, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };

  /** About `n` round numbers between two, each with its words. */
  function ticks(low, high, n) {
    const exact = (high - low) / n, power = 10 ** Math.floor(Math.log10(exact));
    const step = power * [1, 2, 5, 10].find((one) => one * power >= exact);
    const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    const found = [];
    for (let i = Math.ceil(low / step); i * step <= high; i++) found.push([i * step, (i * step).toFixed(decimals).replace('-', '−')]);
    return found;
  }

  let plotted = null; // the plot's points, how one is read, and the number of the one that was

  /** What responds to the detections against what they need: a dot for each channel of the layer. */
  function drawPlot() {
    const { of, title } = choice();
    const plot = of && of.plot;
    $('plot').hidden = !plot;
    plotted = null;
    if (!plot) {
      $('chart').replaceChildren();
      return;
    }
    const { points, said } = plot, [across, up] = plot.names, shown = new Set(plot.shown);
    const width = clamp($('points').clientWidth, 240, 640), height = Math.round(0.7 * width);
    const right = width - SPACE.right, bottom = height - SPACE.bottom;
    const scale = (i, from, to) => {
      const values = points.map((point) => point[i]);
      const low = Math.min(0, ...values), high = Math.max(0, ...values), spare = 0.05 * (high - low || 1);
      const place = (value) => from + ((value - low + spare) / (high - low + 2 * spare)) * (to - from);
      return [place, ticks(low - spare, high + spare, Math.abs(to - from) / 70)];
    };
    const [x, columns] = scale(1, SPACE.left, right), [y, rows] = scale(2, bottom, SPACE.top);
    const sayPoint = ([channel, one, other]) => `channel ${channel}: ${across} ${scored(one, 'contrast')}, ${up} ${words(other)[0]}${shown.has(channel) ? ', in the pictures' : ''}`;
    const dots = points.map((point, i) => {
      const drawn = shown.has(point[0]);
      const dot = draw('circle', { cx: x(point[1]), cy: y(point[2]), r: drawn ? 5 : 4, class: drawn ? 'drawn' : '' }, draw('title', {}, sayPoint(point)));
      dot.addEventListener('pointerenter', () => readPoint(i, false));
      dot.addEventListener('click', () => pickPoint(i));
      return dot;
    });
    plotted = { of, points, dots, say: sayPoint, at: -1 };
    const chart = $('chart');
    for (const [name, value] of Object.entries({ width, height, viewBox: `0 0 ${width} ${height}` })) chart.setAttribute(name, value);
    chart.replaceChildren(draw('g', { 'aria-hidden': 'true' },
      ...columns.map(([value]) => draw('path', { d: `M${x(value)} ${SPACE.top}V${bottom}`, class: value === 0 ? 'zero' : '' })),
      ...rows.map(([value]) => draw('path', { d: `M${SPACE.left} ${y(value)}H${right}`, class: value === 0 ? 'zero' : '' })),
      ...columns.map(([value, label]) => draw('text', { x: x(value), y: bottom + 16, 'text-anchor': 'middle' }, label)),
      ...rows.map(([value, label]) => draw('text', { x: SPACE.left - 6, y: y(value) + 4, 'text-anchor': 'end' }, label)),
      draw('text', { x: (SPACE.left + right) / 2, y: height - 6, 'text-anchor': 'middle' }, `${across}: responds →`),
      draw('text', { transform: `translate(12 ${(SPACE.top + bottom) / 2}) rotate(-90)`, 'text-anchor': 'middle' }, `${up}: is needed →`),
      ...dots.filter((_, i) => !shown.has(points[i][0])), ...dots.filter((_, i) => shown.has(points[i][0])), // on top
    ));
    $('point').textContent = 'Point at a dot, or use the arrow keys, to read its channel.';
    $('plot-title').textContent = `${title[0].toUpperCase()}${title.slice(1)}: what responds, and what is needed`;
    $('plot-words').textContent = `A dot for each channel. Further right it responds more to the detections; further up they lose more of their score without it. Filled: the ${shown.size === 1 ? 'channel' : `${shown.size} channels`} of the pictures. ${said}`;
  }

  function readPoint(i, aloud) {
    plotted.at = i;
    plotted.dots.forEach((dot, n) => dot.classList.toggle('read', n === i));
    $('point').setAttribute('aria-live', aloud ? 'polite' : 'off');
    $('point').textContent = plotted.say(plotted.points[i]);
  }

  /** Show the channel of a dot over the image, if the page has its map. */
  function pickPoint(i) {
    const [channel] = plotted.points[i];
    if (plotted.of.channels.includes(channel)) choose(plotted.of.channels.indexOf(channel) + 1, state.layer, true);
  }

  function drawRanking() {
    const { by, rows } = ranked(state.box);
    $('ranking').hidden = !layers().length;
    $('heading').textContent = settings.headings[by] || settings.headings.contrast;
    $('by').textContent = settings.measures[by];
    $('beside').hidden = by !== 'ablation';
    $('formula').textContent = settings.formulas[by];
    const scores = rows.map((row) => row[2]);
    const most = Math.max(...scores.filter(Number.isFinite), 0);
    const values = by === 'contrast' ? scores.map((score) => scored(score, by)) : words(...scores);
    $('rows').replaceChildren(...rows.map(([i, channel, score, beside], n) => {
      const of = layers()[i];
      const there = of.channels.includes(channel);
      const button = make('button', { type: 'button', textContent: String(channel), title: there ? 'show it over the image' : 'left out to keep the page small', disabled: !there });
      button.dataset.layer = i;
      button.dataset.channel = channel;
      button.setAttribute('aria-label', `show channel ${channel} of ${of.title}`);
      button.addEventListener('click', () => choose(of.channels.indexOf(channel) + 1, i, true));
      const bar = make('td', { className: 'bar', textContent: values[n] });
      bar.style.setProperty('--share', most > 0 ? clamp(score / most, 0, 1) : 0);
      return make('tr', {}, make('td', { className: 'number', textContent: n + 1 }), make('td', { textContent: `${of.name} ${of.type}` }), make('td', {}, button), bar, ...(by === 'ablation' ? [make('td', { textContent: scored(beside, 'contrast') })] : []));
    }));
    const name = image.captions[state.box - 1];
    $('picked').textContent = !state.box || !layers().length ? ''
      : !rows.length ? (by === 'ablation' ? `What ${name} loses was not measured.` : `${name} covers too few cells of these layers to compare.`)
      : rows[0][2] > 0 ? '' : by === 'ablation' ? `${name} loses nothing without any single channel.` : `No channel is stronger inside ${name} than in the rest of the image.`;
    for (const label of document.querySelectorAll('#layers label')) {
      const { of } = choices[Number(label.firstChild.value)];
      const top = of ? best(of, scoreRow(of, state.box)) : NaN;
      label.querySelector('small').textContent = of && of.by === by && !Number.isNaN(top) ? scored(top, by) : '';
    }
    for (const button of document.querySelectorAll('.box')) button.setAttribute('aria-pressed', String(Number(button.dataset.box) === state.box));
    $('boxes').classList.toggle('picking', state.box > 0);
    const { truth } = mark(state.box);
    $('truth').hidden = !truth;
    if (truth) put($('truth'), truth);
    $('group').value = String(state.box);
  }

  /** Place an element at a box in fractions of the image. */
  function put(element, box) {
    const [x0, y0, x1, y1] = box.map((edge) => clamp(edge, 0, 1));
    for (const [name, share] of [['left', x0], ['top', y0], ['width', x1 - x0], ['height', y1 - y0]]) element.style[name] = `${100 * share}%`;
  }

  function drawBoxes() {
    const area = ([x0, y0, x1, y1]) => (x1 - x0) * (y1 - y0);
    const order = image.boxes.map((box, i) => i).sort((a, b) => area(image.boxes[b]) - area(image.boxes[a])); // small ones on top
    $('boxes').replaceChildren(...order.map((i) => {
      const { kind, detected } = mark(i + 1);
      const name = make('span', {}, image.captions[i], ...(kind ? [make('b', { className: 'kind', textContent: kind })] : []));
      const button = make('button', { type: 'button', className: 'box' }, name);
      button.classList.toggle('unseen', detected === false);
      const [r, g, b] = [1, 3, 5].map((at) => parseInt(image.colours[i].slice(at, at + 2), 16));
      button.classList.toggle('dark', 0.299 * r + 0.587 * g + 0.114 * b < 110);
      put(button, image.boxes[i]);
      button.style.setProperty('--box', image.colours[i]);
      button.dataset.box = i + 1;
      button.setAttribute('aria-label', detected === false ? said(i + 1) : `detection ${said(i + 1)}`);
      button.addEventListener('click', () => pick(state.box === i + 1 ? 0 : i + 1));
      return button;
    }));
    const names = {};
    $('group').replaceChildren(
      option(0, image.detected === null ? 'the image' : image.detected ? `all ${image.detected} detections` : 'nothing detected'),
      ...image.captions.map((_, i) => {
        const caption = named(i + 1);
        names[caption] = (names[caption] || 0) + 1;
        return option(i + 1, names[caption] > 1 ? `${caption} (${names[caption]})` : caption);
      }),
    );
    $('boxes').hidden = !state.boxes;
  }

  /** Put each name beside its box where it covers no other name, else inside, else only under the pointer. */
  function placeNames() {
    const sheet = $('sheet').getBoundingClientRect();
    const taken = [];
    const boxes = [...document.querySelectorAll('.box')].sort((a, b) => a.dataset.box - b.dataset.box);
    for (const { classList, firstChild } of boxes) {
      const placed = [[], ['right'], ['under'], ['under', 'right'], ['low'], ['low', 'right']].some((place) => {
        classList.remove('right', 'under', 'low');
        classList.add(...place);
        const at = firstChild.getBoundingClientRect();
        const inside = at.left > sheet.left - 3 && at.right < sheet.right + 3 && at.top > sheet.top - 3 && at.bottom < sheet.bottom + 3;
        const free = inside && !taken.some((other) => at.left < other.right && other.left < at.right && at.top < other.bottom && other.top < at.bottom);
        if (free) taken.push(at);
        return free;
      });
      classList.toggle('crowded', !placed);
    }
  }

  const chooseLayer = (layer) => show({ layer, map: mapIn(layer, state.box), auto: false });
  function drawLayers() {
    $('layers').replaceChildren(...choices.map(({ title, label }, i) => {
      const radio = make('input', { type: 'radio', name: 'layer', value: i, checked: i === state.layer });
      radio.addEventListener('change', () => chooseLayer(i));
      return make('label', { title }, radio, make('span', { textContent: label }), make('small'));
    }));
  }

  /** Change what is shown, and redraw what depends on it. `reveal`: bring the image into view. */
  function show(change, reveal) {
    Object.assign(state, change);
    const has = (...names) => names.some((name) => name in change);
    if (has('index', 'part')) drawLayers();
    else if (has('layer')) for (const radio of document.querySelectorAll('#layers input')) radio.checked = Number(radio.value) === state.layer;
    if (has('index')) drawBoxes();
    if (has('index', 'part', 'box')) drawRanking();
    if (has('index', 'part', 'layer', 'box', 'cmap', 'scale')) drawTiles();
    if (has('index', 'part', 'layer')) drawPlot();
    if (has('index', 'part', 'layer', 'cmap')) drawExplanations();
    if (has('boxes')) $('boxes').hidden = !state.boxes;
    if (has('index', 'boxes')) placeNames();
    drawMap();
    if (reveal) $('stage').scrollIntoView({ block: 'nearest' });
  }

  function open(index, box = 0) {
    if (index < 0 || index >= items.length) return;
    const item = items[index];
    const before = image && !state.auto ? { layer: choice().name, channel: state.map > 0 ? choice().of.channels[state.map - 1] : null } : null;
    image = JSON.parse(item.querySelector('script').textContent);
    const aspect = image.size[1] / image.size[0];
    $('stage').style.setProperty('--aspect', aspect);
    const photo = $('photo');
    photo.hidden = !image.photo;
    if (image.photo) photo.src = image.photo;
    for (const control of ['alpha', 'grey']) $(control).parentElement.hidden = !image.photo;
    const canvas = $('heat');
    const side = Math.min(settings.side, Math.max(...image.size));
    canvas.width = Math.max(1, Math.round(aspect >= 1 ? side : side * aspect));
    canvas.height = Math.max(1, Math.round(aspect >= 1 ? side / aspect : side));
    $('folder').href = image.link;
    $('folder').hidden = !image.link;
    $('parts').replaceChildren(...image.parts.map((of, i) => option(i, of.name)));
    $('parts-label').hidden = image.parts.length < 2;
    const variants = items.filter((other) => other.dataset.name === item.dataset.name);
    $('groups').replaceChildren(...variants.map((other) => option(other.dataset.index, other.dataset.group)));
    $('groups').value = String(index);
    $('groups-label').hidden = variants.length < 2 || !item.dataset.group;
    for (const other of items) other.firstElementChild.toggleAttribute('aria-current', false);
    item.firstElementChild.setAttribute('aria-current', 'true');
    box = box <= image.boxes.length ? box : 0;
    Object.assign(state, { index, part: 0, box });
    findChoices();
    probe = null;
    $('cell').hidden = true;
    zoomTo(1);
    // the layer and channel that were chosen before, if this image has them too
    const at = before ? choices.findIndex((one) => one.name === before.layer) : -1;
    const channel = at >= 0 && before.channel !== null ? choices[at].of.channels.indexOf(before.channel) + 1 : 0;
    show({ index, part: 0, box, ...(at < 0 ? viewAfresh(box) : { layer: at, map: channel || mapIn(at, box) }) });
  }

  /** Show the value at a point of the image, both in [0, 1]. */
  function read(x, y, aloud) {
    probe = { x, y };
    const shown = current();
    if (!shown) {
      $('cell').hidden = true;
      $('readout').textContent = '';
      return;
    }
    const { of, map } = shown;
    const [left, top, right, bottom] = of.window;
    const column = Math.floor(left + x * (right - left)), row = Math.floor(top + y * (bottom - top));
    const cell = $('cell');
    cell.hidden = column < 0 || column >= of.grid[1] || row < 0 || row >= of.grid[0];
    if (cell.hidden) {
      $('readout').textContent = 'The network was not given this part of the image.';
      return;
    }
    const share = { left: (column - left) / (right - left), top: (row - top) / (bottom - top), width: 1 / (right - left), height: 1 / (bottom - top) };
    for (const [name, part] of Object.entries(share)) cell.style[name] = `${100 * part}%`;
    $('readout').setAttribute('aria-live', aloud ? 'polite' : 'off');
    const pixel = `pixel ${Math.min(Math.floor(x * image.size[1]), image.size[1] - 1)}, ${Math.min(Math.floor(y * image.size[0]), image.size[0] - 1)}`;
    const said = words(value(of, map, row * of.grid[1] + column))[0];
    $('readout').textContent = `${of.boxes ? `${said} of its maximum` : `${said} · ${mapName(of, map)} of ${of.title}`} · row ${row}, column ${column} · ${pixel}`;
  }

  function zoomTo(zoom, x = 0.5, y = 0.5) {
    const stage = $('stage');
    zoom = clamp(zoom, 1, 8);
    const [over, down] = [stage.scrollLeft + x * stage.clientWidth, stage.scrollTop + y * stage.clientHeight];
    const factor = zoom / state.zoom;
    state.zoom = zoom;
    if (!stage.classList.contains('zoomed')) stage.style.setProperty('--height', `${stage.clientHeight}px`);
    stage.classList.toggle('zoomed', zoom > 1);
    $('sheet').style.setProperty('--zoom', zoom);
    stage.scrollLeft = over * factor - x * stage.clientWidth;
    stage.scrollTop = down * factor - y * stage.clientHeight;
    $('zoom').textContent = `${Math.round(100 * zoom)}%`;
    $('out').disabled = zoom <= 1;
    $('in').disabled = zoom >= 8;
    placeNames();
  }

  const step = (now, by, n) => (now + by + n) % n;
  const shown = () => items.filter((item) => !item.hidden);
  function move(by) {
    const list = shown(), at = list.indexOf(items[state.index]);
    if (!list.length) return;
    const next = list[clamp(at + by, 0, list.length - 1)];
    open(Number(next.dataset.index));
    next.scrollIntoView({ block: 'nearest', inline: 'nearest' });
  }
  const nextMap = (by) => {
    const tiles = [...document.querySelectorAll('#tiles button')];
    const at = tiles.findIndex((tile) => Number(tile.dataset.map) === state.map);
    if (tiles.length) choose(Number(tiles[step(at, by, tiles.length)].dataset.map), state.layer, true);
  };
  const nextError = (by) => {
    const links = [...document.querySelectorAll('#errors a[data-index]')];
    if (!links.length) return;
    const at = links.findIndex((link) => link.hasAttribute('aria-current'));
    const link = links[at < 0 ? 0 : step(at, by, links.length)];
    open(Number(link.dataset.index), Number(link.dataset.box));
    link.scrollIntoView({ block: 'nearest' });
    $('stage').scrollIntoView({ block: 'nearest' });
  };
  const nextCmap = () => {
    const names = Object.keys(palettes);
    show({ cmap: names[step(names.indexOf(state.cmap), 1, names.length)] });
    $('cmap').value = state.cmap;
  };
  const keys = {
    '[': () => move(-1),
    ']': () => move(1),
    l: () => chooseLayer(step(state.layer, 1, choices.length)),
    L: () => chooseLayer(step(state.layer, -1, choices.length)),
    c: () => nextMap(1),
    C: () => nextMap(-1),
    e: () => explains(choice(), state.box) && choose(EXPLANATION),
    m: () => choice().of && choose(0),
    b: () => pick(step(state.box, 1, image.boxes.length + 1)),
    B: () => pick(step(state.box, -1, image.boxes.length + 1)),
    x: () => nextError(1),
    X: () => nextError(-1),
    Escape: () => show({ ...viewAfresh(0), box: 0 }),
    p: nextCmap,
    h: () => show({ hidden: !state.hidden }),
    g: () => $('grey').click(),
    '+': () => zoomTo(state.zoom * 1.5),
    '=': () => zoomTo(state.zoom * 1.5),
    '-': () => zoomTo(state.zoom / 1.5),
  };

  document.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest('select, input:not([type="radio"]):not([type="checkbox"])')) return;
    const act = keys[event.key];
    if (act) {
      act();
      event.preventDefault();
    }
  });

  $('stage').addEventListener('keydown', (event) => {
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const arrow = arrows[event.key];
    if (!arrow || event.target !== $('stage')) return;
    const shown = current();
    if (!shown) return;
    const [left, top, right, bottom] = shown.of.window;
    const at = probe || { x: 0.5, y: 0.5 };
    const [dx, dy] = probe ? arrow : [0, 0];
    read(clamp(at.x + dx / (right - left), 0, 0.9999), clamp(at.y + dy / (bottom - top), 0, 0.9999), true);
    event.preventDefault();
  });

  $('chart').addEventListener('keydown', (event) => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (by) readPoint(plotted.at < 0 ? 0 : step(plotted.at, by, plotted.points.length), true);
    else if (event.key === 'Enter' && plotted.at >= 0) pickPoint(plotted.at);
    else return;
    event.preventDefault();
  });

  const place = (event) => {
    const area = $('sheet').getBoundingClientRect();
    return [(event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height];
  };
  let dragged = null;
  $('sheet').addEventListener('pointermove', (event) => {
    const stage = $('stage');
    if (dragged && event.buttons === 1 && state.zoom > 1) {
      dragged.moved = dragged.moved || Math.hypot(event.clientX - dragged.x, event.clientY - dragged.y) > 4;
      stage.scrollLeft = dragged.left - (event.clientX - dragged.x);
      stage.scrollTop = dragged.top - (event.clientY - dragged.y);
      return;
    }
    const [x, y] = place(event);
    if (x >= 0 && x < 1 && y >= 0 && y < 1) read(x, y, false);
  });
  $('sheet').addEventListener('pointerdown', (event) => {
    dragged = event.pointerType === 'mouse' ? { x: event.clientX, y: event.clientY, left: $('stage').scrollLeft, top: $('stage').scrollTop } : null;
    const [x, y] = place(event);
    read(clamp(x, 0, 0.9999), clamp(y, 0, 0.9999), false);
  });
  $('sheet').addEventListener('click', (event) => {
    if (dragged && dragged.moved) event.stopPropagation(); // the end of a drag picks nothing
    dragged = null;
  }, true);
  $('sheet').addEventListener('dragstart', (event) => event.preventDefault());
  $('stage').addEventListener('wheel', (event) => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    const area = $('stage').getBoundingClientRect();
    zoomTo(state.zoom * Math.exp(-event.deltaY / 200), (event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height);
  }, { passive: false });

  for (const item of items) item.firstElementChild.addEventListener('click', () => open(Number(item.dataset.index)));
  $('cmap').replaceChildren(...Object.keys(palettes).map((name) => option(name, name)));
  $('cmap').addEventListener('change', () => show({ cmap: $('cmap').value }));
  $('scale').addEventListener('change', () => show({ scale: $('scale').value }));
  $('alpha').addEventListener('input', () => show({ alpha: Number($('alpha').value) }));
  $('smooth').addEventListener('change', () => show({ smooth: $('smooth').checked }));
  $('grey').checked = state.grey;
  $('grey').addEventListener('change', () => show({ grey: $('grey').checked }));
  $('outlines').addEventListener('change', () => show({ boxes: $('outlines').checked }));
  $('group').addEventListener('change', () => pick(Number($('group').value)));
  $('parts').addEventListener('change', () => {
    const { name } = choice();
    state.part = Number($('parts').value);
    findChoices();
    const at = choices.findIndex((one) => one.name === name);
    show({ part: state.part, ...(at < 0 || state.auto ? viewAfresh(state.box) : { layer: at, map: mapIn(at, state.box) }) });
  });
  $('groups').addEventListener('change', () => open(Number($('groups').value)));
  $('in').addEventListener('click', () => zoomTo(state.zoom * 1.5));
  $('out').addEventListener('click', () => zoomTo(state.zoom / 1.5));
  window.addEventListener('resize', () => {
    placeNames();
    drawPlot();
  });
  $('filter-row').hidden = items.length < 12;
  $('filter').addEventListener('input', () => {
    const wanted = $('filter').value.trim().toLowerCase();
    for (const item of items) item.hidden = !`${item.dataset.group} ${item.dataset.name}`.toLowerCase().includes(wanted);
  });

  document.querySelector('main').before($('nav')); // it comes last in the file, so that the first screen is there at once
  document.body.classList.toggle('lone', items.length < 2);
  document.documentElement.classList.remove('still');
  /** Open the image and box that an address names, such as `#3.1`; false if there is no such image. */
  function follow(hash) {
    const [, index, box] = (hash.match(/^#(\d+)\.(\d+)$/) || []).map(Number);
    if (!(index < items.length)) return false;
    if (index !== state.index || box !== state.box) open(index, box);
    $('stage').scrollIntoView({ block: 'nearest' });
    return true;
  }
  if (!follow(location.hash)) open(settings.first, settings.box);
  window.addEventListener('hashchange', () => follow(location.hash));
  for (const link of document.querySelectorAll('#errors a[data-index]')) {
    link.addEventListener('click', (event) => {
      if (!event.ctrlKey && !event.metaKey && !event.shiftKey) follow(link.hash); // the same address again is no change
    });
  }
})();
