import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from pipelines import schedules
from pipelines.commands import runs
from pipelines.plan import Outcome


def test_a_run_with_nothing_to_do_sends_what_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []
    chain: Any = SimpleNamespace(tracker=SimpleNamespace(flush=lambda: flushed.append("sent")))
    monkeypatch.setattr("pipelines.plan.stale", lambda *_, **__: [])
    assert runs.make_stale(chain, "drawn.tiny", []) == 0
    assert flushed == ["sent"]


@pytest.mark.parametrize("problems", [(), ("resized_frames cityscapes: full",)])
def test_what_the_weekly_look_makes_is_told_at_once(
    problems: tuple[str, ...], installation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []
    chain = SimpleNamespace(tracker=SimpleNamespace(flush=lambda: flushed.append("sent")))
    monkeypatch.setattr("assets.frames.archive_stage.fetch", lambda *_, **__: None)
    monkeypatch.setattr("pipelines.mlflow_tracking.tracked_chain", lambda home: chain)
    monkeypatch.setattr(schedules, "dataset_targets", lambda *_: [])
    monkeypatch.setattr("pipelines.launch.run_targets", lambda *_, **__: Outcome(messages=problems))
    ends = pytest.raises(dg.Failure, match="full") if problems else contextlib.nullcontext()
    with dg.DagsterInstance.ephemeral() as instance, ends:
        schedules.bring_change(dg.build_op_context(instance=instance))
    assert flushed == ["sent"]
