"""The models that learn nothing: spectral residual (Hou & Zhang, CVPR 2007), blurred and weighted by the centre prior, and the
centre prior alone: one Gaussian, whatever the picture shows."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from numpy.typing import NDArray

from models.saliency.maps import Density, Picture, check_frame, scale_to_uint8

OSIE_PRIOR = (0.500, 0.467, 0.215, 0.193)
"""Mean x, mean y, sigma x, sigma y as fractions of width and height: fit on OSIE's training part."""
WORKING_SIZE = 64
"""Longer side, in pixels, at which the spectrum is taken."""
SIGMA = 2.5
"""Smoothing of the squared response at the working size, pixels."""
BLUR = 0.03
"""Smoothing of the finished map: sigma as a fraction of the longer side (24 px at 800)."""


def fit_center_prior(points: NDArray[np.floating], sizes: NDArray[np.floating]) -> tuple[float, float, float, float]:
    """Fit the prior: points N×2 (x, y, 0-based pixels) and, for each, its picture's (width, height)."""
    relative = (np.asarray(points, float) + 0.5) / np.asarray(sizes, float)
    mean, sigma = relative.mean(0), relative.std(0)
    return float(mean[0]), float(mean[1]), float(sigma[0]), float(sigma[1])


def gaussian_map(height: int, width: int, prior: tuple[float, float, float, float] = OSIE_PRIOR) -> Density:
    """H×W float32, positive, sum 1."""
    mean_x, mean_y, sigma_x, sigma_y = prior
    x = ((np.arange(width) + 0.5) / width - mean_x) / sigma_x
    y = ((np.arange(height) + 0.5) / height - mean_y) / sigma_y
    g = np.exp(-0.5 * y**2)[:, None] * np.exp(-0.5 * x**2)[None, :]
    return (g / g.sum()).astype(np.float32)


def spectral_residual(picture: Picture) -> NDArray[np.float64] | None:
    """The smoothed squared residual at the working size, or None where the picture has no structure at all."""
    height, width = picture.shape[:2]
    scale = WORKING_SIZE / max(height, width)
    size = max(8, round(width * scale)), max(8, round(height * scale))
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA).astype(np.float64)
    if float(np.ptp(grey)) < 1.0:
        return None
    spectrum = np.fft.fft2(grey)
    log_amplitude = np.log(np.abs(spectrum) + 1e-9)
    residual = log_amplitude - cv2.blur(log_amplitude, (3, 3), borderType=cv2.BORDER_REFLECT)
    response = np.abs(np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))) ** 2
    smooth = cv2.GaussianBlur(response, (0, 0), SIGMA, borderType=cv2.BORDER_REFLECT)
    return np.asarray(smooth, np.float64)


def predict_density(picture: Picture) -> Density:
    """H×W×3 uint8 RGB to an H×W float32 map with sum 1; the centre prior alone where nothing stands out."""
    height, width = picture.shape[:2]
    prior = gaussian_map(height, width)
    response = spectral_residual(picture)
    if response is None:
        return prior
    result = cv2.resize(response, (width, height), interpolation=cv2.INTER_LINEAR)
    sigma = BLUR * max(height, width)
    result = cv2.GaussianBlur(result, (0, 0), sigma, borderType=cv2.BORDER_REFLECT) * prior
    total = float(result.sum())
    if not np.isfinite(total) or total <= 0.0:
        return prior
    return (result / total).astype(np.float32)


class ClassicalModel:
    """Spectral residual or centre prior. `flip` changes nothing: neither prefers a side."""

    def __init__(self, name: str, version: str, threads: int | None = None) -> None:
        self.name, self.version, self.threads = name, version, threads or 1

    def _density(self, frame: Picture) -> Density:
        check_frame(frame)
        return predict_density(frame) if self.name == "spectral_residual" else gaussian_map(*frame.shape[:2])

    def predict_float(self, frames: Iterable[Picture], *, flip: bool = False) -> list[Density]:
        """One H×W float32 density per frame; each sums to 1."""
        with ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(self._density, frames))

    def predict(self, frames: Iterable[Picture], *, flip: bool = False) -> list[Picture]:
        """One H×W uint8 map per frame; 255 is the picture's maximum."""
        with ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(lambda frame: scale_to_uint8(self._density(frame)), frames))
