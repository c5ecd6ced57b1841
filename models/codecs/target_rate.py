"""Which level of a variable-rate codec spends a given number of bits: a bisection with real files."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from models.codecs.base import LEVEL_STEPS, Codec, Picture
from models.errors import FoveaError


class Found(NamedTuple):
    """A level that a file can name and what it spends. bpp: mean over the pictures, whole files; low, high: what the
    codec's lowest and highest level spend there."""

    lmbda: float
    level: float
    bpp: float
    low: float
    high: float


def search_rate(
    codec: Codec, pictures: Sequence[Picture], maps: Sequence[Picture] | None, target_bpp: float
) -> Found:
    """The level whose files on these pictures come nearest to `target_bpp`; about log2(levels) encodings
    of each after one analysis.

    codec: ready to encode. maps: as `Codec.encode` takes them. Rates rise with the level, in steps of 1/LEVEL_STEPS: with
    neighbouring lambdas a factor 2 apart about 4 % in bits. Raises FoveaError when the codec has a single rate, and with
    the reachable range when the target lies outside of it.
    """
    if not codec.top_level:
        raise FoveaError("a target rate needs a variable-rate codec: this one has a single lmbda")
    if not pictures:
        raise FoveaError("a target rate needs at least one picture to try it on")
    given = [None] * len(pictures) if maps is None else maps
    analysed = [codec.analysed(p, m) for p, m in zip(pictures, given, strict=True)]
    known: dict[int, float] = {}

    def lmbda_of(row: int) -> float:
        ends = codec.config.lmbda
        value = float(codec.lmbda_at(torch.tensor(row / LEVEL_STEPS)))
        return min(max(value, ends[0]), ends[-1])

    def bpp(row: int) -> float:
        if row not in known:
            rates = []
            for one in analysed:
                data = codec.encode_analysed(one, lmbda_of(row)).data
                rates.append(8 * len(data) / (one.height * one.width))
            known[row] = float(np.mean(rates))
        return known[row]

    low, high = 0, codec.top_level * LEVEL_STEPS
    lowest, highest = bpp(low), bpp(high)
    if not lowest <= target_bpp <= highest:
        raise FoveaError(
            f"{target_bpp:g} bpp is out of reach: this codec spends {lowest:.4f} … {highest:.4f} bpp here "
            f"(lmbda {codec.config.lmbda[0]:g} … {codec.config.lmbda[-1]:g})"
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if bpp(middle) <= target_bpp else (low, middle)
    row = min(low, high, key=lambda r: abs(bpp(r) - target_bpp))
    return Found(lmbda_of(row), row / LEVEL_STEPS, bpp(row), lowest, highest)
