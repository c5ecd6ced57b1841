"""Which level of a variable-rate codec spends a given number of bits: found with real files; and progressive files cut
to them."""

import functools
import math
from collections.abc import Callable

from models.codecs import bitstream
from models.codecs.base import LEVEL_STEPS, Analysed, Codec, Encoded
from models.errors import FoveaError
from models.threads import check_stopped

GROWTH = 0.035
"""Of a file's size from one row of levels to the next, as a logarithm: a first guess."""


def search_rate(codec: Codec, given: Analysed, target_bpp: float) -> float:
    """The rate, of those that a file can name, whose file comes nearest to `target_bpp`; about five encodings.

    given: by the codec, which is ready to encode. Bits are taken to rise with the level, in steps of 1/LEVEL_STEPS: with
    neighbouring lambdas a factor 2 apart about 4 % in bits. Raises FoveaError when the codec has a single rate, and with
    the reachable range when the target lies outside of it.
    """
    if not codec.top_level:
        raise FoveaError("a target rate needs a variable-rate codec: this one has a single lmbda")

    bpp = functools.cache(lambda row: 8 * _size(codec, given, row) / (given.height * given.width))
    top = codec.top_level * LEVEL_STEPS
    high = _lowest(-1, top + 1, bpp, target_bpp, above=True)
    near = min((row for row in (high - 1, high) if 0 <= row <= top), key=lambda row: abs(bpp(row) - target_bpp))
    if not 0 < high <= top and bpp(near) != target_bpp:
        raise FoveaError(
            f"{target_bpp:g} bpp is out of reach: this codec spends {bpp(0):.4f} … {bpp(top):.4f} bpp here "
            f"(rates {codec.rates[0]:g} … {codec.rates[-1]:g})"
        )
    return _rate(codec, near)


def _rate(codec: Codec, row: int) -> float:
    return codec.rate_at(row / LEVEL_STEPS)


def _size(codec: Codec, given: Analysed, row: int) -> int:
    return len(codec.encode_analysed(given, _rate(codec, row)).data)


def _lowest(low: int, high: int, size: Callable[[int], float], wanted: float, above: bool = False) -> int:
    """The lowest row above `low` whose size is at least `wanted`, or above it; `high` when none below that has it.
    Sizes grow by nearly the same factor from row to row, so this interpolates their logarithms; every fourth step is a
    bisection, so that it always ends soon."""
    logs: dict[int, float] = {}
    while high - low > 1:
        check_stopped()
        row = (low + high) // 2
        if logs and len(logs) % 4:
            known = min(logs, key=lambda r: abs(logs[r]))
            slope = (logs[high] - logs[low]) / (high - low) if low in logs and high in logs else GROWTH
            row = min(max(round(known - logs[known] / slope), low + 1), high - 1) if slope > 0 else row
        found = size(row)
        logs[row] = math.log(found / max(wanted, 1e-9))
        low, high = (low, row) if found > wanted or (found == wanted and not above) else (row, high)
    return high


def encode_progressive(codec: Codec, given: Analysed, rate: float | None, bpp: float | None = None) -> Encoded:
    """A progressive file: whole, at a rate as `Codec.encode` takes it, or of at most `bpp`: that of the lowest level which
    spends as much, without what is too much. Raises FoveaError for a codec without such files, and for a bpp out of reach."""
    if not codec.cuttable:
        raise FoveaError(f"a codec {codec.config.codec} has no progressive files")
    if bpp is None:
        return codec.encode_analysed(given, rate, progressive=True)
    pixels = given.height * given.width
    size = int(bpp * pixels / 8)
    top = codec.top_level * LEVEL_STEPS
    row = _lowest(-1, top, lambda row: _size(codec, given, row), size)
    encoded = codec.encode_analysed(given, _rate(codec, row), progressive=True)
    whole = len(encoded.data)
    if whole < size and row == top:
        raise FoveaError(f"{bpp:g} bpp is out of reach: this codec spends at most {8 * whole / pixels:.4f} bpp here")
    if whole <= size:
        return encoded
    data = bitstream.cut(encoded.data, size)
    return Encoded(data, 8.0 * len(data), codec.entropy_decode(data), codec)
