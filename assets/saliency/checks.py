"""What must hold of maps, of models of them, and of packed frames."""

from assets.graph import Held, Made, check


@check(blocking=True)
def a_map_for_each_frame(made: Made) -> Held:
    """No frame is without a map."""
    table = made.table("maps.parquet")
    return bool(table.map_key.notna().all()) and len(table) > 0, {"frames": len(table)}


@check()
def maps_are_not_flat(made: Made) -> Held:
    """The most salient tenth of the pixels holds more than a tenth of the mass."""
    share = float(made.table("maps.parquet").top10_share.mean())
    return share > 0.12, {"top10_share": share}


@check()
def maps_are_out_of_fold(made: Made) -> Held:
    """No frame has a map by weights that were trained on it: a model is much surer on pictures it knows."""
    table, name = made.table("maps.parquet"), made.unit.partition
    seen = table[table.map_seen]
    told = "no frame's map comes from weights that were trained on it"
    if len(seen):
        parts = ", ".join(f"{n} {split}" for split, n in seen.split.value_counts().items())
        told = (
            f"the model was trained on {parts} of these {len(table)} frames: codecs that train on them see surer maps than on "
            f'other pictures. Out-of-fold maps: saliency = "{name}.sam_lite+3folds" under [datasets.{name}] in fovea.toml'
        )
    counts = {s: int((seen.split == s).sum()) for s in ("train", "val", "test")}
    return seen.empty, {"detail": told, **counts}


@check()
def fixations_lie_on_pictures(made: Made) -> Held:
    """Fewer than a twentieth of the fixations lie outside of their picture: more mean other coordinates."""
    dropped, kept = int(made.facts["dropped"]), int(made.facts["fixations"])
    return dropped < 0.05 * (dropped + kept), {"dropped": dropped, "kept": kept}


@check()
def measured_pictures_are_unseen(made: Made) -> Held:
    """No model was trained on a picture that it is measured on."""
    table = made.table("saliency_benchmark.parquet")
    seen = sorted(set(table.model[table.trained_on > 0]))
    return not seen, {"trained_on_them": ", ".join(seen)}


@check()
def default_beats_the_centre_prior(made: Made) -> Held:
    """SAM-Lite's NSS and shuffled AUC are above the centre prior's."""
    means = made.table("saliency_benchmark.parquet").set_index(["model", "metric"])["mean"]
    above = [float(means["sam_lite", m]) > float(means["center_prior", m]) for m in ("nss", "auc_shuffled")]
    said = {"nss": float(means["sam_lite", "nss"]), "nss_centre_prior": float(means["center_prior", "nss"])}
    return all(above), said


@check(blocking=True)
def round_trip(made: Made) -> Held:
    """Unpacking a sample of PNGs gives the frames, also where alpha is 0, and the maps."""
    import numpy as np

    from assets.saliency.rgba import unpack

    table, wrong = made.table("rgba.parquet"), []
    for row in table.iloc[:: max(1, len(table) // 8)].to_dict("records"):
        found = unpack(made.store.shelf("rgba_frames").get_object(str(row["rgba_key"]), ".png"))
        packed = (("resized_frames", row["key"]), ("saliency_maps", row["map_key"]))
        if not all(
            np.array_equal(a, made.store.shelf(shelf).array(key)) for a, (shelf, key) in zip(found, packed, strict=True)
        ):
            wrong.append(str(row["image"]))
    said = {"detail": f"not what was packed: {', '.join(wrong)}"} if wrong else {}
    return not wrong, {"frames": len(table), "wrong": len(wrong), **said}


MAPS = (a_map_for_each_frame, maps_are_not_flat, maps_are_out_of_fold)
FIXATIONS = (fixations_lie_on_pictures,)
BENCHMARK = (measured_pictures_are_unseen, default_beats_the_centre_prior)
RGBA = (round_trip,)
