"""Fixation tables: checked, moved to the frame, turned into densities."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from assets.datasets import Dataset
from assets.frames.resize import fit
from assets.saliency.fixations import (
    fixation_map,
    frame_fixation_halves,
    frame_fixation_maps,
    frame_fixations,
    map_points,
    read_fixations,
)
from models.errors import FoveaError


def manifest(*images: str, status: str = "ok") -> pd.DataFrame:
    table = pd.DataFrame({"image": images, "path": [f"/d/{image}.jpg" for image in images]})
    return table.assign(width=800, height=600, status=status)


def table(
    tmp_path: Path, rows: list[tuple[Any, ...]], name: str = "eyes.csv", columns: str = "image subject x y"
) -> Path:
    file = tmp_path / name
    frame = pd.DataFrame(rows, columns=columns.split())
    frame.to_parquet(file) if name.endswith("parquet") else frame.to_csv(file, index=False)
    return file


@pytest.mark.parametrize("name", ["eyes.csv", "eyes.parquet"])
def test_a_sound_table_is_read_whole(tmp_path: Path, name: str) -> None:
    rows = [("a.jpg", 0, 1.0, 600.0, 210), ("b", 1, 400.5, 300.5, 90), ("sub/c.jpg", 2, 800.0, 1.0, 5)]
    file = table(tmp_path, rows, name, "image subject x y duration")
    read = read_fixations(file, manifest("a", "b", "sub/c"))
    assert list(read.table["image"]) == ["a", "b", "sub/c"] and list(read.table["duration"]) == [210, 90, 5]
    assert read.why() == "" and read.table["x"].tolist() == [1.0, 400.5, 800.0]


def test_points_just_outside_are_clamped_others_dropped_and_counted(tmp_path: Path) -> None:
    rows = [
        ("a", 0, 0.4, 300.0), ("a", 0, -0.5, 300.0), ("a", 0, 801.4, 601.5),
        ("a", 0, -0.6, 300.0), ("a", 0, 801.6, 300.0), ("a", 0, 300.0, 9999.0), ("a", 0, None, 3.0), ("a", None, 4.0, 3.0),
    ]  # fmt: skip
    for name in ("eyes.csv", "eyes.parquet"):
        read = read_fixations(table(tmp_path, rows, name), manifest("a"))
        assert read.dropped == 5 and read.why() == "3 outside their picture, 1 without numbers, 1 without a subject"
    assert read.table[["x", "y"]].to_numpy().tolist() == [[0.5, 300.0], [0.5, 300.0], [800.5, 600.5]]
    _, inside = map_points(read.table["x"], read.table["y"], fit((800, 600), "native"))
    assert inside.all()  # the border belongs to the picture


@pytest.mark.parametrize(
    "text",
    [
        "Image;Subject;X;Y\nsub\\a.jpg;p1;12,5;3\nNA;p2;4;5,25\nnull;p2;",
        'image, subject, x, y\nsub/a, p1, "12,5", 3\nNA.jpg, p2, 4, 5.25\nnull',
        "image\tsubject\tx\ty\r\nC:\\osie\\sub\\A.JPG\tp1\t12.5\t3\r\nNA\tp2\t4\t5.25\r\nghost\tp2\t#REF!\t1\r\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_tables_of_spreadsheets(tmp_path: Path, text: str, encoding: str) -> None:
    """A row that is cut or has no numbers is counted; names that pandas takes for missing values stay names."""
    (tmp_path / "eyes.csv").write_bytes(text.encode(encoding))
    read = read_fixations(tmp_path / "eyes.csv", manifest("sub/a", "NA", "null"))
    rows = read.table[["image", "subject", "x", "y"]].to_numpy().tolist()
    assert rows == [["sub/a", "p1", 12.5, 3.0], ["NA", "p2", 4.0, 5.25]] and read.why() == "1 without numbers"


def test_rows_of_unknown_pictures_are_counted(tmp_path: Path) -> None:
    """A table of a whole set serves a part of it; one that names no picture of the dataset is a mistake."""
    file = table(tmp_path, [("a", 0, 5.0, 5.0), ("ghost", 0, 5.0, 5.0), ("phantom.jpg", 0, 5.0, 5.0)])
    read = read_fixations(file, manifest("a"))
    assert (len(read.table), read.why()) == (1, "2 on pictures that are not in the dataset")
    with pytest.raises(
        FoveaError, match=r"eyes\.csv: none of its 3 rows .*3 on .* not in the dataset\); it names a, the dataset has b"
    ):
        read_fixations(file, manifest("b"))


def test_numbers_are_names_quarantined_pictures_are_not_used_and_two_of_a_name_refused(tmp_path: Path) -> None:
    read = read_fixations(table(tmp_path, [("0101", 0, 5.0, 5.0)]), manifest("0101"))
    assert list(read.table["image"]) == ["0101"]
    with pytest.raises(FoveaError, match=r"eyes\.csv names 1 picture \(a\.jpg\) by a name that several pictures have"):
        read_fixations(table(tmp_path, [("a.jpg", 0, 5.0, 5.0)]), manifest("train/a", "val/a"))
    both = pd.concat([manifest("a"), manifest("broken", status="quarantined")])
    read = read_fixations(table(tmp_path, [("a", 0, 5.0, 5.0), ("broken", 0, 5.0, 5.0)]), both)
    assert (list(read.table["image"]), read.why()) == (["a"], "1 on quarantined pictures")


def test_bad_tables_are_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "eyes.txt").write_text("image,subject,x,y\n")
    (tmp_path / "decimal.csv").write_text("image,subject,x,y\na,0,1,5,2,5\n")
    (tmp_path / "thousands.csv").write_text('image,subject,x,y\na,0,"1,234",5\na,0,7,5\n')
    (tmp_path / "broken.parquet").write_bytes(b"no parquet")
    for file, reason in [
        (tmp_path / "none.csv", r"no fixation table .*none\.csv"),
        (tmp_path / "decimal.csv", r"decimal\.csv, line 2: 6 cells, the header has 4; .*decimal comma"),
        (tmp_path / "thousands.csv", r"thousands\.csv: column x: '1,234' may be 1234 or 1\.234"),
        (tmp_path / "eyes.txt", r"eyes\.txt: a fixation table is a"),
        (tmp_path / "broken.parquet", r"broken\.parquet: can't be read as a table"),
        (table(tmp_path, [("a", 1.0)], "short.csv", "image x"), r"short\.csv: no column subject, y; needed are image, subject, x, y"),
        (table(tmp_path, [("a", 0, 0.5, 1.0), ("a", 1, 0.25, 0.75)], "shares.csv"), r"shares\.csv: no x or y is above 1: .* multiply them by its width"),
        (table(tmp_path, [], "empty.csv"), r"empty\.csv: the table has no row"),
        (table(tmp_path, [("a", None, 4.0, 3.0)], "pooled.csv"), r"none of its 1 rows can be used \(1 without a subject\)$"),
        (table(tmp_path, [("a", 0, 9e9, 1.0)], "far.csv"), r"far\.csv: none of its 1 rows can be used \(1 outside their picture"),
    ]:  # fmt: skip
        with pytest.raises(FoveaError, match=reason):
            read_fixations(file, manifest("a"))


def test_points_follow_the_frame() -> None:
    geometry = fit((800, 600), (512, 256))  # cut to 800×400 from row 100, scaled by 0.64
    x, y = [0.5, 800.5, 400.5, 400.5, 1.0], [300.5, 300.5, 100.5, 99.0, 101.0]
    moved, inside = map_points(x, y, geometry)
    assert np.allclose(moved[inside], [[0, 128], [512, 128], [256, 0], [0.32, 0.32]])


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(64, 48), (33, 70)]), st.floats(0.5, 6))
def test_density_is_scipys_gaussian(seed: int, size: tuple[int, int], sigma: float) -> None:
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, size, (7, 2))
    counts = np.zeros(size[::-1])
    for x, y in points:
        counts[int(y), int(x)] += 1
    density = fixation_map(points, size, sigma)
    assert density.dtype == np.float32 and density.shape == size[::-1]
    assert density.sum(dtype=float) == pytest.approx(1, abs=1e-5) and density.min() >= 0
    expected = gaussian_filter(counts, sigma, mode="reflect", truncate=4.0)
    expected /= expected.sum()
    assert np.abs(density - expected).max() < 2e-3 * expected.max()


def test_sigma_grows_with_the_picture_and_a_map_has_points() -> None:
    density = fixation_map(np.asarray([[200.0, 150.0]]), (400, 300))  # 12 pixels
    column = density[150] / density[150].max()
    assert column[212] == pytest.approx(np.exp(-0.5), abs=0.02)
    with pytest.raises(FoveaError, match="no fixation"):
        fixation_map(np.empty((0, 2)), (40, 30))


def test_maps_of_frames(tmp_path: Path) -> None:
    file = table(tmp_path, [("a", 0, 400.5, 300.5), ("c", 0, 5.0, 5.0), ("elsewhere", 0, 1.0, 1.0)])
    dataset = Dataset("d", "folder", tmp_path, fixations=file, size=(512, 256))
    maps = frame_fixation_maps(dataset, manifest("a", "b", "c"), [(256, 512)] * 3)
    assert maps[0] is not None and np.unravel_index(maps[0].argmax(), maps[0].shape) == (128, 256)
    assert maps[1] is None  # nobody looked
    assert maps[2] is None  # the point lies in the part that was cut off
    with pytest.raises(FoveaError, match="a: the frame is 400×256"):
        frame_fixation_maps(dataset, manifest("a"), [(256, 400)])
    assert frame_fixation_maps(Dataset("d", "folder", tmp_path), manifest("a"), [(256, 512)]) == [None]


def test_fixations_move_to_cut_and_scaled_frames(tmp_path: Path) -> None:
    rows = [("a", 0, 400.5, 300.5), ("a", 1, 1.0, 300.5), ("a", 1, 400.5, 1.0)]
    file = table(tmp_path, rows)
    dataset = Dataset("d", "folder", tmp_path, fixations=file, size=(400, 200))
    moved = frame_fixations(dataset, manifest("a", "b"))
    # 800×600 → the middle 800×400 → half its size: the picture's middle is the frame's; what lay above is gone
    assert moved.dropped == 1 and moved.table[["x", "y"]].to_numpy().tolist() == [[200.5, 100.5], [0.75, 100.5]]
    assert moved.table.subject.tolist() == [0, 1]


def test_halves_are_of_different_people_and_stay_the_same(tmp_path: Path) -> None:
    corners = [(50.0, 50.0), (750.0, 50.0), (50.0, 550.0), (750.0, 550.0)]
    rows = [(image, person, *corners[person]) for image in "abc" for person in range(4)] + [("d", 0, 9.0, 9.0)]
    file = table(tmp_path, rows)
    dataset = Dataset("d", "folder", tmp_path, fixations=file, size="native")
    halves = frame_fixation_halves(dataset, manifest(*"abcd"), [(600, 800)] * 4)
    assert halves[3] is None
    found = set()
    for pair in halves[:3]:
        assert pair is not None
        one, two = ({i for i, (x, y) in enumerate(corners) if half[int(y), int(x)] > 1e-6} for half in pair)
        assert len(one) == len(two) == 2 and not one & two
        assert [float(half.sum()) for half in pair] == pytest.approx([1.0, 1.0], abs=1e-4)
        found.add(frozenset(one))
    with_names = [(image, ("ann", "bob", None, "eve")[person], x, y) for image, person, x, y in rows]
    named = Dataset("d", "folder", tmp_path, fixations=table(tmp_path, with_names, "named.parquet"), size="native")
    by_name = frame_fixation_halves(named, manifest("a"), [(600, 800)])
    assert by_name[0] is not None
    alone = frame_fixation_halves(dataset, manifest("b"), [(600, 800)])[0]
    assert alone is not None and halves[1] is not None and np.array_equal(alone[0], halves[1][0])
    none = frame_fixation_halves(Dataset("d", "folder", tmp_path), manifest("a"), [(600, 800)])
    assert none == [None]
