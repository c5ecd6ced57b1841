"""An interrupt ends a step wherever it comes, and is never taken for a failure to try again."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner

from assets.chain import Chain
from assets.stages import open_chain
from models.errors import FoveaError
from pipelines import launch, resources
from pipelines.assets import ASSETS
from pipelines.cli import main
from pipelines.instance import prepare_instance
from pipelines.partitions import offer
from pipelines.schedules import sweep


def test_an_interrupt_ends_the_run(installation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (installation / "fovea.toml").write_text("[datasets.sample]\ncounts = { train = 1, val = 1, test = 1 }\n")
    tried = []

    def interrupt(*_: object, **__: object) -> None:
        tried.append(1)
        raise KeyboardInterrupt

    chain = open_chain(threads=1)
    monkeypatch.setattr(Chain, "make", interrupt)
    prepare_instance(chain.home)
    with pytest.raises(KeyboardInterrupt):
        launch.run_targets(chain, [("source_frames", "sample")], sweep)
    with dg.DagsterInstance.get() as instance:
        ended = [run.status for run in instance.get_runs()]
    assert len(tried) == 1
    assert ended == [dg.DagsterRunStatus.CANCELED]


def test_an_interrupt_ends_a_step_that_the_ui_launched(installation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def interrupt(*_: object, **__: object) -> None:
        tried.append(1)
        raise dg.DagsterExecutionInterruptedError

    monkeypatch.setattr(Chain, "make", interrupt)
    with dg.DagsterInstance.ephemeral() as instance:
        offer(instance, [("source_frames", "sample")])
        done = dg.materialize(
            [asset for asset in ASSETS if asset.key == dg.AssetKey("source_frames")],
            partition_key="sample", instance=instance, raise_on_error=False,
            resources={"workshop": resources.FoveaWorkshop()},
        )  # fmt: skip
    assert not done.success and len(tried) == 1


def test_an_absent_cluster_does_not_hide_an_interrupt(
    installation: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (installation / "fovea.toml").write_text(
        '[profiles.cluster]\nexecutor = "ray"\nray_address = "http://127.0.0.1:9"\n'
    )
    monkeypatch.setenv("FOVEA_PROFILE", "cluster")
    ended: list[int] = []

    def end(*_: object, **__: object) -> None:
        ended.append(1)
        if len(ended) > 1:
            raise FoveaError("Ray at http://127.0.0.1:9 does not answer")

    class CarriesNothing:
        count = 1

        def __init__(self, *_: object, **__: object) -> None: ...

        def __enter__(self) -> "CarriesNothing":
            return self

        def __exit__(self, *_: object) -> None: ...

        def make(self, *_: object) -> str:
            raise KeyboardInterrupt

    monkeypatch.setattr(launch, "end_orphans", end)
    monkeypatch.setattr(launch, "Workers", CarriesNothing)
    chain = open_chain(threads=1)
    prepare_instance(chain.home)
    with pytest.raises(KeyboardInterrupt):
        launch.run_targets(chain, [("source_frames", "sample")], sweep)
    assert len(ended) == 2 and "does not answer; steps that still run there" in caplog.text


class Destroyed:
    """Calls a function where Python drops what is raised."""

    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function

    def __del__(self) -> None:
        self.function()


@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_is_answered_at_once_in_one_line(
    sign: signal.Signals,
    dropped: bool,
    installation: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    heard: list[str] = []

    def interrupt() -> None:
        os.kill(os.getpid(), sign)
        time.sleep(0)

    def busy(*_: object) -> None:
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
    monkeypatch.setattr("pipelines.commands.runs.sweep_of", busy)
    done = CliRunner().invoke(main, ["run"])
    assert done.exit_code == 130 and signal.getsignal(sign) is before
    assert heard[0].strip() == "fovea: stopping; run the same command again and it goes on from here"
    assert done.output + capfd.readouterr().err == ""
