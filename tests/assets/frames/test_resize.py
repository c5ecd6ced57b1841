"""Geometry and resizing: what is cut, what is averaged, where a point goes."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assets.frames.decode import BrokenPicture
from assets.frames.encode import encode_png
from assets.frames.resize import Geometry, fit, resize
from assets.frames.sources import Frame, resize_rows
from models.errors import FoveaError

sizes = st.tuples(st.integers(16, 3000), st.integers(16, 3000))


def test_cityscapes_to_512_by_256_loses_nothing_and_averages_4_by_4() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (1024, 2048, 3), dtype=np.uint8)
    assert fit((2048, 1024), (512, 256)) == Geometry((0, 0, 2048, 1024), (512, 256))
    means = picture.reshape(256, 4, 512, 4, 3).mean(axis=(1, 3))
    assert np.abs(resize(picture, (512, 256)) - means).max() <= 0.5


def test_other_aspects_are_cut_at_the_centre() -> None:
    assert fit((800, 600), (512, 256)) == Geometry((0, 100, 800, 400), (512, 256))
    assert fit((1000, 200), (200, 100)).crop == (300, 0, 400, 200)
    picture = np.zeros((600, 800, 3), np.uint8)
    picture[100:500] = 200
    assert (resize(picture, (512, 256)) == 200).all()


def test_nothing_is_upscaled() -> None:
    assert fit((300, 150), (512, 256)).size == (300, 150)
    assert fit((300, 200), (512, 256)) == Geometry((0, 25, 300, 150), (300, 150))
    assert fit((600, 200), (512, 256)) == Geometry((100, 0, 400, 200), (400, 200))
    picture = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    assert np.array_equal(resize(picture, (512, 256)), picture[25:175])
    assert np.array_equal(resize(picture, "native"), picture)


@given(sizes, st.tuples(st.integers(16, 1024), st.integers(16, 1024)))
def test_geometry_keeps_its_promises(src: tuple[int, int], size: tuple[int, int]) -> None:
    geometry = fit(src, size)
    left, top, width, height = geometry.crop
    assert left >= 0 and top >= 0 and width >= 1 and height >= 1
    assert left + width <= src[0] and top + height <= src[1]
    assert width == src[0] or height == src[1]  # cover: one side is whole
    assert max(geometry.scale) <= 1
    assert (geometry.size[0] <= size[0] and geometry.size[1] <= size[1]) or geometry.size == (width, height)
    # centred to the pixel, and of the frame's aspect to half a pixel
    assert abs(src[0] - width - 2 * left) <= 1 and abs(src[1] - height - 2 * top) <= 1
    assert abs(width * size[1] - height * size[0]) <= max(size)


@given(sizes, st.tuples(st.integers(16, 512), st.integers(16, 512)))
def test_the_corners_of_the_cut_are_those_of_the_frame(src: tuple[int, int], size: tuple[int, int]) -> None:
    geometry = fit(src, size)
    left, top, width, height = geometry.crop
    corners = geometry.to_frame([left, left + width], [top, top + height])
    assert np.allclose(corners, [[0, geometry.size[0]], [0, geometry.size[1]]])


@settings(max_examples=40)
@given(st.integers(60, 250), st.integers(60, 250), st.sampled_from([(32, 16), (16, 32), (40, 30), (56, 56)]))
def test_every_pixel_comes_from_where_the_geometry_says(width: int, height: int, size: tuple[int, int]) -> None:
    """A picture whose values are its own coordinates: an area's mean is the coordinate of the area's centre."""
    geometry = fit((width, height), size)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.uint8)
    frame = resize(np.dstack((columns, rows, rows)), size).astype(float)
    assert frame.shape[:2] == geometry.size[::-1]
    y, x = np.mgrid[0 : frame.shape[0], 0 : frame.shape[1]] + 0.5
    # the picture's coordinates (its pixel values, plus half a pixel) lead to the centres of the frame's pixels
    u, v = geometry.to_frame(frame[..., 0] + 0.5, frame[..., 1] + 0.5)
    sx, sy = geometry.scale
    assert np.abs(u - x).max() <= 0.51 * sx and np.abs(v - y).max() <= 0.51 * sy


class Pictures:
    """Small pictures whose every pixel is their number, as rows and a reader of a manifest."""

    def __init__(self, folder: Path, count: int):
        self.taken = 0
        self.count = count
        self.paths = [folder / f"{k}.png" for k in range(count)]
        for k, path in enumerate(self.paths):
            path.write_bytes(encode_png(np.full((40, 80, 3), k, np.uint8)))

    def rows(self) -> Iterator[dict[str, str]]:
        for path in self.paths:
            self.taken += 1
            yield {"path": str(path)}

    def resized(self, workers: int) -> Iterator[Frame | FoveaError]:
        return resize_rows(self.rows(), lambda row: Path(row["path"]).read_bytes(), (40, 20), workers=workers)


@pytest.mark.parametrize("workers", [1, 3])
def test_many_are_resized_in_order_and_broken_ones_returned(tmp_path: Path, workers: int) -> None:
    pictures = Pictures(tmp_path, 20)
    pictures.paths[7].write_bytes(pictures.paths[7].read_bytes()[:-20])
    results = list(pictures.resized(workers))
    assert len(results) == 20
    for k, result in enumerate(results):
        if k == 7:
            assert isinstance(result, BrokenPicture) and "7.png" in str(result)
        else:
            assert not isinstance(result, FoveaError) and result.shape == (20, 40, 3) and (result == k).all()


def test_many_reads_no_further_ahead_than_it_says(tmp_path: Path) -> None:
    pictures = Pictures(tmp_path, 30)
    results = pictures.resized(workers=2)
    for done in range(1, 10):
        next(results)
        assert pictures.taken <= done - 1 + 6
    results.close()  # type: ignore[attr-defined]
