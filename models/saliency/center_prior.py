"""The centre prior: one Gaussian, whatever the picture shows."""

import numpy as np
from numpy.typing import NDArray

OSIE_PRIOR = (0.500, 0.467, 0.215, 0.193)
"""Mean x, mean y, sigma x, sigma y as fractions of width and height: fit on OSIE's training part."""


def fit_center_prior(points: NDArray[np.floating], sizes: NDArray[np.floating]) -> tuple[float, float, float, float]:
    """Fit the prior: points N×2 (x, y, 0-based pixels) and, for each, its picture's (width, height)."""
    relative = (np.asarray(points, float) + 0.5) / np.asarray(sizes, float)
    mean, sigma = relative.mean(0), relative.std(0)
    return float(mean[0]), float(mean[1]), float(sigma[0]), float(sigma[1])


def gaussian_map(height: int, width: int, prior: tuple[float, float, float, float] = OSIE_PRIOR) -> NDArray[np.float32]:
    """H×W float32, positive, sum 1."""
    mean_x, mean_y, sigma_x, sigma_y = prior
    x = ((np.arange(width) + 0.5) / width - mean_x) / sigma_x
    y = ((np.arange(height) + 0.5) / height - mean_y) / sigma_y
    g = np.exp(-0.5 * y**2)[:, None] * np.exp(-0.5 * x**2)[None, :]
    return (g / g.sum()).astype(np.float32)
