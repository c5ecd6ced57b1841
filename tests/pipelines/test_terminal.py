import io
import re
from types import SimpleNamespace

import pytest
from rich.console import Console

from models.errors import FoveaError
from pipelines.plan import Step
from pipelines.terminal import Board, script, shown


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr("assets.log.time", clock)
    return clock


def test_a_log_gets_a_line_every_ten_seconds(clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    with Board(2, Console(file=io.StringIO())) as board:
        of_step = board.show(Step("trained_codec", "key", "never made"))
        for clock.now in (3.0, 11.0, 12.0, 22.0):
            of_step(clock.now, 44, "loss 1.5")
        of_step.done()
        board.show(Step("report", "a.b", "", again=True)).done()
    with shown("cuts", Console(file=io.StringIO())) as progress:
        for clock.now in (30.0, 40.0):
            progress(clock.now, 44)
        for clock.now in (1000.0, 1011.0):  # other work of the same name
            progress(clock.now - 990, 44)
    assert capsys.readouterr().err.splitlines() == [
        "[1/2] trained_codec key (never made)",
        "    11/44 loss 1.5, 33 s left",
        "    22/44 loss 1.5, 22 s left",
        "[2/2] report a.b (made before, tables and pages go back to it)",
        "    cuts 40/44, 4 s left",
        "    cuts 10/44",
        "    cuts 21/44, 23 s left",
    ]


def test_a_terminal_gets_a_bar_with_a_name() -> None:
    terminal = io.StringIO()
    with shown("maps", Console(file=terminal, force_terminal=True, width=100)) as progress:
        progress(3, 7, "maps predicted")
        progress(1, 9, "maps predicted")
    assert "maps" in terminal.getvalue() and "1/9" in terminal.getvalue()


@pytest.mark.parametrize(
    ("words", "said"),
    [([], r"Says a thing.\n\nmissing a required argument: 'dataset'"), (["no"], "^thing.py: no is not here$")],
)
def test_a_script_ends_in_a_line(monkeypatch: pytest.MonkeyPatch, words: list[str], said: str) -> None:
    def main(dataset: str) -> None:
        raise FoveaError(f"{dataset} is not here")

    monkeypatch.setattr("sys.argv", ["results/thing.py", *words])
    with pytest.raises(SystemExit) as ended:
        script(main, "Says a thing.\n")
    assert re.search(said, str(ended.value))


def test_brackets_in_what_is_shown_are_no_markup() -> None:
    terminal = io.StringIO()
    why, partition, note = "the glob '[abc]*.png' in /data [/old] fits none", "street[x]", "loss [dim] 1 [/]"
    with Board(2, Console(file=terminal, force_terminal=True, width=200, color_system=None), parallel=2) as board:
        board.show(Step("source_frames", partition, why))(3, 7, note)
    with shown("maps [/red]", Console(file=terminal, force_terminal=True, width=200)) as progress:
        progress(1, 9)
    assert all(text in terminal.getvalue() for text in (f"[1/2] source_frames {partition} {why}", note, "maps [/red]"))
