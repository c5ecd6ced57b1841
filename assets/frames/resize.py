"""Pictures → frames: area resize, by one geometry that also moves coordinates.

Rule: a picture is cut to the frame's aspect (the largest centred rectangle of whole pixels that has it, "cover") and
averaged over areas down to the frame's size. 2:1 pictures to 512×256 lose nothing. Nothing is upscaled: a rectangle
that is smaller than the frame in a side stays at its own size, so that such frames are smaller than asked for, with the
same aspect. "native" is the picture itself.
"""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from assets.frames.decode import read_picture

Size = tuple[int, int] | Literal["native"]


@dataclass(frozen=True)
class Geometry:
    """How a picture became a frame: cut `crop` out of it, scale that to `size`.

    Sizes are (width, height); `crop` is (left, top, width, height) in whole pixels of the picture. Continuous
    coordinates: pixel i (from 0) covers i … i + 1, its centre is i + 0.5.
    """

    crop: tuple[int, int, int, int]
    size: tuple[int, int]

    @property
    def scale(self) -> tuple[float, float]:
        """Frame pixels for a picture pixel, horizontally and vertically; at most 1."""
        return self.size[0] / self.crop[2], self.size[1] / self.crop[3]

    def to_frame(self, x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Move continuous picture coordinates to continuous frame coordinates; what was cut off lands outside."""
        sx, sy = self.scale
        return (np.asarray(x, np.float64) - self.crop[0]) * sx, (np.asarray(y, np.float64) - self.crop[1]) * sy


def fit(src_size: tuple[int, int], size: Size) -> Geometry:
    """Return the geometry by which a picture of `src_size` (width, height) becomes a frame of `size`."""
    width, height = src_size
    if size == "native":
        return Geometry((0, 0, width, height), src_size)
    aspect_w, aspect_h = size
    crop_w = min(width, max(1, round(height * aspect_w / aspect_h)))
    crop_h = min(height, max(1, round(width * aspect_h / aspect_w)))
    crop = ((width - crop_w) // 2, (height - crop_h) // 2, crop_w, crop_h)
    smaller = crop_w < aspect_w or crop_h < aspect_h
    return Geometry(crop, (crop_w, crop_h) if smaller else (aspect_w, aspect_h))


def resize(picture: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Bring a picture (uint8, H×W×3) to `size` = (width, height) by `fit`, C-contiguous. Each frame pixel is the mean over
    its area in the picture, rounded."""
    geometry = fit((picture.shape[1], picture.shape[0]), size)
    left, top, width, height = geometry.crop
    cut = picture[top : top + height, left : left + width]
    if geometry.size == (width, height):
        return np.ascontiguousarray(cut)
    return np.asarray(cv2.resize(cut, geometry.size, interpolation=cv2.INTER_AREA), np.uint8)


def decode_and_resize(data: bytes, name: str, size: Size) -> NDArray[np.uint8]:
    """Bring the picture in a file's bytes to `size`. Raises BrokenPicture, which names it: see `read_picture`."""
    return resize(read_picture(data, name), size)
