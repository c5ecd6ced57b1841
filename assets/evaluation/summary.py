"""The tables that the command line prints."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from tabulate import SEPARATING_LINE, tabulate

from assets.evaluation.bd_rate import BASELINE
from assets.evaluation.compare import outcome
from assets.evaluation.numerals import with_interval
from assets.evaluation.palette import cast_of, look
from assets.evaluation.rate_distortion import label_arm, place_of, records, shared_parts, told_apart, without_parts
from models.judges import KNOWN, judged_in

#: how the printed table writes the names of rates
SYMBOLS = {"lmbda": "λ", "quality": "q"}


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns side by side, the first two to the left, numbers to the right."""
    sides = ("left", "left", *("right",) * (len(head) - 2))
    return str(tabulate(rows, head, tablefmt="simple", colalign=sides, disable_numparse=True))


def _number(value: float, form: str = ".2f") -> str:
    return format(value, form) if math.isfinite(value) else "–"


def _rate(row: Mapping[str, Any]) -> list[str]:
    """BD-rate and its interval."""
    known = math.isfinite(row["ci_low"])
    interval = f"[{row['ci_low']:+.1f}, {row['ci_high']:+.1f}]" if known else "–"
    return ["refused" if row["status"] == "refused" else f"{row['bd_rate_percent']:+.1f}", interval]


def shortened(curves: pd.DataFrame, rates: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """Both tables with variants as labels have them: with what tells curves apart and without what all share, which a line
    says, "" where that is nothing."""
    curves, rates = told_apart(curves), told_apart(rates)
    shared = shared_parts(curves)
    said = f"(common to all arms: {', '.join(shared)})" if shared else ""
    return without_parts(curves, shared), without_parts(rates, shared), said


def curve_lines(curves: pd.DataFrame) -> str:
    """The rate–distortion points: one line a point of a curve, means over the measured pictures."""
    eyes = "ew_psnr_db" in curves and bool(curves["ew_psnr_db"].notna().any())
    judged = judged_in(curves.columns)
    rows = []
    for r in records(curves.sort_values(["codec", "arm", "maps", "variant", "bpp"])):
        rows.append(
            [
                r["codec"],
                f"{label_arm(r['arm'], r['maps'])} {r['variant']}".strip(),
                f"{SYMBOLS.get(r['rate_name'], r['rate_name'])} {r['rate']:.4g}",
                _number(r["bpp"], ".3f"),
                _number(r["psnr_db"]),
                _number(r["sw_psnr_db"]),
                *([_number(r["ew_psnr_db"])] if eyes else []),
                _number(r["ms_ssim"], ".4f"),
                *(_number(r[m], ".3f") for m in judged),
            ]
        )
    weighted = ["sw-PSNR dB", *(["ew-PSNR dB"] if eyes else [])]
    return _table(
        ["codec", "arm", "rate", "bpp", "PSNR dB", *weighted, "MS-SSIM", *(KNOWN[m].label for m in judged)], rows
    )


def bd_lines(rates: pd.DataFrame) -> str:
    """BD-rates by PCHIP with their intervals: for each tested arm a line for each curve that it is held against, a column
    for each metric. Reasons stand below, those that differ in numbers alone once."""
    lines: dict[tuple[str, str], dict[str, str]] = {}
    reasons: dict[str, list[str]] = {}
    found = records(rates[rates["method"] == "pchip"])
    if not found:
        return "nothing to compare: no arm has a curve beside another one's"
    places = {place_of(r) for r in found}
    for r in found:
        arm = " ".join(filter(None, (r["codec"], label_arm(r["test_arm"], r["maps"]), r["variant"])))
        test = f"{arm} on {place_of(r)}" if len(places) > 1 else arm
        said = "refused" if r["status"] == "refused" else with_interval(r)
        lines.setdefault((test, r["anchor_arm"]), {})[r["metric"]] = said
        if r["reason"]:
            where = f"{test} against {r['anchor_arm']} by {KNOWN[r['metric']].label}: {r['reason']}"
            reasons.setdefault(re.sub(r"\d+", "", r["reason"]), []).append(where)
    metrics = list(dict.fromkeys(r["metric"] for r in found))
    rows: list[Sequence[str]] = []
    last = ""
    for (test, anchor), cells in sorted(lines.items(), key=lambda line: (line[0][0], line[0][1] != BASELINE)):
        if test != last:
            rows += [SEPARATING_LINE] * bool(rows) + [[test]]
        last = test
        rows.append([f"  against {anchor}", *(cells.get(m, "–") for m in metrics)])
    head = ["bits at equal …", *(KNOWN[m].label for m in metrics)]
    table = tabulate(rows, head, tablefmt="simple", disable_numparse=True, preserve_whitespace=True)
    notes = [first + (f" (and {len(more)} alike)" if more else "") for first, *more in reasons.values()]
    return "\n".join([str(table), *notes])


def compare_lines(rates: pd.DataFrame) -> str:
    """BD-rates of the second side's curves against the first's, by PCHIP; as `assets.evaluation.compare` gives them."""
    cast = cast_of(rates)
    rows = []
    for r in records(rates[rates["method"] == "pchip"]):
        said = outcome(r) if r["status"] != "refused" else ""
        curve = [f"{r['dataset']} {r['split']}", look(r, cast).label]
        rows.append([*curve, r["metric"], *_rate(r), str(r["n_images"]), said, r["reason"]])
    return _table(["on", "curve", "metric", "BD-rate %", "95 % interval", "pictures", "second is", ""], rows)
