"""The tables that the command line prints."""

import math
import re
from collections.abc import Sequence

import pandas as pd
from tabulate import SEPARATING_LINE, tabulate

from assets.evaluation.bd_rate import BASELINE
from assets.evaluation.compare import outcome
from assets.evaluation.numerals import number, with_interval
from assets.evaluation.palette import cast_of, look
from assets.evaluation.rate_distortion import label_arm, place_of, records, shared_parts, told_apart, without_parts
from models.judges import KNOWN, judged_in

#: how the printed table writes the names of rates
SYMBOLS = {"lmbda": "λ", "quality": "q"}


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns side by side, the first two to the left, numbers to the right."""
    sides = ("left", "left", *("right",) * (len(head) - 2))
    return str(tabulate(rows, head, tablefmt="simple", colalign=sides, disable_numparse=True))


def shortened(curves: pd.DataFrame, rates: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """Both tables with variants as labels have them: with what tells curves apart and without what all share, which a line
    says, "" where that is nothing."""
    curves, rates = told_apart(curves), told_apart(rates)
    shared = shared_parts(curves)
    said = f"(common to all arms: {', '.join(shared)})" if shared else ""
    return without_parts(curves, shared), without_parts(rates, shared), said


def curve_lines(curves: pd.DataFrame) -> str:
    """The rate–distortion points: one line a point of a curve, means over the measured pictures."""
    columns = {"bpp": ("bpp", 3), "PSNR dB": ("psnr_db", 2), "sw-PSNR dB": ("sw_psnr_db", 2)}
    if "ew_psnr_db" in curves and curves["ew_psnr_db"].notna().any():
        columns["ew-PSNR dB"] = ("ew_psnr_db", 2)
    columns["MS-SSIM"] = ("ms_ssim", 4)
    columns |= {KNOWN[m].label: (m, 3) for m in judged_in(curves.columns)}
    rows = []
    for r in records(curves.sort_values(["codec", "arm", "maps", "variant", "bpp"])):
        arm = f"{label_arm(r['arm'], r['maps'])} {r['variant']}".strip()
        rate = f"{SYMBOLS.get(r['rate_name'], r['rate_name'])} {r['rate']:.4g}"
        rows.append([r["codec"], arm, rate, *(number(r[m], places) for m, places in columns.values())])
    return _table(["codec", "arm", "rate", *columns], rows)


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
        refused = r["status"] == "refused"
        rate = "refused" if refused else f"{r['bd_rate_percent']:+.1f}"
        interval = f"[{r['ci_low']:+.1f}, {r['ci_high']:+.1f}]" if math.isfinite(r["ci_low"]) else "–"
        curve = [f"{r['dataset']} {r['split']}", look(r, cast).label, r["metric"]]
        rows.append([*curve, rate, interval, str(r["n_images"]), "" if refused else outcome(r), r["reason"]])
    return _table(["on", "curve", "metric", "BD-rate %", "95 % interval", "pictures", "second is", ""], rows)
