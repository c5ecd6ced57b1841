"""What the maps allow: the gain that ideal spending of distortion would bring, before any codec is trained.

At equal rate, in the high-rate approximation, a place with weight w gets distortion D = GM(w)/w, GM the geometric mean
over the picture: places that count more are coded finer, and the rate stays. With p the metric's map divided by its sum
the weighted PSNR gains −10·log10 Σ p·D, and plain PSNR pays 10·log10 mean(D). The first is a yardstick, not a strict
bound: a codec also gains by what it learns, and a low rate bends the approximation.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.errors import FoveaError
from models.saliency.weighting import raw_weights

Map = NDArray[Any]

ALPHA, GAMMA = 0.1, 1.0


class Ideal(NamedTuple):
    """Gain of the weighted PSNR and cost in plain PSNR, both in dB, both ≥ 0 where the maps agree."""

    gain_db: float
    cost_db: float


def ideal_of_weights(weights: Map, metric_map: Map) -> Ideal:
    """The ideal for one picture. weights: H×W, positive, any scale. metric_map: H×W, not negative, any scale. Raises
    FoveaError for weights that are not positive, maps of different sizes, or a metric map of zeros."""
    w = np.asarray(weights, np.float64)
    p = np.asarray(metric_map, np.float64)
    if w.shape != p.shape:
        raise FoveaError(f"weights {w.shape} and metric map {p.shape} differ in size; resize one")
    if not (w > 0).all():
        raise FoveaError("ideal spending needs positive weights everywhere: alpha above 0")
    if not p.sum() > 0:
        raise FoveaError("the metric's map is 0 everywhere")
    distortion = np.exp(np.log(w).mean()) / w
    return Ideal(float(-10 * np.log10((p * distortion).sum() / p.sum())), float(10 * np.log10(distortion.mean())))


def ideal_gain(conditioning_map: Map, metric_map: Map, *, alpha: float = ALPHA, gamma: float = GAMMA) -> Ideal:
    """The ideal when a saliency map conditions, through its weight map, and another (or the same) one measures.
    conditioning_map: H×W, uint8 or float, scaled to maximum 1 here. Raises as `ideal_of_weights`."""
    s = np.asarray(conditioning_map, np.float64)
    peak = s.max()
    s = s / peak if peak > 0 else np.ones_like(s)
    return ideal_of_weights(raw_weights(s, alpha, gamma), metric_map)
