"""One step of a plan: made in this process and told to the run that carries out the plan, or as a run on the cluster."""

import contextlib
import functools
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg
from dagster import DagsterEventType as Kind
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluation
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.events import AssetMaterializationPlannedData, DagsterEvent, EngineEventData, StepMaterializationData
from dagster._utils.error import serializable_error_info_from_exc_info

from assets.chain import Chain
from assets.graph import Progress
from assets.log import logged
from models.errors import FoveaError
from models.unexpected import described
from pipelines.assets import RETRY
from pipelines.plan import Step
from pipelines.resources import Told, events, failure_text, materialized, mlflow_tags

QUIET = {"console": {"config": {"log_level": "CRITICAL"}}}
#: the job whose runs carry out plans, and the tags of what is part of one: the run, and the only sweep
PLAN_JOB, OP, RUN, SWEEP = "sweep", "bring_up_to_date", "fovea/run", "fovea/sweep"


def sweep_tags(*sweeps: str) -> dict[str, str]:
    """Tags by which a run is found: one for each of its `dataset.sweep` names, and SWEEP where there is one name."""
    only = {SWEEP: sweeps[0]} if len(sweeps) == 1 else {}
    return {**{f"{SWEEP}.{name}": "yes" for name in sweeps}, **only}


def told(
    instance: dg.DagsterInstance, run_id: str, kind: Kind, data: Any = None, said: str = "", step: str | None = None
) -> None:
    """Write an event down in a run. said: default Dagster's words for it. step: of the job, in whose bar it is drawn."""
    event = DagsterEvent(kind.value, job_name=PLAN_JOB, event_specific_data=data, message=said or None, step_key=step)
    instance.report_dagster_event(event, run_id)


def made_here(
    chain: Chain, instance: dg.DagsterInstance, step: Step, tags: Mapping[str, str], progress: Progress
) -> str:
    """Make a step in this thread and tell the run that `tags` names; what went wrong, or ""."""
    run_id, name = tags[RUN], f"{step.stage} {step.partition}"
    tell = functools.partial(told, instance, run_id)
    log = logged(lambda line: tell(Kind.ENGINE_EVENT, EngineEventData(), f"{name}: {line}"))

    def tell_of(event: Told) -> None:
        if isinstance(event, AssetCheckEvaluation):
            said = f"{event.asset_key.to_user_string()} {event.partition}: {event.check_name}"
            tell(Kind.ASSET_CHECK_EVALUATION, event, f"{said} {'passed' if event.passed else 'failed'}")
        else:
            tell(Kind.ASSET_MATERIALIZATION, StepMaterializationData(event, []), name)

    def both(done: float, total: float, note: str = "") -> None:
        log(done, total, note)
        progress(done, total, note)

    planned = AssetMaterializationPlannedData(dg.AssetKey(step.stage), partition=step.partition)
    tell(Kind.ASSET_MATERIALIZATION_PLANNED, planned, f"{name}: {step.reason}")
    chain.tags = {**chain.tags, **mlflow_tags(run_id, tags.get(SWEEP, ""))}
    tries = 1 + (RETRY.max_retries if chain.stages[step.stage].retried else 0)
    while True:
        tries -= 1
        try:
            result = materialized(chain, step.stage, step.partition, both, tell_of)
            break
        except FoveaError as error:
            return str(error)
        except Exception as error:
            problem = described(error)
            stack = EngineEventData(error=serializable_error_info_from_exc_info(sys.exc_info()))
            tell(Kind.ENGINE_EVENT, stack, f"{name}: {problem}")
            if not tries:
                return problem
            time.sleep(float(RETRY.delay or 0))
    for event in events(step.stage, step.partition, result):
        tell_of(event)
    return chain.failed(step.stage, result.data_version.value if result.data_version else "")


def made_on_cluster(step: Step, tags: Mapping[str, str], *, threads: int, device: str) -> str:
    """One step as a Dagster run whose step the profile's cluster carries out; what went wrong, or ""."""
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
    """What went wrong, in a line: blocking checks, or the step's first error."""
    if failed := failure_text(result.get_asset_check_evaluations()):
        return failed
    ended = [event for event in result.all_events if event.is_failure]
    for failure in ended:
        data: Any = failure.event_specific_data
        described = getattr(data, "user_failure_data", None)
        if described is not None and described.description:
            return str(described.description)
        error = getattr(data, "error", None)
        if error is not None:
            return str((error.cause or error).message).strip()
    return ended[0].message or "failed" if ended else "failed"
