"""`fixation_maps`: where people looked, moved to the frames."""

from collections.abc import Mapping, Sequence
from typing import Any

from assets.graph import Need, Part, Stage, Task, View
from assets.saliency.checks import FIXATIONS as CHECKS
from assets.saliency.names import FIXATIONS, PICTURES, with_fixations
from assets.store import digest
from assets.world import World
from models.errors import FoveaError

SHOWN_OVERLAYS = 6


class FixationMaps(Stage):
    """Where people looked, moved to the frames: of datasets with recorded eye movements (`--fixations TABLE`). Densities
    are drawn from them where they are needed."""

    name = "fixation_maps"
    reads = ("resized_frames",)
    group, kinds, checks = "saliency", frozenset({"pandas", "parquet"}), CHECKS
    points_into = ("resized_frames",)
    onlookers = ("assets.saliency.stages", "assets.saliency.checks", "assets.frames.contact")

    def partitions(self, world: World) -> list[str]:
        return with_fixations(world)

    def needs(self, world: World, partition: str) -> Sequence[Need]:
        return [Need("resized_frames", partition, "frames")]

    def inputs(self, view: View) -> Mapping[str, Any]:
        from assets.saliency.fixations import fixation_table

        fixation_table(view.dataset(view.partition))
        return {"fixations": view.world.fixations_digest(view.partition)}

    def part(self, view: View, name: str) -> Part:
        """`train`, `val`, `test`: pictures and fixations of a split; `measured`: the one that codecs are measured on."""
        made = view.mine()
        parts = made.manifest["meta"]["parts"]
        if name == "measured":
            frames = view.given["resized_frames"].part("frames")
            name = view.dataset(view.partition).evaluation_split(frames)
            if not made.facts[f"pictures_{name}"]:
                raise FoveaError(
                    f"dataset {view.partition!r}: no fixations on its {name} pictures, so nothing to measure on"
                )
        return Part(name, str(parts[name]))

    def make(self, task: Task) -> None:
        import numpy as np

        from assets.frames.contact import contact_sheet, overlay
        from assets.saliency.fixations import fixation_map, frame_fixations
        from assets.saliency.stages import top_share

        frames = task.given["resized_frames"]
        table = frames.part("frames")
        moved = frame_fixations(task.dataset(task.partition), table)
        eyes = moved.table[["image", "subject", "x", "y"]]
        eyes.to_parquet(task.writer.path(FIXATIONS), index=False)
        groups = {str(image): rows for image, rows in eyes.groupby("image")}
        looked = table[table.image.isin(groups)].sort_values("image").reset_index(drop=True)
        looked = looked[["image", "split", "key", "sha256"]].assign(
            fixations=[len(groups[i]) for i in looked.image],
            people=[groups[i]["subject"].nunique() for i in looked.image],
        )
        maps = []
        sums: dict[tuple[int, ...], np.ndarray[Any, Any]] = {}
        shares = []
        chosen = set(looked.image.iloc[:: max(1, len(looked) // SHOWN_OVERLAYS)][:SHOWN_OVERLAYS])
        for done, row in enumerate(looked.to_dict("records"), 1):
            height, width = frames.array("resized_frames", row["key"]).shape[:2]
            points = groups[row["image"]][["x", "y"]].to_numpy(np.float64) - 0.5
            density = fixation_map(points, (width, height))
            shares.append(top_share(density))
            if row["image"] in chosen:
                maps.append(overlay(frames.array("resized_frames", row["key"]), density))
            sums[density.shape] = sums.get(density.shape, np.zeros(density.shape)) + density
            task.progress(done, len(looked), "fixation maps drawn")
        looked["top10_share"] = shares
        looked.to_parquet(task.writer.path(PICTURES), index=False)
        # what depends on one part of the pictures stays fresh when only another part changes
        task.writer.meta["parts"] = {
            part: digest([
                looked[looked.split == part][["image", "key"]].to_numpy().tolist(),
                eyes[eyes.image.isin(set(looked.image[looked.split == part]))].to_numpy().tolist(),
            ])
            for part in ("train", "val", "test")
        }  # fmt: skip
        task.writer.meta["facts"] = {
            "pictures": len(looked),
            **{f"pictures_{s}": int((looked.split == s).sum()) for s in ("train", "val", "test")},
            "pictures_without": len(table) - len(looked),
            "people": int(eyes.subject.nunique()),
            "fixations": len(eyes),
            "dropped": moved.dropped,
            "top10_share": round(float(looked.top10_share.mean()), 4),
        }
        task.writer.path("shown/people.png").write_bytes(contact_sheet(maps))
        mean = max(sums.values(), key=lambda m: float(m.sum()))
        task.writer.path("shown/mean_map.png").write_bytes(
            contact_sheet([(mean / mean.max() * 255).astype(np.uint8)], 1)
        )
