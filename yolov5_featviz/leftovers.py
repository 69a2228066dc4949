"""Temporary names that identify this process, and removal of what killed processes left behind."""

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
LONGEST = 0.5  # seconds for one search
_own: Set[str] = set()


def part_of(path: Path) -> str:
    """Return a temporary name beside ``path`` that identifies the writing process."""
    part = str(path.parent / f".{file_name(path.name, 100)}.{_owner()}-{secrets.token_hex(8)}.part")
    _own.add(part)
    return part


def forget(path: str) -> None:
    """Stop tracking ``path``, which no longer exists."""
    _own.discard(path)


def temporary_folder() -> str:
    """Create a temporary folder whose name identifies this process, after removing those of dead processes."""
    _clean_temporary()
    folder = os.path.join(tempfile.gettempdir(), f"yolov5-featviz-{_owner()}-{secrets.token_hex(8)}")
    os.mkdir(folder, 0o700)
    _own.add(folder)
    return folder


def remove_own() -> None:
    """Remove this process's unfinished files and temporary folders."""
    for path in list(_own):
        _own.discard(path)
        with suppress(OSError):
            os.unlink(path) if path.endswith(".part") else shutil.rmtree(path)


def clean_run(home: Path) -> None:
    """Remove unfinished files of dead processes from ``home`` and its sibling runs: for ``exp3``, ``exp*``."""
    stem = re.compile(re.escape(home.name.rstrip("0123456789")) + r"\d*")
    until = time.monotonic() + LONGEST
    with suppress(OSError):
        runs = [entry.path for entry in os.scandir(str(home.parent)) if stem.fullmatch(entry.name)]
        for run in sorted(runs, key=lambda path: os.lstat(path).st_mtime, reverse=True):
            for path in _parts(run, until, depth=4):
                with suppress(OSError):
                    os.unlink(path)


def clean_folder(folder: Path) -> None:
    """Remove unfinished files of dead processes from a folder, not from its subfolders."""
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
    """Return whether an entry is no link, is this user's, and comes from a dead process of this machine."""
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
        return True  # on Windows os.kill(pid, 0) would end it
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
    """Return the owner's part of a temporary name, cached by process, since a fork inherits the cache."""
    return f"{_place()}-{pid}-{_start(pid)}"


def _uid() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0


@lru_cache(maxsize=1)
def _place() -> str:
    """Return a hash of machine and PID namespace: folders may be shared with other machines and containers."""
    words = [socket.gethostname()]
    with suppress(OSError):
        words.append(Path("/etc/machine-id").read_text())
    with suppress(OSError):
        words.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(words).encode("utf-8", "replace")).hexdigest()[:8]


def _start(pid: int) -> int:
    """Return a process's start time in clock ticks since boot; 0 if unknown, -1 if it has ended."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return -1 if words[0] in "ZX" else int(words[19])
    except (OSError, ValueError, IndexError):
        return 0
