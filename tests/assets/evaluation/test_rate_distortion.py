import numpy as np
import pandas as pd
import pytest

from assets.evaluation.rate_distortion import MIN_IMAGES, RD_POINT_COLUMNS, concat_points, rd_curves, resample_counts
from models.errors import FoveaError


def piece(**columns: object) -> pd.DataFrame:
    """A piece with the needed columns, two pictures, and whatever a test adds."""
    base = {"dataset": "sample", "split": "test", "image": ["a", "b"], "codec": "bls2017", "arm": "uniform", "maps": "none",
            "rate_name": "lmbda", "rate": 0.01, "seed": 0, "experiment": "e", "bytes": [1024, 2048], "width": 128, "height": 64,
            "psnr_db": [30.0, 34.0]}  # fmt: skip
    return pd.DataFrame(base | columns)


def classical_piece() -> pd.DataFrame:
    return piece(codec="jpeg", arm="classical", rate_name="quality", rate=5, seed=None)


def test_concat_has_the_schema_whatever_order_pieces_come_in() -> None:
    pieces = [piece(rate=0.02), piece(), classical_piece()]
    table = concat_points(pieces)
    assert dict(table.dtypes.astype(str)) == dict(concat_points([]).dtypes.astype(str)) == dict(RD_POINT_COLUMNS)
    pd.testing.assert_frame_equal(table, concat_points(pieces[::-1]))
    assert table["bpp"].tolist()[:2] == [1.0, 2.0]
    assert table["vsi"].isna().all() and table.loc[table["codec"] == "jpeg", "seed"].isna().all()


def test_concat_refuses_what_would_corrupt_the_table() -> None:
    with pytest.raises(FoveaError, match=r"unknown columns \['psnr'\]"):
        concat_points([piece(psnr=1.0)])
    with pytest.raises(FoveaError, match=r"missing columns \['codec'\]"):
        concat_points([piece().drop(columns="codec")])
    with pytest.raises(FoveaError, match="a of sample stands twice"):
        concat_points([piece(), piece()])


def test_curves_are_means_over_images_and_seeds() -> None:
    other = piece(seed=1, experiment="f", psnr_db=[32.0, 36.0], mlflow_run_id="r1")
    ((_, row),) = rd_curves(concat_points([piece(), other])).iterrows()
    assert row["bpp"] == 1.5 and row["psnr_db"] == 33.0
    assert row["n_images"] == 2 and row["n_seeds"] == 2
    assert row["experiments"] == "e f" and row["mlflow_run_ids"] == "r1"
    assert np.isnan(row["ew_psnr_db"]) and np.isnan(row["ew_psnr_db_low"])
    # a picture without fixations is left out of that mean only
    row = rd_curves(concat_points([piece(ew_psnr_db=[np.nan, 40.0])])).iloc[0]
    assert row["ew_psnr_db"] == 40.0 and row["psnr_db"] == 32.0


@pytest.mark.parametrize("count", [1, 2, MIN_IMAGES - 1, MIN_IMAGES])
def test_an_interval_takes_a_few_pictures(count: int) -> None:
    pieces = [piece().iloc[:1].assign(image=f"picture {k}", psnr_db=30.0 + k) for k in range(count)]
    row = rd_curves(concat_points(pieces)).iloc[0]
    assert row["psnr_db"] == 30 + (count - 1) / 2
    if count < MIN_IMAGES:
        assert np.isnan(row["psnr_db_low"]) and np.isnan(row["psnr_db_high"])
    else:
        assert 30 < row["psnr_db_low"] < row["psnr_db"] < row["psnr_db_high"] < 30 + count - 1


def test_interval_is_that_of_the_mean() -> None:
    rng = np.random.default_rng(0)
    n = 200
    values = rng.normal(30, 2, n)
    points = piece().iloc[[0] * n].assign(image=[f"{i:03}" for i in range(n)], psnr_db=values)
    row = rd_curves(concat_points([points])).iloc[0]
    half = 1.96 * values.std() / np.sqrt(n)
    assert row["psnr_db_low"] == pytest.approx(values.mean() - half, abs=0.05)
    assert row["psnr_db_high"] == pytest.approx(values.mean() + half, abs=0.05)


def test_curves_of_one_arm_need_variants_where_they_differ() -> None:
    clash = [piece(), piece(experiment="other")]
    with pytest.raises(FoveaError, match="column `variant`"):
        rd_curves(concat_points(clash))
    apart = rd_curves(concat_points([clash[0], clash[1].assign(variant="gamma=1")]))
    assert apart["variant"].tolist() == ["", "gamma=1"]


def test_resample_counts_are_draws_with_replacement() -> None:
    counts = resample_counts(7, 500, 0)
    assert (counts.sum(axis=1) == 7).all() and counts.mean() == pytest.approx(1)
    assert counts.var() == pytest.approx(6 / 7, rel=0.1)
