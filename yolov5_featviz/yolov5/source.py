"""Locate YOLOv5's source."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Iterator, Optional

from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.text import printable

HOW_TO_GET = (
    "run it inside a YOLOv5 checkout (or name one with --yolov5), or install one: pip install --no-deps yolov5==7.0.0"
)


@dataclass(frozen=True)
class Source:
    """Location of YOLOv5's source.

    Attributes:
        root: folder of ``models/yolo.py`` and ``detect.py``.
        kind: how it was found, for the log.
        package: ``yolov5`` if it is the installed package, else empty.
    """

    root: Path
    kind: str
    package: str = ""

    @property
    def release(self) -> str:
        """Release: from the package, from git, or guessed from the files."""
        if self.package:
            return metadata.version(self.package)
        if (self.root / ".git").exists():
            try:
                done = subprocess.run(
                    ["git", "-C", str(self.root), "describe", "--tags", "--always"],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    timeout=10,
                )
                if done.returncode == 0 and done.stdout.strip():
                    return done.stdout.decode(errors="replace").strip()
            except (OSError, subprocess.TimeoutExpired):
                pass
        return f"{_guess_release(self.root)}, judging by its files"

    def __str__(self) -> str:
        return f"YOLOv5 {self.release} ({self.kind}: {self.root})"

    @contextmanager
    def importable(self) -> Iterator[None]:
        """Make ``models`` and ``utils`` of this source importable within a context, as its scripts do."""
        root = str(self.root)
        if root in sys.path:
            yield
            return
        sys.path.insert(0, root)
        try:
            yield
        finally:
            if root in sys.path:
                sys.path.remove(root)


def is_checkout(folder: Path) -> bool:
    """Whether ``folder`` contains YOLOv5's source."""
    return os.path.isfile(folder / "models" / "yolo.py") and os.path.isdir(folder / "utils")


def find_source(named: Optional[str] = None, script: Optional[Path] = None) -> Source:
    """Find YOLOv5.

    Searched in order: ``named`` (the flag ``--yolov5``); the folder of ``script`` or a parent; ``$YOLOV5_ROOT``;
    the current folder and ``./yolov5``; torch hub's cache; the installed ``yolov5`` package.

    Raises:
        FeatvizError: the named folder does not contain YOLOv5, or none was found.
    """
    installed = _installed()

    def source(folder: Path, kind: str) -> Source:
        if "\0" in str(folder):
            raise FeatvizError(f"{kind} {printable(folder)} holds no YOLOv5: there is no folder of that name")
        folder = Path(os.path.expanduser(str(folder))).resolve()
        if installed is not None and folder == installed.root:
            return installed
        if not is_checkout(folder):
            raise FeatvizError(f"{kind} {folder} holds no YOLOv5: there is no models/yolo.py in it")
        return Source(folder, kind)

    if named:
        return source(Path(named), "--yolov5")
    for folder in list(script.resolve().parents)[:3] if script is not None else ():
        if is_checkout(folder):
            return source(folder, "the script's folder")
    if os.environ.get("YOLOV5_ROOT"):
        return source(Path(os.environ["YOLOV5_ROOT"]), "$YOLOV5_ROOT")
    for folder in (Path.cwd(), Path.cwd() / "yolov5"):
        if is_checkout(folder):
            return source(folder, "current folder")
    for folder in _hub_checkouts():
        return source(folder, "torch hub's cache")
    if installed is not None:
        return installed
    raise FeatvizError(f"no YOLOv5 found: {HOW_TO_GET}")


def _installed() -> Optional[Source]:
    try:
        folder = Path(str(metadata.distribution("yolov5").locate_file("yolov5"))).resolve()
    except metadata.PackageNotFoundError:
        return None
    return Source(folder, "installed package", "yolov5") if is_checkout(folder) else None


def _hub_checkouts() -> Iterator[Path]:
    import torch

    hub = Path(torch.hub.get_dir())
    if hub.is_dir():
        for path in sorted(hub.glob("ultralytics_yolov5_*"), key=lambda p: p.stat().st_mtime, reverse=True):
            if is_checkout(path):
                yield path


def _guess_release(root: Path) -> str:
    """Guess the release from what each added or removed."""

    def text(name: str) -> str:
        path = root / name
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    yolo, common = text("models/yolo.py"), text("models/common.py")
    if (root / "utils" / "dataloaders.py").is_file():
        if not re.search(r"def _forward_once\(.*visualize", yolo):
            return "after v7.0"
        return "v7.0" if (root / "segment").is_dir() else "v6.2"
    if "def _forward_once" in yolo:
        return "v6.1" if "class DetectMultiBackend" in common else "v6.0"
    if (root / "utils" / "utils.py").is_file():
        return "v1.0 or v2.0"
    if "class C3" not in common:
        return "v3"
    return "v5.0" if (root / "models/hub/yolov5s6.yaml").is_file() else "v4.0"
