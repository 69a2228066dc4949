"""Name what must not outlive this process, and remove what processes that were killed have left."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import socket
import stat
import tempfile
import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Callable, Iterator, Set

from yolov5_featviz.text import file_name

_OWNER = r"(?P<place>[0-9a-f]{8})-(?P<pid>\d+)-(?P<start>\d+)-[0-9a-z]+"
PART = re.compile(rf"\..*\.{_OWNER}\.part", re.DOTALL)
FOLDER = re.compile(rf"yolov5-featviz-{_OWNER}")
LONGEST = 0.5  # seconds that looking for them may take
_own: Set[str] = set()


def part_of(path: Path) -> str:
    """A name beside ``path`` that says which process writes it."""
    part = str(path.parent / f".{file_name(path.name, 100)}.{_owner()}-{secrets.token_hex(8)}.part")
    _own.add(part)
    return part


def forget(path: str) -> None:
    """``path`` is there no more."""
    _own.discard(path)


def temporary_folder() -> str:
    """A new temporary folder that says whose it is, after those of dead processes were removed."""
    _clean_temporary()
    folder = os.path.join(tempfile.gettempdir(), f"yolov5-featviz-{_owner()}-{secrets.token_hex(8)}")
    os.mkdir(folder, 0o700)
    _own.add(folder)
    return folder


def remove_own() -> None:
    """Remove what this process has not finished, and its temporary folders."""
    for path in list(_own):
        _own.discard(path)
        with suppress(OSError):
            os.unlink(path) if path.endswith(".part") else shutil.rmtree(path)


def clean_run(home: Path) -> None:
    """Remove the unfinished files of dead processes from ``home`` and the runs beside it: of ``exp3``, ``exp*``."""
    stem = re.compile(re.escape(home.name.rstrip("0123456789")) + r"\d*")
    until = time.monotonic() + LONGEST
    with suppress(OSError):
        runs = [entry.path for entry in os.scandir(str(home.parent)) if stem.fullmatch(entry.name)]
        for run in sorted(runs, key=lambda path: os.lstat(path).st_mtime, reverse=True):
            for path in _parts(run, until, depth=4):
                with suppress(OSError):
                    os.unlink(path)


def clean_folder(folder: Path) -> None:
    """Remove the unfinished files of dead processes from a folder, but none below it."""
    for path in _parts(str(folder), time.monotonic() + LONGEST, depth=0):
        with suppress(OSError):
            os.unlink(path)


def _parts(folder: str, until: float, depth: int) -> Iterator[str]:
    try:
        entries = [] if os.path.islink(folder) else list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        if time.monotonic() > until:
            return
        if depth and entry.is_dir(follow_symlinks=False):
            yield from _parts(entry.path, until, depth - 1)
        elif entry.name.endswith(".part") and _is_abandoned(entry, PART, stat.S_ISREG):
            yield entry.path


@lru_cache(maxsize=1)
def _clean_temporary() -> None:
    with suppress(OSError):
        for entry in list(os.scandir(tempfile.gettempdir())):
            if entry.name.startswith("yolov5-featviz-") and _is_abandoned(entry, FOLDER, stat.S_ISDIR):
                shutil.rmtree(entry.path, ignore_errors=True)


def _is_abandoned(entry: os.DirEntry[str], pattern: re.Pattern[str], kind: Callable[[int], bool]) -> bool:
    """Whether it is of this user, no link, and of a process of this machine that is known to be dead."""
    found = pattern.fullmatch(entry.name)
    if found is None or found["place"] != _place():
        return False
    try:
        state = entry.stat(follow_symlinks=False)
    except OSError:
        return False
    own = kind(state.st_mode) and state.st_uid == _uid()
    return own and not _is_alive(int(found["pid"]), int(found["start"]))


def _is_alive(pid: int, start: int) -> bool:
    if os.name != "posix":
        return True  # os.kill(pid, 0) would end it there
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return _start(pid) in (0, start) or start == 0


def _owner() -> str:
    return _named(os.getpid())


@lru_cache(maxsize=1)
def _named(pid: int) -> str:
    """This process, which a fork of it is not."""
    return f"{_place()}-{pid}-{_start(pid)}"


def _uid() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0


@lru_cache(maxsize=1)
def _place() -> str:
    """This machine and its numbering of processes: folders may be shared with others, and with containers."""
    words = [socket.gethostname()]
    with suppress(OSError):
        words.append(Path("/etc/machine-id").read_text())
    with suppress(OSError):
        words.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(words).encode("utf-8", "replace")).hexdigest()[:8]


def _start(pid: int) -> int:
    """When a process began, in ticks since the machine did; 0 where that is not to be known, -1 if it has ended."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return -1 if words[0] in "ZX" else int(words[19])
    except (OSError, ValueError, IndexError):
        return 0
