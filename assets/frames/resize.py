"""Pictures → frames: area resize, by one geometry that also moves coordinates.

Rule: a picture is cut to the frame's aspect (the largest centred rectangle of whole pixels that has it, "cover") and
averaged over areas down to the frame's size. 2:1 pictures to 512×256 lose nothing. Nothing is upscaled: a rectangle
that is smaller than the frame in a side stays at its own size, so that such frames are smaller than asked for, with the
same aspect. "native" is the picture itself.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from assets.frames.decode import BrokenPicture as BrokenPicture
from assets.frames.decode import read_picture

K = TypeVar("K")
Size = tuple[int, int] | Literal["native"]


@dataclass(frozen=True)
class Geometry:
    """How a picture became a frame: cut `crop` out of it, scale that to `size`.

    Sizes are (width, height); `crop` is (left, top, width, height) in whole pixels of the picture. Continuous
    coordinates: pixel i (from 0) covers i … i + 1, its centre is i + 0.5.
    """

    src_size: tuple[int, int]
    crop: tuple[int, int, int, int]
    size: tuple[int, int]

    @property
    def scale(self) -> tuple[float, float]:
        """Frame pixels for a picture pixel, horizontally and vertically; at most 1."""
        return self.size[0] / self.crop[2], self.size[1] / self.crop[3]

    def to_frame(self, x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Move continuous picture coordinates to continuous frame coordinates; what was cut off lands outside."""
        sx, sy = self.scale
        return (np.asarray(x, np.float64) - self.crop[0]) * sx, (
            np.asarray(y, np.float64) - self.crop[1]
        ) * sy

    def to_picture(self, x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Move continuous frame coordinates back to the picture."""
        sx, sy = self.scale
        return np.asarray(x, np.float64) / sx + self.crop[0], np.asarray(y, np.float64) / sy + self.crop[1]


def fit(src_size: tuple[int, int], size: Size) -> Geometry:
    """Return the geometry by which a picture of `src_size` (width, height) becomes a frame of `size`."""
    width, height = src_size
    if size == "native":
        return Geometry(src_size, (0, 0, width, height), src_size)
    aspect_w, aspect_h = size
    crop_w = min(width, max(1, round(height * aspect_w / aspect_h)))
    crop_h = min(height, max(1, round(width * aspect_h / aspect_w)))
    crop = ((width - crop_w) // 2, (height - crop_h) // 2, crop_w, crop_h)
    smaller = crop_w < aspect_w or crop_h < aspect_h
    return Geometry(src_size, crop, (crop_w, crop_h) if smaller else (aspect_w, aspect_h))


def resize(picture: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Bring a picture (uint8, H×W×3) to `size` = (width, height) by `fit`, C-contiguous.

    Each frame pixel is the mean over its area in the picture, rounded.
    """
    geometry = fit((picture.shape[1], picture.shape[0]), size)
    left, top, width, height = geometry.crop
    cut = picture[top : top + height, left : left + width]
    if geometry.size == (width, height):
        return np.ascontiguousarray(cut)
    return np.asarray(cv2.resize(cut, geometry.size, interpolation=cv2.INTER_AREA), np.uint8)


def decode_and_resize(path: Path | str, size: Size) -> NDArray[np.uint8]:
    """Read one picture file and bring it to `size`.

    Raises:
        BrokenPicture: see `read_picture`.
    """
    return resize(read_picture(path), size)


def resize_many(
    items: Iterable[tuple[K, Path | str]],
    size: Size,
    *,
    workers: int | None = None,
    chunk: int = 4,
    ordered: bool = True,
) -> Iterator[tuple[K, NDArray[np.uint8] | BrokenPicture]]:
    """Read and resize many files on all cores; yields (key, frame), or (key, the error) for a broken file.

    `items` are (key, path), read lazily. At most `workers × chunk` pictures are under way or wait to be taken, so
    memory is bounded. Threads, not processes: the decoders release the interpreter's lock, and frames need no copying
    between processes. `ordered` yields in the order of `items`, otherwise as they get ready.
    """
    count = workers or os.cpu_count() or 1
    pending: deque[tuple[K, Future[NDArray[np.uint8] | BrokenPicture]]] = deque()

    def take() -> tuple[K, NDArray[np.uint8] | BrokenPicture]:
        position = 0
        if not ordered:
            position = next((i for i, (_, future) in enumerate(pending) if future.done()), 0)
        key, future = pending[position]
        del pending[position]
        return key, future.result()

    with ThreadPoolExecutor(count, thread_name_prefix="resize") as pool:
        try:
            for key, path in items:
                pending.append((key, pool.submit(_or_broken, path, size)))
                if len(pending) >= count * chunk:
                    yield take()
            while pending:
                yield take()
        finally:
            for _, future in pending:
                future.cancel()


def _or_broken(path: Path | str, size: Size) -> NDArray[np.uint8] | BrokenPicture:
    try:
        return decode_and_resize(path, size)
    except BrokenPicture as error:
        return error
