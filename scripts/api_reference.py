"""Write docs/api.md from the docstrings of the public names: python scripts/api_reference.py [--check]."""

import importlib
import inspect
import re
import sys
from pathlib import Path
from textwrap import indent

import yolov5_featviz as fv

PAGE = Path(__file__).resolve().parents[1] / "docs" / "api.md"
HEAD = (
    "# API reference\n\nMade from the docstrings by `python scripts/api_reference.py`. `import yolov5_featviz as fv`.\n"
)
BEHIND = (
    "\n# Behind the public names\n\nWhat the entries above refer to, each in its module of `yolov5_featviz`. These may "
    "change between versions.\n"
)


def reference() -> str:
    """The page: the public names, and below them what their docstrings refer to."""
    parts = [HEAD]
    for name in fv.__all__:
        thing = getattr(fv, name)
        if callable(thing):
            parts.append(_section(f"fv.{name}", name, thing))
    parts.append(BEHIND)
    seen = [getattr(fv, name) for name in fv.__all__]
    for part in parts:  # which grows meanwhile
        for module, name in re.findall(r":(?:func|class):`~?(yolov5_featviz[\w.]*)\.(\w+)`", part):
            thing = getattr(importlib.import_module(module), name)
            if thing not in seen:
                seen.append(thing)
                parts.append(_section(f"{module.partition('.')[2]}.{name}", name, thing))
    return re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", "".join(parts))


def _section(title: str, name: str, thing: object) -> str:
    parts = [f"\n## {title}\n\n{_entry(name, thing)}"]
    for method, member in vars(thing).items() if isinstance(thing, type) else ():
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        special = method in ("__call__", "__getitem__") and function.__doc__
        if inspect.isfunction(function) and (special or not method.startswith("_")):
            entry = _entry(method, function, isinstance(member, property))
            parts.append(f"\n### {name}.{f'`{method}`' if special else method}\n\n{entry}")
    return "".join(parts)


def _entry(name: str, thing: object, attribute: bool = False) -> str:
    words = inspect.getdoc(thing) or ""
    if attribute or (isinstance(thing, type) and issubclass(thing, Exception)):
        return f"{_plain(words)}\n"
    return f"```python\n{name}{_signature(thing)}\n```\n\n{_plain(words)}\n"


def _signature(thing: object) -> str:
    signature = inspect.signature(thing)  # type: ignore[arg-type]
    parameters = [_parameter(parameter) for parameter in signature.parameters.values()]
    result = signature.return_annotation
    answer = "" if result in (inspect.Signature.empty, None, "None") else f" -> {_type(result)}"
    line = f"({', '.join(parameters)}){answer}"
    return line if len(line) < 100 else "(\n" + indent(",\n".join(parameters), "    ") + f",\n){answer}"


def _parameter(parameter: inspect.Parameter) -> str:
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    kind = "" if parameter.annotation is parameter.empty else f": {_type(parameter.annotation)}"
    default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
    return f"{stars}{parameter.name}{kind}{default}"


def _type(annotation: object) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _plain(words: str) -> str:
    """A docstring as Markdown: its sections in bold, their entries as lists, its roles as code."""
    lines = []
    section = ""
    for line in re.sub(r"(?m)^::\n\n", "", words).replace("::\n", ":\n").splitlines():
        bare = line.strip()
        if bare in ("Args:", "Returns:", "Raises:", "Yields:", "Attributes:"):
            section = bare
            lines.append(f"**{bare[:-1]}**\n")
        elif section and line.startswith("    "):
            deeper = line.startswith("     ")
            entry = section not in ("Returns:", "Yields:") and not deeper and re.match(r"[\w, *]+: ", bare)
            lines.append(f"- {bare}" if entry else f"{'  ' * deeper}{bare}")
        else:
            section = "" if bare else section
            lines.append(line)
    return "\n".join(lines).replace("``", "`").strip()


if __name__ == "__main__":
    text = reference()
    if "--check" in sys.argv[1:]:
        sys.exit(0 if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text else f"{PAGE.name} is out of date")
    PAGE.write_text(text, encoding="utf-8")
