"""What must hold of maps and of packed frames."""

from typing import TYPE_CHECKING

import dagster as dg

from assets.chain import Made

if TYPE_CHECKING:
    import pandas as pd

MAPS = [
    dg.AssetCheckSpec(
        "a_map_for_each_frame", asset="saliency_maps", blocking=True, description="No frame is without a map."
    ),
    dg.AssetCheckSpec(
        "maps_are_not_flat",
        asset="saliency_maps",
        description="The most salient tenth of the pixels holds more than a tenth of the mass.",
    ),
    dg.AssetCheckSpec(
        "maps_are_out_of_fold",
        asset="saliency_maps",
        description="No frame has a map by weights that were trained on it: a model is much surer on pictures it knows.",
    ),
]
FIXATIONS = [
    dg.AssetCheckSpec(
        "fixations_lie_on_pictures",
        asset="fixation_maps",
        description="Fewer than a twentieth of the fixations lie outside of their picture: more mean other coordinates.",
    ),
]
BENCHMARK = [
    dg.AssetCheckSpec(
        "measured_pictures_are_unseen",
        asset="saliency_benchmark",
        description="No model was trained on a picture that it is measured on.",
    ),
    dg.AssetCheckSpec(
        "default_beats_the_centre_prior",
        asset="saliency_benchmark",
        description="SAM-Lite's NSS and shuffled AUC are above the centre prior's.",
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
        _out_of_fold(made, table),
    ]


def _out_of_fold(made: Made, table: "pd.DataFrame") -> dg.AssetCheckResult:
    seen = table[table.map_seen] if "map_seen" in table else table.iloc[:0]
    told = "no frame's map comes from weights that were trained on it"
    if len(seen):
        parts = ", ".join(f"{n} {split}" for split, n in seen.split.value_counts().items())
        told = (
            f"the model was trained on {parts} of these {len(table)} frames: codecs that train on them see surer maps than on "
            f'other pictures. Out-of-fold maps: saliency = "{made.unit.partition}.sam_lite+3folds" under '
            f"[datasets.{made.unit.partition}] in fovea.toml"
        )
    return dg.AssetCheckResult(
        check_name="maps_are_out_of_fold",
        passed=seen.empty,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"detail": told, **{s: int((seen.split == s).sum()) for s in ("train", "val", "test")}},
    )


def check_fixations(made: Made) -> list[dg.AssetCheckResult]:
    """Checks of fixation_maps."""
    dropped, kept = int(made.facts["dropped"]), int(made.facts["fixations"])
    return [
        dg.AssetCheckResult(
            check_name="fixations_lie_on_pictures",
            passed=dropped < 0.05 * (dropped + kept),
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"dropped": dropped, "kept": kept},
        )
    ]


def check_benchmark(made: Made) -> list[dg.AssetCheckResult]:
    """Checks of saliency_benchmark."""
    import pandas as pd

    table = pd.read_parquet(made.folder / "saliency_benchmark.parquet")
    seen = sorted(set(table.model[table.trained_on > 0]))
    rows = zip(table.model, table.metric, table["mean"], strict=True)
    means = {(str(model), str(metric)): float(mean) for model, metric, mean in rows}
    above = [means["sam_lite", m] > means["center_prior", m] for m in ("nss", "auc_shuffled")]
    return [
        dg.AssetCheckResult(
            check_name="measured_pictures_are_unseen",
            passed=not seen,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"trained_on_them": ", ".join(seen)},
        ),
        dg.AssetCheckResult(
            check_name="default_beats_the_centre_prior",
            passed=all(above),
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"nss": means["sam_lite", "nss"], "nss_centre_prior": means["center_prior", "nss"]},
        ),
    ]


def check_rgba(made: Made) -> list[dg.AssetCheckResult]:
    """Checks of rgba_frames: a sample is read back."""
    import pandas as pd

    from assets.saliency.rgba import unpack

    table = pd.read_parquet(made.folder / "rgba.parquet")
    wrong = []
    for row in table.iloc[:: max(1, len(table) // 8)].to_dict("records"):
        picture, saliency_map = unpack(made.store.get_object("rgba_frames", str(row["rgba_key"]), ".png"))
        if picture.shape[:2] != saliency_map.shape or not picture.any() or saliency_map.max() != 255:
            wrong.append(str(row["image"]))
    return [
        dg.AssetCheckResult(
            check_name="round_trip",
            passed=not wrong,
            metadata={"frames": len(table), "wrong": ", ".join(wrong)},
        )
    ]
