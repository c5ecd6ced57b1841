"""How `generalisation` is shown: a Markdown table, and one page with the gaps as bars and crops side by side."""

import base64
import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from assets.evaluation.generalisation import Crop
from assets.evaluation.rate_distortion import common_parts, without_parts

MOST_GAP_DB, MOST_GAP_PERCENT = 1.0, 15.0
"""A codec generalises when held-out pictures lose at most this against training pictures."""

COLUMNS = {
    "codec": "codec",
    "what": "at",
    "held_out_bpp": "bpp",
    "held_out_payload_bpp": "payload",
    "bound_bpp": "bound",
    "train_psnr_db": "PSNR train",
    "held_out_psnr_db": "PSNR held out",
    "psnr_gap_db": "gap, dB",
    "psnr_gap_beyond_db": "beyond WebP's, dB",
    "train_perceptual": "perceptual train",
    "held_out_perceptual": "perceptual held out",
    "perceptual_gap_percent": "gap, %",
    "perceptual_gap_beyond_percent": "beyond WebP's, %",
    "held_out_kid": "KID held out",
    "kid_difference": "the learned one's less this",
    "held_out_sw_psnr_db": "sw_psnr",
    "held_out_vsi": "VSI",
    "held_out_haarpsi": "HaarPSI",
    "held_out_lpips": "LPIPS",
    "doctor": "doctor",
}
DIGITS = {
    "bpp": 4,
    "kid": 4,
    "vsi": 4,
    "haarpsi": 3,
    "difference": 1,
    "perceptual": 3,
    "lpips": 3,
    "percent": 1,
    "db": 2,
}


def _cell(name: str, row: Mapping[str, Any]) -> str:
    value = row.get(name)
    if name == "what":
        if row["arm"] == "classical":
            budget = f"{row['factor']:g} × the bits of {row['of']}"
            over, small = (_count(row.get(k)) for k in ("over_budget", "shrunk_pictures"))
            pictures = _count(row.get("held_out_pictures"))
            found = f"smallest files: {over} of {pictures} above {budget}" if over else f"at most {budget}"
            return found + (f", {small} of {pictures} shrunk" if small else "")
        return ", ".join(p for p in (f"{row['rate']:g}", row["arm"], row["variant"]) if p)
    if isinstance(value, str):
        return value
    if value is None or not math.isfinite(value):
        return ""
    digits = next((d for end, d in DIGITS.items() if name.endswith(end)), 3)
    if name == "held_out_kid" and value >= 10:
        digits = 1
    low, high = (row.get(f"{name}_{end}", math.nan) for end in ("low", "high"))
    interval = f" [{low:.{digits}f}, {high:.{digits}f}]" if math.isfinite(low) else ""
    return f"{value:.{digits}f}{interval}"


def _beyond(column: str, row: Mapping[str, Any]) -> str:
    name = column.replace("_gap_", "_gap_beyond_")
    return f" (beyond WebP's {_cell(name, row)})" if _cell(name, row) else ""


def _count(value: Any) -> int:
    return 0 if value is None or not math.isfinite(value) else int(value)


def _shown(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    rows = [{str(k): v for k, v in r.items()} for r in table.to_dict("records")]
    names = [n for n in COLUMNS if any(_cell(n, r) for r in rows)]
    return [COLUMNS[n] for n in names], [[_cell(n, r) for n in names] for r in rows]


def markdown(table: pd.DataFrame) -> str:
    """The table for people: one line a row, KID with its interval."""
    heads, rows = _shown(table)
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


PARTS = {"train": "seen in training", "held_out": "held out"}


def _gallery(table: pd.DataFrame, crops: Mapping[str, Sequence[Crop]]) -> str:
    """For each rate a table of crops: a line a picture, a column a row of the table, the original first."""
    sections = []
    for rate, group in table.groupby("rate", sort=False):
        lines: dict[tuple[str, str], dict[str, str]] = {}
        heads = ["original"]
        for place, r in enumerate(group.to_dict("records")):
            row = {str(k): v for k, v in r.items()}
            found = crops.get(str(row.get("unit")), ())
            column = f"{row['codec']}, {_cell('what', row)}"
            if any(c.codec == row["codec"] for c in found):
                heads.append(column)
            for crop in found:
                line = lines.setdefault((crop.part, crop.image), {})
                name = "original" if crop.codec == "original" else f"{place}"
                if name in line:
                    continue
                text = "" if name == "original" else f"{crop.bpp:.4f} bpp"
                about = f"{crop.image}, {'original' if name == 'original' else column}"
                line[name] = (
                    f'<figure><img alt="{html.escape(about)}" '
                    f'src="data:image/png;base64,{base64.b64encode(crop.png).decode()}">'
                    f"<figcaption>{text or html.escape(crop.image)}</figcaption></figure>"
                )
        columns = sorted({n for line in lines.values() for n in line if n != "original"}, key=int)
        names = ["original", *columns]
        body = "".join(
            f"<tr><th>{PARTS[part]}</th>" + "".join(f"<td>{line.get(n, '')}</td>" for n in names) + "</tr>"
            for (part, _), line in sorted(lines.items(), key=lambda item: item[0][0])
        )
        if body:
            head = "".join(f"<th>{html.escape(h)}</th>" for h in heads)
            sections.append(
                f'<h2>Side by side at {rate:g}</h2><div class="crops"><table><tr><th></th>{head}</tr>{body}</table></div>'
            )
    return "".join(sections)


def page(table: pd.DataFrame, title: str, crops: Mapping[str, Sequence[Crop]] | None = None) -> str:
    """One self-contained HTML file: the gaps as bars against what a codec that generalises may lose, the table, and crops
    of the table's rows by their `unit`."""
    shared = common_parts(table.loc[table["arm"] != "classical", "variant"])
    table = without_parts(table, shared)
    said = f" Common to all trainings: {html.escape(', '.join(shared))}." if shared else ""
    heads, rows = _shown(table)
    learned = table[table["arm"] != "classical"]
    bars = []
    for column, label, most, unit in (
        ("psnr_gap_db", "PSNR lost on held-out pictures", MOST_GAP_DB, "dB"),
        ("perceptual_gap_percent", "Perceptual distance gained on held-out pictures", MOST_GAP_PERCENT, "%"),
    ):
        widest = max(2 * most, float(learned[column].abs().max()) if len(learned) else 0.0)
        lines = []
        for place, r in enumerate(learned.to_dict("records")):
            row = {str(k): v for k, v in r.items()}
            value, y = float(row[column]), 26 * place
            # below 0 the held-out pictures are the better ones: a bar of its own colour
            fill = "#D55E00" if value > most else "#0072B2" if value > 0 else "#BBBBBB"
            width = 360 * abs(value) / widest
            lines.append(
                f'<text x="0" y="{y + 15}">{html.escape(_cell("what", row))}</text>'
                f'<rect x="380" y="{y + 3}" width="{width:.1f}" height="16" fill="{fill}"/>'
                # beyond the dashed line, which would cross the text
                f'<text x="{386 + max(width, 360 * most / widest):.1f}" y="{y + 15}">'
                f"{value:+.2f} {unit}{_beyond(column, row)}</text>"
            )
        x, height = 380 + 360 * most / widest, 26 * len(lines)
        lines.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height}" stroke="#444" stroke-dasharray="4 3"/>'
        )
        bars.append(
            f'<h2>{label}</h2><svg viewBox="0 0 860 {height + 4}" role="img" aria-label="{label}">{"".join(lines)}</svg>'
        )
    body = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    head = "".join(f"<th>{html.escape(h)}</th>" for h in heads)
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{html.escape(title)}</title><style>body{{font:15px/1.5 system-ui,sans-serif;max-width:75rem;margin:2rem auto;
padding:0 1rem}}svg{{width:100%;max-width:54rem;font-size:12px}}table{{border-collapse:collapse;font-size:13px}}
td,th{{padding:.2rem .6rem;border-bottom:1px solid #ddd;text-align:left}}div{{overflow-x:auto}}
.crops td,.crops th{{vertical-align:bottom;padding:.2rem .3rem;max-width:224px}}figure{{margin:0}}figcaption{{color:#777;overflow-wrap:anywhere}}
.crops tr:first-child th{{overflow-wrap:anywhere}}.crops img{{display:block;width:224px}}
@media(prefers-color-scheme:dark){{body{{background:#16181c;color:#ddd}}svg text{{fill:#ddd}}}}</style>
<h1>{html.escape(title)}</h1>
<p>Dashed: what a codec that generalises may lose ({MOST_GAP_DB:g} dB, {MOST_GAP_PERCENT:g} %). KID: patches of 64×64,
last features of EfficientNet-Lite0; perceptual distance: its early features, which generative codecs are trained on, so that
it speaks for them. Brackets: 95 % bootstrap over runs of neighbouring pictures. One part can be harder to code than the
other: what training made of the gap is what goes beyond WebP's at the same bits.{said}</p>
{"".join(bars)}{_gallery(table, crops or {})}<h2>Everything</h2><div><table><tr>{head}</tr>{body}</table></div></html>
"""
