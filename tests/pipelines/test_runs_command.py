from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.commands import runs


def test_a_run_with_nothing_to_do_sends_what_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []
    chain: Any = SimpleNamespace(tracker=SimpleNamespace(flush=lambda: flushed.append("sent")))
    monkeypatch.setattr("pipelines.plan.stale", lambda *_, **__: [])
    assert runs.make_stale(chain, "drawn.tiny", []) == 0
    assert flushed == ["sent"]
