"""Handle SIGTERM and SIGHUP like Ctrl-C: finish queued work and exit; a second signal exits at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Dict, Iterator, Optional

NUMBERS = [int(getattr(signal, name)) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
BURST = 0.2  # seconds; timeout(1) sends its signal twice, to the process and to its group
GRACE = 4.0  # seconds for queued pictures; Docker kills after ten


class Stopped(KeyboardInterrupt):
    """Interruption by a signal.

    Attributes:
        number: number of the signal.
        written: the results so far, for the message.
    """

    def __init__(self, number: int = signal.SIGINT, written: str = "") -> None:
        super().__init__()
        self.number, self.written = number, written

    @classmethod
    def of(cls, error: BaseException) -> Stopped:
        """Return ``error``, or a Stopped for the signal that made a library raise another error."""
        return error if isinstance(error, cls) else cls(asked() or signal.SIGINT, getattr(error, "written", ""))

    @property
    def code(self) -> int:
        """The exit code: 130 for SIGINT, 143 for SIGTERM, 129 for SIGHUP."""
        return 128 + self.number

    def __str__(self) -> str:
        name = "" if self.number == signal.SIGINT else f" by {signal.Signals(self.number).name}"
        return f"interrupted{name}" + (f"; {self.written}" if self.written else "")


class _State:
    """Signals received while :func:`signals` is active."""

    asked: Optional[int] = None
    last = 0.0
    final = False
    pid = 0
    before: Dict[int, Any] = {}  # noqa: RUF012


_state = _State()


def asked() -> Optional[int]:
    """Return the signal that requested the end of this process, or None."""
    return _state.asked


def last_words() -> None:
    """Mark that results are being saved: a further signal ends the process at once."""
    _state.final = True


@contextmanager
def signals() -> Iterator[None]:
    """Raise :class:`Stopped` in the main thread on SIGINT, SIGTERM and SIGHUP.

    Ignored signals stay ignored (``nohup``), and those with another handler are left alone. Handlers are restored
    at the end, and in each forked child, such as the workers of a loader, before it runs anything.
    """
    global _state
    if threading.current_thread() is not threading.main_thread() or _state.before:
        yield
        return
    _state = _State()
    _state.pid, _state.before = os.getpid(), {}
    for number in NUMBERS:
        before = signal.getsignal(number)
        if before in (signal.SIG_DFL, signal.default_int_handler, _early):
            _state.before[number] = before
            signal.signal(number, _handle)
    try:
        yield
    finally:
        _put_back()
        _state = _State()


def _put_back() -> None:
    for number, before in list(_state.before.items()):
        if signal.getsignal(number) is _handle:
            signal.signal(number, before)
    _state.before = {}


def _after_fork() -> None:
    if _state.before and threading.current_thread() is threading.main_thread():
        _put_back()
        if signal.getsignal(signal.SIGINT) is _early:
            signal.signal(signal.SIGINT, signal.default_int_handler)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _handle(number: int, frame: Any) -> None:
    if os.getpid() != _state.pid:  # a child forked without Python's fork hooks
        _die(number)
    now = time.monotonic()
    if _state.asked is not None and now - _state.last < BURST:
        return
    _state.last = now
    if _state.final:
        _die(number)
    _state.asked = _state.asked or number
    raise Stopped(number)


def _die(number: int) -> None:
    """End the process by the signal itself, so that a shell sees it, after removing half-written files."""
    from yolov5_featviz.leftovers import remove_own

    if os.getpid() == _state.pid:
        remove_own()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)


def _early(number: int, frame: Any) -> None:
    """Exit with one line, while Python starts or exits and no results can be lost."""
    with suppress(OSError):
        os.write(2, f"yolov5-featviz: {Stopped(number)}\n".encode())
    os._exit(128 + number)


def _is_ours() -> bool:
    """Return whether the main program is the console script, ``python -m yolov5_featviz``, or the launcher."""
    if sys.argv[:1] == ["-m"]:  # while Python locates the module
        words = list(getattr(sys, "orig_argv", ()))
        return "-m" in words and words[words.index("-m") + 1 :][:1] == ["yolov5_featviz"]
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    if not file:
        return False
    package = Path(__file__).resolve().parent
    ours = (str(package / "__main__.py"), str(package.parent / "detect.py"))
    return Path(file).name in ("yolov5-featviz", "yolov5-featviz.exe") or os.path.realpath(file) in ours


@contextmanager
def starting() -> Iterator[None]:
    """In a program of ours, end at once on a signal within the block, in which torch is imported: nothing is lost.

    An exception raised there could end in C++ code of torch, which aborts the process.
    """
    before = {}
    if threading.current_thread() is threading.main_thread() and _is_ours():
        before = {n: signal.getsignal(n) for n in NUMBERS if signal.getsignal(n) in (_handle, _early)}
    for number in before:
        signal.signal(number, _early)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def watch_start() -> None:
    """In our own programs, make Ctrl-C exit with one line during the import of torch, which takes seconds."""
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        and _is_ours()
    ):
        signal.signal(signal.SIGINT, _early)
