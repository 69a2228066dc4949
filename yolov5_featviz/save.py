"""Pictures to files: whole or not at all, and off the critical path."""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Callable, Iterable, Iterator, List, Optional, Set, Union

from yolov5_featviz.errors import FeatvizError


def write(path: Union[str, Path], content: bytes, mode: Optional[int] = None) -> None:
    """Write ``content`` to ``path`` so that nobody ever sees half of it.

    It goes to a file of another name in the same folder, which is renamed at the end. The folder
    is made if need be; the file's mode is ``mode``, or that of any new file. Raises OSError if the
    disk says no; then nothing stays behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _part(path, [content], mode) as part:
        os.replace(part, path)


def write_new(path: Path, content: Iterable[bytes]) -> Path:
    """Write ``content`` as :func:`write` does, to ``path``, or ``name2``, ``name3``... if it is taken; return which."""
    with _part(path, content) as part:
        n = 1
        while True:
            candidate = path if n == 1 else path.with_name(f"{path.stem}{n}{path.suffix}")
            try:
                os.close(os.open(str(candidate), os.O_CREAT | os.O_EXCL))  # the name is nobody else's from now on
            except FileExistsError:
                n += 1
            else:
                os.replace(part, candidate)
                return candidate


@contextmanager
def _part(path: Path, content: Iterable[bytes], mode: Optional[int] = None) -> Iterator[str]:
    """A file with ``content`` beside ``path``, to be renamed; it does not outlive an error."""
    part = str(path.parent / f".{path.name[:100]}.{secrets.token_hex(8)}.part")
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)
    handle = os.open(part, flags, 0o666)  # less what the user's umask says
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(content)
        if mode is not None:
            os.chmod(part, mode & 0o7777)
        yield part
    except BaseException:
        if os.path.exists(part):
            os.unlink(part)
        raise


def new_folder(path: Path, mark: str = "") -> Path:
    """Make ``path``, or ``path2``, ``path3``... if it is taken, and return the one that was made.

    Args:
        path: the folder; those above it are made, too.
        mark: what stands before the number.
    """
    path.parent.mkdir(parents=True, exist_ok=True)

    def numbered(n: int) -> Path:
        return path if n == 1 else path.with_name(f"{path.name}{mark}{n}")

    taken, free = 0, 1  # not one after the other: thousands may be taken
    while os.path.lexists(numbered(free)):
        taken, free = free, 2 * free
    while free - taken > 1:
        middle = (taken + free) // 2
        taken, free = (middle, free) if os.path.lexists(numbered(middle)) else (taken, middle)
    while True:
        try:
            numbered(free).mkdir()
            return numbered(free)
        except FileExistsError:
            free += 1


def check_writable(folder: Path) -> None:
    """Raise FeatvizError unless ``folder`` can be made and written to; nothing is left behind."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=str(there)):
            pass
    except OSError as error:
        reason = "it is a file" if there.is_file() else error.strerror or str(error)
        raise FeatvizError(f"cannot write into {folder}: {there}: {reason}; name another folder") from None


class Saver:
    """Does the drawing and writing in the background, a bounded amount of memory behind.

    A job that fails is kept in ``errors`` and does not stop the others. ``pending`` are those that are
    not done yet, ``done`` is how many are, and ``close`` waits for all.

    Args:
        waiting: how many jobs may wait.
        size: how many bytes these may hold together; a larger one waits alone.
    """

    def __init__(self, waiting: int = 64, size: int = 256 << 20) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="featviz", initializer=_step_back)
        self._room = threading.Condition()
        self._waiting, self._size, self._held = waiting, size, 0
        self.pending: Set[Future[None]] = set()
        self.errors: List[BaseException] = []
        self.done = 0

    def submit(self, job: Callable[[], None], size: int = 0) -> None:
        """Queue ``job``, which holds ``size`` bytes; waits while there is no room for it."""
        with self._room:
            self._room.wait_for(lambda: not self.pending or self._has_room(size))
            self._held += size
            future = self._pool.submit(job)
            self.pending.add(future)
        future.add_done_callback(partial(self._finished, size))

    def _has_room(self, size: int) -> bool:
        return len(self.pending) < self._waiting and self._held + size <= self._size

    def _finished(self, size: int, future: Future[None]) -> None:
        with self._room:
            self.pending.discard(future)
            self._held -= size
            self._room.notify_all()
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            self.done += 1
        else:
            self.errors.append(error)

    def close(self) -> None:
        """Wait until all is written."""
        self._pool.shutdown(wait=True)


def _step_back() -> None:
    """Let this thread work when the network leaves a core free, where threads have priorities of their own."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
