"""Processes that watch Dagster runs whose steps are on a cluster, each one run at a time.

Not threads: runs that share a process wait for each other's locks (logging's configuration, the event log) forever. The
processes are forked from one that has loaded the code location, so that each costs no import and little memory.
"""

import contextlib
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import dagster as dg

from pipelines.executors import RaySettings
from pipelines.outcomes import failure_of, quiet

#: carries out the step of a stage and partition, with the run's tags; returns "" when it went well, else what did not
Carrier = Callable[[str, str, Mapping[str, str]], str]

QUIET = {"console": {"config": {"log_level": "CRITICAL"}}}


@contextlib.contextmanager
def watchers(asked: RaySettings) -> Iterator[Carrier]:
    """Up to `asked.steps` runs at once. When the block ends with an error, the runs under way are interrupted."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipelines.watchers", "pipelines.definitions"])

    def started() -> ProcessPoolExecutor:
        return ProcessPoolExecutor(asked.steps, mp_context=context, initializer=_end_with_parent)

    pools, changing = [started()], threading.Lock()

    def carry(stage: str, partition: str, tags: Mapping[str, str]) -> str:
        pool = pools[-1]
        try:
            return pool.submit(_watch, stage, partition, dict(tags), asked).result()
        except BrokenProcessPool:
            # it takes no more work; what comes later gets a new one
            with changing:
                if pools[-1] is pool:
                    pools.append(started())
            return "the process that watched it ended; run the same command again"

    try:
        yield carry
    except BaseException:
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)
        for child in context.active_children():
            child.terminate()  # Dagster's executor takes its steps off the cluster
        raise
    finally:
        for pool in pools:
            pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def _watch(stage: str, partition: str, tags: dict[str, str], asked: RaySettings) -> str:
    from dagster._core.code_pointer import ModuleCodePointer
    from dagster._core.definitions.reconstruct import ReconstructableRepository

    # nodes have the same installation at the same place: the `dagster` on their PATH may be another
    repository = ReconstructableRepository(
        ModuleCodePointer("pipelines.definitions", "defs"), entry_point=[sys.executable, "-m", "dagster"]
    )
    with (
        quiet(),
        dg.DagsterInstance.get() as instance,
        dg.execute_job(
            repository.get_reconstructable_job("__ASSET_JOB"),
            instance=instance,
            asset_selection=[dg.AssetKey(stage)],
            tags={**tags, "dagster/partition": partition},
            run_config={
                "loggers": QUIET,
                "resources": {"workshop": {"config": {"threads": asked.threads, "device": asked.device}}},
            },
            raise_on_error=False,
        ) as result,
    ):
        return "" if result.success else failure_of(result)
