"""What stands in for a worker of pipelines/workers.py in tests: no Dagster, no torch."""

import os
import time
from multiprocessing.connection import Connection
from pathlib import Path

from pipelines.workers import Asked


def answer(pipe: Connection, asked: Asked) -> None:
    """Does what the step's partition says: `crash`, `fail`, `meet:FOLDER` (waits for a second one there), `sleep`."""
    while (given := pipe.recv()) is not None:
        step, _ = given
        kind, _, rest = step.partition.partition(":")
        pipe.send((1, 2, f"{os.getpid()} {asked.gpu} {asked.share}"))
        if kind == "crash":
            os._exit(3)
        if kind == "sleep":
            time.sleep(60)
        if kind == "meet":
            (Path(rest) / str(os.getpid())).touch()
            deadline = time.monotonic() + 30
            while len(list(Path(rest).iterdir())) < 2 and time.monotonic() < deadline:
                time.sleep(0.01)
            pipe.send("" if len(list(Path(rest).iterdir())) == 2 else "nobody came")
        else:
            pipe.send("diverged" if kind == "fail" else "")


def linger(pipe: Connection, asked: Asked) -> None:
    """Hears nothing."""
    time.sleep(120)
