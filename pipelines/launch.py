"""Carrying out a plan as Dagster runs: in this process or in workers that live as long (workers.py), so that torch and
CompressAI are imported once a command, or each step on the cluster that the profile names."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

import dagster as dg

from assets.chain import Chain
from assets.graph import Progress, silent
from assets.home import Home
from assets.settings import Profile
from models.errors import FoveaError
from pipelines.executors import asked_of, cluster_of
from pipelines.instance import owner
from pipelines.plan import Outcome, Step, carry_out
from pipelines.steps import made_in_process, quiet
from pipelines.workers import Workers

#: shows a step on the terminal while it runs: called with the step, gives the progress callback
Show = Callable[[Step], Progress]
#: carries out a step, with its run's tags; gives "" when it went well, else what did not
Carry = Callable[[Step, Mapping[str, str], Progress], str]


def run_targets(
    chain: Chain,
    wanted: Sequence[tuple[str, str]],
    *,
    sweep: str = "",
    show: Show | None = None,
    strict: bool = False,
    threads: int = 0,
    parallel: int = 1,
    instance: dg.DagsterInstance | None = None,
) -> Outcome:
    """Make what is stale of the targets, each as a Dagster run of its asset and partition.

    threads: of each step, 0 for all cores. parallel: steps at once on this machine, in worker processes which share the
    cores where `threads` is 0; a cluster has its own number. A progress callback may have a method `done`.
    """
    cluster, mine = cluster_of(chain.home), owner(chain.home)
    own = contextlib.nullcontext(instance) if instance else dg.DagsterInstance.get()
    tags = {"fovea/sweep": sweep} if sweep else {}
    one_at_a_time = threading.Lock()
    with own as active, quiet():
        end_orphans(active, cluster, mine)
        with carriers(chain, active, cluster, threads, parallel) as (carry, at_once):

            def make(step: Step) -> str:
                with one_at_a_time:
                    progress = show(step) if show else silent
                try:
                    return carry(step, {IN_PROCESS: mine, "fovea/why": step.why[:200], **tags}, progress)
                finally:
                    getattr(progress, "done", lambda: None)()

            return carry_out(chain, list(wanted), make, strict=strict, parallel=at_once)


@contextlib.contextmanager
def carriers(
    chain: Chain, instance: dg.DagsterInstance, cluster: Profile | None, threads: int, parallel: int
) -> Iterator[tuple[Carry, int]]:
    """Who carries out a step, and how many at once."""
    mine = owner(chain.home)
    if cluster is None and parallel == 1:

        def carry(step: Step, tags: Mapping[str, str], progress: Progress) -> str:
            return patiently(
                lambda: made_in_process(chain, instance, step, tags, progress),
                lambda: end_orphans(instance, mine=mine),
            )

        yield carry, 1
        return
    if cluster is not None:
        asked = asked_of(cluster, threads, chain.device)
        workers = Workers(asked.ray_steps, device=asked.device, threads=asked.ray_threads, cluster=True)
    else:
        share = threads or max(1, chain.threads // parallel)
        workers = Workers(parallel, device=chain.device, share=share, threads=chain.threads)
    try:
        with workers:
            yield workers.make, workers.count
    except BaseException:
        try:
            end_orphans(instance, cluster, mine)
        except FoveaError as away:  # must not hide why the command ends
            logging.getLogger("fovea.ray").warning(
                "%s; steps that still run there are stopped by the next fovea run", away
            )
        raise


#: times that a step is started when the database's server cuts its connections in the middle of a statement
DATABASE_TRIES = 3


def patiently(make: Callable[[], str], end_cut_runs: Callable[[], None]) -> str:
    """Start a step again whose run was cut by Dagster's database: what it made is found, a training goes on.

    Raises FoveaError when the database stays away; connecting itself waits (pipelines/postgres.py).
    """
    for attempt in range(1, DATABASE_TRIES + 1):
        try:
            if attempt > 1:
                end_cut_runs()
            return make()
        except Exception as error:
            cut = type(error).__module__.split(".")[0] in ("sqlalchemy", "psycopg2", "dagster_postgres")
            if not cut:
                raise
            if attempt == DATABASE_TRIES:
                raise FoveaError(
                    f"Dagster's database does not answer ({str(error).splitlines()[0][:200]}); what is finished is kept: "
                    "bring it back and run the same command again"
                ) from error
            logging.getLogger("fovea.database").warning("the database cut a run; its step is started again")
    raise AssertionError


IN_PROCESS = "fovea/in-process"


def end_orphans(instance: dg.DagsterInstance, cluster: Profile | None = None, mine: str = "yes") -> None:
    """Mark runs of earlier commands that were killed as failed, and give back the pool slots that they hold; stop what is
    left of them on the cluster.

    Call while holding the run lock: any unfinished run with our tag and owner then belongs to a process that is gone.
    """
    unfinished = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.NOT_STARTED]
    left = instance.get_runs(dg.RunsFilter(statuses=unfinished, tags={IN_PROCESS: mine}))
    if left and cluster is not None:
        from pipelines.ray_cluster import stop_steps

        stop_steps(cluster, [run.run_id for run in left])
    for run in left:
        instance.report_run_failed(
            run, "the process that executed it was killed; `fovea run` goes on from its last checkpoint"
        )
        if instance.event_log_storage.supports_global_concurrency_limits:
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)


def one_run_at_a_time(home: Home) -> AbstractContextManager[None]:
    """Refuses a second `fovea run` on the same state. Raises FoveaError."""
    taken = (
        f"another `fovea run` works on {home.state}: wait for it, or set FOVEA_HOME to a folder of your own"
    )
    return home.locked("run", 0, taken)
