"""The report: one HTML file that answers the question at the top and shows everything behind it, offline.

    curves, rates, ideal (tables) ─┐
    gallery (pictures)            ─┼─ render_report ─ one string of HTML: styles, script, data and pictures inside
    provenance (a dict)           ─┘

Links to MLflow runs are links only. The page works without a mouse and in the dark; every number of its charts also
stands in a table, so that it can be read without the script.
"""

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from assets.evaluation import report_tables as tables
from assets.evaluation.bd_rate import BASELINE, BD_METRICS, OWN_MAPS, to_decibel
from assets.evaluation.numerals import counted, rate_label, scale_unit
from assets.evaluation.page import render_page
from assets.evaluation.palette import cast_of, look
from assets.evaluation.rate_distortion import (
    REFERENCE_ARMS,
    curves_of,
    place_of,
    records,
    shared_parts,
    told_apart,
    without_parts,
)
from assets.evaluation.report_gallery import GalleryItem, GalleryShot, gallery_data
from models.judges import FALLING, JUDGED, KNOWN

BUDGET_BYTES = 6_000_000
CURVE_METRICS = ("ew_psnr_db", "sw_psnr_db", "psnr_db", "ms_ssim", "ew_ms_ssim", "sw_ms_ssim", "bg_psnr_db", *JUDGED)
INDICES = ("vsi", "haarpsi", "gmsd")


def present(table: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """Those of these columns that hold a number."""
    return [n for n in names if n in table.columns and table[n].notna().any()]


def _round(value: Any, places: int = 5) -> float | None:
    return round(float(value), places) if math.isfinite(float(value)) else None


def curve_data(curves: pd.DataFrame, metrics: Sequence[str]) -> list[dict[str, Any]]:
    """The curves of `rd_curves` for report.js: baseline first, then arms, controls and classical codecs; values on the scale
    that curves are compared on."""
    cast = cast_of(curves)
    drawn = [
        {
            **look(key._asdict(), cast)._asdict(),
            "place": key.place,
            "train": f"{key.train_dataset}/{key.preset}/{key.codec}",
            "baseline": key.arm == BASELINE,
            "control": key.maps not in OWN_MAPS,
            "points": [_point(row, metrics) for row in records(curve.sort_values("bpp"))],
        }
        for key, curve in curves_of(curves)
    ]
    return sorted(drawn, key=lambda c: (c["classical"], not c["baseline"], c["control"], c["label"]))


def _point(row: dict[str, Any], metrics: Sequence[str]) -> dict[str, Any]:
    values = {}
    for metric in metrics:
        raw = np.array([row[metric], row[f"{metric}_low"], row[f"{metric}_high"]], np.float64)
        if math.isfinite(raw[0]):
            values[metric] = [_round(v, 4) for v in to_decibel(metric, raw)]
    return {
        "rate": rate_label(row["rate_name"], row["rate"]),
        "bpp": [_round(row[c]) for c in ("bpp", "bpp_low", "bpp_high")],
        "raw": {m: _round(row[m]) for m in metrics if KNOWN[m].decibel or m in FALLING},
        "values": values,
        "n": int(row["n_images"]),
        "seeds": int(row["n_seeds"]),
        "runs": str(row.get("mlflow_run_ids") or "").split(),
    }


def _axis(metric: str) -> str:
    unit = "−10·log₁₀(1 − x) dB" if KNOWN[metric].decibel else KNOWN[metric].unit
    return ("−" if metric in FALLING else "") + ", ".join(filter(None, (KNOWN[metric].label, unit)))


def chart_data(curves: list[dict[str, Any]], metrics: Sequence[str]) -> dict[str, Any]:
    """What report.js needs for the chart."""
    labels = {m: {"label": KNOWN[m].label, "axis": _axis(m), "unit": scale_unit(m)} for m in metrics}
    return {"curves": curves, "metrics": labels, "against": BASELINE}


def _labelled(gallery: Sequence[GalleryItem], shared: Collection[str]) -> list[GalleryItem]:
    """The gallery with its own curves' variants as the page's tables have them."""

    def changed(shots: Sequence[GalleryShot]) -> list[GalleryShot]:
        rows = records(without_parts(told_apart(pd.DataFrame([dict(s.row) for s in shots])), shared)) if shots else []
        return [shot._replace(row=row) for shot, row in zip(shots, rows, strict=True)]

    return [dataclasses.replace(item, shots=changed(item.shots)) for item in gallery]


def _places(curves: pd.DataFrame, metrics: Sequence[str]) -> list[str]:
    """Where curves were measured. The page opens with the first metric: a dataset that has it comes first."""
    rows = records(curves)
    first = {place_of(r) for r in rows if metrics and pd.notna(r[metrics[0]])}
    return sorted({place_of(r) for r in rows}, key=lambda place: (place not in first, place))


def _eyes_said(curves: pd.DataFrame) -> str:
    """What looked-at quality is measured with, and on which pictures."""
    eyes = curves["ew_psnr_db"].notna() if "ew_psnr_db" in curves else pd.Series(False, curves.index)
    seen, others = ([*dict.fromkeys(place_of(r) for r in records(curves[held]))] for held in (eyes, ~eyes))
    others = [place for place in others if place not in seen]
    if not seen:
        return "with the maps that also steer the codec: no eye movements are recorded for these pictures"
    apart = f" on {' and '.join(seen)}, with the maps that also steer on {' and '.join(others)}" if others else ""
    return f"with people’s recorded eye movements{apart}"


def render_report(
    *,
    curves: pd.DataFrame,
    rates: pd.DataFrame,
    ideal: pd.DataFrame | None = None,
    gallery: Sequence[GalleryItem] = (),
    claims: Sequence[Mapping[str, Any]] = (),
    provenance: Mapping[str, Any] | None = None,
    budget_bytes: int = BUDGET_BYTES,
) -> str:
    """The whole page as one string.

    curves, rates, ideal: as `rd_curves`, `bd_rates` and `ideal_rows` give them (other columns are ignored). gallery: a
    few pictures. claims: says, bound, found and word of each that was run. provenance: what to print about where the
    numbers come from, in order; `sweep` also names the page, and `mlflow_run_url`, a text with `{run_id}` in it, turns
    run ids into links. budget_bytes: what the gallery's pictures may take.
    """
    provenance = dict(provenance or {})
    ideal = pd.DataFrame() if ideal is None else ideal
    own = curves[~curves["arm"].isin(REFERENCE_ARMS)]
    as_shipped = own["variant"].str.contains("as shipped")
    trained = own[~as_shipped]
    runs = [f"trained with {counted(trained['n_seeds'].max(), 'seed')}"] if len(trained) else []
    runs += ["codecs as they ship"] if as_shipped.any() else []
    curves, rates = told_apart(curves), told_apart(rates)
    if shared := shared_parts(curves):
        # said once, among what the page says of its origin, instead of in every label
        provenance["common to all arms"] = ", ".join(shared)
        curves, rates = without_parts(curves, shared), without_parts(rates, shared)
    gallery = _labelled(gallery, shared)
    metrics = present(curves, CURVE_METRICS)
    verdicts, cast = tables.find_verdicts(rates), cast_of(curves)
    data = chart_data(curve_data(curves, metrics), metrics)
    data |= {"gallery": gallery_data(gallery, budget_bytes), "runUrl": provenance.get("mlflow_run_url") or ""}
    return render_page(
        "report.html.j2",
        data=data,
        title=str(provenance.get("sweep") or "rate–distortion evidence"),
        headline=tables.headline(tables.first_verdicts(rates)),
        claims=claims,
        words=tables.WORDS,
        verdicts=verdicts,
        places=_places(curves, metrics),
        metrics=metrics,
        bd_metrics=[m for m in CURVE_METRICS if m in set(rates["metric"])] or list(BD_METRICS[:1]),
        methods=sorted(set(rates["method"]), reverse=True),
        groups=tables.bd_groups(rates, cast),
        controls=tables.control_tables(rates, ideal, cast),
        ideal=tables.ideal_rows_of(ideal),
        ideal_settings=records(ideal[["alpha", "gamma"]].drop_duplicates()) if len(ideal) else [],
        values=metrics + present(curves, INDICES),
        points=tables.point_rows(curves, cast),
        gallery=len(gallery),
        provenance=tables.provenance_rows(provenance),
        run_url=data["runUrl"],
        others=tables.others_said(curves),
        n_images=int(curves["n_images"].max()) if len(curves) else 0,
        n_seeds=int(curves["n_seeds"].max()) if len(curves) else 0,
        runs_said=", and ".join(runs),
        looked_at=_eyes_said(curves),
    )
