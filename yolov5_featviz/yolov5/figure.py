"""Figures of YOLOv5 models, from a YAML file or a dictionary."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Union

from yolov5_featviz.draw.encode import format_of
from yolov5_featviz.errors import FeatvizError, reason
from yolov5_featviz.figures.composition import Composition
from yolov5_featviz.figures.make import make
from yolov5_featviz.figures.spec import Spec, expand, parse
from yolov5_featviz.files import check_writable, head, write
from yolov5_featviz.leftovers import clean_folder
from yolov5_featviz.runs.provenance import identity, portable, read_record, run_record
from yolov5_featviz.runs.saver import Failures
from yolov5_featviz.text import printable
from yolov5_featviz.yolov5.predictor import predictors
from yolov5_featviz.yolov5.script.batch import distinct
from yolov5_featviz.yolov5.source import find_source

LARGEST = 1 << 17  # bytes of a YAML file
ENTRIES = 10_000  # of a YAML file, with those of aliases
DEPTH = 20  # levels of nesting of a YAML file
DIGITS, WORDS = 50, 2000  # characters of a number, and of any other value
FILES = ("weights", "image", "yolov5", "output")  # keys whose values are paths


def figure(
    spec: Union[str, Path, Mapping[str, Any]], trust: bool = False, device: Optional[Union[str, int]] = None
) -> Composition:
    """Make a paper figure: rows and columns of images, detections and layers, with titles and colour bars.

    Args:
        spec: path of a YAML file, or its content as a mapping; see docs/figures.md. Paths are relative
            to the file, or to the current folder.
        trust: unpickle checkpoints without any check.
        device: ``cpu``, ``cuda:1``...; the first GPU if there is one, else the CPU.

    Returns:
        The figure; ``.save("fig.pdf")`` writes it.

    Raises:
        FeatvizError: something is invalid or not found, all listed in one line; or a layer does not
            exist.
    """
    given, base = load_yaml(spec)
    return draw_figure(check_figure(given, base, _name(spec), isinstance(spec, Mapping)), [], trust, device)


def write_figure(
    path: str,
    outputs: Optional[Sequence[str]] = None,
    command: Sequence[str] = (),
    trust: bool = False,
    dpi: Optional[int] = None,
    device: Optional[str] = None,
) -> List[str]:
    """Make a figure from a YAML file and write it.

    Args:
        path: of the YAML file.
        outputs: files to write, relative to the current folder; None for those in the YAML file.
        command: the whole command line, for the record.
        trust: unpickle checkpoints without any check.
        dpi: overrides that of the file.
        device: as for :func:`figure`.

    Returns:
        The files that were written. Existing figures of this kind are replaced.

    Raises:
        FeatvizError: as :func:`figure`; or no output is given, or another file exists there. Nothing was written.
        OSError: a file could not be saved; the message names it, and the files that were.
    """
    given, base = load_yaml(path)
    if outputs is not None and isinstance(given, Mapping):
        given = {name: value for name, value in given.items() if name != "output"}
        given["output"] = [str(Path(output).absolute()) for output in outputs]
    if dpi is not None and isinstance(given, Mapping):
        given = {**given, "dpi": dpi}
    spec = check_figure(given, base, _name(path), outputs is not None)
    if not spec.outputs:
        raise FeatvizError(f"{_name(path)}: no output: give one there, such as figure.pdf, or with --output")
    drawn = draw_figure(spec, command, trust, device)
    written: List[str] = []
    failures = Failures()
    try:
        for output in spec.outputs:
            record = {**drawn.about, "file": Path(output).name}
            content = replace(drawn, about=record).encode(format_of(output))
            try:
                clean_folder(Path(output).parent)
                write(output, content)
            except OSError as error:
                failures.add(output, error)
            else:
                written.append(output)
    except KeyboardInterrupt as stopped:
        stopped.written = ", ".join(f"{path} written" for path in written)  # type: ignore[attr-defined]
        raise
    if failures.errors:
        raise OSError("; ".join([*failures.lines(), *(f"{path} written" for path in written)]))
    return written


def load_yaml(spec: Union[str, Path, Mapping[str, Any]]) -> Any:
    """Load a YAML file; return its content and the folder that its paths are relative to.

    Raises:
        FeatvizError: there is no such file, it is not YAML, or it exceeds the limits for a figure.
    """
    if isinstance(spec, Mapping):
        return spec, Path()
    import yaml

    name = printable(spec, 300)
    if not os.path.exists(spec):
        raise FeatvizError(f"no figure {name}: No such file or directory")
    try:
        loader = yaml.SafeLoader(head(spec, LARGEST).decode("utf-8"))
        node = loader.get_single_node()
        given = None if node is None else _constructed(loader, node, name)
    except UnicodeDecodeError as error:
        raise FeatvizError(f"no figure {name}: it is not UTF-8 text: {reason(error)}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        problem = printable(getattr(error, "problem", None) or reason(error), 200)
        raise FeatvizError(f"{name}{line}: not YAML: {problem}") from None
    except RecursionError:
        raise FeatvizError(f"{name}: it is nested too deeply for a figure") from None
    return given, Path(spec).parent


def _constructed(loader: Any, node: Any, name: str) -> Any:
    """Construct the values of YAML nodes after checking their number and depth, with aliases expanded."""
    _entries(loader, node, name, {})
    try:
        return loader.construct_document(node)
    except (ValueError, TypeError, AttributeError, LookupError) as error:  # raised by constructors of tags
        raise FeatvizError(f"{name}: a value is invalid: {reason(error)}") from None


def _entries(loader: Any, node: Any, name: str, seen: Dict[int, int], depth: int = 0) -> int:
    """Count the entries below a YAML node. Raises FeatvizError for what a figure cannot contain."""
    import yaml

    where = f"{name}, line {node.start_mark.line + 1}"
    if depth > DEPTH:
        raise FeatvizError(f"{where}: nested too deeply: a figure has at most {DEPTH} levels")
    if isinstance(node, yaml.ScalarNode):
        short = printable(node.value, 40)
        if len(node.value) > (DIGITS if node.tag.endswith((":int", ":float")) else WORDS):
            raise FeatvizError(f"{where}: {short} is too long: it has {len(node.value):,} characters")
        try:
            loader.construct_object(node)
        except yaml.YAMLError:
            raise
        except Exception:  # constructors of numbers, dates and booleans do not validate
            raise FeatvizError(
                f"{where}: {short} is not a {node.tag.rpartition(':')[2].replace('timestamp', 'date')}"
            ) from None
        return 1
    if id(node) in seen:
        if seen[id(node)] < 0:
            raise FeatvizError(f"{where}: it contains itself")
        return seen[id(node)]
    seen[id(node)] = -1
    parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
    count = 1
    for part in parts:
        count += _entries(loader, part, name, seen, depth + 1)
        if count > ENTRIES:
            raise FeatvizError(f"{where}: more than {ENTRIES:,} entries, with aliases: too many for a figure")
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise FeatvizError(f"{where}: {printable(twice, 40)} is given twice")
    seen[id(node)] = count
    return count


def check_figure(given: Any, base: Path, name: str = "", anywhere: bool = True) -> Spec:
    """Validate a figure before any work is done.

    Args:
        given: content of a YAML file.
        base: folder that paths are relative to.
        name: name of the file, for messages.
        anywhere: whether outputs may lie outside ``base`` and the current folder, as those the user gives may.

    Raises:
        FeatvizError: something is invalid or not found, all listed in one line.
    """

    def find(kind: str, file: str) -> Optional[Path]:
        folders = [base]
        if kind == "weights":
            folders += [base / "weights", Path("weights")]
        elif not os.path.isfile(base / file):  # YOLOv5's own images, which detect.py uses by default
            folders.append(find_source().root / "data" / "images")
        return next((folder / file for folder in folders if os.path.isfile(folder / file)), None)

    try:
        spec = parse(given, find)
        cells = [[cell._replace(yolov5=cell.yolov5 and str(base / cell.yolov5)) for cell in row] for row in spec.cells]
        for output in spec.outputs:
            if not anywhere:
                _check_inside(output, base)
            check_output(base / output)
        return replace(spec, cells=cells, outputs=[os.path.normpath(base / output) for output in spec.outputs])
    except FeatvizError as error:
        raise FeatvizError(f"{name}: {error}" if name else str(error)) from None


def _check_inside(output: str, base: Path) -> None:
    """Raise FeatvizError unless ``output`` lies inside the file's folder or the current one, links resolved."""
    try:
        there = (base / output).resolve()
        inside = any(folder.resolve() in there.parents for folder in (base, Path()))
    except (OSError, RuntimeError, ValueError) as error:
        raise FeatvizError(f"output {printable(output, 80)}: {reason(error)}") from None
    if not inside:
        raise FeatvizError(
            f"output {printable(output, 80)} is neither inside the file's folder nor inside the current one: "
            "give it with --output"
        )


def check_output(path: Path) -> None:
    """Raise FeatvizError if a figure cannot be written there, or another kind of file exists there."""
    try:
        check_writable(path.parent)
        there = path.exists()
    except (OSError, ValueError) as error:
        raise FeatvizError(f"output {printable(path, 80)}: {reason(error)}") from None
    if there:
        try:
            ours = "figure" in read_record(path)
        except FeatvizError:
            ours = False
        if not ours:
            raise FeatvizError(f"{path} exists and is not a figure of this kind: give another output, or remove it")


def draw_figure(
    spec: Spec, command: Sequence[str], trust: bool = False, device: Optional[Union[str, int]] = None
) -> Composition:
    """Draw a checked figure, with its record."""
    releases: List[str] = []

    @contextmanager
    def models(weights: Sequence[str], yolov5: Sequence[Optional[str]]) -> Iterator[Sequence[Any]]:
        with predictors(weights, yolov5 if any(yolov5) else (), trust, device) as opened:
            releases.extend(dict.fromkeys(one.release for one in opened))
            yield opened

    drawn = make(spec, models)
    given = paths_in(spec.given)
    files = {kind: [spec.files[kind, path] for path in given.get(kind, [])] for kind in ("weights", "image")}
    about = {
        **run_record(command, files["weights"], yolov5=", ".join(releases) or None),
        "images": [identity(image) for image in files["image"]],
        "figure": _portable(spec.given),
        **drawn.about,
    }
    return replace(drawn, about=about)


def _name(spec: Any) -> str:
    return "" if isinstance(spec, Mapping) else printable(Path(spec).name)


def _portable(given: Mapping[str, Any]) -> Dict[str, Any]:
    """Replace the paths of a figure by distinct portable names."""
    names = {
        key: dict(zip(paths, distinct(_portable_path(key, path) for path in paths)))
        for key, paths in paths_in(given).items()
    }
    renamed: Dict[str, Any] = with_paths(given, names)
    return {name: value for name, value in renamed.items() if name != "output"}


def _portable_path(key: str, path: str) -> str:
    name = portable([path])[0]
    return name if key == "yolov5" else Path(name).name


def paths_in(given: Any, key: str = "") -> Dict[str, List[str]]:
    """List the paths in a figure by key, in order, without duplicates."""
    found: Dict[str, List[str]] = {}
    parts: List[Any] = []
    if isinstance(given, Mapping):
        parts = [paths_in(value, str(name)) for name, value in given.items()]
    elif isinstance(given, (list, tuple)):
        parts = [paths_in(expand(value) if key in ("rows", "columns") else value, key) for value in given]
    elif key in FILES and isinstance(given, (str, Path)):
        parts = [{key: [str(given)]}]
    for part in parts:
        for name, paths in part.items():
            found[name] = list(dict.fromkeys([*found.get(name, []), *paths]))
    return found


def with_paths(given: Any, paths: Mapping[str, Mapping[str, str]], key: str = "") -> Any:
    """Replace paths in a figure; return JSON values."""
    if isinstance(given, Mapping):
        return {str(name): with_paths(value, paths, str(name)) for name, value in given.items()}
    if isinstance(given, (list, tuple)):
        return [with_paths(expand(value) if key in ("rows", "columns") else value, paths, key) for value in given]
    if isinstance(given, (str, Path)):
        return paths.get(key, {}).get(str(given), str(given))
    return given if given is None or isinstance(given, (bool, int, float)) else str(given)
