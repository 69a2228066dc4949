"""Read and write files: bounded reads, atomic writes."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Iterable, Iterator, Optional, Union

from yolov5_featviz.errors import FeatvizError, reason
from yolov5_featviz.leftovers import forget, part_of
from yolov5_featviz.text import LONGEST, printable


def write(path: Union[str, Path], content: bytes, mode: Optional[int] = None) -> None:
    """Write ``content`` to ``path`` atomically.

    It is written to a temporary file in the same folder, which is then renamed. Missing folders are
    created; the file's mode is ``mode``, or that of any new file. Raises OSError if writing fails;
    nothing is left behind then.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _part(path, [content], mode) as part:
        os.replace(part, path)


def write_new(path: Path, content: Iterable[bytes]) -> Path:
    """Write ``content`` atomically to ``path``, or to ``name2``, ``name3``... if it is taken; return the path used.

    The name appears with the whole content: a hard link claims it, and fails if it is taken.
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
    """Rename to an unused name; return whether it was free. A kill in between leaves an empty file."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    os.replace(part, path)
    return True


@contextmanager
def _part(path: Path, content: Iterable[bytes], mode: Optional[int] = None) -> Iterator[str]:
    """Yield a temporary file with ``content`` beside ``path``, to be renamed; it is removed on error."""
    part = part_of(path)
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(part, flags, 0o666), "wb") as file:  # minus the user's umask
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
    """Create ``path``, or ``path2``, ``path3``... if it is taken, and return the one created.

    Args:
        path: the folder; missing parents are created.
        mark: text before the number.
    """
    path.parent.mkdir(parents=True, exist_ok=True)

    def numbered(n: int) -> Path:
        return path if n == 1 else path.with_name(f"{path.name}{mark}{n}")

    taken, free = 0, 1  # by bisection: thousands may be taken
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
    """Raise FeatvizError unless ``folder`` can be created and written to; nothing is left behind.

    Args:
        folder: the folder, which need not exist yet.
        name: file to be created in it, if the length of its name is to be checked.
    """
    there = folder.absolute()
    try:
        while not os.path.lexists(str(there)):  # also false for invalid names
            there = there.parent
        longest = os.pathconf(str(there), "PC_NAME_MAX") if hasattr(os, "pathconf") else LONGEST
        for part in (*folder.absolute().parts, *Path(name).parts):
            if "\0" in part:
                raise ValueError("a name cannot contain a null byte")
            if len(os.fsencode(part)) > longest:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        with tempfile.TemporaryFile(dir=str(there)):
            pass
    except (OSError, ValueError) as error:
        why = "it is a file" if there.is_file() else getattr(error, "strerror", None) or reason(error)
        below = f"{folder}/{name}" if name else str(folder)
        raise FeatvizError(f"cannot write into {printable(below)}: {there}: {why}; name another folder") from None


@contextmanager
def opened(path: Union[str, Path]) -> Iterator[BinaryIO]:
    """Open a regular file for reading; pipes and devices are refused without blocking.

    Args:
        path: path of the file.

    Raises:
        FeatvizError: no such file, not a regular file (a folder, a pipe), or not readable.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(str(path), flags)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise FeatvizError(f"no file {printable(path)}") from None
    except OSError as error:
        raise FeatvizError(f"cannot read {printable(path, 300)}: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise FeatvizError(f"no file {printable(path)}")
    with os.fdopen(handle, "rb") as file:
        try:
            yield file
        except OSError as error:
            raise FeatvizError(f"cannot read {printable(path, 300)}: {reason(error)}") from None


def head(path: Union[str, Path], most: int) -> bytes:
    """Read a file of at most ``most`` bytes. Raises FeatvizError as :func:`opened` does, or if it is larger."""
    with opened(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise FeatvizError(f"{printable(path)} is larger than {most:,} bytes: give another file")
    return content
