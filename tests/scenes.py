"""Pictures and maps that are drawn by a formula."""

import numpy as np


def scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture with edges, shades and a little noise; uint8, H×W×3."""
    y, x = np.mgrid[0:height, 0:width] / 30.0
    base = 128 + 70 * np.sin(2 * x + seed) * np.cos(3 * y) + 20 * (x > 1)
    noise = np.random.default_rng(seed).normal(0, 3, (height, width, 3))
    return (np.stack([base, 0.7 * base, 255 - base], axis=-1) + noise).clip(0, 255).astype(np.uint8)


def spot(height: int, width: int) -> np.ndarray:
    """A saliency map with one bright place; uint8, H×W, maximum 255."""
    y, x = np.mgrid[0:height, 0:width]
    s = np.exp(-((y / height - 0.3) ** 2 + (x / width - 0.4) ** 2) * 12)
    return np.round(255 * s / s.max()).astype(np.uint8)


def checkerboard(height: int, width: int, cell: int) -> np.ndarray:
    """Black and white squares of `cell` pixels; uint8, H×W×3."""
    y, x = np.mgrid[:height, :width] // cell
    return np.where(((x + y) % 2 == 0)[..., None], 0, 255).astype(np.uint8).repeat(3, axis=2)
