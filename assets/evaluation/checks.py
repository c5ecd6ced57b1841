"""What must hold of measured points."""

from assets.graph import Held, Made, check
from models.errors import FoveaError


@check(blocking=True)
def values_in_range(made: Made) -> Held:
    """bpp is positive, and each metric lies in its range."""
    from models.metrics import METRICS, PSNR_CAP_DB

    table = made.table("points.parquet")
    limits = {m: (0.0, PSNR_CAP_DB if METRICS[m].unit == "dB" else 1.0) for m in METRICS if m in table}
    wrong = ["no file was measured"] if table.empty else []
    for name, (low, high) in {"bpp": (1e-9, 1e9), **limits}.items():
        # what cannot be measured on a picture is NaN, but these can on every picture
        fine = table[name].between(low, high) | (table[name].isna() & (name not in ("bpp", "psnr_db", "ms_ssim")))
        for row in table[~fine].to_dict("records"):
            wrong.append(
                f"{row['image']}, {row['codec']} at {row['rate_name']} {row['rate']:g}: {name} is {row[name]!r}"
            )
    more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    return not wrong, {
        "rows": len(table),
        "wrong": len(wrong),
        **({"detail": "; ".join(wrong[:3]) + more} if wrong else {}),
    }


@check(blocking=True)
def file_sizes_match_the_estimate(made: Made) -> Held:
    """Real bytes are within 2 % + 64 of the estimate (at most one file in fifty is below it)."""
    from assets.evaluation.pieces import check_estimate

    table = made.table("points.parquet")
    try:
        below = check_estimate(table, made.unit.partition)
    except FoveaError as error:
        return False, {"detail": str(error), "pictures": len(table)}
    return True, {"files_below_estimate": below, "pictures": len(table)}


@check()
def measured_pictures_are_unseen(made: Made) -> Held:
    """The codec was trained on none of the pictures that it is measured on."""
    known, count = int(made.facts["trained_on"]), int(made.facts["pictures"])
    return not known, {"trained_on": known, "pictures": count}


MEASURED = (values_in_range,)
FROM_ELSEWHERE = (*MEASURED, file_sizes_match_the_estimate)
TRAINED = (*FROM_ELSEWHERE, measured_pictures_are_unseen)
