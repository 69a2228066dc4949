"""Find the script to run and where its output goes."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import List, Optional, Tuple

from yolov5_featviz.yolov5.source import Source, find_source


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


def keep_out_of_package(arguments: List[str], script: Path, source: Source) -> List[str]:
    """Name the run folder where an installed script would put it among the packages."""
    if source.package and not any(a.split("=")[0] == "--project" for a in arguments):
        default = re.search(
            r"'--project'.*default=ROOT / '([^']+)'", script.read_text(encoding="utf-8", errors="replace")
        )
        if default:
            return [*arguments, "--project", default.group(1)]
    return arguments
