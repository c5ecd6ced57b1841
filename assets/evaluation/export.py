"""Curves for other people's programs and papers: CompressAI's result files, and LaTeX."""

import json
import re
from collections.abc import Iterator

import pandas as pd

from assets.evaluation.palette import CLASSICAL, Cast, cast_of, look
from assets.evaluation.published import name_of
from assets.evaluation.rate_distortion import CurveKey, curves_of, records, told_apart
from models.errors import FoveaError
from models.metrics import METRICS
from models.validation import unknown

COMPRESSAI = {"bpp": "bpp", "psnr_db": "psnr-rgb", "ms_ssim": "ms-ssim-rgb"}
"""Our columns, and what CompressAI's result files call them; other metrics keep our names."""
EXPORTED = rb'pgfplots,booktabs|"made_by": "fovea"'
"""What these files have near their beginning."""
_SPECIAL = re.compile(r"([#$%&_{}])")


def _naming_codecs(curves: pd.DataFrame) -> Cast:
    """The cast of curves whose labels name their codec, also where there is one: elsewhere nothing else says it."""
    cast = cast_of(curves)
    return cast._replace(codecs=[*cast.codecs, ""])


def _named(curves: pd.DataFrame) -> Iterator[tuple[str, CurveKey, pd.DataFrame]]:
    """Each curve with a name of its own, its points by rising bpp. curves: as `rd_curves` gives them."""
    curves = told_apart(curves)
    cast = _naming_codecs(curves)
    found = [(look(key._asdict(), cast).label, key, rows.sort_values("bpp")) for key, rows in curves_of(curves)]
    labels = [label for label, *_ in found]
    for label, key, rows in found:
        yield label if labels.count(label) == 1 else f"{label} ({key.place}, {key.train_dataset})", key, rows


def compressai_results(curves: pd.DataFrame) -> dict[str, str]:
    """Name of the file → its text: a curve each, as CompressAI's `results/` has them, and `fovea curves import` reads."""
    files = {}
    for label, key, rows in _named(curves):
        metrics = ["bpp", *(m for m in METRICS if m in rows and rows[m].notna().all())]
        results = {COMPRESSAI.get(m, m): [float(v) for v in rows[m]] for m in metrics}
        about = f"{key.place}, trained on {key.train_dataset}" if key.train_dataset else key.place
        facts = {"name": label, "made_by": "fovea", "description": about}
        name = name_of(label)
        if f"{name}.json" in files:  # labels that differ in odd characters alone, or not at all
            name = name_of(f"{label} {key}")
        files[f"{name}.json"] = json.dumps(facts | {"results": results}, indent=2) + "\n"
    return files


def latex(curves: pd.DataFrame, rates: pd.DataFrame, metric: str) -> str:
    """A plot of `metric` over bpp for pgfplots, of the points that have it, and a booktabs table of the BD-rates on it. rates:
    as `bd_rates` has them. Raises FoveaError where no point has the metric."""
    has = [m for m in METRICS if m in curves and curves[m].notna().any()]
    if metric not in has:
        raise FoveaError(unknown("metric", metric, has))
    curves = curves[curves[metric].notna()]
    label = METRICS[metric].label + (f" ({METRICS[metric].unit})" if METRICS[metric].unit else "")
    lines = [
        r"% \usepackage{pgfplots,booktabs}",
        r"\begin{tikzpicture}",
        rf"\begin{{axis}}[xlabel={{rate (bits per pixel)}}, ylabel={{{_tex(label)}}}, legend pos=south east]",
    ]
    for name, _, rows in _named(curves):
        points = " ".join(f"({bpp:.4f},{value:.4f})" for bpp, value in zip(rows["bpp"], rows[metric], strict=True))
        lines += [rf"\addplot coordinates {{{points}}};", rf"\addlegendentry{{{_tex(name)}}}"]
    lines += [r"\end{axis}", r"\end{tikzpicture}", ""]
    cast, rates = _naming_codecs(told_apart(curves)), told_apart(rates)
    shown = rates[(rates["metric"] == metric) & (rates["method"] == "pchip") & (rates["status"] != "refused")]
    compared = []
    for row in records(shown):
        test, anchor = look(row, cast, "test_arm").label, row["anchor_arm"]
        anchor = CLASSICAL[anchor][0] if anchor in CLASSICAL else anchor
        interval = f"$[{row['ci_low']:+.1f}, {row['ci_high']:+.1f}]$" if row["status"] == "ok" else "--"
        compared.append((_tex(test), _tex(anchor), f"${row['bd_rate_percent']:+.1f}$", interval))
    head = ["curve", "against", rf"BD-rate (\%), {_tex(METRICS[metric].label)}", r"95\,\% interval"]
    table = pd.DataFrame(compared, columns=head).to_latex(index=False, column_format="llrr")
    return "\n".join([*lines, table])


def _tex(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)
