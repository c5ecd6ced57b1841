"""Where people looked: fixation tables, moved to frames, and their density maps."""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from assets.datasets import Dataset
from assets.frames.folder import Names, some, unlike
from assets.frames.resize import Geometry, fit
from assets.frames.sheet import SHEETS, check_pixels, numbers, read_table
from models.errors import FoveaError

#: Standard deviation of the density's Gaussian at 800 pixels of picture width (about a degree of sight for OSIE).
SIGMA_PX_AT_800: Final = 24.0
_COLUMNS: Final = ("image", "subject", "x", "y")


OUTSIDE, NO_NUMBERS, NOBODY = "outside their picture", "without numbers", "without a subject"
UNKNOWN, BROKEN = "on pictures that are not in the dataset", "on quarantined pictures"


@dataclass(frozen=True)
class Fixations:
    """A checked table: columns image (the manifest's id), subject, x, y, and what else the file had.

    x, y are 1-based pixels of the picture as it is viewed (after EXIF orientation): pixel 1 spans 0.5 … 1.5.
    `left_out`: how many rows were left out, by reason.
    """

    table: pd.DataFrame
    left_out: Mapping[str, int]

    @property
    def dropped(self) -> int:
        """Rows that lay outside their picture, or lacked numbers or a subject."""
        return sum(n for why, n in self.left_out.items() if why not in (UNKNOWN, BROKEN))

    def why(self) -> str:
        """ "2 outside their picture, 1 without numbers", or "" where every row is used."""
        return ", ".join(f"{n} {why}" for why, n in self.left_out.items() if n)


def read_fixations(file: Path, manifest: pd.DataFrame) -> Fixations:
    """Read a Parquet or CSV table with columns image, subject, x, y and check it against a manifest.

    `image` may be any name that `Names` finds. Points up to 1 pixel outside their picture are moved to its border, others
    are left out and counted, as are rows of pictures that the manifest doesn't have: one table may serve several datasets.

    Raises FoveaError: no such file, not a table, a missing column, a name that several pictures have, shares in place of
    pixels, or no usable row.
    """
    table = read_table(file, _COLUMNS, "fixation table")
    if file.suffix.lower() in SHEETS:
        for name in set(table.columns) - {"image", "x", "y"}:
            with contextlib.suppress(ValueError):
                table[name] = pd.to_numeric(table[name])
    x, y = numbers(table["x"], file), numbers(table["y"], file)
    numeric = np.isfinite(x) & np.isfinite(y)
    somebody = table["subject"].notna() & (table["subject"].astype(str).str.strip() != "")
    names = table["image"].astype(str).str.strip()
    index = Names(manifest["image"], manifest["path"])
    resolved, strange, ambiguous = index.resolve(sorted(names[numeric].unique()))
    if ambiguous:
        raise FoveaError(f"{file} names {some(ambiguous)} by a name that several pictures have: use their path")
    image = names.map(resolved)
    known = image.notna()
    sound = manifest.set_index("image")
    width = image.map(sound["width"]).astype(float)
    height = image.map(sound["height"]).astype(float)
    usable = image.map(sound["status"] == "ok").fillna(False).astype(bool)
    inside = x.between(-0.5, width + 1.5) & y.between(-0.5, height + 1.5)
    keep = known & usable & inside & somebody
    check_pixels(file, x[keep], y[keep])
    left_out = {
        OUTSIDE: int((known & usable & ~inside & numeric).sum()),
        NO_NUMBERS: int((~numeric).sum()),
        NOBODY: int((known & usable & inside & ~somebody).sum()),
        UNKNOWN: int((~known & numeric).sum()),
        BROKEN: int((known & ~usable & numeric).sum()),
    }
    kept = table.assign(image=image, x=x.clip(0.5, width + 0.5), y=y.clip(0.5, height + 0.5))[keep]
    found = Fixations(kept.reset_index(drop=True), left_out)
    if kept.empty:
        why = f"none of its {len(table)} rows can be used ({found.why()}){unlike(strange, manifest['image'])}"
        raise FoveaError(f"{file}: {why if len(table) else 'the table has no row'}")
    return found


def map_points(x: ArrayLike, y: ArrayLike, geometry: Geometry) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """1-based picture pixels in a frame: N×2 continuous (x, y), pixel i of the frame spanning i … i + 1; and which of them
    the frame's crop did not cut off."""
    moved = np.stack(geometry.to_frame(np.asarray(x, np.float64) - 0.5, np.asarray(y, np.float64) - 0.5), axis=-1)
    width, height = geometry.size
    # The right and lower border belong to the last pixel: a fixation clamped to the border is in the picture.
    inside = (moved >= 0).all(axis=1) & (moved[:, 0] <= width) & (moved[:, 1] <= height)
    return moved, np.asarray(inside, np.bool_)


def fixation_map(points: NDArray[np.float64], size: tuple[int, int], sigma: float | None = None) -> NDArray[np.float32]:
    """Return the density of points (from `map_points`): float32 H×W, sum 1, zero nowhere negative.

    A Gaussian of `sigma` pixels (default 24 · width / 800) at each point, cut at 4 σ, mass beyond the frame's border
    reflected back into it; `size` is (width, height).

    Raises FoveaError: no point at all.
    """
    width, height = size
    column = np.clip(np.floor(points[:, 0]).astype(np.intp), 0, width - 1)
    row = np.clip(np.floor(points[:, 1]).astype(np.intp), 0, height - 1)
    counts = np.bincount(row * width + column, minlength=width * height).reshape(height, width).astype(np.float32)
    if not counts.any():
        raise FoveaError("no fixation inside the frame")
    sigma = SIGMA_PX_AT_800 * width / 800 if sigma is None else sigma
    if sigma > 0:
        kernel = cv2.getGaussianKernel(2 * max(1, round(4 * sigma)) + 1, sigma, cv2.CV_32F)
        blurred = cv2.sepFilter2D(counts, cv2.CV_32F, kernel, kernel, borderType=cv2.BORDER_REFLECT)
        counts = np.asarray(blurred, np.float32)
    return np.asarray(counts / counts.sum(dtype=np.float64), np.float32)


def frame_fixation_maps(
    dataset: Dataset, table: pd.DataFrame, shapes: Sequence[tuple[int, int]]
) -> list[NDArray[np.float32] | None]:
    """Return the fixation density of each row's frame (float32, sum 1), None where nobody's eyes were recorded.

    `table` holds rows of the manifest (any of them: rows of the fixation table for other pictures are passed over);
    `shapes` are the frames' (height, width), checked against the dataset's size.

    Raises FoveaError: no or a bad fixation table, or a frame whose size is not what the dataset's size makes of it.
    """
    if dataset.fixations is None:
        return [None] * len(table)
    looked = _looked(dataset.fixations, dataset, table, shapes)
    return [fixation_map(points, size) if len(points) else None for _, size, points, _ in looked]


def frame_fixation_halves(
    dataset: Dataset, table: pd.DataFrame, shapes: Sequence[tuple[int, int]]
) -> list[tuple[NDArray[np.float32], NDArray[np.float32]] | None]:
    """Return each row's two fixation densities, of one half of its people and of the other, None below two people.

    The halves are drawn for each picture from its name, so that they stay the same whatever else is in the table.
    Arguments and errors as `frame_fixation_maps`.
    """
    if dataset.fixations is None:
        return [None] * len(table)
    found: list[tuple[NDArray[np.float32], NDArray[np.float32]] | None] = []
    for image, size, points, people in _looked(dataset.fixations, dataset, table, shapes):
        people = people.astype(str) if people.dtype == object else people  # names, some of them missing
        who = sorted(set(people.tolist()))
        if len(who) < 2:
            found.append(None)
            continue
        seed = list(hashlib.sha256(image.encode()).digest()[:8])
        order = np.random.default_rng(seed).permutation(len(who))
        first = np.isin(people, [who[i] for i in order[: len(who) // 2]])
        found.append((fixation_map(points[first], size), fixation_map(points[~first], size)))
    return found


def fixation_table(dataset: Dataset) -> Path:
    """The file of the dataset's fixations. Raises FoveaError when it has none."""
    if dataset.fixations is None:
        if dataset.kind != "folder":
            raise FoveaError(
                f"nobody's eyes were recorded on {dataset.name!r}: name a registered folder with fixations"
            )
        raise FoveaError(
            f"dataset {dataset.name!r} has no fixation table: register it with `fovea datasets add {dataset.name} PATH "
            f'--fixations TABLE`, or write fixations = "TABLE" under [datasets.{dataset.name}] in fovea.toml'
        )
    return dataset.fixations


def frame_fixations(dataset: Dataset, table: pd.DataFrame) -> Fixations:
    """The dataset's fixations moved to its frames: x, y become 1-based pixels of the frame.

    `table` holds rows of the manifest; what the frame's crop cut off counts as dropped. Raises FoveaError for a dataset
    without a fixation table, and as `read_fixations`.
    """
    read = read_fixations(fixation_table(dataset), table)
    sizes = dict(zip(table["image"], zip(table["width"], table["height"], strict=True), strict=True))
    parts = []
    for image, rows in read.table.groupby("image", sort=True):
        width, height = sizes[image]
        moved, inside = map_points(rows["x"], rows["y"], fit((int(width), int(height)), dataset.size))
        parts.append(rows.assign(x=moved[:, 0] + 0.5, y=moved[:, 1] + 0.5)[inside])
    kept = pd.concat(parts, ignore_index=True)
    if kept.empty:
        raise FoveaError(f"{dataset.fixations}: no fixation lies in a frame of {dataset.name}")
    return Fixations(kept, {**read.left_out, "outside the frame's crop": len(read.table) - len(kept)})


def _looked(
    file: Path, dataset: Dataset, table: pd.DataFrame, shapes: Sequence[tuple[int, int]]
) -> Iterator[tuple[str, tuple[int, int], NDArray[np.float64], NDArray[Any]]]:
    """Each row's image, the size of its frame, where people looked on that (as `map_points`), and who."""
    eyes = read_fixations(file, table).table
    groups = {str(image): rows for image, rows in eyes.groupby("image", sort=False)}
    rows = zip(table["image"], table["width"], table["height"], shapes, strict=True)
    for image, width, height, (frame_height, frame_width) in rows:
        geometry = fit((int(width), int(height)), dataset.size)
        if geometry.size != (frame_width, frame_height):
            raise FoveaError(f"{image}: the frame is {frame_width}×{frame_height}, fixations are for {geometry.size}")
        own = groups.get(str(image), eyes.iloc[:0])
        points, inside = map_points(own["x"], own["y"], geometry)
        yield str(image), geometry.size, points[inside], own["subject"].to_numpy()[inside]
