"""The page of `fovea compare`: both sets of curves, the BD-rates between them, and the points that both measured."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from assets.evaluation.chart import CURVE_METRICS, chart_data, curve_data, present
from assets.evaluation.compare import outcome, sentences
from assets.evaluation.page import render_page
from assets.evaluation.palette import look
from assets.evaluation.rate_distortion import CLASSICAL_ARM, place_of, rd_curves, records
from models.metrics import METRICS

TEMPLATE = "compare.html.j2"
BEFORE_DASH = [5, 4]
NAMES = ["dataset", "split", "codec", "arm", "maps"]


def both_curves(before: pd.DataFrame, after: pd.DataFrame, rates: pd.DataFrame) -> list[dict[str, Any]]:
    """The chart's curves: the first side dashed and hollow, as the baseline of the second's with the same names."""
    compared = pd.MultiIndex.from_frame(rates[NAMES])
    drawn = []
    for first, points in ((True, before), (False, after)):
        keep = pd.MultiIndex.from_frame(points[NAMES]).isin(compared)
        if not first:
            keep |= (points["arm"] == CLASSICAL_ARM).to_numpy()
        curves = rd_curves(points[keep])
        for curve in curve_data(curves, present(curves, CURVE_METRICS)):
            if not curve["classical"]:
                # each arm's first side is what the second's is drawn against in the relative view
                curve["train"] = f"{curve['codec']} {curve['arm']} {curve['maps']}"
                curve["baseline"] = curve["open"] = first
                curve["control"] = False
                curve["dash"] = BEFORE_DASH if first else []
                curve["label"] += " · first" if first else " · second"
            drawn.append(curve)
    return drawn


def render_comparison(
    *,
    first: Mapping[str, str],
    second: Mapping[str, str],
    before: pd.DataFrame,
    after: pd.DataFrame,
    rates: pd.DataFrame,
    points: pd.DataFrame,
) -> str:
    """The whole page as one string. first, second: name and about of each side. before, after: their points. rates, points:
    as `compare_points` gives them."""
    curves = both_curves(before, after, rates)
    metrics = [m for m in CURVE_METRICS if any(m in p["values"] for c in curves for p in c["points"])]
    codecs = sorted(set(rates["codec"]))

    def named(row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "label": look(row, codecs).label, "place": place_of(row)}

    def trained(row: dict[str, Any]) -> str:
        before, after = row["before"], row["after"]
        return after if before == after else f"{before or '–'} → {after or '–'}"

    return render_page(
        TEMPLATE,
        data=chart_data(curves, metrics, "the first"),
        first=first,
        second=second,
        said=sentences(rates, points),
        metrics=metrics,
        bd_metrics=[m for m in CURVE_METRICS if m in set(rates["metric"])],
        methods=sorted(set(rates["method"]), reverse=True),
        rows=[{**named(r), "trained": trained(r), "outcome": outcome(r)} for r in records(rates)],
        notes=rates["reason"].astype(bool).any(),
        lines=[named(p) for p in records(points)],
        weighted=METRICS[str(points["weighted"].iloc[0])].label if len(points) else "",
        places=sorted({c["place"] for c in curves}),
    )
