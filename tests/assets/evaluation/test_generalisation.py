import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scenes import scene

from assets.evaluation.classical_fit import Fitted, at_most, decoded, shrunk
from assets.evaluation.generalisation import (
    Crop,
    Shown,
    crops_of,
    gaps,
    generalisation,
    kept_crops,
    kid_difference,
    through,
    trained_folder,
)
from assets.evaluation.generalisation_page import markdown, page
from assets.evaluation.measure import Subject
from assets.graph import Waiting
from assets.stages import open_chain
from assets.training.watch import spread
from models.codecs import classical
from models.codecs.base import CodecConfig
from models.codecs.catalogue import build


def made(codec, picture, divisor):
    small = shrunk(picture, divisor)
    return [Fitted(classical.encode(codec, float(q), small), divisor) for q in range(1, 40, 2)]


def error_of(codec, file, picture):
    return np.square(decoded(codec, file, picture).astype(float) - picture).mean()


@pytest.mark.parametrize("codec", ["webp", "bicubic", "avif"])
def test_the_file_within_the_budget_that_shows_the_picture_best(codec):
    picture = scene(130, 194)
    files = {d: made(codec, picture, d) for d in ((1,) if codec == "bicubic" else (1, 2, 4))}
    for budget in (len(files[1][4].data), 2 * len(files[1][4].data)):
        file = at_most(codec, picture, budget)
        assert len(file.data) <= budget
        for candidates in files.values():
            largest = max((f for f in candidates if len(f.data) <= budget), key=lambda f: len(f.data))
            # sizes need not rise with each single quality
            assert error_of(codec, file, picture) <= 1.03 * error_of(codec, largest, picture)


@pytest.mark.parametrize("codec", ["webp", "avif"])
def test_a_picture_is_shrunk_where_no_file_is_small_enough(codec):
    picture = scene(130, 194)
    least = [len(classical.encode(codec, 1.0, shrunk(picture, d))) for d in (1, 2, 4)]
    assert least[2] < least[1] < least[0]
    file = at_most(codec, picture, least[0] - 1)
    assert file.shrunk > 1 and least[2] <= len(file.data) < least[0]
    assert decoded(codec, file, picture).shape == picture.shape
    # enlarged, it is still that picture
    error = np.abs(decoded(codec, file, picture).astype(float) - picture).mean()
    assert error < 0.5 * np.abs(picture.mean() - picture.astype(float)).mean()
    # not even that is enough: the smallest there is
    assert at_most(codec, picture, 3) == (classical.encode(codec, 1.0, shrunk(picture, 4)), 4)


def test_through_counts_the_payload_apart():
    torch.manual_seed(0)
    options = (("blocks", 1), ("norm", "none"), ("patch", 2))
    codec = build(CodecConfig(codec="agustsson2019", n=16, m=4, lmbda=(4.0,), options=options)).eval()
    subject = Subject("a", scene(64, 96), None, scene(64, 96)[..., 0], None)
    ((data, shown, payload),) = through(codec, [subject], 4.0)
    assert shown.shape == (64, 96, 3) and 0 < payload < len(data) < payload + 30


@given(count=st.integers(1, 200), wanted=st.integers(1, 60))
def test_pictures_are_spread_over_the_whole_part(count, wanted):
    places = spread(count, wanted)
    assert len(places) == min(count, wanted) and len(set(places)) == len(places)
    assert places[0] == 0 and (len(places) == 1 or places[-1] == count - 1)
    steps = np.diff(places)
    assert len(steps) == 0 or steps.max() - steps.min() <= 1


def test_what_was_trained_before_a_change_is_called_stale():
    def made(stage, key):
        raise Waiting(stage, key)

    store = SimpleNamespace(
        has=lambda stage, key: key == "old",
        manifest=lambda stage, key: {"meta": {"facts": {"doctor": "passed"}}},
        folder=lambda stage, key: Path(stage, key),
    )
    chain = SimpleNamespace(made=made, latest=lambda stage, key: {"key": "old"}, store=store)
    folder = Path("trained_codec", "old")
    assert trained_folder(chain, "k") == (folder, "old", {"doctor": "passed"}, False)
    chain.latest = lambda stage, key: None
    with pytest.raises(Waiting, match="made first"):
        trained_folder(chain, "k")
    unit = SimpleNamespace(digest="new")
    chain.made = lambda stage, key: SimpleNamespace(folder=folder, unit=unit, facts={})
    assert trained_folder(chain, "k") == (folder, "new", {}, True)


def rows():
    kid = {"held_out_kid": 0.2, "held_out_kid_low": 0.1, "held_out_kid_high": 0.3, "held_out_lpips": math.nan}
    base = {
        "arm": "uniform",
        "rate_name": "channels",
        "rate": 8.0,
        "factor": math.nan,
        "codec": "agustsson2019",
        **kid,
    }
    gap = (
        "psnr_gap_db",
        "perceptual_gap_percent",
        "train_psnr_db",
        "held_out_psnr_db",
        "train_perceptual",
        "held_out_perceptual",
    )
    fine, poor = (
        base | {"variant": variant, "doctor": doctor} | dict(zip(gap, values, strict=True))
        for variant, doctor, values in (
            ("scratch", "passed", (0.5, 5.0, 22.0, 21.5, 2.0, 2.1)),
            ("fault=gradient,<scratch>", "failed: gradients", (6.0, 50.0, 24.0, 18.0, 2.0, 3.0)),
        )
    )
    other = base | {
        "codec": "webp",
        "of": "8, weighted",
        "arm": "classical",
        "factor": 1.5,
        "held_out_psnr_db": 20.0,
    }
    return pd.DataFrame([fine, poor, other | {"variant": "scratch", "doctor": ""}])


def test_gaps_and_how_they_are_shown():
    table = rows()
    found = gaps(measured([22.0, 23.0], [21.5, 22.5]))
    assert found["psnr_gap_db"] == 0.5
    assert found["perceptual_gap_percent"] == pytest.approx(100 * (18 / 17.5 - 1))
    text = markdown(table)
    lines = text.splitlines()
    assert len(lines) == 5 and "LPIPS" not in lines[0] and lines[0].startswith("| codec | at |")
    assert "| 0.50 |" in lines[2] and "0.2000 [0.1000, 0.3000]" in lines[2] and "passed" in lines[2]
    assert "1.5 × the bits of 8, weighted" in lines[4]
    shown = page(table, "a <title>")
    assert "a &lt;title&gt;" in shown and "&lt;scratch&gt;" in shown and "<scratch>" not in shown
    assert shown.count("#D55E00") == 2 and shown.count("#0072B2") == 2
    assert "Common to all trainings" not in shown
    same = page(table.assign(variant=["steps=9", "fault=gradient,steps=9", ""]), "title")
    assert same.count("steps=9") == 1 and "fault=gradient" in same
    assert "Common to all trainings: steps=9." in same


def each(psnr, perceptual):
    return {"psnr_db": list(psnr), "perceptual": list(perceptual)}


def measured(train, held_out):
    """As `_Looks.measured` says of PSNRs; the perceptual distance is 40 less that."""
    row = {}
    for name, psnr in (("train", train), ("held_out", held_out)):
        distance = [40 - p for p in psnr]
        row |= {f"{name}_psnr_db": float(np.mean(psnr)), f"{name}_perceptual": float(np.mean(distance))}
        row[f"each_{name}"] = each(psnr, distance)
    return row


def test_harder_pictures_are_not_taken_for_what_a_codec_learnt_by_heart():
    rng = np.random.default_rng(0)
    hard, easy = rng.normal(20, 2, 40), rng.normal(23, 2, 40)
    # training pictures are the harder ones by 3 dB; by heart the codec gained 1.5 dB on them
    learned = measured(hard + 1.5 + rng.normal(0, 0.3, 40), easy + rng.normal(0, 0.3, 40))
    found = gaps(learned, measured(hard, easy))
    assert found["psnr_gap_db"] == pytest.approx(learned["train_psnr_db"] - learned["held_out_psnr_db"])
    assert found["psnr_gap_db"] < 0
    assert found["psnr_gap_beyond_db_low"] < 1.5 < found["psnr_gap_beyond_db_high"]
    assert found["psnr_gap_beyond_db_low"] > 1
    # what both codecs find hard cancels: the interval is a narrower one
    widths = [found[f"{k}_high"] - found[f"{k}_low"] for k in ("psnr_gap_db", "psnr_gap_beyond_db")]
    assert widths[1] < 0.4 * widths[0]
    assert found["perceptual_gap_beyond_percent"] > 0 > found["perceptual_gap_percent"]
    same = gaps(learned, learned)
    assert same["psnr_gap_beyond_db"] == same["psnr_gap_beyond_db_high"] == 0
    assert "psnr_gap_beyond_db" not in gaps(learned)


def test_kids_are_compared_on_the_same_draws():
    rng = np.random.default_rng(1)
    shared = rng.normal(0, 5, 1000)
    row = {"held_out_kid": 30.0, "each_held_out": {"kid_draws": list(30 + shared)}}
    other = {"held_out_kid": 32.0, "each_held_out": {"kid_draws": [math.nan, *(32 + shared[1:])]}}
    found = kid_difference(row, other)
    assert found["kid_difference"] == -2
    assert found["kid_difference_low"] == pytest.approx(-2) == found["kid_difference_high"]
    few = {"held_out_kid": 1.0, "each_held_out": {"kid_draws": []}}
    assert math.isnan(kid_difference(few, few)["kid_difference_low"])


@pytest.mark.slow
def test_a_trained_sweep_is_measured_once(tmp_path, monkeypatch):

    monkeypatch.setenv("FOVEA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FOVEA_CONFIG", str(tmp_path / "config"))
    chain = open_chain(threads=1)
    sweep = chain.world.sweeps["sample.gan-tiny"]
    assert generalisation(chain, sweep, pictures=4).empty
    for stage in ("source_frames", "resized_frames", "saliency_maps", "rgba_frames"):
        chain.make(stage, "sample")
    chain.make("trained_codec", sweep.experiments[0].key)
    table = generalisation(chain, sweep, pictures=4)
    assert list(table.codec) == ["agustsson2019", "bicubic", *["avif"] * 2, "avif-visual", *["webp"] * 2]
    learned = table.iloc[0]
    assert learned.held_out_payload_bpp <= learned.bound_bpp
    assert learned.held_out_payload_bpp < learned.held_out_bpp
    assert learned.held_out_pictures == learned.train_pictures == 4
    assert np.isfinite(
        learned[["psnr_gap_db", "perceptual_gap_percent", "held_out_kid", "held_out_sw_psnr_db"]].astype(float)
    ).all()
    # only the codec that says what the pictures themselves make of the gap is measured on training pictures, too
    assert list(table.train_pictures.notna()) == [True, *[False] * 4, True, False]
    own = learned.psnr_gap_db - (table.train_psnr_db - table.held_out_psnr_db)[5]
    assert learned.psnr_gap_beyond_db == pytest.approx(own)
    assert table.kid_difference[2] == pytest.approx(learned.held_out_kid - table.held_out_kid[2])
    again = generalisation(open_chain(chain.home, threads=1), sweep, pictures=4)
    pd.testing.assert_frame_equal(table, again)
    kept = {unit: kept_crops(chain, unit) for unit in table.unit}
    assert [c.codec for c in kept[learned.unit]].count("original") == 3
    assert [(c.codec, c.part) for c in kept[table.unit.iloc[2]]] == [("avif", "held_out")] * 2
    # one training and two held-out pictures; the original and the learned codec on all, six classical rows on two
    assert page(table, "gaps", kept).count("data:image/png;base64,") == 2 * 3 + 6 * 2


def test_crops_stand_in_the_column_of_their_row():
    table = rows().assign(unit=["fine", "poor", "webp"])
    first = Crop("original", "held_out", "a.png", math.nan, b"0")
    crops = {
        "fine": [first, Crop("agustsson2019", "held_out", "a.png", 0.05, b"1")],
        "poor": [first, Crop("agustsson2019", "held_out", "a.png", 0.06, b"2")],
        "webp": [Crop("webp", "held_out", "a.png", 0.07, b"3")],
    }
    shown = page(table, "t", crops)
    assert shown.count("<figure>") == 4
    places = [shown.index(t) for t in ("a.png</fig", "0.0500 bpp", "0.0600 bpp", "0.0700 bpp")]
    assert places == sorted(places)


def test_crops_are_windows_of_the_decoded_pictures():
    from assets.frames.decode import read_picture

    pictures = [scene(260, 300, seed) for seed in range(4)]
    weighing = [np.zeros((260, 300), np.uint8) for _ in pictures]
    for w in weighing:
        w[200:, 250:] = 255
    subjects = [Subject(n, p, None, w, None) for n, p, w in zip("abcd", pictures, weighing, strict=True)]
    shown = [Shown(b"x" * 780, 255 - p, 700.0) for p in pictures]
    found = crops_of(subjects, "held_out", "webp", shown, originals=True)
    assert [(c.codec, c.image) for c in found] == [
        ("original", "a"), ("webp", "a"), ("original", "c"), ("webp", "c"),
    ]  # fmt: skip
    assert found[1].bpp == pytest.approx(8 * 780 / (260 * 300))
    one, other = (read_picture(c.png) for c in found[:2])
    assert one.shape == (224, 224, 3) and (other == 255 - one).all()
    assert (one == pictures[0][36:, 76:]).all()


def test_classical_rows_say_when_no_file_is_small_enough():
    row = {
        "codec": "webp", "arm": "classical", "of": "4", "variant": "", "rate_name": "channels", "rate": 4.0, "factor": 1.5, "doctor": "",
        "held_out_bpp": 0.17, "held_out_pictures": 48, "over_budget": 48,
    }  # fmt: skip
    text = markdown(pd.DataFrame([row, {**row, "over_budget": 0}]))
    assert "smallest files: 48 of 48 above 1.5 × the bits of 4" in text
    assert "| at most 1.5 × the bits of 4 |" in text
    text = markdown(pd.DataFrame([{**row, "over_budget": 0, "shrunk_pictures": 7}]))
    assert "| at most 1.5 × the bits of 4, 7 of 48 shrunk |" in text
