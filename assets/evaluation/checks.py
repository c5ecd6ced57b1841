"""What must hold of measured points."""

from typing import Any

import dagster as dg

from assets.chain import Made
from models.errors import FoveaError


def specs(asset: str) -> list[dg.AssetCheckSpec]:
    """Checks of a table of points."""
    return [
        dg.AssetCheckSpec(
            "values_in_range",
            asset=asset,
            blocking=True,
            description="bpp is positive, PSNR and MS-SSIM lie in their ranges.",
        ),
        *(
            [
                dg.AssetCheckSpec(
                    "estimate_holds",
                    asset=asset,
                    blocking=True,
                    description="Real bytes are within 2 % + 64 of the estimate (at most one file in fifty is below it).",
                )
            ]
            if asset == "rd_points"
            else []
        ),
    ]


def check_points(made: Made) -> list[dg.AssetCheckResult]:
    """Checks of rd_points and classical_rd_points."""
    import pandas as pd

    table = pd.read_parquet(made.folder / "points.parquet")
    fine = (table.bpp > 0) & table.psnr_db.between(0, 200) & table.ms_ssim.between(-1, 1)
    results = [
        dg.AssetCheckResult(
            check_name="values_in_range",
            passed=bool(fine.all()) and len(table) > 0,
            metadata={"rows": len(table), "wrong": int((~fine).sum())},
        )
    ]
    if made.unit.stage == "rd_points":
        from assets.evaluation.pieces import check_estimate

        try:
            told: dict[str, Any] = {"files_below_estimate": check_estimate(table, made.unit.partition)}
            passed = True
        except FoveaError as error:
            told, passed = {"detail": str(error)}, False
        results.append(
            dg.AssetCheckResult(
                check_name="estimate_holds", passed=passed, metadata={**told, "pictures": len(table)}
            )
        )
    return results
