"""Ballé, Laparra, Simoncelli 2017, "End-to-end optimized image compression" (ICLR), with variable rate and saliency.

              ┌──────────── g_a ────────────┐                                  ┌──────────── g_s ────────────┐
    x ──► conv 9×9 ↓4 ─ GDN ─ conv 5×5 ↓2 ─ GDN ─ conv 5×5 ↓2 ──► y ──► y_hat ──► deconv 5×5 ↑2 ─ IGDN ─ deconv 5×5 ↑2
    N×3×H×W        N              N              M      N×M×H/16×W/16   │              N              N   ─ IGDN
                                                                        │                 ─ deconv 9×9 ↑4 ──► x_hat
                     y ── gain ── round ── range coder with one density a channel ◄────┘                   N×3×H×W

The paper's transforms (N = M there), CompressAI's layers and entropy bottleneck. The last analysis layer has no bias:
the density's median stands for it. Training replaces rounding by uniform noise and minimises bits + lambda·255²·MSE.

What is added: gain vectors over the levels of `config.lmbda` (gain.py), the density evaluated on the bins that a gain
cuts (entropy.py), and the mechanisms of conditioning.py, in the encoder only: the decoder knows the file and nothing
else. With `gain` the file holds a level map; with the others every file decodes with the model alone.
"""

from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from models.codecs import bitstream, conditioning, levelmap
from models.codecs.base import (
    LEVEL_STEPS,
    Codec,
    CodecConfig,
    Encoded,
    Latents,
    Output,
    Picture,
    map_to_tensor,
    picture_to_tensor,
    tensor_to_picture,
)
from models.codecs.bitstream import BitstreamError, Contents
from models.codecs.compressai_import import GDN
from models.codecs.entropy import FactorizedPrior, Tables, bits, gain_rows
from models.codecs.gain import Gain
from models.errors import FoveaError


class Bls2017(Codec):
    """g_a, g_s, entropy_bottleneck, and where the configuration asks for them gain and transforms.

    Options: `cell`, latent positions along the side of one cell of the level map (default 1, 16×16 pixels). `dilation` of
    the four 5×5 layers (default 1): at 2 a latent sees 105 pixels a side instead of 57, with as many weights. In g_s a
    dilation of 2 at stride 2 reaches every second position only; the others hold the bias: the checkerboard of Odena
    2016, "Deconvolution and checkerboard artifacts", at its strongest (training/checkerboard.py measures it).
    """

    stride = 16

    def __init__(self, config: CodecConfig):
        super().__init__(config)
        n, m = config.n, config.m
        options = dict(config.options)
        self.cell = int(options.get("cell", 1))
        d = int(options.get("dilation", 1))
        self.maps = config.mechanism in conditioning.NEEDS_MAP
        self.g_a = nn.Sequential(
            nn.Conv2d(4 if config.mechanism == "concat" else 3, n, 9, stride=4, padding=4),
            GDN(n),
            nn.Conv2d(n, n, 5, stride=2, padding=2 * d, dilation=d),
            GDN(n),
            nn.Conv2d(n, m, 5, stride=2, padding=2 * d, dilation=d, bias=False),
        )
        self.g_s = nn.Sequential(
            nn.ConvTranspose2d(m, n, 5, stride=2, padding=2 * d, output_padding=1, dilation=d),
            GDN(n, inverse=True),
            nn.ConvTranspose2d(n, n, 5, stride=2, padding=2 * d, output_padding=1, dilation=d),
            GDN(n, inverse=True),
            nn.ConvTranspose2d(n, 3, 9, stride=4, padding=4, output_padding=3),
        )
        # pictures start from mid-grey: a short training need not spend its steps on getting there
        nn.init.constant_(cast(Tensor, self.g_s[4].bias), 0.5)
        self.entropy_bottleneck = FactorizedPrior(m)
        self.gain = Gain(m, config.lmbda)
        if config.mechanism == "sft":
            self.transforms = nn.ModuleList(conditioning.FeatureTransform(c) for c in (n, n, m))
        self.tables: Tables | None = None

    # ── training ──────────────────────────────────────────────────────────────────────────────────────────────────

    def forward(
        self,
        x: Tensor,
        *,
        saliency_map: Tensor | None = None,
        level: Tensor | None = None,
        centre: Tensor | None = None,
    ) -> Output:
        """As `Codec.forward` says. likelihoods: "y", N×M×H/16×W/16."""
        y = self.analyse(x, saliency_map)
        places, steps = self.places(self.base_level(x, level), y, saliency_map, centre)
        side_bits = x.new_zeros(x.shape[0]) if steps is None else levelmap.estimate_bits(steps)
        with torch.autocast(x.device.type, enabled=False):
            y_hat, likelihoods = self.entropy_bottleneck(y.float(), self.gains(places))
        x_hat = self.g_s(y_hat)
        lmbda = self.lmbda_at(places)
        if places.shape[2] > 1 or places.shape[3] > 1:
            lmbda = conditioning.spread(lmbda, x.shape[2], x.shape[3], self.stride)
        return Output(x_hat, {"y": likelihoods}, side_bits, lmbda)

    def analyse(self, x: Tensor, saliency_map: Tensor | None) -> Tensor:
        """y, N×M×H/16×W/16."""
        mechanism = self.config.mechanism
        if mechanism == "concat":
            x = torch.cat((x, self.given(saliency_map)), dim=1)
        if mechanism != "sft":
            return self.g_a(x)
        for i, layer in enumerate(self.g_a):
            x = layer(x)
            if i in (1, 3, 4):
                x = self.transforms[i // 2](x, self.given(saliency_map))
        return x

    def given(self, saliency_map: Tensor | None) -> Tensor:
        """The map. Raises FoveaError without one."""
        if saliency_map is None:
            raise FoveaError(f"a codec with mechanism {self.config.mechanism!r} needs a saliency map")
        return saliency_map

    def gains(self, level: Tensor) -> tuple[Tensor, Tensor] | None:
        """Gain and inverse gain at levels N×1×h×w; None for a codec with a single level."""
        return self.gain(level) if self.top_level else None

    def base_level(self, x: Tensor, level: Tensor | None) -> Tensor:
        """One level a picture, N×1×1×1, the middle one by default."""
        if level is None:
            level = x.new_full((x.shape[0],), 0.5 * self.top_level)
        return level.to(x).reshape(-1, 1, 1, 1)

    def places(
        self, base: Tensor, y: Tensor, saliency_map: Tensor | None, centre: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The level at each latent position (N×1×h×w), and the level map behind it (int64, one value for each cell of
        16·cell pixels). Without `gain` the base level (N×1×1×1), and None."""
        if self.config.mechanism != "gain":
            return base, None
        steps = conditioning.level_steps(
            self.given(saliency_map), self.config.gamma, self.config.span, self.stride * self.cell, centre
        )
        return self.levels_at(steps, base, y.shape[2], y.shape[3]), steps

    def levels_at(self, steps: Tensor, base: Tensor, height: int, width: int) -> Tensor:
        """The level at each latent position, N×1×height×width, from the level map and the base level."""
        level = (base + conditioning.STEP * steps).clamp(0, self.top_level)
        return conditioning.spread(level, height, width, self.cell)

    def aux_loss(self) -> Tensor:
        """As `Codec.aux_loss` says."""
        return self.entropy_bottleneck.loss()

    # ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @torch.no_grad()
    def update(self) -> None:
        """As `Codec.update` says. One table for each channel and each level that a file can name."""
        self.entropy_bottleneck.solve_quantiles()
        rows = gain_rows(len(self.config.lmbda), LEVEL_STEPS)
        if self.top_level:
            level = torch.tensor(rows, device=self.device).reshape(-1, 1, 1, 1)
            self.tables = self.entropy_bottleneck.tables(list(self.gain(level)[0][:, :, 0, 0]))
        else:
            self.tables = self.entropy_bottleneck.tables([None])
        self._identity = None

    @torch.no_grad()
    def latents(
        self, x: Tensor, *, saliency_map: Tensor | None = None, level: Tensor | None = None
    ) -> Latents:
        """As `Codec.latents` says."""
        with torch.autocast(x.device.type, enabled=False):
            y = self.analyse(x, saliency_map)
            gain = self.gains(self.places(self.base_level(x, level), y, saliency_map)[0])
            symbols = self.entropy_bottleneck.symbols(y, gain)
            return Latents(symbols, self.entropy_bottleneck.dequantized(symbols, gain))

    @torch.no_grad()
    def synthesise(self, y_hat: Tensor) -> Tensor:
        """As `Codec.synthesise` says."""
        with torch.autocast(y_hat.device.type, enabled=False):
            return self.g_s(y_hat)

    def escaped(self, symbols: Tensor, level: Tensor) -> np.ndarray:
        """As `Codec.escaped` says."""
        outside = np.zeros(self.config.m)
        for one, at in zip(symbols, level.reshape(-1, 1, 1, 1, 1), strict=True):
            indexes, tables = self._indexes(at, *one.shape[1:])
            held = self.built().holds(one.cpu().numpy().ravel(), indexes, tables)
            outside += (~held).reshape(self.config.m, -1).mean(axis=1)
        return outside / len(symbols)

    @torch.inference_mode()
    def encode(
        self, picture: Picture, *, saliency_map: Picture | None = None, lmbda: float | None = None
    ) -> Encoded:
        """As `Codec.encode` says. A mechanism that uses no map ignores one."""
        tables = self.built()
        height, width = picture.shape[:2]
        bitstream.check_size(width, height)
        device = self.device
        x = picture_to_tensor(picture, self.stride).to(device)
        s = None
        if self.maps:
            if saliency_map is None:
                raise FoveaError(f"a codec with mechanism {self.config.mechanism!r} needs a saliency map")
            s = map_to_tensor(saliency_map, (height, width), self.stride).to(device)
        base = self.level_of(lmbda) if lmbda is not None else 0.5 * self.top_level
        row = round(base * LEVEL_STEPS)

        with torch.autocast(device.type, enabled=False):
            y = self.analyse(x, s)
            base_level = self.base_level(x, torch.tensor([row / LEVEL_STEPS]))
            level, steps = self.places(base_level, y, s)
            gain = self.gains(level)
            symbols = self.entropy_bottleneck.symbols(y, gain)
            likelihoods = self.entropy_bottleneck(y, gain, training=False)[1]

        level_map = b"" if steps is None else levelmap.encode_levels(steps[0, 0].cpu().numpy())
        indexes, used = self._indexes(level, y.shape[2], y.shape[3])
        coded, escapes = tables.encode(symbols.cpu().numpy().ravel(), indexes, used)
        coded = coded.ljust(bitstream.least_bytes(y.shape[2] * y.shape[3]), b"\0")
        data = bitstream.pack(
            Contents(self.config.codec, self.name(), width, height, row, (level_map, escapes, coded))
        )
        reconstruction = tensor_to_picture(self._show(symbols, level), height, width)
        return Encoded(data, reconstruction, bits({"y": likelihoods}) + 8 * len(level_map))

    @torch.inference_mode()
    def decode(self, data: bytes) -> Picture:
        """As `Codec.decode` says."""
        tables = self.built()
        file = bitstream.unpack(data)
        bitstream.check_model(file, self.config.codec, self.name())
        if file.level > self.top_level * LEVEL_STEPS or len(file.strings) != 3:
            raise BitstreamError("damaged file: it has a level or strings that this model does not know")
        level_map, escapes, coded = file.strings
        h, w = -(-file.height // self.stride), -(-file.width // self.stride)
        bitstream.check_plausible(h * w, len(coded))
        device = self.device
        level = torch.full((1, 1, 1, 1), file.level / LEVEL_STEPS, device=device)
        if level_map:
            steps = levelmap.decode_levels(level_map, -(-h // self.cell), -(-w // self.cell))
            level = self.levels_at(torch.from_numpy(steps)[None, None].to(device), level, h, w)
        indexes, used = self._indexes(level, h, w)
        symbols = torch.from_numpy(tables.decode(coded, escapes, indexes, used))
        x_hat = self._show(symbols.reshape(1, self.config.m, h, w).to(device), level)
        return tensor_to_picture(x_hat, file.height, file.width)

    def _show(self, symbols: Tensor, level: Tensor) -> Tensor:
        """Encoder and decoder run this on equal tensors, so that both see the same picture."""
        return self.synthesise(self.entropy_bottleneck.dequantized(symbols, self.gains(level)))

    def _indexes(self, level: Tensor, h: int, w: int) -> tuple[np.ndarray, np.ndarray]:
        """For each of M·h·w symbols, channel by channel, an index into the used tables; and these tables' numbers."""
        m = self.config.m
        rows = (level[0, 0] * LEVEL_STEPS).round().int().cpu().numpy().ravel()
        used, place = np.unique(rows, return_inverse=True)
        channel = np.arange(m, dtype=np.int32)
        tables = (used[:, None] * m + channel).ravel()
        if place.size == 1:
            return np.repeat(channel, h * w), tables
        return (place.astype(np.int32)[None, :] * m + channel[:, None]).ravel(), tables

    def built(self) -> Tables:
        """The coding tables. Raises FoveaError when `update` has not run."""
        if self.tables is None:
            raise FoveaError("the codec has no coding tables: call update() after training")
        return self.tables

    # ── weights ───────────────────────────────────────────────────────────────────────────────────────────────────

    def weights(self) -> dict[str, Tensor]:
        """As `Codec.weights` says."""
        return super().weights() | (self.tables.tensors() if self.tables else {})

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """As `Codec.load_weights` says."""
        tables = Tables.from_tensors(weights)
        rows = len(gain_rows(len(self.config.lmbda), LEVEL_STEPS))
        if tables is not None and len(tables) != rows * self.config.m:
            raise FoveaError(f"the coding tables are for another model: {len(tables)} of them")
        self.copy_weights({k: v for k, v in weights.items() if not k.startswith("tables.")})
        self.tables = tables

    def load_trunk(self, weights: Mapping[str, Tensor]) -> None:
        """As `Codec.load_trunk` says. concat: the map's input plane starts at zero; sft: the transforms do nothing."""
        start = {k: v for k, v in weights.items() if not k.startswith("tables.")}
        own = self.state_dict()
        first = "g_a.0.weight"
        if first in start and start[first].shape[1] == 3 and own[first].shape[1] == 4:
            start[first] = torch.cat((start[first], torch.zeros_like(start[first][:, :1])), dim=1)
        start |= {k: v for k, v in own.items() if k.startswith("transforms.") and k not in start}
        self.copy_weights(start)
        self.tables = None
