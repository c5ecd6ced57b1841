"""The pictures of recorded fixations, and folds of the training pictures."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from models.errors import FoveaError

PictureSource = Path | Callable[[str], NDArray[np.uint8]]
"""A folder in which the table's `image` is a path, or a function from `image` to the picture (H×W×3 uint8 RGB)."""


def read_picture(source: PictureSource, name: str) -> NDArray[np.uint8]:
    """H×W×3 uint8 RGB. Raises FoveaError where the file is missing or no picture."""
    if not isinstance(source, Path):
        return source(name)
    picture = cv2.imread(str(source / name), cv2.IMREAD_COLOR)
    if picture is None:
        raise FoveaError(f"{source / name}: cannot be read as a picture")
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)


def fold_of(name: str, folds: int) -> int:
    """The fold that a picture belongs to: a hash of its name, the same everywhere."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % folds
