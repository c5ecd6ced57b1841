"""What assets get from the outside: the workshop, which makes a unit or finds it and tells Dagster about it."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from assets.chain import Chain
from assets.evaluation.pieces import MEANS
from assets.graph import Check, Made, Progress
from assets.home import Home
from models.errors import FoveaError
from models.tracking import belongs
from pipelines.executors import asked_of, cluster_of

#: facts that nobody looks for first
PLUMBING = ("bytes", "device", "mode", "steps_per_s", "threads", "wall_s", "weights_sha256")
STOPPED = "interrupted; started again, it goes on from what is finished"


class FoveaWorkshop(dg.ConfigurableResource[Any]):
    """Makes the unit of an asset and partition, or finds it in the content store."""

    device: str = "auto"
    threads: int = 0

    def chain(self, tags: dict[str, str] | None = None) -> Chain:
        """A fresh look at registry, folders and store, with the tracker that the environment names."""
        from pipelines.mlflow_tracking import tracked_chain

        chain = tracked_chain(tags=tags or {}, device=self.device)
        if self.threads:
            chain.threads = self.threads
        cluster = cluster_of(chain.home)
        if cluster is not None:
            from pipelines.ray_cluster import RayChunks

            asked = asked_of(cluster, self.threads, self.device)
            chain.threads, chain.device = asked.ray_threads, asked.device
            chain.fan_out = RayChunks(asked)
        return chain

    def materialize(self, context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        """See pipelines.assets.Workshop."""
        tags = mlflow_tags(context.run.run_id, context.run.tags.get("fovea/sweep", ""))
        stage, partition = context.asset_key.path[-1], context.partition_key
        try:
            return materialized(self.chain(tags), stage, partition, logged(context.log.info), context.log_event)
        except FoveaError as error:
            raise dg.Failure(description=str(error), allow_retries=False) from error
        except (dg.DagsterExecutionInterruptedError, KeyboardInterrupt) as interrupt:
            # Dagster would start it again by the retry policy, but who interrupts a step wants it to end
            raise dg.Failure(description=STOPPED, allow_retries=False) from interrupt


def materialized(
    chain: Chain, stage: str, partition: str, progress: Progress, observe: Callable[[dg.AssetObservation], Any]
) -> dg.MaterializeResult:
    """Make a unit or find it, and put reports and tables where people look for them. observe: hears what the unit says of
    another asset: a measurement, of the codec that was measured."""
    made = chain.make(stage, partition, progress)
    if stage == "report":
        from assets.evaluation.report_stage import publish

        publish(chain, made)
    elif stage == "saliency_benchmark":
        from assets.evaluation.tables import write_tables

        write_tables(chain)
    elif stage == "rd_points":
        experiment, _, dataset = partition.rpartition("@")
        found = {name: person(made.facts[name]) for name in MEANS if name in made.facts}
        figures = {f"test_{name}": value for name, value in found.items()} | {"measured_on": dataset}
        observe(dg.AssetObservation("trained_codec", partition=experiment, metadata=figures))
    return result_of(made, chain)


def mlflow_tags(run_id: str, sweep: str) -> dict[str, str]:
    """What MLflow's runs hear of the Dagster run; those of a sweep gather under one parent."""
    found = {"fovea.sweep": sweep, belongs(sweep): "yes", "fovea.parent": f"sweep {sweep}"} if sweep else {}
    return {"dagster.run_id": run_id, **found}


def logged(say: Callable[[str], None], every_s: float = 10.0) -> Progress:
    """Progress as lines of a log."""
    began = last = time.monotonic()

    def log(done: float, total: float, note: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= every_s or done == total:
            last = now
            left = (now - began) / done * (total - done) if done else 0.0
            say(f"{done:g} of {total:g} {note}, {left:.0f} s left")

    return log


SAID = ("headline", "answers")
"""Facts that are sentences: they stand first."""


def result_of(made: Made, chain: Chain) -> dg.MaterializeResult:
    """What a person looks for first, then facts, then where it lies and how it was made; and the checks. The data version is
    the unit's key."""
    metadata: dict[str, Any] = {k: v for k, v in made.facts.items() if k in SAID}
    link = mlflow_link(made, chain)
    if made.unit.stage == "report":
        if link:
            page, _, query = link.partition("?")
            metadata["report"] = dg.MetadataValue.url(f"{page}/artifacts/report/report.html?{query}")
        metadata["report_file"] = dg.MetadataValue.path(str(chain.home.reports / f"{made.unit.partition}.html"))
    for picture in sorted(made.shown(), key=lambda file: file.suffix != ".md"):
        own = picture.suffix == ".md" or picture.stem not in metadata
        metadata[picture.stem if own else f"{picture.stem}_plot"] = shown_metadata(picture)
    for name, value in sorted(made.facts.items(), key=lambda fact: fact[0] in PLUMBING):
        if name not in SAID:
            metadata[name if name not in metadata else f"{name}_fact"] = person(value)
    if link:
        metadata["mlflow_run"] = dg.MetadataValue.url(link)
    metadata |= {
        "cache_hit": made.hit,
        "made": str(made.manifest["made"]),
        "seconds": person(float(made.manifest["meta"].get("seconds", 0.0))),
        "path": dg.MetadataValue.path(str(made.folder)),
        "unit": made.unit.digest,
    }
    checks = [result_of_check(check, *held) for check, held in made.held]
    return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(made.unit.digest), check_results=checks)


def person(value: Any) -> Any:
    """A fact as metadata, its numbers with four digits that count."""
    if isinstance(value, float):
        return float(f"{value:.4g}") if abs(value) < 1e4 else round(value)
    return value if isinstance(value, str | int | bool) else dg.MetadataValue.json(value)


def result_of_check(check: Check, passed: bool, said: Mapping[str, Any]) -> dg.AssetCheckResult:
    """What a check says of an artifact; one that does not block warns."""
    severity = dg.AssetCheckSeverity.ERROR if check.blocking else dg.AssetCheckSeverity.WARN
    metadata = {k: dg.MetadataValue.md(v) if isinstance(v, str) and "\n" in v else v for k, v in said.items()}
    return dg.AssetCheckResult(check_name=check.name, passed=passed, severity=severity, metadata=metadata)


def failure_text(check: dg.AssetCheckResult | dg.AssetCheckEvaluation) -> str:
    """A check that did not hold, as `Check.failure` says it."""
    detail = (check.metadata or {}).get("detail")
    said = getattr(detail, "value", detail)
    return f"check {check.check_name} failed" + (f": {said}" if said else "")


def shown_metadata(path: Path) -> dg.MetadataValue:
    """A picture as Markdown with the PNG inside, a table as Markdown."""
    import base64

    if path.suffix == ".md":
        return dg.MetadataValue.md(path.read_text())
    return dg.MetadataValue.md(f"![{path.stem}](data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()})")


def mlflow_link(made: Made, chain: Chain) -> str:
    """Address of the MLflow run that tells of this unit, or ""."""
    meta = made.manifest["meta"]
    return chain.tracker.run_url(meta.get("mlflow_run_id") or chain.tracker.run_id(meta.get("mlflow_key", "")))


def chosen_executor(home: Home) -> dg.ExecutorDefinition:
    """The executor of the code location."""
    if cluster_of(home) is None:
        return dg.in_process_executor
    from pipelines.ray_cluster import ray_executor

    return ray_executor
