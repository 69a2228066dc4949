"""What files say of how they were made: putting it together, without names of users or folders, and reading it back."""

from __future__ import annotations

import getpass
import hashlib
import html
import io
import json
import os
import re
import shlex
from contextlib import suppress
from functools import lru_cache
from pathlib import Path, PureWindowsPath
from typing import Any, Dict, FrozenSet, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple, Union
from urllib.parse import urlsplit

import numpy as np

from yolov5_featviz.about import KEY
from yolov5_featviz.channels import choose_channels
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.table import align


def made(command: Sequence[str], weights: Iterable[Union[str, Path]] = (), **more: Any) -> Dict[str, Any]:
    """What all files of a run have in common.

    Args:
        command: the words behind ``yolov5-featviz``; see :func:`portable`.
        weights: the checkpoints; the hash of each is taken.
        more: whatever else there is to say; None is left out.
    """
    import torch

    told = {"command": portable(command), **more, "torch": str(torch.__version__)}
    told["weights"] = [identity(path) for path in weights]
    return {name: value for name, value in told.items() if value is not None and value != []}


def identity(path: Union[str, Path], **more: Any) -> Dict[str, Any]:
    """Name and SHA-256 of a file; only the name if it is none, as of a stream."""
    known = {"sha256": sha256(path)} if os.path.isfile(path) else {}
    return {"name": portable([str(path)])[0].replace("\\", "/").rsplit("/", 1)[-1], **known, **more}


def sha256(path: Union[str, Path]) -> str:
    """The SHA-256 of a file, in hexadecimal; taken once as long as the file stays as it is."""
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
    """A command line that tells nothing about the machine.

    Paths within the current folder become relative to it; of any other only the name stays, and so
    it does if the user's name is a part of them. Addresses lose user, password and query.
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
    with suppress(Exception):  # where nobody is known by the user's number
        names.add(getpass.getuser())
    return frozenset(filter(None, names))


def read(path: Union[str, Path]) -> Dict[str, Any]:
    """What a file that was written here says of how it was made.

    Args:
        path: a ``png``, ``jpg``, ``tif``, ``svg``, ``pdf``, ``npy`` or ``tex`` file, or one that has
            its words beside it, in a file of the same name with ``.json`` behind it.

    Raises:
        FeatvizError: there is no such file, or it does not say.
    """
    path = Path(path)
    if not path.is_file():
        raise FeatvizError(f"no file {path}")
    content = path.read_bytes()
    beside = path.with_name(f"{path.name}.json")
    for words in (*_words(content), *([beside.read_text(encoding="utf-8")] if beside.is_file() else [])):
        try:
            about = json.loads(words)
        except ValueError:
            continue
        if isinstance(about, dict) and KEY in about:
            return about
    raise FeatvizError(f"{path} does not say how it was made: it is not from yolov5-featviz, or was saved anew since")


def _words(content: bytes) -> Iterator[str]:
    """What may be the record, in a file of any kind."""
    if content.startswith((b"\x89PNG", b"II*\0")):
        from PIL import Image

        try:
            with Image.open(io.BytesIO(content)) as image:
                image.load()
                yield str(image.info.get(KEY, ""))
                yield _behind_key(str(getattr(image, "tag_v2", {}).get(270, "")))
        except Exception:  # each damage has an error of its own
            return
    elif content.startswith(b"\xff\xd8"):
        comments, at = b"", 2
        while content[at : at + 1] == b"\xff" and content[at + 1 : at + 2] not in (b"\xda", b""):
            size = int.from_bytes(content[at + 2 : at + 4], "big")
            comments += content[at + 4 : at + 2 + size] if content[at + 1] == 0xFE else b""
            at += 2 + size
        yield _behind_key(comments.decode("latin-1"))
    elif content.startswith(b"%PDF"):
        for literal in re.findall(rb"/Subject \(((?:\\.|[^\\()])*)\)", content, re.DOTALL):
            yield _behind_key(re.sub(r"\\(.)", r"\1", literal.decode("latin-1")))
    elif content.startswith(b"\x93NUMPY"):
        stream = io.BytesIO(content)
        try:
            np.load(stream, allow_pickle=False)
            yield np.load(stream, allow_pickle=False).item().decode()
        except Exception:  # only the values, or values of somebody else
            return
    else:
        text = content.decode("utf-8", errors="replace")
        yield text
        yield _behind_key(text.split("\n")[0])
        yield html.unescape(_behind_key(text.split("</metadata>")[0]))


def _behind_key(text: str) -> str:
    found = text.find(f"{KEY} {{")
    return text[found + len(KEY) :].strip("\0 \n") if found >= 0 else ""


def tell(about: Mapping[str, Any]) -> str:
    """The record as text, a line for each thing that is told."""
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


def command_line(words: Optional[Sequence[str]]) -> str:
    """Words as one types them."""
    return " ".join(map(shlex.quote, words or ()))


def _file(known: Mapping[str, Any]) -> str:
    more = (f"{name} {value}" for name, value in known.items() if name not in ("name", "sha256"))
    return "  ".join([str(known.get("name")), *([f"sha256 {known['sha256']}"] if "sha256" in known else []), *more])


def _value(name: str, value: Any, about: Mapping[str, Any]) -> List[str]:
    if name == "scale":
        if not isinstance(value[0], list):
            return [f"{value[0]} to {value[1]}"]
        channels = choose_channels(about.get("channels", "all"), 1 << 30)
        return [f"channel {channel}: {pair[0]} to {pair[1]}" for channel, pair in zip(channels, value)]
    if isinstance(value, list) and all(isinstance(part, int) for part in value):
        return ["×".join(map(str, value))]
    return [value if isinstance(value, str) else json.dumps(value)]
