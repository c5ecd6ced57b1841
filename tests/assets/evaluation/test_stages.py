import math
from collections.abc import Sequence

import pandas as pd
import pytest

from assets.evaluation.pieces import check_estimate, gallery_images, kept_name
from assets.evaluation.rates_stage import best_experiment, metric_name
from models.errors import FoveaError
from models.experiments import Experiment
from models.sweeps import sweep


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
        "metric": "sw_psnr_db", "method": "pchip", "bd_rate_percent": bd, "ci_high": high,
    }  # fmt: skip
    return pd.DataFrame([row])


def of_codecs(experiments: Sequence[Experiment], fewer: float) -> pd.DataFrame:
    """Five pictures' points of each; `light` needs so many times the bits of `bls2017` for the same quality."""
    rows = [
        {
            "experiment": e.key, "rate": rate, "seed": 0, "image": str(i), "sw_psnr_db": 30 + i + math.log2(rate),
            "bpp": rate**0.7 * (fewer if e.codec == "light" else 1),
        }
        for e in experiments for rate in e.rates for i in range(5)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_best_needs_an_interval_below_zero() -> None:
    experiments = [e for e in sweep("smoke", "sample").experiments if e.codec == "bls2017"]
    for high, arm in ((-5.0, "saliency_gain"), (2.0, "uniform"), (float("nan"), "uniform")):
        best = best_experiment(experiments, rates(-10.0, high), of_codecs(experiments, 1))
        assert best is not None and best.arm == arm
    assert best_experiment([], rates(-10.0, -5.0), of_codecs(experiments, 1)) is None


@pytest.mark.parametrize(("fewer", "codec"), [(0.6, "light"), (1.4, "bls2017")])
def test_the_best_codec_needs_the_fewest_bits_whatever_its_own_arms_gain(fewer: float, codec: str) -> None:
    experiments = sweep("smoke", "sample").experiments
    gained = pd.concat([rates(-25.0, -20.0), rates(-23.0, -20.0, "light").assign(variant="as shipped")])
    best = best_experiment(experiments, gained, of_codecs(experiments, fewer))
    assert best is not None and (best.codec, best.arm, best.maps) == (codec, "saliency_gain", "predicted")


def test_the_best_codec_was_measured_and_is_told_by_quality_where_curves_share_none() -> None:
    experiments = sweep("smoke", "sample").experiments
    gained, points = pd.concat([rates(-25.0, -20.0), rates(2.0, 3.0, "light")]), of_codecs(experiments, 1)
    points.loc[points.experiment.str.contains("light"), "sw_psnr_db"] += 40
    best = best_experiment(experiments, gained, points)
    assert best is not None and (best.codec, best.arm) == ("light", "uniform")
    best = best_experiment(experiments, gained, points[points.experiment.str.contains("bls2017")])
    assert best is not None and best.codec == "bls2017"
    assert best_experiment(experiments, gained, points[:0]) is None
    told = [e for e in experiments if e.arm != "uniform"]
    best = best_experiment(told[::-1], rates(2.0, 3.0), points)
    assert best is not None and best.maps == "predicted", "a control is no codec to use"
    twice = [e.but(preset=preset) for e in experiments if e.codec == "bls2017" for preset in ("smoke", "small")]
    both = [*twice, *(e for e in experiments if e.codec == "light")]
    assert best_experiment(both, gained, of_codecs(both, 1)) is not None


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
