import itertools
import math
from collections.abc import Sequence

import pandas as pd
import pytest

from assets.evaluation.notes import figures_said, model_note, training_note
from assets.evaluation.palette import plain_colour
from assets.evaluation.pieces import check_estimate, gallery_images, kept_name
from assets.evaluation.rates_stage import best_experiment, metric_name, why_best
from models.errors import FoveaError
from models.experiments import Experiment
from models.sweeps import sweep, sweep_names
from models.tracking import Tracker


def points(real: int) -> pd.DataFrame:
    row = {"image": "a", "width": 100, "height": 80, "bytes": 1000, "bpp_estimate": 8 * 1000 / 8000}
    return pd.DataFrame([row, {**row, "image": "b", "bytes": real}])


def test_a_file_far_from_its_estimate_is_not_compared() -> None:
    check_estimate(points(1084), "p")
    check_estimate(points(916), "p")
    with pytest.raises(FoveaError, match=r"p: 1 of 2 files are .* the worst is b with 1085 bytes"):
        check_estimate(points(1085), "p")
    with pytest.raises(FoveaError, match="the worst is b"):
        check_estimate(points(915), "p")
    for wrong in (math.nan, math.inf):
        with pytest.raises(FoveaError, match="2 of 2 files"):
            check_estimate(points(1000).assign(bpp_estimate=wrong), "p")


def test_a_single_file_below_its_estimate_is_counted() -> None:
    many = pd.concat([points(1000)] * 30, ignore_index=True)
    assert check_estimate(many, "p") == 0
    many.loc[7, "bytes"] = 700
    assert check_estimate(many, "p") == 1
    many.loc[8, "bytes"] = 1085
    with pytest.raises(FoveaError, match=r"p: 1 of 60 files are .* the worst is a with 1085 bytes"):
        check_estimate(many, "p")


def rates(bd: float, high: float, codec: str = "bls2017") -> pd.DataFrame:
    row = {
        "anchor_arm": "uniform", "test_arm": "saliency_gain", "maps": "predicted", "codec": codec, "variant": "",
        "preset": "" if codec == "light" else "smoke",
        "metric": "sw_psnr_db", "method": "pchip", "bd_rate_percent": bd, "ci_low": high - 4, "ci_high": high,
    }  # fmt: skip
    return pd.DataFrame([row])


def of_codecs(experiments: Sequence[Experiment], fewer: float, pictures: int = 5) -> pd.DataFrame:
    """Some pictures' points of each; `light` needs so many times the bits of `bls2017` for the same quality."""
    rows = [
        {
            "experiment": e.key, "rate": rate, "seed": 0, "image": str(i), "sw_psnr_db": 30 + i + math.log2(rate),
            "bpp": rate**0.7 * (fewer if e.codec == "light" else 1), "psnr_db": 30.0,
        }
        for e in experiments for rate in e.rates for i in range(pictures)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_best_needs_an_interval_below_zero() -> None:
    experiments = [e for e in sweep("smoke", "sample").experiments if e.codec == "bls2017"]
    for high, arm in ((-5.0, "saliency_gain"), (2.0, "uniform"), (float("nan"), "uniform")):
        best, _ = best_experiment(experiments, rates(-10.0, high), of_codecs(experiments, 1))
        assert best is not None and best.arm == arm
    assert best_experiment([], rates(-10.0, -5.0), of_codecs(experiments, 1))[0] is None


@pytest.mark.parametrize(("fewer", "codec"), [(0.6, "light"), (1.4, "bls2017")])
def test_the_best_codec_needs_the_fewest_bits_whatever_its_own_arms_gain(fewer: float, codec: str) -> None:
    experiments = sweep("smoke", "sample").experiments
    gained = pd.concat([rates(-25.0, -20.0), rates(-23.0, -20.0, "light").assign(variant="as shipped")])
    best, _ = best_experiment(experiments, gained, of_codecs(experiments, fewer))
    assert best is not None and (best.codec, best.arm, best.maps) == (codec, "saliency_gain", "predicted")


def test_the_best_codec_was_measured_and_is_told_by_quality_where_curves_share_none() -> None:
    experiments = sweep("smoke", "sample").experiments
    gained, points = pd.concat([rates(-25.0, -20.0), rates(2.0, 3.0, "light")]), of_codecs(experiments, 1)
    points.loc[points.experiment.str.contains("light"), "sw_psnr_db"] += 40
    best, compared = best_experiment(experiments, gained, points)
    assert best is not None and (best.codec, best.arm) == ("light", "uniform") and not compared
    assert "at equal quality they cannot all be compared" in why_best(best, compared, experiments, gained, points)
    best, _ = best_experiment(experiments, gained, points[points.experiment.str.contains("bls2017")])
    assert best is not None and best.codec == "bls2017" and best_experiment(experiments, gained, points[:0])[0] is None
    told = [e for e in experiments if e.arm != "uniform"]
    best, _ = best_experiment(told[::-1], rates(2.0, 3.0), points)
    assert best is not None and best.maps == "predicted", "a control is no codec to use"
    twice = [e.but(preset=preset) for e in experiments if e.codec == "bls2017" for preset in ("smoke", "small")]
    both = [*twice, *(e for e in experiments if e.codec == "light")]
    assert best_experiment(both, gained, of_codecs(both, 1))[0] is not None


NO_INTERVAL = "It is `uniform`, since no map is known to save bits where people are predicted to look"


@pytest.mark.parametrize(
    ("pictures", "high", "arm", "said"),
    [
        (1, math.nan, "uniform", f"{NO_INTERVAL}: 1 picture is too few for an interval (5 at least)."),
        (2, math.nan, "uniform", f"{NO_INTERVAL}: 2 pictures are too few for an interval (5 at least)."),
        (4, math.nan, "uniform", f"{NO_INTERVAL}: 4 pictures are too few for an interval (5 at least)."),
        (6, 2.0, "uniform", f"{NO_INTERVAL}: no arm's interval lies below 0."),
        (6, -5.0, "saliency_gain", "Its arm `saliency_gain` saves most where people are predicted to look: −10.0\u202f% [−9.0,\u00a0−5.0] bits"),
    ],
)  # fmt: skip
def test_a_registered_codec_says_why_it_was_chosen(pictures: int, high: float, arm: str, said: str) -> None:
    one = sweep("smoke", "sample")
    both, gained = one.experiments, rates(-10.0, high)
    alone = [e for e in both if e.codec == "bls2017"]
    for experiments, several in ((both, True), (alone, False)):
        points = of_codecs(experiments, 1.4, pictures)
        best, compared = best_experiment(experiments, gained, points)
        assert best is not None and (best.codec, best.arm) == ("bls2017", arm)
        why = why_best(best, compared, experiments, gained, points)
        assert why.startswith(said) and ("Of 2 codecs it needs the fewest bits" in why) is several
        note = model_note(Tracker(), one, "fovea-sample-smoke", best, why, points[points.experiment == best.key])
        assert why in note and f"On {pictures} test picture" in note and "at the rate 0.013" in note
        assert "The report · in Dagster the asset `trained_codec`" in note
        costs = pd.concat([gained, gained.assign(metric="psnr_db", bd_rate_percent=3.0, ci_low=2.0, ci_high=4.0)])
        whole = " at equal plain PSNR." in why_best(best, compared, experiments, costs, points)
        assert whole is (arm != "uniform"), "a saving stands with its cost"
    eyes = gained.assign(metric="ew_psnr_db")
    assert " where people look" in why_best(best, True, alone, eyes, points.assign(ew_psnr_db=30.0))
    refused = why_best(alone[0], True, alone, gained[:0], points)
    assert (refused == f"{NO_INTERVAL}: their curves cannot be compared.") is (pictures >= 5)
    guided = [e for e in alone if e.maps == "predicted"]
    assert why_best(guided[2], True, guided, rates(-10.0, math.nan), points) == "", "there was no choice"


def test_a_runs_description_begins_with_rounded_figures() -> None:
    low, high = {"bpp": 0.17312, "psnr_db": 26.2576, "ms_ssim": 0.9}, {"bpp": 1.72789, "psnr_db": 35.1588}
    assert figures_said([low]) == "**0.173 bpp, 26.26 dB PSNR**"
    assert figures_said([high, low | {"ew_psnr_db": 24.1}]) == (
        "**0.173 … 1.728 bpp, 26.26 … 35.16 dB PSNR, 24.10 dB eye-weighted PSNR**"
    )
    one = sweep("smoke", "sample")
    guided = next(e for e in one.experiments if e.maps == "predicted")
    (row,) = rates(-10.04, -5.0).to_dict("records")
    note = training_note(Tracker(), one, guided, [low], row)
    assert note.startswith(
        "**0.173 bpp, 26.26 dB PSNR** on the test pictures of `sample`. Bits of its curve against `uniform`"
    )
    assert "**−10.0\u202f% [−9.0,\u00a0−5.0]**" in note and f"asset `trained_codec`, partition `{guided.key}`" in note


def test_curves_have_colours_of_their_own_without_dashes_and_markers() -> None:
    for name in sweep_names():
        curves = {(e.codec, e.arm, e.maps, e.variant) for e in sweep(name, "sample").experiments}
        colours = [tuple(int(plain_colour(*c)[i : i + 2], 16) for i in (1, 3, 5)) for c in curves]
        for one, other in itertools.combinations(colours, 2):
            apart = sum(abs(a - b) for a, b in zip(one, other, strict=True))
            assert apart > (10 if len(curves) <= 20 else 0), f"{name}: {one} {other}"


def test_metrics_of_a_sweeps_run_have_a_name_for_each_comparison() -> None:
    one = sweep("smoke", "sample")
    row = {"dataset": "sample", "codec": "light", "test_arm": "saliency_gain", "maps": "center", "preset": "smoke"}
    row |= {"anchor_arm": "uniform", "metric": "psnr_db", "variant": ""}
    assert metric_name(row, one) == "bd/saliency_gain_center_vs_uniform/light/psnr_db"
    other = row | {"dataset": "kodak", "variant": "span=6,as shipped"}
    assert metric_name(other, one) == "bd/saliency_gain_center_vs_uniform/light/kodak/span_6_as shipped/psnr_db"


def test_gallery_and_names_do_not_depend_on_order() -> None:
    images = [f"p{i}" for i in range(9)]
    assert gallery_images(images) == gallery_images(images[::-1])
    assert kept_name("a", "", 0.1) != kept_name("a", "", 0.2) != kept_name("b", "", 0.2)
