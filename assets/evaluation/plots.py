"""PNG plots for asset pages and runs: rate–distortion curves, BD-rate forest, training.

Each function returns the bytes of a PNG and draws on a Figure of its own: no pyplot, no global state, safe in threads.
"""

import math

import numpy as np
import pandas as pd

from assets.evaluation.bd_rate import OWN_MAPS, kind_of, to_decibel
from assets.evaluation.numerals import counted
from assets.evaluation.palette import cast_of, look
from assets.evaluation.piecewise import METHODS
from assets.evaluation.rate_distortion import REFERENCE_ARMS, curves_of, records, told_apart
from assets.figures import FAINT, INK, new_axes, new_figure, nothing, png
from models.metrics import METRICS

_MARKERS = {"circle": "o", "square": "s", "diamond": "D", "triangle": "^", "cross": "x"}


def metric_label(metric: str) -> str:
    """A metric's name with its unit, as an axis shows it."""
    found = METRICS[metric]
    unit = found.unit or ("−10·log₁₀(1 − x), dB" if found.decibel else "")
    return f"{found.label} ({unit})" if unit else found.label


def rd_plot(curves: pd.DataFrame, metric: str = "psnr_db", *, title: str = "") -> bytes:
    """Quality over bpp (logarithmic), every curve with its 95 % band, at rates up to 2.5 times beyond those of learned codecs;
    curves: as `rd_curves` gives them."""
    label = metric_label(metric)
    curves = told_apart(curves)
    shown = curves[np.isfinite(curves[metric].astype(float)) & (curves["bpp"] > 0)]
    if shown.empty:
        return nothing(title, f"no curve has {label}")
    figure = new_figure(8, 5.4)
    axes = new_axes(figure, 1, 1, 1)
    cast = cast_of(shown)
    groups = sorted(curves_of(shown), key=lambda item: item[0].arm not in REFERENCE_ARMS)
    for key, curve in groups:
        style = look(key._asdict(), cast)
        ordered = curve.sort_values("bpp")
        bpp = ordered["bpp"].to_numpy()
        middle, low, high = (
            to_decibel(metric, ordered[f"{metric}{end}"].to_numpy(np.float64)) for end in ("", "_low", "_high")
        )
        if np.isfinite(low).all() and key.maps in OWN_MAPS and not style.classical:
            axes.fill_between(bpp, low, high, color=style.colour, alpha=0.1, linewidth=0)
        axes.plot(
            bpp,
            middle,
            color=style.colour,
            linestyle=(0, tuple(d * 0.8 for d in style.dash)) if style.dash else "-",
            linewidth=1.2 if style.classical else 1.8,
            marker=_MARKERS[style.marker],
            markersize=4 if style.classical else 5,
            label=style.label,
        )
    axes.set_xscale("log")
    # a classical codec's far end must not press the curves that matter into a corner
    learned = shown[~shown["arm"].isin(REFERENCE_ARMS)]["bpp"]
    wide = learned if len(learned) else shown["bpp"]
    least = max(shown["bpp"].min(), wide.min() / 2.5) / 1.1
    most = min(shown["bpp"].max(), wide.max() * 2.5) * 1.1
    quality = to_decibel(metric, shown[shown["bpp"].between(least, most)][metric].to_numpy(np.float64))
    axes.set_xlim(least, most)
    axes.set_ylim(quality.min() - (room := 0.05 * float(np.ptp(quality)) + 0.1), quality.max() + room)
    ticks = [t for t in (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10) if least <= t <= most]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.minorticks_off()
    axes.set_xlabel("rate (bits per pixel, bytes of the real file)", color=INK)
    axes.set_ylabel(label, color=INK)
    axes.set_title(f"{title}  ·  n = {counted(shown['n_images'].max())}".strip(" ·"), loc="left", color=INK)
    axes.legend(frameon=False, fontsize=8, loc="best", ncols=1 if len(groups) < 12 else 2)
    return png(figure)


def forest_plot(rates: pd.DataFrame, metric: str = "ew_psnr_db", *, title: str = "") -> bytes:
    """BD-rates of one metric with their intervals, one line a comparison; refused ones say so. rates: as `bd_rates` gives
    them. Left of 0 the tested curve needs fewer bits."""
    label = metric_label(metric)
    rates = told_apart(rates)
    shown = rates[(rates["metric"] == metric) & (rates["method"] == METHODS[0])]
    if shown.empty:
        return nothing(title, f"nothing was compared on {label}")
    kinds = [kind_of(*arms) for arms in zip(shown["test_arm"], shown["anchor_arm"], strict=True)]
    shown = shown.assign(group=kinds).sort_values(["codec", "group", "test_arm", "maps", "anchor_arm"], kind="stable")
    figure = new_figure(8, 1.3 + 0.36 * len(shown))
    axes = new_axes(figure, 1, 1, 1)
    axes.grid(axis="y", visible=False)
    axes.axvline(0, color=INK, linewidth=1)
    names = []
    cast = cast_of(shown, "test_arm")
    for place, row in enumerate(records(shown)):
        style = look(row, cast, "test_arm")
        names.append(f"{style.label} vs {row['anchor_arm']}")
        value, low, high = (float(row[c]) for c in ("bd_rate_percent", "ci_low", "ci_high"))
        if not math.isfinite(value):
            axes.text(0, place, "  refused", va="center", color=FAINT, fontsize=8, style="italic")
            continue
        if math.isfinite(low):
            axes.plot([low, high], [place, place], color=style.colour, linewidth=2.2, solid_capstyle="round")
        certain = math.isfinite(low) and (low > 0 or high < 0)
        axes.plot(
            value,
            place,
            marker=_MARKERS[style.marker],
            color=style.colour,
            markerfacecolor=style.colour if certain else "white",
            markersize=7,
        )
        axes.annotate(
            f"{value:+.1f} %".replace("-", "−"), (max(value, high if math.isfinite(high) else value), place),
            xytext=(8, 0), textcoords="offset points", va="center", fontsize=8, color=INK,
            bbox={"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none"},
        )  # fmt: skip
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.margins(x=0.15)
    axes.set_xlabel(f"BD-rate at equal {label}, %\n(left: fewer bits; filled: the 95 % interval leaves out 0)")
    axes.set_title(title, loc="left", color=INK)
    return png(figure)
