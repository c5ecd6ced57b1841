"""The page of `fovea compare`: both sets of curves, the BD-rates between them, and the points that both measured."""

import math
from collections.abc import Mapping
from typing import Any

import jinja2
import pandas as pd

from assets.evaluation.compare import curve_name, main_metric, outcome, sentences
from assets.evaluation.rate_distortion import CLASSICAL_ARM, rd_curves
from assets.evaluation.report import (
    CURVE_METRICS,
    FOLDER,
    SCRIPT,
    STYLE,
    curve_data,
    embed_json,
    inline,
    interval,
    metric_axes,
    number,
    percent,
    rate_label,
)
from assets.evaluation.verdict import records
from models.metrics import METRICS

TEMPLATE = "compare.html.j2"
BEFORE_DASH = [5, 4]


def both_curves(before: pd.DataFrame, after: pd.DataFrame, rates: pd.DataFrame) -> list[dict[str, Any]]:
    """The chart's curves: the first side dashed and hollow, as the baseline of the second's with the same names."""
    compared = {(r["dataset"], r["split"], r["codec"], r["arm"], r["maps"]) for r in records(rates)}
    drawn = []
    for side, points, word in ((0, before, "first"), (1, after, "second")):
        keep = [
            (r["arm"] == CLASSICAL_ARM and side == 1) or tuple(r[k] for k in ("dataset", "split", "codec", "arm", "maps")) in compared
            for r in records(points)
        ]  # fmt: skip
        curves = rd_curves(points[keep])
        metrics = [m for m in CURVE_METRICS if curves[m].notna().any()]
        for curve in curve_data(curves, metrics):
            if not curve["classical"]:
                # each arm's first side is what the second's is drawn against in the relative view
                curve["train"] = f"{curve['codec']} {curve['arm']} {curve['maps']}"
                curve["baseline"] = side == 0
                curve["open"] = side == 0
                curve["control"] = False
                curve["dash"] = BEFORE_DASH if side == 0 else []
                curve["label"] = f"{curve['label']} · {word}"
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
    """The whole page as one string.

    first, second: name and about of each side. before, after: their points. rates, points: as `compare_points` gives them.
    """
    curves = both_curves(before, after, rates)
    metrics = [m for m in CURVE_METRICS if any(m in p["values"] for c in curves for p in c["points"])]
    codecs = sorted(set(rates["codec"]))
    data = {
        "curves": curves,
        "metrics": metric_axes(metrics),
        "gallery": {"items": [], "pictures": [], "lossless": True},
        "runUrl": "",
        "against": "the first",
    }
    rows = []
    for r in records(rates):
        sure = math.isfinite(r["ci_low"]) and (r["ci_high"] < 0 or r["ci_low"] > 0)
        rows.append(
            {
                **r,
                "place": f"{r['dataset']} · {r['split']}",
                "label": curve_name(r, codecs),
                "trained": r["after"] if r["before"] == r["after"] else f"{r['before'] or '–'} → {r['after'] or '–'}",
                "rate_text": percent(r["bd_rate_percent"]) if r["status"] != "refused" else "refused",
                "interval_text": interval(r["ci_low"], r["ci_high"]),
                "quality_text": number(r["bd_quality_db"], 2, sign=True, unit="dB"),
                "outcome": outcome(r),
                "tone": ("good" if r["ci_high"] < 0 else "bad") if sure else "open",
                "bar": {k: None if not math.isfinite(r[c]) else round(float(r[c]), 3) for k, c in zip("vlh", ("bd_rate_percent", "ci_low", "ci_high"), strict=True)},
            }
        )  # fmt: skip
    lines = [
        {
            "label": curve_name(p, codecs),
            "place": f"{p['dataset']} · {p['split']}",
            "rate": rate_label(p["rate_name"], p["rate"]),
            "bpp": [number(p["bpp_before"], 4), number(p["bpp_after"], 4)],
            "moved": percent(100 * (p["bpp_after"] / p["bpp_before"] - 1)),
            "psnr": [number(p["psnr_before_db"]), number(p["psnr_after_db"])],
            "weighted": [number(p["weighted_before_db"]), number(p["weighted_after_db"])],
            "same": bool(p["same_files"]),
            "n": int(p["n_images"]),
        }
        for p in records(points)
    ]
    said = sentences(rates, points)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    bd_metrics = [m for m in CURVE_METRICS if m in set(rates["metric"])]
    return environment.get_template(TEMPLATE).render(
        first=first,
        second=second,
        style=inline(STYLE),
        script=inline(SCRIPT),
        data=embed_json(data),
        said=said,
        metrics=[(m, METRICS[m].label) for m in metrics],
        bd_metrics=[(m, METRICS[m].label) for m in bd_metrics],
        methods=sorted(set(rates["method"]), reverse=True),
        main=METRICS[main_metric(rates)].label,
        rows=rows,
        notes=any(r["reason"] for r in rows),
        lines=lines,
        weighted=METRICS[str(points["weighted"].iloc[0])].label if len(points) else "",
        places=sorted({c["place"] for c in curves}),
    )
