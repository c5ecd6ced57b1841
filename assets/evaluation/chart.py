"""Curves as the pages' chart draws them: looks and points, values on the scale that curves are compared on."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from assets.evaluation.bd_rate import BASELINE, OWN_MAPS, to_decibel
from assets.evaluation.numerals import rate_label, scale_unit
from assets.evaluation.palette import cast_of, look
from assets.evaluation.rate_distortion import curves_of, records
from models.judges import FALLING, JUDGED, KNOWN

CURVE_METRICS = ("ew_psnr_db", "sw_psnr_db", "psnr_db", "ms_ssim", "ew_ms_ssim", "sw_ms_ssim", "bg_psnr_db", *JUDGED)


def present(table: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """Those of these columns that hold a number."""
    return [n for n in names if n in table.columns and table[n].notna().any()]


def _round(value: Any, places: int = 5) -> float | None:
    return round(float(value), places) if math.isfinite(float(value)) else None


def curve_data(curves: pd.DataFrame, metrics: Sequence[str]) -> list[dict[str, Any]]:
    """The curves of `rd_curves` for report.js: baseline first, then arms, controls and classical codecs."""
    cast = cast_of(curves)
    drawn: list[dict[str, Any]] = []
    for key, curve in curves_of(curves):
        style = look(key._asdict(), cast)
        control = key.maps not in OWN_MAPS
        drawn.append(
            {
                **style._asdict(),
                "place": key.place,
                "codec": key.codec,
                "arm": key.arm,
                "maps": key.maps,
                "train": f"{key.train_dataset}/{key.preset}/{key.codec}",
                "baseline": key.arm == BASELINE,
                "control": control,
                "open": control,
                "points": [_point(row, metrics) for row in records(curve.sort_values("bpp"))],
            }
        )
    drawn.sort(key=lambda c: (c["classical"], not c["baseline"], c["control"], c["label"]))
    return drawn


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
