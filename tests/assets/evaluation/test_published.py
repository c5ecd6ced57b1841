import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from assets.evaluation.bd_rate import NO_PICTURES, published_rates
from assets.evaluation.palette import look
from assets.evaluation.plots import rd_plot
from assets.evaluation.published import (
    PublishedCurve,
    forget_curve,
    keep_curves,
    published_curves,
    published_rows,
    read_curves,
)
from assets.evaluation.rate_distortion import concat_points, rd_curves
from models.errors import FoveaError

RATES = [0.1, 0.2, 0.4, 0.8]
PSNR = [26.0, 29.0, 32.0, 35.0]


def results(**changes: object) -> dict[str, object]:
    found: dict[str, object] = {"bpp": RATES, "psnr-rgb": PSNR, "ms-ssim-rgb": [0.9, 0.94, 0.97, 0.99]}
    return {k: v for k, v in {**found, **changes}.items() if v is not None}


def written(tmp_path: Path, value: object, name: str = "c.json") -> Path:
    path = tmp_path / name
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_compressai_s_two_layouts_and_a_csv_are_read(tmp_path: Path) -> None:
    (one,) = read_curves(written(tmp_path, {"name": "mbt2018 (mse)", "results": results()}), "kodak", "their paper")
    assert (one.name, one.source, len(one.points)) == ("mbt2018-mse", "their paper", 4)
    assert one.points[0] == (0.1, 26.0, 0.9)
    older = {"name": "x", "results": {"bpp": RATES[::-1], "psnr": PSNR[::-1]}}
    (two,) = read_curves(written(tmp_path, older), "kodak")
    assert two.points == tuple((b, p, None) for b, p in zip(RATES, PSNR, strict=True)) and two.source == "c.json"
    table = written(tmp_path, "codec,bpp,psnr_db,ms_ssim\na,0.1,26,0.9\nb,0.2,27,\na,0.2,28,0.95\n", "t.csv")
    sheet = tmp_path / "sheet.csv"
    sheet.write_bytes("Codec;bpp;PSNR_dB;ms_ssim\r\na;0,1;26;0,9\r\nb;0,2;27\r\na;0,2;28;0,95".encode("utf-16"))
    assert [c.points for c in read_curves(sheet, "kodak")] == [c.points for c in read_curves(table, "kodak")]
    a, b = read_curves(table, "kodak")
    assert a.points == ((0.1, 26.0, 0.9), (0.2, 28.0, 0.95)) and b.points == ((0.2, 27.0, None),)


@pytest.mark.parametrize(
    ("value", "name", "said"),
    [
        ("nothing", "c.json", "invalid JSON"),
        ([1], "c.json", "expected an object"),
        ({"results": results()}, "c.json", "name: missing"),
        ({"name": "x", "results": results(bpp=None)}, "c.json", "results.bpp: missing"),
        ({"name": "x", "results": {"bpp": RATES}}, "c.json", "results.psnr-rgb: missing"),
        ({"name": "x", "results": results(bpp=3)}, "c.json", "results.bpp: expected a valid array"),
        ({"name": "x", "results": results(bpp=RATES[:3])}, "c.json", "4 values of psnr for 3 of bpp"),
        ({"name": "x", "results": results(bpp=[0.1, 0.1, 0.4, 0.8])}, "c.json", "two points at 0.1 bpp"),
        ({"name": "x", "results": results(bpp=[0, 0.1, 0.4, 0.8])}, "c.json", "point 1, bpp: 0 is not within"),
        ({"name": "x", "results": results(bpp=["a", 0.1, 0.4, 0.8])}, "c.json", "point 1, bpp: 'a' is not a number"),
        ({"name": "x", "results": results(bpp=[10**400, 0.1, 0.4, 0.8])}, "c.json", "point 1, bpp: 1000000.* is not a number"),
        ("[" * 100_000, "c.json", "invalid JSON"),
        ({"name": "x", "results": {**results(), "ms-ssim-rgb": [10, 11, 12, 13]}}, "c.json", "MS-SSIM in dB"),
        ({"name": "///", "results": results()}, "c.json", "no name for a curve"),
        ({"name": "x", "results": {"bpp": [], "psnr": []}}, "c.json", "no point"),
        ("a,b\n1,2\n", "t.csv", "no column codec, bpp, psnr_db"),
        ("codec,bpp,psnr_db,lpips\n", "t.csv", "unknown column 'lpips'"),
        ("codec,bpp,psnr_db\na,0.1\n", "t.csv", "line 2, PSNR: '' is not a number"),
        ("codec,bpp,psnr_db\na,0.1,nan\n", "t.csv", "line 2, PSNR: 'nan' is not within"),
        ("codec,bpp,psnr_db\n", "t.csv", "no point"),
    ],
)  # fmt: skip
def test_a_bad_file_is_refused_by_file_and_field(tmp_path: Path, value: object, name: str, said: str) -> None:
    with pytest.raises(FoveaError, match=said if "no name" in said else f"{name}.*{said}"):
        read_curves(written(tmp_path, value, name), "kodak")


def test_what_was_given_is_kept_and_forgotten(tmp_path: Path) -> None:
    (curve,) = read_curves(written(tmp_path, {"name": "x", "results": results()}), "kodak", "somewhere")
    (path,) = keep_curves(tmp_path, [curve])
    assert path == tmp_path / "curves" / "kodak" / "x.json"
    assert published_curves(tmp_path, "kodak") == [curve] and published_curves(tmp_path, "other") == []
    path.write_text("{}")
    with pytest.raises(FoveaError, match=r"x.json is damaged"):
        published_curves(tmp_path, "kodak")
    path.unlink()
    assert keep_curves(tmp_path, [curve]) == keep_curves(tmp_path, [curve]) == [path]
    with pytest.raises(FoveaError, match="there are: x"):
        forget_curve(tmp_path, "kodak", "y")
    forget_curve(tmp_path, "kodak", "x")
    assert published_curves(tmp_path, "kodak") == []


def test_another_curve_of_the_same_name_is_refused_and_nothing_of_its_file_kept(tmp_path: Path) -> None:
    (curve,) = read_curves(written(tmp_path, {"name": "x", "results": results()}), "kodak", "somewhere")
    (path,) = keep_curves(tmp_path, [curve])
    before, more = path.read_bytes(), replace(curve, name="a")
    for other in (replace(curve, points=curve.points[:3]), replace(curve, source="elsewhere")):
        with pytest.raises(FoveaError, match=r"'x' of kodak already, from somewhere; .* curves remove x --dataset"):
            keep_curves(tmp_path, [more, other])
    assert path.read_bytes() == before and published_curves(tmp_path, "kodak") == [curve]
    keep_curves(tmp_path, [more, replace(curve, dataset="other", source="elsewhere")])
    assert [c.name for c in published_curves(tmp_path, "kodak")] == ["a", "x"]


def test_uniform_is_held_against_it_by_points_without_an_interval() -> None:
    rows = [
        {"dataset": "kodak", "split": "test", "image": f"{i}", "codec": "bls2017", "arm": "uniform", "maps": "none", "rate_name": "lmbda", "rate": 0.01 * b,
         "bytes": 1, "width": 8, "height": 8, "bpp": 1.25 * b, "psnr_db": p, "ms_ssim": 0.9}
        for i in range(6)
        for b, p in zip(RATES, PSNR, strict=True)
    ]  # fmt: skip
    curves = rd_curves(concat_points([pd.DataFrame(rows)]), resamples=10)
    points = tuple((b, p, None) for b, p in zip(RATES, PSNR, strict=True))
    published = published_rows([PublishedCurve("x", "kodak", "a paper", points)], {"kodak": "test"})
    assert list(published.columns) == list(curves.columns)
    assert published[["psnr_db_low", "psnr_db_high"]].isna().all().all() and (published["n_images"] == 0).all()
    rates = published_rates(curves, published, sweep="smoke")
    assert set(rates["metric"]) == {"psnr_db"} and set(rates["method"]) == {"pchip", "akima"}
    np.testing.assert_allclose(rates["bd_rate_percent"], 25)
    assert rates["ci_low"].isna().all() and set(rates["reason"]) == {f"no interval: {NO_PICTURES}"}
    assert set(rates["anchor_arm"]) == {"x (published)"}
    elsewhere = published_rows([PublishedCurve("x", "other", "a paper", points)], {"other": "test"})
    assert published_rates(curves, elsewhere).empty
    both = pd.concat([curves, published], ignore_index=True)
    assert rd_plot(both, "psnr_db") != rd_plot(curves, "psnr_db")
    drawn = look({"codec": "x", "arm": "published", "maps": "none", "variant": "a paper"})
    assert drawn.dash and "a paper" in drawn.label
