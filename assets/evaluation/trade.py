"""The trade over α, γ and span: what each setting of an arm gains where it counts, and what it costs in plain PSNR.

One row a curve that was compared with `uniform`: gain is the BD-rate on `ew_psnr_db` (`sw_psnr_db` where no eyes were
recorded), cost the BD-rate on `psnr_db`, both with their intervals. Beside it stand the gain in dB, what the same maps
and weights allow ideally (assets/evaluation/ideal.py), and the share of it that the codec reached.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from assets.evaluation.ideal import Ideal, ideal_of_weights
from models.errors import FoveaError
from models.experiments import LEVELLED
from models.saliency.weighting import center_map, derangement, weight_map

Map = NDArray[Any]

KEYS = ("dataset", "split", "train_dataset", "codec", "preset", "variant", "test_arm", "maps")
WORTH_PERCENT = 10.0
"""The cost at equal PSNR up to which a gain is asked for (issue: at most +10 %)."""

CELL = 16
"""Pixels along the side of a cell: levels of `gain` have this resolution, ideals of its settings are computed on it."""

TRADE_COLUMNS: Mapping[str, str] = {
    **dict.fromkeys(KEYS, "str"),
    "alpha": "float64",  # NaN where the mechanism has none
    "gamma": "float64",
    "span": "float64",
    "metric": "str",
    "gain_percent": "float64",  # BD-rate on `metric`, below 0 saves bits
    "gain_low": "float64",
    "gain_high": "float64",
    "cost_percent": "float64",  # BD-rate on psnr_db, above 0 costs bits
    "cost_low": "float64",
    "cost_high": "float64",
    "reached_db": "float64",  # BD-quality on `metric`
    "plain_db": "float64",  # BD-quality on psnr_db
    "ideal_db": "float64",
    "ideal_cost_db": "float64",
    "share": "float64",  # reached_db / ideal_db
    "n_images": "int64",
}
"""Columns of `trade_rows` and their dtypes, in order."""


def setting_text(row: Mapping[str, Any]) -> str:
    """`span 3, γ 0.5` or `α 0.1, γ 1`."""
    names = {"alpha": "α", "span": "span", "gamma": "γ"}
    return ", ".join(f"{sign} {row[k]:g}" for k, sign in names.items() if math.isfinite(row[k]))


def trade_rows(
    rates: pd.DataFrame, settings: pd.DataFrame, ideals: Mapping[tuple[str, ...], Ideal] | None = None
) -> pd.DataFrame:
    """The trade of every curve that was compared with `uniform` on both metrics, columns `TRADE_COLUMNS`.

    rates: as `bd_rates` gives them (PCHIP rows are read). settings: one row a curve with train_dataset, codec, preset,
    variant, test_arm, maps, alpha, gamma, span; a curve without one is left out. ideals: by the values of `KEYS`.
    """
    against = rates[(rates["anchor_arm"] == "uniform") & (rates["method"] == "pchip")]
    named = [k for k in KEYS if k in settings.columns]
    rows = []
    for key, group in against.groupby(list(KEYS), sort=True, dropna=False):
        names = dict(zip(KEYS, (str(k) for k in key), strict=True))
        by = {str(r["metric"]): r for r in group.to_dict("records")}
        metric = "ew_psnr_db" if "ew_psnr_db" in by else "sw_psnr_db"
        if metric not in by or "psnr_db" not in by:
            continue
        gain, cost = by[metric], by["psnr_db"]
        match = settings
        for column in named:
            match = match[match[column] == names[column]]
        if match.empty or not (
            math.isfinite(gain["bd_rate_percent"]) and math.isfinite(cost["bd_rate_percent"])
        ):
            continue
        best = (ideals or {}).get(tuple(names.values()), Ideal(math.nan, math.nan))
        reached = float(gain["bd_quality_db"])
        rows.append(
            {
                **names,
                **{k: float(match.iloc[0][k]) for k in ("alpha", "gamma", "span")},
                "metric": metric,
                "gain_percent": gain["bd_rate_percent"],
                "gain_low": gain["ci_low"],
                "gain_high": gain["ci_high"],
                "cost_percent": cost["bd_rate_percent"],
                "cost_low": cost["ci_low"],
                "cost_high": cost["ci_high"],
                "reached_db": reached,
                "plain_db": cost["bd_quality_db"],
                "ideal_db": best.gain_db,
                "ideal_cost_db": best.cost_db,
                "share": reached / best.gain_db if best.gain_db > 0 else math.nan,
                "n_images": gain["n_images"],
            }
        )
    return pd.DataFrame(rows, columns=list(TRADE_COLUMNS)).astype(dict(TRADE_COLUMNS))


def curve_settings(experiments: Iterable[Any]) -> pd.DataFrame:
    """For each curve of these records (models.experiments.Experiment): its α, γ and span, NaN where it has none."""
    rows = {}
    for e in experiments:
        if e.mechanism == "none":
            continue
        gained = e.mechanism in LEVELLED
        name = (e.dataset, e.codec, e.preset, e.variant, e.arm, e.maps)
        rows[name] = (math.nan if gained else e.alpha, e.gamma, e.span if gained else math.nan)
    columns = ["train_dataset", "codec", "preset", "variant", "test_arm", "maps", "alpha", "gamma", "span"]
    return pd.DataFrame([(*k, *v) for k, v in rows.items()], columns=columns)


def _cells(values: Map) -> NDArray[np.float64]:
    """Means over cells of CELL×CELL pixels, the rest at right and bottom cells of their own."""
    array = np.asarray(values, np.float64)
    height, width = array.shape
    rows, columns = range(0, height, CELL), range(0, width, CELL)
    sums = np.add.reduceat(np.add.reduceat(array, list(rows), axis=0), list(columns), axis=1)
    tall = np.minimum(CELL, height - np.array(rows))
    wide = np.minimum(CELL, width - np.array(columns))
    return np.asarray(sums / (tall[:, None] * wide[None, :]))


def setting_ideal(
    conditions: Sequence[Map],
    metric_maps: Sequence[Map],
    *,
    alpha: float,
    gamma: float,
    span: float,
    lmbda_ratio: float,
) -> Ideal:
    """Means over pictures of the ideal for one setting, on cells of CELL×CELL pixels.

    conditions, metric_maps: H×W each, not negative. With a finite span the weights are those of `gain`: lmbda_ratio (the
    ratio of neighbouring levels' λ) to the power span·s^γ. Otherwise α + s^γ.
    """
    found = []
    for condition, metric_map in zip(conditions, metric_maps, strict=True):
        s, p = _cells(condition), _cells(metric_map)
        peak = float(np.asarray(condition).max())
        s = s / peak if peak > 0 else np.ones_like(s)
        if not p.sum() > 0:
            continue
        weights = (
            lmbda_ratio ** (span * s**gamma)
            if math.isfinite(span)
            else weight_map(s, alpha=alpha, gamma=gamma)
        )
        found.append(ideal_of_weights(weights, p))
    return Ideal(*np.mean(found, axis=0).tolist()) if found else Ideal(math.nan, math.nan)


def conditions_of(
    maps: str, saliency_maps: Sequence[Map], fixation_maps: Sequence[Map | None], images: Sequence[str]
) -> list[Map]:
    """The maps that an arm is conditioned on, a picture each. Raises FoveaError for unknown maps, or `oracle` without
    fixations."""
    if maps == "predicted":
        return list(saliency_maps)
    if maps == "center":
        return [center_map(*m.shape) for m in saliency_maps]
    if maps == "oracle":
        known = [m for m in fixation_maps if m is not None]
        if len(known) != len(fixation_maps):
            raise FoveaError("maps 'oracle' need people's fixations for each picture")
        return known
    if maps == "shuffled":
        order = derangement(list(images))
        return [
            np.asarray(
                cv2.resize(
                    np.asarray(saliency_maps[o]), (own.shape[1], own.shape[0]), interpolation=cv2.INTER_LINEAR
                )
            )
            for own, o in zip(saliency_maps, order, strict=True)
        ]
    raise FoveaError(f"unknown maps {maps!r}")


def _signed(value: float) -> str:
    return f"{value:+.1f} %".replace("-", "−")


def _said(row: Mapping[str, Any]) -> str:
    def interval(low: float, high: float) -> str:
        return f" [{low:+.1f}, {high:+.1f}]".replace("-", "−") if math.isfinite(low) else ""

    return (
        f"{_signed(row['gain_percent'])}{interval(row['gain_low'], row['gain_high'])} for "
        f"{_signed(row['cost_percent'])}{interval(row['cost_low'], row['cost_high'])} ({setting_text(row)})"
    )


def trade_sentences(trade: pd.DataFrame) -> list[str]:
    """For each arm with predicted maps and several settings: the ends of its trade, and the most it gains at a cost of at
    most `WORTH_PERCENT`."""
    said = []
    keys = ["dataset", "split", "train_dataset", "codec", "preset", "test_arm"]
    for key, rows in trade[trade["maps"] == "predicted"].groupby(keys, sort=True, dropna=False):
        if len(rows) < 2:
            continue
        records = [
            {str(k): v for k, v in r.items()} for r in rows.sort_values("gain_percent").to_dict("records")
        ]
        text = f"{key[3]} {key[5]} on {key[0]}, {len(records)} settings: the most is {_said(records[0])}"
        affordable = [r for r in records if r["cost_percent"] <= WORTH_PERCENT]
        if not affordable:
            text += f"; none costs {WORTH_PERCENT:g} % or less at equal PSNR."
        elif affordable[0] is not records[0]:
            text += f"; the most at a cost of {WORTH_PERCENT:g} % or less is {_said(affordable[0])}."
        else:
            text += "."
        said.append(
            f"{text} The best of {len(records)} flatters where it was chosen on these pictures: choose on validation pictures."
        )
    return said
