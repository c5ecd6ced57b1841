"""Two sweeps, or one sweep before and after a change: the same curves held against each other.

A curve of one side is held against the curve of the other that has the same `CURVE_KEYS`; what is left over meets the
only curve of the same codec, arm and maps on the same pictures, whatever its training. Intervals are those of
assets/evaluation/bd_rate.py: paired over pictures that both sides measured, which have the same name and size.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import pandas as pd

from assets.evaluation.bd_rate import BD_METRICS, MEASURED, UNSEEDED, compare_curves
from assets.evaluation.piecewise import METHODS
from assets.evaluation.rate_distortion import RESAMPLES, CurveKey, curve_grid, curves_of

NAMES = ("dataset", "split", "codec", "arm", "maps", "variant")
COLUMNS = (*NAMES, "same_files", "metric", "method", *MEASURED)

ONLY_BEFORE = "only in the first: nothing to compare with"
ONLY_AFTER = "only in the second: nothing to compare with"
ALONE = {"same_files": False, "metric": "psnr_db", "n_images": 0, "n_trained_on": 0, "n_seeds": 0, "status": "refused"}
"""Of a curve that has no partner; numbers are not known."""


class Pair(NamedTuple):
    """A curve of each side; one of them is None where the other has no partner."""

    before: CurveKey | None
    after: CurveKey | None

    def names(self) -> dict[str, str]:
        """What both curves are called: the columns `NAMES`."""
        key = self.after or self.before
        assert key is not None
        return {k: v for k, v in key._asdict().items() if k in NAMES}

    def differs(self) -> str:
        """The settings in which two curves that are called alike differ: `preset smoke → small`; "" for none."""
        if self.before is None or self.after is None:
            return ""
        both = zip(CurveKey._fields, self.before, self.after, strict=True)
        return ", ".join(f"{k.replace('_', ' ')} {a or 'none'} → {b or 'none'}" for k, a, b in both if a != b)


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
) -> pd.DataFrame:
    """BD-rates of each curve of `after` against its partner in `before` (columns `COLUMNS`; a refused comparison keeps
    its row with the reason). same_files: at the rates that both have, each seed and picture of one side is on the other
    with as many bytes and as much PSNR.

    before, after: as `concat_points` gives them. A metric that a side does not have gives no row.
    """
    sides = dict(curves_of(before)), dict(curves_of(_same_pictures(before, after)))
    rows: list[dict[str, Any]] = []
    for pair in pair_curves(*sides):
        if pair.before is None or pair.after is None:
            if list_only_before if pair.after is None else list_only_after:
                reason = ONLY_BEFORE if pair.after is None else ONLY_AFTER
                rows += [{**pair.names(), **ALONE, "reason": reason, "method": method} for method in METHODS]
            continue
        curves = sides[0][pair.before], sides[1][pair.after]
        same = _same_files(*curves)
        if not (same and pair.after.arm in UNSEEDED):
            for row in _compared(*curves, resamples):
                reason = "; ".join(filter(None, (pair.differs(), row["reason"])))
                rows.append({**pair.names(), "same_files": same, **row, "reason": reason})
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _compared(before: pd.DataFrame, after: pd.DataFrame, resamples: int) -> list[dict[str, Any]]:
    anchor, test = (curve_grid(c, ("bpp", *BD_METRICS)) for c in (before, after))
    rows = compare_curves(anchor, test, resamples=resamples)
    why = ""
    if not set(anchor.seeds) & set(test.seeds):
        why = "no seed in common: compare runs of the same seeds"
    elif not set(anchor.images) & set(test.images):
        why = "no picture in common (same name and size): measured on other pictures"
    return [{**row, "reason": why or row["reason"]} for row in rows]


def _same_files(before: pd.DataFrame, after: pd.DataFrame) -> bool:
    columns = ["rate_name", "rate", "seed", "image", "bytes", "psnr_db"]
    rates = set(before["rate"]) & set(after["rate"])
    one, other = (
        curve.loc[curve["rate"].isin(rates), columns].sort_values(columns[:4], ignore_index=True)
        for curve in (before, after)
    )
    return bool(rates) and one.equals(other)


def outcome(row: Mapping[str, Any]) -> str:
    """The same files, better, worse, no certain difference, or cannot be said; on the second against the first."""
    if row["same_files"]:
        return "the same files"
    if not math.isfinite(row["ci_low"]):
        return "cannot be said"
    if row["ci_high"] < 0:
        return "better"
    return "worse" if row["ci_low"] > 0 else "no certain difference"
