"""`classical_rd_points`: classical codecs on the measured split."""

import itertools
import json
import shutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from assets.evaluation import pieces
from assets.evaluation.checks import MEASURED as CHECKS
from assets.graph import Need, Stage, Task, View
from assets.store import digest
from assets.story import told
from assets.world import World

if TYPE_CHECKING:
    import pandas as pd

    from assets.evaluation.measure import Subject


class ClassicalRdPoints(Stage):
    """JPEG, WebP, AVIF, JPEG XL, a guided JPEG and a thumbnail on the dataset's measured split, each picture at each
    quality, once a picture."""

    name, over = "classical_rd_points", "registry"
    reads = ("rgba_frames",)
    group, kinds, checks = "evaluation", frozenset({"jpeg", "python"}), CHECKS
    share, shelves = True, ("classical_pictures",)
    onlookers = pieces.LOOKS_ON

    def needs(self, world: World, partition: str) -> Sequence[Need]:
        return pieces.measured_needs(partition)

    def inputs(self, view: View) -> Mapping[str, Any]:
        codecs = list(view.dataset(view.partition).classical)
        eyes = view.world.fixations_digest(view.partition)
        return {"dataset": view.partition, "codecs": codecs, "fixations": eyes}

    def make(self, task: Task) -> None:
        unit, codecs = task.unit, task.dataset(task.partition).classical
        subjects = pieces.subjects_of(task, unit.partition, "none")
        table = pieces.measured_table(task, unit.partition)
        about = {"dataset": unit.partition, "split": str(table.split.iloc[0])}
        with told(task, dataset=unit.partition, name=f"classical@{unit.partition}") as run:
            rows, fresh = _measured(task, codecs, subjects, table)
            points = pieces.finish_points(rows, **about, arm="classical", trained_on=False, mlflow_run_id=run.run_id)
            points.to_parquet(task.writer.path(pieces.POINTS), index=False)
            run.log_params({**about, "codecs": ", ".join(codecs), "pictures": len(subjects)})
            run.log_inputs({unit.partition: str(unit.inputs[pieces.MEASURED])}, "test")
            for codec in codecs:
                by_rate = points[points.codec == codec].groupby("rate")
                means = [pieces.finite_means(own[pieces.MEANS]) for _, own in by_rate]
                run.log_metrics([(i, {f"{codec}/{k}": v for k, v in m.items()}) for i, m in enumerate(means)])
            run.log_artifact(task.writer.path(pieces.POINTS))
        reused = len(subjects) * len(codecs) - fresh
        found = {"rows": len(points), "measured": fresh, "reused": reused}
        task.writer.meta["facts"] = {"pictures": len(subjects), "split": about["split"], **found}


def _measured(
    task: Task, codecs: Sequence[str], subjects: Sequence["Subject"], table: "pd.DataFrame"
) -> tuple[list[dict[str, Any]], int]:
    """A row for each picture, codec and quality, and how many pictures were not in the store. table: the subjects' rows.
    Reconstructions of the gallery's pictures go into the unit."""
    from assets.evaluation.measure_classical import measure_classical
    from assets.frames.encode import encode_png

    inputs, shelf, shown = (task.unit.inputs, task.shelf("classical_pictures"), pieces.gallery_images(table.image))
    found: list[dict[str, Any]] = []
    fresh = 0
    work = list(itertools.product(codecs, zip(subjects, table.to_dict("records"), strict=True)))
    for done, (codec, (subject, row)) in enumerate(work, 1):
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
        if not shelf.store.has(shelf.name, piece):
            fresh += 1
            seen = measure_classical(codec, subject, task.threads)
            with shelf.store.writing(shelf.name, piece) as part:
                part.path("rows.json").write_text(json.dumps([r for r, _ in seen]))
                for r, picture in seen if keep else ():
                    part.path(f"kept/{r['rate']!r}.png").write_bytes(encode_png(picture))
        rows = json.loads(shelf.store.path(shelf.name, piece, "rows.json").read_text())
        for r in rows if keep else ():
            source = shelf.store.path(shelf.name, piece, f"kept/{r['rate']!r}.png")
            shutil.copyfile(source, task.writer.path(pieces.kept_name(subject.image, codec, r["rate"])))
        found += [{"codec": codec, **r} for r in rows]
        task.progress(done, len(work), "pictures measured")
    return found, fresh
