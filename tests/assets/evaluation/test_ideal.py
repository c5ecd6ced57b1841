import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assets.evaluation.ideal import ideal_rows
from models.errors import FoveaError
from models.saliency.ideal import ideal_gain, ideal_of_weights


def test_two_places_by_hand() -> None:
    """w = (4, 1): GM = 2, D = (1/2, 2). All eyes on the first: 10·log10 2 dB; plain: mean(D) = 1.25."""
    ideal = ideal_of_weights(np.array([[4.0, 1.0]]), np.array([[1.0, 0.0]]))
    assert ideal.gain_db == pytest.approx(10 * np.log10(2)) and ideal.cost_db == pytest.approx(10 * np.log10(1.25))
    constant = ideal_gain(np.full((4, 4), 9, np.uint8), np.arange(16.0).reshape(4, 4))
    assert constant == pytest.approx((0, 0), abs=1e-6)


@settings(max_examples=40)
@given(st.integers(0, 999), st.floats(0.01, 100))
def test_own_weights_give_am_over_gm_and_scale_is_nothing(seed: int, scale: float) -> None:
    w = np.random.default_rng(seed).uniform(0.1, 3, (6, 7))
    ideal = ideal_of_weights(w, w)
    assert ideal.gain_db == pytest.approx(10 * np.log10(w.mean() / np.exp(np.log(w).mean()))) and ideal.cost_db >= 0
    assert ideal_of_weights(scale * w, 3 * w) == pytest.approx(ideal)


def test_errors() -> None:
    ones = np.ones((2, 2))
    with pytest.raises(FoveaError, match="alpha above 0"):
        ideal_gain(np.array([[0, 1], [1, 1]]), ones, alpha=0.0)
    with pytest.raises(FoveaError, match="differ in size"):
        ideal_of_weights(ones, np.ones((2, 3)))
    with pytest.raises(FoveaError, match="0 everywhere"):
        ideal_of_weights(ones, 0 * ones)


def blob(x: float, y: float, size: tuple[int, int] = (30, 40)) -> np.ndarray:
    rows, columns = np.mgrid[: size[0], : size[1]]
    return np.exp(-((columns - x * size[1]) ** 2 + (rows - y * size[0]) ** 2) / 30)


def test_rows_rank_the_maps_and_need_no_fixations() -> None:
    rng = np.random.default_rng(0)
    places = rng.uniform(0.1, 0.9, (8, 2))
    eyes: list[np.ndarray | None] = [blob(*p) for p in places]
    predicted = [np.round(255 * blob(*(p + 0.1))).astype(np.uint8) for p in places]
    halves = [(blob(*(p - 0.03)), blob(*(p + 0.03))) for p in places]
    table = ideal_rows(predicted, eyes, fixation_halves=halves)
    eye_rows = table[table["measured_on"] == "fixations"].set_index("conditioning")
    assert list(eye_rows.index) == ["people", "half_people", "predicted", "center", "shuffled"]
    gain = eye_rows["gain_db"]
    assert gain["people"] > gain["half_people"] > gain["predicted"] > gain["shuffled"]
    assert (eye_rows["gain_low"] <= gain).all() and (gain <= eye_rows["gain_high"]).all()
    assert (table["n_images"] == 8).all()
    blind = ideal_rows(predicted, [None] * 8)
    assert set(blind["measured_on"]) == {"saliency"}
    assert list(blind["conditioning"]) == ["predicted", "center", "shuffled"]
    assert list(ideal_rows(predicted[:1], [None])["conditioning"]) == ["predicted", "center"]
    of_two_sizes = ideal_rows([blob(0.3, 0.3), blob(0.6, 0.6, (60, 50))], [None, None])
    assert "shuffled" in set(of_two_sizes["conditioning"])


@pytest.mark.data
@pytest.mark.parametrize(("alpha", "gain", "cost"), [(0.1, 3.8, 0.3), (0.05, 4.9, 0.6), (0.02, 6.6, 1.1)])
def test_osie_gives_the_numbers_of_the_design(alpha: float, gain: float, cost: float) -> None:
    """Known values of these 140 test pictures with σ = 24 px at 800 px of width."""
    import cv2

    root = Path(os.environ.get("FOVEA_SHARED", Path(__file__).parents[4] / "shared")) / "data/osie"
    if not root.exists():
        pytest.skip(f"needs OSIE's fixations in {root} (set FOVEA_SHARED)")
    table = pd.read_parquet(root / "fixations.parquet")
    names = sorted(table["image"].unique())[-140:]
    grouped = dict(list(table.groupby("image")))

    def density(rows: pd.DataFrame) -> np.ndarray:
        # a quarter of the size: the ideal does not change in the digits that are compared
        counts = np.zeros((150, 200))
        x, y = ((rows[c].to_numpy() - 1) / 4 for c in ("x", "y"))
        inside = (x >= 0) & (x < 200) & (y >= 0) & (y < 150)
        np.add.at(counts, (y[inside].astype(int), x[inside].astype(int)), 1)
        return cv2.GaussianBlur(counts, (0, 0), 6, borderType=cv2.BORDER_REFLECT)

    maps = [density(grouped[n]) for n in names]
    own = np.mean([ideal_gain(m, m, alpha=alpha) for m in maps], axis=0)
    assert own[0] == pytest.approx(gain, abs=0.15) and own[1] == pytest.approx(cost, abs=0.1)
    if alpha == 0.1:
        halves = []
        for name in names:
            people = sorted(grouped[name]["subject"].unique())
            first = grouped[name]["subject"].isin(people[: len(people) // 2])
            halves.append((density(grouped[name][first]), density(grouped[name][~first])))
        rows = ideal_rows(maps, list(maps), fixation_halves=halves).query("measured_on == 'fixations'")
        by = rows.set_index("conditioning")["gain_db"]
        assert by["half_people"] == pytest.approx(3.2, abs=0.3) and by["center"] == pytest.approx(1.7, abs=0.3)
        assert by["shuffled"] == pytest.approx(0.3, abs=0.3)
