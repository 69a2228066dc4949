"""Write and read provenance records, without user names or paths."""

from __future__ import annotations

import getpass
import hashlib
import json
import math
import os
import re
import shlex
import struct
import zlib
from contextlib import suppress
from functools import lru_cache
from pathlib import Path, PureWindowsPath
from typing import (
    Any,
    BinaryIO,
    Callable,
    Dict,
    FrozenSet,
    Iterable,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Union,
)
from urllib.parse import urlsplit
from xml.sax.saxutils import unescape

import numpy as np

from yolov5_featviz.draw.record import KEY, unspans
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.files import head, opened
from yolov5_featviz.text import align, printable

LONGEST = 1 << 24  # bytes of a record, and of a file without chunks that is searched for one
CHUNKS = 1 << 17  # of a PNG file that are searched
DEPTH = 40  # nesting of a record; a figure's has 6
DIGITS = 40  # of a number


def run_record(command: Sequence[str], weights: Iterable[Union[str, Path]] = (), **more: Any) -> Dict[str, Any]:
    """Build the part of the record that all files of a run share.

    Args:
        command: the arguments of ``yolov5-featviz``; see :func:`portable`.
        weights: the checkpoints, recorded with their hashes.
        more: additional entries; None is omitted.
    """
    import torch

    record = {"command": portable(command), **more, "torch": str(torch.__version__)}
    record["weights"] = [identity(path) for path in weights]
    return {name: value for name, value in record.items() if value is not None and value != []}


def identity(path: Union[str, Path], **more: Any) -> Dict[str, Any]:
    """Return the name and SHA-256 of a file; only the name if it is not a file, such as a stream."""
    known = {"sha256": sha256(path)} if os.path.isfile(path) else {}
    return {"name": portable([str(path)])[0].replace("\\", "/").rsplit("/", 1)[-1], **known, **more}


def sha256(path: Union[str, Path]) -> str:
    """Compute the SHA-256 of a file in hexadecimal, cached until the file changes."""
    state = os.stat(path)
    return _sha256(os.path.abspath(path), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4096)
def _sha256(path: str, size: int, changed: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def portable(words: Iterable[str]) -> List[str]:
    """Strip machine-specific details from a command line.

    Paths within the current folder become relative to it; other paths, and those that contain the
    user's name, are reduced to the file name. Addresses lose user, password and query.
    """
    return ["=".join([*flag, _portable(value)]) for flag, value in map(_parted, words)]


def _parted(word: str) -> Tuple[List[str], str]:
    flag, equals, value = word.partition("=")
    return ([flag], value) if equals and re.fullmatch(r"-{0,2}[\w-]+", flag) else ([], word)


def _portable(word: str) -> str:
    if "://" in word:
        try:
            address = urlsplit(word)
            return f"{address.scheme}://{(address.netloc).rsplit('@', 1)[-1]}{address.path}"
        except ValueError:
            return word.split("://")[0] + "://"
    windows = PureWindowsPath(word)
    if not (os.sep in word or "/" in word or windows.drive or word.startswith("~")):
        return word
    if windows.drive and os.sep == "/":
        return windows.name
    path = os.path.normpath(os.path.expanduser(word))
    relative = os.path.relpath(path) if os.path.isabs(path) else path
    parts = relative.replace("\\", "/").split("/")
    inside = parts[0] != ".." and parts[0][:1] not in ("", "~") and not _users().intersection(parts)
    return "/".join(parts) if inside else os.path.basename(path)


@lru_cache(maxsize=1)
def _users() -> FrozenSet[str]:
    names = {os.path.basename(os.path.expanduser("~"))}
    with suppress(Exception):  # the user ID has no name
        names.add(getpass.getuser())
    return frozenset(filter(None, names))


def read_record(path: Union[str, Path]) -> Dict[str, Any]:
    """Read the provenance record of a file written by this package.

    The file is untrusted: only the record is decoded, in bounded memory, and records of another form
    than this package writes are rejected.

    Args:
        path: a ``png``, ``jpg``, ``tif``, ``svg``, ``pdf``, ``npy`` or ``tex`` file, or one with its
            record in a second file, with ``.json`` appended to the name.

    Returns:
        The record, checked; see :func:`check_record`.

    Raises:
        FeatvizError: there is no such file, or its record is missing or damaged.
    """
    with opened(path) as file:
        for words in _words(file):
            about = _parsed(words)
            if about is not None:
                return check_record(about, path)
    beside = f"{path}.json"
    if os.path.isfile(beside):
        about = _parsed(head(beside, LONGEST).decode("utf-8", errors="replace"))
        if about is not None:
            return check_record(about, beside)
    raise FeatvizError(
        f"{printable(path)} has no record: it was not written by yolov5-featviz, or was saved again since"
    )


def _parsed(words: str) -> Optional[Dict[str, Any]]:
    """Parse a record; None if the text is not one."""
    try:
        about = json.loads(words, parse_int=_whole, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError):
        return None
    return about if isinstance(about, dict) and KEY in about else None


def _whole(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits} is not a number")
    return value


def check_record(about: Mapping[str, Any], path: Union[str, Path] = "") -> Dict[str, Any]:
    """Check that a record has the form that this package writes.

    Args:
        about: the record: a mapping of JSON values of bounded depth.
        path: its file, for messages.

    Returns:
        The same record.

    Raises:
        FeatvizError: a value is invalid, such as a ``file`` that contains a folder.
    """
    levels, level = 0, [about]
    while level:
        levels, level = levels + 1, [part for value in level for part in _parts(value)]
        if levels > DEPTH:
            raise FeatvizError(f"{printable(path)}: its record is damaged: it is nested too deeply")
    for name, value in about.items():
        if name in _SHAPES and not _SHAPES[name](value):
            shown = printable(json.dumps(value), 80)
            raise FeatvizError(f"{printable(path)}: its record is damaged: {name} cannot be {shown}")
    return dict(about)


def _parts(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 10_000


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def is_base_name(value: Any) -> bool:
    """Whether ``value`` is a file name without a folder."""
    return is_inside(value) and 0 < len(value) < 256 and value != "." and "/" not in value and os.sep not in value


def is_inside(value: Any) -> bool:
    """Whether ``value`` is a relative path that stays inside its base folder; empty is that folder."""
    if not _is_text(value) or "\0" in value or value.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", value):
        return False
    return os.sep == "/" or not PureWindowsPath(value).drive


def _is_identity(value: Any) -> bool:
    if not isinstance(value, dict) or not _is_text(value.get("name")) or re.search(r"[/\0]", value["name"]):
        return False
    known = value.get("sha256", "0" * 64)
    more = (part for name, part in value.items() if name not in ("name", "sha256"))
    whole = isinstance(known, str) and re.fullmatch(r"[0-9a-f]{64}", known) is not None
    return whole and not any(isinstance(part, (dict, list)) for part in more)


def _are_identities(value: Any) -> bool:
    return _is_identity(value) or (isinstance(value, list) and all(map(_is_identity, value)))


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(end is None or _is_number(end) for end in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_SHAPES: Dict[str, Callable[[Any], bool]] = {
    KEY: _is_text,
    "command": lambda value: _is_texts(value) and len(value) > 0,
    "weights": lambda value: isinstance(value, list) and _are_identities(value),
    "image": _is_identity,
    "images": _are_identities,
    "labels": _is_identity,
    "models": _is_texts,
    "figure": lambda value: isinstance(value, dict),
    "file": is_base_name,
    "folder": is_inside,
    "channels": lambda value: isinstance(value, str) and re.fullmatch(r"(\d{1,9}(-\d{1,9})?(,|$))*", value) is not None,
    "scale": lambda value: _is_pair(value) or (isinstance(value, list) and bool(value) and all(map(_is_pair, value))),
}


def _words(file: BinaryIO) -> Iterator[str]:
    """Yield candidates for the record in a file of any format."""
    start = file.read(8)
    if start.startswith(b"\x89PNG"):
        yield from _of_png(file)
    elif start.startswith(b"II*\0"):
        yield _behind_key(_of_tiff(file))
    elif start.startswith(b"\x93NUMPY"):
        file.seek(0)
        try:
            yield _of_npy(file)
        except Exception:  # no record, a foreign array, or a damaged header
            return
    else:
        content = _ends(file)
        if start.startswith(b"\xff\xd8"):
            yield _behind_key(_comments(content))
            return
        if start.startswith(b"%PDF"):
            for literal in re.findall(rb"/Subject \(((?:\\.|[^\\()])*)\)", content, re.DOTALL):
                yield _behind_key(re.sub(r"\\(.)", r"\1", literal.decode("latin-1")))
            return
        text = content.decode("utf-8", errors="replace")
        if text.lstrip()[:1] == "{":
            yield text
        yield _behind_key(text.split("\n", 1)[0])
        yield unescape(_behind_key(text.split("</metadata>", 1)[0]))


def _ends(file: BinaryIO) -> bytes:
    """Read a whole file or, if it is large, its first and last bytes, where the record is."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    content = file.read(LONGEST)
    file.seek(max(len(content), size - LONGEST))
    return content + file.read(LONGEST)


def _of_png(file: BinaryIO) -> Iterator[str]:
    for _ in range(CHUNKS):
        size, kind = struct.unpack(">I4s", file.read(8).ljust(8, b"\0"))
        if kind not in (b"tEXt", b"zTXt", b"iTXt") or size > LONGEST:
            if kind in (b"\0\0\0\0", b"IEND"):
                return
            file.seek(size + 4, os.SEEK_CUR)
            continue
        name, _, body = file.read(size).partition(b"\0")
        file.seek(4, os.SEEK_CUR)
        if name != KEY.encode():
            continue
        packed = kind == b"zTXt" or body[:1] == b"\1"
        if kind == b"iTXt":
            body = body[2:].split(b"\0", 2)[-1]
        if packed:
            with suppress(zlib.error):
                yield zlib.decompressobj().decompress(body[kind == b"zTXt" :], LONGEST).decode("latin-1")
        else:
            yield body.decode("latin-1")


def _of_tiff(file: BinaryIO) -> str:
    """Read the description tag of the first directory."""
    file.seek(4)
    file.seek(int.from_bytes(file.read(4), "little"))
    entries = file.read(12 * int.from_bytes(file.read(2), "little"))
    for at in range(0, len(entries) - 11, 12):
        tag, kind, size, place = struct.unpack("<HHII", entries[at : at + 12])
        if (tag, kind) == (270, 2) and 4 < size <= LONGEST:
            file.seek(place)
            return file.read(size).decode("latin-1")
    return ""


def _comments(content: bytes) -> str:
    comments, at = [], 2
    while content[at : at + 1] == b"\xff" and content[at + 1 : at + 2] not in (b"\xda", b""):
        size = int.from_bytes(content[at + 2 : at + 4], "big")
        if size < 2:
            break
        if content[at + 1] == 0xFE:
            comments.append(content[at + 4 : at + 2 + size])
        at += 2 + size
    return b"".join(comments).decode("latin-1")


def _of_npy(file: BinaryIO) -> str:
    """Read the text after the values."""
    shape, dtype = npy_header(file)
    file.seek(math.prod(shape) * dtype.itemsize, os.SEEK_CUR)
    shape, dtype = npy_header(file)
    if shape != () or dtype.kind != "S" or dtype.itemsize > LONGEST:
        raise ValueError("no text")
    return file.read(dtype.itemsize).decode()


def npy_header(file: BinaryIO) -> Tuple[Tuple[int, ...], np.dtype]:
    """Read shape and dtype of the array at the current position of ``file``, leaving it at the first value.

    Raises ValueError if there is none, or if it holds Python objects, before allocating memory.
    """
    start = file.tell()
    known: Any = np.lib.format
    version = known.read_magic(file)
    length = int.from_bytes(file.read(2 if version == (1, 0) else 4), "little")
    if version not in ((1, 0), (2, 0)) or length > 4096:  # this package writes 128
        raise ValueError("no header")
    file.seek(start + 8)
    shape, _, dtype = (known.read_array_header_1_0 if version == (1, 0) else known.read_array_header_2_0)(file)
    if dtype.hasobject or any(side < 0 for side in shape):
        raise ValueError("no values")
    return shape, dtype


def _behind_key(text: str) -> str:
    found = text.find(f"{KEY} {{")
    return text[found + len(KEY) :].strip("\0 \n") if found >= 0 else ""


def record_text(about: Mapping[str, Any]) -> str:
    """Format a record as text, one line per entry, without control characters."""
    known = dict(about)
    versions = [f"{KEY} {known.pop(KEY)}"]
    versions += [
        f"{words} {known.pop(name)}" for name, words in (("yolov5", "YOLOv5"), ("torch", "torch")) if name in known
    ]
    rows = [["made by", ", ".join(versions)]]
    if "command" in known:
        rows.append(["command", f"{KEY} {command_line(known.pop('command'))}"])
    for name in ("weights", "image", "images"):
        found = known.pop(name, [])
        rows += [[name, _file(one)] for one in (found if isinstance(found, list) else [found])]
    for name, value in known.items():
        rows += [[name, words] for words in _value(name, value, about)]
    return align(rows)


def as_json(about: Mapping[str, Any]) -> str:
    """Format a record as JSON, with control characters and lone surrogates as ``\\u`` escapes."""
    text = json.dumps(about, indent=1, ensure_ascii=False)
    return "".join(c if c == "\n" or printable(c) == c else _escaped(c) for c in text)


def _escaped(letter: str) -> str:
    code = letter.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{code[i : i + 4]}" for i in range(0, len(code), 4))


def command_line(words: Optional[Sequence[str]]) -> str:
    """Quote words for a shell, with control characters replaced."""
    return " ".join(shlex.quote(printable(word)) for word in words or ())


def _file(known: Mapping[str, Any]) -> str:
    more = (f"{name} {value}" for name, value in known.items() if name not in ("name", "sha256"))
    return "  ".join([str(known.get("name")), *([f"sha256 {known['sha256']}"] if "sha256" in known else []), *more])


def _value(name: str, value: Any, about: Mapping[str, Any]) -> List[str]:
    if name == "scale":
        if not isinstance(value[0], list):
            return [f"{value[0]} to {value[1]}"]
        channels = unspans(about.get("channels", f"0-{len(value) - 1}"))
        return [f"channel {channel}: {pair[0]} to {pair[1]}" for channel, pair in zip(channels, value)]
    if isinstance(value, list) and value and all(isinstance(part, int) for part in value):
        return ["×".join(map(str, value))]
    return [value if isinstance(value, str) else json.dumps(value)]
