"""Write docs/api.md from the docstrings of the public names: python scripts/api_reference.py [--check]."""

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


def reference() -> str:
    """The page."""
    parts = [HEAD]
    for name in fv.__all__:
        thing = getattr(fv, name)
        if not callable(thing):
            continue
        parts.append(f"\n## fv.{name}\n\n{_entry(name, thing)}")
        if isinstance(thing, type):
            for method, member in vars(thing).items():
                function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
                if not method.startswith("_") and inspect.isfunction(function):
                    parts.append(f"\n### {name}.{method}\n\n{_entry(method, function, isinstance(member, property))}")
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
    section = False
    for line in words.replace("::\n", ":\n").splitlines():
        bare = line.strip()
        if bare in ("Args:", "Returns:", "Raises:", "Yields:", "Attributes:"):
            section = True
            lines.append(f"**{bare[:-1]}**\n")
        elif section and line.startswith("    "):
            deeper = line.startswith("     ")
            entry = not deeper and re.match(r"[\w, *]+: ", bare)
            lines.append(f"- {bare}" if entry else f"{'  ' * deeper}{bare}")
        else:
            section = section and not bare
            lines.append(line)
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", "\n".join(lines))
    return text.replace("``", "`").strip()


if __name__ == "__main__":
    text = reference()
    if "--check" in sys.argv[1:]:
        sys.exit(0 if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text else f"{PAGE.name} is out of date")
    PAGE.write_text(text, encoding="utf-8")
