"""Which level of a variable-rate codec spends a given number of bits: a bisection with real files; and progressive files cut
to them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from models.codecs import bitstream
from models.codecs.base import LEVEL_STEPS, Analysed, Codec, Encoded
from models.errors import FoveaError


class Found(NamedTuple):
    """A level that a file can name and what it spends. bpp: mean over the pictures, whole files; low, high: what the
    codec's lowest and highest level spend there."""

    rate: float
    level: float
    bpp: float
    low: float
    high: float


def search_rate(codec: Codec, analysed: Sequence[Analysed], target_bpp: float) -> Found:
    """The level whose files of these pictures come nearest to `target_bpp`; about log2(levels) encodings of each.

    analysed: by the codec, which is ready to encode. Rates rise with the level, in steps of 1/LEVEL_STEPS: with
    neighbouring lambdas a factor 2 apart about 4 % in bits. Raises FoveaError when the codec has a single rate, and with
    the reachable range when the target lies outside of it.
    """
    if not codec.top_level:
        raise FoveaError("a target rate needs a variable-rate codec: this one has a single lmbda")
    if not analysed:
        raise FoveaError("a target rate needs at least one picture to try it on")
    known: dict[int, float] = {}

    def bpp(row: int) -> float:
        if row not in known:
            rates = []
            for one in analysed:
                data = codec.encode_analysed(one, codec.rate_at(row / LEVEL_STEPS)).data
                rates.append(8 * len(data) / (one.height * one.width))
            known[row] = float(np.mean(rates))
        return known[row]

    low, high = 0, codec.top_level * LEVEL_STEPS
    lowest, highest = bpp(low), bpp(high)
    if not lowest <= target_bpp <= highest:
        raise FoveaError(
            f"{target_bpp:g} bpp is out of reach: this codec spends {lowest:.4f} … {highest:.4f} bpp here "
            f"(rates {codec.rates[0]:g} … {codec.rates[-1]:g})"
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if bpp(middle) <= target_bpp else (low, middle)
    row = min(low, high, key=lambda r: abs(bpp(r) - target_bpp))
    return Found(codec.rate_at(row / LEVEL_STEPS), row / LEVEL_STEPS, bpp(row), lowest, highest)


def encode_progressive(codec: Codec, given: Analysed, rate: float | None, bpp: float | None = None) -> Encoded:
    """A progressive file: whole, at a rate as `Codec.encode` takes it, or of at most `bpp`: that of the lowest level which
    spends as much, without what is too much. Raises FoveaError for a codec without such files, and for a bpp out of reach."""
    if not codec.cuttable:
        raise FoveaError(f"a codec {codec.config.codec} has no progressive files")
    if bpp is None:
        return codec.encode_analysed(given, rate, progressive=True)
    pixels = given.height * given.width
    size = int(bpp * pixels / 8)
    low, high = -1, codec.top_level * LEVEL_STEPS
    while high - low > 1:
        middle = (low + high) // 2
        enough = len(codec.encode_analysed(given, codec.rate_at(middle / LEVEL_STEPS)).data) >= size
        low, high = (low, middle) if enough else (middle, high)
    encoded = codec.encode_analysed(given, codec.rate_at(high / LEVEL_STEPS), progressive=True)
    whole = len(encoded.data)
    if whole < size and high == codec.top_level * LEVEL_STEPS:
        raise FoveaError(f"{bpp:g} bpp is out of reach: this codec spends at most {8 * whole / pixels:.4f} bpp here")
    if whole <= size:
        return encoded
    data = bitstream.cut(encoded.data, size)
    return Encoded(data, 8.0 * len(data), codec.entropy_decode(data), codec)
