"""Parse a pickle to inert data.

A pickle is a program for a stack machine. This implementation imports nothing, calls nothing and
constructs only tuples, lists and the node classes below: a name becomes a :class:`Global`, a call a
:class:`Call`, a dictionary a list of pairs. They are interpreted elsewhere, after the whole pickle has
been read.

Python's ``pickle`` cannot do this, since it resolves names while reading. The opcodes are those of
``pickletools``, limited to those that Python 3 writes in protocols 2 to 5, and Python 2's byte strings.
"""

from __future__ import annotations

import struct
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from typing import Any, Callable, Dict, List, Optional, Tuple

from yolov5_featviz.errors import FeatvizError, UnsafeCheckpoint
from yolov5_featviz.text import printable

OPCODES = 4_000_000  # maximum per stream, a few seconds; a YOLOv5 checkpoint has 10,000 to 200,000
LONGEST_NUMBER = 128  # bytes of an integer
LONGEST_NAME = 300  # characters of a module's or class's name


identity = object.__hash__  # as id() for live objects, without its audit event


class Damaged(FeatvizError):
    """The bytes are not a complete pickle."""


class Global:
    """Unresolved name: ``key`` is its module and name, with Python 2 names mapped to Python 3."""

    __slots__ = ("key",)

    def __init__(self, module: str, name: str) -> None:
        renamed = (IMPORT_MAPPING.get(module, module), name)
        self.key: Tuple[str, str] = NAME_MAPPING.get((module, name), renamed)

    def __str__(self) -> str:
        return ".".join(self.key)


class Call:
    """Call or construction in a pickle: ``function`` with ``args``, then state, items and pairs.

    Attributes:
        function: a node, in a checkpoint a :class:`Global`.
        args: a node, in a checkpoint a tuple.
        new: whether it creates an object without its constructor (NEWOBJ) instead of calling a function.
        state: state set by BUILD, or None.
        items, pairs: added by APPENDS or ADDITEMS, and by SETITEMS.
    """

    __slots__ = ("args", "function", "items", "new", "pairs", "state")

    def __init__(self, function: Any, args: Any, new: bool) -> None:
        self.function, self.args, self.new = function, args, new
        self.state: Any = None
        self.items: List[Any] = []
        self.pairs: List[Tuple[Any, Any]] = []


class DictNode:
    """Dictionary, as a list of pairs."""

    __slots__ = ("pairs", "plain")

    def __init__(self, pairs: List[Tuple[Any, Any]]) -> None:
        self.pairs = pairs
        self.plain = False  # whether it was checked to contain only plain values


class SetNode:
    """Set, or frozenset if ``frozen``."""

    __slots__ = ("frozen", "items")

    def __init__(self, items: List[Any], frozen: bool) -> None:
        self.items, self.frozen = items, frozen


class Persistent:
    """Persistent id: in a checkpoint, the tuple that identifies a storage."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def describe_node(node: Any) -> str:
    """Describe a node for an error message, in one line."""
    if isinstance(node, Global):
        return printable(str(node), 200)
    if isinstance(node, Call):
        return f"{'an object' if node.new else 'a result'} of {describe_node(node.function)}"
    if isinstance(node, Persistent):
        return "a storage"
    kinds = {DictNode: "dict", SetNode: "set", type(None): "None"}
    return f"a {kinds.get(type(node), type(node).__name__)}"


def parse(data: bytes, start: int = 0) -> Tuple[Any, int]:
    """Parse one pickle.

    Args:
        data: the bytes.
        start: offset of the pickle.

    Returns:
        The tree, which may share nodes and contain cycles, and the end offset of the pickle.

    Raises:
        Damaged: the bytes are not a complete pickle.
        UnsafeCheckpoint: it uses an opcode that no checkpoint needs.
    """
    machine = _Machine(data, start)
    try:
        return machine.run()
    except (IndexError, struct.error, UnicodeDecodeError, KeyError):
        raise Damaged(f"the pickle is damaged at byte {machine.at}") from None


class _Machine:
    """Stack machine; methods implement opcodes."""

    def __init__(self, data: bytes, start: int) -> None:
        self.data, self.at = data, start
        self.stack: List[Any] = []
        self.floor = 0  # stack position of the last mark; items below are not accessible
        self.marks: List[int] = []  # positions of the previous marks
        self.memo: Dict[int, Any] = {}

    def run(self) -> Tuple[Any, int]:
        data, table, stack, memo, opcodes = self.data, _TABLE, self.stack, self.memo, 0
        while True:
            at = self.at
            opcode = data[at]
            self.at = at + 1
            opcodes += 1
            # inlined, since three opcodes are two thirds of a checkpoint
            if opcode == 0x71:  # BINPUT
                memo[data[at + 1]] = self.top()
                self.at = at + 2
            elif opcode == 0x4B:  # BININT1
                stack.append(data[at + 1])
                self.at = at + 2
            elif opcode == 0x68:  # BINGET
                stack.append(memo[data[at + 1]])
                self.at = at + 2
            elif opcode == 0x2E:  # STOP
                return self.pop(), self.at
            else:
                run = table[opcode]
                if run is None:
                    raise self.unknown(opcode)
                run(self)
            if opcodes > OPCODES:
                raise UnsafeCheckpoint(f"its pickle has over {OPCODES:,} opcodes, which no checkpoint needs")

    def unknown(self, opcode: int) -> FeatvizError:
        if opcode in (0x82, 0x83, 0x84):
            code = int.from_bytes(self.take({0x82: 1, 0x83: 2, 0x84: 4}[opcode]), "little")
            return UnsafeCheckpoint(f"it uses pickle extension {code}, which no checkpoint needs")
        if opcode == 0x69:  # INST
            return UnsafeCheckpoint(f"it makes {self.name_lines()} by an opcode that no checkpoint needs")
        if opcode == 0x6F:  # OBJ
            made = next((node for node in self.stack if isinstance(node, Global)), None)
            return UnsafeCheckpoint(f"it makes {describe_node(made)} by an opcode that no checkpoint needs")
        if opcode in _KNOWN_ELSEWHERE:
            return UnsafeCheckpoint(f"it uses the pickle opcode {chr(opcode)!r}, which no checkpoint needs")
        return Damaged(f"the pickle is damaged at byte {self.at - 1}")

    # --- the stack

    def take(self, n: int) -> bytes:
        end = self.at + n
        if end > len(self.data):
            raise IndexError
        taken = self.data[self.at : end]
        self.at = end
        return taken

    def number(self, n: int) -> int:
        at = self.at
        self.at = at + n
        if self.at > len(self.data):
            raise IndexError
        return int.from_bytes(self.data[at : at + n], "little")

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def pop(self) -> Any:
        if len(self.stack) <= self.floor:
            raise IndexError
        return self.stack.pop()

    def top(self) -> Any:
        if len(self.stack) <= self.floor:
            raise IndexError
        return self.stack[-1]

    def mark(self) -> None:
        self.marks.append(self.floor)
        self.floor = len(self.stack)

    def since_mark(self) -> List[Any]:
        start, self.floor = self.floor, self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    # --- values

    def text(self, n: int) -> None:
        # "replace" removes lone surrogates, which cannot be printed
        self.stack.append(str(self.take(n), "utf-8", "replace"))

    def byte_string(self, n: int) -> None:  # str of Python 2
        self.stack.append(str(self.take(n), "latin-1"))

    def big(self, n: int) -> None:
        if n > LONGEST_NUMBER:
            raise UnsafeCheckpoint(f"it holds a number of {n} bytes, which no checkpoint needs")
        self.stack.append(int.from_bytes(self.take(n), "little", signed=True))

    def name_lines(self) -> Global:
        module, name = (self.line() for _ in range(2))
        return self.checked(module, name)

    def line(self) -> str:
        end = self.data.find(b"\n", self.at, self.at + LONGEST_NAME * 4)
        if end < 0:
            raise IndexError
        line = self.data[self.at : end]
        self.at = end + 1
        return str(line, "utf-8")

    @staticmethod
    def checked(module: Any, name: Any) -> Global:
        if not isinstance(module, str) or not isinstance(name, str) or len(module) + len(name) > LONGEST_NAME:
            raise UnsafeCheckpoint("it uses something that is not a name as a name")
        return Global(module, name)

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        self.stack.append(self.checked(module, name))

    def tuple_of(self, n: int) -> None:
        stack = self.stack
        if len(stack) - self.floor < n:
            raise IndexError
        stack[-n:] = [tuple(stack[-n:])]

    # --- adding items

    def into(self, values: List[Any]) -> None:
        target = self.top()
        if isinstance(target, list):
            target.extend(values)
        elif isinstance(target, Call):
            target.items.extend(values)
        else:
            raise UnsafeCheckpoint(f"it puts items into {describe_node(target)}, which no checkpoint needs")

    def add(self, values: List[Any]) -> None:
        target = self.top()
        if not isinstance(target, SetNode) or target.frozen:
            raise UnsafeCheckpoint(f"it puts items into {describe_node(target)}, which no checkpoint needs")
        target.items.extend(values)

    def set_pairs(self, values: List[Any]) -> None:
        target = self.top()
        if not isinstance(target, (DictNode, Call)):
            raise UnsafeCheckpoint(f"it puts items into {describe_node(target)}, which no checkpoint needs")
        if len(values) % 2:
            raise IndexError
        target.pairs.extend(zip(values[::2], values[1::2]))

    def append(self) -> None:
        value = self.pop()
        self.into([value])

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.set_pairs([key, value])

    def call(self, new: bool) -> None:
        args, function = self.pop(), self.pop()
        self.stack.append(Call(function, args, new))

    def build(self) -> None:
        state, target = self.pop(), self.top()
        if not isinstance(target, Call) or target.state is not None:
            raise UnsafeCheckpoint(f"it sets the state of {describe_node(target)}, which no checkpoint needs")
        target.state = state

    def persistent(self) -> None:
        self.stack.append(Persistent(self.pop()))

    def put(self, index: int) -> None:
        self.memo[index] = self.top()

    def protocol(self) -> None:
        if self.byte() > 5:
            raise Damaged("the pickle has an unknown protocol")


def _pair_up(values: List[Any]) -> DictNode:
    if len(values) % 2:
        raise IndexError
    return DictNode(list(zip(values[::2], values[1::2])))


_Run = Callable[[_Machine], Any]


def _push(make: Callable[[_Machine], Any]) -> _Run:
    return lambda m: m.stack.append(make(m))


_OPCODES: Dict[str, _Run] = {
    "\x80": _Machine.protocol,
    "\x95": lambda m: m.take(8) and None,  # FRAME: length, not needed
    "(": _Machine.mark,
    "0": _Machine.pop,
    "1": _Machine.since_mark,
    "N": _push(lambda m: None),
    "\x88": _push(lambda m: True),
    "\x89": _push(lambda m: False),
    "J": _push(lambda m: struct.unpack("<i", m.take(4))[0]),
    "M": _push(lambda m: m.number(2)),
    "\x8a": lambda m: m.big(m.byte()),
    "\x8b": lambda m: m.big(m.number(4)),
    "G": _push(lambda m: struct.unpack(">d", m.take(8))[0]),
    "X": lambda m: m.text(m.number(4)),
    "\x8c": lambda m: m.text(m.byte()),
    "\x8d": lambda m: m.text(m.number(8)),
    "T": lambda m: m.byte_string(m.number(4)),
    "U": lambda m: m.byte_string(m.byte()),
    "S": _push(lambda m: m.line()),  # protocol 0, which is refused, but with the message of a later opcode
    "B": _push(lambda m: m.take(m.number(4))),
    "C": _push(lambda m: m.take(m.byte())),
    "\x8e": _push(lambda m: m.take(m.number(8))),
    "\x96": _push(lambda m: m.take(m.number(8))),  # BYTEARRAY8
    "]": _push(lambda m: []),
    "l": _push(lambda m: m.since_mark()),
    ")": _push(lambda m: ()),
    "t": _push(lambda m: tuple(m.since_mark())),
    "\x85": lambda m: m.tuple_of(1),
    "\x86": lambda m: m.tuple_of(2),
    "\x87": lambda m: m.tuple_of(3),
    "}": _push(lambda m: DictNode([])),
    "d": _push(lambda m: _pair_up(m.since_mark())),
    "\x8f": _push(lambda m: SetNode([], False)),
    "\x91": _push(lambda m: SetNode(m.since_mark(), True)),
    "a": _Machine.append,
    "e": lambda m: m.into(m.since_mark()),
    "s": _Machine.set_item,
    "u": lambda m: m.set_pairs(m.since_mark()),
    "\x90": lambda m: m.add(m.since_mark()),
    "c": _push(_Machine.name_lines),
    "\x93": _Machine.stack_global,
    "R": lambda m: m.call(False),
    "\x81": lambda m: m.call(True),
    "b": _Machine.build,
    "Q": _Machine.persistent,
    "r": lambda m: m.put(m.number(4)),
    "\x94": lambda m: m.put(len(m.memo)),
    "j": lambda m: m.stack.append(m.memo[m.number(4)]),
}

_TABLE: List[Optional[_Run]] = [_OPCODES.get(chr(code)) for code in range(256)]
_KNOWN_ELSEWHERE = {*b"2FILVPgpio\x82\x83\x84\x92\x97\x98"}  # protocols 0 and 1, and opcodes that call or share
