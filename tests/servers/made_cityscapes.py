"""Made Cityscapes: archives and trees in the true layout, with made pictures, in the official numbers or fewer."""

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np

from assets.frames.archive import OFFICIAL_COUNTS

Counts = Mapping[str, Mapping[str, int]]
FULL_SIZE = (2048, 1024)
FEW_COUNTS: Counts = {"train": {"aachen": 3, "ulm": 2}, "val": {"lindau": 2}, "test": {"bonn": 2}}


def make_picture(index: int, size: tuple[int, int]) -> np.ndarray:
    """A street of sorts, uint8 BGR, height × width × 3: sky, road, some cars; another one for each index."""
    width, height = size
    generator = np.random.default_rng(index)
    picture = np.empty((height, width, 3), np.uint8)
    picture[: height // 2] = generator.integers(120, 220, 3)
    picture[height // 2 :] = generator.integers(40, 110, 3)
    for _ in range(3):
        x, y = (int(generator.integers(0, width * 3 // 4)), int(generator.integers(height // 3, height * 3 // 4)))
        picture[y : y + height // 5, x : x + width // 6] = generator.integers(0, 255, 3)
    if width >= 512:
        # Sensor noise: without it a PNG of this size has a hundredth of a camera frame's bytes.
        noise = generator.integers(0, 6, (height, width, 3), np.uint8)
        picture = cv2.add(cv2.GaussianBlur(picture, (0, 0), width / 400), noise)
    return picture


def make_png(index: int, size: tuple[int, int]) -> bytes:
    encoded, data = cv2.imencode(".png", make_picture(index, size), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert encoded
    return data.tobytes()


def make_members(
    size: tuple[int, int] = (64, 32), counts: Counts = OFFICIAL_COUNTS, large: int = 0, seed: int = 0
) -> Iterator[tuple[str, bytes]]:
    """Member names and PNG bytes; the first `large` frames of each split have the true 2048×1024."""
    index = seed * 1_000_000
    for split, cities in counts.items():
        done = 0
        for city, count in cities.items():
            for sequence in range(count):
                png = make_png(index, FULL_SIZE if done < large else size)
                yield f"leftImg8bit/{split}/{city}/{city}_{sequence:06d}_000019_leftImg8bit.png", png
                index += 1
                done += 1


def write_archive(
    path: Path,
    size: tuple[int, int] = (64, 32),
    counts: Counts = OFFICIAL_COUNTS,
    large: int = 0,
    seed: int = 0,
    compression: int = zipfile.ZIP_DEFLATED,
) -> Path:
    """The package `leftImg8bit_trainvaltest.zip`, made: the same bytes for the same arguments."""
    stamp = (2016, 2, 17, 12, 0, 0)
    with zipfile.ZipFile(path, "w", compression, compresslevel=1) as archive:
        for name in ("README", "license.txt"):
            info = zipfile.ZipInfo(name, stamp)
            info.external_attr = 0o100644 << 16
            archive.writestr(info, f"{name} of a made dataset\n")
        folders = {f"leftImg8bit/{split}/{city}/" for split, cities in counts.items() for city in cities}
        for folder in sorted(folders | {"leftImg8bit/"} | {f"leftImg8bit/{split}/" for split in counts}):
            info = zipfile.ZipInfo(folder, stamp)
            info.external_attr = 0o040755 << 16 | 0x10
            archive.writestr(info, b"")
        for name, png in make_members(size, counts, large, seed):
            info = zipfile.ZipInfo(name, stamp)
            info.external_attr = 0o100644 << 16
            info.compress_type = compression
            archive.writestr(info, png)
    return path


def write_tree(
    root: Path, size: tuple[int, int] = (64, 32), counts: Counts = OFFICIAL_COUNTS, large: int = 0, seed: int = 0
) -> Path:
    """The same frames as files below `root`/leftImg8bit."""
    for name, png in make_members(size, counts, large, seed):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png)
    return root
