"""`external_rd_points`: checkpoints that others trained, measured beside our own codecs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from assets.evaluation import pieces
from assets.evaluation.checkpoints import External, externals, read_external
from assets.evaluation.checks import FROM_ELSEWHERE
from assets.graph import Need, Stage, Task, View
from assets.story import told
from assets.world import World
from models.errors import FoveaError


def _record(world: World, partition: str) -> External:
    name, _, dataset = partition.rpartition("@")
    found = read_external(world.home.config, dataset, name)
    if found is None:
        raise FoveaError(f"no checkpoint {name!r} of {dataset} (fovea evaluate CHECKPOINT --dataset {dataset})")
    return found


class ExternalRdPoints(Stage):
    """One curve of checkpoints that others trained (`fovea evaluate`) measured on a dataset: a row a picture and
    checkpoint."""

    name = "external_rd_points"
    reads = ("rgba_frames",)
    group, kinds, checks = "evaluation", frozenset({"pytorch", "mlflow"}), FROM_ELSEWHERE
    gpu = share = True
    onlookers = pieces.LOOKS_ON

    def partitions(self, world: World) -> list[str]:
        return [e.partition for dataset in world.registry for e in externals(world.home.config, dataset)]

    def needs(self, world: World, partition: str) -> Sequence[Need]:
        return pieces.measured_needs(partition.rpartition("@")[2])

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

    def make(self, task: Task) -> None:
        import pandas as pd

        from assets.evaluation.measure import measure_codec
        from assets.evaluation.rate_distortion import EXTERNAL_ARM
        from models.codecs.external import file_sha256, load_checkpoint

        unit, record = task.unit, _record(task.world, task.partition)
        subjects = pieces.subjects_of(task, record.dataset, "none")
        split = str(pieces.measured_table(task, record.dataset).split.iloc[0])
        story = told(task, dataset=record.dataset, name=f"external {unit.partition}", parent="")
        with story as run:
            given = {f"sha256_q{f.quality:g}": f.sha256 for f in record.files}
            given |= {f"file_q{f.quality:g}": Path(f.path).name for f in record.files}
            run.log_params({"codec": record.codec, "dataset": record.dataset, **given})
            run.log_inputs({record.dataset: str(unit.inputs[pieces.MEASURED])}, "test")
            rows: list[dict[str, Any]] = []
            for place, file in enumerate(record.files):
                path = Path(file.path)
                if file_sha256(path) != file.sha256:
                    raise FoveaError(f"{path} has changed since it was given: run fovea evaluate on it again")
                codec = load_checkpoint(path, record.codec)
                seen = measure_codec(codec, subjects, codec.config.lmbda, threads=task.threads, progress=task.progress)
                points = pd.DataFrame(seen.rows)
                pieces.check_estimate(points, unit.partition)
                run.log_metrics([(place, pieces.finite_means(points[pieces.MEANS]))])
                # the λ that it was trained with is not in the file
                named = {"rate": file.quality, "experiment": f"sha256:{file.sha256}"}
                rows += [{**r, **named} for r in seen.rows]
            about = {"codec": record.codec, "variant": record.name, "arm": EXTERNAL_ARM, "rate_name": "quality"}
            about |= {"dataset": record.dataset, "split": split, "mlflow_run_id": run.run_id}
            pieces.finish_points(rows, **about).to_parquet(task.writer.path(pieces.POINTS), index=False)
            run.log_artifact(task.writer.path(pieces.POINTS))
        task.writer.meta["facts"] = {"pictures": len(subjects), "points": len(record.files)}
