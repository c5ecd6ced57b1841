"""The two tables that the command line prints."""

import math

import pandas as pd

#: how the printed table writes the names of rates
SYMBOLS = {"lmbda": "λ", "quality": "q"}


def _line(cells: list[str], widths: list[int]) -> str:
    return "  ".join(
        c.rjust(w) if i > 1 else c.ljust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))
    ).rstrip()


def _table(head: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(r[i]) for r in [head, *rows]) for i in range(len(head))]
    return "\n".join(
        [_line(head, widths), _line(["-" * w for w in widths], widths), *(_line(r, widths) for r in rows)]
    )


def _number(value: float, form: str = ".2f") -> str:
    return format(value, form) if math.isfinite(value) else "–"


def curve_lines(curves: pd.DataFrame) -> str:
    """The rate–distortion points: one line a point of a curve, means over the measured pictures."""
    eyes = "ew_psnr_db" in curves and bool(curves["ew_psnr_db"].notna().any())
    head = [
        "codec",
        "arm",
        "rate",
        "bpp",
        "PSNR dB",
        "sw-PSNR dB",
        *(["ew-PSNR dB"] if eyes else []),
        "MS-SSIM",
    ]
    rows = []
    for r in curves.sort_values(["codec", "arm", "maps", "bpp"]).to_dict("records"):
        arm = str(r["arm"]) if r["maps"] in ("none", "predicted", "") else f"{r['arm']}@{r['maps']}"
        if r["arm"] in ("published", "external"):
            arm = f"{arm} {r['variant']}"
        rate = f"{SYMBOLS.get(r['rate_name'], r['rate_name'])} {r['rate']:g}"
        rows.append(
            [
                str(r["codec"]),
                arm,
                rate,
                _number(r["bpp"], ".3f"),
                _number(r["psnr_db"]),
                _number(r["sw_psnr_db"]),
            ]
            + ([_number(float(r["ew_psnr_db"]))] if eyes else [])
            + [_number(r["ms_ssim"], ".4f")]
        )
    return _table(head, rows)


def bd_lines(rates: pd.DataFrame) -> str:
    """BD-rates by PCHIP with their intervals; below 0 the tested arm needs fewer bits."""
    head = ["codec", "test against anchor", "metric", "BD-rate %", "95 % interval", ""]
    rows = []
    for r in rates[rates.method == "pchip"].to_dict("records"):
        test = (
            str(r["test_arm"]) if r["maps"] in ("none", "predicted", "") else f"{r['test_arm']}@{r['maps']}"
        )
        fine = r["status"] != "refused"
        interval = f"[{r['ci_low']:+.1f}, {r['ci_high']:+.1f}]" if math.isfinite(float(r["ci_low"])) else "–"
        rows.append(
            [
                str(r["codec"]),
                f"{test} vs {r['anchor_arm']}",
                str(r["metric"]),
                f"{r['bd_rate_percent']:+.1f}" if fine else "refused",
                interval,
                str(r["reason"] or ""),
            ]
        )
    return _table(head, rows)


def compare_lines(rates: pd.DataFrame) -> str:
    """BD-rates of the second side's curves against the first's, by PCHIP; as `assets.evaluation.compare` gives them."""
    from assets.evaluation.compare import curve_name, outcome
    from assets.evaluation.rate_distortion import records

    rows = []
    codecs = sorted(set(rates["codec"]))
    for r in records(rates[rates["method"] == "pchip"]):
        known = math.isfinite(r["bd_rate_percent"])
        rows.append(
            [
                f"{r['dataset']} {r['split']}",
                curve_name(r, codecs),
                str(r["metric"]),
                f"{r['bd_rate_percent']:+.1f}" if known else "refused",
                f"[{r['ci_low']:+.1f}, {r['ci_high']:+.1f}]" if math.isfinite(r["ci_low"]) else "–",
                str(r["n_images"]),
                outcome(r) if known else "",
                str(r["reason"] or ""),
            ]
        )
    return _table(["on", "curve", "metric", "BD-rate %", "95 % interval", "pictures", "second is", ""], rows)
