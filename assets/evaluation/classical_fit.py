"""A classical codec at about the bits of another: its largest file within a budget, of the picture as it is or shrunk."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from models.codecs import classical

Picture = NDArray[np.uint8]

DIVISORS = (1, 2, 4)
"""By what a picture's sides may be divided before a classical codec gets it."""


class Fitted(NamedTuple):
    """A classical file within a budget. shrunk: what the picture's sides were divided by before."""

    data: bytes
    shrunk: int


Files = dict[tuple[int, int], bytes]
"""Files of one picture by divisor and quality."""


def at_most(codec: str, picture: Picture, budget: float, files: Files | None = None) -> Fitted:
    """The classical codec's largest file of at most `budget` bytes over whole qualities: of the picture, or of the picture
    shrunk by 2 or 4, as one would for few bits; of these three the one that shows the picture with the least squared error.

    Where none is that small, the result is the smallest file of all. files: made before; new ones are added.
    """
    files = {} if files is None else files
    found = []
    for divisor in (1,) if codec == "bicubic" else DIVISORS:
        quality = _quality_within(codec, shrunk(picture, divisor), budget, divisor, files)
        if quality:
            found.append(Fitted(files[divisor, quality], divisor))
    if not found:
        divisor, quality = min(files, key=lambda at: len(files[at]))
        return Fitted(files[divisor, quality], divisor)
    if len(found) == 1:
        return found[0]
    return min(found, key=lambda f: np.square(decoded(codec, f, picture).astype(np.float32) - picture).mean())


def _quality_within(codec: str, picture: Picture, budget: float, divisor: int, files: Files) -> int:
    """The highest whole quality with a file of at most `budget` bytes, by bisection; 0 without one."""

    def fits(quality: int) -> bool:
        if (divisor, quality) not in files:
            files[divisor, quality] = classical.encode(codec, float(quality), picture)
        return len(files[divisor, quality]) <= budget

    if not fits(1):
        return 0
    # budgets are small, and AVIF takes seconds for a high quality: doubling from below never goes far beyond what fits
    low, high = 1, 1
    while high <= 100 and fits(high):
        low, high = high, 2 * high
    high = min(high, 101)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def shrunk(picture: Picture, divisor: int) -> Picture:
    """Area averages of divisor × divisor pixels; sides that are no multiple are rounded up."""
    if divisor == 1:
        return picture
    size = (-(-picture.shape[1] // divisor), -(-picture.shape[0] // divisor))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def decoded(codec: str, file: Fitted, like: Picture) -> Picture:
    """What a file of `at_most` shows, enlarged bicubically to the size of `like` where it was shrunk. (The size to
    enlarge to, a few bytes, is not counted.)"""
    found = classical.decode(codec, file.data)
    if file.shrunk == 1:
        return found
    size = (like.shape[1], like.shape[0])
    return np.asarray(cv2.resize(found, size, interpolation=cv2.INTER_CUBIC), np.uint8)
