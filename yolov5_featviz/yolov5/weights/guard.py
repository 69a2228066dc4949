"""Second line of defence: block operations that loading a checkpoint never needs, per thread.

An audit hook (PEP 578) is called before operations of the interpreter. It cannot be removed, so it is
installed once and does nothing unless a guard is active. It is not a sandbox: native code that raises no
audit event is not blocked.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import contextmanager
from typing import Any, Iterator, Tuple

from yolov5_featviz.errors import UnsafeCheckpoint

_REFUSED = (
    "subprocess.",
    "socket.",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.startfile",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "os.chown",
    "os.kill",
    "os.putenv",
    "os.unsetenv",
    "os.utime",
    "pty.spawn",
    "shutil.",
    "tempfile.",
    "urllib.",
    "http.",
    "ftplib.",
    "smtplib.",
    "webbrowser.",
    "sqlite3.",
    "ctypes.",
    "compile",
    "exec",
    "import",
    "pickle.find_class",
    "_thread.start_new_thread",
    "signal.",
    "mmap.",
    "winreg.",
    "msvcrt.",
    "cpython.run_",
)
_OF_IMPORTS = ("compile", "exec", "import", "ctypes.dlopen", "ctypes.dlsym", "ctypes.dlsym/handle")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_up = threading.local()
_installed = False
_lock = threading.Lock()


@contextmanager
def guard(imports: bool = False) -> Iterator[None]:
    """Block spawning, connecting, writing, removing, compiling and importing in this thread, within a context.

    Args:
        imports: allow compiling and importing, as the forward pass of a fork may do.

    Raises:
        UnsafeCheckpoint: an operation was blocked, even if the code caught the exception.
    """
    _install()
    depth, before, loose = getattr(_up, "depth", 0), getattr(_up, "refused", ""), getattr(_up, "imports", True)
    _up.depth, _up.refused, _up.imports = depth + 1, "", imports and (loose or not depth)
    try:
        yield
    finally:
        _up.depth, _up.imports, refused = depth, loose, _up.refused
        _up.refused = before or refused
    if refused:
        raise UnsafeCheckpoint(f"it tried to {refused}, which no checkpoint needs")


def _install() -> None:
    global _installed
    with _lock:
        if not _installed:
            sys.addaudithook(_hook)
            _installed = True


def _hook(event: str, args: Tuple[Any, ...]) -> None:
    if not getattr(_up, "depth", 0) or not (event == "open" or event.startswith(_REFUSED)) or _allowed(event, args):
        return
    _up.refused = f"{event} {str(args[0])[:80]!r}" if args else event
    raise UnsafeCheckpoint(f"it tried to {_up.refused}, which no checkpoint needs")


def _allowed(event: str, args: Tuple[Any, ...]) -> bool:
    if event == "open":
        path, mode, flags = (*args, None, None, None)[:3]
        writes = (isinstance(mode, str) and set(mode) & set("wax+")) or (isinstance(flags, int) and flags & _WRITING)
        return not writes or _is_bytecode(path) or path == os.devnull
    if _up.imports and (event in _OF_IMPORTS or (event.startswith("os.") and bool(args) and _is_bytecode(args[0]))):
        return True
    return _is_librarys_own(event, args)


def _library_folders() -> Tuple[str, ...]:
    import encodings

    import numpy
    import torch

    return tuple(os.path.join(os.path.dirname(str(module.__file__)), "") for module in (torch, numpy, encodings))


_OWN = _library_folders()
_OWN_PACKAGES = ("torch.", "numpy.", "encodings.")


def _is_bytecode(path: Any) -> bool:
    if not isinstance(path, str) or "__pycache__" not in path:
        return False
    return getattr(_up, "imports", False) or (path.startswith(_OWN) and ".pyc" in path)


def _is_librarys_own(event: str, args: Tuple[Any, ...]) -> bool:
    """Whether torch, numpy or Python's codecs lazily import a part of themselves."""
    if event == "import":
        return args[0] in sys.modules or args[0].startswith(_OWN_PACKAGES)
    if event == "exec":
        return str(getattr(args[0], "co_filename", "")).startswith(_OWN)
    if event == "compile":
        return str(args[1]).startswith(_OWN)
    if event in ("os.mkdir", "os.rename"):
        return _is_bytecode(args[0]) or str(args[0]).startswith(_OWN)
    return False
