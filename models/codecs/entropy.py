"""The factorized prior under any gain, and coding tables with a range coder that no input can lead astray.

A channel's density is CompressAI's (Ballé et al. 2018, appendix 6.1): a learned cumulative F of the latent y at gain 1.
Quantising y·g to integers q cuts the y axis into bins of width 1/g, so

    P(q) = F(m + (q + ½)/g) − F(m + (q − ½)/g),      m the channel's median,

is exact at any gain: all levels share one density of y instead of one density of many differently scaled latents. The
decoder knows the level at each place, hence the table. Cui et al. 2021 leave this to a hyperprior, which sees the
scaled latents; a factorized prior has nobody to ask.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.codecs.bitstream import BitstreamError, read_varints, write_varints
from models.codecs.compressai_import import EntropyBottleneck, RansDecoder, RansEncoder, pmf_to_quantized_cdf
from models.errors import FoveaError

PRECISION = 16
"""Bits of the coder's frequencies, fixed by CompressAI's rANS."""

MAX_REACH = 2048
"""Farthest symbol from a channel's median that has a table entry; beyond it, and beyond the tails, symbols escape."""

Ints = NDArray[np.int32]


class Tables:
    """Integer coding tables: for each table the frequencies (sum 2^16) of consecutive symbols, then of the escape.

    CompressAI's coder takes a table's last symbol for "escaped" and reads a number of nibbles that the data may set
    without bound, past the end of its buffer. Here a last entry of impossible frequency is added to each table, so that
    this code is never entered: a symbol takes at most one 32-bit word, and padding by that much makes reading garbage
    safe. Escaped symbols go into a string of their own. While none is escaped, the bytes are those of CompressAI.
    """

    def __init__(self, frequencies: NDArray[np.uint16], lengths: Ints, offsets: Ints):
        """frequencies: all tables, one after the other. lengths: entries of each, escape included. offsets: the first
        entry's symbol. Raises FoveaError for anything that is not a set of coding tables."""
        ends = np.cumsum(lengths, dtype=np.int64)
        ok = lengths.shape == offsets.shape and lengths.size > 0 and bool((lengths >= 2).all())
        if not (ok and ends[-1] == frequencies.size and bool((frequencies > 0).all())):
            raise FoveaError("not a set of coding tables: lengths and frequencies do not fit together")
        self.starts = ends - lengths
        if bool((np.add.reduceat(frequencies.astype(np.int64), self.starts) != 1 << PRECISION).any()):
            raise FoveaError("not a set of coding tables: a table's frequencies do not add up")
        if int(np.abs(offsets.astype(np.int64)).max()) > 1 << 20:
            raise FoveaError("not a set of coding tables: an offset is out of range")
        self.frequencies, self.lengths, self.offsets = frequencies, lengths, offsets
        #: bits that a symbol of a table takes at least
        self.least_bits = PRECISION - np.log2(np.maximum.reduceat(frequencies, self.starts).astype(np.float64))
        self._cdfs: dict[int, list[int]] = {}

    def __len__(self) -> int:
        return len(self.lengths)

    @classmethod
    def from_cdfs(cls, cdfs: Sequence[NDArray[np.int64]], offsets: Sequence[int]) -> "Tables":
        """From cumulative frequencies, 0 … 2^16 each."""
        frequencies = [np.diff(c) for c in cdfs]
        return cls(
            np.concatenate(frequencies).astype(np.uint16),
            np.array([len(f) for f in frequencies], dtype=np.int32),
            np.array(offsets, dtype=np.int32),
        )

    def after(self, first: int) -> "Tables":
        """Those from a number on."""
        return Tables(self.frequencies[self.starts[first] :], self.lengths[first:], self.offsets[first:])

    @classmethod
    def joined(cls, *parts: "Tables") -> "Tables":
        """All of the parts, one after the other."""
        return cls(*(np.concatenate([getattr(p, v) for p in parts]) for v in ("frequencies", "lengths", "offsets")))

    def tensors(self) -> dict[str, Tensor]:
        """For safetensors; `from_tensors` reads it."""
        return {
            "tables.frequencies": torch.from_numpy(self.frequencies.copy()),
            "tables.lengths": torch.from_numpy(self.lengths.copy()),
            "tables.offsets": torch.from_numpy(self.offsets.copy()),
        }

    @classmethod
    def from_tensors(cls, weights: Mapping[str, Tensor]) -> "Tables | None":
        """The tables among these weights, or None. Raises FoveaError for damaged ones."""
        names = ("tables.frequencies", "tables.lengths", "tables.offsets")
        if not any(name in weights for name in names):
            return None
        try:
            frequencies, lengths, offsets = (weights[name].cpu().numpy() for name in names)
        except KeyError as error:
            raise FoveaError(f"incomplete coding tables: {error} is missing") from error
        if frequencies.dtype != np.uint16 or lengths.dtype != np.int32 or offsets.dtype != np.int32:
            raise FoveaError("coding tables of the wrong type")
        return cls(frequencies, lengths, offsets)

    def cdf(self, table: int) -> list[int]:
        """Cumulative frequencies of a table, with the entry of impossible frequency."""
        if table not in self._cdfs:
            start = self.starts[table]
            cdf = np.cumsum(self.frequencies[start : start + self.lengths[table]], dtype=np.int64)
            self._cdfs[table] = [0, *cdf.tolist(), (1 << PRECISION) + 1]
        return self._cdfs[table]

    def holds(self, symbols: Ints, indexes: Ints, tables: Ints) -> NDArray[np.bool_]:
        """Which symbols have an entry of their own; arguments as for `encode`."""
        entries = symbols - self.offsets[tables][indexes]
        return (entries >= 0) & (entries < self.lengths[tables][indexes] - 1)

    def encode(self, symbols: Ints, indexes: Ints, tables: Ints) -> tuple[bytes, bytes]:
        """The coded symbols and the escapes. Symbol i is coded with table tables[indexes[i]]. All flat."""
        last = self.lengths[tables][indexes] - 1
        entries = symbols - self.offsets[tables][indexes]
        outside = np.flatnonzero((entries < 0) | (entries >= last))
        escapes = b""
        if outside.size:
            value, end = entries[outside].astype(np.int64), last[outside].astype(np.int64)
            escapes = write_varints(np.where(value < 0, -2 * value - 1, 2 * (value - end)).tolist())
            entries = entries.copy()
            entries[outside] = last[outside]
        if len(entries) < 4:
            # CompressAI's encoder has room for one word a symbol, its state alone takes two: it would write before the
            # start of its buffer. The decoder does not ask for what is added here.
            entries = np.concatenate((entries, np.zeros(4, dtype=entries.dtype)))
            indexes = np.concatenate((indexes, np.zeros(4, dtype=indexes.dtype)))
        cdfs = [self.cdf(int(t)) for t in tables]
        coded = RansEncoder().encode_with_indexes(
            entries.tolist(), indexes.tolist(), cdfs, [len(c) for c in cdfs], [0] * len(cdfs)
        )
        return coded, escapes

    def decode(self, coded: bytes, escapes: bytes, indexes: Ints, tables: Ints) -> Ints:
        """The symbols. Raises BitstreamError where the strings cannot be what `encode` wrote."""
        reader = Reader(self, coded, escapes, len(indexes))
        symbols = reader.read(indexes, tables)
        reader.end()
        return symbols


class Reader:
    """What `Tables.encode` wrote, read in parts. count: symbols in all."""

    def __init__(self, tables: Tables, coded: bytes, escapes: bytes, count: int):
        """Raises BitstreamError for what `encode` cannot have written."""
        if len(coded) < 8 or len(coded) % 4:
            raise BitstreamError("damaged file: the coded symbols have an impossible length")
        self.tables, self.bytes, self.count, self.least = tables, len(coded), count, 0.0
        self.decoder = RansDecoder()
        self.decoder.set_stream(coded + bytes(4 * count + 16))
        self.escapes = read_varints(escapes, sum(byte < 128 for byte in escapes))

    def read(self, indexes: Ints, tables: Ints) -> Ints:
        """The next symbols; arguments as for `Tables.encode`. Raises BitstreamError where they cannot be what it wrote."""
        t = self.tables
        self.least += float((np.bincount(indexes, minlength=len(tables)) * t.least_bits[tables]).sum())
        if 0.98 * self.least > 8 * self.bytes:
            raise BitstreamError(f"damaged file: {self.bytes} bytes cannot hold {self.count} symbols of this model")
        cdfs = [t.cdf(int(table)) for table in tables]
        decoded = self.decoder.decode_stream(indexes.tolist(), cdfs, [len(c) for c in cdfs], [0] * len(cdfs))
        entries = np.fromiter(decoded, np.int32, len(indexes))
        last = t.lengths[tables][indexes] - 1
        outside = np.flatnonzero(entries >= last)
        if outside.size:
            raw, self.escapes = np.array(self.escapes[: outside.size], dtype=np.int64), self.escapes[outside.size :]
            if len(raw) < outside.size:
                raise BitstreamError("damaged file: it ends within a number")
            if int(raw.max()) > 1 << 21:
                raise BitstreamError("damaged file: a symbol is out of any range")
            entries[outside] = np.where(raw & 1, -(raw + 1) // 2, last[outside] + raw // 2)
        return entries + t.offsets[tables][indexes]

    def end(self) -> None:
        """Raises BitstreamError where escapes are left."""
        if self.escapes:
            raise BitstreamError("damaged file: a string has bytes left over")


def used(numbers: NDArray[np.integer[Any]]) -> tuple[Ints, Ints]:
    """For each symbol, numbered by its table, an index into the used tables; and these tables' numbers."""
    found = np.flatnonzero(np.bincount(numbers))
    place = np.zeros(int(found[-1]) + 1 if found.size else 0, dtype=np.int32)
    place[found] = np.arange(len(found), dtype=np.int32)
    return place[numbers], found.astype(np.int32)


Quantise = Callable[[Tensor], Tensor]
"""From values in units of a bin to what is coded of them, or to what stands for that while something is optimised."""


def noisy(values: Tensor) -> Tensor:
    """With uniform noise of a bin's width: what rounding is to the density of values, and differentiable."""
    return values + torch.empty_like(values).uniform_(-0.5, 0.5)


def ste(values: Tensor, symbols: Tensor) -> Tensor:
    """The symbols, with the gradient of the values that they were chosen for (straight-through estimator)."""
    return values + (symbols - values).detach()


class FactorizedPrior(EntropyBottleneck):
    """CompressAI's EntropyBottleneck whose bins may have any width. State-dict names are CompressAI's."""

    def forward(
        self,
        y: Tensor,
        gain: tuple[Tensor, Tensor] | None = None,
        training: bool | None = None,
        quantise: Quantise | None = None,
        rounded: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """y_hat and likelihoods, both N×M×h×w, in float32.

        gain: gain and inverse gain, broadcastable to y. None is gain 1: exactly CompressAI's computation. quantise: in
        place of noise (training) or rounding, where there is a gain. rounded: y_hat is rounded in training, too.
        """
        if training is None:
            training = self.training
        if gain is None:
            return super().forward(y, training)
        forward, inverse = gain
        median = self.medians()
        scaled = (y - median) * forward
        q = (quantise or (noisy if training else torch.round))(scaled)
        shown = ste(scaled, torch.round(scaled)) if rounded else q
        step = forward.reciprocal()
        return shown * inverse + median, self._bin_likelihood(median + q * step, step.expand_as(q))

    def medians(self) -> Tensor:
        """1×M×1×1, without gradient."""
        return self.quantiles[:, 0, 1].detach()[None, :, None, None]

    def _bin_likelihood(self, middle: Tensor, width: Tensor) -> Tensor:
        """F(middle + width/2) − F(middle − width/2), N×M×h×w."""
        n, m, h, w = middle.shape
        middle, half = (t.transpose(0, 1).reshape(m, 1, -1) for t in (middle, 0.5 * width))
        lower = self._logits_cumulative(middle - half, stop_gradient=False)
        upper = self._logits_cumulative(middle + half, stop_gradient=False)
        likelihood = self.likelihood_lower_bound(torch.sigmoid(upper) - torch.sigmoid(lower))
        return likelihood.reshape(m, n, h, w).transpose(0, 1)

    @torch.no_grad()
    def symbols(self, y: Tensor, gain: tuple[Tensor, Tensor] | None) -> Tensor:
        """int32 N×M×h×w, what is coded."""
        scaled = y - self.medians()
        return torch.round(scaled if gain is None else scaled * gain[0]).int()

    @torch.no_grad()
    def dequantized(self, symbols: Tensor, gain: tuple[Tensor, Tensor] | None) -> Tensor:
        """y_hat from symbols, float32 N×M×h×w."""
        values = symbols.float() if gain is None else symbols.float() * gain[1]
        return values + self.medians()

    @torch.no_grad()
    def solve_quantiles(self) -> None:
        """Set the quantiles to what the density says, instead of what the aux loss has reached (by bisection)."""
        self._update_quantiles()

    @torch.no_grad()
    def tables(self, gains: Sequence[Tensor | None]) -> Tables:
        """Tables for each gain vector (M floats, None for 1) and channel: table number = gain number · M + channel.

        Built as CompressAI builds them, in float32 on the CPU; identical to its own at gain 1.
        """
        low, median, high = (self.quantiles[:, 0, i] for i in range(3))
        cdfs: list[NDArray[np.int64]] = []
        offsets: list[int] = []
        for gain in gains:
            g = torch.ones_like(median) if gain is None else gain
            below = torch.ceil((median - low) * g).clamp(0, MAX_REACH).int()
            above = torch.ceil((high - median) * g).clamp(0, MAX_REACH).int()
            length = below + above + 1
            steps = torch.arange(int(length.max()), device=median.device)[None, None, :]
            if gain is None:
                middle, half = steps + (median - below)[:, None, None], torch.full_like(g, 0.5)[:, None, None]
            else:
                step = g.reciprocal()[:, None, None]
                middle, half = (steps - below[:, None, None]) * step + median[:, None, None], 0.5 * step
            lower = self._logits_cumulative(middle - half, stop_gradient=True)
            upper = self._logits_cumulative(middle + half, stop_gradient=True)
            pmf = (torch.sigmoid(upper) - torch.sigmoid(lower))[:, 0]
            tail = torch.sigmoid(lower[:, 0, :1]) + torch.sigmoid(-upper[:, 0, -1:])
            for c, n in enumerate(length.tolist()):
                cdfs.append(pmf_to_quantized_cdf(torch.cat((pmf[c, :n], tail[c])), PRECISION).numpy())
                offsets.append(-int(below[c]))
        return Tables.from_cdfs(cdfs, offsets)


def bits(likelihoods: Mapping[str, Tensor], escapes: bytes) -> float:
    """What a file's symbols should take: Σ −log2 likelihood, at most PRECISION bits a symbol, which is what the coder
    takes for the least likely one of a table, and the bytes of those beyond the tables."""
    total = sum(float((-torch.log2(v.detach().double())).clamp(max=PRECISION).sum()) for v in likelihoods.values())
    return total + 8 * len(escapes)


def gain_rows(levels: int, steps: int) -> list[float]:
    """The levels that a file can name: 0, 1/steps, … , levels − 1."""
    return [r / steps for r in range((levels - 1) * steps + 1)]
