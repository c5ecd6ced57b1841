"""Which level of a variable-rate codec spends a given number of bits: a bisection with real files; and progressive files cut
to them."""

import functools
from collections.abc import Callable

from models.codecs import bitstream
from models.codecs.base import LEVEL_STEPS, Analysed, Codec, Encoded
from models.errors import FoveaError


def search_rate(codec: Codec, given: Analysed, target_bpp: float) -> float:
    """The rate, of those that a file can name, whose file comes nearest to `target_bpp`; about log2(levels) encodings.

    given: by the codec, which is ready to encode. Bits rise with the level, in steps of 1/LEVEL_STEPS: with
    neighbouring lambdas a factor 2 apart about 4 % in bits. Raises FoveaError when the codec has a single rate, and with
    the reachable range when the target lies outside of it.
    """
    if not codec.top_level:
        raise FoveaError("a target rate needs a variable-rate codec: this one has a single lmbda")

    @functools.cache
    def bpp(row: int) -> float:
        return 8 * len(codec.encode_analysed(given, _rate(codec, row)).data) / (given.height * given.width)

    top = codec.top_level * LEVEL_STEPS
    if not bpp(0) <= target_bpp <= bpp(top):
        raise FoveaError(
            f"{target_bpp:g} bpp is out of reach: this codec spends {bpp(0):.4f} … {bpp(top):.4f} bpp here "
            f"(rates {codec.rates[0]:g} … {codec.rates[-1]:g})"
        )
    high = _lowest(0, top, lambda row: bpp(row) > target_bpp)
    return _rate(codec, min(high - 1, high, key=lambda row: abs(bpp(row) - target_bpp)))


def _rate(codec: Codec, row: int) -> float:
    return codec.rate_at(row / LEVEL_STEPS)


def _lowest(low: int, high: int, enough: Callable[[int], bool]) -> int:
    """The lowest row above `low` that has enough, `high` when none below that has."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
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
    row = _lowest(-1, top, lambda row: len(codec.encode_analysed(given, _rate(codec, row)).data) >= size)
    encoded = codec.encode_analysed(given, _rate(codec, row), progressive=True)
    whole = len(encoded.data)
    if whole < size and row == top:
        raise FoveaError(f"{bpp:g} bpp is out of reach: this codec spends at most {8 * whole / pixels:.4f} bpp here")
    if whole <= size:
        return encoded
    data = bitstream.cut(encoded.data, size)
    return Encoded(data, 8.0 * len(data), codec.entropy_decode(data), codec)
