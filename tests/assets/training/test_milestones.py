import io
import json
from pathlib import Path

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from assets.training.milestones import (
    CROPS,
    FROM_SCRATCH,
    FROM_TRUNK,
    SIDE,
    Crop,
    Milestones,
    Shown,
    choose_crops,
    milestone_steps,
)


def picture(seed: int, height: int = 256, width: int = 512) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(st.integers(1, 2_000_000), st.sampled_from([FROM_SCRATCH, FROM_TRUNK]))
@example(1, FROM_SCRATCH)
@example(2, FROM_SCRATCH)
@example(7, FROM_SCRATCH)
def test_steps_rise_to_the_last_and_never_faster_than_in_equal_ratios(steps: int, count: int) -> None:
    found = milestone_steps(steps, count)
    assert found[-1] == steps and found[0] >= 1 and list(found) == sorted(set(found))
    assert len(found) <= count


def test_most_steps_are_early() -> None:
    assert milestone_steps(60_000) == (50, 121, 294, 714, 1732, 4202, 10194, 24732, 60000)
    assert milestone_steps(120, FROM_TRUNK) == (15, 120)


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(16, 500), st.integers(16, 700)), min_size=1, max_size=5))
def test_crops_lie_inside_are_equally_large_and_do_not_overlap(sizes: list[tuple[int, int]]) -> None:
    pictures = [np.zeros((h, w, 3), np.uint8) for h, w in sizes]
    crops = choose_crops(pictures, [f"p{i}" for i in range(len(sizes))])
    assert 1 <= len(crops) <= CROPS and {c.side for c in crops} == {min(SIDE, *(min(s) for s in sizes))}
    for place, (height, width) in enumerate(sizes):
        covered = np.zeros((height, width), int)
        for c in (c for c in crops if c.picture == place):
            assert c.top >= 0 and c.left >= 0 and c.of(pictures[place]).shape == (c.side, c.side, 3)
            covered[c.top : c.top + c.side, c.left : c.left + c.side] += 1
        assert covered.max() <= 1


def test_the_window_richest_in_detail_comes_first() -> None:
    flat = np.full((192, 384, 3), 90, np.uint8)
    flat[:, 192:] = picture(0, 192, 192)
    assert choose_crops([flat], ["a"]) == [Crop(0, "a", 0, 192, 192), Crop(0, "a", 0, 0, 192)]
    assert choose_crops([], []) == []


def test_what_is_kept_comes_back_by_step_also_after_a_killed_run(tmp_path: Path) -> None:
    pictures = [picture(1), picture(2)]
    crops = choose_crops(pictures, ["a", "b"])
    first = Milestones(tmp_path / "stages", crops, pictures)
    assert first.collected() == {}
    first.keep(10, [Shown(255 - p, 20.0 + i, 0.5 + i) for i, p in enumerate(pictures)])
    again = Milestones(tmp_path / "stages", crops, pictures)
    again.keep(2, [Shown(p // 2, 10.0, 0.25) for p in pictures])
    files = again.collected(steps=10, rate_name="lmbda", rate=0.01, held_out=True, dataset="drawn")
    assert set(files) == {"original.png", "2.png", "10.png", "stages.json"}
    said = json.loads(files["stages.json"])
    assert [s["step"] for s in said["stages"]] == [2, 10] and said["held_out"] is True
    assert said["stages"][1]["psnr_db"] == [20.0 + c.picture for c in crops]
    assert said["stages"][1]["bpp_estimate"] == [0.5 + c.picture for c in crops]
    for name, change in (("original", lambda p: p), ("2", lambda p: p // 2), ("10", lambda p: 255 - p)):
        sheet = np.asarray(Image.open(io.BytesIO(files[f"{name}.png"])).convert("RGB"))
        wanted = np.concatenate([c.of(change(pictures[c.picture])) for c in crops])
        np.testing.assert_array_equal(sheet, wanted)

    none = Milestones(tmp_path / "none", [], [])
    none.keep(3, [])
    assert none.collected(steps=3) == {} and not list((tmp_path / "none").rglob("*.png"))
