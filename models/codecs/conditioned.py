"""What codecs with an analysis and a synthesis transform share: conditioning, levels, weights, the frame of a file.

                 ┌──────────────── g_a ────────────────┐                    ┌──────────────── g_s ────────────────┐
    x ──► conv ↓2 ─ GDN ─ conv ↓2 ─ GDN ─ conv ↓2 ─ GDN ─ conv ↓2 ─► y ─► y_hat ─► deconv ↑2 ─ IGDN ─ … ─ deconv ↑2 ─► x_hat
    N×3×H×W      N            N            N              M  N×M×H/16×W/16                N                3   N×3×H×W

These are the layers of Ballé et al. 2018, all kernels 5×5; a paper with others says so in `layers`. How y becomes
bytes is the business of a codec's own file. The layers have CompressAI's names, so that its checkpoints load
(`load_compressai`).

On the CPU files are made and read with channels-last tensors, where oneDNN's convolutions are up to twice as fast, and
with a faster form of the last layer; both round otherwise in the last bit than `forward` does. Encoder and decoder agree
on that. A codec that promises CompressAI's very bytes (`compressai_bytes`) analyses as CompressAI does.
"""

import copy
import re
from abc import abstractmethod
from collections.abc import Mapping
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from models.codecs import bitstream, conditioning, levelmap
from models.codecs.base import (
    LEVEL_STEPS,
    Addition,
    Analysed,
    Codec,
    CodecConfig,
    Encoded,
    Latents,
    Output,
    Picture,
    Sent,
    name_of,
)
from models.codecs.bitstream import BitstreamError, Contents
from models.codecs.entropy import FactorizedPrior, Quantise, Tables, gain_rows
from models.codecs.gain import Gain
from models.codecs.layers import GDN, Subpixel, conv, deconv, is_channels_last
from models.errors import FoveaError
from models.mechanisms import LEVELLED, NEEDS_MAP

#: what CompressAI keeps in a state dict beside parameters: its own coding tables and constants
_REBUILT = re.compile(r"(entropy_bottleneck|gaussian_conditional)\._(offset|quantized_cdf|cdf_length)|.*\.bound")


class Setting(NamedTuple):
    """What goes with y, picture by picture.

    saliency_map: N×1×H×W where the mechanism uses one. base: the level that was asked for, N×1×1×1. level: that of each
    place, N×1×1×1, or N×1×h×w with `gain` and `hyper`. z: the hyperprior's latent where it is not what the encoder makes
    of y. quantise: what `model` does in place of noise (training) or rounding.
    """

    saliency_map: Tensor | None
    base: Tensor
    level: Tensor
    z: Tensor | None = None
    quantise: Quantise | None = None


class Modelled(NamedTuple):
    """y_hat: what `show` takes. likelihoods and penalty: as in `Output`."""

    y_hat: Tensor
    likelihoods: dict[str, Tensor]
    penalty: Tensor | float = 0.0


MUCH = 9, 10
"""The share of the pieces below which a file is shown by its codec's `CutSynthesis`: with more of them g_s itself is better."""


class CutSynthesis(NamedTuple):
    """g_s for the pictures of cut files. name: 16 bytes, of it and of the codec that it goes with."""

    g_s: nn.Sequential
    name: bytes


class ConditionedCodec(Codec):
    """g_a, g_s, entropy_bottleneck, and where the configuration asks for them gain and transforms.

    bottleneck: channels of the factorized prior. Options: `cell`, latent positions along the side of one cell of the
    level map (default 1, 16×16 pixels).
    """

    stride = 16
    cuttable = True

    #: after these layers of g_a the map may transform the features, the last of them y
    stages: tuple[int, ...] = (1, 3, 5, 6)

    #: the files' strings are CompressAI's for the same weights at one level, while no symbol escapes
    compressai_bytes = False

    #: whether latents can be refined by descent (effort.py): `model` tells every symbol's density without the symbols before it
    refinable = True

    #: with weights of its own where training/cuts.py found some
    for_cuts: CutSynthesis | None = None

    #: strings of coded symbols in a file, the level map's not counted
    coded_strings: int

    def __init__(self, config: CodecConfig, bottleneck: int):
        super().__init__(config)
        n, m = config.n, config.m
        self.cell = int(dict(config.options).get("cell", 1))
        self.g_a, self.g_s = self.layers(4 if config.mechanism == "concat" else 3)
        # pictures start from mid-grey: a short training need not spend its steps on getting there
        last = [v for v in self.g_s.modules() if isinstance(v, nn.Conv2d | nn.ConvTranspose2d)][-1]
        nn.init.constant_(cast(Tensor, last.bias), 0.5)
        self.entropy_bottleneck = FactorizedPrior(bottleneck)
        self.gain = Gain(m, config.lmbda)
        if config.mechanism == "sft":
            self.transforms = nn.ModuleList(
                conditioning.FeatureTransform(c) for c in [n] * (len(self.stages) - 1) + [m]
            )
        self.tables: Tables | None = None

    def layers(self, planes: int) -> tuple[nn.Sequential, nn.Sequential]:
        """g_a for this many input planes, and g_s."""
        n, m = self.config.n, self.config.m
        g_a = nn.Sequential(conv(planes, n), GDN(n), conv(n, n), GDN(n), conv(n, n), GDN(n), conv(n, m))
        g_s = nn.Sequential(
            deconv(m, n),
            GDN(n, inverse=True),
            deconv(n, n),
            GDN(n, inverse=True),
            deconv(n, n),
            GDN(n, inverse=True),
            deconv(n, 3),
        )
        return g_a, g_s

    # ── what a codec's file says ──────────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    def model(self, y: Tensor, at: Setting) -> Modelled:
        """The training forward between g_a and g_s, in float32."""

    @abstractmethod
    def quantise(self, y: Tensor, at: Setting) -> Latents:
        """As `Codec.latents`, from y."""

    @abstractmethod
    def write(self, y: Tensor, at: Setting) -> tuple[tuple[bytes, ...], Tensor, float]:
        """For one picture: the coded strings, what `show` takes, and the estimate in bits."""

    @abstractmethod
    def read(self, strings: tuple[bytes, ...], base: Tensor, level: Tensor, h: int, w: int) -> Tensor:
        """What `show` takes, from the strings. Raises BitstreamError."""

    def read_in_context(self, strings: tuple[bytes, ...], base: Tensor, level: Tensor, h: int, w: int) -> Tensor:
        """As `read`, of a file that was made with a context model."""
        raise BitstreamError("damaged file: this model has no context model")

    def write_progressive(self, y: Tensor, at: Setting, ahead: np.ndarray) -> tuple[tuple[bytes, ...], Tensor, float]:
        """As `write`, the strings those of a progressive file. ahead: as `ahead` gives it."""
        raise FoveaError(f"a codec {self.config.codec} has no progressive files")

    def read_progressive(
        self, strings: tuple[bytes, ...], base: Tensor, level: Tensor, ahead: np.ndarray, whole: bool, h: int, w: int
    ) -> Tensor:
        """As `read`, of a progressive file. whole: nothing was cut off the last string."""
        raise BitstreamError("damaged file: this model has no progressive files")

    @abstractmethod
    def build_tables(self) -> None:
        """Set `tables` and what else coding needs, from weights and quantiles as they are."""

    def show(self, y_hat: Tensor, g_s: nn.Sequential | None = None) -> Tensor:
        """x_hat, N×3×H×W. g_s: another form of the layers."""
        return (g_s or self.g_s)(y_hat)

    # ── training ──────────────────────────────────────────────────────────────────────────────────────────────────

    def forward(
        self,
        x: Tensor,
        *,
        saliency_map: Tensor | None = None,
        level: Tensor | None = None,
        centre: Tensor | None = None,
    ) -> Output:
        y = self.analyse(x, saliency_map)
        base = self.base_level(x, level)
        places, steps = self.places(base, y, saliency_map, centre)
        side_bits = x.new_zeros(x.shape[0]) if steps is None else levelmap.estimate_bits(steps)
        modelled = self.model(y, Setting(saliency_map, base, places))
        # the entropy model's result may have torch's default layout, whatever y had
        y_hat = _channels_last(modelled.y_hat) if is_channels_last(x) else modelled.y_hat
        x_hat = self.show(y_hat)
        lmbda = self.lmbda_at(places)
        if places.shape[2] > 1 or places.shape[3] > 1:
            lmbda = conditioning.spread(lmbda, x.shape[2], x.shape[3], self.stride)
        return Output(x_hat, modelled.likelihoods, side_bits, lmbda, modelled.penalty)

    def analyse(self, x: Tensor, saliency_map: Tensor | None) -> Tensor:
        """y, N×M×H/16×W/16."""
        mechanism = self.config.mechanism
        if mechanism == "concat":
            joined = torch.cat((x, self.given(saliency_map)), dim=1)
            x = _channels_last(joined) if is_channels_last(x) else joined
        if mechanism != "sft":
            return self.g_a(x)
        for i, layer in enumerate(self.g_a):
            x = layer(x)
            if i in self.stages:
                x = self.transforms[self.stages.index(i)](x, self.given(saliency_map))
        return x

    def gains(self, level: Tensor) -> tuple[Tensor, Tensor] | None:
        """Gain and inverse gain of y at levels N×1×h×w; None for a codec with a single level."""
        return self.gain(level) if self.top_level else None

    def base_level(self, x: Tensor, level: Tensor | None) -> Tensor:
        """One level a picture, N×1×1×1, the middle one by default."""
        if level is None:
            level = x.new_full((x.shape[0],), 0.5 * self.top_level)
        return level.to(x.device, torch.float32).reshape(-1, 1, 1, 1)

    def places(
        self,
        base: Tensor,
        y: Tensor,
        saliency_map: Tensor | None,
        centre: Tensor | None = None,
        span: float | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The level at each latent position (N×1×h×w), and the level map to send (int64, one value for each cell of
        16·cell pixels). `hyper` sends none; the levels are what its encoder asks for. Otherwise the base level
        (N×1×1×1), and none."""
        if self.config.mechanism not in LEVELLED:
            return base, None
        apart = self.config.span if span is None else span
        steps = conditioning.level_steps(
            self.given(saliency_map), self.config.gamma, apart, self.stride * self.cell, centre
        )
        level = self.levels_at(steps, base, y.shape[2], y.shape[3])
        return level, steps if self.config.mechanism == "gain" else None

    def levels_at(self, steps: Tensor, base: Tensor, height: int, width: int) -> Tensor:
        """The level at each latent position, N×1×height×width, from the level map and the base level."""
        level = (base + conditioning.STEP * steps).clamp(0, self.top_level)
        return conditioning.spread(level, height, width, self.cell)

    def aux_loss(self) -> Tensor:
        return self.entropy_bottleneck.loss()

    # ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def rows(self) -> list[float]:
        """The levels that a file can name."""
        return gain_rows(len(self.config.lmbda), LEVEL_STEPS)

    @torch.no_grad()
    def update(self) -> None:
        self.entropy_bottleneck.solve_quantiles()
        self.build_tables()
        self._identity = None

    @torch.no_grad()
    def latents(self, x: Tensor, *, saliency_map: Tensor | None = None, level: Tensor | None = None) -> Latents:
        with torch.autocast(x.device.type, enabled=False):
            y = self.coded_analysis(x, saliency_map)
            base = self.base_level(x, level)
            return self.quantise(y, Setting(saliency_map, base, self.places(base, y, saliency_map)[0]))

    @torch.no_grad()
    def synthesise(self, y_hat: Tensor) -> Tensor:
        with torch.autocast(y_hat.device.type, enabled=False):
            last = self.g_s[-1]
            if y_hat.device.type != "cpu" or not Subpixel.fits(last):
                return self.show(_channels_last(y_hat))
            faster = nn.Sequential(*self.g_s[:-1], Subpixel(cast(nn.ConvTranspose2d, last)))
            return self.show(_channels_last(y_hat), faster)

    @torch.no_grad()
    def synthesise_cut(self, y_hat: Tensor) -> Tensor:
        assert self.for_cuts is not None
        with torch.autocast(y_hat.device.type, enabled=False):
            return self.show(_channels_last(y_hat), self.for_cuts.g_s.to(y_hat.device))

    @torch.inference_mode()
    def analysed(self, picture: Picture, saliency_map: Picture | None = None) -> Analysed:
        self.built()
        given = self.padded(picture, saliency_map)
        with torch.autocast(self.device.type, enabled=False):
            return given._replace(y=self.coded_analysis(given.y, given.saliency_map))

    def coded_analysis(self, x: Tensor, saliency_map: Tensor | None) -> Tensor:
        """`analyse` for files."""
        return self.analyse(x if self.compressai_bytes else _channels_last(x), saliency_map).contiguous()

    @torch.inference_mode()
    def encode_analysed(self, given: Analysed, rate: float | None = None, *, progressive: bool = False) -> Encoded:
        """As `Codec.encode_analysed` says; a progressive file shows the same picture."""
        self.built()
        y, s, width, height, z, span = given
        wanted = self.level_of(rate) if rate is not None else 0.5 * self.top_level
        row = round(wanted * LEVEL_STEPS)
        with torch.autocast(y.device.type, enabled=False):
            base = self.base_level(y, torch.tensor([row / LEVEL_STEPS]))
            level, steps = self.places(base, y, s, span=span)
            at = Setting(s, base, level, z)
            if progressive:
                strings, y_hat, estimate = self.write_progressive(y, at, self.ahead(steps, *y.shape[2:]))
            else:
                strings, y_hat, estimate = self.write(y, at)
        level_map = b"" if steps is None else levelmap.encode_levels(steps[0, 0].cpu().numpy())
        total, least = len(strings[-1]), bitstream.least_bytes(y.shape[2] * y.shape[3])
        first = self.present(progressive)
        padded = [v.ljust(least, b"\0") if i == first else v for i, v in enumerate((level_map, *strings))]
        added = self.additions().get("cuts" if progressive else "context")
        name = added.name if added else self.name()
        data = bitstream.pack(
            Contents(
                *(self.config.codec, name, width, height, row),
                strings=tuple(padded),
                total=total if progressive else None,
            )
        )
        return Encoded(data, estimate + 8 * len(level_map), Sent(y_hat, width, height), self)

    @torch.inference_mode()
    def entropy_decode(self, data: bytes) -> Sent:
        self.built()
        file = bitstream.unpack(data)
        added = self.additions().get("context" if file.total is None else "cuts")
        other = added is not None and bitstream.is_by(file, added.name)
        if not other:
            bitstream.check_model(file, self.config.codec, self.name())
        if file.level > self.top_level * LEVEL_STEPS or len(file.strings) != 1 + self.coded_strings:
            raise BitstreamError("damaged file: it has a level or strings that this model does not know")
        level_map, strings = file.strings[0], file.strings[1:]
        h, w = -(-file.height // self.stride), -(-file.width // self.stride)
        bitstream.check_plausible(h * w, len(file.strings[self.present(file.total is not None)]))
        base = torch.full((1, 1, 1, 1), file.level / LEVEL_STEPS, device=self.device)
        level, steps = base, None
        if level_map:
            steps = torch.from_numpy(levelmap.decode_levels(level_map, -(-h // self.cell), -(-w // self.cell)))[
                None, None
            ].to(self.device)
            level = self.levels_at(steps, base, h, w)
        here = len(strings[-1])
        whole = file.total is None or here == file.total
        cut = bool(other) and MUCH[1] * here < MUCH[0] * (file.total or 0)
        with torch.autocast(self.device.type, enabled=False):
            if file.total is None:
                y_hat = (self.read_in_context if other else self.read)(strings, base, level, h, w)
            else:
                y_hat = self.read_progressive(strings, base, level, self.ahead(steps, h, w), whole, h, w)
        return Sent(y_hat, file.width, file.height, cut)

    def present(self, progressive: bool) -> int:
        """Of a file's strings the number of one that has symbols whatever was cut off: it is never very short."""
        return 2 if progressive else self.coded_strings

    def ahead(self, steps: Tensor | None, height: int, width: int) -> np.ndarray:
        """Each place's level by the level map less the base level, before it is clamped to the codec's range: height×width or
        1×1, in 1/LEVEL_STEPS."""
        if steps is None:
            return np.zeros((1, 1), dtype=np.int64)
        cells = conditioning.spread(steps, height, width, self.cell)[0, 0].cpu().numpy()
        return cells * round(conditioning.STEP * LEVEL_STEPS)

    def built(self) -> Tables:
        """The coding tables. Raises FoveaError when `update` has not run."""
        if self.tables is None:
            raise FoveaError("the codec has no coding tables: call update() after training")
        return self.tables

    @staticmethod
    def rows_at(level: Tensor) -> np.ndarray:
        """The number of each level among `rows`, int64, same shape."""
        return (level * LEVEL_STEPS).round().long().cpu().numpy()

    def channel_indexes(self, channels: int, level: Tensor, h: int, w: int) -> tuple[np.ndarray, np.ndarray]:
        """For each of channels·h·w symbols of one picture, channel by channel, an index into the used tables of the
        factorized prior; and these tables' numbers."""
        used, place = np.unique(self.rows_at(level).ravel(), return_inverse=True)
        channel = np.arange(channels, dtype=np.int32)
        tables = (used[:, None] * channels + channel).ravel()
        if place.size == 1:
            return np.repeat(channel, h * w), tables
        return (place.astype(np.int32)[None, :] * channels + channel[:, None]).ravel(), tables

    # ── weights ───────────────────────────────────────────────────────────────────────────────────────────────────

    def weights(self) -> dict[str, Tensor]:
        return super().weights() | (self.tables.tensors() if self.tables else {})

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        tables = Tables.from_tensors(weights)
        if tables is not None and len(tables) != self.count_tables():
            raise FoveaError(f"the coding tables are for another model: {len(tables)} of them")
        self.copy_weights({k: v for k, v in weights.items() if not k.startswith("tables.")})
        self.tables = tables

    def additions(self) -> dict[str, Addition]:
        if self.for_cuts is None:
            return {}
        return {"cuts": Addition(self.for_cuts.name, {k: v.cpu() for k, v in self.for_cuts.g_s.state_dict().items()})}

    def add(self, kind: str, weights: Mapping[str, Tensor]) -> None:
        if kind != "cuts":
            return super().add(kind, weights)
        g_s = copy.deepcopy(self.g_s)
        try:
            g_s.load_state_dict({k: v.float() for k, v in weights.items()})
        except RuntimeError as error:
            raise FoveaError(f"weights for cut files do not fit this {self.config.codec}: {error}") from error
        self.for_cuts = CutSynthesis(
            g_s.eval(), name_of(self.identity(), {k: v.cpu() for k, v in g_s.state_dict().items()})
        )

    def count_tables(self) -> int:
        """How many coding tables this configuration has."""
        return len(self.rows) * self.entropy_bottleneck.channels

    #: the weights that see the picture
    seen: tuple[str, ...] = ("g_a.0.weight",)

    #: how the names of parameters begin that a trunk lacks and that do nothing at the start
    conditioned: tuple[str, ...] = ("transforms.",)

    def fresh_parameters(self) -> list[nn.Parameter]:
        """As `Codec.fresh_parameters` says; the plane that `concat` adds to a layer of the trunk is none."""
        return [p for name, p in self.named_parameters() if name.startswith(self.conditioned)]

    def load_trunk(self, weights: Mapping[str, Tensor]) -> None:
        """As `Codec.load_trunk` says. concat: the map's input plane starts at zero; sft: the transforms do nothing."""
        start = {k: v for k, v in weights.items() if not k.startswith("tables.")}
        own = self.state_dict()
        for first in self.seen:
            if first in start and start[first].shape[1] == 3 and own[first].shape[1] == 4:
                start[first] = torch.cat((start[first], torch.zeros_like(start[first][:, :1])), dim=1)
        start |= {k: v for k, v in own.items() if k.startswith(self.conditioned) and k not in start}
        self.copy_weights(start)
        self.tables = None

    def load_compressai(self, state_dict: Mapping[str, Tensor]) -> None:
        """Take over a checkpoint of CompressAI's class for this paper, and build the coding tables from the quantiles
        that it has; names of its older releases are understood.

        Raises FoveaError for a codec with several levels or a mechanism of its own, and for a checkpoint of other
        widths or of another model.
        """
        if self.top_level or self.config.mechanism in NEEDS_MAP:
            raise FoveaError(
                "a CompressAI checkpoint has one rate and no map: load it into a codec with one lmbda and "
                "mechanism 'none', and branch from that"
            )
        start = {_current_name(k): v for k, v in state_dict.items()}
        own = {k: v for k, v in self.state_dict().items() if v.numel()}
        fixed = dict(self.named_buffers())
        start = {k: v for k, v in start.items() if not _REBUILT.fullmatch(k) and not k.startswith("gaussian_")}
        start |= {k: v for k, v in own.items() if k in fixed and k not in start}
        self.copy_weights(start)
        self.build_tables()


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.device.type == "cpu" else x


def _current_name(name: str) -> str:
    name = name.removeprefix("module.")
    return re.sub(
        r"^entropy_bottleneck\._(biases|matrices|factors)\.(\d)$",
        lambda found: (
            "entropy_bottleneck._" + {"biases": "bias", "matrices": "matrix", "factors": "factor"}[found[1]] + found[2]
        ),
        name,
    )
