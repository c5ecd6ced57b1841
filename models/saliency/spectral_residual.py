"""Spectral residual saliency (Hou & Zhang, CVPR 2007), blurred and weighted by the centre prior. No learning."""

import cv2
import numpy as np
from numpy.typing import NDArray

from models.saliency.center_prior import gaussian_map

WORKING_SIZE = 64
"""Longer side, in pixels, at which the spectrum is taken."""
SIGMA = 2.5
"""Smoothing of the squared response at the working size, pixels."""
BLUR = 0.03
"""Smoothing of the finished map: sigma as a fraction of the longer side (24 px at 800)."""


def spectral_residual(picture: NDArray[np.uint8]) -> NDArray[np.float64] | None:
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


def predict_density(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
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
