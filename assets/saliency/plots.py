"""PNG plots of saliency models: benchmark and training."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from assets.figures import FAINT, INK, new_figure, png, style

LABELS = {
    "cc": "CC ↑",
    "sim": "SIM ↑",
    "kl": "KL ↓ (nats)",
    "nss": "NSS ↑",
    "auc_judd": "AUC-Judd ↑",
    "auc_shuffled": "shuffled AUC ↑",
    "info_gain": "information gain ↑ (bits)",
}
CEILING = "human"
_BLUE, _ORANGE = "#0072B2", "#D55E00"


def benchmark_plot(summary: pd.DataFrame, *, title: str = "") -> bytes:
    """One panel a metric: a dot with its 95 % interval for each model, the human ceiling as a line with its interval.
    summary: as models.saliency.benchmark.summarise gives it."""
    nss = summary[summary.metric == "nss"].set_index("model")["mean"].drop(CEILING, errors="ignore")
    order = list(nss.sort_values().index)
    figure = new_figure(11, 1.6 + 0.5 * len(order))
    panels = figure.subplots(2, 4, sharey=True)
    panels[1, 3].axis("off")
    for axes, (metric, label) in zip(panels.ravel(), LABELS.items(), strict=False):
        style(axes)
        rows = summary[summary.metric == metric].set_index("model")
        here = rows.loc[order]
        places = np.arange(len(order))
        axes.hlines(places, here.ci_low, here.ci_high, color=_BLUE, linewidth=2)
        axes.plot(here["mean"], places, "o", color=_BLUE, markersize=5)
        if CEILING in rows.index:
            mean, low, high = rows.loc[[CEILING], ["mean", "ci_low", "ci_high"]].to_numpy(np.float64)[0].tolist()
            axes.axvspan(low, high, color=_ORANGE, alpha=0.15, linewidth=0)
            axes.axvline(mean, color=_ORANGE, linewidth=1.2)
        axes.set_yticks(places, order)
        axes.set_title(label, fontsize=9, color=INK, loc="left")
    ceiling = "   (orange: half of the people predict the other half)" if CEILING in set(summary.model) else ""
    figure.suptitle(title + ceiling, x=0.01, ha="left", fontsize=10, color=INK)
    return png(figure)


def training_plot(history: Sequence[Mapping[str, float]], *, title: str = "") -> bytes:
    """Train and validation values over epochs, a panel a quantity. history: rows with `epoch`, `train_kl`, `val_kl`, …"""
    table = pd.DataFrame(history)
    names = [c.removeprefix("val_") for c in table.columns if c.startswith("val_")]
    figure = new_figure(2.9 * max(1, len(names)), 2.8)
    for place, name in enumerate(names, 1):
        axes = figure.add_subplot(1, len(names), place)
        style(axes)
        for part, colour in (("train", FAINT), ("val", _BLUE)):
            if f"{part}_{name}" in table:
                axes.plot(table.epoch + 1, table[f"{part}_{name}"], "o-", color=colour, markersize=3, label=part)
        axes.set_title(name, fontsize=9, color=INK, loc="left")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if place == 1:
            axes.legend(frameon=False, fontsize=8)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, color=INK)
    return png(figure)
