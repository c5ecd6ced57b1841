"""What weights whose mean is not 1 do: at the same nominal λ they move a codec along its rate–distortion curve.

The source's recipe multiplies the squared error by c·(α + s^γ) without dividing by the mean. λ·w has the mean λ·mean(w),
so that training spends as many bits as λ·mean(w) asks for: another λ, on the same curve. `raw_shifts` puts numbers to
that, `raw_sentence` words.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from assets.evaluation.rate_distortion import CURVE_KEYS

#: how far from 1 a mean weight has to be to say which way the bits go
NEAR_ONE = 0.05
RAW_ARM, UNIFORM_ARM = "weighted_raw", "uniform"
TRAINING_KEYS = ("train_dataset", "codec", "preset", "variant", "maps")
"""What the mean weight of a curve depends on."""

ON_CURVE_DB = 0.3
"""A point this near to uniform's curve, in dB of PSNR at equal rate, lies on it."""

SHIFT_COLUMNS: Mapping[str, str] = {
    **dict.fromkeys(CURVE_KEYS, "str"),
    "lmbda": "float64",
    "mean_weight": "float64",  # c·mean(α + s^γ) over the training pictures
    "equivalent_lmbda": "float64",
    "bpp": "float64",
    "psnr_db": "float64",
    "uniform_bpp": "float64",  # of `uniform` at the same nominal lmbda
    "uniform_psnr_db": "float64",
    "bits_percent": "float64",  # bpp against uniform_bpp
    "equivalent_bpp": "float64",  # of `uniform` at equivalent_lmbda; NaN outside of its lmbdas
    "off_curve_db": "float64",  # PSNR above uniform's curve at the same bpp; NaN outside of its rates
}
"""Columns of `raw_shifts` and their dtypes, in order."""


def _between(x: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    """ys at x, linear between the points, NaN outside; xs rising."""
    inside = xs[0] * (1 - 1e-9) <= x <= xs[-1] * (1 + 1e-9)
    return float(np.interp(math.log(x), np.log(xs), ys)) if inside else math.nan


def raw_shifts(curves: pd.DataFrame, means: pd.DataFrame) -> pd.DataFrame:
    """A row for each point of `weighted_raw` that has a `uniform` curve beside it, columns `SHIFT_COLUMNS`.

    curves: as `rd_curves` gives them. means: `TRAINING_KEYS` and mean_weight. The rate between uniform's points is
    interpolated in log-rate over log-λ, PSNR linearly over log-rate.
    """
    rows = []
    raw = curves[(curves["arm"] == RAW_ARM) & (curves["bpp"] > 0)]
    for key, curve in raw.groupby(list(CURVE_KEYS), sort=True, dropna=False):
        names = dict(zip(CURVE_KEYS, (str(k) for k in key), strict=True))
        known = means
        for column in TRAINING_KEYS:
            known = known[known[column] == names[column]]
        same = curves[(curves["arm"] == UNIFORM_ARM) & (curves["bpp"] > 0)]
        for column in ("dataset", "split", "train_dataset", "codec", "preset"):
            same = same[same[column] == names[column]]
        variants = set(same["variant"])
        same = same[same["variant"] == (names["variant"] if names["variant"] in variants else "")]
        if known.empty or same.empty:
            continue
        mean = float(known["mean_weight"].iloc[0])
        at = same.sort_values("lmbda")
        lmbdas, bpps = at["lmbda"].tolist(), at["bpp"].tolist()
        by_rate = same.sort_values("bpp")
        for point in curve.sort_values("lmbda").to_dict("records"):
            lmbda, bpp = float(point["lmbda"]), float(point["bpp"])
            here = at[np.isclose(at["lmbda"], lmbda, rtol=1e-9)]
            bpp_uniform = float(here["bpp"].iloc[0]) if len(here) else math.nan
            there = _between(lmbda * mean, lmbdas, np.log(bpps).tolist())
            on_curve = _between(bpp, by_rate["bpp"].tolist(), by_rate["psnr_db"].tolist())
            rows.append(
                {
                    **names,
                    "lmbda": lmbda,
                    "mean_weight": mean,
                    "equivalent_lmbda": lmbda * mean,
                    "bpp": bpp,
                    "psnr_db": float(point["psnr_db"]),
                    "uniform_bpp": bpp_uniform,
                    "uniform_psnr_db": float(here["psnr_db"].iloc[0]) if len(here) else math.nan,
                    "bits_percent": 100 * (bpp / bpp_uniform - 1),
                    "equivalent_bpp": math.exp(there),
                    "off_curve_db": float(point["psnr_db"]) - on_curve,
                }
            )
    return pd.DataFrame(rows, columns=list(SHIFT_COLUMNS)).astype(dict(SHIFT_COLUMNS))


def _span(values: "pd.Series[float]", digits: int, unit: str) -> str:
    low, high = (f"{v:+.{digits}f}".replace("-", "−") for v in (values.min(), values.max()))
    return f"{low}{unit}" if low == high else f"{low} to {high}{unit}"


def raw_sentence(shifts: pd.DataFrame) -> str:
    """What one curve's rows of `raw_shifts` say: mean weight, how the bits moved, and whether the curve is the same."""
    first = shifts.iloc[len(shifts) // 2]
    mean = float(first["mean_weight"])
    said = (
        f"The weights’ mean c·mean(α + s^γ) is {mean:.2f} over the training pictures, so λ {first['lmbda']:g} of "
        f"weighted_raw asks for what λ {first['equivalent_lmbda']:.2g} of uniform asks for."
    )
    moved = shifts["bits_percent"].dropna()
    if len(moved):
        said += f" At the same nominal λ the bits moved by {_span(moved, 0, ' %')}"
        expected = "down" if mean < 1 else "up"
        if abs(mean - 1) < NEAR_ONE:
            said += " (a mean of about 1 hardly moves them)"
        elif ((moved < 0) if mean < 1 else (moved > 0)).all():
            said += f" ({expected}, as a mean {'below' if mean < 1 else 'above'} 1 must)"
        else:
            said += f" (not {expected} everywhere, as a mean {'below' if mean < 1 else 'above'} 1 should: too short a training?)"
        said += "."
    off = shifts["off_curve_db"].dropna()
    if off.empty:
        return f"{said} Their rates do not overlap: whether it is the same curve cannot be read from these points."
    said += f" At equal rate its plain PSNR is {_span(off, 2, ' dB')} from uniform’s curve"
    said += f" ({len(off)} of {len(shifts)} points lie within uniform’s rates): "
    if float(off.abs().max()) <= ON_CURVE_DB:
        return f"{said}the same curve at another λ. A change of rate at equal λ is no evidence for or against saliency."
    return f"{said}more than another λ alone would do."
