"""The page of `fovea benchmark --cuts`: a slider over the bytes of a file, both orders side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from assets.evaluation.cuts import UNIFORM, Cuts, Shown
from assets.evaluation.numerals import with_interval
from assets.evaluation.page import data_uri, render_page
from assets.evaluation.rate_distortion import records
from assets.frames.contact import overlay
from models.metrics import METRICS

STEPS = 28
"""Positions of the slider, of the cuts that there are: close at the beginning, where most happens."""
QUALITY = 88


def cuts_page(cuts: Cuts, title: str) -> str:
    """One self-contained HTML file."""
    rates = records(cuts.rates)
    return render_page(
        "cuts.html.j2",
        script="cuts.js",
        data={
            "pictures": [_picture(one, cuts.metric) for one in cuts.shown],
            "labels": {name: METRICS[name].label for name in cuts.fall},
        },
        title=title,
        answer=_answer(rates, cuts.metric),
        rates=rates,
        n_images=int(cuts.points["image"].nunique()),
        n_same=cuts.same,
    )


def _answer(rates: Sequence[Mapping[str, Any]], metric: str) -> str:
    rows = {(r["order"], r["metric"]): r for r in rates if r["against"] == UNIFORM and r["status"] != "refused"}
    if (main := rows.get(("saliency", metric))) is None:
        return "The pictures are too few, or too alike, for a comparison."
    plain = rows.get(("saliency", "psnr_db"))
    cost = f"; at equal plain PSNR {with_interval(plain)}" if plain else ""
    where = "where people looked" if metric == "ew_psnr_db" else "where saliency is predicted"
    return f"Against uniform order, a file that begins where saliency is predicted: {with_interval(main)} bytes for the same quality {where}{cost}."


def _picture(one: Shown, metric: str) -> dict[str, Any]:
    by_order: dict[str, list[Any]] = {}
    for shot in one.shots:
        by_order.setdefault(shot.order, []).append(shot)
    steps = sorted({round(v) - 1 for v in np.geomspace(1, len(by_order[UNIFORM]), STEPS)})
    return {
        "image": one.image,
        "pixels": one.original.shape[0] * one.original.shape[1],
        "original": data_uri(one.original, quality=QUALITY),
        "looked": data_uri(overlay(one.original, one.looked), quality=80),
        "lookedLabel": "where people looked" if metric == "ew_psnr_db" else "predicted saliency",
        "shots": [
            {
                "order": order,
                "sizes": [shots[k].size for k in steps],
                "qualities": [shots[k].quality for k in steps],
                "addresses": [data_uri(shots[k].shown, quality=QUALITY) for k in steps],
            }
            for order, shots in by_order.items()
        ],
    }
