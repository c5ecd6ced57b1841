"""What tracking costs: `python tests/benchmarks/bench_tracking.py [URI]` prints one line a measurement."""

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines import mlflow_tracking
from pipelines.mlflow_tracking import MlflowTracker


@contextmanager
def timed(what: str, count: int = 1) -> Iterator[None]:
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{what}: {wall / count * 1e3:.3f} ms wall, {cpu / count * 1e3:.3f} ms CPU each, {wall:.2f} s in all")


def main(uri: str) -> None:
    mlflow_tracking.SEND_EVERY_S = 3600.0
    with tempfile.TemporaryDirectory() as folder:
        tracker = MlflowTracker(Path(folder), uri)
        with timed("first run, with MLflow's import and a fresh database"):
            first = tracker.run(experiment="bench", name="first", key=f"first {time.time()}")
        with timed("further run", 20):
            for i in range(20):
                run = tracker.run(experiment="bench", name="more", key=f"{i} {time.time()}")
        with timed("log_metrics of 5 values", 2000):
            for step in range(2000):
                first.log_metrics([(step, {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0, "e": step})])
        tracker.flush()
        with timed("5,000 metrics in bulk: call"):
            run.log_metrics([(step, {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0, "e": step}) for step in range(1000)])
        with timed("5,000 metrics in bulk: sending"):
            tracker.flush()
        with timed("finish"):
            run.finish()
        tracker.close()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
