"""Two sweeps, or one sweep before and after a change: the same curves held against each other.

A curve of one side is held against the curve of the other that has the same `CURVE_KEYS`; what is left over meets the
only curve of the same codec, arm and maps on the same pictures, whatever its training. Intervals are those of
assets/evaluation/bd_rate.py: paired over pictures that both sides measured, which have the same name and size.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from assets.evaluation.bd_rate import BD_METRICS, METHODS, compare_curves
from assets.evaluation.palette import look
from assets.evaluation.rate_distortion import (
    CLASSICAL_ARM,
    CURVE_KEYS,
    EXTERNAL_ARM,
    RESAMPLES,
    curve_grid,
    label_arm,
)
from assets.evaluation.verdict import records
from models.metrics import METRICS

MEASURED = (
    "bd_rate_percent",
    "ci_low",
    "ci_high",
    "bd_quality_db",
    "bd_quality_ci_low",
    "bd_quality_ci_high",
    "overlap",
    "n_images",
    "n_seeds",
    "refused_resamples",
    "status",
    "reason",
)
NAMES = ("dataset", "split", "codec", "arm", "maps", "variant")
COLUMNS = ("pair", *NAMES, "before", "after", "metric", "method", *MEASURED)
POINT_COLUMNS = ("pair", *NAMES, "rate_name", "rate", "n_images", "bpp_before", "bpp_after", "psnr_before_db",
                 "psnr_after_db", "weighted", "weighted_before_db", "weighted_after_db", "same_files")  # fmt: skip

ONLY_BEFORE, ONLY_AFTER = (
    "only in the first: nothing to compare with",
    "only in the second: nothing to compare with",
)


class Pair(NamedTuple):
    """A curve of each side by its `CURVE_KEYS`; one of them is None where the other has no partner."""

    before: tuple[str, ...] | None
    after: tuple[str, ...] | None


def pair_curves(before: Iterable[tuple[str, ...]], after: Iterable[tuple[str, ...]]) -> list[Pair]:
    """Which curve is held against which: equal keys, then the only one left with the same names, then without the variant."""
    left, right = sorted(set(before)), sorted(set(after))
    pairs = [Pair(k, k) for k in left if k in right]
    left, right = ([k for k in side if Pair(k, k) not in pairs] for side in (left, right))
    places = [CURVE_KEYS.index(k) for k in NAMES]
    for names in (places, places[:-1]):
        for key in list(left):
            name = [key[i] for i in names]
            mine, theirs = ([k for k in side if [k[i] for i in names] == name] for side in (left, right))
            if len(mine) == 1 == len(theirs):
                pairs.append(Pair(key, theirs[0]))
                left.remove(key)
                right.remove(theirs[0])
    return sorted(pairs) + [Pair(k, None) for k in left] + [Pair(None, k) for k in right]


def _same_pictures(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """`after` with another name for pictures whose size differs: they are not the same pictures."""
    sizes = before.drop_duplicates(["dataset", "split", "image"]).set_index(["dataset", "split", "image"])
    theirs = sizes[["width", "height"]].add_suffix("_before")
    known = after.join(theirs, on=["dataset", "split", "image"])
    other = (
        known["width_before"].notna()
        & ((known["width"] != known["width_before"]) | (known["height"] != known["height_before"]))
    ).to_numpy()
    return after.assign(image=after["image"].where(~other, after["image"] + " (other size)"))


def _training(key: Mapping[str, str]) -> str:
    return " ".join(filter(None, (key["train_dataset"], key["preset"], key["variant"])))


def _named(key: tuple[str, ...]) -> dict[str, str]:
    return dict(zip(CURVE_KEYS, key, strict=True))


def compare_points(
    before: pd.DataFrame,
    after: pd.DataFrame,
    *,
    methods: Sequence[str] = METHODS,
    resamples: int = RESAMPLES,
    list_only_before: bool = True,
    list_only_after: bool = True,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """BD-rates of each curve of `after` against its partner in `before` (columns `COLUMNS`; a refused comparison keeps its
    row with the reason), and the points that both measured at the same rate (`POINT_COLUMNS`).

    before, after: as `concat_points` gives them. A metric that a side does not have gives no row.
    """
    after = _same_pictures(before, after)
    sides = [
        {tuple(str(v) for v in k): c for k, c in side.groupby(list(CURVE_KEYS), sort=True, dropna=False)}
        for side in (before, after)
    ]
    rows: list[dict[str, Any]] = []
    points: list[dict[str, Any]] = []
    listed = 0
    for pair in pair_curves(*sides):
        key = pair.after or pair.before
        assert key is not None
        names = {k: v for k, v in _named(key).items() if k in NAMES}
        told = {
            "before": _training(_named(pair.before)) if pair.before else "",
            "after": _training(_named(pair.after)) if pair.after else "",
        }
        if pair.before is None or pair.after is None:
            if list_only_before if pair.after is None else list_only_after:
                reason = ONLY_BEFORE if pair.after is None else ONLY_AFTER
                blank = {**dict.fromkeys(MEASURED, math.nan), "n_images": 0, "n_seeds": 0}
                metric = "psnr_db"
                rows += [
                    {"pair": listed, **names, **told, "metric": metric, "method": m, **blank, "status": "refused", "reason": reason}
                    for m in methods
                ]  # fmt: skip
                listed += 1
            continue
        curves = sides[0][pair.before], sides[1][pair.after]
        anchor, test = (curve_grid(c, ("bpp", *BD_METRICS)) for c in curves)
        alike = _point_rows(listed, names, *curves)
        if names["arm"] in (CLASSICAL_ARM, EXTERNAL_ARM) and all(p["same_files"] for p in alike):
            continue
        for metric in BD_METRICS:
            if any(np.isnan(g.values[metric]).all() for g in (anchor, test)):
                continue
            compared = compare_curves(anchor, test, metric, methods, resamples=resamples)
            for method, measured in compared.items():
                if not set(anchor.seeds) & set(test.seeds):
                    measured["reason"] = "no seed in common: compare runs of the same seeds"
                elif not set(anchor.images) & set(test.images):
                    measured["reason"] = (
                        "no picture in common (same name and size): measured on other pictures"
                    )
                rows.append({"pair": listed, **names, **told, "metric": metric, "method": method, **measured})
        points += alike
        listed += 1
    return pd.DataFrame(rows, columns=list(COLUMNS)), pd.DataFrame(points, columns=list(POINT_COLUMNS))


def _point_rows(
    pair: int, names: Mapping[str, str], before: pd.DataFrame, after: pd.DataFrame
) -> list[dict[str, Any]]:
    """Means over the pictures and seeds that both sides measured at each rate that both have."""
    on = ["rate_name", "rate", "seed", "image"]
    columns = ["bytes", "bpp", "psnr_db", "sw_psnr_db", "ew_psnr_db"]
    both = before[[*on, *columns]].merge(after[[*on, *columns]], on=on, suffixes=("_before", "_after"))
    weighted = "ew_psnr_db" if both["ew_psnr_db_before"].notna().any() else "sw_psnr_db"
    rows = []
    for (rate_name, rate), group in both.groupby(["rate_name", "rate"], sort=True):
        mean = group.drop(columns=["rate_name", "image", "seed"]).astype(float).mean()
        rows.append(
            {
                "pair": pair,
                **names,
                "rate_name": rate_name,
                "rate": rate,
                "n_images": int(group["image"].nunique()),
                "bpp_before": mean["bpp_before"],
                "bpp_after": mean["bpp_after"],
                "psnr_before_db": mean["psnr_db_before"],
                "psnr_after_db": mean["psnr_db_after"],
                "weighted": weighted,
                "weighted_before_db": mean[f"{weighted}_before"],
                "weighted_after_db": mean[f"{weighted}_after"],
                "same_files": bool(
                    (group["bytes_before"] == group["bytes_after"]).all()
                    and (group["psnr_db_before"] == group["psnr_db_after"]).all()
                ),
            }
        )
    return rows


def curve_name(row: Mapping[str, Any], codecs: Sequence[str] = ()) -> str:
    """`saliency_gain@center span=4`, with the codec before it where there are several."""
    if row["arm"] in (CLASSICAL_ARM, EXTERNAL_ARM):
        return look(row["codec"], row["arm"], row["maps"], row["variant"]).label
    parts = [row["codec"] if len(codecs) > 1 else "", label_arm(row["arm"], row["maps"]), row["variant"]]
    return " ".join(filter(None, parts))


def outcome(row: Mapping[str, Any]) -> str:
    """better, worse, the same within the interval, or cannot be said; on the second against the first."""
    if not math.isfinite(row["ci_low"]):
        return "cannot be said"
    if row["ci_high"] < 0:
        return "better"
    return "worse" if row["ci_low"] > 0 else "no certain difference"


def main_metric(rates: pd.DataFrame) -> str:
    """What a comparison is first judged by: where people looked, if that was recorded."""
    return next((m for m in ("ew_psnr_db", "sw_psnr_db") if (rates["metric"] == m).any()), "psnr_db")


def sentences(rates: pd.DataFrame, points: pd.DataFrame) -> list[str]:
    """The answer in words, one sentence a curve."""
    said = []
    metric = main_metric(rates)
    shown = rates[rates["method"] == METHODS[0]]
    codecs = sorted(set(rates["codec"]))
    for pair, group in shown.groupby("pair", sort=True):
        by = {r["metric"]: r for r in records(group)}
        row = by.get(metric, next(iter(by.values())))
        name = f"{curve_name(row, codecs)} on {row['dataset']} · {row['split']}"
        mine = points[points["pair"] == pair]
        if len(mine) and mine["same_files"].all():
            said.append(f"{name}: the same files, byte for byte in length, with the same PSNR.")
            continue
        if not math.isfinite(row["bd_rate_percent"]):
            said.append(f"{name}: not compared ({row['reason']}).")
            continue
        text = f"{name}: {_rate(row)} rate at equal {METRICS[row['metric']].label}"
        if "psnr_db" in by and row["metric"] != "psnr_db" and math.isfinite(by["psnr_db"]["bd_rate_percent"]):
            text += f", {_rate(by['psnr_db'])} at equal plain PSNR"
        said.append(f"{text}: {outcome(row)}.")
    return said


def _rate(row: Mapping[str, Any]) -> str:
    text = f"{row['bd_rate_percent']:+.1f} %"
    if math.isfinite(row["ci_low"]):
        text += f" [{row['ci_low']:+.1f}, {row['ci_high']:+.1f}]"
    return text.replace("-", "−")
