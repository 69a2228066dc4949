"""Compress the lines of a PNG whose rows repeat, from the rows that differ alone.

zlib has to read every repeated row again, which is most of a picture of enlarged cells. The stream
here is built from the other rows: one deflate block (RFC 1951) of literals and runs of zeros.
"""

from __future__ import annotations

import zlib
from typing import Tuple

import numpy as np

WORD = np.uint64
SPAN = 256  # a token of its own at least each so many bytes, so that runs stay within one match
BAND = 1 << 16  # tokens at a time, so that arrays stay in the processor's cache
END = 256  # the symbol that ends a block
MODULUS = 65521  # of Adler-32

# The symbols from 257 on: the shortest match of each, and how many more bits say by how much it is longer.
EXTRA = np.array([0] * 8 + [bits for bits in range(1, 6) for _ in range(4)])
SHORTEST = np.append(3, 3 + np.cumsum(1 << EXTRA)[:-1])

# A run of zeros, by its length: some as literals, the others as a match with the byte before.
RUN = np.arange(SPAN)
LITERALS = np.where(RUN < 4, RUN, 1)
MATCHED = RUN - LITERALS
KIND = np.searchsorted(SHORTEST, MATCHED, side="right") - 1  # -1: no match


def deflated_rows(lines: np.ndarray, rows: np.ndarray, height: int) -> bytes:
    """Compress the lines of a PNG of which most repeat the one above.

    Args:
        lines: the others, uint8 ``[n, 1 + bytes]``, the filter first, which must not be 0.
        rows: which rows of the picture they are, ``[n]``, upwards from 0. Each row between is the
            filter 2 (the difference to the row above) and zeros.
        height: rows of the picture.

    Returns:
        A zlib stream (RFC 1950) of all rows.
    """
    again = np.diff(np.append(rows, height)) - 1
    bands = []
    step = max(1, BAND * 4 // lines.shape[1])
    for first in range(0, len(lines), step):
        part = lines[first : first + step]
        bands.append((*_tokens(part), again[first : first + step]))
    found = sum(np.bincount(tokens, minlength=SPAN * 256) for tokens, _, _ in bands)
    counts = _symbols(np.reshape(found, (SPAN, 256)))
    symbols, more, long = _repeated(lines.shape[1])
    np.add.at(counts, symbols, int(again.sum()))
    lengths = _lengths(counts)
    codes = _codes(lengths)
    table = _table(codes, lengths)
    repeat = _coded(codes[symbols] | more.astype(WORD) << lengths[symbols].astype(WORD), lengths[symbols] + long)

    packed, left = [b"\x78\x01"], _header(lengths)
    for tokens, ends, times in bands:
        coded = np.insert(table[tokens], np.repeat(ends, times * len(repeat)), np.tile(repeat, times.sum()))
        content, left = _packed(np.append(left, coded))
        packed.append(content)
    content, left = _packed(
        np.append(left, _coded(np.append(codes[END], WORD(0)), np.array([lengths[END], 7])))
    )  # and to a whole byte
    return b"".join([*packed, content, _adler(lines, rows, height).to_bytes(4, "big")])


def _tokens(lines: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Lines as bytes with the zeros behind them, ``run * 256 + byte``; and where the tokens of each line end."""
    start = lines != 0
    start[:, ::SPAN] = True
    at = np.flatnonzero(start)
    tokens = np.empty(len(at), np.uint16)
    tokens[:-1] = at[1:] - at[:-1] - 1
    tokens[-1] = lines.size - at[-1] - 1
    tokens <<= 8
    tokens |= lines.ravel()[at]
    return tokens, np.searchsorted(at, np.arange(1, len(lines) + 1) * lines.shape[1])


def _repeated(size: int) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The symbols of a line of the filter 2 and zeros, and of each the value and number of the bits behind it."""
    matches, rest = divmod(size - 2, 258)
    kind = int(np.searchsorted(SHORTEST, rest, side="right")) - 1
    tail = [(257 + kind, rest - SHORTEST[kind], EXTRA[kind] + 1)] if rest >= 3 else [(0, 0, 0)] * rest
    symbols, more, long = np.array([(2, 0, 0), (0, 0, 0), *[(285, 0, 1)] * matches, *tail]).T
    return symbols, more, long


def _coded(codes: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """Codes over their lengths, which take 6 bits."""
    return codes << WORD(6) | np.asarray(bits).astype(WORD)


def _symbols(counts: np.ndarray) -> np.ndarray:
    """How often each of the 286 symbols comes, by how often each token does, ``[run, byte]``."""
    found = np.zeros(286, np.int64)
    found[:256] = counts.sum(axis=0)
    found[END] = 1
    runs = counts.sum(axis=1)
    found[0] += (LITERALS * runs).sum()
    np.add.at(found, (257 + KIND)[KIND >= 0], runs[KIND >= 0])
    return found


def _lengths(counts: np.ndarray) -> np.ndarray:
    """Bits of a prefix code that is complete, none longer than 15: Shannon's, and what that leaves shared out."""
    used = np.flatnonzero(counts)
    weights = np.maximum(counts[used], counts.sum() / 8192)
    bits = np.ceil(np.log2(weights.sum() / weights)).astype(int).clip(1)
    spare = (1 << 15) - int((1 << 15 - bits).sum())
    while spare:
        for i in np.argsort(-weights * 2.0**bits, kind="stable").tolist():
            share = 1 << 15 - int(bits[i])
            if share <= spare and bits[i] > 1:
                bits[i] -= 1
                spare -= share
    lengths = np.zeros(len(counts), int)
    lengths[used] = bits
    return lengths


def _codes(lengths: np.ndarray) -> np.ndarray:
    """The codes that belong to these lengths, the first bit lowest."""
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 0]
    shares = 1 << 15 - lengths[order]
    first = np.cumsum(shares) - shares
    codes = np.zeros(len(lengths), WORD)
    codes[order] = sum((first >> 14 - bit & 1) << bit for bit in range(15)).astype(WORD)
    return codes


def _table(codes: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The code of each token, and below it in 6 bits its length."""
    run, size = np.zeros(SPAN, WORD), np.zeros(SPAN, int)
    kind = KIND.clip(0)
    match = codes[257 + kind] | (MATCHED - SHORTEST[kind]).clip(0).astype(WORD) << lengths[257 + kind].astype(WORD)
    parts = [(i < LITERALS, codes[0], lengths[0]) for i in range(3)]
    parts += [(KIND >= 0, match, lengths[257 + kind] + EXTRA[kind] + 1)]  # one bit for the one distance there is
    for there, code, bits in parts:
        run |= np.where(there, code << size.astype(WORD), WORD(0))
        size += np.where(there, bits, 0)
    tokens = codes[:256] | run[:, None] << lengths[:256].astype(WORD)
    return _coded(tokens, lengths[:256] + size[:, None]).ravel()


def _header(lengths: np.ndarray) -> np.ndarray:
    """The start of a last block with codes of its own, as codes over their lengths; one distance, of 1."""
    four = [int(f"{length:04b}"[::-1], 2) for length in range(16)]  # each length takes four bits, a code like any other
    head = [(1, 1), (2, 2), (29, 5), (0, 5), (15, 4), *[(0, 3)] * 3, *[(4, 3)] * 16]
    head += [(four[length], 4) for length in [*lengths.tolist(), 1]]
    return np.array([code << 6 | bits for code, bits in head], WORD)


def _packed(coded: np.ndarray) -> Tuple[bytes, np.ndarray]:
    """Codes over their lengths as bytes, and what is left of less than eight bits, as such a code."""
    bits, codes = coded & WORD(63), coded >> WORD(6)
    if len(bits) % 2 == 0 and bits.max() <= 32:  # two at a time
        codes, bits = codes[::2] | codes[1::2] << bits[::2], bits[::2] + bits[1::2]
    ends = np.cumsum(bits)
    starts = ends - bits
    word, shift = (starts >> WORD(6)).astype(np.intp), starts & WORD(63)
    first = np.flatnonzero(np.append(True, word[1:] != word[:-1]))
    last = np.append(first[1:], len(word)) - 1  # which alone can reach into the next word
    words = np.zeros(int(word[-1]) + 2, WORD)
    words[word[first]] = np.bitwise_or.reduceat(codes << shift, first)
    words[word[last] + 1] |= codes[last] >> WORD(1) >> (WORD(63) - shift[last])
    content = words.astype("<u8", copy=False).tobytes()
    whole, rest = divmod(int(ends[-1]), 8)
    return content[:whole], np.array([content[whole] << 6 | rest], WORD)


def _adler(lines: np.ndarray, rows: np.ndarray, height: int) -> int:
    """Adler-32 of all rows, from that of the lines: a byte counts once, and once for each byte from it to the end."""
    n, size = lines.shape
    sums = lines.sum(axis=1, dtype=np.uint32).astype(np.int64)
    again = np.delete(np.arange(height), rows)
    later = (height - n) * size * int(sums.sum()) - size * int((sums * (rows - np.arange(n))).sum())
    high = (zlib.adler32(lines.data) >> 16) + (height - n) * size + later + 2 * size * int((height - again).sum())
    return high % MODULUS << 16 | (1 + int(sums.sum()) + 2 * len(again)) % MODULUS
