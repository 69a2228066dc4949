"""Checkpoints as a stranger might make them: any tree of nodes, written as a pickle into a file."""

import pickle
import struct
import sys
import zipfile
from pathlib import Path

from yolov5_featviz.yolov5.weights.parse import Call, DictNode, Global, Persistent, SetNode, parse

WEIGHTS = Path(__file__).resolve().parents[2] / "weights" / "best.pt"
MAGIC = 0x1950A86A20F9469CFC6C


def encode(node, memo=None):
    """A node as opcodes; what it shares stays shared, and a container may hold itself."""
    memo = {} if memo is None else memo
    if node is None or isinstance(node, (bool, int, float, str, bytes)):
        return pickle.dumps(node, 4)[2:-1].replace(b"\x94", b"") if isinstance(node, bytes) else _scalar(node)
    if id(node) in memo:
        return b"j" + struct.pack("<I", memo[id(node)][0])

    def keep():
        memo[id(node)] = len(memo), node
        return b"r" + struct.pack("<I", memo[id(node)][0])

    def pairs(of):
        return b"(" + b"".join(encode(part, memo) for pair in of for part in pair) + b"u" if of else b""

    if isinstance(node, tuple):
        return b"(" + b"".join(encode(part, memo) for part in node) + b"t" + keep()
    if isinstance(node, list):
        return b"]" + keep() + b"(" + b"".join(encode(part, memo) for part in node) + b"e"
    if isinstance(node, DictNode):
        return b"}" + keep() + pairs(node.pairs)
    if isinstance(node, SetNode):
        return b"\x8f" + keep() + b"(" + b"".join(encode(part, memo) for part in node.items) + b"\x90"
    if isinstance(node, Global):
        return "c{}\n{}\n".format(*node.key).encode("utf-8", "surrogatepass") + keep()
    if isinstance(node, Persistent):
        return encode(node.value, memo) + b"Q" + keep()
    made = encode(node.function, memo) + encode(node.args, memo) + (b"\x81" if node.new else b"R") + keep()
    made += pairs(node.pairs)
    if node.items:
        made += b"(" + b"".join(encode(part, memo) for part in node.items) + b"e"
    return made + (encode(node.state, memo) + b"b" if node.state is not None else b"")


def _scalar(node):
    if isinstance(node, str):
        data = node.encode("utf-8", "surrogatepass")
        return b"X" + struct.pack("<I", len(data)) + data
    return pickle.dumps(node, 2)[2:-1]


def stream(node, protocol=2):
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    try:
        return b"\x80" + bytes([protocol]) + encode(node) + b"."
    finally:
        sys.setrecursionlimit(limit)


def name(dotted):
    module, _, last = dotted.rpartition(".")
    return Global(module, last)


def call(function, *args, new=False, **kwargs):
    made = Call(name(function) if isinstance(function, str) else function, args, new)
    for key, value in kwargs.items():
        setattr(made, key, value)
    return made


def table(**pairs):
    return DictNode(list(pairs.items()))


def ordered(**pairs):
    return call("collections.OrderedDict", pairs=list(pairs.items()))


def module(cls, modules=None, parameters=None, buffers=None, **state):
    """A module with a state as torch writes it."""
    parts = {
        "training": True,
        "_parameters": ordered(**(parameters or {})),
        "_buffers": ordered(**(buffers or {})),
        "_backward_hooks": ordered(),
        "_forward_hooks": ordered(),
        "_forward_pre_hooks": ordered(),
        "_state_dict_hooks": ordered(),
        "_load_state_dict_pre_hooks": ordered(),
        "_modules": ordered(**(modules or {})),
    }
    return call(cls, new=True, state=table(**{**parts, **state}))


def storage(key="0", count=4, kind="torch.FloatStorage", location="cpu"):
    return Persistent(("storage", name(kind), key, location, count))


def tensor(size=(4,), stride=(1,), offset=0, hooks=None, of=None, grad=False):
    args = (of or storage(), offset, size, stride, grad, ordered() if hooks is None else hooks)
    return call("torch._utils._rebuild_tensor_v2", *args)


def parameter(of=None):
    return call("torch._utils._rebuild_parameter", of or tensor(), True, ordered())


def save(node, path, storages=None, compress=zipfile.ZIP_STORED):
    """Write a checkpoint of the format since 1.6."""
    with zipfile.ZipFile(path, "w", compress) as archive:
        archive.writestr("archive/data.pkl", node if isinstance(node, bytes) else stream(node))
        archive.writestr("archive/version", "3\n")
        for key, content in (storages or {"0": bytes(16)}).items():
            archive.writestr(f"archive/data/{key}", content)
    return path


def save_legacy(node, path):
    """Write a checkpoint of the format before 1.6, without storages."""
    head = [MAGIC, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}]
    body = node if isinstance(node, bytes) else stream(node)
    path.write_bytes(b"".join(pickle.dumps(part, 2) for part in head) + body + pickle.dumps([], 2))
    return path


class Demo:
    """The demo checkpoint as a tree, to be changed and written anew."""

    def __init__(self):
        with zipfile.ZipFile(WEIGHTS) as archive:
            members = {member.filename: archive.read(member) for member in archive.infolist()}
        pickled = next(key for key in members if key.endswith("data.pkl"))
        self.tree, _ = parse(members[pickled])
        self.storages = {key.split("/data/")[1]: value for key, value in members.items() if "/data/" in key}

    def get(self, node, key):
        pairs = node.state.pairs if isinstance(node, Call) and node.state is not None else node.pairs
        return next(value for known, value in pairs if known == key)

    def set(self, node, key, value):
        pairs = node.state.pairs if isinstance(node, Call) and node.state is not None else node.pairs
        pairs[:] = [pair for pair in pairs if pair[0] != key] + [(key, value)]

    @property
    def model(self):
        return self.get(self.tree, "model")

    def at(self, path):
        """A module by its path, such as ``model.24``."""
        node = self.model
        for part in path.split("."):
            node = self.get(self.get(node, "_modules"), part)
        return node

    def save(self, path):
        return save(self.tree, path, self.storages)
