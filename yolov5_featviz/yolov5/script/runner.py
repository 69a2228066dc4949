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

SWITCH = 0.0005  # thread switch interval in seconds, a tenth of Python's, so that drawing delays the network less


def run(
    script: str,
    arguments: List[str],
    options: RunOptions,
    weights_folder: Optional[Path] = None,
    here: bool = True,
    command: Sequence[str] = (),
) -> int:
    """Run a YOLOv5 script with its own ``arguments`` and draw what ``options`` request.

    Args:
        script: path of the script, or its name in the YOLOv5 in use.
        arguments: YOLOv5's own, passed on unchanged except for weights found in a ``weights`` folder
            and, for scripts of an installed package, a default for ``--project``.
        options: our options.
        weights_folder: additional folder for weights given by a bare name.
        here: whether ``script`` may lie outside YOLOv5, by a path from the current folder.
        command: the whole command line, for the record.

    Returns:
        The script's exit code; 1 if it is 0 but a picture or an image failed.

    Raises:
        FeatvizError: the input is invalid. Nothing was written.
        KeyboardInterrupt: the run was interrupted, after writing the finished pictures and the report.
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
    told = source, options.layers, artist.draw, log, artist.begin
    watcher = Watcher(*told, o.summary, o.every, o.limit, photos, o.reruns)
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
        if not artist.seen:
            log(f"nothing was drawn: {path.name} ran no recognisable YOLOv5 model on an image")
        return int(not artist.seen or artist.failed or bool(watcher.unreadable))
    return code or int(bool(watcher.unreadable or artist.gallery.errors))


def _keep_memory() -> None:
    """Make glibc keep freed memory for the next image instead of returning it to the system.

    The network and the pictures free and reallocate the same tens of megabytes for each image.
    """
    with suppress(Exception):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-1, 256 << 20)  # M_TRIM_THRESHOLD: free memory kept at the top of the heap
        mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD: least size of separately mapped blocks


def _leave() -> None:
    """Skip the final garbage collection, which takes about 1 s with torch.

    Not if a nanobind library is loaded (as by Triton since about torch 2.13), which would report leaks.
    """
    modules = [getattr(module, "__dict__", {}) for module in list(sys.modules.values())]
    if not any(type(value).__name__.startswith("nb_") for names in modules for value in list(names.values())):
        gc.freeze()
