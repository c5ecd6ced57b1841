"""An interrupt ends a step wherever it comes, and is never taken for a failure to try again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import dagster as dg
import pytest
from click.testing import CliRunner
from commands import ROOT

from assets.chain import Chain
from assets.stages import open_chain
from models.errors import FoveaError
from pipelines import launch
from pipelines.cli import main
from pipelines.instance import prepare_instance
from pipelines.schedules import sweep


def test_an_interrupt_ends_the_run(installation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (installation / "fovea.toml").write_text("[datasets.sample]\ncounts = { train = 1, val = 1, test = 1 }\n")
    chain, make = open_chain(threads=1), mock.Mock(side_effect=KeyboardInterrupt)
    monkeypatch.setattr(Chain, "make", make)
    prepare_instance(chain.home)
    with pytest.raises(KeyboardInterrupt):
        launch.run_targets(chain, [("source_frames", "sample")], sweep)
    with dg.DagsterInstance.get() as instance:
        ended = [run.status for run in instance.get_runs()]
    make.assert_called_once()
    assert ended == [dg.DagsterRunStatus.CANCELED]


def test_an_interrupt_ends_a_step_that_the_ui_launched(
    launched: Callable[..., dg.ExecuteInProcessResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    make = mock.Mock(side_effect=dg.DagsterExecutionInterruptedError)
    monkeypatch.setattr(Chain, "make", make)
    assert not launched("source_frames", "sample").success
    make.assert_called_once()


def test_an_absent_cluster_does_not_hide_an_interrupt(
    installation: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    profile = '[profiles.cluster]\nexecutor = "ray"\nray_address = "http://127.0.0.1:9"\n'
    (installation / "fovea.toml").write_text(profile)
    monkeypatch.setenv("FOVEA_PROFILE", "cluster")
    end = mock.Mock(side_effect=[None, FoveaError("Ray at http://127.0.0.1:9 does not answer")])
    workers = mock.MagicMock(count=1, make=mock.Mock(side_effect=KeyboardInterrupt))
    workers.__enter__.return_value, workers.__exit__.return_value = workers, None
    monkeypatch.setattr(launch, "end_orphans", end)
    monkeypatch.setattr(launch, "Workers", lambda *_, **__: workers)
    chain = open_chain(threads=1)
    prepare_instance(chain.home)
    with pytest.raises(KeyboardInterrupt):
        launch.run_targets(chain, [("source_frames", "sample")], sweep)
    assert end.call_count == 2 and "does not answer; steps that still run there" in caplog.text


class Destroyed:
    """Calls a function where Python drops what is raised."""

    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function

    def __del__(self) -> None:
        self.function()


@pytest.mark.parametrize(
    ("words", "asks", "way"),
    [("run", "runs.sweep_of", "; run the same command again and it goes on from here"), ("datasets list", "datasets.chain_here", "")],
)  # fmt: skip
@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_is_answered_at_once_in_one_line(
    sign: signal.Signals,
    dropped: bool,
    words: str,
    asks: str,
    way: str,
    installation: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: Any,
) -> None:
    heard: list[str] = []

    def interrupt() -> None:
        os.kill(os.getpid(), sign)
        time.sleep(0)

    def busy(*_: object, **__: object) -> None:
        began = time.monotonic()
        try:
            if dropped:
                Destroyed(interrupt)
            else:
                interrupt()
            time.sleep(30)
        finally:
            assert time.monotonic() - began < 20
            heard.append(capfd.readouterr().err)  # while the work is being ended

    before = signal.getsignal(sign)
    monkeypatch.setattr(f"pipelines.commands.{asks}", busy)
    done = CliRunner().invoke(main, words.split(), prog_name="python -m fovea")
    assert done.exit_code == 130 and signal.getsignal(sign) is before
    assert heard[0].strip() == f"fovea: stopping{way}"
    assert done.output + capfd.readouterr().err == ""


def test_an_interrupt_while_the_command_is_imported_says_nothing() -> None:
    """Nobody has said yet which command it is."""
    asked = """
import os, signal, sys, types

class Imported(types.ModuleType):
    def __getattr__(self, name):
        os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.modules["pipelines.cli"] = Imported("pipelines.cli")
from fovea.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")
