"""Two sweeps, or one sweep before and after a change: the same curves held against each other.

A curve of one side is held against the curve of the other that has the same `CURVE_KEYS`; what is left over meets the
only curve of the same codec, arm and maps on the same pictures, whatever its training. Intervals are those of
assets/evaluation/bd_rate.py: paired over pictures that both sides measured, which have the same name and size.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import pandas as pd

from assets.evaluation.bd_rate import BD_METRICS, MEASURED, UNSEEDED, compare_curves, main_metric
from assets.evaluation.numerals import with_interval
from assets.evaluation.palette import look
from assets.evaluation.piecewise import METHODS
from assets.evaluation.rate_distortion import RESAMPLES, CurveKey, curve_grid, curves_of, place_of, records
from models.metrics import METRICS

NAMES = ("dataset", "split", "codec", "arm", "maps", "variant")
COLUMNS = ("pair", *NAMES, "before", "after", "metric", "method", *MEASURED)
POINT_COLUMNS = ("pair", *NAMES, "rate_name", "rate", "n_images", "bpp_before", "bpp_after", "psnr_before_db",
                 "psnr_after_db", "weighted", "weighted_before_db", "weighted_after_db", "same_files")  # fmt: skip

ONLY_BEFORE = "only in the first: nothing to compare with"
ONLY_AFTER = "only in the second: nothing to compare with"


class Pair(NamedTuple):
    """A curve of each side; one of them is None where the other has no partner."""

    before: CurveKey | None
    after: CurveKey | None

    def names(self) -> dict[str, str]:
        """What both curves are called: the columns `NAMES`."""
        key = self.after or self.before
        assert key is not None
        return {k: v for k, v in key._asdict().items() if k in NAMES}

    def trainings(self) -> dict[str, str]:
        """The columns before and after: how each side was trained."""
        parts = [k and (k.train_dataset, k.preset, k.variant) for k in self]
        return {side: " ".join(filter(None, p or ())) for side, p in zip(self._fields, parts, strict=True)}


def pair_curves(before: Iterable[CurveKey], after: Iterable[CurveKey]) -> list[Pair]:
    """Which curve is held against which: equal keys, then the only one left with the same names, then without the variant."""
    left, right = sorted(set(before)), sorted(set(after))
    equal = set(left) & set(right)
    left, right = ([k for k in side if k not in equal] for side in (left, right))
    pairs = [Pair(k, k) for k in equal]
    for ignored in ({"train_dataset": "", "preset": ""}, {"train_dataset": "", "preset": "", "variant": ""}):
        for key in list(left):
            name = key._replace(**ignored)
            mine, theirs = ([k for k in side if k._replace(**ignored) == name] for side in (left, right))
            if len(mine) == 1 == len(theirs):
                pairs.append(Pair(key, theirs[0]))
                left.remove(key)
                right.remove(theirs[0])
    return sorted(pairs) + [Pair(k, None) for k in left] + [Pair(None, k) for k in right]


def _same_pictures(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """`after` with another name for pictures whose size differs: they are not the same pictures."""
    place = ["dataset", "split", "image"]
    sizes = before.drop_duplicates(place).set_index(place)[["width", "height"]].add_suffix("_before")
    known = after.join(sizes, on=place)
    other = (known["width"] != known["width_before"]) | (known["height"] != known["height_before"])
    other &= known["width_before"].notna()
    return after.assign(image=after["image"].where(~other.to_numpy(), after["image"] + " (other size)"))


def compare_points(
    before: pd.DataFrame,
    after: pd.DataFrame,
    *,
    resamples: int = RESAMPLES,
    list_only_before: bool = True,
    list_only_after: bool = True,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """BD-rates of each curve of `after` against its partner in `before` (columns `COLUMNS`; a refused comparison keeps its
    row with the reason), and the points that both measured at the same rate (`POINT_COLUMNS`).

    before, after: as `concat_points` gives them. A metric that a side does not have gives no row.
    """
    sides = dict(curves_of(before)), dict(curves_of(_same_pictures(before, after)))
    rows: list[dict[str, Any]] = []
    points: list[dict[str, Any]] = []
    listed = 0
    for pair in pair_curves(*sides):
        if pair.before is None or pair.after is None:
            if not (list_only_before if pair.after is None else list_only_after):
                continue
            compared, alike = _alone(ONLY_BEFORE if pair.after is None else ONLY_AFTER), []
        else:
            curves = sides[0][pair.before], sides[1][pair.after]
            alike = _point_rows(*curves)
            if pair.after.arm in UNSEEDED and all(p["same_files"] for p in alike):
                continue
            compared = _compared(*curves, resamples)
        head = {"pair": listed, **pair.names()}
        rows += [{**head, **pair.trainings(), **row} for row in compared]
        points += [{**head, **row} for row in alike]
        listed += 1
    return pd.DataFrame(rows, columns=list(COLUMNS)), pd.DataFrame(points, columns=list(POINT_COLUMNS))


def _alone(reason: str) -> list[dict[str, Any]]:
    blank = {**dict.fromkeys(MEASURED, math.nan), "n_images": 0, "n_seeds": 0}
    refused = {"metric": "psnr_db", **blank, "status": "refused", "reason": reason}
    return [{**refused, "method": method} for method in METHODS]


def _compared(before: pd.DataFrame, after: pd.DataFrame, resamples: int) -> list[dict[str, Any]]:
    anchor, test = (curve_grid(c, ("bpp", *BD_METRICS)) for c in (before, after))
    rows = compare_curves(anchor, test, resamples=resamples)
    why = ""
    if not set(anchor.seeds) & set(test.seeds):
        why = "no seed in common: compare runs of the same seeds"
    elif not set(anchor.images) & set(test.images):
        why = "no picture in common (same name and size): measured on other pictures"
    return [{**row, "reason": why or row["reason"]} for row in rows]


def _point_rows(before: pd.DataFrame, after: pd.DataFrame) -> list[dict[str, Any]]:
    """Means over the pictures and seeds that both sides measured at each rate that both have."""
    on = ["rate_name", "rate", "seed", "image"]
    columns = ["bytes", "bpp", "psnr_db", "sw_psnr_db", "ew_psnr_db"]
    both = before[[*on, *columns]].merge(after[[*on, *columns]], on=on, suffixes=("_before", "_after"))
    weighted = "ew_psnr_db" if both["ew_psnr_db_before"].notna().any() else "sw_psnr_db"
    rows = []
    for (name, rate), group in both.groupby(["rate_name", "rate"], sort=True):
        mean = group.drop(columns=["rate_name", "image", "seed"]).astype(float).mean()
        same = (group[f"{c}_before"] == group[f"{c}_after"] for c in ("bytes", "psnr_db"))
        row = {
            "rate_name": name,
            "rate": rate,
            "n_images": int(group["image"].nunique()),
            "weighted": weighted,
        }
        for side in Pair._fields:
            row[f"bpp_{side}"] = mean[f"bpp_{side}"]
            row[f"psnr_{side}_db"] = mean[f"psnr_db_{side}"]
            row[f"weighted_{side}_db"] = mean[f"{weighted}_{side}"]
        rows.append({**row, "same_files": all(bool(equal.all()) for equal in same)})
    return rows


def outcome(row: Mapping[str, Any]) -> str:
    """better, worse, the same within the interval, or cannot be said; on the second against the first."""
    if not math.isfinite(row["ci_low"]):
        return "cannot be said"
    if row["ci_high"] < 0:
        return "better"
    return "worse" if row["ci_low"] > 0 else "no certain difference"


def sentences(rates: pd.DataFrame, points: pd.DataFrame) -> list[str]:
    """The answer in words, one sentence a curve."""
    said = []
    metric = main_metric(rates, "psnr_db")
    shown = rates[rates["method"] == METHODS[0]]
    codecs = sorted(set(rates["codec"]))
    for pair, group in shown.groupby("pair", sort=True):
        by = {r["metric"]: r for r in records(group)}
        row = by.get(metric, next(iter(by.values())))
        name = f"{look(row, codecs).label} on {place_of(row)}"
        mine = points[points["pair"] == pair]
        if len(mine) and mine["same_files"].all():
            said.append(f"{name}: the same files, byte for byte in length, with the same PSNR.")
            continue
        if not math.isfinite(row["bd_rate_percent"]):
            said.append(f"{name}: not compared ({row['reason']}).")
            continue
        text = f"{name}: {_rate(row)} rate at equal {METRICS[row['metric']].label}"
        plain = by.get("psnr_db", row)
        if plain is not row and math.isfinite(plain["bd_rate_percent"]):
            text += f", {_rate(plain)} at equal plain PSNR"
        said.append(f"{text}: {outcome(row)}.")
    return said


def _rate(row: Mapping[str, Any]) -> str:
    """With plain spaces: a terminal shows it."""
    return with_interval(row).replace("\u202f", " ").replace("\u00a0", " ")
