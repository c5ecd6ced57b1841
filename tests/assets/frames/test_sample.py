"""The drawn scenes: layout, determinism, and what is written in them."""

import dataclasses
import json
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from assets.datasets import load_registry
from assets.frames.decode import read_picture
from assets.frames.manifest import scan
from assets.frames.resize import resize
from assets.frames.sample import CITIES, draw_scene, make_sample
from assets.frames.scenery import Scene, text_mask

SMALL = (512, 256)
FULL = (1, 2)  # two pictures in full size
Drawn = list[tuple[NDArray[np.uint8], list[dict[str, Any]]]]


@pytest.fixture(scope="module")
def scenes() -> Drawn:
    return [draw_scene(0, "train", number) for number in FULL]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sample")
    seen: list[float] = []
    counts = {"train": 3, "val": 1, "test": 2}
    make_sample(out, counts=counts, size=SMALL, workers=2, progress=lambda done, total, note: seen.append(done / total))
    assert seen == [k / 6 for k in range(1, 7)]
    return out


def test_layout_is_cityscapes(drawn: Path, tmp_path: Path) -> None:
    table = scan(dataclasses.replace(load_registry(tmp_path)["sample"], path=drawn))
    assert (table["status"] == "ok").all() and dict(table["split"].value_counts()) == {"train": 3, "test": 2, "val": 1}
    assert set(zip(table["width"], table["height"], strict=True)) == {SMALL}
    city = CITIES["train"][0]
    assert table["image"].str.fullmatch(rf"train/{city}/{city}_000000_000019_leftImg8bit").any()
    groups = table.groupby("split")["group"].agg(set)
    assert not groups["train"] & groups["test"] and not groups["val"] & groups["test"]
    assert not list(drawn.rglob("*.part"))


def test_a_picture_does_not_depend_on_the_others_or_on_workers(drawn: Path) -> None:
    for split, number in (("train", 2), ("test", 1)):
        city = CITIES[split][number % len(CITIES[split])]
        file = drawn / "leftImg8bit" / split / city / f"{city}_{number:06d}_000019_leftImg8bit.png"
        assert np.array_equal(read_picture(file), draw_scene(0, split, number, SMALL)[0])


def test_seeds_splits_and_numbers_differ() -> None:
    which = ((0, "train", 0), (1, "train", 0), (0, "val", 0), (0, "train", 1))
    for a, b in combinations([draw_scene(*one, SMALL)[0].astype(int) for one in which], 2):
        assert np.abs(a - b).mean() > 10


def test_pictures_are_no_flat_drawings(scenes: Drawn) -> None:
    """Spectra of photographs fall as about 1/f² in power (CamVid at this size: −2.2 to −2.7)."""
    grey = resize(scenes[0][0], SMALL).mean(axis=2)
    window = np.hanning(256)[:, None] * np.hanning(512)
    power = np.abs(np.fft.fft2((grey - grey.mean()) * window)) ** 2
    radius = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(512)[None])
    edges = np.geomspace(0.01, 0.4, 9)
    rings = [power[(radius >= a) & (radius < b)].mean() for a, b in pairwise(edges)]
    slope = np.polyfit(np.log(np.sqrt(edges[:-1] * edges[1:])), np.log(rings), 1)[0]
    assert -3.0 < slope < -1.4
    blocks = grey[: 256 // 16 * 16].reshape(16, 16, 32, 16).transpose(0, 2, 1, 3).reshape(-1, 256)
    assert np.median(blocks.std(axis=1)) > 3  # texture in most places
    assert grey.std() > 25


def test_plates_are_where_the_sidecar_says_and_legible(drawn: Path, scenes: Drawn) -> None:
    files = sorted(drawn.glob("objects/*/*/*_objects.json"))
    assert len(files) == 6
    for file in files:
        listed = json.loads(file.read_text())
        assert listed["size"] == list(SMALL)
        for item in listed["objects"]:
            x, y, w, h = item["box"]
            assert item["kind"] in ("plate", "sign") and item["text"]
            assert x >= 0 and y >= 0 and x + w <= SMALL[0] and y + h <= SMALL[1]
    found = 0
    for number, (picture, objects) in zip(FULL, scenes, strict=True):
        for item in (o for o in objects if o["kind"] == "plate" and o["box"][2] > 80):
            x, y, w, h = (round(v) for v in item["box"])
            crop = picture[y + 2 : y + h - 2, x + 2 : x + w - 2].mean(axis=2)
            expected = 1 - text_mask(item["text"], crop.shape[1], crop.shape[0], 0.06)
            assert np.corrcoef(crop.ravel(), expected.ravel())[0, 1] > 0.55, (number, item)
            assert crop.max() - crop.min() > 60
            found += 1
    assert found >= 2


def test_noise_is_normed_and_disjoint_between_splits() -> None:
    train, again, test = (Scene((0, split, 5), 256, 128) for split in (1, 1, 3))
    a, b, c = (scene.noise(1024, 1024, 0, 0.7) for scene in (train, again, test))
    assert a.std() == pytest.approx(1, abs=0.01) and np.array_equal(a, b)
    # No shift of one field looks like the other.
    correlation = np.fft.irfft2(np.fft.rfft2(a) * np.conj(np.fft.rfft2(c))) / a.size
    assert np.abs(correlation).max() < 0.5


def test_no_picture_is_asked_for(tmp_path: Path) -> None:
    assert make_sample(tmp_path, counts={"train": 0}) == []
