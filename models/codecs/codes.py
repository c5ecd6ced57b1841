"""Quantiser codes and the region map as bytes, for codecs whose latents take one of L centres.

Two ways, told apart by length. *Packed*: the codes as the digits of one number to the base L, ⌈N·log2 L⌉ bits: the
bound that Agustsson et al. 2019 state as bpp = C·log2(L)/256 (section 3.2), reached by any codes. *Adaptive*: range
coding with probabilities that learn as they go, for each channel in the context of the codes west and north; taken
where it is shorter. So no payload of up to MAX_PACKED codes (a picture of 2048×2048 at C = 4) is longer than the bound,
rounded up to a byte. Integers throughout: the same bytes on every machine.
"""

import math

import numpy as np
from numpy.typing import NDArray

from models.codecs.bitstream import BitstreamError
from models.codecs.range_coder import RangeDecoder, RangeEncoder

MAX_PACKED = 1 << 16
"""Codes that are packed at most: the time for a number of N digits grows as N². More are always coded adaptively."""

Codes = NDArray[np.int32]
Region = NDArray[np.bool_]
_Coder = RangeEncoder | RangeDecoder


def bound_bits(count: int, levels: int) -> float:
    """count·log2 L: what that many codes take at most, before rounding up to a byte."""
    return count * math.log2(levels)


def packed_bytes(count: int, levels: int) -> int:
    """Length of `count` packed codes."""
    return ((levels**count - 1).bit_length() + 7) // 8


def encode_codes(codes: Codes, levels: int, region: Region | None = None, least: int = 0) -> tuple[bytes, float]:
    """The codes of the places of `region` (default: all), and the bits that they take by the model.

    codes: C×h×w in −(L−1)/2 … (L−1)/2, L odd. region: h×w. What lies outside of it is not written. least: zeros are
    added up to this many bytes.
    """
    place = np.ones(codes.shape[1:], dtype=bool) if region is None else region
    count = int(codes.shape[0] * place.sum())
    encoder = RangeEncoder()
    _walk(encoder, (codes * place).tolist(), place.tolist(), levels)
    adaptive = encoder.finish().ljust(least, b"\0")
    if count > MAX_PACKED or len(adaptive) < packed_bytes(count, levels):
        return adaptive, encoder.bits
    whole = packed_bytes(count, levels)
    number = 0
    for digit in (codes[:, place].ravel() + levels // 2).tolist():
        number = number * levels + digit
    return number.to_bytes(whole, "big").ljust(least, b"\0"), bound_bits(count, levels)


def decode_codes(data: bytes, channels: int, levels: int, region: Region) -> Codes:
    """C×h×w, 0 outside of the region. Raises BitstreamError where no encoder can have
    written it."""
    codes = np.zeros((channels, *region.shape), dtype=np.int32)
    count = int(channels * region.sum())
    if count <= MAX_PACKED and len(data) >= packed_bytes(count, levels):
        whole = packed_bytes(count, levels)
        number = int.from_bytes(data[:whole], "big")
        if number >= levels**count or data[whole:].strip(b"\0"):
            raise BitstreamError("damaged file: the codes are out of range")
        digits = np.zeros(count, dtype=np.int32)
        for i in range(count - 1, -1, -1):
            number, digits[i] = divmod(number, levels)
        codes[:, region] = digits.reshape(channels, -1) - levels // 2
        return codes
    cells = codes.tolist()
    _walk(RangeDecoder(data), cells, region.tolist(), levels)
    return np.array(cells, dtype=np.int32).reshape(codes.shape)


def _walk(coder: _Coder, cells: list[list[list[int]]], region: list[list[bool]], levels: int) -> None:
    """Channel by channel in raster order; an encoder reads the cells, a decoder fills them in.

    A code is a walk from the centre: zero or not, which side, and how far, each step with a state for the channel and
    for the mean of the two codes before it.
    """
    half = levels // 2
    reading = not isinstance(coder, RangeDecoder)
    for channel in cells:
        states = [[[1 << 15, 0] for _ in range(half + 2)] for _ in range(4 * half + 1)]
        above = [0] * len(region[0])
        for row, inside in zip(channel, region, strict=True):
            west = 0
            for j, wanted in enumerate(inside):
                if not wanted:
                    west = 0
                    continue
                state = states[west + above[j] + 2 * half]
                value = row[j] if reading else 0
                if coder.bit(state[0], int(value != 0)):
                    negative = coder.bit(state[1], int(value < 0))
                    size, most = 1, abs(value)
                    while size < half and coder.bit(state[1 + size], int(size < most)):
                        size += 1
                    west = -size if negative else size
                else:
                    west = 0
                row[j] = west
            above = row


def encode_region(region: Region) -> tuple[bytes, float]:
    """Which places of an h×w grid are kept, and the bits that this takes by the model. All of them: the empty string."""
    if region.all():
        return b"", 0.0
    encoder = RangeEncoder()
    _walk_region(encoder, region.astype(int).tolist())
    # the empty string means all, so what ends in nothing but zeros keeps one byte
    return encoder.finish() or b"\0", encoder.bits


def decode_region(data: bytes, height: int, width: int) -> Region:
    """h×w."""
    if not data:
        return np.ones((height, width), dtype=bool)
    cells = [[0] * width for _ in range(height)]
    _walk_region(RangeDecoder(data), cells)
    return np.array(cells, dtype=bool).reshape(height, width)


def _walk_region(coder: _Coder, cells: list[list[int]]) -> None:
    states = [[1 << 15, 0] for _ in range(8)]
    above = [0] * len(cells[0])
    for row in cells:
        west = 0
        for j, value in enumerate(row):
            east = above[j + 1] if j + 1 < len(row) else above[j]
            west = row[j] = coder.bit(states[4 * west + 2 * above[j] + east], value)
        above = row
