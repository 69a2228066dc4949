"""Run a YOLOv5 script with the patches in place."""

from __future__ import annotations

import atexit
import ctypes
import gc
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import List, Optional, Sequence

from yolov5_featviz.console import say as log
from yolov5_featviz.version import __version__
from yolov5_featviz.yolov5.load import safe_load
from yolov5_featviz.yolov5.script.artist import Artist, RunOptions
from yolov5_featviz.yolov5.script.compat import Surroundings
from yolov5_featviz.yolov5.script.execute import execute
from yolov5_featviz.yolov5.script.find import check_flags, find_script, keep_out_of_package
from yolov5_featviz.yolov5.script.monkeypatch import Patches
from yolov5_featviz.yolov5.script.validate import locate_weights, replace_values, validate
from yolov5_featviz.yolov5.script.watcher import Watcher
from yolov5_featviz.yolov5.source import Source
from yolov5_featviz.yolov5.weights.definition import check_run, is_resume

SWITCH = 0.0005  # seconds that the network may wait for what is drawn in the background; Python's is ten times that


def run(
    script: str,
    arguments: List[str],
    options: RunOptions,
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
    check_flags(arguments, path)
    if options.say >= 0:
        log(f"{__version__}, {source}")

    folders = [Path("weights"), *([weights_folder] if weights_folder else [])]
    arguments = replace_values(arguments, "--weights", lambda name: locate_weights(name, folders))
    arguments = keep_out_of_package(arguments, path, source)
    with Surroundings(source):
        return _run(path, arguments, source, options, command)


def _run(path: Path, arguments: List[str], source: Source, options: RunOptions, command: Sequence[str]) -> int:
    patches = Patches()
    resumes = any(is_resume(word.split("=")[0]) for word in arguments)
    if resumes and not options.trust:
        check_run(arguments)
    if options.layers is None:
        safe_load(patches, source, options.trust, resumes=resumes)
        try:
            return execute(path, arguments, bool(source.package))
        finally:
            patches.undo()

    o = options
    channels = 64 if o.channels is None else o.channels
    validate(arguments, source, options.layers, channels, o.folder, o.trust, o.target)
    artist = Artist(str(path), arguments, source, options, command)
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
            code = execute(path, arguments, bool(source.package))
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
