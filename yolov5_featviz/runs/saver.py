"""Background queue for drawing and writing."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from typing import Callable, Dict, List, Optional, Set

from yolov5_featviz.errors import reason
from yolov5_featviz.text import printable


class Failures:
    """Errors of files that could not be saved, summarised by reason."""

    NAMED = 5

    def __init__(self) -> None:
        self.errors: List[BaseException] = []
        self._names: Dict[str, List[str]] = {}

    def add(self, name: str, error: BaseException) -> None:
        """Record that ``name`` could not be saved."""
        self.errors.append(error)
        known = isinstance(error, OSError) and error.errno is not None
        why = f"[Errno {error.errno}] {error.strerror}" if known else reason(error)  # type: ignore[attr-defined]
        self._names.setdefault(why, []).append(printable(name))

    def lines(self) -> List[str]:
        """One line per reason, such as ``could not save: [Errno 28] No space left on device: a.png, b.png``."""
        return [
            f"could not save: {why}: {', '.join(names[: self.NAMED])}"
            + (f" and {len(names) - self.NAMED} more" if len(names) > self.NAMED else "")
            for why, names in sorted(self._names.items())
        ]


class Saver:
    """Background queue of jobs with bounded memory.

    Exceptions of jobs are collected in ``errors`` and do not stop the others. ``pending`` holds the
    unfinished jobs, ``done`` counts the successful ones, and ``close`` waits for all.

    Args:
        waiting: maximum number of queued jobs.
        size: maximum total bytes of queued jobs; a larger job is queued alone.
    """

    def __init__(self, waiting: int = 64, size: int = 256 << 20) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="featviz", initializer=_step_back)
        self._room = threading.Condition()
        self._waiting, self._size, self._held = waiting, size, 0
        self.pending: Set[Future[None]] = set()
        self.errors: List[BaseException] = []
        self.done = 0

    def submit(self, job: Callable[[], None], size: int = 0) -> None:
        """Queue ``job``, which holds ``size`` bytes; block while the queue is full."""
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
        """Wait for all jobs, at most ``seconds``; then cancel those not started and return their number."""
        wait(list(self.pending), seconds)
        dropped = sum(job.cancel() for job in list(self.pending))
        wait(list(self.pending), seconds)  # for the running job
        return dropped

    def close(self, patient: bool = True) -> None:
        """Accept no more jobs; wait for the queued ones if ``patient``."""
        self._pool.shutdown(wait=patient)


def _step_back() -> None:
    """Lower this thread's priority below the network's, on systems with per-thread priorities."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
