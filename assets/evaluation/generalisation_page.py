"""How `generalisation` is shown: a Markdown table, and one page with the gaps as bars and crops side by side."""

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from assets.evaluation.chart import chart_data
from assets.evaluation.generalisation import Crop
from assets.evaluation.page import render_page
from assets.evaluation.rate_distortion import common_parts, records, without_parts

TEMPLATE = "generalisation.html.j2"
GAPS = (
    ("psnr_gap_db", "PSNR lost on held-out pictures", 1.0, "dB"),
    ("perceptual_gap_percent", "Perceptual distance gained on held-out pictures", 15.0, "%"),
)
"""A codec generalises when held-out pictures lose at most this against training pictures."""

COLUMNS = {
    "codec": ("codec", 0),
    "what": ("at", 0),
    "held_out_bpp": ("bpp", 4),
    "held_out_payload_bpp": ("payload", 4),
    "bound_bpp": ("bound", 4),
    "train_psnr_db": ("PSNR train", 2),
    "held_out_psnr_db": ("PSNR held out", 2),
    "psnr_gap_db": ("gap, dB", 2),
    "psnr_gap_beyond_db": ("beyond WebP's, dB", 2),
    "train_perceptual": ("perceptual train", 3),
    "held_out_perceptual": ("perceptual held out", 3),
    "perceptual_gap_percent": ("gap, %", 1),
    "perceptual_gap_beyond_percent": ("beyond WebP's, %", 1),
    "held_out_kid": ("KID held out", 4),
    "kid_difference": ("the learned one's less this", 1),
    "held_out_sw_psnr_db": ("sw_psnr", 2),
    "held_out_vsi": ("VSI", 4),
    "held_out_haarpsi": ("HaarPSI", 3),
    "held_out_lpips": ("LPIPS", 3),
    "doctor": ("doctor", 0),
}
"""What the table shows: its heads, and how many digits a number has."""


def _what(row: Mapping[str, Any]) -> str:
    """The rate, arm and variant of a learned codec; the budget of a classical one."""
    if row["arm"] != "classical":
        return ", ".join(p for p in (f"{row['rate']:g}", row["arm"], row["variant"]) if p)
    budget = f"{row['factor']:g} × the bits of {row['of']}"
    over, small, pictures = (_count(row, k) for k in ("over_budget", "shrunk_pictures", "held_out_pictures"))
    found = f"smallest files: {over} of {pictures} above {budget}" if over else f"at most {budget}"
    return found + (f", {small} of {pictures} shrunk" if small else "")


def _count(row: Mapping[str, Any], name: str) -> int:
    value = row.get(name)
    return 0 if value is None or not math.isfinite(value) else int(value)


def _cell(name: str, row: Mapping[str, Any]) -> str:
    value = _what(row) if name == "what" else row.get(name)
    if isinstance(value, str):
        return value
    if value is None or not math.isfinite(value):
        return ""
    digits = 1 if name == "held_out_kid" and value >= 10 else COLUMNS[name][1]
    low, high = (row.get(f"{name}_{end}", math.nan) for end in ("low", "high"))
    interval = f" [{low:.{digits}f}, {high:.{digits}f}]" if math.isfinite(low) else ""
    return f"{value:.{digits}f}{interval}"


def _shown(table: pd.DataFrame) -> list[list[str]]:
    """The heads, then the rows; columns without a cell are left out."""
    rows = records(table)
    names = [n for n in COLUMNS if any(_cell(n, r) for r in rows)]
    return [[COLUMNS[n][0] for n in names], *([_cell(n, r) for n in names] for r in rows)]


def markdown(table: pd.DataFrame) -> str:
    """The table for people: one line a row, KID with its interval."""
    heads, *rows = _shown(table)
    return "\n".join("| " + " | ".join(line) + " |" for line in (heads, ["---"] * len(heads), *rows)) + "\n"


def _bars(rows: Sequence[Mapping[str, Any]], column: str, label: str, most: float, unit: str) -> dict[str, Any]:
    """The gaps of all learned codecs; `length` and `limit` are shares of the widest."""
    widest = max([2 * most, *(abs(float(r[column])) for r in rows)])
    beyond = column.replace("_gap_", "_gap_beyond_")
    lines = [
        {
            "what": _what(r),
            "length": abs(float(r[column])) / widest,
            # below 0 the held-out pictures are the better ones: a bar of its own colour
            "colour": "#D55E00" if r[column] > most else "#0072B2" if r[column] > 0 else "#BBBBBB",
            "text": f"{r[column]:+.2f} {unit}" + (f" (beyond WebP's {_cell(beyond, r)})" if _cell(beyond, r) else ""),
        }
        for r in rows
    ]
    return {"label": label, "limit": most / widest, "lines": lines}


def _gallery(rows: Sequence[Mapping[str, Any]], crops: Mapping[str, Sequence[Crop]]) -> dict[str, Any]:
    """A table of crops: a line a picture, a column a row of the table, the original first."""
    lines: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
    heads = ["original"]
    for row in rows:
        column = f"{row['codec']}, {_what(row)}"
        found = crops.get(str(row.get("unit")), ())
        if any(c.codec == row["codec"] for c in found):
            heads.append(column)
        for crop in found:
            head = "original" if crop.codec == "original" else column
            caption = crop.image if head == "original" else f"{crop.bpp:.4f} bpp"
            shown = {
                "about": f"{crop.image}, {head}",
                "caption": caption,
                "png": base64.b64encode(crop.png).decode(),
            }
            lines.setdefault((crop.part, crop.image), {}).setdefault(head, shown)
    parts = {"train": "seen in training", "held_out": "held out"}
    ordered = sorted(lines.items(), key=lambda item: item[0][0])
    return {
        "rate": f"{rows[0]['rate']:g}",
        "heads": heads,
        "lines": [(parts[part], [line.get(h) for h in heads]) for (part, _), line in ordered],
    }


def page(table: pd.DataFrame, title: str, crops: Mapping[str, Sequence[Crop]] | None = None) -> str:
    """One self-contained HTML file: the gaps as bars against what a codec that generalises may lose, the table, and crops
    of the table's rows by their `unit`."""
    shared = common_parts(table.loc[table["arm"] != "classical", "variant"])
    table = without_parts(table, shared)
    learned = records(table[table["arm"] != "classical"])
    galleries = [_gallery(records(group), crops or {}) for _, group in table.groupby("rate", sort=False)]
    return render_page(
        TEMPLATE,
        data=chart_data([], [], ""),
        title=title,
        limits=[f"{most:g} {unit}" for _, _, most, unit in GAPS],
        shared=", ".join(shared),
        bars=[_bars(learned, *gap) for gap in GAPS],
        galleries=[g for g in galleries if g["lines"]],
        table=_shown(table),
    )
