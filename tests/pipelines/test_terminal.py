import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from pipelines.plan import Step
from pipelines.terminal import Board


def test_a_log_gets_a_line_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr("pipelines.terminal.time", clock)
    with Board(2, Console(file=io.StringIO())) as board:
        shown = board.show(Step("trained_codec", "key", "never made"))
        for clock.now in (3.0, 11.0, 12.0, 22.0):
            shown(clock.now, 44, "loss 1.5")
        shown.done()
    assert capsys.readouterr().err.splitlines() == [
        "[1/2] trained_codec key (never made)",
        "    11/44 loss 1.5, 33 s left",
        "    22/44 loss 1.5, 22 s left",
    ]
