"""What must hold of maps and of packed frames."""

from pathlib import Path

import dagster as dg

from assets.chain import Made

MAPS = [
    dg.AssetCheckSpec(
        "a_map_for_each_frame", asset="saliency_maps", blocking=True, description="No frame is without a map."
    ),
    dg.AssetCheckSpec(
        "maps_are_not_flat",
        asset="saliency_maps",
        description="The most salient tenth of the pixels holds more than a tenth of the mass.",
    ),
]
RGBA = [
    dg.AssetCheckSpec(
        "round_trip",
        asset="rgba_frames",
        blocking=True,
        description="Unpacking a sample of PNGs gives colour pixels also where alpha is 0.",
    ),
]


def check_maps(made: Made) -> list[dg.AssetCheckResult]:
    """Checks of saliency_maps."""
    import pandas as pd

    table = pd.read_parquet(made.folder / "maps.parquet")
    share = float(table.top10_share.mean())
    return [
        dg.AssetCheckResult(
            check_name="a_map_for_each_frame",
            passed=bool(table.map_key.notna().all()) and len(table) > 0,
            metadata={"frames": len(table)},
        ),
        dg.AssetCheckResult(
            check_name="maps_are_not_flat",
            passed=share > 0.12,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"top10_share": share},
        ),
    ]


def check_rgba(made: Made) -> list[dg.AssetCheckResult]:
    """Checks of rgba_frames: a sample is read back."""
    import pandas as pd

    from assets.saliency.rgba import unpack

    table = pd.read_parquet(made.folder / "rgba.parquet")
    wrong = []
    for row in table.iloc[:: max(1, len(table) // 8)].to_dict("records"):
        picture, saliency_map = unpack(Path(str(row["path"])).read_bytes())
        if picture.shape[:2] != saliency_map.shape or not picture.any() or saliency_map.max() != 255:
            wrong.append(str(row["image"]))
    return [
        dg.AssetCheckResult(
            check_name="round_trip",
            passed=not wrong,
            metadata={"frames": len(table), "wrong": ", ".join(wrong)},
        )
    ]
