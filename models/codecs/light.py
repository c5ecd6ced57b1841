"""A codec for photographs that a processor codes in a fraction of a second: this project's own.

    x ─► unshuffle 4 ─ conv ─ 2 blocks ─ conv ↓2 ─ 3 blocks ─ conv ↓2 ─ 2 blocks ─ 1×1 ─► y
    y_hat ─► 1×1 ─ 3 blocks ─ ↑2 ─ 3 blocks ─ ↑2 ─ 2 blocks ─ conv ─ shuffle 4 ─► x_hat

Mean-scale hyperprior (Minnen et al. 2018) without a context model, so that its files decode on any machine
(hyperprior.py), and gains (Cui et al. 2021) for all rates and for levels that differ from place to place. No layer works
at more than a quarter of the picture's sides. Blocks are residual bottlenecks (He et al. 2016) with ReLU, as in ELIC (He
et al. 2022). Training rates noisy latents and synthesises from rounded ones, with the gradient passed straight through
(Minnen and Singh 2020, "Channel-wise autoregressive entropy models").

Widths: `n` channels of z and `m` of y; those of the transforms follow from `m`.
"""

from torch import Tensor, nn

from models.card import Card, Option, Rate
from models.codecs.base import CodecConfig
from models.codecs.hyperprior import HyperpriorCodec
from models.codecs.layers import conv

CARD = Card(
    name="light",
    paper="Fovea: mean-scale hyperprior after Minnen, Ballé, Toderici 2018 with the residual bottlenecks of He et al. 2022 (ELIC)",
    codec="Light",
    rate=Rate(name="lmbda", unit="Lagrange multiplier of 255² · MSE"),
    mechanisms=("none", "loss", "gain"),
    options={"cell": Option(default=1, least=1)},
)

ANALYSIS, SYNTHESIS = (6, 10, 16), (14, 9, 5)
"""Channels at a quarter, an eighth and a sixteenth of the picture's sides, and back, in sixteenths of M."""


class Block(nn.Module):
    """x + a bottleneck of half the channels; nearly the identity at the start."""

    def __init__(self, channels: int):
        super().__init__()
        half = channels // 2
        last = conv(half, channels, 1, 1)
        nn.init.normal_(last.weight, std=0.01)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.body = nn.Sequential(
            conv(channels, half, 1, 1), nn.ReLU(), conv(half, half, 3, 1), nn.ReLU(), last
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: N×C×h×w, and so is the result."""
        out: Tensor = x + self.body(x)
        return out


class Light(HyperpriorCodec):
    """h_a sees y with its signs; h_s, kept small since it runs in integers, gives M scales, then M means."""

    arithmetics = ("integer",)
    straight_through = True

    def __init__(self, config: CodecConfig):
        super().__init__(config)
        n, m = config.n, config.m
        self.h_a = nn.Sequential(
            conv(m, n, 3, 1), nn.LeakyReLU(), conv(n, n, 3), nn.LeakyReLU(), conv(n, n, 3)
        )
        self.h_s = nn.Sequential(
            nn.ConvTranspose2d(n, n, 4, 2, 1),
            nn.LeakyReLU(),
            nn.ConvTranspose2d(n, n, 4, 2, 1),
            nn.LeakyReLU(),
            conv(n, 2 * m, 1, 1),
        )

    def layers(self, planes: int) -> tuple[nn.Sequential, nn.Sequential]:
        """As `ConditionedCodec.layers` says."""
        m = self.config.m
        a, b, c = (m * v // 16 for v in ANALYSIS)
        g_a = nn.Sequential(
            *(nn.PixelUnshuffle(4), conv(16 * planes, a, 3, 1), Block(a), Block(a)),
            *(conv(a, b, 3), Block(b), Block(b), Block(b)),
            *(conv(b, c, 3), Block(c), Block(c), conv(c, m, 1, 1)),
        )
        c, b, a = (m * v // 16 for v in SYNTHESIS)
        g_s = nn.Sequential(
            *(conv(m, c, 1, 1), Block(c), Block(c), Block(c)),
            *(conv(c, 4 * b, 1, 1), nn.PixelShuffle(2), Block(b), Block(b), Block(b)),
            *(conv(b, 4 * a, 1, 1), nn.PixelShuffle(2), Block(a), Block(a)),
            *(conv(a, 48, 3, 1), nn.PixelShuffle(4)),
        )
        return g_a, g_s
