"""Nested quantisation: symbols told piece by piece, each piece where it helps most.

The symbols of a coding table are the leaves of a tree. Its root is cut into what lies within ± a third of the reach, below
it and above it; intervals around zero go on like that with their half, all others are halved, down to single symbols. So
the interval around zero is wider than the others, as in a quantiser with a dead zone. A node has

    value = log2(D / R),   D = variance of the symbols below it − what is left of that when its child is known,
                           R = entropy of its children in bits.

The gains (gain.py) say for each channel how large a bin is at a level, hence the level at which a node of this value would
just be coded (`Order`): all symbols' nodes are walked by rising level. What is known so far says which node each symbol
is at. (Lee et al. 2022, "DPICT: Deep progressive image compression using trit-planes", order thirds by D / R plane by
plane.)

Everything that decides what is coded, when and how likely it is is integer arithmetic on integer tables, the same on every
machine; `centre` alone is a float, and only shows pixels. All of it is part of the format of progressive files
(bitstream.py), the constants included.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.codecs.base import LEVEL_STEPS
from models.codecs.bitstream import BitstreamError, read_varints, write_varints
from models.codecs.compressai_import import BufferedRansEncoder, RansDecoder
from models.codecs.entropy import PRECISION, Tables

SLOTS = 4
"""Children of a node, absent ones with frequency 0: below, around and above, or nearer and farther; of roots the escape."""

LEAF = -(1 << 14)
"""Value of a node without children."""

WORTHLESS = -128
"""Value of a node that tells nothing by the integers of its table."""

THRESHOLD = -3 * LEVEL_STEPS
"""Value of what is just coded at a level, its bins the unit: found by trial, between 2^-2 and 2^-4 all is alike."""

REACH = 64
"""Rows beyond either end of the range of levels that the order has places for."""

_FINE = 16  # bits behind the point of logarithms

Ints = NDArray[np.int64]


class Forest(NamedTuple):
    """The trees of all tables: arrays of one value a node; the first nodes are the roots, in the order of the tables.

    first: number of the first child, the others follow it. bounds: N×4, child k has the symbols bounds[k] … bounds[k + 1] − 1.
    value: in 1/LEVEL_STEPS octaves. centre: mean of the symbols below. cumulative: N×6, frequencies as the range coder takes
    them (entropy.py). bits: N×4, what a child costs.
    """

    first: NDArray[np.int32]
    bounds: NDArray[np.int32]
    value: NDArray[np.int32]
    centre: NDArray[np.float32]
    cumulative: NDArray[np.int32]
    bits: NDArray[np.float32]


def log2_fixed(values: Ints) -> Ints:
    """Logarithms of integers from 1 to 2^62, in multiples of 2^-16 and rounded down, by squaring."""
    exponent = np.frexp(values.astype(np.float64))[1].astype(np.int64) - 1
    exponent -= values >> exponent == 0  # a float64 may round up to the next power of two
    mantissa = (values << np.maximum(30 - exponent, 0)) >> np.maximum(exponent - 30, 0)
    result = exponent << _FINE
    for bit in reversed(range(_FINE)):
        mantissa = mantissa * mantissa >> 30
        high = mantissa >> 31
        result |= high << bit
        mantissa >>= high
    return result


def plant(tables: Tables, first: int) -> Forest:
    """The trees of the tables from number `first` on, all at once, one depth after the other. Each table has symbols on both
    sides of 0, as Gaussian ones do."""
    lengths, low = tables.lengths[first:].astype(np.int64), tables.offsets[first:].astype(np.int64)
    starts = tables.starts[first:] - tables.starts[first]
    frequencies = tables.frequencies[tables.starts[first] :].astype(np.int64)
    escapes = frequencies[starts + lengths - 1]
    symbols = np.arange(len(frequencies)) - np.repeat(starts - low, lengths)
    frequencies[starts + lengths - 1] = 0
    mass, moment = (np.concatenate(([0], np.cumsum(v))) for v in (frequencies, frequencies * symbols))
    zero = starts - low  # where symbol 0 of a table is
    table, high = np.arange(len(lengths)), low + lengths - 1
    total = 0
    grown: list[Forest] = []
    while len(low):
        bounds = _cut(low, high, root=not grown)
        at = zero[table][:, None] + bounds
        f, s = np.diff(mass[at], axis=1), np.diff(moment[at], axis=1)
        there = (np.diff(bounds, axis=1) > 0) & (high - low > 1)[:, None]
        shares = np.where(there, np.maximum((f << PRECISION) // np.maximum(f.sum(axis=1), 1)[:, None], 1), 0)
        escape = np.zeros_like(escapes[table]) if grown else escapes
        rest = (1 << PRECISION) - escape - shares.sum(axis=1)
        shares[np.arange(len(low)), shares.argmax(axis=1)] += rest
        ends = np.cumsum(shares, axis=1)
        whole = np.full((len(low), 1), 1 << PRECISION)
        cumulative = np.concatenate((0 * whole, ends, whole, whole + 1), axis=1)
        numbers = np.cumsum(there).reshape(there.shape)
        of_all = np.maximum(f.sum(axis=1), 1)
        grown.append(
            Forest(
                first=(total + len(low) + numbers[:, 0] - there[:, 0]).astype(np.int32),
                bounds=bounds.astype(np.int32),
                value=np.where(there.any(axis=1), _value(f, s), LEAF).astype(np.int32),
                centre=np.where(f.any(axis=1), s.sum(axis=1) / of_all, (low + high - 1) / 2).astype(np.float32),
                cumulative=cumulative.astype(np.int32),
                bits=(PRECISION - np.log2(np.maximum(np.diff(cumulative[:, :-1]), 1))).astype(np.float32),
            )
        )
        total += len(low)
        parents, children = np.nonzero(there)
        low, high, table = bounds[parents, children], bounds[parents, children + 1], table[parents]
    return Forest(*(np.concatenate(parts) for parts in zip(*grown, strict=True)))


def _cut(low: Ints, high: Ints, root: bool) -> Ints:
    """N×4: where the intervals low … high − 1 are cut into two (the middle bounds are the same) or three."""
    around, reach = (low < 0) & (high > 1), np.maximum(-low, high - 1)
    inner = np.minimum(reach // (3 if root else 2), reach - 1)
    # farther from zero than it is long, an interval is halved, else cut where it is twice as far as it begins
    part = np.maximum(np.minimum((high - low) // 2, np.where(low > 0, low, 1 - high)), 1)
    one = np.where(low > 0, low + part, high - part)
    return np.stack(
        (low, np.where(around, np.maximum(-inner, low), one), np.where(around, np.minimum(inner + 1, high), one), high),
        axis=1,
    )


def _value(f: Ints, s: Ints) -> Ints:
    """From children's masses and first moments, N×3. Mass times D is Σ s²/f − (Σ s)²/Σ f over the children."""

    def squares(s: Ints, f: Ints) -> Ints:
        return (s * s << 6) // np.maximum(f, 1)

    def entropies(f: Ints) -> Ints:
        return f * log2_fixed(np.maximum(f, 1))

    whole = f.sum(axis=1)
    d = squares(s, f).sum(axis=1) - squares(s.sum(axis=1), whole)
    r = entropies(whole) - entropies(f).sum(axis=1)
    logs = log2_fixed(np.maximum(d, 1)) - log2_fixed(np.maximum(r, 1)) + ((_FINE - 6) << _FINE)
    return np.where((d > 0) & (r > 0), np.maximum(logs * LEVEL_STEPS >> _FINE, WORTHLESS), WORTHLESS)


class Order:
    """At which level a node of a value is just coded, by channel; levels and values in 1/LEVEL_STEPS."""

    def __init__(self, gains: Ints):
        """gains: positive integers, levels × channels, in any unit."""
        logs = np.maximum.accumulate(2 * LEVEL_STEPS * log2_fixed(gains.T.astype(np.int64)) >> _FINE, axis=1)
        beyond = np.arange(1, REACH + 1)
        self.logs = logs
        all_logs = np.concatenate((logs[:, :1] - beyond[::-1], logs, logs[:, -1:] + beyond), axis=1)
        self.least, most = int(all_logs.min()), int(all_logs.max())
        wanted = np.arange(self.least, most + 2)
        self.rows = np.stack([np.searchsorted(one, wanted) for one in all_logs]).astype(np.int16) - REACH

    def levels(self, value: NDArray[np.int32], channel: NDArray[np.int32], scale: Ints) -> NDArray[np.int16]:
        """scale: the logarithm in `logs` of the gain that the symbol was quantised with."""
        wanted = np.clip(THRESHOLD - value + scale - self.least, 0, self.rows.shape[1] - 1)
        return self.rows[channel, wanted]


class Walk:
    """One picture's symbols, channel by channel, and which node each of them is at: the encoder and the decoder do the same
    with it."""

    def __init__(
        self, forest: Forest, order: Order, tables: Ints, levels: Ints, ahead: Ints, shape: tuple[int, int, int]
    ):
        """tables: one a symbol, counted from the forest's first. shape: M×h×w. levels, ahead: 1×1 or h×w, the level that each
        place is quantised at, and how many levels it is ahead of the base level in the order; in 1/LEVEL_STEPS."""
        self.forest, self.order = forest, order
        self.node = tables.astype(np.int32)
        self.channel = np.repeat(np.arange(shape[0], dtype=np.int32), shape[1] * shape[2])
        scale = order.logs[np.arange(shape[0])[:, None, None], np.broadcast_to(levels, shape[1:])]
        self.scale = scale.ravel()
        self.ahead = np.broadcast_to(ahead, shape).ravel().astype(np.int16)
        self.wanted = self._wanted(np.arange(len(self.node)))
        self.escaped: dict[int, int] = {}
        self._used = np.zeros(len(forest.first), dtype=bool)
        self._place = np.zeros(len(forest.first), dtype=np.int32)

    def _wanted(self, at: Ints) -> NDArray[np.int16]:
        value = self.forest.value[self.node[at]]
        levels = self.order.levels(value, self.channel[at], self.scale[at]) - self.ahead[at]
        return np.where(value == LEAF, -LEAF, levels).astype(np.int16)

    def go(self, step: Callable[[Ints], Ints], last: int = -LEAF - 1) -> None:
        """Until all symbols are known or a step says of fewer symbols than it was given. step: from numbers of symbols to the
        slots that their nodes' children are in. last: the level that the walk ends after, in 1/LEVEL_STEPS."""
        level = LEAF
        while (level := max(level + 1, int(self.wanted.min(initial=-LEAF)))) <= last:
            at = np.flatnonzero(self.wanted <= level)
            slots = step(at)
            whole, at = len(slots) == len(at), at[: len(slots)]
            nodes = self.node[at]
            # a slot without symbols is no child
            absent = (slots == 2) & (self.forest.bounds[nodes, 1] == self.forest.bounds[nodes, 2])
            out = slots == SLOTS - 1
            self.node[at] = np.where(out, 0, self.forest.first[nodes] + slots - absent)
            self.wanted[at] = np.where(out, -LEAF, self._wanted(at))
            self.escaped |= dict.fromkeys(at[out].tolist(), 0)
            if not whole:
                return

    def coder_tables(self, at: Ints) -> tuple[list[int], list[list[int]], list[int], list[int]]:
        """What CompressAI's coder takes for these symbols beside them: indexes, frequencies, their numbers, offsets."""
        nodes = self.node[at]
        self._used[nodes] = True
        used = np.flatnonzero(self._used)
        self._used[used] = False
        self._place[used] = np.arange(len(used), dtype=np.int32)
        rows = self.forest.cumulative[used].tolist()
        return self._place[nodes].tolist(), rows, [SLOTS + 2] * len(rows), [0] * len(rows)

    def shown(self) -> NDArray[np.float32]:
        """For each symbol the mean of what it may be."""
        values = self.forest.centre[self.node]
        for at, value in self.escaped.items():
            values[at] = value
        return values


def slots_of(walk: Walk, at: Ints, symbols: NDArray[np.int32]) -> Ints:
    """The slots of the children that hold these of all symbols."""
    bounds, value = walk.forest.bounds[walk.node[at]], symbols[at]
    slots = (value >= bounds[:, 1]).astype(np.int64) + (value >= bounds[:, 2])
    slots[(value < bounds[:, 0]) | (value >= bounds[:, 3])] = SLOTS - 1
    return slots


def shown_after(walk: Walk, symbols: NDArray[np.int32], last: int) -> NDArray[np.float32]:
    """What a file shows that ends after a level of its order."""
    walk.go(lambda at: slots_of(walk, at, symbols), last)
    walk.escaped = {at: int(symbols[at]) for at in walk.escaped}
    return walk.shown()


def encode(walk: Walk, symbols: NDArray[np.int32]) -> tuple[bytes, bytes]:
    """The symbols that are in no table, and all pieces in their order."""
    coder, count = BufferedRansEncoder(), 0

    def step(at: Ints) -> Ints:
        nonlocal count
        slots = slots_of(walk, at, symbols)
        coder.encode_with_indexes(slots.tolist(), *walk.coder_tables(at))
        count += len(at)
        return slots

    walk.go(step)
    if count < SLOTS:  # see Tables.encode
        half = [[0, 1 << (PRECISION - 1), 1 << PRECISION, (1 << PRECISION) + 1]]
        coder.encode_with_indexes([0] * SLOTS, [0] * SLOTS, half, [len(half[0])], [0])
    walk.escaped = {at: int(symbols[at]) for at in walk.escaped}
    escapes = write_varints(2 * v if v >= 0 else -2 * v - 1 for v in walk.escaped.values())
    return escapes, coder.flush()


def decode(walk: Walk, escapes: bytes, coded: bytes, whole: bool) -> None:
    """Walk as far as the bytes lead: `coded` is the beginning of what `encode` gave. Raises BitstreamError where it cannot be.

    The coder's state stands at the beginning and takes its words in order, so what it gives before the first missing word is
    right. Words that were cut off could be anything, so all is decoded twice, with zeros and with ones behind the end: a piece
    is certain as long as both agree.
    """
    values = read_varints(escapes, sum(byte < 128 for byte in escapes))
    coded = coded[: len(coded) & ~3]
    coders = [_decoder(coded, fill, 2 * len(walk.node)) for fill in (b"\0", b"\xff")[: 1 if whole else 2]]
    used = 0.0

    def step(at: Ints) -> Ints:
        nonlocal used
        if len(coded) < 8:
            return np.empty(0, dtype=np.int64)
        given = walk.coder_tables(at)
        read = [np.array(coder.decode_stream(*given), dtype=np.int64) for coder in coders]
        differ = np.flatnonzero(read[0] != read[-1])
        slots = read[0][: int(differ[0])] if len(differ) else read[0]
        used += float(walk.forest.bits[walk.node[at[: len(slots)]], slots].sum())
        if used > 8 * len(coded) + 64:  # a step reads at most 2 bytes a symbol beyond the end
            raise BitstreamError("damaged file: its bytes cannot hold the symbols of this model")
        return slots

    walk.go(step)
    if len(values) < len(walk.escaped) or (whole and len(values) > len(walk.escaped)) or max(values, default=0) >> 22:
        raise BitstreamError("damaged file: symbols that are in no table are missing, left over or out of range")
    numbers = (-(v + 1) // 2 if v & 1 else v // 2 for v in values)
    walk.escaped = dict(zip(walk.escaped, numbers, strict=False))


def _decoder(coded: bytes, fill: bytes, beyond: int) -> RansDecoder:
    decoder = RansDecoder()
    decoder.set_stream(coded + fill * (beyond + 64))
    return decoder
