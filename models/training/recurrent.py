"""Recurrent training: the objective of codecs that code what their iterations before have left.

The loss is the mean over the iterations of what each of them leaves (Toderici et al. 2017, equation 4; bits have no price:
their number is the rate):

- l1: the absolute error;
- mse: the squared error;
- l1_ssim: the absolute error, weighted by the local dissimilarity (1 − SSIM)/2 over its mean (Johnston et al. 2018,
  section 3.2; the mean is the batch's).

Half of the pictures have places that stop at random, as stop maps have them.
"""

from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.codecs.base import Codec, Picture
from models.codecs.toderici2017 import Toderici2017
from models.losses import SSIM_C1, SSIM_C2
from models.training.data import FrameSet
from models.training.loop import Move
from models.training.rate_distortion import RateDistortion

FITTED, SIDES = 200, (192, 256)
"""Pictures, and their middles' height and width, that the bits' context is found from."""
APART = 3.0
"""By how many iterations the random stops of a picture's places differ, at most, from their middle."""
SSIM_SIDE = 7


class Recurrent(RateDistortion):
    """record, codec, frames: as `RateDistortion` has them. Rows have the mean loss, bits before coding, and the squared error
    after the last iteration."""

    codec: Toderici2017
    half = True
    shareable = False  # its loss divides by means over the whole batch

    def __init__(self, record: Mapping[str, Any], codec: Codec, frames: FrameSet):
        super().__init__(record, codec, frames)
        self.loss = str(record.get("loss", "l1"))

    def moves(self, step: int) -> Iterator[Move]:
        """One step."""
        plan, codec, optimiser = self.plan, self.codec, self.optimisers["main"]
        batch, _ = self.drawn(step, None)
        x, top = batch.x, codec.iterations
        self.noise.seed(plan.seed, step)
        losses = []
        with self.noise, self.autocast():
            stops = random_stops(x, codec.stride, top)
            for _, shown in codec.unroll(x, stops, top):
                losses.append(error(shown, x, self.loss, batch.valid))
        loss = torch.stack(losses).mean()
        optimiser.param_groups[0]["lr"] = plan.lr_at(step)
        bpp = codec.config.m * stops.clamp(max=top).float().mean() / codec.stride**2
        numbers = torch.stack((loss, bpp, 255**2 * error(shown, x, "mse", batch.valid))).detach()
        yield Move(self.part * loss, optimiser, self.averaged, plan.clip_norm, numbers)

    def about(self, step: int) -> str:
        return f"{self.codec.iterations} iterations, {self.seen_at(step)}"

    def complete(self, trained: Codec) -> None:
        """The bits' context, from the training pictures."""
        cast(Toderici2017, trained).fit(middles(self.frames))


def random_stops(x: Tensor, stride: int, top: int) -> Tensor:
    """Iterations of each place, N×1×h×w in 1 … top: all of them for half of the pictures; for the others about a middle of
    the picture's own."""
    draws = torch.rand(x.shape[0], 2, 1, 1, device=x.device)
    apart = torch.rand(x.shape[0], 1, x.shape[2] // stride, x.shape[3] // stride, device=x.device)
    middle = 1 + (top - 1) * draws[:, :1]
    stops = (middle + APART * (2 * apart - 1)).round().clamp(1, top)
    return torch.where(draws[:, 1:] < 0.5, torch.full_like(stops, top), stops)


def error(shown: Tensor, x: Tensor, loss: str, valid: Tensor | None = None) -> Tensor:
    """The mean over pictures and places that are valid, a scalar; for values in [0, 1]."""
    d = (shown - x).square() if loss == "mse" else (shown - x).abs()
    if loss == "l1_ssim":
        apart = dissimilarity(shown.detach(), x)
        d = d * apart / apart.mean().clamp_min(1e-6)
    d = d.mean(dim=1, keepdim=True)
    return d.mean() if valid is None else (d * valid).sum() / valid.sum()


def dissimilarity(a: Tensor, b: Tensor) -> Tensor:
    """(1 − SSIM)/2 in even windows around each place, 0 to 1, N×3×H×W."""

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(values, SSIM_SIDE, 1, SSIM_SIDE // 2, count_include_pad=False)

    mu_a, mu_b = mean(a), mean(b)
    variances = mean(a * a) + mean(b * b) - mu_a**2 - mu_b**2
    alike = (2 * mu_a * mu_b + SSIM_C1) * (2 * (mean(a * b) - mu_a * mu_b) + SSIM_C2)
    return (0.5 - 0.5 * alike / ((mu_a**2 + mu_b**2 + SSIM_C1) * (variances + SSIM_C2))).clamp(0, 1)


def middles(frames: FrameSet) -> list[Picture]:
    """Of some of the pictures, spread over all of them."""
    some = np.unique(np.linspace(0, len(frames) - 1, min(FITTED, len(frames))).astype(int))
    cut = []
    for picture in (np.asarray(frames.pictures[i]) for i in some):
        top, left = (max(0, (side - most) // 2) for side, most in zip(picture.shape, SIDES, strict=False))
        cut.append(np.ascontiguousarray(picture[top : top + SIDES[0], left : left + SIDES[1]]))
    return cut
