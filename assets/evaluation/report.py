"""The report: one HTML file that answers the question at the top and shows everything behind it, offline.

    curves, rates, ideal (tables) ─┐
    gallery (pictures)            ─┼─ render_report ─ one string of HTML: styles, script, data and pictures inside
    provenance (a dict)           ─┘

Links to MLflow runs are links only. The page works without a mouse and in the dark; every number of its charts also
stands in a table, so that it can be read without the script.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from assets.evaluation import report_tables as tables
from assets.evaluation.bd_rate import BD_METRICS
from assets.evaluation.chart import CURVE_METRICS, chart_data, curve_data, present
from assets.evaluation.numerals import counted
from assets.evaluation.page import render_page
from assets.evaluation.palette import cast_of
from assets.evaluation.rate_distortion import REFERENCE_ARMS, place_of, records, shared_parts, told_apart, without_parts
from assets.evaluation.report_gallery import GalleryItem, GalleryShot, gallery_data
from assets.evaluation.verdict import WORDS, find_verdicts, first_verdicts

BUDGET_BYTES = 6_000_000
INDICES = ("vsi", "haarpsi", "gmsd")


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
    verdicts, cast = find_verdicts(rates), cast_of(curves)
    data = chart_data(curve_data(curves, metrics), metrics)
    data |= {"gallery": gallery_data(gallery, budget_bytes), "runUrl": provenance.get("mlflow_run_url") or ""}
    return render_page(
        "report.html.j2",
        data=data,
        title=str(provenance.get("sweep") or "rate–distortion evidence"),
        headline=tables.headline(first_verdicts(rates)),
        claims=claims,
        words=WORDS,
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
