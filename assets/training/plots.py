"""PNG plots of a training."""

from collections.abc import Mapping, Sequence

import pandas as pd

from assets.figures import INK, new_axes, new_figure, nothing, png


def training_curves(history: Sequence[Mapping[str, float]], *, title: str = "") -> bytes:
    """Loss, rate and PSNR over steps; a key such as `val_bpp` joins the panel whose name it ends with. history: rows with
    `step` and values; rows may hold different ones."""
    table = pd.DataFrame([dict(row) for row in history])
    panels = {
        "loss": "loss (bits per pixel + λ · squared error)",
        "bpp": "rate (bpp, estimate)",
        "psnr_db": "PSNR (dB)",
    }
    if table.empty or "step" not in table or not any(c.endswith(tuple(panels)) for c in table.columns):
        return nothing(title, "no step was recorded")
    colours = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
    figure = new_figure(11, 3.3)
    for place, (name, label) in enumerate(panels.items(), 1):
        axes = new_axes(figure, 1, len(panels), place)
        columns = [c for c in table.columns if c == name or c.endswith(f"_{name}") or c.endswith(f"/{name}")]
        for column, colour in zip(columns, colours, strict=False):
            known = table[["step", column]].dropna()
            axes.plot(
                known["step"], known[column], color=colour, linewidth=1.3,
                marker="o" if len(known) < 12 else None, markersize=3,
                label="training" if column == name else column.removesuffix(name).strip("_/"),
            )  # fmt: skip
        if name == "loss" and columns and (table[columns].min().min() > 0):
            axes.set_yscale("log")
        axes.set_xlabel("step")
        axes.set_title(label, fontsize=9, color=INK)
        if len(columns) > 1:
            axes.legend(frameon=False, fontsize=8)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, color=INK)
    return png(figure)
