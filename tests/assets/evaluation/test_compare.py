from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from points import LAMBDAS, make_points
from upath import UPath

from assets.chain import Chain
from assets.evaluation.compare import ONLY_AFTER, Pair, compare_points, outcome, pair_curves
from assets.evaluation.rate_distortion import CurveKey, concat_points
from assets.evaluation.sides import read_side
from assets.evaluation.summary import compare_lines
from assets.evaluation.tables import curves_and_rates, keep_table, latest_table
from assets.graph import Unit
from assets.home import Home
from assets.stages import open_chain
from models.errors import FoveaError


def made(rate: float = 1.0, *, arms: tuple[str, ...] = ("uniform",), **options: Any) -> pd.DataFrame:
    """Curves whose rates are `rate` times those of the plain call."""
    maps = {"uniform": "none", "weighted": "predicted"}
    return concat_points([make_points(arm, maps[arm], rate=rate, noise=0.0, **{"n": 8, **options}) for arm in arms])


def only(rates: pd.DataFrame, metric: str = "psnr_db") -> dict[str, object]:
    (row,) = rates[(rates["metric"] == metric) & (rates["method"] == "pchip")].to_dict("records")
    return row


def test_a_tenth_fewer_bits_is_a_bd_rate_of_minus_ten() -> None:
    rates = compare_points(made(), made(0.9), resamples=100)
    row = only(rates)
    assert row["bd_rate_percent"] == pytest.approx(-10, abs=1e-6) and outcome(row) == "better"
    # paired: pictures differ by a third of their rate, the comparison by nothing
    assert row["ci_high"] - row["ci_low"] < 1e-6 and row["n_images"] == 8 and "-10.0" in compare_lines(rates)
    back = compare_points(made(0.9), made(), resamples=100)
    assert only(back)["bd_rate_percent"] == pytest.approx(100 / 0.9 - 100) and outcome(only(back)) == "worse"


def test_the_same_on_both_sides_is_said_to_be_the_same() -> None:
    rates = compare_points(made(), made(), resamples=50)
    assert only(rates)["bd_rate_percent"] == pytest.approx(0) and rates["same_files"].all()
    assert "the same files" in compare_lines(rates)
    # a rate more is another curve of the same files, and no better codec
    fewer = made().query("rate > @LAMBDAS[0]")
    assert compare_points(fewer, made(), resamples=50)["same_files"].all()
    assert not compare_points(fewer, made().query("rate == @LAMBDAS[0]"), resamples=50)["same_files"].any()


def test_refusals_keep_their_row_and_their_reason() -> None:
    rates = compare_points(made(), made(dataset="other"), resamples=50)
    assert set(rates["status"]) == {"refused"} and len(rates) == 4
    rates = compare_points(made(), made(width=65), resamples=50)
    assert set(rates["status"]) == {"refused"} and "no picture in common" in only(rates)["reason"]
    rates = compare_points(made(), made(seeds=(3,)), resamples=50)
    assert "no seed in common" in only(rates)["reason"]
    few = made()
    few = few[few["rate"] < LAMBDAS[-1]]
    rates = compare_points(made(), few, resamples=50)
    assert "3 points, fewer than 4" in only(rates)["reason"]
    rates = compare_points(made(), made(arms=("uniform", "weighted")), resamples=50)
    assert ONLY_AFTER in set(rates["reason"]) and "refused" in compare_lines(rates)
    rates = compare_points(made(), made(arms=("uniform", "weighted")), resamples=50, list_only_after=False)
    assert set(rates["arm"]) == {"uniform"}


def test_pairing_falls_back_to_the_only_curve_of_the_same_name() -> None:
    def key(preset: str, variant: str = "", arm: str = "uniform") -> CurveKey:
        return CurveKey("d", "test", "t", "bls2017", arm, "none", preset, variant)

    assert pair_curves([key("a")], [key("a"), key("b")]) == [Pair(key("a"), key("a")), Pair(None, key("b"))]
    assert pair_curves([key("a")], [key("b")]) == [Pair(key("a"), key("b"))]
    assert pair_curves([key("a")], [key("b", "lr=0.001")]) == [Pair(key("a"), key("b", "lr=0.001"))]
    two = [key("b", "lr=0.001"), key("b", "lr=0.002")]
    assert pair_curves([key("a")], two) == [Pair(key("a"), None), *(Pair(None, k) for k in two)]


def test_what_differs_between_curves_of_one_name_is_said() -> None:
    rates = compare_points(made().assign(preset="smoke"), made(0.9).assign(preset="small"), resamples=50)
    assert only(rates)["reason"] == "preset smoke → small" and "preset smoke → small" in compare_lines(rates)
    few = made().assign(preset="small").query("rate < @LAMBDAS[-1]")
    assert only(compare_points(made(), few, resamples=50))["reason"].startswith("preset smoke → small; ")


def home(tmp_path: Path) -> Chain:
    return open_chain(Home(tmp_path / "home", tmp_path, UPath(tmp_path / "data")))


def test_a_table_on_disk_is_a_side(tmp_path: Path) -> None:
    path, bad = tmp_path / "kept.parquet", tmp_path / "bad.parquet"
    made().to_parquet(path)
    side = read_side(home(tmp_path), str(path))
    assert not side.whole
    pd.testing.assert_frame_equal(side.points, made())
    pd.DataFrame({"a": [1], "b": [2]}).to_parquet(bad)
    for text, said in (
        (
            str(bad),
            r"bad.parquet: not a table of points .* unknown columns \['a', 'b'\]; needed are dataset, split, image",
        ),
        (str(tmp_path / "none.parquet"), "no such file"),
        ("sample.nothing", "neither DATASET.SWEEP .*: unknown sweep 'nothing'; known: (?!.*tiny)"),
        ("sample.smok", "unknown sweep 'smok'; did you mean 'smoke'"),
        ("sampel.smoke~1", "unknown dataset 'sampel'; did you mean 'sample'"),
        ("sample.smoke~x", "write sample.smoke~1"),
        ("sample.smoke~1", "no earlier make"),
        ("sample.smoke", "nothing of sample.smoke is measured|has to be made first"),
    ):
        with pytest.raises(FoveaError, match=said):
            read_side(home(tmp_path), text)
    for text, said in (("sample.smok", "did you mean 'smoke'"), ("sample.smoke", "--dataset sample --sweep smoke$")):
        with pytest.raises(FoveaError, match=said):
            latest_table(home(tmp_path), "rd_curves", text)


def test_curves_of_a_benchmark_are_those_that_it_wrote(tmp_path: Path) -> None:
    chain, rates = home(tmp_path), pd.DataFrame({"metric": ["psnr_db"], "bd_rate_percent": [-3.0]})
    for name in ("benchmark", "benchmark-mine"):
        with pytest.raises(FoveaError, match=f"no sample.{name} is here: fovea benchmark --dataset sample"):
            curves_and_rates(chain, f"sample.{name}")
        keep_table(chain.home.tables, f"{name}.sample.points", made())
        keep_table(chain.home.tables, f"{name}.sample", rates)
        curves, found = curves_and_rates(chain, f"sample.{name}")
        assert set(curves["codec"]) == set(made()["codec"]) and len(curves) == made()["rate"].nunique()
        pd.testing.assert_frame_equal(found, rates)
    for wrong, said in (("sampel.benchmark", "did you mean 'sample'"), ("sample.benchmarks", "unknown sweep")):
        with pytest.raises(FoveaError, match=said):
            curves_and_rates(chain, wrong)


def test_an_earlier_make_is_read_from_the_store(tmp_path: Path) -> None:
    chain = home(tmp_path)
    for key, rate in (("old", 1.0), ("new", 0.9)):
        with chain.store.writing("rd_points", f"points-{key}") as piece:
            made(rate).to_parquet(piece.path("points.parquet"))
    units = {key: Unit("rd_curves", "sample.smoke", {"key": key}) for key in ("old", "between", "new")}

    def make(key: str, points: str) -> None:
        with chain.store.writing("rd_curves", units[key].digest) as unit:
            unit.meta |= {"partition": "sample.smoke", "pieces": [["rd_points", points]]}
        chain._remember(units[key])

    make("old", "points-old")
    make("new", "points-new")
    pd.testing.assert_frame_equal(read_side(chain, "sample.smoke~1").points, made(1.0))
    with pytest.raises(FoveaError, match="holds 1 earlier"):
        read_side(chain, "sample.smoke~2")
    make("between", "points-new")
    # what is found again comes right before the current one, whenever it was made
    chain._remember(units["old"])
    chain._remember(units["new"])
    pd.testing.assert_frame_equal(read_side(chain, "sample.smoke~1").points, made(1.0))
    pd.testing.assert_frame_equal(read_side(chain, "sample.smoke~2").points, made(0.9))
