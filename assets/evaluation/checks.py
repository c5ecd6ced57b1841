"""What must hold of measured points."""

from typing import Any

from assets.graph import Check, Made
from models.errors import FoveaError


def _in_range(made: Made) -> tuple[bool, dict[str, Any]]:
    import pandas as pd

    table = pd.read_parquet(made.folder / "points.parquet")
    fine = (table.bpp > 0) & table.psnr_db.between(0, 200) & table.ms_ssim.between(-1, 1)
    return bool(fine.all()) and len(table) > 0, {"rows": len(table), "wrong": int((~fine).sum())}


def _estimate(made: Made) -> tuple[bool, dict[str, Any]]:
    import pandas as pd

    from assets.evaluation.pieces import check_estimate

    table = pd.read_parquet(made.folder / "points.parquet")
    try:
        below = check_estimate(table, made.unit.partition)
    except FoveaError as error:
        return False, {"detail": str(error), "pictures": len(table)}
    return True, {"files_below_estimate": below, "pictures": len(table)}


MEASURED = (
    Check(
        "values_in_range",
        "bpp is positive, PSNR and MS-SSIM lie in their ranges.",
        _in_range,
        blocking=True,
    ),
)
TRAINED = (
    *MEASURED,
    Check(
        "estimate_holds",
        "Real bytes are within 2 % + 64 of the estimate (at most one file in fifty is below it).",
        _estimate,
        blocking=True,
    ),
)
