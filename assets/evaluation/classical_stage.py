"""`classical_rd_points`: classical codecs on the measured split."""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from assets.evaluation.checks import MEASURED as CHECKS
from assets.evaluation.pieces import (
    LOOKS_ON,
    MEASURED,
    POINTS,
    finish_points,
    gallery_images,
    kept_name,
    measured_needs,
    measured_table,
    subjects_of,
)
from assets.graph import Need, Stage, Task, View
from assets.store import digest
from assets.story import told
from assets.world import World

if TYPE_CHECKING:
    import pandas as pd

    from assets.evaluation.measure import Subject


class ClassicalRdPoints(Stage):
    """JPEG, WebP, AVIF, JPEG XL and a thumbnail on the dataset's measured split, each picture at each quality, once a
    picture."""

    name = "classical_rd_points"
    reads = ("rgba_frames",)
    group, kinds, checks = "evaluation", frozenset({"jpeg", "python"}), CHECKS
    share, shelves = True, ("classical_pictures",)

    def partitions(self, world: World) -> list[str]:
        return list(world.registry)

    def needs(self, world: World, partition: str) -> Sequence[Need]:
        return measured_needs(world, partition)

    def inputs(self, view: View) -> Mapping[str, Any]:
        codecs = list(view.dataset(view.partition).classical)
        eyes = view.world.fixations_digest(view.partition)
        return {"dataset": view.partition, "codecs": codecs, "fixations": eyes}

    def apart(self, world: World, partition: str) -> Sequence[str]:
        return LOOKS_ON

    def make(self, task: Task) -> None:
        unit, writer = task.unit, task.writer
        codecs = task.dataset(unit.partition).classical
        subjects = subjects_of(task, unit.partition, "none")
        table = measured_table(task, unit.partition)
        split = str(table.split.iloc[0])
        with told(task, dataset=unit.partition, name=f"classical@{unit.partition}") as run:
            pieces, fresh = _measured(task, codecs, subjects, table)
            points = finish_points(
                pieces,
                dataset=unit.partition,
                split=split,
                train_dataset="",
                arm="classical",
                maps="none",
                preset="",
                experiment="",
                run_id=run.run_id,
            )
            points.to_parquet(writer.path(POINTS), index=False)
            means = points.groupby(["codec", "rate"])[["bpp", "psnr_db", "ms_ssim", "sw_psnr_db"]].mean()
            run.log_params(
                {
                    "codecs": ", ".join(codecs),
                    "dataset": unit.partition,
                    "split": split,
                    "pictures": len(subjects),
                }
            )
            run.log_inputs({unit.partition: str(unit.inputs[MEASURED])}, "test")
            for codec in codecs:
                ordered = means.loc[codec]
                run.log_metrics(
                    [
                        (i, {f"{codec}/{k}": float(v) for k, v in r.items() if math.isfinite(v)})
                        for i, (_, r) in enumerate(ordered.iterrows())
                    ]
                )
            run.log_artifact(writer.path(POINTS))
        writer.meta["facts"] = {
            "pictures": len(subjects),
            "split": split,
            "rows": len(points),
            "measured": fresh,
            "reused": len(subjects) * len(codecs) - fresh,
        }


def _measured(
    task: Task, codecs: Sequence[str], subjects: Sequence["Subject"], table: "pd.DataFrame"
) -> tuple[list[dict[str, Any]], int]:
    """A row for each picture, codec and quality, and how many pictures were not in the store. table: the subjects' rows.

    Reconstructions of the gallery's pictures go into the unit.
    """
    from assets.evaluation.measure_classical import measure_classical
    from assets.frames.encode import encode_png

    inputs, shelf, shown = task.unit.inputs, task.shelf("classical_pictures"), gallery_images(table.image)
    found: list[dict[str, Any]] = []
    done = fresh = 0
    for codec in codecs:
        for subject, row in zip(subjects, table.to_dict("records"), strict=True):
            keep = subject.image in shown
            piece = digest(
                {
                    "frame": row["key"],
                    "map": row["map_key"],
                    "image": row["image"],
                    "eyes": inputs["fixations"] if subject.fixation_map is not None else "",
                    "codec": codec,
                    "keep": keep,
                    "code": inputs["code"],
                }
            )
            if not shelf.has(piece):
                fresh += 1
                kept = frozenset([subject.image] if keep else [])
                seen = measure_classical(codec, [subject], keep=kept, threads=task.threads)
                with shelf.writing(piece) as part:
                    part.path("rows.json").write_text(json.dumps(seen.rows))
                    for (_, point), picture in seen.kept.items():
                        part.path(f"kept/{point!r}.png").write_bytes(encode_png(picture))
            rows = json.loads(shelf.path(piece, "rows.json").read_text())
            for r in rows if keep else ():
                source = shelf.path(piece, f"kept/{r['rate']!r}.png")
                shutil.copyfile(source, task.writer.path(kept_name(subject.image, codec, r["rate"])))
            found += [{"codec": codec, **r} for r in rows]
            done += 1
            task.progress(done, len(subjects) * len(codecs), "pictures measured")
    return found, fresh
