"""Running somebody else's script as if it ran alone, with the patches in place."""

from __future__ import annotations

import argparse
import atexit
import ctypes
import gc
import inspect
import os
import re
import sys
import traceback
import types
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from yolov5_featviz import stop
from yolov5_featviz.cam import cam
from yolov5_featviz.capture import FeatureMap
from yolov5_featviz.console import say as log
from yolov5_featviz.errors import FeatvizError, reason
from yolov5_featviz.gallery import Files, Gallery
from yolov5_featviz.heatmap import HeatMap
from yolov5_featviz.pictures import Look, draw, draw_cam
from yolov5_featviz.provenance import identity, made
from yolov5_featviz.save import new_folder
from yolov5_featviz.version import __version__
from yolov5_featviz.yolov5.compat import Surroundings
from yolov5_featviz.yolov5.item import Item
from yolov5_featviz.yolov5.load import safe_load
from yolov5_featviz.yolov5.patch import Patches
from yolov5_featviz.yolov5.preflight import check, locate_weights, replace_values, values
from yolov5_featviz.yolov5.source import Source, find_source
from yolov5_featviz.yolov5.watch import Watcher
from yolov5_featviz.yolov5.weights.definition import check_run, is_resume

SWITCH = 0.0005  # seconds that the network may wait for what is drawn in the background; Python's is ten times that


@dataclass(frozen=True)
class Options(Look):
    """What the flags ask for; see the command line's help."""

    layers: Optional[str] = None
    folder: Optional[str] = None
    summary: bool = False
    every: Optional[int] = None
    limit: Optional[int] = None
    yolov5: Optional[str] = None
    trust: bool = False
    report: bool = True
    say: int = 0  # 1: all there is to say; -1: only what went wrong


def run(
    script: str,
    arguments: List[str],
    options: Options,
    weights_folder: Optional[Path] = None,
    here: bool = True,
    command: Sequence[str] = (),
) -> int:
    """Run a YOLOv5 script with its own ``arguments`` and draw what ``options`` ask for.

    Args:
        script: path of the script, or its name in the YOLOv5 that is found.
        arguments: YOLOv5's own, which go to it untouched, but for weights found in a ``weights``
            folder and, where the script lies in an installed package, a default for ``--project``.
        options: ours.
        weights_folder: where else to look for weights given by a bare name.
        here: whether ``script`` may lie outside YOLOv5, by a path from the current folder.
        command: the whole command line, for the files to tell.

    Returns:
        The exit code: the script's own; 1 if it is 0 but a picture or an image failed.

    Raises:
        FeatvizError: the input is wrong. Nothing was written.
        KeyboardInterrupt: the run was interrupted. What was drawn until then is written, and the page about it.
    """
    path, source = find_script(script, options.yolov5, here)
    if not os.path.isfile(path):
        raise FeatvizError(f"no script {script}: neither here nor in {source.root}")
    if options.say >= 0:
        log(f"{__version__}, {source}")

    folders = [Path("weights"), *([weights_folder] if weights_folder else [])]
    arguments = replace_values(arguments, "--weights", lambda name: locate_weights(name, folders))
    arguments = _keep_out_of_package(arguments, path, source)
    with Surroundings(source):
        return _run(path, arguments, source, options, command)


def find_script(script: str, yolov5: Optional[str] = None, here: bool = True) -> Tuple[Path, Source]:
    """Where a script lies, if there is one, and the YOLOv5 to use; see :func:`run`."""
    path = Path(script)
    if (
        here
        and os.path.isfile(script)
        and "yolov5_featviz.cli" not in path.read_text(encoding="utf-8", errors="replace")
    ):
        return path, find_source(yolov5, path)
    source = find_source(yolov5)  # a name to be found in YOLOv5; our own launcher of that name is not meant
    return source.root / script, source


def _run(path: Path, arguments: List[str], source: Source, options: Options, command: Sequence[str]) -> int:
    patches = Patches()
    resumes = any(is_resume(word.split("=")[0]) for word in arguments)
    if resumes and not options.trust:
        check_run(arguments)
    if options.layers is None:
        safe_load(patches, source, options.trust, resumes=resumes)
        try:
            return _execute(path, arguments, bool(source.package))
        finally:
            patches.undo()

    o = options
    channels = 64 if o.channels is None else o.channels
    check(arguments, source, options.layers, channels, o.folder, o.trust, o.target)
    artist = _Artist(str(path), arguments, source, options, command)
    photos = bool({"heatmap", "cam"} & {*o.modes}) or o.overlay or o.report
    watcher = Watcher(source, options.layers, artist.draw, log, artist.begin, o.summary, o.every, o.limit, photos)
    safe_load(patches, source, options.trust, partial(watcher.attach, patches), resumes)
    watcher.attach(patches)
    atexit.register(_leave)
    _keep_memory()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH)
    with artist.gallery:
        try:
            code = _execute(path, arguments, bool(source.package))
        finally:
            try:
                watcher.flush()
            finally:
                patches.undo()
                sys.setswitchinterval(interval)
    if not artist.gallery.folders and not artist.gallery.errors and code == 0:
        log(f"nothing was drawn: {path.name} put no image through a YOLOv5 model that could be followed")
        return 1
    return code or int(bool(watcher.unreadable or artist.gallery.errors))


def _keep_memory() -> None:
    """Let glibc keep what is freed for the next image, instead of giving it back and asking for it page by page.

    The network and the pictures free and take the same tens of megabytes for each image.
    """
    with suppress(Exception):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-1, 256 << 20)  # M_TRIM_THRESHOLD: the end of the heap
        mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD: blocks that are mapped one by one


def _leave() -> None:
    """Spare Python its last act, looking through all that torch brought along, which takes a second.

    Not where a library bound by nanobind is loaded (Triton's since torch 2.13 or so): it would report leaks.
    """
    modules = [getattr(module, "__dict__", {}) for module in list(sys.modules.values())]
    if not any(type(value).__name__.startswith("nb_") for names in modules for value in list(names.values())):
        gc.freeze()


class _Artist:
    """Draws and saves what the watcher delivers."""

    def __init__(
        self, script: str, arguments: List[str], source: Source, options: Options, command: Sequence[str] = ()
    ) -> None:
        self.script, self.source, self.options, self.command = script, source, options, command
        self._release = source.release
        weights = [Path(name).name for name in values(arguments, "--weights") if name]
        about = [Path(script).name, f"YOLOv5 {self._release}", *weights, f"layers {options.layers}"]
        about.append(f"yolov5-featviz {__version__}")  # no folders, since the page may go to others
        self.gallery = Gallery(options, log, options.report, " · ".join(about), options.say)
        self._home: Optional[Path] = Path(options.folder) if options.folder else None
        self._common: Dict[Tuple[str, ...], Dict[str, Any]] = {}

    def begin(self) -> None:
        """Find out where the pictures go, while the script's functions are running."""
        if self._home is None:
            self._home = _run_folder(self.script, self.source) or new_folder(Path("runs") / "featviz" / "exp")

    def draw(self, item: Item, i: int, parts: List[Tuple[str, List[FeatureMap]]]) -> None:
        """Queue the pictures of image ``i``, in a folder of its own, each part in a folder below."""
        o, image = self.options, item.image(i)
        maps = [(part, fm) for part, maps in parts for fm in maps] if o.shows_maps else []
        files: List[Files] = [(part, partial(draw, fm, o, image, self.gallery.ranked)) for part, fm in maps]
        if "cam" in o.modes:
            heats = self._explain(item, i, [part for part, _ in parts])
            files += [(part, partial(draw_cam, heat, o, image)) for part, heat in heats]
        if self._home is not None and files:
            group = "" if item.epoch is None else f"epoch{item.epoch:03d}"
            told = partial(self._made, item.weights, item.path(i) or item.name(i), item.frame, item.epoch)
            self.gallery.add(self._home, item.name(i), files, parts, item.photo(i), group, told, item.size(i))

    def _explain(self, item: Item, i: int, parts: List[str]) -> Iterator[Tuple[str, HeatMap]]:
        """Class activation maps of image ``i``, each with the folder where it belongs; of several passes, the first."""
        o = self.options
        for visit in item.visits:
            part, parts = parts[0], parts[len(visit.passes) :]
            part = part if len(visit.passes) == 1 else os.path.dirname(part)
            images, place = visit.images[i : i + 1], item.region(i, visit.images)
            try:
                heats = cam(visit.model, images, o.layers or "", o.target, o.method, o.merge, place, item.name(i))
            except FeatvizError as error:
                log(f"{item.name(i)}: {error}; no class activation map")
                continue
            boxes = item.boxes(i, getattr(visit.model, "names", ()))
            for heat in heats:
                yield part, replace(heat, feature_map=replace(heat.feature_map, boxes=boxes))

    def _made(self, weights: Sequence[str], image: str, frame: Optional[int], epoch: Optional[int]) -> Dict[str, Any]:
        """What the files of an image tell; in the background, since it needs hashes."""
        place = {name: n for name, n in (("frame", frame), ("epoch", epoch)) if n is not None}
        known = tuple(weights)
        if epoch is not None or known not in self._common:  # a training changes its checkpoints
            self._common[known] = made(self.command, weights, yolov5=self._release)
        return {**self._common[known], "image": identity(image, **place)}


def _run_folder(script: str, source: Source) -> Optional[Path]:
    """YOLOv5's run folder: every release holds it in a variable of the function that calls the model.

    Of the running functions those of the script come first, then those of the rest of the checkout.
    """
    root = os.path.join(os.path.realpath(str(source.root)), "")
    own: List[types.FrameType] = []
    others: List[types.FrameType] = []
    frame: Optional[types.FrameType] = sys._getframe()
    while frame is not None:
        file = frame.f_code.co_filename
        (own if file == script else others if os.path.realpath(file).startswith(root) else []).append(frame)
        frame = frame.f_back
    for frame in [*own, *others]:
        for name in ("save_dir", "out", "log_dir"):
            folder = frame.f_locals.get(name)
            if isinstance(folder, (str, Path)) and Path(folder) != Path():
                return Path(folder)
    return None


class Script(types.ModuleType):
    """What ``sys.modules["__main__"]`` is while a script runs here."""


def _execute(path: Path, arguments: List[str], function_too: bool = False) -> int:
    """Run ``path`` as ``python path arguments...`` would; return its exit code.

    ``function_too``: if the script only defines a function of its own name, call that.
    """
    try:
        code = compile(path.read_bytes(), str(path), "exec")
    except (SyntaxError, ValueError) as error:  # ValueError for null bytes, until Python 3.11
        raise FeatvizError(f"{path} is no Python script: {reason(error)}") from None
    main = Script("__main__")
    main.__dict__.update(__file__=str(path), __builtins__=__builtins__)
    before = sys.argv, sys.path[:], sys.modules["__main__"]
    sys.argv = [str(path), *arguments]
    # A console script has its own folder at the front, where the script expects its own.
    sys.path[:1] = [str(path.resolve().parent)]
    sys.modules["__main__"] = main
    try:
        exec(code, main.__dict__)
        function = main.__dict__.get(path.stem)
        if function_too and "__main__" not in code.co_consts and callable(function):
            _call(function, arguments)
    except (FeatvizError, KeyboardInterrupt):
        raise
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException as error:
        if stop.asked():  # some libraries make an error of their own of the interrupt
            raise stop.Stopped.of(error) from None
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename != str(path):
            trace = trace.tb_next
        traceback.print_exception(type(error), error, trace or error.__traceback__)
        return 1
    finally:
        sys.argv, sys.path[:], sys.modules["__main__"] = before
    return 0


def _call(function: Callable[..., Any], arguments: List[str]) -> None:
    """Call the function of a script that is one function and reads no command line, as those of the 4.0 wheels."""
    parser = argparse.ArgumentParser()
    for name, parameter in inspect.signature(function).parameters.items():
        default = parameter.default
        options: Dict[str, Any] = {"action": "store_true"} if default is False else {"type": type(default)}
        if default in (None, parameter.empty):
            options = {"type": str, "required": default is parameter.empty}
        parser.add_argument(*{f"--{name}", f"--{name.replace('_', '-')}"}, dest=name, default=default, **options)
    function(**vars(parser.parse_args(arguments)))


def _keep_out_of_package(arguments: List[str], script: Path, source: Source) -> List[str]:
    """Name the run folder where an installed script would put it among the packages."""
    if source.package and not any(a.split("=")[0] == "--project" for a in arguments):
        default = re.search(
            r"'--project'.*default=ROOT / '([^']+)'", script.read_text(encoding="utf-8", errors="replace")
        )
        if default:
            return [*arguments, "--project", default.group(1)]
    return arguments
