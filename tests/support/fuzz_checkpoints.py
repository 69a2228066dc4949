"""Mutate the demo checkpoint: each mutant loads, or is refused in one line, and nothing else happens.

python tests/fuzz_checkpoints.py 10000
"""

import io
import json
import os
import pickletools
import random
import resource
import signal
import struct
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Dict

WEIGHTS = Path(__file__).resolve().parents[2] / "weights" / "best.pt"
SECONDS = 20  # a mutant that takes longer hangs
MEMORY = 24 << 30  # of addresses, of which torch alone takes some
OUTCOMES = ("loaded", "refused", "tracebacks", "crashes", "hangs", "code_run")
# what mutants put where something else was
NAMES = ["os system", "builtins eval", "builtins exec", "models.yolo DetectionModel", "torch.nn.modules.module Module"]
NAMES += ["torch.nn.utils.parametrize ParametrizationList", "collections OrderedDict", "argparse Namespace"]
NAMES += ["models.common Conv", "models.common AutoShape", "torch.nn.modules.linear Identity", "numpy ndarray"]
TEXTS = [
    "forward",
    "_modules",
    "_forward_hooks",
    "items",
    "__class__",
    "yaml",
    "open('pwned','w')",
    "stride",
    "nc",
    "x" * 400,
]
OPCODES = b"(.0125KNRSTU]aceghjlqrstu}\x80\x81\x82\x85\x86\x87\x88\x89\x8a\x8b\x90\x93\x94\x96b)"


def _swap(ops, data, rng):
    """Two arguments of the same opcode, exchanged."""
    first = rng.randrange(len(ops))
    same = [i for i in range(len(ops)) if data[ops[i][0]] == data[ops[first][0]] and i != first]
    if not same:
        return data
    (a, b), (c, d) = sorted((ops[first], ops[rng.choice(same)]))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def _replace(ops, data, rng):
    """An opcode with its argument, replaced by another value."""
    start, end = rng.choice(ops)
    text = rng.choice(TEXTS).encode()
    module, name = rng.choice(NAMES).split()
    whole = rng.choice([0, 1, -1, 255, 1 << 20, 1 << 31 - 1, -(1 << 31)])
    new = rng.choice(
        [
            b"X" + struct.pack("<I", len(text)) + text,
            f"c{module}\n{name}\n".encode(),
            b"J" + struct.pack("<i", whole),
            b"G" + struct.pack(">d", rng.choice([0.0, -1.0, 1e300, float("nan"), float("inf")])),
            rng.choice([b"N", b"\x88", b"\x89", b"]", b")", b"}", b"(", b"0"]),
            b"h" + bytes([rng.randrange(256)]),
        ]
    )
    return data[:start] + new + data[end:]


def _value(ops, data, rng):
    """A number, truth value or text, replaced by another: what passes the parser, and may pass the grammar."""
    start, end = rng.choice([op for op in ops if data[op[0]] in b"KMJG\x88\x89NX"])
    kind = data[start]
    if kind == 0x58:
        text = rng.choice([*TEXTS, *(data[a + 5 : b].decode() for a, b in ops if data[a] == 0x58)][-400:]).encode()
        return data[:start] + b"X" + struct.pack("<I", len(text)) + text + data[end:]
    numbers = [0, 1, -1, 2, 3, 5, 64, 1000, 1 << 20, (1 << 31) - 1, -(1 << 31)]
    new = [b"J" + struct.pack("<i", rng.choice(numbers)), b"\x88", b"\x89", b"N", b"]", b")"]
    new += [b"G" + struct.pack(">d", rng.choice([0.0, 0.5, -1.0, 1e300, float("nan"), float("inf")]))] * 2
    return data[:start] + rng.choice([new[0], new[0], new[0], *new]) + data[end:]


def _copy(ops, data, rng):
    first = rng.randrange(len(ops))
    last = min(len(ops) - 1, first + rng.randrange(8))
    part = data[ops[first][0] : ops[last][1]]
    at = rng.choice(ops)[0]
    return data[:at] + part + data[at:]


def _delete(ops, data, rng):
    first = rng.randrange(len(ops))
    last = min(len(ops) - 1, first + rng.randrange(4))
    return data[: ops[first][0]] + data[ops[last][1] :]


def _flip(ops, data, rng):
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5])):
        changed[rng.randrange(len(changed))] = rng.choice([rng.randrange(256), rng.choice(OPCODES)])
    return bytes(changed)


def _insert(ops, data, rng):
    at = rng.choice(ops)[0]
    return data[:at] + bytes([rng.choice(OPCODES)]) + data[at:]


MUTATIONS = (_value, _value, _value, _value, _swap, _replace, _replace, _copy, _delete, _flip, _insert)


class Mutants:
    """The mutants of the demo checkpoint, by their number."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        with zipfile.ZipFile(WEIGHTS) as archive:
            self.members = {member.filename: archive.read(member) for member in archive.infolist()}
        self.pickle = next(name for name in self.members if name.endswith("data.pkl"))
        data = self.members[self.pickle]
        buffer = io.BytesIO()
        self._write(buffer, data)
        self.whole = buffer.getvalue()

    def _write(self, file, data) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in self.members.items():
                archive.writestr(zipfile.ZipInfo(name), data if name == self.pickle else content)

    def write(self, number: int, path: Path) -> None:
        rng = random.Random(f"{self.seed} {number}")
        if rng.random() < 0.1:  # of the archive, not of the pickle in it
            whole = bytearray(self.whole)
            for _ in range(rng.choice([1, 3, 20])):
                whole[-rng.randrange(1, min(len(whole), 20_000)) if rng.random() < 0.7 else rng.randrange(200)] = (
                    rng.randrange(256)
                )
            path.write_bytes(whole[: rng.choice([len(whole), len(whole), rng.randrange(len(whole))])])
            return
        data = self.members[self.pickle]
        for _ in range(rng.choice([1, 1, 1, 2, 4])):
            try:
                places = [at for _, _, at in pickletools.genops(data)]
            except ValueError:
                break
            data = rng.choice(MUTATIONS)(list(zip(places, [*places[1:], len(data)])), data, rng)
        self._write(path, data)


def _try(path: Path) -> str:
    import yolov5_featviz as fv

    try:
        fv.list_layers(fv.load(path), 64)
        return "loaded"
    except fv.FeatvizError as error:
        return "refused" if len(str(error).splitlines()) == 1 and str(error).isprintable() else "tracebacks"


def _work(mutants: Mutants, first: int, count: int, out: int) -> None:
    """Try mutants in this process, a letter for each into a pipe, until one ends it."""
    import traceback

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for number in range(first, first + count):
        path = Path(f"mutant{number}.pt")
        mutants.write(number, path)
        signal.alarm(SECONDS)
        try:
            outcome = _try(path)
        except BaseException:
            outcome = "tracebacks"
            print(f"mutant {number}:", traceback.format_exc(limit=-4), file=sys.stderr)
        signal.alarm(0)
        path.unlink()
        if os.listdir("."):
            outcome = "code_run"
            print(f"mutant {number} wrote {os.listdir('.')}", file=sys.stderr)
            for name in os.listdir("."):
                os.unlink(name)
        os.write(out, bytes([OUTCOMES.index(outcome)]))


def fuzz(count: int, seed: int = 0) -> Dict[str, int]:
    """Try ``count`` mutants, in processes of their own; how many there were of each outcome."""
    import yolov5_featviz as fv

    fv.list_layers(fv.load(WEIGHTS), 64)  # imports, once for all
    mutants = Mutants(seed)
    counts = {"tries": count, **dict.fromkeys(OUTCOMES, 0)}
    done = 0
    with tempfile.TemporaryDirectory() as folder:
        while done < count:
            read, write = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.close(read)
                os.chdir(folder)
                try:
                    _work(mutants, done, count - done, write)
                finally:
                    os._exit(0)
            os.close(write)
            while True:
                letters = os.read(read, 1)
                if not letters:
                    break
                counts[OUTCOMES[letters[0]]] += 1
                done += 1
            os.close(read)
            _, status = os.waitpid(pid, 0)
            if done < count:
                ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
                counts["hangs" if ended == signal.SIGALRM else "crashes"] += 1
                print(f"mutant {done} ended its process: status {status}", file=sys.stderr)
                for left in Path(folder).iterdir():
                    left.unlink()
                done += 1
    return counts


if __name__ == "__main__":
    sys.path.insert(0, str(WEIGHTS.parents[1]))
    print(json.dumps(fuzz(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)))
