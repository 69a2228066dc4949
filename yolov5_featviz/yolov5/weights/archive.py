"""Open a checkpoint file: parse its pickle and read its storages on demand.

The format is detected from the first bytes, and torch's own readers are never used, since they would
run code in a TorchScript archive. Torch writes a ZIP archive with uncompressed members (since 1.6), or
a sequence of pickles followed by the storages (before).
"""

from __future__ import annotations

import struct
import zipfile
from typing import Any, BinaryIO, Dict, Tuple

import numpy as np
import torch

from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.text import printable
from yolov5_featviz.yolov5.weights.parse import Damaged, parse
from yolov5_featviz.yolov5.weights.tensors import StorageKey, width

MAGIC = 0x1950A86A20F9469CFC6C  # first value of the legacy format
LARGEST_PICKLE = 1 << 28  # bytes
MEMBERS = 200_000
INFLATED = 8  # maximum ratio of unpacked to file size
_CARRIERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}


class OtherKind(FeatvizError):
    """The file has another format; the message names it, as the end of a sentence."""


class Archive:
    """Content of a checkpoint file.

    Attributes:
        tree: the parsed pickle.
    """

    tree: Any

    def expect(self, storages: Dict[str, StorageKey]) -> None:
        """Locate the storages that the tree refers to. Raises Damaged if the file lacks one."""

    def read(self, storage: StorageKey) -> torch.Tensor:
        """Read a storage ``[length]`` to the CPU. Raises Damaged if it is incomplete."""
        raise NotImplementedError


def open_archive(file: BinaryIO) -> Archive:
    """Open a checkpoint.

    Raises:
        Damaged: it is not a checkpoint, or is incomplete.
        OtherKind: it is an archive of another format.
        UnsafeCheckpoint: its pickle contains opcodes that no checkpoint needs.
    """
    start = file.read(512)
    size = file.seek(0, 2)
    file.seek(0)
    if start[:4] == b"PK\x03\x04":
        return _Zip(file, size)
    if start[257:262] == b"ustar":
        raise OtherKind("a tar archive, not a .pt checkpoint")
    return _Legacy(file, size)


class _Zip(Archive):
    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        try:
            archive = zipfile.ZipFile(file)
            members = archive.infolist()
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, struct.error, RuntimeError) as error:
            raise Damaged(f"the archive is damaged: {printable(error, 100)}") from None
        if len(members) > MEMBERS:
            raise Damaged(f"the archive has {len(members):,} members")
        self._archive, self._size = archive, size
        self._members: Dict[str, zipfile.ZipInfo] = {}
        for member in members:
            self._members.setdefault(member.filename, member)
        if len(self._members) != len(members):
            raise Damaged("the archive holds two members of one name")
        folders = {name.split("/", 1)[0] for name in self._members if "/" in name}
        if any(name.endswith("constants.pkl") or "/code/" in name for name in self._members):
            raise OtherKind(
                "a TorchScript archive, which has no layers to visualise: give the .pt checkpoint it was made from"
            )
        self._folder = next((folder for folder in folders if f"{folder}/data.pkl" in self._members), None)
        if self._folder is None:
            raise Damaged("the archive holds no data.pkl")
        if {member.compress_type for member in members} - {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise Damaged("the archive is compressed in a way that torch cannot read")
        inflated = sum(m.file_size for m in members if m.compress_type != zipfile.ZIP_STORED)
        if sum(m.file_size for m in members) - inflated > size:
            raise Damaged("the archive's members overlap")
        if inflated > INFLATED * size + (1 << 20):
            raise Damaged(f"the archive unpacks to {inflated:,} bytes")
        if self._bytes("byteorder", default=b"little").strip() != b"little":
            raise Damaged("it was written on a big-endian machine")
        self.tree, _ = parse(self._bytes("data.pkl"))

    def _bytes(self, name: str, default: bytes = b"") -> bytes:
        member = self._members.get(f"{self._folder}/{name}")
        if member is None:
            return default
        if member.file_size > LARGEST_PICKLE:
            raise Damaged(f"{name} has {member.file_size:,} bytes")
        content = np.empty(member.file_size, np.uint8)
        self._into(member, content)
        return content.tobytes()

    def _into(self, member: zipfile.ZipInfo, out: np.ndarray) -> None:
        """Read a member into ``out``, which has its size."""
        if member.flag_bits & 1:
            raise Damaged("the archive is encrypted")
        try:
            if member.compress_type == zipfile.ZIP_STORED:
                # read directly: faster than zipfile, and some torch files have no checksums
                self._file.seek(member.header_offset)
                head = self._file.read(30)
                names = struct.unpack("<HH", head[26:30])
                self._file.seek(member.header_offset + 30 + sum(names))
                whole = head[:4] == b"PK\x03\x04" and member.compress_size == member.file_size
                whole = whole and self._file.readinto(out.data) == len(out)  # type: ignore[attr-defined]
            else:
                with self._archive.open(member) as stream:
                    content = stream.read(len(out) + 1)
                whole = len(content) == len(out)
                if whole:
                    out[:] = np.frombuffer(content, np.uint8)
        except Exception as error:  # from zlib, zipfile or the disk
            raise Damaged(f"{printable(member.filename, 60)} cannot be read: {printable(error, 100)}") from None
        if not whole:
            raise Damaged(f"{printable(member.filename, 60)} is incomplete")

    def read(self, storage: StorageKey) -> torch.Tensor:
        member = self._members.get(f"{self._folder}/data/{storage.key}")
        size = storage.length * width(storage.dtype)
        if member is None or member.file_size != size or size > INFLATED * self._size + (1 << 20):
            there = "missing" if member is None else f"of {member.file_size:,} bytes"
            raise Damaged(f"the storage {storage.key!r:.40} of {size:,} bytes is {there}")
        tensor, view = _empty(storage)
        self._into(member, view)
        return _typed(tensor, storage.dtype)


class _Legacy(Archive):
    def __init__(self, file: BinaryIO, size: int) -> None:
        data = file.read(LARGEST_PICKLE * 8)
        magic, at = parse(data)
        if magic != MAGIC:
            raise Damaged("it does not begin like a torch file")
        protocol, at = parse(data, at)
        info, at = parse(data, at)
        little = any(key == "little_endian" and value is True for key, value in getattr(info, "pairs", ()))
        if protocol != 1001 or not little:
            raise Damaged("it is of another version, or was written on a big-endian machine")
        self.tree, at = parse(data, at)
        keys, at = parse(data, at)
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise Damaged("it does not list its storages")
        self._data, self._keys, self._at = data, keys, at
        self._places: Dict[str, Tuple[int, int]] = {}

    def expect(self, storages: Dict[str, StorageKey]) -> None:
        # stored in sequence, in the order of their list, each preceded by its length
        at = self._at
        for key in self._keys:
            if key not in storages:
                raise Damaged(f"the storage {key!r:.40} is listed without a type")
            size = storages[key].length * width(storages[key].dtype)
            head = self._data[at : at + 8]
            if len(head) < 8 or struct.unpack("<q", head)[0] != storages[key].length or at + 8 + size > len(self._data):
                raise Damaged(f"the storage {key!r:.40} is incomplete")
            self._places[key] = at + 8, size
            at += 8 + size

    def read(self, storage: StorageKey) -> torch.Tensor:
        if storage.key not in self._places:
            raise Damaged(f"the storage {storage.key!r:.40} is missing")
        at, size = self._places[storage.key]
        tensor, view = _empty(storage)
        view[:] = np.frombuffer(self._data, np.uint8, size, at)
        return _typed(tensor, storage.dtype)


def _empty(storage: StorageKey) -> Tuple[torch.Tensor, np.ndarray]:
    """Allocate a tensor of a numpy-compatible dtype of the storage's width; return it and its bytes."""
    tensor = torch.empty(storage.length, dtype=_CARRIERS[width(storage.dtype)])
    return tensor, tensor.numpy().view(np.uint8)


def _typed(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return tensor != 0 if dtype == torch.bool else tensor.view(dtype)
