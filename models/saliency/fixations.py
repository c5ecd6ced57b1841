"""Recorded fixations: the table, its pictures and split, folds of the training pictures."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
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


def read_fixations(path: Path) -> pd.DataFrame:
    """A table with columns image, subject, x, y (1-based pixels) from Parquet or CSV, checked."""
    try:
        table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise FoveaError(f"{path}: not a readable table of fixations ({error})") from error
    missing = {"image", "subject", "x", "y"} - set(table.columns)
    if missing:
        raise FoveaError(f"{path}: columns {sorted(missing)} are missing (needed: image, subject, x, y)")
    if not np.isfinite(table[["x", "y"]].to_numpy(float)).all():
        raise FoveaError(f"{path}: x and y must be finite numbers, 1-based pixels")
    return table
