"""Several steps at once on this machine: worker processes that live as long as a `fovea run`.

Each worker pays for its imports once, sees one GPU at most (number i of k: GPU i modulo k) and has its own share of the
CPU's threads for the whole run, whatever the others do: so a training's bits never depend on its companions. On the CPU
they do depend on that share, which training.json and MLflow's params record as `threads`.

A worker that dies fails its step alone, and another takes its place. Workers end with the process that started them.
"""

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import FrameType, TracebackType
from typing import Any, NamedTuple, Self

from assets.graph import Progress
from pipelines.plan import Step

GOODBYE_S = 30.0


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

    device: as for `fovea run`. share: CPU threads of a training or a measurement. threads: of every other step. body:
    what a worker does, `serve` but for tests.
    """

    def __init__(
        self,
        count: int,
        *,
        device: str = "auto",
        share: int = 1,
        threads: int = 1,
        body: Callable[[Connection, Asked], None] | None = None,
    ):
        self.count, self.device, self.share, self.threads = count, device, share, threads
        self._body = body or serve
        self._gpus: Sequence[str] = gpus() if device in ("auto", "cuda") else ()
        self._idle: queue.Queue[_Worker] = queue.Queue()
        self._alive: dict[int, BaseProcess] = {}
        self._stopping = False
        self._before: Any = None

    def __enter__(self) -> Self:
        for number in range(self.count):
            self._idle.put(self._started(number))
        if threading.current_thread() is threading.main_thread():
            # the threads that wait for workers end when these do: before the interrupt is raised in this one
            self._before = signal.signal(signal.SIGINT, self._interrupted)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
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
        self.stop()
        raise KeyboardInterrupt

    def stop(self) -> None:
        """End all workers; what they were making goes on from its last checkpoint in the next run."""
        self._stopping = True
        for process in list(self._alive.values()):
            if process.is_alive():
                process.terminate()
        for process in list(self._alive.values()):
            process.join(5)
            if process.is_alive():
                process.kill()

    def _started(self, number: int) -> _Worker:
        context = multiprocessing.get_context("spawn")
        own, other = context.Pipe()
        gpu = self._gpus[number % len(self._gpus)] if self._gpus else ""
        asked = Asked(self.device, gpu, self.share, self.threads)
        process = context.Process(
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
            return (
                f"the process that made it died ({how}); out of memory? run again with a smaller --parallel"
            )


def live(body: Callable[[Connection, Asked], None], pipe: Connection, asked: Asked) -> None:
    """A worker's life: its body, on its GPU, no longer than its parent's. An interrupt is the parent's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if asked.gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = asked.gpu
    body(pipe, asked)


def serve(pipe: Connection, asked: Asked) -> None:
    """A step in, progress and its end out, until it is sent None."""
    import dagster as dg

    from assets.home import Home
    from assets.stages import open_chain
    from pipelines.mlflow_tracking import MlflowTracker
    from pipelines.outcomes import quiet
    from pipelines.steps import made_in_process

    home = Home.from_environment()
    chain = open_chain(
        home, tracker=MlflowTracker(home.mlflow, home.profile.tracking_uri()), device=asked.device
    )
    sent = threading.Lock()

    def progress(done: float, total: float, note: str = "") -> None:
        with sent, contextlib.suppress(OSError):
            pipe.send((done, total, note))

    with dg.DagsterInstance.get() as instance, quiet():
        while True:
            try:
                given = pipe.recv()
            except (EOFError, OSError):
                return
            if given is None:
                chain.tracker.flush()
                return
            step, tags = given
            chain.forget()
            chain.tags = {}
            chain.threads = asked.share if chain.stages[step.stage].share else asked.threads
            problem = made_in_process(chain, instance, step, tags, progress)
            with sent:
                pipe.send(problem)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
