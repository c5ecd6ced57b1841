"""How a saliency map reaches a codec: `concat`, `sft`, `gain`, `hyper`. (`none` and `loss` leave the codec as it is.)

    concat   the map is the encoder's fourth input plane
    sft      spatial feature transforms after the encoder's stages: x·(1 + scale) + shift (Song et al. 2021)
    gain     the map moves the rate level from place to place; the level map is quantised and sent
    hyper    the same levels, but not sent: the hyperprior learns to say them (hyperprior_model.py)

Levels of `gain` and `hyper`. With p = (map pooled to one value a cell)^gamma and the centre c = the picture's mean of
p, the level at a cell is base + span·(p − c), moved in steps of STEP levels, then clamped to the levels that exist. The
mean level is the base level, so the geometric mean of the places' lambdas is the base lambda. At high rate, where a
place's bits grow with −log D and D is proportional to 1/lambda, that spends the same bits, and curves over lambda
compare like with like. A constant map gives the base level everywhere, exactly. Near an end of the range only the cells
that would leave it are held at the end: the picture's rate then moves along the curve, but neighbouring base levels
stay different points, because the other cells still follow the base.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEP = 0.5
"""Distance of neighbouring values in the level map, in levels."""


def pool(saliency_map: Tensor, cell: int) -> Tensor:
    """Mean over cells of cell×cell pixels: N×1×H×W to N×1×⌈H/cell⌉×⌈W/cell⌉."""
    return F.avg_pool2d(saliency_map, cell, ceil_mode=True, count_include_pad=False)


def centre(saliency_map: Tensor, gamma: float, cell: int) -> Tensor:
    """The mean of the pooled map^gamma, N floats: what `gain` moves around. Take it from whole maps, not from crops."""
    return pool(saliency_map, cell).pow(gamma).mean(dim=(1, 2, 3))


def level_steps(saliency_map: Tensor, gamma: float, span: float, cell: int, centre: Tensor | None) -> Tensor:
    """How many STEPs each cell stands above the base level: int64, N×1×h×w, unclamped. Without gradient."""
    with torch.no_grad():
        p = pool(saliency_map, cell).pow(gamma)
        middle = p.mean(dim=(1, 2, 3)) if centre is None else centre
        return torch.round((p - middle[:, None, None, None]) * (span / STEP)).long()


def spread(cells: Tensor, height: int, width: int, factor: int) -> Tensor:
    """One value a cell to one a position: each cell covers factor×factor positions, cut to height×width."""
    if factor > 1:
        cells = cells.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
    return cells[:, :, :height, :width]


class FeatureTransform(nn.Module):
    """x·(1 + scale) + shift with scale and shift computed from the map, pooled to x's resolution.

    Song et al. 2021, "Variable-rate deep image compression through spatially-adaptive feature transform", with a
    small condition network. The last layer starts at zero: without training the transform does nothing.
    """

    def __init__(self, channels: int, hidden: int = 32):
        super().__init__()
        last = nn.Conv2d(hidden, 2 * channels, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(cast(Tensor, last.bias))
        self.condition = nn.Sequential(nn.Conv2d(1, hidden, 3, padding=1), nn.LeakyReLU(0.1), last)

    def forward(self, x: Tensor, saliency_map: Tensor) -> Tensor:
        """x: N×C×h×w; saliency_map: N×1×H×W with H = h·k, W = w·k."""
        scale, shift = self.condition(pool(saliency_map, saliency_map.shape[2] // x.shape[2])).chunk(2, dim=1)
        return x * (1 + scale) + shift


class SynthesisTransform(nn.Module):
    """x·(1 + scale) + shift with scale and shift from features of z_hat at 16×16 pixels; does nothing at the start."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.last = nn.Conv2d(hidden, 2 * channels, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(cast(Tensor, self.last.bias))

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        """x: N×C×(h·k)×(w·k); features: N×hidden×h×w."""
        factors = F.interpolate(self.last(features), scale_factor=x.shape[2] // features.shape[2], mode="nearest")
        scale, shift = factors.chunk(2, dim=1)
        return x * (1 + scale) + shift
