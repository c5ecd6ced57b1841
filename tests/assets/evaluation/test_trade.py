import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assets.evaluation.ideal import Ideal, ideal_gain
from assets.evaluation.plots import trade_plot
from assets.evaluation.trade import (
    CELL,
    TRADE_COLUMNS,
    conditions_of,
    curve_settings,
    setting_ideal,
    setting_text,
    trade_rows,
    trade_sentences,
)
from models.errors import FoveaError
from models.experiments import sweep

#: span → (gain, cost) in per cent: made up for tests
MADE = {1.0: (-4.0, 1.5), 3.0: (-11.0, 7.0), 5.0: (-16.0, 15.0)}


def made_rates() -> pd.DataFrame:
    rows = []
    for span, values in MADE.items():
        variant = "" if span == 3.0 else f"span={span:g}"
        for metric, value in zip(("ew_psnr_db", "psnr_db"), values, strict=True):
            rows.append(
                {"dataset": "made", "split": "test", "train_dataset": "made", "codec": "bls2017", "preset": "smoke", "variant": variant,
                 "anchor_arm": "uniform", "test_arm": "saliency_gain", "maps": "predicted", "metric": metric, "method": "pchip",
                 "bd_rate_percent": value, "ci_low": value - 1, "ci_high": value + 1, "bd_quality_db": -value / 20, "n_images": 9}
            )  # fmt: skip
    return pd.DataFrame(rows)


def made_settings() -> pd.DataFrame:
    rows = [
        {"train_dataset": "made", "codec": "bls2017", "preset": "smoke", "variant": "" if span == 3.0 else f"span={span:g}",
         "test_arm": "saliency_gain", "maps": "predicted", "alpha": math.nan, "gamma": 0.5, "span": span}
        for span in MADE
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_one_row_a_setting_with_both_intervals_and_the_share() -> None:
    keys = ("made", "test", "made", "bls2017", "smoke", "", "saliency_gain", "predicted")
    trade = trade_rows(made_rates(), made_settings(), {keys: Ideal(1.1, 0.3)})
    assert list(trade.columns) == list(TRADE_COLUMNS) and len(trade) == 3
    middle = trade[trade["span"] == 3].iloc[0]
    assert (middle["gain_percent"], middle["gain_low"], middle["cost_high"]) == (-11.0, -12.0, 8.0)
    assert middle["share"] == pytest.approx(0.55 / 1.1)
    assert trade[trade["span"] != 3]["share"].isna().all()
    assert trade_rows(made_rates(), made_settings().iloc[:0]).empty


def test_the_sentence_names_the_most_and_the_most_that_is_affordable() -> None:
    (said,) = trade_sentences(trade_rows(made_rates(), made_settings()))
    assert "3 settings: the most is −16.0 % [−17.0, −15.0] for +15.0 %" in said and "(span 5, γ 0.5)" in said
    assert "at a cost of 10 % or less is −11.0 %" in said and "choose on validation pictures" in said
    assert trade_sentences(trade_rows(made_rates(), made_settings().iloc[:1])) == []
    dear = made_rates()
    dear.loc[dear["metric"] == "psnr_db", "bd_rate_percent"] += 20
    assert "none costs 10 % or less" in trade_sentences(trade_rows(dear, made_settings()))[0]


def test_settings_of_the_trade_sweep_are_all_there() -> None:
    trade = sweep("trade", "sample")
    settings = curve_settings(trade.experiments)
    assert len(settings) == 6 == len(trade.experiments) - 1
    assert settings["alpha"].isna().all() and set(settings["span"]) == {2, 3, 4}
    assert len(set(settings["variant"])) == 6 and "" in set(settings["variant"])
    assert all(len(e.lmbda) == 4 for e in trade.experiments)
    assert setting_text({"alpha": 0.1, "gamma": 1.0, "span": math.nan}) == "α 0.1, γ 1"


@given(st.integers(0, 50), st.floats(0, 4), st.sampled_from([0.5, 1.0]))
def test_an_ideal_needs_a_preference_and_grows_with_the_span_on_its_own_map(
    seed: int, span: float, gamma: float
) -> None:
    s = np.random.default_rng(seed).random((40, 56)) ** 4
    one = [s]
    ideal = setting_ideal(one, one, alpha=math.nan, gamma=gamma, span=span, lmbda_ratio=2.0)
    assert ideal.cost_db >= -1e-9
    none = setting_ideal([np.ones_like(s)], one, alpha=math.nan, gamma=gamma, span=span, lmbda_ratio=2.0)
    assert none == pytest.approx((0, 0), abs=1e-9)


def test_on_whole_cells_the_ideal_is_that_of_ideal_gain() -> None:
    small = np.random.default_rng(0).random((4, 5))
    small /= small.max()
    large = np.kron(small, np.ones((CELL, CELL)))
    mine = setting_ideal([large], [large], alpha=0.1, gamma=1.0, span=math.nan, lmbda_ratio=1.0)
    assert mine == pytest.approx(ideal_gain(large, large, alpha=0.1, gamma=1.0), rel=1e-5)


def test_conditions() -> None:
    maps = [np.full((8, 8), i + 1, np.uint8) for i in range(3)]
    assert conditions_of("predicted", maps, [None] * 3, ["a", "b", "c"])[1] is maps[1]
    others = conditions_of("shuffled", maps, [None] * 3, ["a", "b", "c"])
    assert all((o != m).all() for o, m in zip(others, maps, strict=True))
    with pytest.raises(FoveaError, match="fixations"):
        conditions_of("oracle", maps, [None, maps[0], maps[1]], ["a", "b", "c"])


def test_the_plot_shows_every_setting_and_an_empty_table_says_so() -> None:
    trade = trade_rows(made_rates(), made_settings())
    for table in (trade, trade.iloc[:1], trade.iloc[:0]):
        assert trade_plot(table, title="made")[:4] == b"\x89PNG"
