"""Take SIGTERM and SIGHUP the way of Ctrl-C: finish what is queued, and leave; a second signal ends at once."""

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
GRACE = 4.0  # seconds for the pictures that are queued; Docker kills after ten


class Stopped(KeyboardInterrupt):
    """A signal has asked the process to end.

    Attributes:
        number: of the signal.
        written: what there is of the results, for the message.
    """

    def __init__(self, number: int = signal.SIGINT, written: str = "") -> None:
        super().__init__()
        self.number, self.written = number, written

    @classmethod
    def of(cls, error: BaseException) -> Stopped:
        """``error``, or the signal that lies behind it where a library made another error of that."""
        return error if isinstance(error, cls) else cls(asked() or signal.SIGINT, getattr(error, "written", ""))

    @property
    def code(self) -> int:
        """The exit code: 130 for SIGINT, 143 for SIGTERM, 129 for SIGHUP."""
        return 128 + self.number

    def __str__(self) -> str:
        name = "" if self.number == signal.SIGINT else f" by {signal.Signals(self.number).name}"
        return f"interrupted{name}" + (f"; {self.written}" if self.written else "")


class _State:
    """What has arrived while :func:`signals` is in place."""

    asked: Optional[int] = None
    last = 0.0
    final = False
    pid = 0
    before: Dict[int, Any] = {}  # noqa: RUF012


_state = _State()


def asked() -> Optional[int]:
    """The signal that has asked this process to end; None if none has."""
    return _state.asked


def last_words() -> None:
    """From now on results are brought to safety: a further signal ends the process at once."""
    _state.final = True


@contextmanager
def signals() -> Iterator[None]:
    """Raise :class:`Stopped` in the main thread on SIGINT, SIGTERM and SIGHUP.

    A signal that was ignored stays so (``nohup``), and one that somebody handles is left to them. Handlers are
    put back at the end, and in each forked child, such as the workers of a loader, before it runs anything.
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
    if os.getpid() != _state.pid:  # a child that was forked past Python
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
    """End as by the signal itself, so that a shell sees it; only what was half written is removed."""
    from yolov5_featviz.leftovers import remove_own

    if os.getpid() == _state.pid:
        remove_own()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)


def _early(number: int, frame: Any) -> None:
    """While Python starts or ends: no result is in danger."""
    with suppress(OSError):
        os.write(2, b"yolov5-featviz: interrupted\n")
    os._exit(128 + number)


def _is_ours() -> bool:
    """Whether the program that runs is one of ours: the console script, ``python -m``, or the launcher."""
    if sys.argv[:1] == ["-m"]:  # Python is still looking for the module
        words = list(getattr(sys, "orig_argv", ()))
        return "-m" in words and words[words.index("-m") + 1 :][:1] == ["yolov5_featviz"]
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    if not file:
        return False
    launcher = Path(__file__).resolve().parents[1] / "detect.py"
    return Path(file).name in ("yolov5-featviz", "yolov5-featviz.exe") or os.path.realpath(file) == str(launcher)


def watch_start() -> None:
    """In a program of ours, let Ctrl-C end in one line also while torch is being imported, which takes seconds."""
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        and _is_ours()
    ):
        signal.signal(signal.SIGINT, _early)
