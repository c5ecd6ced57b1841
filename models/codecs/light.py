"""A codec for photographs that a processor codes in a fraction of a second: this project's own.

    x ─► unshuffle 4 ─ conv ─ 2 blocks ─ conv ↓2 ─ 3 blocks ─ conv ↓2 ─ 2 blocks ─ 1×1 ─► y
    y_hat ─► 1×1 ─ 3 blocks ─ ↑2 ─ 3 blocks ─ ↑2 ─ 2 blocks ─ conv ─ shuffle 4 ─► x_hat
    and beside each its line: x ─► unshuffle 16 ─ 1×1 ─► + y;  y_hat ─► 1×1 ─ shuffle 16 ─► + x_hat

Mean-scale hyperprior (Minnen et al. 2018) in integers, so that its files decode on any machine (hyperprior.py), which a
context model in integers joins when all else is trained (context.py), and gains (Cui et al. 2021) for all rates and for levels that differ from place to place. No layer works
at more than a quarter of the picture's sides. Blocks are residual bottlenecks (He et al. 2016) with ReLU, as in ELIC (He
et al. 2022). Training rates noisy latents and shows h_s and g_s the symbols that files have, with the gradient passed
straight through (Minnen and Singh 2020, "Channel-wise autoregressive entropy models").

The lines start as the principal components of pictures' blocks (`start`), the networks as small corrections of them. A
network alone leaves most of its channels of y unused, whatever the rate, and ends at 33 dB: nothing leads a gradient to
them.

Widths: `n` channels of z and `m` of y; those of the transforms follow from `m`.
"""

import functools
import math
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from models.card import Card, Option, Rate
from models.codecs.base import CodecConfig, Picture
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
BLOCK = 16
"""Pixels along the side of a block: a place of y."""
CORRECTION = 0.01
"""Of the usual size: the networks' last weights when a training starts."""
SEEN = 20_000
"""Blocks that principal components are taken from."""


class Block(nn.Module):
    """x + a bottleneck of half the channels; nearly the identity at the start."""

    def __init__(self, channels: int):
        super().__init__()
        half = channels // 2
        last = conv(half, channels, 1, 1)
        nn.init.normal_(last.weight, std=0.01)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.body = nn.Sequential(conv(channels, half, 1, 1), nn.ReLU(), conv(half, half, 3, 1), nn.ReLU(), last)

    def forward(self, x: Tensor) -> Tensor:
        """x: N×C×h×w, and so is the result."""
        out: Tensor = x + self.body(x)
        return out


class Sum(nn.ModuleList):
    """Of what its parts make of the same values."""

    def forward(self, x: Tensor) -> Tensor:
        """x: what each part takes."""
        return functools.reduce(torch.add, (part(x) for part in self))


class Light(HyperpriorCodec):
    """h_a sees y with its signs; h_s, kept small since it runs in integers, gives M scales, then M means."""

    arithmetics = ("integer",)
    straight_through = True
    worth = 20.0

    def __init__(self, config: CodecConfig):
        super().__init__(config)
        n, m = config.n, config.m
        self.h_a = nn.Sequential(conv(m, n, 3, 1), nn.LeakyReLU(), conv(n, n, 3), nn.LeakyReLU(), conv(n, n, 3))
        self.h_s = nn.Sequential(
            nn.ConvTranspose2d(n, n, 4, 2, 1),
            nn.LeakyReLU(),
            nn.ConvTranspose2d(n, n, 4, 2, 1),
            nn.LeakyReLU(),
            conv(n, 2 * m, 1, 1),
        )

    def layers(self, planes: int) -> tuple[nn.Sequential, nn.Sequential]:
        m = self.config.m
        a, b, c = (m * v // 16 for v in ANALYSIS)
        analysis = nn.Sequential(
            *(nn.PixelUnshuffle(4), conv(16 * planes, a, 3, 1), Block(a), Block(a)),
            *(conv(a, b, 3), Block(b), Block(b), Block(b)),
            *(conv(b, c, 3), Block(c), Block(c), conv(c, m, 1, 1)),
        )
        c, b, a = (m * v // 16 for v in SYNTHESIS)
        synthesis = nn.Sequential(
            *(conv(m, c, 1, 1), Block(c), Block(c), Block(c)),
            *(conv(c, 4 * b, 1, 1), nn.PixelShuffle(2), Block(b), Block(b), Block(b)),
            *(conv(b, 4 * a, 1, 1), nn.PixelShuffle(2), Block(a), Block(a)),
            *(conv(a, 48, 3, 1), nn.PixelShuffle(4)),
        )
        values = planes * BLOCK**2
        return (
            nn.Sequential(Sum([analysis, nn.Sequential(nn.PixelUnshuffle(BLOCK), conv(values, m, 1, 1))])),
            nn.Sequential(Sum([synthesis, nn.Sequential(conv(m, 3 * BLOCK**2, 1, 1), nn.PixelShuffle(BLOCK))])),
        )

    @torch.no_grad()
    def start(self, pictures: Sequence[Picture], seed: int = 0) -> None:
        """As `Codec.start` says: the lines as principal components, the first of them in the first channels, in bins that
        suit the middle lambda: at high rate, where a bin's squared error is Δ²/12, bits + lambda · 255² · MSE is least for
        255² Δ² = 6 · 3 · log2(e) / lambda, Δ of orthonormal components of 3 · 256 values in [0, 1]."""
        m, lmbda = self.config.m, self.config.lmbda
        blocks = _blocks(pictures, seed)
        if not len(blocks):
            return
        mean = blocks.mean(dim=0)
        variances, components = torch.linalg.eigh((blocks - mean).T @ (blocks - mean) / len(blocks))
        variances, components = variances.flip(0)[:m], components.flip(1)[:, :m]
        middle = math.sqrt(lmbda[0] * lmbda[-1])
        size = math.sqrt(18 * math.log2(math.e) / middle) / 255
        analysis, into, synthesis, out = (_last(part) for side in (self.g_a, self.g_s) for part in side[0])  # type: ignore[attr-defined]
        into.weight.copy_((components.T / size)[:, :, None, None])
        _bias(into).copy_(-(mean @ components) / size)
        out.weight.copy_((components * size)[:, :, None, None])
        _bias(out).copy_(mean)
        for layer in (analysis, synthesis, scales := _last(self.h_s)):
            layer.weight.mul_(CORRECTION)
            _bias(layer).zero_()
        _bias(scales)[:m].copy_((variances.clamp_min(0).sqrt() / size).clamp_min(0.2))


def _last(module: nn.Module) -> nn.Conv2d:
    """The last convolution in it."""
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)][-1]


def _bias(layer: nn.Conv2d) -> Tensor:
    return cast(Tensor, layer.bias)


def _blocks(pictures: Sequence[Picture], seed: int) -> Tensor:
    """Blocks at random places, float64 in [0, 1]: one a row, its colours one after the other as PixelUnshuffle has them."""
    rng = np.random.default_rng(seed)
    large = [p for p in pictures if min(p.shape[:2]) >= BLOCK]
    blocks = np.empty((SEEN if large else 0, 3, BLOCK, BLOCK), dtype=np.uint8)
    for block in blocks:
        picture = large[rng.integers(len(large))]
        top, left = (rng.integers(side - BLOCK + 1) for side in picture.shape[:2])
        block[:] = picture[top : top + BLOCK, left : left + BLOCK].transpose(2, 0, 1)
    return torch.from_numpy(blocks).flatten(1).double() / 255
