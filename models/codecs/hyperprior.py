"""Files of codecs with a hyperprior (hyperprior_model.py).

Files hold five strings: the level map, z's symbols (escapes, coded), y's symbols (escapes, coded). Their coding tables
come from z's symbols by integer arithmetic alone (integer_synthesis.py; gains, medians and z's inverse gains on grids,
kept with the tables), so the symbols decode exactly on any machine; the pixels follow from float arithmetic on equal
latents. A symbol is coded for the nearest of twice as many scales as CompressAI has tables for, instead of the next
larger one: about a percent of the rate. Training and `forward` use floats throughout; `encode`, `decode` and `latents`
take the scales and means off the grid. With a context model (context.py) y's symbols have its tables in plain files. The
option `arithmetic` = "float" codes as CompressAI does, with tables that
only the same build decodes.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.codecs import nested
from models.codecs.base import Addition, CodecConfig, Latents
from models.codecs.conditioned import Setting
from models.codecs.context import Context
from models.codecs.entropy import Tables, bits, used
from models.codecs.hyperprior_model import HYPER, HyperpriorModel, scale_table
from models.codecs.integer_synthesis import FRACTION, LIMIT, ONE, IntegerSynthesis
from models.errors import FoveaError

# isort: split
# after compressai_import, which keeps the rest of the package from loading
from compressai.entropy_models import GaussianConditional

GAIN_FRACTION = 16
"""Bits behind the point of the gains that coding tables are chosen with."""


class Parameters(NamedTuple):
    """z_hat: N×N×⌈h/4⌉×⌈w/4⌉. sigma, mu: N×M×h×w, mu None where it is zero. grid: sigma in multiples of 2^-12, int64.
    level: N×1×h×w, what z_hat says with `hyper`, otherwise None."""

    z_hat: Tensor
    sigma: Tensor
    mu: Tensor | None
    grid: np.ndarray | None
    level: Tensor | None = None


class _Coded(NamedTuple):
    """One picture on its way into a file. strings_z: escapes, coded. bits_z: what they should take."""

    strings_z: tuple[bytes, bytes]
    p: Parameters
    level: Tensor
    gain: tuple[Tensor, Tensor] | None
    symbols: Tensor
    bits_z: float


class HyperpriorCodec(HyperpriorModel):
    """A paper's class makes h_a and h_s."""

    coded_strings = 4
    #: what the coding tables may be derived by, the default first
    arithmetics: tuple[str, ...] = ("integer", "float")

    def __init__(self, config: CodecConfig, hidden: int = 32):
        super().__init__(config, hidden)
        arithmetic = dict(config.options).get("arithmetic", self.arithmetics[0])
        if arithmetic not in self.arithmetics:
            raise FoveaError(f"unknown arithmetic {arithmetic!r}; known: {', '.join(self.arithmetics)}")
        self.exact = arithmetic == "integer"
        self.compressai_bytes = not self.exact
        #: for coding, by level and channel: gains of y in multiples of 2^-16, inverse gains of z in those of 2^-12
        self.coding_gain: Tensor | None = None
        self.coding_inverse_z: Tensor | None = None
        self._integer: IntegerSynthesis | None = None
        self._integer_level: IntegerSynthesis | None = None
        self._bounds = np.empty(0, dtype=np.int64)
        self._trees: tuple[Tables, nested.Forest, nested.Order] | None = None
        self.context: Context | None = None

    # ── symbols ───────────────────────────────────────────────────────────────────────────────────────────────────

    def parameters_for(self, symbols: Tensor, base: Tensor, h: int, w: int) -> Parameters:
        """What z's symbols (int32) say about y, h×w places: as the decoder computes it."""
        if not self.exact:
            z_hat = self.entropy_bottleneck.dequantized(symbols, self.gains_z(base))
            sigma, mu = self.split(self.h_s(z_hat)[:, :, :h, :w])
            level = self.level_told(self.h_s_level(z_hat)[:, :, :h, :w], base) if self.tells else None
            return Parameters(z_hat, sigma, mu, None, level)
        if self._integer is None or self.coding_inverse_z is None:
            raise FoveaError("the codec has no coding tables: call update() after training")
        inverse = self.coding_inverse_z[torch.from_numpy(self.rows_at(base).ravel())][:, :, None, None]
        medians = torch.round(self.entropy_bottleneck.medians().cpu().double() * ONE).long()
        z = (symbols.cpu().long() * inverse + medians).clamp(-LIMIT, LIMIT).double()
        grid, means = self.split(self._integer(z)[:, :, :h, :w])
        level = None
        if self._integer_level is not None:
            told = self._integer_level(z)[:, :, :h, :w] * 2.0**-FRACTION
            level = self.level_told(told.to(symbols.device).float(), base)
        z_hat, sigma = ((v * 2.0**-FRACTION).float().to(symbols.device) for v in (z, grid))
        mu = None if means is None else (means * 2.0**-FRACTION).float().to(symbols.device)
        return Parameters(z_hat, sigma, mu, grid.long().numpy(), level)

    def symbols_of(self, y: Tensor, p: Parameters, gain: tuple[Tensor, Tensor] | None) -> Tensor:
        """int32, what is coded of y."""
        values, scale = y if p.mu is None else y - p.mu, p.sigma
        if gain is not None:
            values, scale = values * gain[0], scale * gain[0]
            values = values if p.mu is None else values + self.moved(p.mu, gain)
        return self._chosen(values, scale).int()

    def dequantized(self, symbols: Tensor, p: Parameters, gain: tuple[Tensor, Tensor] | None) -> Tensor:
        """What `show` takes: encoder and decoder run this on equal tensors, so that both see the same picture."""
        y_hat = symbols.float() if gain is None else symbols.float() * gain[1]
        return self._with_z(y_hat if p.mu is None else y_hat + p.mu, p.z_hat)

    def quantise(self, y: Tensor, at: Setting) -> Latents:
        """As `ConditionedCodec.quantise` says; z is quantised too, at the nearest level that a file can name. y_hat
        has N more channels with `sft`: see `_with_z`."""
        symbols = self.entropy_bottleneck.symbols(self.latent_z(y, at), self.gains_z(at.base))
        p = self.parameters_for(symbols, at.base, y.shape[2], y.shape[3])
        gain = self.gains(at.level if p.level is None else p.level)
        symbols = self.symbols_of(y, p, gain)
        return Latents(symbols, self.dequantized(symbols, p, gain))

    def escaped(self, symbols: Tensor, level: Tensor) -> np.ndarray:
        """As `Codec.escaped` says, by the widest table: which table holds a symbol of y is told by z, not given here."""
        widest = np.array([len(self.built()) - 1], dtype=np.int32)
        first = np.zeros(symbols[0].numel(), dtype=np.int32)
        outside = np.zeros(self.config.m)
        for one in symbols:
            held = self.built().holds(one.cpu().numpy().ravel(), first, widest)
            outside += (~held).reshape(self.config.m, -1).mean(axis=1)
        return outside / len(symbols)

    # ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @torch.no_grad()
    def build_tables(self) -> None:
        """As `ConditionedCodec.build_tables` says: z's by level and channel, then one for each scale."""
        if self.top_level:
            level = torch.tensor(self.rows, device=self.device).reshape(-1, 1, 1, 1)
            gain, (gain_z, inverse_z) = self.gain(level)[0][:, :, 0, 0], self.gain_z(level)
            z = self.entropy_bottleneck.tables(list(gain_z[:, :, 0, 0]))
            self.coding_gain = _on_grid(gain, GAIN_FRACTION)
            self.coding_inverse_z = _on_grid(inverse_z[:, :, 0, 0], FRACTION)
        else:
            z = self.entropy_bottleneck.tables([None])
            self.coding_gain = torch.full((1, self.config.m), 1 << GAIN_FRACTION)
            self.coding_inverse_z = torch.full((1, self.config.n), ONE)
        self.tables = Tables.joined(z, gaussian_tables(scale_table(self.between)))
        self._prepare_integers()

    def _prepare_integers(self) -> None:
        """What exact arithmetic on the kept numbers gives, the same on every machine."""
        if not self.exact:
            return
        self._integer = IntegerSynthesis(self.h_s)
        if self.tells:
            self._integer_level = IntegerSynthesis(self.h_s_level)
        # square roots and products are rounded alike everywhere, other powers are not
        scales = self.gaussian_conditional.scale_table.cpu().double()
        middle = torch.sqrt(scales[:-1] * scales[1:])
        bounds = torch.stack((torch.sqrt(scales[:-1] * middle), torch.sqrt(middle * scales[1:])), dim=1)
        self._bounds = torch.floor(bounds.flatten() * 2.0 ** (FRACTION + GAIN_FRACTION)).long().numpy()

    def count_tables(self) -> int:
        return super().count_tables() + len(scale_table(self.between))

    def larger_scales(self, scale: Tensor) -> Tensor:
        """For each scale the number of the next larger one of CompressAI's: its build_indexes, by one search."""
        return torch.bucketize(scale.contiguous(), self.gaussian_conditional.scale_table[:-1])

    def _scales(self, p: Parameters, level: Tensor, gain: tuple[Tensor, Tensor] | None) -> np.ndarray:
        """For each symbol, N×M×h×w, the number of its scale: of the nearest one; with float arithmetic, as in CompressAI, of
        the next larger."""
        if p.grid is None:
            return self.larger_scales(p.sigma if gain is None else p.sigma * gain[0]).cpu().numpy()
        assert self.coding_gain is not None
        factors = self.coding_gain.numpy()[self.rows_at(level)[:, 0]]  # N×h×w×M, or N×1×1×M
        return np.searchsorted(self._bounds, p.grid * factors.transpose(0, 3, 1, 2))

    def _scale_indexes(
        self, p: Parameters, level: Tensor, gain: tuple[Tensor, Tensor] | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """For each symbol of one picture, channel by channel, an index into the used tables; and these tables' numbers."""
        indexes, numbers = used(self._scales(p, level, gain).ravel())
        return indexes, self.first_scale + numbers

    def write(self, y: Tensor, at: Setting) -> tuple[tuple[bytes, ...], Tensor, float]:
        coded = self._coded(y, at)
        if self.context is not None:
            scales = self._scales(coded.p, coded.level, coded.gain)
            coded_y, escapes_y, found = self.context.encode(coded.symbols[0].cpu().numpy(), scales[0])
            return self._written(coded, escapes_y, coded_y, found)
        coded_y, escapes_y = self.built().encode(
            coded.symbols.cpu().numpy().ravel(), *self._scale_indexes(coded.p, coded.level, coded.gain)
        )
        return self._written(coded, escapes_y, coded_y, self._bits_y(coded))

    def write_progressive(self, y: Tensor, at: Setting, ahead: np.ndarray) -> tuple[tuple[bytes, ...], Tensor, float]:
        if not (self.exact and self.refinable):
            if self.refinable and "integer" in self.arithmetics:
                raise FoveaError(
                    f"a codec {self.config.codec} with arithmetic=float has no progressive files, with arithmetic=integer it has"
                )
            return super().write_progressive(y, at, ahead)
        coded = self._coded(y, at)
        walk = self._walk_over(coded.p, at.base, coded.level, coded.gain, ahead, y.shape[2], y.shape[3])
        strings = nested.encode(walk, coded.symbols.cpu().numpy().ravel())
        return self._written(coded, *strings, self._bits_y(coded))

    @torch.no_grad()
    def beginning(self, y: Tensor, at: Setting, ahead: np.ndarray, last: int) -> Tensor:
        """What `show` takes of one picture's progressive file that ends after a level of its order, in 1/LEVEL_STEPS."""
        coded = self._coded(y, at)
        walk = self._walk_over(coded.p, at.base, coded.level, coded.gain, ahead, y.shape[2], y.shape[3])
        values = nested.shown_after(walk, coded.symbols.cpu().numpy().ravel(), last)
        return self.dequantized(
            torch.from_numpy(values).reshape(coded.symbols.shape).to(self.device), coded.p, coded.gain
        )

    def _coded(self, y: Tensor, at: Setting) -> "_Coded":
        """z's strings, and what else files of both kinds take of a picture."""
        gain_z, z = self.gains_z(at.base), self.latent_z(y, at)
        z_symbols = self.entropy_bottleneck.symbols(z, gain_z)
        p = self.parameters_for(z_symbols, at.base, y.shape[2], y.shape[3])
        level = at.level if p.level is None else p.level
        gain = self.gains(level)
        symbols = self.symbols_of(y, p, gain)
        indexes, tables = self.channel_indexes(self.config.n, at.base, z.shape[2], z.shape[3])
        coded_z, escapes_z = self.built().encode(z_symbols.cpu().numpy().ravel(), indexes, tables)
        likelihoods = {"z": self.entropy_bottleneck(z, gain_z, training=False)[1]}
        return _Coded((escapes_z, coded_z), p, level, gain, symbols, bits(likelihoods, escapes_z))

    def _bits_y(self, coded: _Coded) -> float:
        scale = coded.p.sigma if coded.gain is None else coded.p.sigma * coded.gain[0]
        return bits({"y": self._likelihood(coded.symbols.float(), scale)}, b"")

    def _written(
        self, coded: _Coded, escapes_y: bytes, coded_y: bytes, bits_y: float
    ) -> tuple[tuple[bytes, ...], Tensor, float]:
        y_hat = self.dequantized(coded.symbols, coded.p, coded.gain)
        return (*coded.strings_z, escapes_y, coded_y), y_hat, coded.bits_z + bits_y + 8 * len(escapes_y)

    @torch.no_grad()
    def coded_values(self, y: Tensor, at: Setting) -> tuple[Tensor, Tensor]:
        """What files have of y: symbols, N×M×h×w int32, and the numbers of their scales, int64, both on the CPU."""
        symbols = self.entropy_bottleneck.symbols(self.latent_z(y, at), self.gains_z(at.base))
        p = self.parameters_for(symbols, at.base, y.shape[2], y.shape[3])
        level = at.level if p.level is None else p.level
        gain = self.gains(level)
        return self.symbols_of(y, p, gain).cpu(), torch.from_numpy(self._scales(p, level, gain))

    def read(self, strings: tuple[bytes, ...], base: Tensor, level: Tensor, h: int, w: int) -> Tensor:
        escapes_z, coded_z, escapes_y, coded_y = strings
        p, level, gain = self._told(escapes_z, coded_z, base, level, h, w)
        symbols = self.built().decode(coded_y, escapes_y, *self._scale_indexes(p, level, gain))
        return self.dequantized(torch.from_numpy(symbols).reshape(1, self.config.m, h, w).to(self.device), p, gain)

    def read_in_context(self, strings: tuple[bytes, ...], base: Tensor, level: Tensor, h: int, w: int) -> Tensor:
        assert self.context is not None
        escapes_z, coded_z, escapes_y, coded_y = strings
        p, level, gain = self._told(escapes_z, coded_z, base, level, h, w)
        symbols = self.context.decode(coded_y, escapes_y, self._scales(p, level, gain)[0])
        return self.dequantized(torch.from_numpy(symbols)[None].to(self.device), p, gain)

    def read_progressive(
        self, strings: tuple[bytes, ...], base: Tensor, level: Tensor, ahead: np.ndarray, whole: bool, h: int, w: int
    ) -> Tensor:
        if not (self.exact and self.refinable):
            return super().read_progressive(strings, base, level, ahead, whole, h, w)
        escapes_z, coded_z, escapes_y, coded_y = strings
        p, level, gain = self._told(escapes_z, coded_z, base, level, h, w)
        walk = self._walk_over(p, base, level, gain, ahead, h, w)
        nested.decode(walk, escapes_y, coded_y, whole)
        values = torch.from_numpy(walk.shown()).reshape(1, self.config.m, h, w)
        return self.dequantized(values.to(self.device), p, gain)

    def _told(
        self, escapes_z: bytes, coded_z: bytes, base: Tensor, level: Tensor, h: int, w: int
    ) -> tuple[Parameters, Tensor, tuple[Tensor, Tensor] | None]:
        """What z says, with it the levels that y was coded at and their gains. level: what the level map says."""
        height, width = -(-h // HYPER), -(-w // HYPER)
        indexes, tables = self.channel_indexes(self.config.n, base, height, width)
        z = torch.from_numpy(self.built().decode(coded_z, escapes_z, indexes, tables))
        p = self.parameters_for(z.reshape(1, self.config.n, height, width).to(self.device), base, h, w)
        level = level if p.level is None else p.level
        return p, level, self.gains(level)

    def _walk_over(
        self,
        p: Parameters,
        base: Tensor,
        level: Tensor,
        gain: tuple[Tensor, Tensor] | None,
        ahead: np.ndarray,
        h: int,
        w: int,
    ) -> nested.Walk:
        assert self.coding_gain is not None
        if self._trees is None or self._trees[0] is not self.tables:
            forest = nested.plant(self.built(), self.first_scale)
            self._trees = self.built(), forest, nested.Order(self.coding_gain.numpy())
        indexes, numbers = self._scale_indexes(p, level, gain)
        rows = self.rows_at(level)[0, 0]
        if p.level is not None:
            ahead = rows - self.rows_at(base)[0, 0]
        return nested.Walk(*self._trees[1:], (numbers - self.first_scale)[indexes], rows, ahead, (self.config.m, h, w))

    @property
    def between(self) -> int:
        """Tables for each step of CompressAI's scales: its own would cost a percent of the rate, and more early on."""
        return 2 if self.exact else 1

    @property
    def first_scale(self) -> int:
        """The number of the first table of y."""
        return len(self.built()) - len(scale_table(self.between))

    # ── weights ───────────────────────────────────────────────────────────────────────────────────────────────────

    def additions(self) -> dict[str, Addition]:
        if self.context is None:
            return super().additions()
        added = Addition(self.context.name(self.name()), self.context.given)
        return super().additions() | {"context": added}

    def add(self, kind: str, weights: Mapping[str, Tensor]) -> None:
        if kind != "context" or not (self.exact and self.refinable):
            return super().add(kind, weights)
        self.context = Context(self.config.m, weights, self.built().after(self.first_scale), self.coding_scales)

    @property
    def coding_scales(self) -> Tensor:
        """In bins, one for each table of y, float64."""
        return torch.tensor(scale_table(self.between), dtype=torch.float64)

    def weights(self) -> dict[str, Tensor]:
        if self.coding_gain is None or self.coding_inverse_z is None:
            return super().weights()
        return super().weights() | {
            "tables.gain": self.coding_gain.clone(),
            "tables.inverse_z": self.coding_inverse_z.clone(),
        }

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        super().load_weights(weights)
        self.coding_gain = self.coding_inverse_z = self._integer = self._integer_level = self.context = None
        if self.tables is None:
            return
        kept = []
        for name, channels in (("tables.gain", self.config.m), ("tables.inverse_z", self.config.n)):
            given = weights.get(name)
            if (
                given is None
                or given.dtype != torch.int64
                or given.shape != (len(self.rows), channels)
                or not bool(((given > 0) & (given < 1 << 32)).all())
            ):
                self.tables = None
                raise FoveaError(f"incomplete coding tables: {name} is missing or not {channels} numbers a level")
            kept.append(given.cpu().clone())
        self.coding_gain, self.coding_inverse_z = kept
        self._prepare_integers()

    def load_trunk(self, weights: Mapping[str, Tensor]) -> None:
        super().load_trunk(weights)
        self.coding_gain = self.coding_inverse_z = self._integer = self._integer_level = self.context = None


def _on_grid(values: Tensor, fraction: int) -> Tensor:
    """int64 multiples of 2^-fraction, at least one of them."""
    return torch.round(values.detach().cpu().double() * 2.0**fraction).long().clamp(1, (1 << 32) - 1)


def gaussian_tables(scales: list[float]) -> Tables:
    """One table for each scale, as CompressAI makes them."""
    conditional = GaussianConditional(scales)
    conditional.update()
    cdfs = [
        cdf[:length].numpy().astype(np.int64)
        for cdf, length in zip(conditional.quantized_cdf, conditional.cdf_length.tolist(), strict=True)
    ]
    return Tables.from_cdfs(cdfs, conditional.offset.tolist())
