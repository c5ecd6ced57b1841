"""Carrying out a plan as one Dagster run, in this process or in workers that live as long (workers.py), so that torch and
CompressAI are imported once a command; or each step as a run on the cluster that the profile names."""

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

import dagster as dg
from dagster import DagsterEventType as Kind
from dagster._core.execution.plan.objects import StepSuccessData
from dagster._core.remote_origin import ManagedGrpcPythonEnvCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.storage.tags import MAX_RETRIES_TAG, REPOSITORY_LABEL_TAG
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from assets.chain import Chain
from assets.graph import Progress, silent
from assets.home import ROOT, Home
from assets.settings import Profile
from models.errors import FoveaError
from models.unexpected import described
from pipelines.executors import asked_of, cluster_of
from pipelines.instance import owner
from pipelines.partitions import offer
from pipelines.plan import Outcome, Step, carry_out
from pipelines.resources import STOPPED, show_failed
from pipelines.steps import OP, PLAN_JOB, RUN, made_here, quiet, sweep_tags, told
from pipelines.workers import Workers

#: shows a step on the terminal while it runs: called with the step, gives the progress callback
Show = Callable[[Step], Progress]
#: carries out a step, with its run's tags; gives "" when it went well, else what did not
Carry = Callable[[Step, Mapping[str, str], Progress], str]


def run_targets(
    chain: Chain,
    wanted: Sequence[tuple[str, str]],
    into: dg.OpExecutionContext | dg.JobDefinition,
    *,
    sweep: str = "",
    show: Show | None = None,
    threads: int = 0,
    parallel: int = 1,
    steps: int = 0,
) -> Outcome:
    """Make what is stale of the targets, and tell a Dagster run of it: the one of a context, or a new one of a job.

    threads: of each step, 0 for all cores. parallel: steps at once on this machine, in worker processes which share the
    cores where `threads` is 0; a cluster has its own number. steps: how many are to be made, where that is known: no more
    workers are started, with the same share of the cores as if all were. A progress callback may have a method `done`.
    """
    cluster, mine = cluster_of(chain.home), owner(chain.home)
    own = contextlib.nullcontext(into.instance) if isinstance(into, dg.OpExecutionContext) else dg.DagsterInstance.get()
    tags = sweep_tags(*filter(None, [sweep]))
    one_at_a_time, failed = threading.Lock(), list[Step]()
    with own as active, quiet():
        end_orphans(active, cluster, mine)
        offer(active, wanted)
        told_to: AbstractContextManager[tuple[str, Outcome]]
        if isinstance(into, dg.OpExecutionContext):
            told_to = contextlib.nullcontext((into.run_id, Outcome()))
        else:
            named = {"sweeps": [sweep]} if sweep else {"sweeps": [], "units": [" ".join(n) for n in wanted]}
            told_to = plan_run(active, into, named, {IN_PROCESS: mine, **tags})
        with (
            told_to as (run_id, outcome),
            carriers(chain, active, cluster, threads, parallel, run_id, steps) as (carry, at_once),
        ):

            def make(step: Step) -> str:
                with one_at_a_time:
                    progress = show(step) if show else silent
                try:
                    about = {RUN: run_id, IN_PROCESS: mine, "fovea/why": step.reason[:200], **tags}
                    if problem := carry(step, about, progress):
                        failed.append(step)
                    return problem
                finally:
                    getattr(progress, "done", lambda: None)()

            carry_out(chain, list(wanted), make, outcome, parallel=at_once)
            for step in failed:  # at the end: until the run is over they are shown as being made
                show_failed(active, run_id, PLAN_JOB, *step.name)
            return outcome


@contextlib.contextmanager
def plan_run(
    instance: dg.DagsterInstance, job: dg.JobDefinition, named: Mapping[str, list[str]], tags: Mapping[str, str]
) -> Iterator[tuple[str, Outcome]]:
    """A run of the job as the UI would have started it, which ends as what is written into the outcome says."""
    origin = code_location().get_job_origin(PLAN_JOB)
    run = instance.create_run_for_job(
        job,
        run_config={"ops": {OP: {"config": named}}},
        # who started the command starts it again, not the daemon
        tags={**tags, REPOSITORY_LABEL_TAG: origin.repository_origin.get_label(), MAX_RETRIES_TAG: "0"},
        remote_job_origin=origin,
    )
    outcome, began = Outcome(), time.monotonic()
    told(instance, run.run_id, Kind.PIPELINE_START)
    told(instance, run.run_id, Kind.STEP_START, step=OP)
    try:
        yield run.run_id, outcome
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        (instance.report_run_canceled if stopped else instance.report_run_failed)(
            run, STOPPED if stopped else described(error)
        )
        raise
    if outcome.messages:
        instance.report_run_failed(run, "; ".join(outcome.messages))
    else:
        took = StepSuccessData(1000 * (time.monotonic() - began))  # type: ignore[no-untyped-call]  # Dagster has no types there
        told(instance, run.run_id, Kind.STEP_SUCCESS, took, step=OP)
        told(instance, run.run_id, Kind.PIPELINE_SUCCESS)


def code_location() -> RemoteRepositoryOrigin:
    """Where `fovea ui` loads the graph from: runs that name it stand under their jobs and in the timeline."""
    target = LoadableTargetOrigin(module_name="pipelines.definitions", working_directory=str(ROOT))
    location = ManagedGrpcPythonEnvCodeLocationOrigin(target, location_name="fovea")
    return RemoteRepositoryOrigin(location, "__repository__")


@contextlib.contextmanager
def carriers(
    chain: Chain,
    instance: dg.DagsterInstance,
    cluster: Profile | None,
    threads: int,
    parallel: int,
    run_id: str,
    steps: int = 0,
) -> Iterator[tuple[Carry, int]]:
    """Who carries out a step, and how many at once."""
    mine = owner(chain.home)
    if cluster is None and parallel == 1:
        yield functools.partial(made_here, chain, instance), 1
        return
    if cluster is not None:
        asked = asked_of(cluster, threads, chain.device)
        workers = Workers(asked.ray_steps, device=asked.device, threads=asked.ray_threads, cluster=True)
    else:
        # of what was asked for, not of what is left: the same command after a kill gives a training the same bits
        share = threads or max(1, chain.threads // parallel)
        workers = Workers(min(parallel, steps or parallel), device=chain.device, share=share, threads=chain.threads)
    try:
        with workers:
            yield workers.make, workers.count
    except BaseException:
        try:
            end_orphans(instance, cluster, mine, going_on=run_id)
        except FoveaError as away:  # must not hide why the command ends
            logging.getLogger("fovea.ray").warning(
                "%s; steps that still run there are stopped by the next fovea run", away
            )
        raise


IN_PROCESS = "fovea/in-process"


def end_orphans(
    instance: dg.DagsterInstance, cluster: Profile | None = None, mine: str = "yes", going_on: str = ""
) -> None:
    """Mark runs of earlier commands that were killed as failed, and give back the pool slots that they hold; stop what is
    left of them on the cluster.

    going_on: a run that is left alone. Call while holding the run lock: any unfinished run with our tag and owner then
    belongs to a process that is gone.
    """
    unfinished = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.NOT_STARTED]
    left = instance.get_runs(dg.RunsFilter(statuses=unfinished, tags={IN_PROCESS: mine}))
    left = [run for run in left if run.run_id != going_on]
    if left and cluster is not None:
        from pipelines.ray_cluster import stop_steps

        stop_steps(cluster, [run.run_id for run in left])
    for run in left:
        instance.report_run_failed(
            run, "the process that executed it was killed; `fovea run` goes on from its last checkpoint"
        )
        if instance.event_log_storage.supports_global_concurrency_limits:
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)


def one_run_at_a_time(home: Home, wait_s: float = 0) -> AbstractContextManager[None]:
    """Refuses a second `fovea run` on the same state, after `wait_s` seconds. Raises FoveaError."""
    taken = f"another `fovea run` works on {home.state}: wait for it, or set FOVEA_HOME to a folder of your own"
    return home.locked("run", wait_s, taken)
