"""A baseline JPEG file (ITU-T T.81) from quantised DCT coefficients, each component in a scan of its own.

Bindings of libjpeg-turbo begin at pixels (jpeglib alone takes coefficients, through files, with 78 MB of libjpegs). The
Huffman tables are those of Annex K, which know every symbol; mozjpeg's lossless optimisation replaces them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

#: of a picture, in pixels: libjpeg opens no larger ones
MAX_SIDE = 65500

_rows, _columns = np.divmod(np.arange(64), 8)
_diagonals = _rows + _columns
#: The row-major index of each coefficient in zigzag order: diagonals in turn, the odd ones downwards.
ZIGZAG = np.lexsort((np.where(_diagonals % 2, _rows, _columns), _diagonals))

#: Annex K.3: how many codes there are of each length 1 … 16, and their symbols.
_DC_COUNTS = "00010501010101010100000000000000", "00030101010101010101010000000000"
_DC_SYMBOLS = "000102030405060708090a0b"
_AC_COUNTS = "0002010303020403050504040000017d", "00020102040403040705040400010277"
_AC_SYMBOLS = (
    "01020300041105122131410613516107227114328191a1082342b1c11552d1f02433627282090a161718191a25262728292a3435363738393a"
    "434445464748494a535455565758595a636465666768696a737475767778797a838485868788898a92939495969798999aa2a3a4a5a6a7a8a9"
    "aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae1e2e3e4e5e6e7e8e9eaf1f2f3f4f5f6f7f8f9fa",
    "000102031104052131061241510761711322328108144291a1b1c109233352f0156272d10a162434e125f11718191a262728292a35363738393a"
    "434445464748494a535455565758595a636465666768696a737475767778797a82838485868788898a92939495969798999aa2a3a4a5a6a7a8"
    "a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae2e3e4e5e6e7e8e9eaf2f3f4f5f6f7f8f9fa",
)
_END, _SIXTEEN_ZEROS = 0x00, 0xF0


class Component(NamedTuple):
    """One colour plane. blocks: int32 rows × columns × 64, in zigzag order, DC first; steps: the 64 quantiser steps in the
    same order, 1 … 255; sampling: 1, or 2 for a plane with twice the samples of the others in each direction."""

    blocks: NDArray[np.int32]
    steps: NDArray[np.int32]
    sampling: int


class _Codes(NamedTuple):
    """By symbol: the code and its length in bits, 0 for none."""

    code: NDArray[np.uint64]
    length: Integers


def _codes(counts: str, symbols: str) -> _Codes:
    found = _Codes(np.zeros(256, np.uint64), np.zeros(256, np.int64))
    code, order = 0, iter(bytes.fromhex(symbols))
    for length, count in enumerate(bytes.fromhex(counts), 1):
        for _ in range(count):
            symbol = next(order)
            found.code[symbol], found.length[symbol] = code, length
            code += 1
        code <<= 1
    return found


def sizes(values: NDArray[np.int32]) -> Integers:
    """Bits of a value's magnitude, T.81's category: 0 for 0, 1 for ±1, 2 for ±2 and ±3, …"""
    return np.frexp(np.abs(values))[1].astype(np.int64)


class Runs(NamedTuple):
    """The nonzero AC coefficients of planes of blocks in coding order: block, position 1 … 63 in it, and zeros before it."""

    block: Integers
    position: Integers
    zeros: Integers


def runs_of(blocks: NDArray[np.int32]) -> Runs:
    """blocks: n × 64."""
    block, position = np.nonzero(blocks[:, 1:])
    position = position + 1
    before = np.zeros_like(position)
    before[1:] = np.where(block[1:] == block[:-1], position[:-1], 0)
    return Runs(block, position, position - before - 1)


def _scan(blocks: NDArray[np.int32], dc: _Codes, ac: _Codes) -> bytes:
    """The entropy-coded bits of n × 64 coefficients. A position's entry is at most 3·11 + 16 + 10 bits."""
    count = len(blocks)
    bits, lengths = np.zeros((count, 65), np.uint64), np.zeros((count, 65), np.int64)

    def put(block: Integers, position: Integers, codes: _Codes, symbol: Integers, values: NDArray[np.int32]) -> None:
        size = sizes(values)
        extra = np.where(values < 0, values + (1 << size) - 1, values).astype(np.uint64)
        bits[block, position] = (codes.code[symbol] << size.astype(np.uint64)) | extra
        lengths[block, position] = codes.length[symbol] + size

    differences = np.diff(blocks[:, 0], prepend=np.int32(0))
    put(np.arange(count), np.zeros(count, np.int64), dc, sizes(differences), differences)
    block, position, zeros = runs_of(blocks)
    values = blocks[block, position]
    put(block, position, ac, (zeros % 16 << 4) + sizes(values), values)
    sixteens = zeros // 16
    skip, skip_length = ac.code[_SIXTEEN_ZEROS], ac.length[_SIXTEEN_ZEROS]
    for k in range(1, 4):
        some = sixteens >= k
        at = (block[some], position[some])
        bits[at] |= skip << lengths[at].astype(np.uint64)
        lengths[at] += skip_length
    ends = blocks[:, 63] == 0
    bits[ends, 64], lengths[ends, 64] = ac.code[_END], ac.length[_END]
    flat, entries = lengths.ravel(), np.flatnonzero(lengths)
    length = flat[entries]
    starts = np.cumsum(length) - length
    total = int(length.sum())
    shift = np.repeat(starts + length - 1, length) - np.arange(total)
    stream = (np.repeat(bits.ravel()[entries], length) >> shift.astype(np.uint64)) & np.uint64(1)
    # padded with ones; a byte of ones is followed by a zero byte
    padded = np.concatenate([stream.astype(np.uint8), np.ones(-total % 8, np.uint8)])
    return np.packbits(padded).tobytes().replace(b"\xff", b"\xff\x00")


def _segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body


def jpeg_file(width: int, height: int, components: Sequence[Component]) -> bytes:
    """A JFIF file of Y, Cb and Cr; Cb and Cr share the second component's steps. Sides up to `MAX_SIDE`."""
    parts = [b"\xff\xd8", _segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")]
    for table, component in enumerate(components[:2]):
        parts.append(_segment(0xDB, bytes([table]) + component.steps.astype(np.uint8).tobytes()))
    frame = b"\x08" + height.to_bytes(2, "big") + width.to_bytes(2, "big") + bytes([len(components)])
    for i, component in enumerate(components):
        frame += bytes([i + 1, component.sampling << 4 | component.sampling, min(i, 1)])
    parts.append(_segment(0xC0, frame))
    tables: list[tuple[_Codes, _Codes]] = []
    for i in range(2):
        for kind, counts, symbols in ((0, _DC_COUNTS[i], _DC_SYMBOLS), (1, _AC_COUNTS[i], _AC_SYMBOLS[i])):
            parts.append(_segment(0xC4, bytes([kind << 4 | i]) + bytes.fromhex(counts + symbols)))
        tables.append((_codes(_DC_COUNTS[i], _DC_SYMBOLS), _codes(_AC_COUNTS[i], _AC_SYMBOLS[i])))
    for i, component in enumerate(components):
        table = min(i, 1)
        parts.append(_segment(0xDA, bytes([1, i + 1, table << 4 | table, 0, 63, 0])))
        parts.append(_scan(component.blocks.reshape(-1, 64), *tables[table]))
    return b"".join((*parts, b"\xff\xd9"))
