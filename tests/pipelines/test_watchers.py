from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import ClassVar

import dagster as dg
import pytest

from pipelines import watchers
from pipelines.executors import RaySettings


class Pool:
    """Breaks like a ProcessPoolExecutor one of whose processes was killed: for good."""

    made: ClassVar["list[Pool]"] = []

    def __init__(self, *_: object, **__: object) -> None:
        self.broken, self.ended = False, False
        Pool.made.append(self)

    def submit(self, work: object, stage: str, *_: object) -> "Future[str]":
        self.broken = self.broken or stage == "killed"
        done: Future[str] = Future()
        if self.broken:
            done.set_exception(BrokenProcessPool())
        else:
            done.set_result("")
        return done

    def shutdown(self, **_: object) -> None:
        self.ended = True


def test_a_killed_watcher_costs_its_own_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchers, "ProcessPoolExecutor", Pool)
    with watchers.watchers(RaySettings("auto", steps=2)) as carry:
        assert carry("resized_frames", "a", {}) == ""
        assert "the process that watched it ended" in carry("killed", "a", {})
        assert carry("resized_frames", "b", {}) == ""
    assert len(Pool.made) == 2 and all(pool.ended for pool in Pool.made)


def test_the_nightly_rerun_stays_beside_the_daemon() -> None:
    from pipelines.schedules import refresh

    assert refresh.executor_def is dg.in_process_executor
