"""One step of a plan as a Dagster run: in this process or on the cluster, and what it came to."""

import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from assets.chain import Chain
from assets.graph import Progress
from pipelines.assets import ASSETS
from pipelines.plan import Step
from pipelines.resources import FoveaWorkshop, interrupted, set_active_chain

QUIET = {"console": {"config": {"log_level": "CRITICAL"}}}
#: the assets alone: what a step of a plan needs of the code location
graph = dg.Definitions(
    assets=ASSETS, resources={"workshop": FoveaWorkshop()}, executor=dg.in_process_executor
)


def made_in_process(
    chain: Chain, instance: dg.DagsterInstance, step: Step, tags: Mapping[str, str], progress: Progress
) -> str:
    """One step as a Dagster run in this thread; what went wrong, or "". Raises KeyboardInterrupt when it was interrupted."""
    set_active_chain(chain, progress)
    try:
        result = graph.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey(step.stage)],
            partition_key=step.partition,
            raise_on_error=False,
            tags=tags,
            run_config={"loggers": QUIET},
        )
    finally:
        set_active_chain(None)
    problem = "" if result.success else failure_of(result)
    # by the step, or while Dagster wrote down what the step did
    if interrupted() or dg.DagsterExecutionInterruptedError.__name__ in problem:
        raise KeyboardInterrupt
    return problem


def made_on_cluster(step: Step, tags: Mapping[str, str], *, threads: int, device: str) -> str:
    """One step as a Dagster run whose step the profile's cluster carries out; what went wrong, or ""."""
    from dagster._core.code_pointer import ModuleCodePointer
    from dagster._core.definitions.reconstruct import ReconstructableRepository

    # nodes have the same installation at the same place: the `dagster` on their PATH may be another
    repository = ReconstructableRepository(
        ModuleCodePointer("pipelines.definitions", "defs"), entry_point=[sys.executable, "-m", "dagster"]
    )
    with (
        dg.DagsterInstance.get() as instance,
        dg.execute_job(
            repository.get_reconstructable_job("__ASSET_JOB"),
            instance=instance,
            asset_selection=[dg.AssetKey(step.stage)],
            tags={**tags, "dagster/partition": step.partition},
            run_config={
                "loggers": QUIET,
                "resources": {"workshop": {"config": {"threads": threads, "device": device}}},
            },
            raise_on_error=False,
        ) as result,
    ):
        return "" if result.success else failure_of(result)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Dagster's own step log stays in its instance; the terminal shows Fovea's progress."""
    logger = logging.getLogger("dagster")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def failure_of(result: dg.ExecuteInProcessResult | dg.JobExecutionResult) -> str:
    """The first thing that went wrong, in a line: a blocking check, or the step's error."""
    for event in result.get_asset_check_evaluations():
        if not event.passed and event.blocking:
            detail = event.metadata.get("detail")
            return f"check {event.check_name} failed" + (f": {detail.value}" if detail is not None else "")
    failures = [event for event in result.all_events if event.is_failure]
    for failure in failures:
        data: Any = failure.event_specific_data
        told = getattr(data, "user_failure_data", None)
        if told is not None and told.description:
            return str(told.description)
        error = getattr(data, "error", None)
        if error is not None:
            return str((error.cause or error).message).strip()
    return failures[0].message or "failed" if failures else "failed"
