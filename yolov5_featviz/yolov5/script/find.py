"""Find the script to run, and check its own flags before it runs."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import List, Optional, Tuple

from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.text import close_to, near, printable
from yolov5_featviz.yolov5.source import Source, find_source

_FLAG = re.compile(r"""add_argument\(([^)]*?)(?:,\s*\w+\s*=|\))""")
_NAME = re.compile(r"""['"](--[\w-]+)['"]""")


def find_script(script: str, yolov5: Optional[str] = None, here: bool = True) -> Tuple[Path, Source]:
    """Find a script and the YOLOv5 to use.

    Args:
        script: path of the script, or its name in the YOLOv5 in use.
        yolov5: folder of the checkout; None to find it.
        here: whether ``script`` may lie outside YOLOv5, by a path from the current folder.

    Raises:
        FeatvizError: there is no such script, or no YOLOv5.
    """
    path = Path(script)
    if (
        here
        and os.path.isfile(script)
        and "yolov5_featviz.cli" not in path.read_text(encoding="utf-8", errors="replace")
    ):
        return path, find_source(yolov5, path)
    source = find_source(yolov5)  # a name in YOLOv5, not our own launcher of that name
    path = source.root / script
    if not os.path.isfile(path):
        folder = path.parent
        names = [str(Path(script).with_name(file.name)) for file in folder.glob("*.py")] if folder.is_dir() else []
        raise FeatvizError(
            f"no script {printable(script, 200)}{near(script, names, f'neither here nor in {source.root}')}"
        )
    return path, source


def check_flags(arguments: List[str], script: Path) -> None:
    """Raise FeatvizError for an unknown flag that resembles one of the script's.

    Other flags are left to the script, since forks define theirs in many ways.
    """
    text = script.read_text(encoding="utf-8", errors="replace")
    known = {name for found in _FLAG.findall(text) for name in _NAME.findall(found)}
    for word in arguments:
        name = word.split("=", 1)[0]
        if word == "--":
            return
        if not name.startswith("--") or any(flag.startswith(name) for flag in known):  # argparse accepts prefixes
            continue
        right = close_to(name, known, cutoff=0.8)
        if right:
            raise FeatvizError(f"{script.name} has no flag {name}: did you mean {right}?")


def keep_out_of_package(arguments: List[str], script: Path, source: Source) -> List[str]:
    """Set ``--project`` for an installed script, which would otherwise write into its package."""
    if source.package and not any(a.split("=")[0] == "--project" for a in arguments):
        default = re.search(
            r"'--project'.*default=ROOT / '([^']+)'", script.read_text(encoding="utf-8", errors="replace")
        )
        if default:
            return [*arguments, "--project", default.group(1)]
    return arguments
