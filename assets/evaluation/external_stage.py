"""`external_rd_points`: checkpoints that others trained, measured beside our own codecs."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from assets.evaluation.checkpoints import External, externals, read_external
from assets.evaluation.checks import TRAINED
from assets.evaluation.pieces import (
    LOOKS_ON,
    MEASURED,
    POINTS,
    check_estimate,
    finish_points,
    measured_needs,
    measured_table,
    subjects_of,
)
from assets.graph import Need, Stage, Task, View
from assets.story import told
from assets.world import World
from models.errors import FoveaError


def _record(world: World, partition: str) -> External:
    name, _, dataset = partition.rpartition("@")
    found = read_external(world.home.config, dataset, name)
    if found is None:
        raise FoveaError(
            f"no checkpoint {name!r} of {dataset} (fovea evaluate CHECKPOINT --dataset {dataset})"
        )
    return found


class ExternalRdPoints(Stage):
    """One curve of checkpoints that others trained (`fovea evaluate`) measured on a dataset: a row a picture and
    checkpoint."""

    name = "external_rd_points"
    reads = ("rgba_frames",)
    group, kinds, checks = "evaluation", frozenset({"pytorch", "mlflow"}), TRAINED
    gpu = share = True

    def partitions(self, world: World) -> list[str]:
        return [e.partition for dataset in world.registry for e in externals(world.home.config, dataset)]

    def needs(self, world: World, partition: str) -> Sequence[Need]:
        return measured_needs(world, partition.rpartition("@")[2])

    def inputs(self, view: View) -> Mapping[str, Any]:
        record = _record(view.world, view.partition)
        return {
            "partition": view.partition,
            "codec": record.codec,
            "files": [[f.sha256, f.quality] for f in record.files],
            "fixations": view.world.fixations_digest(record.dataset),
        }

    def code(self, world: World, partition: str) -> Sequence[str]:
        from models.codecs.catalogue import code_module

        return (code_module(_record(world, partition).codec),)

    def apart(self, world: World, partition: str) -> Sequence[str]:
        return LOOKS_ON

    def make(self, task: Task) -> None:
        import pandas as pd

        from assets.evaluation.measure import measure_codec
        from assets.evaluation.rate_distortion import EXTERNAL_ARM
        from models.codecs.external import file_sha256, load_checkpoint

        unit, writer = task.unit, task.writer
        record = _record(task.world, unit.partition)
        subjects = subjects_of(task, record.dataset, "none")
        table = measured_table(task, record.dataset)
        story = told(task, dataset=record.dataset, name=f"external {unit.partition}", parent="")
        with story as run:
            run.log_params(
                {
                    "codec": record.codec,
                    "dataset": record.dataset,
                    **{f"sha256_q{f.quality:g}": f.sha256 for f in record.files},
                    **{f"file_q{f.quality:g}": Path(f.path).name for f in record.files},
                }
            )
            run.log_inputs({record.dataset: str(unit.inputs[MEASURED])}, "test")
            pieces = []
            for place, file in enumerate(record.files):
                path = Path(file.path)
                if file_sha256(path) != file.sha256:
                    raise FoveaError(f"{path} has changed since it was given: run fovea evaluate on it again")
                codec = load_checkpoint(path, record.codec)
                seen = measure_codec(
                    codec, subjects, codec.config.lmbda, threads=task.threads, progress=task.progress
                )
                # the λ that it was trained with is not in the file
                rows = [{**r, "rate_name": "quality", "rate": file.quality} for r in seen.rows]
                points = finish_points(
                    rows,
                    dataset=record.dataset,
                    split=str(table.split.iloc[0]),
                    train_dataset="",
                    arm=EXTERNAL_ARM,
                    maps="none",
                    preset="",
                    experiment=f"sha256:{file.sha256}",
                    run_id=run.run_id,
                    codec=record.codec,
                    variant=record.name,
                )
                check_estimate(points, unit.partition)
                numbers = points[["bpp", "psnr_db", "ms_ssim", "sw_psnr_db"]].mean()
                run.log_metrics([(place, {str(k): float(v) for k, v in numbers.items() if math.isfinite(v)})])
                pieces.append(points)
            whole = pd.concat(pieces, ignore_index=True)
            whole.to_parquet(writer.path(POINTS), index=False)
            run.log_artifact(writer.path(POINTS))
        facts: dict[str, Any] = {"pictures": len(subjects), "points": len(record.files)}
        writer.meta["facts"] = facts
