import math

import numpy as np
import pandas as pd
import pytest

from assets.evaluation.plots import raw_plot
from assets.evaluation.rate_distortion import CURVE_KEYS
from assets.evaluation.raw_weights import SHIFT_COLUMNS, raw_sentence, raw_shifts

LAMBDAS = (0.002, 0.004, 0.008, 0.016, 0.032)


def bpp_of(lmbda: float) -> float:
    return 6 * lmbda**0.6


def psnr_of(bpp: float) -> float:
    return 30 + 5 * math.log(bpp)


def made(mean: float, *, off: float = 0.0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """uniform on a curve of its own, weighted_raw at λ·mean on the same one, `off` dB above it."""
    rows = []
    for arm, maps, factor, up in (("uniform", "none", 1.0, 0.0), ("weighted_raw", "predicted", mean, off)):
        for lmbda in LAMBDAS:
            bpp = bpp_of(lmbda * factor)
            rows.append(
                {**dict.fromkeys(CURVE_KEYS, ""), "dataset": "made", "split": "test", "codec": "bls2017", "arm": arm,
                 "maps": maps, "lmbda": lmbda, "bpp": bpp, "psnr_db": psnr_of(bpp) + up}
            )  # fmt: skip
    means = {"train_dataset": "", "codec": "bls2017", "preset": "", "variant": "", "maps": "predicted"}
    return pd.DataFrame(rows), pd.DataFrame([{**means, "mean_weight": mean}])


@pytest.mark.parametrize(("mean", "factor"), [(0.25, 0.25), (2.0, 2.0)])
def test_bits_move_with_the_mean_weight_along_the_same_curve(mean: float, factor: float) -> None:
    shifts = raw_shifts(*made(mean))
    assert list(shifts.columns) == list(SHIFT_COLUMNS) and len(shifts) == len(LAMBDAS)
    np.testing.assert_allclose(shifts["bits_percent"], 100 * (factor**0.6 - 1))
    np.testing.assert_allclose(shifts["equivalent_lmbda"], np.array(LAMBDAS) * mean)
    # where uniform has been measured around the equivalent λ, it takes the bits that weighted_raw took
    inside = shifts["equivalent_bpp"].notna()
    assert inside.tolist() == [LAMBDAS[0] * 0.999 <= v * mean <= LAMBDAS[-1] * 1.001 for v in LAMBDAS]
    np.testing.assert_allclose(shifts["equivalent_bpp"][inside], shifts["bpp"][inside])
    np.testing.assert_allclose(shifts["off_curve_db"].dropna(), 0, atol=1e-9)


def test_the_sentence_says_what_the_numbers_say() -> None:
    down = raw_sentence(raw_shifts(*made(0.25)))
    assert "is 0.25 over the training pictures" in down
    assert "λ 0.008 of weighted_raw asks for what λ 0.002 of uniform" in down
    assert "moved by −56 %" in down and "(down, as a mean below 1 must)" in down
    assert "the same curve at another λ" in down and "3 of 5 points" in down
    assert "of about 1" in raw_sentence(raw_shifts(*made(1.01)))
    up = raw_sentence(raw_shifts(*made(2.0)))
    assert "moved by +52 %" in up and "(up, as a mean above 1 must)" in up
    other = raw_sentence(raw_shifts(*made(2.0, off=-1.0)))
    assert "−1.00 dB" in other and "more than another λ alone would do" in other
    curves, means = made(0.25)
    backwards = raw_sentence(raw_shifts(curves, means.assign(mean_weight=4.0)))
    assert "not up everywhere" in backwards
    far = raw_sentence(raw_shifts(*made(1e-4)))
    assert "cannot be read from these points" in far


def test_without_a_baseline_or_a_mean_there_is_nothing_to_say() -> None:
    curves, means = made(0.25)
    assert raw_shifts(curves[curves["arm"] != "uniform"], means).empty
    assert raw_shifts(curves, means.iloc[:0]).empty
    assert raw_shifts(curves.assign(preset=["a"] * 5 + ["b"] * 5), means.assign(preset="b")).empty


def test_the_plot_shows_both_curves() -> None:
    curves, means = made(0.25)
    for shifts in (raw_shifts(curves, means), raw_shifts(curves, means.iloc[:0])):
        assert raw_plot(curves, shifts, title="made")[:4] == b"\x89PNG"
