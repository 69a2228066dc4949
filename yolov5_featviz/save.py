"""Pictures to files: whole or not at all, and off the critical path."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Callable, Dict, Iterable, Iterator, List, Optional, Set, Union

from yolov5_featviz.errors import FeatvizError, reason
from yolov5_featviz.leftovers import forget, part_of
from yolov5_featviz.text import LONGEST, printable


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
    """Write ``content`` as :func:`write` does, to ``path``, or ``name2``, ``name3``... if it is taken; return which.

    The name appears with the whole content: a hard link takes it, and fails if it is taken.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _part(path, content) as part:
        n = 1
        while True:
            candidate = path if n == 1 else path.with_name(f"{path.stem}{n}{path.suffix}")
            try:
                os.link(part, str(candidate))
            except FileExistsError:
                n += 1
            except OSError:  # no links on this file system
                if _rename_new(part, str(candidate)):
                    return candidate
                n += 1
            else:
                os.unlink(part)
                return candidate


def _rename_new(part: str, path: str) -> bool:
    """Rename to a name that nobody has; return whether it was free. A kill in between leaves an empty file."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    os.replace(part, path)
    return True


@contextmanager
def _part(path: Path, content: Iterable[bytes], mode: Optional[int] = None) -> Iterator[str]:
    """A file with ``content`` beside ``path``, to be renamed; it does not outlive an error."""
    part = part_of(path)
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(part, flags, 0o666), "wb") as file:  # less what the user's umask says
            file.writelines(content)
        if mode is not None:
            os.chmod(part, mode & 0o7777)
        yield part
    except BaseException:
        with suppress(OSError):
            os.unlink(part)
        raise
    finally:
        forget(part)


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


def check_writable(folder: Path, name: str = "") -> None:
    """Raise FeatvizError unless ``folder`` can be made and written to; nothing is left behind.

    Args:
        folder: the folder, which need not be there yet.
        name: what is to be made in it, if its length is to be checked, too.
    """
    there = folder.absolute()
    try:
        while not os.path.lexists(str(there)):  # false also for what no name can be
            there = there.parent
        longest = os.pathconf(str(there), "PC_NAME_MAX") if hasattr(os, "pathconf") else LONGEST
        for part in (*folder.absolute().parts, *Path(name).parts):
            if "\0" in part:
                raise ValueError("no name holds a null byte")
            if len(os.fsencode(part)) > longest:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        with tempfile.TemporaryFile(dir=str(there)):
            pass
    except (OSError, ValueError) as error:
        why = "it is a file" if there.is_file() else getattr(error, "strerror", None) or reason(error)
        below = f"{folder}/{name}" if name else str(folder)
        raise FeatvizError(f"cannot write into {printable(below)}: {there}: {why}; name another folder") from None


class Failures:
    """What could not be saved, and why: the errors, and a line for each reason that names the first files."""

    NAMED = 5

    def __init__(self) -> None:
        self.errors: List[BaseException] = []
        self._names: Dict[str, List[str]] = {}

    def add(self, name: str, error: BaseException) -> None:
        """Note that ``name`` is missing."""
        self.errors.append(error)
        known = isinstance(error, OSError) and error.errno is not None
        why = f"[Errno {error.errno}] {error.strerror}" if known else reason(error)  # type: ignore[attr-defined]
        self._names.setdefault(why, []).append(printable(name))

    def lines(self) -> List[str]:
        """Such as ``could not save: [Errno 28] No space left on device: a.png, b.png``."""
        return [
            f"could not save: {why}: {', '.join(names[: self.NAMED])}"
            + (f" and {len(names) - self.NAMED} more" if len(names) > self.NAMED else "")
            for why, names in sorted(self._names.items())
        ]


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

    def wait(self, seconds: Optional[float] = None) -> int:
        """Wait until all is done, or so long; then drop the jobs that have not begun, and return how many."""
        wait(list(self.pending), seconds)
        dropped = sum(job.cancel() for job in list(self.pending))
        wait(list(self.pending), seconds)  # of which one is running
        return dropped

    def close(self, patient: bool = True) -> None:
        """Take no more, and wait until all is written, if ``patient``."""
        self._pool.shutdown(wait=patient)


def _step_back() -> None:
    """Let this thread work when the network leaves a core free, where threads have priorities of their own."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
