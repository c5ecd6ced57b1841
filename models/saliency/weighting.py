"""Saliency map → weight map: the hypothesis of this project, in one file.

    weight_map = (alpha + s^gamma) / mean(alpha + s^gamma)

s is the map scaled to maximum 1, the mean is taken over the whole picture (before any crop), so the weights' mean is 1
and a weighted codec spends the bits of the uniform one elsewhere. The source's own recipe, scale · (alpha + s^gamma)
without the division, has another mean, which is another lambda.

Also the maps of the controls (the centre bias, another picture's map) and maps that nobody looked at, for codecs that
are to serve any map.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.errors import FoveaError

Map = TypeVar("Map", NDArray[Any], Tensor)

#: the centre bias: standard deviations of a Gaussian over OSIE's fixations, as shares of the picture's sides
CENTER_SD_X = 172 / 800
CENTER_SD_Y = 116 / 600


def raw_weights(s: Map, alpha: float, gamma: float) -> Map:
    """alpha + s^gamma, the weights before they are divided by their mean. s: saliency in [0, 1], numpy or torch."""
    return alpha + s**gamma


def weight_map(s: Tensor, *, alpha: float, gamma: float, normalised: bool = True, scale: float = 1.0) -> Tensor:
    """What multiplies the squared error at each place.

    s: saliency in [0, 1], …×H×W. normalised: divide by the mean over the last two dimensions, so that each whole
    picture's weights have mean 1; a constant map gives exactly 1. Otherwise scale · (alpha + s^gamma). Returns float32. A
    map that is 0 everywhere with alpha = 0 prefers no place: weights 1.
    """
    raw = raw_weights(s.double(), alpha, gamma)
    if not normalised:
        return (scale * raw).float()
    mean = raw.mean(dim=(-2, -1), keepdim=True)
    return torch.where(mean > 0, raw / mean, torch.ones_like(raw)).float()


def weight_table(alpha: float, gamma: float) -> NDArray[np.float64]:
    """alpha + s^gamma for each value of a stored map, s = 0/255 … 255/255."""
    return raw_weights(np.arange(256, dtype=np.float64) / 255, alpha, gamma)


def weight_means(maps: Sequence[NDArray[np.uint8]], *, alpha: float, gamma: float) -> NDArray[np.float64]:
    """The mean of alpha + s^gamma over each whole stored map (uint8, H×W), from its histogram."""
    table = weight_table(alpha, gamma)
    counts = (np.bincount(np.asarray(m).reshape(-1), minlength=256) for m in maps)
    return np.array([count @ table / count.sum() for count in counts], dtype=np.float64)


def center_map(height: int, width: int) -> NDArray[np.float32]:
    """The centre bias: what people look at before they have seen what is there. Maximum 1. A Gaussian in the middle of the
    picture with the spread of OSIE's fixations (172 px of 800, 116 px of 600)."""
    y = (np.arange(height) - (height - 1) / 2) / (CENTER_SD_Y * height)
    x = (np.arange(width) - (width - 1) / 2) / (CENTER_SD_X * width)
    bump = np.exp(-0.5 * (y[:, None] ** 2 + x[None, :] ** 2))
    return (bump / bump.max()).astype(np.float32)


def derangement(names: Sequence[str], seed: int = 0) -> list[int]:
    """For each picture of a split the place in `names` of another one, whose map it gets in the `shuffled` control.

    A single cycle through the sorted names in a random order: no picture keeps its own map, and who gets whose depends
    on the set of names and the seed, not on their order. Raises FoveaError for fewer than two pictures or a repeated
    name.
    """
    count = len(names)
    if count < 2:
        raise FoveaError(
            f"the shuffled control needs at least two pictures in the split, got {count}: "
            "there is no other picture's map to take"
        )
    if len(set(names)) != count:
        raise FoveaError("the shuffled control needs unique picture names")
    rng = np.random.Generator(np.random.Philox(key=[seed, 0x5EED]))
    cycle = np.array(sorted(range(count), key=lambda place: names[place]))[rng.permutation(count)]
    others = np.empty(count, dtype=np.int64)
    others[cycle] = np.roll(cycle, -1)
    return others.tolist()


def random_map(height: int, width: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """A map that nobody looked at, values in [0, 1].

    After Song 2021 (arXiv 2108.09551, section 4.1: 20 % uniform, 20 % linear gradients, 40 % sums of Gaussians; its
    20 % one level per segment need segments and are left out): uniform at a random level one time in four, a linear
    gradient between two levels in a random direction one in four, otherwise 1 to 20 Gaussians, scaled to maximum 1.
    """
    kind = rng.integers(4)
    if kind == 0:
        return np.full((height, width), rng.uniform(), dtype=np.float32)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    y, x = (y + 0.5) / height, (x + 0.5) / width
    if kind == 1:
        angle = rng.uniform(0, 2 * np.pi)
        along = np.cos(angle) * x + np.sin(angle) * y
        along = (along - along.min()) / max(float(np.ptp(along)), 1e-6)
        low, high = rng.uniform(size=2)
        return (low + (high - low) * along).astype(np.float32)
    total = np.zeros((height, width), dtype=np.float32)
    for _ in range(int(rng.integers(1, 21))):
        cy, cx = rng.uniform(size=2)
        sy, sx = rng.uniform(0.03, 0.3, size=2)
        total += rng.uniform(0.2, 1) * np.exp(-0.5 * (((y - cy) / sy) ** 2 + ((x - cx) / sx) ** 2))
    return (total / max(float(total.max()), 1e-6)).astype(np.float32)


def augment_maps(
    s: Tensor, *, seed: int, step: int, share: float, mixed: float = 0.5
) -> tuple[Tensor, NDArray[np.bool_]]:
    """Replace part of a batch's maps, so that one model serves any map a user gives it.

    s: N×1×H×W in [0, 1]. share: probability that an item's map is changed; of those, `mixed` are blended with a
    `random_map` at a random weight, the others are replaced by it. Returns the maps and which items changed. A pure
    function of (seed, step).
    """
    rng = np.random.Generator(np.random.Philox(key=[seed, 0xA46], counter=[0, 0, 0, step]))
    changed = rng.uniform(size=s.shape[0]) < share
    result = s.clone()
    for item in np.flatnonzero(changed):
        drawn = torch.from_numpy(random_map(s.shape[2], s.shape[3], rng)).to(s.device)
        blend = rng.uniform() if rng.uniform() < mixed else 1.0
        result[item, 0] = (1 - blend) * s[item, 0] + blend * drawn
    return result, changed
