"""What assets get from the outside: the workshop, which makes a unit or finds it and tells Dagster about it."""

import base64
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluation
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_TAG,
    NULL_EVENT_POINTER,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)
from dagster._core.events import AssetMaterializationPlannedData, DagsterEvent

from assets.chain import Chain, failures
from assets.evaluation.pieces import MEANS
from assets.evaluation.report_stage import publish
from assets.graph import Check, Made, Progress, Waiting
from assets.home import Home
from assets.log import logged
from models.errors import FoveaError
from models.tracking import belongs
from models.unexpected import described
from pipelines.addresses import MLFLOW_PAGE, address, ports_of
from pipelines.executors import asked_of, cluster_of
from pipelines.mlflow_tracking import tracked_chain
from pipelines.partitions import drawn, read_by

#: facts that a page begins with, in this order; pictures, plots and the other facts follow
RESULTS = (
    "headline", *MEANS, "ew_psnr_db", "best", "model", "trained", "frames", "frames_train", "frames_val", "frames_test",
)  # fmt: skip
#: facts that nobody looks for first
PLUMBING = (
    "bytes", "bytes_in", "bytes_out", "device", "frames_per_s", "mode", "packed", "predicted", "resized", "reused",
    "source_bytes", "steps_per_s", "threads", "wall_s", "weights_sha256",
)  # fmt: skip
#: facts that are numbers of bytes
SIZES = frozenset({"bytes", "bytes_in", "bytes_out", "source_bytes"})
Told = dg.AssetMaterialization | AssetCheckEvaluation
STOPPED = "interrupted; started again, it goes on from what is finished"


class FoveaWorkshop(dg.ConfigurableResource[Any]):
    """Makes the unit of an asset and partition, or finds it in the content store."""

    device: str = "auto"
    threads: int = 0

    def chain(self, tags: dict[str, str] | None = None) -> Chain:
        """A fresh look at registry, folders and store, with the tracker that the environment names."""
        chain = tracked_chain(tags=tags or {}, device=self.device)
        if self.threads:
            chain.threads = self.threads
        cluster = cluster_of(chain.home)
        if cluster is not None:
            from pipelines.ray_cluster import on_cluster

            asked = asked_of(cluster, self.threads, self.device)
            chain.threads, chain.device = asked.ray_threads, asked.device
            chain.fan_out = functools.partial(on_cluster, asked)
        return chain

    def materialize(self, context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        """The unit of the context's asset and partition, made or found in the store."""
        tags = mlflow_tags(context.run.run_id, context.run.tags.get("fovea/sweep", ""))
        stage, partition = context.asset_key.path[-1], context.partition_key
        try:
            return materialized(self.chain(tags), stage, partition, logged(context.log.info), context.log_event)
        except FoveaError as error:
            raise dg.Failure(description=str(error), allow_retries=False) from error
        except (dg.DagsterExecutionInterruptedError, KeyboardInterrupt) as interrupt:
            # Dagster would start it again by the retry policy, but who interrupts a step wants it to end
            raise dg.Failure(description=STOPPED, allow_retries=False) from interrupt
        except Exception as error:
            raise dg.Failure(description=described(error)) from error


def materialized(
    chain: Chain, stage: str, partition: str, progress: Progress, tell: Callable[..., Any]
) -> dg.MaterializeResult:
    """Make a unit or find it, and put reports and tables where people look for them. tell: hears each `Told` that the
    unit says of another asset: a measurement, of the codec that was measured."""
    made = chain.make(stage, partition, progress)
    if stage == "report":
        publish(chain, made)
    elif stage == "saliency_benchmark":
        from assets.evaluation.tables import write_tables

        write_tables(chain)
    elif stage == "rd_points":
        for event in measured(chain, partition, made.facts):
            tell(event)
    return result_of(made, chain)


def mlflow_tags(run_id: str, sweep: str) -> dict[str, str]:
    """What MLflow's runs hear of the Dagster run; those of a sweep gather under one parent."""
    found = {"fovea.sweep": sweep, belongs(sweep): "yes", "fovea.parent": f"sweep {sweep}"} if sweep else {}
    return {"dagster.run_id": run_id, **found}


def result_of(made: Made, chain: Chain) -> dg.MaterializeResult:
    """What a person looks for first, then the other facts, then where it lies and how it was made; and the checks. The data
    version is the unit's key. No link or path stands there as long as it is: a long word makes Dagster's table wider than
    the page."""
    facts = {name: size(value) if name in SIZES else person(value) for name, value in made.facts.items()}
    metadata: dict[str, Any] = {name: facts[name] for name in RESULTS if name in facts}
    if link := mlflow_link(made, chain):
        facts["mlflow_run"] = dg.MetadataValue.md(f"[open it in MLflow]({link})")
    if made.unit.stage == "report":
        if link:
            page, _, query = link.partition("?")
            metadata["report"] = dg.MetadataValue.md(
                f"[open it in MLflow]({page}/artifacts/report/report.html?{query})"
            )
        metadata |= place("report_", chain.home.reports / f"{made.unit.partition}.html", chain.home)
    for picture in sorted(made.shown(), key=lambda file: file.suffix != ".md"):
        own = picture.suffix == ".md" or picture.stem not in metadata
        metadata[picture.stem if own else f"{picture.stem}_plot"] = shown_metadata(picture)
    for name in sorted(facts.keys() - set(RESULTS), key=lambda name: (name in PLUMBING, name == "mlflow_run", name)):
        metadata[name if name not in metadata else f"{name}_fact"] = facts[name]
    metadata |= {
        "cache_hit": made.hit,
        "made": str(made.manifest["made"]),
        "seconds": person(float(made.manifest["meta"].get("seconds", 0.0))),
        **place("", Path(made.folder), chain.home),
        "unit": made.unit.digest,
    }
    checks = [result_of_check(check, *held, of=made.unit.partition) for check, held in made.held]
    version = dg.DataVersion(made.unit.digest)
    tags = synced_tags(made.unit.stage, chain)
    return dg.MaterializeResult(metadata=metadata, data_version=version, check_results=checks, tags=tags)


def synced_tags(stage: str, chain: Chain) -> dict[str, str]:
    """An artifact's inputs as events of no time, so that Dagster calls none of them newer: it takes each partition of another
    asset for an input, and an artifact for out of date once any dataset is registered. What is stale the planner says."""
    known = {one.name for one in drawn(chain.stages, chain.world)}
    keys = [dg.AssetKey(name) for name in read_by(chain.stages[stage], known, chain.world)]
    tags = {get_input_event_pointer_tag(key): NULL_EVENT_POINTER for key in keys}
    return {CODE_VERSION_TAG: "", **tags, **{get_input_data_version_tag(key): "" for key in keys}}


def place(what: str, path: Path, home: Home) -> dict[str, dg.MetadataValue]:
    """A path, relative where it is in FOVEA_HOME: it stays right when that is moved or copied."""
    if path.is_relative_to(home.state):
        return {f"{what}in_FOVEA_HOME": dg.MetadataValue.path(str(path.relative_to(home.state)))}
    return {f"{what}path": dg.MetadataValue.path(str(path))}


def measured(chain: Chain, partition: str, facts: Mapping[str, Any]) -> Iterator[Told]:
    """A codec told once more, now with what a measurement (`KEY@DATASET`) on the first dataset that it is measured on found:
    the page of an asset shows its last materialization, no observation, and of checks those of the same run. Nothing where
    the codec is gone."""
    key, _, dataset = partition.rpartition("@")
    if dataset != chain.world.experiment(key).evaluate_on[0]:
        return
    try:
        made = chain.made("trained_codec", key)
    except Waiting:
        return
    chain.examine(made)
    told = result_of(made, chain)
    found = {f"test_{name}": person(facts[name]) for name in (*MEANS, "ew_psnr_db") if name in facts}
    before = {name: value for name, value in (told.metadata or {}).items() if name != "cache_hit"}
    yield from events("trained_codec", key, told._replace(metadata={**found, "measured_on": dataset, **before}))


def events(stage: str, partition: str, told: dg.MaterializeResult[Any]) -> Iterator[Told]:
    """A result as events of its artifact: the materialization, then its checks."""
    version = {DATA_VERSION_TAG: told.data_version.value} if told.data_version else {}
    tags = {**version, **(told.tags or {})}
    yield dg.AssetMaterialization(stage, partition=partition, metadata=told.metadata, tags=tags)
    for found in told.check_results or ():
        yield AssetCheckEvaluation(
            asset_key=dg.AssetKey(stage),
            check_name=str(found.check_name),
            passed=found.passed,
            metadata=found.metadata,
            severity=found.severity,
            description=found.description,
            blocking=found.severity == dg.AssetCheckSeverity.ERROR,
            partition=partition,
        )


def show_failed(instance: dg.DagsterInstance, run_id: str, job: str, stage: str, partition: str) -> None:
    """Have Dagster's lists show a partition as failed once its run is, though what was made of it stays: to them such a one was
    planned after it was made. For what a blocking check found unfit; else it would be as green as any other."""
    planned = AssetMaterializationPlannedData(dg.AssetKey(stage), partition=partition)
    said = f"{stage} {partition}: failed, or not fit to be used"
    kind = dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED.value
    instance.report_dagster_event(DagsterEvent(kind, job, event_specific_data=planned, message=said), run_id)


def person(value: Any) -> Any:
    """A fact as metadata, its numbers with four digits that count."""
    if isinstance(value, float):
        return float(f"{value:.4g}") if abs(value) < 1e4 else round(value)
    return value if isinstance(value, str | int | bool) else dg.MetadataValue.json(value)


def size(count: float) -> str:
    """A number of bytes as people write it: `5.2 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def result_of_check(check: Check, passed: bool, said: Mapping[str, Any], of: str) -> dg.AssetCheckResult:
    """What a check says of an artifact, with its partition, which the page of checks does not name; one that does not block
    warns."""
    severity = dg.AssetCheckSeverity.ERROR if check.blocking else dg.AssetCheckSeverity.WARN
    metadata = {k: dg.MetadataValue.md(v) if isinstance(v, str) and "\n" in v else v for k, v in said.items()}
    return dg.AssetCheckResult(check_name=check.name, passed=passed, severity=severity, metadata={**metadata, "of": of})


def failure_text(checks: Iterable[AssetCheckEvaluation]) -> str:
    """The blocking checks that did not hold, as the chain says it; "" where all held."""
    failed = [check for check in checks if check.blocking and not check.passed]
    details = (check.metadata.get("detail") for check in failed)
    return failures([(c.check_name, getattr(d, "value", d)) for c, d in zip(failed, details, strict=True)])


def shown_metadata(path: Path) -> dg.MetadataValue:
    """A picture as Markdown with the PNG inside, a table as Markdown; Dagster opens both in a window of their own."""
    if path.suffix == ".md":
        # fewer characters stand in the page's own table, and push it beyond the edge
        return dg.MetadataValue.md(path.read_text().ljust(1000))
    return dg.MetadataValue.md(f"![{path.stem}](data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()})")


def mlflow_link(made: Made, chain: Chain) -> str:
    """Address of the MLflow run that tells of this unit, or ""; by way of Dagster's own address where `fovea ui` shows both."""
    meta = made.manifest["meta"]
    page = chain.tracker.run_url(meta.get("mlflow_run_id") or chain.tracker.run_id(meta.get("mlflow_key", "")))
    if chain.home.profile.tracking_uri().startswith("http"):
        return page
    return page.replace(f"{address(ports_of(chain.home.state).mlflow)}/", MLFLOW_PAGE, 1)


def chosen_executor(home: Home) -> dg.ExecutorDefinition:
    """The executor of the code location."""
    if cluster_of(home) is None:
        return dg.in_process_executor
    from pipelines.ray_cluster import ray_executor

    return ray_executor
