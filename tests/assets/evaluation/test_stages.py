import pandas as pd
import pytest

from assets.evaluation.pieces import check_estimate, gallery_images, kept_name
from assets.evaluation.rates_stage import best_experiment
from models.errors import FoveaError
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


def test_a_single_file_below_its_estimate_is_counted() -> None:
    many = pd.concat([points(1000)] * 30, ignore_index=True)
    assert check_estimate(many, "p") == 0
    many.loc[7, "bytes"] = 700
    assert check_estimate(many, "p") == 1
    many.loc[8, "bytes"] = 1085
    with pytest.raises(FoveaError, match=r"p: 1 of 60 files are .* the worst is a with 1085 bytes"):
        check_estimate(many, "p")


def rates(bd: float, high: float) -> pd.DataFrame:
    row = {
        "anchor_arm": "uniform", "test_arm": "saliency_gain", "maps": "predicted", "codec": "bls2017", "variant": "",
        "metric": "sw_psnr_db", "method": "pchip", "bd_rate_percent": bd, "ci_high": high,
    }  # fmt: skip
    return pd.DataFrame([row])


def test_the_best_needs_an_interval_below_zero() -> None:
    experiments = sweep("smoke", "sample").experiments
    for high, arm in ((-5.0, "saliency_gain"), (2.0, "uniform"), (float("nan"), "uniform")):
        best = best_experiment(experiments, rates(-10.0, high))
        assert best is not None and best.arm == arm
    assert best_experiment([], rates(-10.0, -5.0)) is None


def test_gallery_and_names_do_not_depend_on_order() -> None:
    images = [f"p{i}" for i in range(9)]
    assert gallery_images(images) == gallery_images(images[::-1])
    assert kept_name("a", "", 0.1) != kept_name("a", "", 0.2) != kept_name("b", "", 0.2)
