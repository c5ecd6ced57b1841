"""`external_rd_points`: checkpoints that others trained, measured beside our own codecs."""

import math
from pathlib import Path
from typing import Any

from assets.chain import Chain, Progress, Unit
from assets.evaluation.checkpoints import External, read_external
from assets.evaluation.pieces import (
    MAPS_CODE,
    POINTS,
    check_estimate,
    data_digest,
    finish_points,
    measured_split,
    subjects_of,
)
from assets.evaluation.rate_distortion import EXTERNAL_ARM
from assets.store import UnitWriter
from assets.versions import code_version
from models.errors import FoveaError
from models.experiments import DEFAULT_SALIENCY


class ExternalRdPoints:
    """One external curve measured on one dataset: a row a picture and checkpoint."""

    name = "external_rd_points"

    def _record(self, chain: Chain, partition: str) -> External:
        name, _, dataset = partition.rpartition("@")
        found = read_external(chain.home.config, dataset, name)
        if found is None:
            raise FoveaError(
                f"no checkpoint {name!r} of {dataset} (fovea evaluate CHECKPOINT --dataset {dataset})"
            )
        return found

    def unit(self, chain: Chain, partition: str) -> Unit:
        """As `Stage.unit` says."""
        from models.codecs.catalogue import code_module

        record = self._record(chain, partition)
        inputs = {
            "partition": partition,
            "codec": record.codec,
            "files": [[f.sha256, f.quality] for f in record.files],
            "data": data_digest(chain, record.dataset),
            "code": code_version(
                "assets.evaluation.measure", "models.codecs.external", code_module(record.codec), *MAPS_CODE
            ),
        }
        return Unit(self.name, partition, inputs)

    def make(self, chain: Chain, unit: Unit, writer: UnitWriter, progress: Progress) -> None:
        """As `Stage.make` says."""
        import pandas as pd

        from assets.evaluation.measure import measure_codec
        from models.codecs.external import file_sha256, load_checkpoint

        record = self._record(chain, unit.partition)
        subjects = subjects_of(chain, record.dataset, "none", DEFAULT_SALIENCY, progress)
        run = chain.tracker.run(
            experiment=f"fovea-{record.dataset}",
            name=f"external {unit.partition}",
            key=unit.key,
            tags={
                **chain.tags,
                "fovea.stage": unit.stage,
                "fovea.unit": unit.key,
                "fovea.partition": unit.partition,
            },
        )
        try:
            run.log_params(
                {
                    "codec": record.codec,
                    "dataset": record.dataset,
                    **{f"sha256_q{f.quality:g}": f.sha256 for f in record.files},
                    **{f"file_q{f.quality:g}": Path(f.path).name for f in record.files},
                }
            )
            run.log_inputs({record.dataset: str(unit.inputs["data"])}, "test")
            pieces = []
            for place, file in enumerate(record.files):
                path = Path(file.path)
                if file_sha256(path) != file.sha256:
                    raise FoveaError(f"{path} has changed since it was given: run fovea evaluate on it again")
                codec = load_checkpoint(path, record.codec)
                seen = measure_codec(
                    codec, subjects, codec.config.lmbda, threads=chain.threads, progress=progress
                )
                # the λ that it was trained with is not in the file
                rows = [{**r, "rate_name": "quality", "rate": file.quality} for r in seen.rows]
                points = finish_points(
                    rows,
                    dataset=record.dataset,
                    split=measured_split(chain, record.dataset),
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
            run.finish()
        except BaseException:
            run.finish("FAILED")
            raise
        writer.meta["mlflow_run_id"] = run.run_id
        writer.meta["mlflow_key"] = unit.key
        facts: dict[str, Any] = {"pictures": len(subjects), "points": len(record.files)}
        writer.meta["facts"] = facts
