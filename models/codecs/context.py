"""A context model for the symbols of plain files: symbols that are known tell of those that are not.

What a hyperprior says of a symbol is a scale, in bins, around zero; its z has one place for sixteen of y. Symbols nearby
and those of other channels know more. They are coded in turns: slices of channels, those that cost most first (Minnen
and Singh 2020, "Channel-wise autoregressive entropy models"), and of each slice the places of one colour of a
chequerboard before those of the other (He et al. 2021, "Checkerboard context model"; both together: ELIC, He et al.
2022). From all that is known at a place and at the four beside it a small network says how far a symbol's scale is from
the hyperprior's, and where between symbols its middle lies.

Encoder and decoder must find the same to the last bit: symbols and numbers of tables are integers, and files are coded
with the networks in integers (integer_synthesis.py). Symbols stay what they are: a file shows the same picture with a
context model and without.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models.codecs.base import name_of
from models.codecs.compressai_import import pmf_to_quantized_cdf
from models.codecs.entropy import PRECISION, Reader, Tables, ste, used
from models.codecs.integer_synthesis import FRACTION, ONE, IntegerSynthesis
from models.errors import FoveaError

SLICES = 3, 8, 20
"""Where the channels are cut, in 64ths of them. The first twentieth has a fifth of the bits."""
HIDDEN = 96
PARTS = 8
"""Of a bin: where the middle of a symbol's density may lie, for scales below SHARP bins; for others it is a symbol."""
SHARP = 2.0
AT_ONCE = 8192
"""Places that a network is shown at once when files are coded, so that a large picture needs little memory."""
STRIDE = 16
"""Tables that the scale moves by where a network says 1."""
LARGE, USUAL = 20, 6
"""Symbols, and their magnitudes, beyond which networks see no difference."""
REACH = 6.2
"""Scales on both sides of the middle that have a table entry."""


class Stage(NamedTuple):
    """Channels first to last, without last, at the places whose row and column add up to an even number, or with `odd` to
    an odd one."""

    first: int
    last: int
    odd: bool


class ContextModel(nn.Module):
    """The networks for M channels, one for each stage but the first, whose symbols nothing is known of. order: M, the
    channels from the one that costs most; everything here has them in this order."""

    order: Tensor

    def __init__(self, channels: int):
        super().__init__()
        cuts = sorted({0, *(channels * s // 64 for s in SLICES), channels})
        self.stages = [Stage(a, b, odd) for a, b in itertools.pairwise(cuts) for odd in (False, True)]
        self.register_buffer("order", torch.arange(channels))
        self.networks = nn.ModuleList(map(_network, self.stages[1:]))

    def estimate(self, symbols: Tensor, numbers: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
        """Bits of each picture, N, with what the networks say, and without. symbols: N×M×h×w, float32. numbers: of their
        tables, from 0, the same shape. scales: of the tables, in bins."""
        low, step = float(scales[0].log()), float((scales[-1] / scales[0]).log()) / (len(scales) - 1)
        places = _places(symbols.shape[2], symbols.shape[3], symbols.device)
        symbols, numbers = _flat(symbols[:, self.order]), _flat(numbers[:, self.order])
        heard = _heard(symbols)
        found = before = torch.zeros(len(symbols), device=symbols.device)
        for k, stage in enumerate(self.stages):
            here = places[stage.odd]
            own, number = (v[:, stage.first : stage.last, here[0]] for v in (symbols, numbers))
            bits = _bits(own, torch.exp(low + step * number)).sum(dim=(1, 2))
            before = before + bits
            if k and number.shape[-1]:
                moves, middles = self.networks[k - 1](_gathered(heard, number, stage, here))[:, :, 0].chunk(2, 1)
                scale = torch.exp(low + step * (number + STRIDE * moves).clamp(0, len(scales) - 1))
                parts = torch.where(scale < SHARP, PARTS, 1).detach()
                middles = ste(middles, torch.round(middles * parts) / parts)
                bits = _bits(own - middles, scale).sum(dim=(1, 2))
            found = found + bits
        return found, before


def _network(stage: Stage) -> nn.Sequential:
    count, beside = stage.last - stage.first, 4 * 2 * (stage.last - stage.first) if stage.odd else 0
    last = nn.Conv2d(HIDDEN, 2 * count, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)  # type: ignore[arg-type]  # torch types a bias as one that may be missing
    first = nn.Conv2d(count + 5 * 2 * stage.first + beside, HIDDEN, 1)
    return nn.Sequential(first, nn.ReLU(), nn.Conv2d(HIDDEN, HIDDEN, 1), nn.ReLU(), last)


def _places(h: int, w: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """The even places and the odd ones of `_flat` pictures: 5×P, themselves, then those above, below, left, right of them."""
    y, x = torch.arange(h, device=device)[:, None], torch.arange(w, device=device)
    flat, odd = (y + 1) * (w + 2) + x + 1, (y + x) % 2 == 1
    even, other = (torch.stack([v, v - w - 2, v + w + 2, v - 1, v + 1]) for v in (flat[~odd], flat[odd]))
    return even, other


def _flat(values: Tensor) -> Tensor:
    """…×h×w with a border of 0, …×((h + 2)·(w + 2))."""
    return F.pad(values, (1, 1, 1, 1)).flatten(-2)


def _heard(symbols: Tensor) -> Tensor:
    """What networks see of symbols N×M×G: N×M×2×G, multiples of 1/2."""
    return torch.stack((symbols.clamp(-LARGE, LARGE), symbols.abs().clamp(max=USUAL)), dim=2) / 2


def _gathered(heard: Tensor, number: Tensor, stage: Stage, here: Tensor) -> Tensor:
    """What a stage's network is given, N×C×1×P: its tables' numbers, and the symbols that are known there and beside it. All
    are multiples of 1/16. heard: those that are not known yet may be anything."""
    n, _, p = number.shape
    before = heard[:, : stage.first].index_select(-1, here.flatten()).reshape(n, -1, p)
    beside = here[1:] if stage.odd else here[:0]
    own = heard[:, stage.first : stage.last].index_select(-1, beside.flatten()).reshape(n, -1, p)
    return torch.cat(((number - 48) / 16, before, own), dim=1)[:, :, None]


def _bits(values: Tensor, scale: Tensor) -> Tensor:
    """Of bins around values, the middle at 0: at most PRECISION, which is what the least likely entry of a table takes."""
    near, far = ((0.5 + side * values.abs()) / (scale * math.sqrt(2)) for side in (-1, 1))
    return -torch.log2((0.5 * (torch.erfc(-near) - torch.erfc(far))).clamp_min(2.0**-PRECISION))


class _Turn(NamedTuple):
    """number: of each symbol's scale, C×P. parts: where its density's middle lies, in parts of a bin."""

    channels: slice
    places: Tensor
    number: NDArray[np.int64]
    parts: NDArray[np.int64]


class Context:
    """A context model ready to code. tables: of the codec's scales. scales: float64, of its tables.

    weights: as `weights` gives them, the tables for middles between symbols included. Raises FoveaError where they do not
    fit."""

    def __init__(self, channels: int, weights: Mapping[str, Tensor], tables: Tables, scales: Tensor):
        self.model = ContextModel(channels)
        sharp, own = Tables.from_tensors(weights), {k: v for k, v in weights.items() if not k.startswith("tables.")}
        try:
            self.model.load_state_dict({k: v if k == "order" else v.float() for k, v in own.items()})
        except RuntimeError as error:
            raise FoveaError(f"the context model is for another codec: {error}") from error
        self.fine = int((scales < SHARP).sum())
        if (
            sharp is None
            or len(sharp) != self.fine * PARTS
            or sorted(self.model.order.tolist()) != list(range(channels))
        ):
            raise FoveaError("the context model is incomplete")
        self.order = self.model.order.numpy()
        self.given = {k: v.cpu().half() if v.is_floating_point() else v.cpu() for k, v in weights.items()}
        self.scales, self.tables = scales.numpy(), Tables.joined(sharp, tables.after(self.fine))
        self._named: dict[bytes, bytes] = {}
        self.networks = [IntegerSynthesis(network) for network in self.model.networks]  # type: ignore[arg-type]  # a ModuleList holds any kind

    def name(self, codec: bytes) -> bytes:
        """16 bytes that name it and the codec of this identity."""
        if codec not in self._named:
            self._named[codec] = name_of(codec + b"context", self.given)
        return self._named[codec]

    def encode(self, symbols: NDArray[np.int32], numbers: NDArray[np.int64]) -> tuple[bytes, bytes, float]:
        """The coded symbols, the escapes, and what the symbols should take, in bits. symbols: M×h×w. numbers: of the tables
        that the hyperprior says, the same shape."""
        s = _flat(torch.from_numpy(symbols[self.order]))
        coded, bits = [], 0.0
        for turn in self._turns(_heard(s[None].float()), numbers):
            own = s[turn.channels][:, turn.places].numpy()
            tables, shifts = self._coded_by(turn)
            middles = np.where(turn.number < self.fine, turn.parts / PARTS, shifts)
            bits += float(_bits(torch.from_numpy(own - middles), torch.from_numpy(self.scales[turn.number])).sum())
            coded.append(((own - shifts).ravel(), tables.ravel()))
        values, tables = (np.concatenate(v) for v in zip(*coded, strict=True))
        return *self.tables.encode(values.astype(np.int32), *used(tables)), bits

    def decode(self, coded: bytes, escapes: bytes, numbers: NDArray[np.int64]) -> NDArray[np.int32]:
        """The symbols, M×h×w. Raises BitstreamError where the strings cannot be what `encode` wrote."""
        m, h, w = numbers.shape
        s = torch.zeros((1, m, (h + 2) * (w + 2)))
        heard, reader = _heard(s), Reader(self.tables, coded, escapes, numbers.size)
        for turn in self._turns(heard, numbers):
            tables, shifts = self._coded_by(turn)
            values = torch.from_numpy(reader.read(*used(tables.ravel())).reshape(shifts.shape) + shifts).float()
            s[0, turn.channels, turn.places] = values
            heard[:, turn.channels, :, turn.places] = _heard(values[None])
        reader.end()
        symbols = np.empty(numbers.shape, dtype=np.int32)
        symbols[self.order] = s.reshape(m, h + 2, w + 2)[:, 1:-1, 1:-1].numpy()
        return symbols

    def _turns(self, heard: Tensor, numbers: NDArray[np.int64]) -> Iterator[_Turn]:
        """Stage by stage; one is asked for when the symbols of those before it are heard."""
        places, all_numbers = _places(*numbers.shape[1:]), _flat(torch.from_numpy(numbers[self.order]))
        for k, stage in enumerate(self.model.stages):
            here, channels = places[stage.odd], slice(stage.first, stage.last)
            number = all_numbers[channels, here[0]].numpy()
            parts = np.zeros_like(number)
            if k and number.size:
                wanted = torch.from_numpy(number)[None].float()
                some = zip(wanted.split(AT_ONCE, 2), here.split(AT_ONCE, 1), strict=True)
                given = (_gathered(heard, n, stage, at).double().mul_(ONE) for n, at in some)
                told = torch.cat([self.networks[k - 1](v)[0, :, 0] for v in given], 1).long().numpy()
                moves, parts = (_rounded(v, bits) for v, bits in zip(np.split(told, 2), (8, 9), strict=True))
                number = (number + moves).clip(0, len(self.scales) - 1)
            yield _Turn(channels, here[0], number, parts)

    def _coded_by(self, turn: _Turn) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For each symbol the number of its table, and what is taken off it."""
        shifts = (turn.parts + PARTS // 2) // PARTS
        sharp = PARTS * (turn.number - shifts) + turn.parts + PARTS // 2
        return np.where(turn.number < self.fine, sharp, turn.number + (PARTS - 1) * self.fine), shifts


def _rounded(values: NDArray[np.int64], bits: int) -> NDArray[np.int64]:
    """Values without their last bits."""
    return (values + (1 << bits >> 1)) >> bits


assert 1 << FRACTION - 8 == STRIDE and 1 << FRACTION - 9 == PARTS


def weights(model: ContextModel, scales: Tensor) -> dict[str, Tensor]:
    """What `Context` takes, networks as float16 numbers. scales: float64, of the codec's tables."""
    kept = {k: v.cpu() if k == "order" else v.detach().cpu().half() for k, v in model.state_dict().items()}
    return kept | sharp_tables([float(s) for s in scales if s < SHARP]).tensors()


def sharp_tables(scales: Sequence[float]) -> Tables:
    """For each scale PARTS tables, of Gaussians whose middles lie at −1/2, −1/2 + 1/PARTS … of a bin."""
    cdfs, offsets = [], []
    for scale in scales:
        reach = math.ceil(REACH * scale) + 1
        for part in range(PARTS):
            edges = torch.arange(-reach, reach + 2).double() - 0.5 - (part / PARTS - 0.5)
            below = 0.5 * torch.erfc(-edges / (scale * math.sqrt(2)))
            masses = torch.cat((below.diff(), 1 - (below[-1:] - below[:1]))).clamp_min(0)
            cdfs.append(pmf_to_quantized_cdf(masses.float(), PRECISION).numpy().astype(np.int64))
            offsets.append(-reach)
    return Tables.from_cdfs(cdfs, offsets)
