"""Several steps at once: worker processes that live as long as a `fovea run`.

Each worker makes steps, or watches one at a time that the cluster carries out. Runs that share a process would wait for
each other's locks (logging's configuration, the event log) forever. Where it makes them, it pays for its imports once,
sees one GPU at most (number i of k: GPU i modulo k) and has its own share of the CPU's threads for the whole run,
whatever the others do: so a training's bits never depend on its companions. On the CPU they do depend on that share,
which training.json and MLflow's params record as `threads`.

A worker that dies fails its step alone, and another takes its place. Workers end with the process that started them.
"""

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, NamedTuple, Self

from assets.graph import Progress
from models.unexpected import described
from pipelines.plan import Step

GOODBYE_S = 30.0
#: seconds that a worker has to end when it is told to; one that watches takes its step off the cluster then
STOP_S, UNWATCH_S = 5.0, 30.0
PRELOADED = ["pipelines.steps", "pipelines.definitions"]


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; asks the driver, not torch."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
    import pynvml

    try:
        pynvml.nvmlInit()
        return [str(i) for i in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []


class Asked(NamedTuple):
    """What a worker is told once. gpu: a name of `gpus`, or "" to leave the choice as it is."""

    device: str
    gpu: str
    share: int
    threads: int


class _Worker(NamedTuple):
    number: int
    process: BaseProcess
    pipe: Connection


class Workers:
    """`count` worker processes; `make` may be called from so many threads at once.

    device: as for `fovea run`. share: CPU threads of a training or a measurement. threads: of every other step. cluster:
    steps are made there, and watched here. body: what a worker does, but for tests.
    """

    def __init__(
        self,
        count: int,
        *,
        device: str = "auto",
        share: int = 1,
        threads: int = 1,
        cluster: bool = False,
        body: Callable[[Connection, Asked], None] | None = None,
    ):
        self.count, self.device, self.share, self.threads = count, device, share, threads
        self._cluster, self._body = cluster, body or (watch if cluster else serve)
        self._gpus: Sequence[str] = gpus() if device in ("auto", "cuda") and not cluster else ()
        self._context: Any = multiprocessing.get_context("forkserver" if cluster else "spawn")
        if cluster:  # forked from one process that has loaded the code location, watchers cost no import
            self._context.set_forkserver_preload(PRELOADED)
        self._idle: queue.Queue[_Worker] = queue.Queue()
        self._alive: dict[int, BaseProcess] = {}
        self._stopping = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in range(self.count):
            self._idle.put(self._started(number))
        if threading.current_thread() is threading.main_thread():
            # the threads that wait for workers end when these do: before the interrupt is raised in this one
            for sign in (signal.SIGINT, signal.SIGTERM):
                self._before[sign] = signal.signal(sign, self._interrupted)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for sign, handler in self._before.items():
            signal.signal(sign, handler)
        if kind is not None:
            self.stop()
        while not self._idle.empty():
            worker = self._idle.get()
            with contextlib.suppress(OSError):
                worker.pipe.send(None)
        for process in self._alive.values():
            process.join(GOODBYE_S)
        self.stop()

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        if callable(heard := self._before.get(number)):
            with contextlib.suppress(KeyboardInterrupt):
                heard(number, frame)
        self.stop()
        raise KeyboardInterrupt

    def stop(self) -> None:
        """End all workers; what they were making goes on from its last checkpoint in the next run."""
        self._stopping = True
        for process in list(self._alive.values()):
            if process.is_alive():
                process.terminate()
        for process in list(self._alive.values()):
            process.join(UNWATCH_S if self._cluster else STOP_S)
            if process.is_alive():
                process.kill()

    def _started(self, number: int) -> _Worker:
        own, other = self._context.Pipe()
        gpu = self._gpus[number % len(self._gpus)] if self._gpus else ""
        asked = Asked(self.device, gpu, self.share, self.threads)
        process = self._context.Process(
            target=live, args=(self._body, other, asked), name=f"worker-{number}", daemon=True
        )
        process.start()
        other.close()
        self._alive[number] = process
        return _Worker(number, process, own)

    def make(self, step: Step, tags: Mapping[str, str], progress: Progress) -> str:
        """Make a step in the next worker that is free; what went wrong, or ""."""
        worker = self._idle.get()
        try:
            worker.pipe.send((step, dict(tags)))
            while True:
                message = worker.pipe.recv()
                if isinstance(message, str):
                    self._idle.put(worker)
                    return message
                progress(*message)
        except (EOFError, OSError):
            worker.pipe.close()
            worker.process.join()
            if self._stopping:
                self._idle.put(worker)
                return "stopped"
            self._idle.put(self._started(worker.number))
            code = worker.process.exitcode or 0
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            if self._cluster:
                return f"the process that watched it died ({how}); run the same command again"
            return f"the process that made it died ({how}); out of memory? run again with a smaller --parallel"


def live(body: Callable[[Connection, Asked], None], pipe: Connection, asked: Asked) -> None:
    """A worker's life: its body, on its GPU, no longer than its parent's. An interrupt is the parent's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if asked.gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = asked.gpu
    body(pipe, asked)


def steps(pipe: Connection) -> Iterator[tuple[Step, dict[str, str]]]:
    """What a worker is given, with its run's tags, until there is no more."""
    with contextlib.suppress(EOFError, OSError):
        while given := pipe.recv():
            yield given


def serve(pipe: Connection, asked: Asked) -> None:
    """Makes steps, with their progress, in this process."""
    import dagster as dg

    from pipelines.mlflow_tracking import tracked_chain
    from pipelines.steps import made_here, quiet

    chain, sent = tracked_chain(device=asked.device), threading.Lock()

    def progress(done: float, total: float, note: str = "") -> None:
        with sent, contextlib.suppress(OSError):
            pipe.send((done, total, note))

    with dg.DagsterInstance.get() as instance, quiet():
        for step, tags in steps(pipe):
            chain.forget()
            chain.tags = {}
            chain.threads = asked.share if chain.stages[step.stage].share else asked.threads
            problem = made_here(chain, instance, step, tags, progress)
            with sent:
                pipe.send(problem)
    chain.tracker.flush()


def watch(pipe: Connection, asked: Asked) -> None:
    """Has the cluster make steps. What Dagster raises ends a step, not the others."""
    from pipelines.steps import made_on_cluster, quiet

    with quiet():
        for step, tags in steps(pipe):
            try:
                problem = made_on_cluster(step, tags, threads=asked.threads, device=asked.device)
            except Exception as error:
                problem = described(error)
            pipe.send(problem)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
