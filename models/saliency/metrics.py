"""How well a map predicts where people looked: CC, SIM, KL, NSS, AUC-Judd, shuffled AUC, information gain.

Definitions as in Bylinskii et al., "What do different evaluation metrics tell us about saliency models?", TPAMI
2019. Maps are H×W with any positive scale; fixations are N×2 arrays of (x, y), 0-based pixels. Both AUCs are exact:
ties count one half, no thresholds are sampled and no noise is added.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.floating]
Points = NDArray[np.floating]

MIT_EPSILON = 2.2204e-16
"""The ε of the MIT benchmark's KL."""
SIGMA = 0.03
"""Blur of fixations: sigma as a fraction of the picture's width (1 degree on OSIE: 24 px at 800)."""
UNIFORM = 0.01
"""So much of a density is uniform: no place is impossible."""


def pixels_of(points: Points, height: int, width: int) -> NDArray[np.intp]:
    """The flat index of each fixation's pixel; positions are rounded and clamped."""
    columns = np.clip(np.rint(points[:, 0]), 0, width - 1).astype(np.intp)
    rows = np.clip(np.rint(points[:, 1]), 0, height - 1).astype(np.intp)
    return rows * width + columns


def fixated_pixels(points: Points, height: int, width: int) -> NDArray[np.intp]:
    """Flat indices of the pixels with at least one fixation, sorted."""
    return np.unique(pixels_of(points, height, width))


def fixation_density(points: Points, height: int, width: int, sigma: float | None = None) -> NDArray[np.float64]:
    """The binary map of fixated pixels, blurred with `sigma` pixels (default: SIGMA of the width), sum 1."""
    binary = np.zeros(height * width)
    binary[fixated_pixels(points, height, width)] = 1.0
    sigma = SIGMA * width if sigma is None else sigma
    density = cv2.GaussianBlur(binary.reshape(height, width), (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
    return density / density.sum()


def cc(prediction: Map, density: Map) -> float:
    """Pearson's correlation; 0 where one of the maps is constant."""
    p = prediction.astype(np.float64).ravel() - float(prediction.mean(dtype=np.float64))
    y = density.astype(np.float64).ravel() - float(density.mean(dtype=np.float64))
    norm = float(np.sqrt((p @ p) * (y @ y)))
    return float(p @ y) / norm if norm > 0.0 else 0.0


def sim(prediction: Map, density: Map) -> float:
    """Histogram intersection of the two maps, each brought to minimum 0 and sum 1."""
    p, y = (m.astype(np.float64) - float(m.min()) for m in (prediction, density))
    p, y = (m / m.sum() if m.sum() > 0.0 else np.full_like(m, 1.0 / m.size) for m in (p, y))
    return float(np.minimum(p, y).sum())


def kl(prediction: Map, density: Map) -> float:
    """KL(density ‖ prediction) in nats, with the MIT benchmark's ε."""
    p = prediction.astype(np.float64)
    y = density.astype(np.float64)
    p, y = p / p.sum(), y / y.sum()
    return float((y * np.log(y / (p + MIT_EPSILON) + MIT_EPSILON)).sum())


def info_gain(prediction: Map, points: Points, baseline: Map) -> float:
    """By how many bits a fixated pixel is likelier by the map than by the baseline, in the mean (Kümmerer et al. 2015,
    "Information-theoretic model comparison unifies saliency metrics"). Both are densities with UNIFORM of a uniform one."""
    pixels = fixated_pixels(points, *prediction.shape)
    shares = (m.astype(np.float64).ravel() / float(m.sum(dtype=np.float64)) for m in (prediction, baseline))
    p, q = ((1 - UNIFORM) * share[pixels] + UNIFORM / share.size for share in shares)
    return float(np.log2(p / q).mean())


def nss(prediction: Map, points: Points) -> float:
    """Mean of the standardised map over fixated pixels; 0 for a constant map."""
    pixels = fixated_pixels(points, *prediction.shape)
    std = float(prediction.std(dtype=np.float64))
    if std == 0.0:
        return 0.0
    return (float(prediction.ravel()[pixels].mean(dtype=np.float64)) - float(prediction.mean(dtype=np.float64))) / std


def _rank_auc(positives: Map, negatives: Map) -> float:
    """P(positive > negative) + P(equal)/2, exactly."""
    ordered = np.sort(positives)
    below = np.searchsorted(ordered, negatives, "left").sum(dtype=np.int64)
    up_to = np.searchsorted(ordered, negatives, "right").sum(dtype=np.int64)
    return 1.0 - float(below + up_to) / (2.0 * len(positives) * len(negatives))


def auc_judd(prediction: Map, points: Points) -> float:
    """Area under the ROC curve: fixated pixels against all other pixels."""
    values = prediction.ravel()
    fixated = np.zeros(values.size, bool)
    fixated[fixated_pixels(points, *prediction.shape)] = True
    return _rank_auc(values[fixated], values[~fixated])


def auc_shuffled(prediction: Map, points: Points, other_points: Points) -> float:
    """Area under the ROC curve: fixated pixels against all fixations on other pictures. `other_points` are in this
    picture's pixels; every one of them counts, also where several share a pixel."""
    values, shape = prediction.ravel(), prediction.shape
    return _rank_auc(values[fixated_pixels(points, *shape)], values[pixels_of(other_points, *shape)])
