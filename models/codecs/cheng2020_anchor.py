"""Cheng, Sun, Takeuchi, Katto 2020, "Learned image compression with discretized Gaussian mixture likelihoods and
attention modules" (CVPR): `cheng2020_anchor`, CompressAI's anchor with residual blocks and one Gaussian a symbol.

Scales and means of y come from z_hat *and* from the symbols before it in raster order, through a masked 5×5 convolution
(Minnen 2018). So decoding walks over the places one by one, and what a place's coding tables are hangs on float results
of all places before it: **a file decodes for certain only on the build and device that wrote it**. All other codecs
here promise more.

    z_hat ─► h_s ────────────────────┐
    y_hat above and left ─► context ─┴─► entropy_parameters ─► sigma, mu of this place, all channels

Training has y + noise stand for y_hat; `forward` in evaluation has round(y), as CompressAI has. Files have
round((y − mu)·g) like the other hyperpriors, which is why their estimate is not quite that of `forward`. With n = m the
layers, widths and state-dict names are CompressAI's.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.card import Card, Option, Rate
from models.codecs.base import CodecConfig, Latents
from models.codecs.conditioned import Modelled, Setting
from models.codecs.entropy import Reader, bits, used
from models.codecs.hyperprior import HyperpriorCodec, Parameters
from models.codecs.hyperprior_model import HYPER

# isort: split
# after compressai_import, which keeps the rest of the package from loading
from compressai.layers import (
    MaskedConv2d,
    ResidualBlock,
    ResidualBlockUpsample,
    ResidualBlockWithStride,
    conv3x3,
    subpel_conv3x3,
)

CARD = Card(
    name="cheng2020_anchor",
    paper="Cheng, Sun, Takeuchi, Katto 2020, Learned image compression with discretized Gaussian mixture likelihoods and attention modules (CVPR)",
    codec="Cheng2020Anchor",
    rate=Rate(name="lmbda", unit="Lagrange multiplier of 255² · MSE"),
    mechanisms=("none", "loss", "concat", "sft", "gain"),
    options={"cell": Option(default=1, least=1), "arithmetic": Option(default="float", choices=("float",))},
)

REACH = 2
"""Places on each side that the context sees."""

#: (i, j, sigma, mu, gain) to the symbols of a place as floats; all N×M×1×1
Step = Callable[[int, int, Tensor, Tensor, Tensor], Tensor]


class Cheng2020Anchor(HyperpriorCodec):
    """context_prediction and entropy_parameters beside what HyperpriorCodec has."""

    arithmetics = ("float",)
    seen = ("g_a.0.conv1.weight", "g_a.0.skip.weight")

    def __init__(self, config: CodecConfig):
        super().__init__(config)
        n, m = config.n, config.m
        self.h_a = nn.Sequential(
            conv3x3(m, n),
            nn.LeakyReLU(inplace=True),
            conv3x3(n, n),
            nn.LeakyReLU(inplace=True),
            conv3x3(n, n, stride=2),
            nn.LeakyReLU(inplace=True),
            conv3x3(n, n),
            nn.LeakyReLU(inplace=True),
            conv3x3(n, n, stride=2),
        )
        self.h_s = nn.Sequential(
            conv3x3(n, n),
            nn.LeakyReLU(inplace=True),
            subpel_conv3x3(n, n, 2),
            nn.LeakyReLU(inplace=True),
            conv3x3(n, n * 3 // 2),
            nn.LeakyReLU(inplace=True),
            subpel_conv3x3(n * 3 // 2, n * 3 // 2, 2),
            nn.LeakyReLU(inplace=True),
            conv3x3(n * 3 // 2, m * 2),
        )
        self.entropy_parameters = nn.Sequential(
            nn.Conv2d(m * 12 // 3, m * 10 // 3, 1),
            nn.LeakyReLU(inplace=True),
            nn.Conv2d(m * 10 // 3, m * 8 // 3, 1),
            nn.LeakyReLU(inplace=True),
            nn.Conv2d(m * 8 // 3, m * 6 // 3, 1),
        )
        self.context_prediction = MaskedConv2d(m, 2 * m, kernel_size=2 * REACH + 1, padding=REACH, stride=1)

    def layers(self, planes: int) -> tuple[nn.Sequential, nn.Sequential]:
        n, m = self.config.n, self.config.m
        g_a = nn.Sequential(
            ResidualBlockWithStride(planes, n, stride=2),
            ResidualBlock(n, n),
            ResidualBlockWithStride(n, n, stride=2),
            ResidualBlock(n, n),
            ResidualBlockWithStride(n, n, stride=2),
            ResidualBlock(n, n),
            conv3x3(n, m, stride=2),
        )
        g_s = nn.Sequential(
            ResidualBlock(m, n),
            ResidualBlockUpsample(n, n, 2),
            ResidualBlock(n, n),
            ResidualBlockUpsample(n, n, 2),
            ResidualBlock(n, n),
            ResidualBlockUpsample(n, n, 2),
            ResidualBlock(n, n),
            subpel_conv3x3(n, 3, 2),
        )
        return g_a, g_s

    @staticmethod
    def split(parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        """As `HyperpriorCodec.split` says; here what h_s gives is one of two inputs of entropy_parameters."""
        return parameters, None

    refinable = False

    def analyse(self, x: Tensor, saliency_map: Tensor | None) -> Tensor:
        # oneDNN's backward of a 1×1 convolution with stride 2 writes out of bounds for channels-last inputs (torch 2.15)
        return super().analyse(x.contiguous(), saliency_map)

    # ── training ──────────────────────────────────────────────────────────────────────────────────────────────────

    def model(self, y: Tensor, at: Setting) -> Modelled:
        """As `HyperpriorCodec.model` says; the context sees what is rounded, so `quantise` is not for it."""
        base, z = at.base, self.latent_z(y, at)
        gain = self.gains(at.level)
        with torch.autocast(y.device.type, enabled=False):
            y = y.float()
            z_hat, z_likelihoods = self.entropy_bottleneck(z.float(), self.gains_z(base))
            mode = "noise" if self.training else "dequantize"
            scaled = y if gain is None else y * gain[0]
            y_hat = self.gaussian_conditional.quantize(scaled, mode)
            if gain is not None:
                y_hat = y_hat * gain[1]
        told = self.h_s(z_hat)[:, :, : y.shape[2], : y.shape[3]]
        both = torch.cat((told, self.context_prediction(y_hat)), dim=1)
        sigma, mu = self.entropy_parameters(both).chunk(2, dim=1)
        with torch.autocast(y.device.type, enabled=False):
            y_likelihoods = self._gaussian(y, sigma.float(), mu.float(), gain)[1]
        return Modelled(self._with_z(y_hat, z_hat), {"y": y_likelihoods, "z": z_likelihoods})

    # ── symbols, one place after the other ────────────────────────────────────────────────────────────────────────

    @torch.no_grad()
    def build_tables(self) -> None:
        """With weights of the context that are 0 where it sees nothing, as each forward makes them: the codec's name is theirs."""
        self.context_prediction.weight.mul_(self.context_prediction.mask)
        super().build_tables()

    def _walk(self, told: Tensor, gain: tuple[Tensor, Tensor] | None, step: Step) -> Tensor:
        """y_hat, N×M×h×w. Encoder and decoder compute each place by the same operations on the same shapes, so that
        they have the same tables."""
        n, _, h, w = told.shape
        m = self.config.m
        seen = told.new_zeros(n, m, h + 2 * REACH, w + 2 * REACH)
        weight = self.context_prediction.weight * self.context_prediction.mask
        one = told.new_ones(1, 1, 1, 1)
        field = [g.expand(n, m, h, w) for g in gain or (one, one)]
        for i in range(h):
            for j in range(w):
                around = seen[:, :, i : i + 2 * REACH + 1, j : j + 2 * REACH + 1]
                context = F.conv2d(around, weight, bias=self.context_prediction.bias)
                both = torch.cat((told[:, :, i : i + 1, j : j + 1], context), dim=1)
                sigma, mu = self.entropy_parameters(both).chunk(2, dim=1)
                forward, inverse = (g[:, :, i : i + 1, j : j + 1] for g in field)
                value = step(i, j, sigma, mu, forward) * inverse + mu
                seen[:, :, i + REACH : i + REACH + 1, j + REACH : j + REACH + 1] = value
        return seen[:, :, REACH : REACH + h, REACH : REACH + w].contiguous()

    def _quantised(self, y: Tensor, told: Tensor, gain: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
        """y_hat, symbols (floats) and the scales that they are coded with, all N×M×h×w."""
        symbols, scales = torch.empty_like(y), torch.empty_like(y)

        def step(i: int, j: int, sigma: Tensor, mu: Tensor, g: Tensor) -> Tensor:
            q = torch.round((y[:, :, i : i + 1, j : j + 1] - mu) * g)
            symbols[:, :, i : i + 1, j : j + 1] = q
            scales[:, :, i : i + 1, j : j + 1] = sigma * g
            return q

        return self._walk(told, gain, step), symbols, scales

    def _hyper(self, y: Tensor, at: Setting) -> tuple[Tensor, Tensor, Parameters]:
        z = self.latent_z(y, at)
        symbols = self.entropy_bottleneck.symbols(z, self.gains_z(at.base))
        return z, symbols, self.parameters_for(symbols, at.base, y.shape[2], y.shape[3])

    def quantise(self, y: Tensor, at: Setting) -> Latents:
        p = self._hyper(y, at)[2]
        y_hat, symbols, _ = self._quantised(y, p.sigma, self.gains(at.level))
        return Latents(symbols.int(), self._with_z(y_hat, p.z_hat))

    # ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def write(self, y: Tensor, at: Setting) -> tuple[tuple[bytes, ...], Tensor, float]:
        """As `ConditionedCodec.write` says. y's symbols stand place by place, all channels of a place together."""
        tables, base = self.built(), at.base
        z, z_symbols, p = self._hyper(y, at)
        channels = self.channel_indexes(self.config.n, base, z.shape[2], z.shape[3])
        coded_z, escapes_z = tables.encode(z_symbols.cpu().numpy().ravel(), *channels)
        y_hat, symbols, scales = self._quantised(y, p.sigma, self.gains(at.level))
        indexes_y = self.larger_scales(scales)
        in_order, which = (t[0].permute(1, 2, 0).int().cpu().numpy().ravel() for t in (symbols, indexes_y))
        coded_y, escapes_y = tables.encode(in_order, which, np.arange(self.first_scale, len(tables), dtype=np.int32))
        likelihoods = {
            "y": self._likelihood(symbols, scales),
            "z": self.entropy_bottleneck(z, self.gains_z(base), training=False)[1],
        }
        estimate = bits(likelihoods, escapes_z + escapes_y)
        return (escapes_z, coded_z, escapes_y, coded_y), self._with_z(y_hat, p.z_hat), estimate

    def read(self, strings: tuple[bytes, ...], base: Tensor, level: Tensor, h: int, w: int) -> Tensor:
        escapes_z, coded_z, escapes_y, coded_y = strings
        tables, n = self.built(), self.config.n
        channels = self.channel_indexes(n, base, -(-h // HYPER), -(-w // HYPER))
        z = torch.from_numpy(tables.decode(coded_z, escapes_z, *channels)).to(self.device)
        p = self.parameters_for(z.reshape(1, n, -(-h // HYPER), -(-w // HYPER)), base, h, w)
        reader = Reader(tables, coded_y, escapes_y, self.config.m * h * w)

        def step(i: int, j: int, sigma: Tensor, mu: Tensor, g: Tensor) -> Tensor:
            indexes, numbers = used(self.larger_scales(sigma * g).cpu().numpy().ravel())
            symbols = reader.read(indexes, self.first_scale + numbers)
            return torch.from_numpy(symbols).to(sigma).reshape(1, -1, 1, 1)

        y_hat = self._walk(p.sigma, self.gains(level), step)
        reader.end()
        return self._with_z(y_hat, p.z_hat)
