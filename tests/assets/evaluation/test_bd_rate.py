import json
import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from points import LAMBDAS, make_points
from scipy.interpolate import Akima1DInterpolator, PchipInterpolator

from assets.evaluation import bd_rate as bd
from assets.evaluation.export import compressai_results, latex
from assets.evaluation.published import read_curves
from assets.evaluation.rate_distortion import Grid, concat_points, curves_of, rd_curves
from models.errors import FoveaError

# ../shared/reference/codecs.md: published curves on Kodak: bpp and PSNR in dB
PUBLISHED = {
    "bls2017": [(0.1198, 0.1946, 0.3160, 0.4811, 0.7213, 1.0608, 1.4587, 1.9576),
        (26.775, 28.349, 30.021, 31.730, 33.686, 35.816, 38.020, 40.134)],
    "factorized": [(0.1226, 0.1885, 0.2878, 0.4404, 0.6481, 0.9670, 1.3512, 1.8333),
        (26.909, 28.218, 29.617, 31.277, 32.956, 35.381, 37.397, 39.621)],
    "hyperprior": [(0.1313, 0.2089, 0.3199, 0.4784, 0.6687, 0.9388, 1.2592, 1.6602),
        (27.582, 29.197, 30.972, 32.838, 34.526, 36.743, 38.584, 40.557)],
    "mbt2018_mean": [(0.1239, 0.1980, 0.3072, 0.4606, 0.6617, 0.9144, 1.2342, 1.6191),
        (27.699, 29.359, 31.129, 32.951, 34.968, 36.911, 38.838, 40.633)],
    "cheng2020_anchor": [(0.1196, 0.1838, 0.2710, 0.4174, 0.5945, 0.8057),
        (28.582, 29.969, 31.343, 33.390, 35.119, 36.704)],
    "jpeg": [(0.2212, 0.4231, 0.7289, 1.0372), (23.78, 28.04, 30.9, 32.79)],
    "bpg": [(0.1610, 0.3516, 0.6847, 1.1997), (28.68, 31.6, 34.86, 38.26)],
    "vtm": [(0.1125, 0.2458, 0.4905, 0.8748), (28.49, 31.2, 34.26, 37.42)],
}  # fmt: skip


def curve(name: str) -> list[np.ndarray]:
    return [*np.array(PUBLISHED[name])]


def bd_delta(*sides: object, method: str = "pchip") -> bd.Delta:
    """anchor's bpp and quality, test's bpp and quality."""
    return bd.delta(bd.Sides(*(np.asarray(side, np.float64)[None] for side in sides)), method)


increments = st.lists(st.floats(0.05, 4), min_size=4, max_size=9)


@settings(max_examples=60)
@given(increments, st.data(), st.sampled_from(bd.METHODS))
def test_integral_is_scipys(steps: list[float], data: st.DataObject, method: str) -> None:
    x = 20 + np.cumsum(steps)
    # in steps of a thousandth: scipy's harmonic means overflow on slopes next to the smallest float
    rises = data.draw(st.lists(st.integers(-1000, 3000), min_size=len(x), max_size=len(x)))
    y = np.cumsum(rises) / 1000
    low, high = sorted(data.draw(st.tuples(st.floats(0, 1), st.floats(0, 1))))
    low, high = (x[0] + share * (x[-1] - x[0]) for share in (low, high))
    interpolator = (PchipInterpolator if method == "pchip" else Akima1DInterpolator)(x, y)
    ours = bd.integrate(x[None], y[None], np.array([low]), np.array([high]), method)
    assert ours[0] == pytest.approx(float(interpolator.integrate(low, high)), rel=1e-9, abs=1e-9)


def test_integrals_of_many_curves_are_those_of_each() -> None:
    rng = np.random.default_rng(0)
    x, y = np.cumsum(rng.uniform(0.1, 2, (50, 6)), 1), np.cumsum(rng.uniform(0.1, 2, (50, 6)), 1)
    low, high = x[:, 0] + 0.1, x[:, -1] - 0.1
    for method in bd.METHODS:
        together = bd.integrate(x, y, low, high, method)
        alone = [bd.integrate(x[[i]], y[[i]], low[[i]], high[[i]], method)[0] for i in range(50)]
        np.testing.assert_allclose(together, alone, rtol=1e-12)


@pytest.mark.parametrize("method", bd.METHODS)
@pytest.mark.parametrize(
    ("test", "anchor"),
    [
        ("hyperprior", "factorized"), ("mbt2018_mean", "factorized"), ("cheng2020_anchor", "factorized"),
        ("factorized", "jpeg"), ("vtm", "bpg"), ("hyperprior", "bls2017"), ("bls2017", "jpeg"), ("vtm", "hyperprior"),
    ],
)  # fmt: skip
def test_published_curves_agree_with_the_bjontegaard_package(test: str, anchor: str, method: str) -> None:
    import bjontegaard

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"method": method, "require_matching_points": False, "min_overlap": 0}
        rate = bjontegaard.bd_rate(*curve(anchor), *curve(test), **options)
        quality = bjontegaard.bd_psnr(*curve(anchor), *curve(test), **options)
    ours = bd_delta(*curve(anchor), *curve(test), method=method)
    assert ours.reason == "" and ours.bd_rate_percent == pytest.approx(rate, abs=0.1)
    assert ours.bd_quality_db == pytest.approx(quality, abs=0.005)


@settings(max_examples=60)
@given(increments, st.data(), st.floats(0.2, 5), st.sampled_from(bd.METHODS))
def test_itself_is_zero_and_a_scale_the_scale(
    steps: list[float], data: st.DataObject, scale: float, method: str
) -> None:
    quality = 20 + np.cumsum(steps)
    ratios = data.draw(st.lists(st.floats(1.05, 3), min_size=len(steps), max_size=len(steps)))
    bpp = 0.05 * np.cumprod(ratios)
    itself = bd_delta(bpp, quality, bpp, quality, method=method)
    assert itself.bd_rate_percent == pytest.approx(0, abs=1e-9)
    assert itself.bd_quality_db == pytest.approx(0, abs=1e-9) and itself.overlap == pytest.approx(1)
    scaled = bd_delta(bpp, quality, bpp * scale, quality, method=method)
    assert scaled.bd_rate_percent == pytest.approx(100 * (scale - 1), rel=1e-6, abs=1e-6)


def test_order_of_points_does_not_matter() -> None:
    bpp, psnr = curve("vtm")
    there = bd_delta(*curve("bpg"), bpp, psnr)
    assert bd_delta(*curve("bpg"), bpp[::-1], psnr[::-1]) == there


BPP = [0.1, 0.2, 0.4, 0.8, 1.6]
DB = [26.0, 28.0, 30.0, 32.0, 34.0]


@pytest.mark.parametrize(
    ("test_bpp", "test_db", "reason"),
    [
        (BPP[:3], DB[:3], "the test's curve has 3 points, fewer than 4: add rates"),
        (BPP, [26, 28, 27.9, 32, 34], "the test's curve is not monotone"),
        (BPP, [26, 28, 28, 32, 34], "the test's curve is not monotone"),
        ([0.1, 0.2, 0.2, 0.8, 1.6], DB, "the test's curve is not monotone"),
        (BPP, [d + 20 for d in DB], "the curves share no interval"),
        (BPP, [d + 6 for d in DB], "share 25% of the shorter one's interval of quality, less than a third"),
        (BPP, [26, 28, np.nan, 32, 34], "missing or not finite"),
        ([0, 0.2, 0.4, 0.8, 1.6], DB, "missing or not finite"),
    ],
)
def test_refusals_say_why(test_bpp: list[float], test_db: list[float], reason: str) -> None:
    delta = bd_delta(BPP, DB, test_bpp, test_db)
    assert np.isnan(delta.bd_rate_percent) and reason in delta.reason
    swapped = bd_delta(test_bpp, test_db, BPP, DB)
    assert np.isnan(swapped.bd_rate_percent) and reason.replace("the test's", "the anchor's") in swapped.reason


def test_a_third_of_the_shorter_curve_is_enough_and_a_method_is_known() -> None:
    assert bd_delta(BPP, DB, BPP, [d + 5.2 for d in DB]).reason == ""
    with pytest.raises(FoveaError, match="known: pchip, akima"):
        bd_delta(BPP, DB, BPP, DB, method="cubic")


def rates(*pieces: pd.DataFrame, **options: object) -> pd.DataFrame:
    return bd.bd_rates(concat_points(pieces), sweep="smoke", **options)  # type: ignore[arg-type]


def row(table: pd.DataFrame, **where: object) -> pd.Series:
    chosen = table
    for column, value in where.items():
        chosen = chosen[chosen[column] == value]
    assert len(chosen) == 1, chosen
    return chosen.iloc[0]


def compared(*pieces: pd.DataFrame) -> pd.Series:
    return row(rates(*pieces, metrics=("psnr_db",), methods=("pchip",)))


def test_table_has_its_columns_and_comparisons() -> None:
    table = rates(
        make_points(),
        make_points("saliency_gain", "predicted", rate=0.9, stream=2),
        make_points("saliency_gain", "center", rate=0.95, stream=3),
        make_points("classical", codec="jpeg", rate=1.5),
    )
    assert dict(table.dtypes.astype(str)) == dict(bd.BD_RATE_COLUMNS)
    assert list(rates(make_points()).columns) == list(bd.BD_RATE_COLUMNS), "nothing to compare is an empty table"
    pairs = set(zip(table["anchor_arm"], table["test_arm"], table["maps"], strict=True))
    assert pairs == {
        ("uniform", "saliency_gain", "predicted"),
        ("uniform", "saliency_gain", "center"),
        ("saliency_gain@center", "saliency_gain", "predicted"),
        ("jpeg", "uniform", "none"),
        ("jpeg", "saliency_gain", "predicted"),
    }
    # no ew_ms_ssim was measured: no row
    assert set(table["metric"]) == {"psnr_db", "ms_ssim", "sw_psnr_db", "ew_psnr_db"}
    assert (table["status"] == "ok").all() and (table["sweep"] == "smoke").all()
    gain = row(table, anchor_arm="uniform", maps="predicted", metric="psnr_db", method="pchip")
    assert gain["ci_low"] < gain["bd_rate_percent"] < gain["ci_high"] < 0
    assert gain["bd_rate_percent"] == pytest.approx(-10, abs=1.5)
    jpeg = {"anchor_arm": "jpeg", "maps": "none", "metric": "psnr_db", "method": "akima"}
    assert row(table, **jpeg)["bd_rate_percent"] < -30


def test_row_does_not_depend_on_its_company() -> None:
    a, b, c = make_points(), make_points("weighted", "predicted", stream=2), make_points("weighted", "center", stream=3)
    together, alone = (rates(*some, metrics=("psnr_db",)) for some in ((a, b, c), (a, b)))
    where = {"anchor_arm": "uniform", "maps": "predicted", "method": "pchip"}
    pd.testing.assert_series_equal(row(together, **where), row(alone, **where), check_names=False)


def test_pairing_makes_the_interval_narrow() -> None:
    """Pictures differ by a factor in rate, the arms by 5 %: only a paired bootstrap can see that."""
    first = compared(make_points(), make_points("weighted", "predicted", rate=0.95, stream=2))
    assert first["ci_high"] < 0 and first["ci_high"] - first["ci_low"] < 3


@pytest.mark.parametrize("true", [-12.0, 4.0])
def test_interval_covers_the_truth(true: float) -> None:
    covered = 0
    for trial in range(30):
        table = rates(
            make_points(noise=0.05, stream=1000 + trial),
            make_points("weighted", "predicted", rate=1 + true / 100, noise=0.05, stream=5000 + trial),
            metrics=("psnr_db",), methods=("pchip",), resamples=500,
        )  # fmt: skip
        covered += table["ci_low"].iloc[0] <= true <= table["ci_high"].iloc[0]
    # 95 % nominal; 23 of 30 or fewer would happen 6 in 10,000 times
    assert covered >= 24


def test_seeds_widen_the_interval_and_are_counted() -> None:
    seeds = (0, 1, 2)
    base = [make_points(seeds=seeds), make_points("weighted", "predicted", seeds=seeds, rate=0.9, stream=2)]
    spread = base[1].assign(bpp=base[1]["bpp"] * base[1]["seed"].map({0: 0.9, 1: 1.0, 2: 1.1}))
    calm, wild = (compared(base[0], t) for t in (base[1], spread))
    assert calm["n_seeds"] == 3 and wild["ci_high"] - wild["ci_low"] > 2 * (calm["ci_high"] - calm["ci_low"])


def test_classical_anchor_meets_every_seed() -> None:
    only = compared(make_points(seeds=(0, 1)), make_points("classical", codec="jpeg", rate=1.25))
    assert only["n_seeds"] == 2 and only["bd_rate_percent"] == pytest.approx(-20, abs=1.5)


def test_missing_pictures_and_seeds_are_left_out_and_said() -> None:
    test = make_points("weighted", "predicted", seeds=(0, 1), stream=2)
    test = test[~((test["image"] == "003") & (test["rate"] == LAMBDAS[0]))]
    test = test[~((test["seed"] == 1) & (test["rate"] == LAMBDAS[3]))]
    only = compared(make_points(seeds=(0, 1)), test)
    assert only["n_images"] == 39 and only["n_seeds"] == 1 and only["status"] == "ok"
    assert "1 of 40 pictures left out" in only["reason"] and "1 of 2 seeds left out" in only["reason"]


def test_refused_comparison_keeps_its_row() -> None:
    test = make_points("weighted", "predicted", stream=2)
    test.loc[test["rate"] == LAMBDAS[2], "psnr_db"] = 20.0
    only = compared(make_points(), test)
    assert only["status"] == "refused" and np.isnan(only["bd_rate_percent"]) and np.isnan(only["ci_low"])
    assert only["reason"] == "the test's curve is not monotone"


def test_too_many_refused_resamples_mean_no_interval() -> None:
    """Two rates that differ only in one picture: many resamples miss it, and the curve is not monotone there."""
    test = make_points("weighted", "predicted", stream=2, noise=0.0)
    pair = test["rate"].isin(LAMBDAS[1:3])
    test.loc[pair, "psnr_db"] = test.loc[pair].groupby("image")["psnr_db"].transform("mean")
    test.loc[(test["rate"] == LAMBDAS[2]) & (test["image"] == "000"), "psnr_db"] += 4
    only = compared(make_points(noise=0.0), test)
    assert only["status"] == "no_interval" and np.isfinite(only["bd_rate_percent"]) and np.isnan(only["ci_low"])
    assert only["refused_resamples"] == pytest.approx(np.exp(-1), abs=0.05)
    assert "of the resamples were refused, mostly because the test's curve is not monotone" in only["reason"]


def test_few_pictures_mean_no_interval() -> None:
    only = compared(make_points(n=4), make_points("weighted", "predicted", n=4, stream=2))
    assert only["status"] == "no_interval" and "4 pictures, fewer than 5" in only["reason"]


def share_grid(shares: list[float], rate: float = 1.0) -> Grid:
    """The curve of a share at doubling bpp, the same on each of ten pictures."""
    bpp = np.broadcast_to(rate * 0.1 * 2.0 ** np.arange(len(shares))[:, None, None], (len(shares), 1, 10))
    values = {"bpp": bpp, "characters_read": np.broadcast_to(np.array(shares)[:, None, None], bpp.shape)}
    return Grid(np.arange(len(shares), dtype=float), (0,), tuple(map(str, range(10))), values)


def test_a_share_is_compared_by_the_least_rate_that_reaches_it() -> None:
    """A curve that ends level and falls once is none of a decibel's, and half the rates are half the bits all the same."""
    shares = [0.1, 0.4, 0.3, 0.8, 1.0, 1.0]
    (row,) = bd.compare_curves(share_grid(shares), share_grid(shares, 0.5), ["pchip"])
    assert row["status"] == "ok"
    assert (row["bd_rate_percent"], row["ci_low"], row["ci_high"]) == pytest.approx((-50, -50, -50))
    # what is read at the same place, one point later
    (row,) = bd.compare_curves(share_grid([0.2, 0.4, 0.6, 0.8, 1.0]), share_grid([0.0, 0.2, 0.4, 0.6, 0.8]), ["pchip"])
    assert row["bd_rate_percent"] == pytest.approx(100)
    (row,) = bd.compare_curves(share_grid(shares), share_grid([0, 0.5, 0.4, 1, 1, 1]), ["pchip"])
    assert row["status"] == "refused" and row["reason"] == "the test's curve is not monotone"


def test_judged_columns_are_those_of_curves_and_comparisons() -> None:
    plain, guided = make_points(), make_points("saliency_gain", "predicted", rate=0.5)
    guided, plain = (p.assign(texts_read=p.psnr_db / 50) for p in (guided, plain))
    curves = rd_curves(concat_points([plain, guided, make_points("classical", "none", codec="jpeg")]), resamples=10)
    assert curves.texts_read.notna().sum() == 2 * len(LAMBDAS) and "characters_read" not in curves
    assert row(rates(plain, guided), metric="texts_read", method="pchip").bd_rate_percent < -40


def test_variants_meet_their_own_baseline_else_the_plain_one() -> None:
    plain, other = make_points(), make_points(stream=4).assign(variant="distortion=ms_ssim")
    arm = make_points("weighted", "predicted", stream=2)
    table = concat_points([plain, other, *(arm.assign(variant=v) for v in ("alpha=0.2", "distortion=ms_ssim"))])
    curves = [key for key, _ in curves_of(table)]
    chosen = {(c.test.arm, c.test.variant): c.anchor.variant for c in bd.choose_comparisons(curves)}
    assert chosen == {
        ("weighted", "alpha=0.2"): "",
        ("weighted", "distortion=ms_ssim"): "distortion=ms_ssim",
        ("uniform", "distortion=ms_ssim"): "",
    }


def test_pictures_of_a_training_count_among_those_that_were_compared() -> None:
    plain, guided = make_points(n=10), make_points("saliency_gain", "predicted", rate=0.7, n=10)
    known = guided.assign(trained_on=guided.image.isin(["001", "002", "003"]).astype("boolean"))
    known.loc[known.image.isin(["001", "002"]), "ew_psnr_db"] = np.nan
    jpeg = make_points("classical", codec="jpeg", n=10).assign(trained_on=False)
    found = rates(plain, known, jpeg, methods=["pchip"])
    counts = {
        (r.metric, r.anchor_arm): (r.n_trained_on, r.n_images)
        for r in found.query("test_arm != 'uniform'").itertuples()
    }
    assert counts["psnr_db", "uniform"] == counts["psnr_db", "jpeg"] == (3, 10)
    assert counts["ew_psnr_db", "uniform"] == (1, 8)
    assert rd_curves(concat_points([plain, known]), resamples=10).groupby("arm").n_trained_on.max().to_dict() == {
        "saliency_gain": 3,
        "uniform": 0,
    }
    crossed = make_points("saliency_gain", "predicted", codec="other", n=10)
    found = rates(known, crossed, metrics=["psnr_db"], methods=["pchip"])
    assert row(found, anchor_arm="bls2017 saliency_gain").n_trained_on == 3, "the anchor's codec counts, too"
    table = concat_points([plain, known])
    assert table.trained_on.isna().sum() == len(plain), "what nobody wrote down is not known"


def test_codecs_meet_arm_by_arm() -> None:
    mine = [make_points(rate=0.5, stream=1, codec="mine"), make_points("saliency_gain", "predicted", codec="mine")]
    mine.append(make_points("saliency_gain", "center", codec="mine", stream=2))
    other = [make_points(), make_points("saliency_gain", "predicted", rate=0.8)]
    found = rates(*mine, *other, metrics=["psnr_db"], methods=["pchip"])
    crossed = found[[bd.kind_of(*arms) == "codecs" for arms in zip(found.test_arm, found.anchor_arm, strict=True)]]
    assert set(zip(crossed.codec, crossed.test_arm, crossed.anchor_arm, strict=True)) == {
        ("mine", "uniform", "bls2017 uniform"),
        ("mine", "saliency_gain", "bls2017 saliency_gain"),
    }
    assert row(found, anchor_arm="bls2017 uniform").bd_rate_percent == pytest.approx(-50, abs=1)
    twice = [*other, make_points(stream=3).assign(preset="base"), mine[0].assign(preset="base")]
    named = rates(*twice, metrics=["psnr_db"], methods=["pchip"]).query("codec == 'mine'").anchor_arm
    assert set(named) == {"bls2017 uniform smoke made", "bls2017 uniform base made"}


def test_variants_of_uniform_meet_the_one_with_the_fewest_of_their_parts() -> None:
    budget = "lr=0.001,steps=5000"
    variants = (budget, f"{budget},dilation=2", f"{budget},l1_ms_ssim", "as shipped")
    points = [make_points(stream=k).assign(variant=v) for k, v in enumerate(variants)]
    chosen = bd.choose_comparisons(key for key, _ in curves_of(concat_points(points)))
    assert {c.test.variant: c.anchor.variant for c in chosen} == dict.fromkeys(variants[1:3], budget)


def test_exported_curves_are_read_back_and_latex_has_every_point(tmp_path: Path) -> None:
    points = concat_points([make_points(), make_points("saliency_gain", "predicted", rate=0.8)])
    curves = rd_curves(points, resamples=10)
    files = compressai_results(curves)
    assert sorted(files) == ["bls2017-saliency_gain.json", "bls2017-uniform.json"]
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        (back,) = read_curves(tmp_path / name, "kodak")
        rows = curves[("bls2017-" + curves["arm"]) == back.name].sort_values("bpp")
        assert list(back.points) == list(zip(rows["bpp"], rows["psnr_db"], rows["ms_ssim"], strict=True))
        assert len(json.loads(text)["results"]["ew_psnr_db"]) == len(rows)
    points.loc[points["arm"] == "saliency_gain", "variant"] = "as shipped"
    peers = [make_points("classical", rate=1.5).assign(codec=codec) for codec in ("jpeg", "bicubic")]
    points = concat_points([points, *peers])
    page = latex(curves := rd_curves(points, resamples=10), bd.bd_rates(points), "psnr_db")
    first = curves.iloc[0]
    assert page.count("\\addplot") == 4 and f"({first.bpp:.4f},{first.psnr_db:.4f})" in page
    assert r"bls2017 saliency\_gain as shipped & uniform & $-20.0$ & $[-20.0, -20.0]$ \\" in page
    of_peers = [line.partition(" & ")[0] for line in page.splitlines() if re.search(r" & (JPEG|bicubic) & ", line)]
    assert all(rf"\addlegendentry{{{name}}}" in page for name in of_peers)
    with pytest.raises(FoveaError, match=r"did you mean 'psnr_db'\?"):
        latex(curves, bd.bd_rates(points), "psnr")


def test_each_exported_curve_has_a_file_however_long_and_odd_its_name_is(tmp_path: Path) -> None:
    long = "gamma={},span=4,lr=0.0005,steps=600,dilation=2,kept=everything"
    variants = [long.format(0.5), long.format(0.7), "a=1", "a:1"]
    points = [make_points("saliency_gain", "predicted").assign(variant=v, dataset="kodak") for v in variants]
    files = compressai_results(rd_curves(concat_points(points), resamples=2))
    assert len(files) == len(variants) and all(len(name) <= 64 + len(".json") for name in files)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        (back,) = read_curves(tmp_path / name, "kodak")
        assert len(back.name) <= 64
