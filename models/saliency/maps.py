"""What every saliency model shares: its protocol, the check of its input, the scale of its maps."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
from numpy.typing import NDArray

from models.errors import FoveaError

Picture = NDArray[np.uint8]
Density = NDArray[np.float32]
PictureSource = Callable[[str], Picture]
"""Gives a picture, H×W×3 uint8 RGB, by the name that a table of fixations has for it."""


@runtime_checkable
class SaliencyModel(Protocol):
    """What predicts maps. Frames are H×W×3 uint8 RGB of any size from 16×16 and may differ in size."""

    name: str
    version: str

    def predict(self, frames: Iterable[Picture], *, flip: bool = False) -> list[Picture]:
        """One H×W uint8 map per frame; 255 is the picture's maximum."""

    def predict_float(self, frames: Iterable[Picture], *, flip: bool = False) -> list[Density]:
        """One H×W float32 density per frame; each sums to 1. `flip` averages with the mirrored picture's map."""


def scale_to_uint8(density: Density) -> Picture:
    """round(255 · s / max s); 255 everywhere for a map of zeros."""
    top = float(density.max())
    return np.rint(density * (255.0 / top)).astype(np.uint8) if top > 0 else np.full(density.shape, 255, np.uint8)


def fit_map(saliency_map: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """A map that is another picture's, at this picture's height and width."""
    height, width = shape[:2]
    if saliency_map.shape == (height, width):
        return saliency_map
    return np.asarray(cv2.resize(saliency_map, (width, height), interpolation=cv2.INTER_LINEAR))


def check_frame(frame: Picture) -> Picture:
    """Raises FoveaError unless the frame is an H×W×3 uint8 picture of at least 16×16."""
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise FoveaError(f"a frame must be H×W×3 uint8 RGB, not {frame.dtype} of shape {frame.shape}")
    if min(frame.shape[:2]) < 16:
        raise FoveaError(f"a frame must be at least 16×16 pixels, not {frame.shape[1]}×{frame.shape[0]}")
    return frame
