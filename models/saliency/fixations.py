"""Recorded fixations: the table, its split, folds of the training pictures."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from models.errors import FoveaError


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


def split_by_order(names: Sequence[str], train: int, val: int) -> dict[str, str]:
    """Sorted names: the first `train`, the next `val`, the rest is test."""
    names = sorted(names)
    return {n: "train" if i < train else "val" if i < train + val else "test" for i, n in enumerate(names)}
