"""What must hold of maps, of models of them, and of packed frames."""

from typing import Any

from assets.graph import Check, Made


def _complete(made: Made) -> tuple[bool, dict[str, Any]]:
    import pandas as pd

    table = pd.read_parquet(made.folder / "maps.parquet")
    return bool(table.map_key.notna().all()) and len(table) > 0, {"frames": len(table)}


def _not_flat(made: Made) -> tuple[bool, dict[str, Any]]:
    import pandas as pd

    share = float(pd.read_parquet(made.folder / "maps.parquet").top10_share.mean())
    return share > 0.12, {"top10_share": share}


def _out_of_fold(made: Made) -> tuple[bool, dict[str, Any]]:
    import pandas as pd

    table = pd.read_parquet(made.folder / "maps.parquet")
    seen, name = table[table.map_seen], made.unit.partition
    told = "no frame's map comes from weights that were trained on it"
    if len(seen):
        parts = ", ".join(f"{n} {split}" for split, n in seen.split.value_counts().items())
        told = (
            f"the model was trained on {parts} of these {len(table)} frames: codecs that train on them see surer maps than on "
            f'other pictures. Out-of-fold maps: saliency = "{name}.sam_lite+3folds" under [datasets.{name}] in fovea.toml'
        )
    counts = {s: int((seen.split == s).sum()) for s in ("train", "val", "test")}
    return seen.empty, {"detail": told, **counts}


def _on_pictures(made: Made) -> tuple[bool, dict[str, Any]]:
    dropped, kept = int(made.facts["dropped"]), int(made.facts["fixations"])
    return dropped < 0.05 * (dropped + kept), {"dropped": dropped, "kept": kept}


def _unseen(made: Made) -> tuple[bool, dict[str, Any]]:
    import pandas as pd

    table = pd.read_parquet(made.folder / "saliency_benchmark.parquet")
    seen = sorted(set(table.model[table.trained_on > 0]))
    return not seen, {"trained_on_them": ", ".join(seen)}


def _beats_centre(made: Made) -> tuple[bool, dict[str, Any]]:
    import pandas as pd

    table = pd.read_parquet(made.folder / "saliency_benchmark.parquet")
    means = table.set_index(["model", "metric"])["mean"]
    above = [float(means["sam_lite", m]) > float(means["center_prior", m]) for m in ("nss", "auc_shuffled")]
    said = {"nss": float(means["sam_lite", "nss"]), "nss_centre_prior": float(means["center_prior", "nss"])}
    return all(above), said


def _round_trip(made: Made) -> tuple[bool, dict[str, Any]]:
    import numpy as np
    import pandas as pd

    from assets.saliency.rgba import unpack

    table = pd.read_parquet(made.folder / "rgba.parquet")
    wrong = []
    for row in table.iloc[:: max(1, len(table) // 8)].to_dict("records"):
        found = unpack(made.store.get_object("rgba_frames", str(row["rgba_key"]), ".png"))
        packed = (("resized_frames", row["key"]), ("saliency_maps", row["map_key"]))
        if not all(np.array_equal(a, made.store.array(*b)) for a, b in zip(found, packed, strict=True)):
            wrong.append(str(row["image"]))
    said = {"detail": f"not what was packed: {', '.join(wrong)}"} if wrong else {}
    return not wrong, {"frames": len(table), "wrong": len(wrong), **said}


MAPS = (
    Check("a_map_for_each_frame", "No frame is without a map.", _complete, blocking=True),
    Check(
        "maps_are_not_flat",
        "The most salient tenth of the pixels holds more than a tenth of the mass.",
        _not_flat,
    ),
    Check(
        "maps_are_out_of_fold",
        "No frame has a map by weights that were trained on it: a model is much surer on pictures it knows.",
        _out_of_fold,
    ),
)
FIXATIONS = (
    Check(
        "fixations_lie_on_pictures",
        "Fewer than a twentieth of the fixations lie outside of their picture: more mean other coordinates.",
        _on_pictures,
    ),
)
BENCHMARK = (
    Check(
        "measured_pictures_are_unseen",
        "No model was trained on a picture that it is measured on.",
        _unseen,
    ),
    Check(
        "default_beats_the_centre_prior",
        "SAM-Lite's NSS and shuffled AUC are above the centre prior's.",
        _beats_centre,
    ),
)
RGBA = (
    Check(
        "round_trip",
        "Unpacking a sample of PNGs gives the frames, also where alpha is 0, and the maps.",
        _round_trip,
        blocking=True,
    ),
)
