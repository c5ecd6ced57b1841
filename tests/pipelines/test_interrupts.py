"""An interrupt ends a step wherever it comes, and is never taken for a failure to try again."""

from pathlib import Path

import dagster as dg
import pytest

from assets.chain import Chain
from assets.home import Home
from pipelines import launch, resources
from pipelines.instance import prepare_instance
from pipelines.plan import plan


@pytest.mark.parametrize("where", ["result_of", "make", "log"])
def test_an_interrupt_ends_a_step(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOVEA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FOVEA_CONFIG", str(tmp_path))
    (tmp_path / "fovea.toml").write_text("[datasets.sample]\ncounts = { train = 1, val = 1, test = 1 }\n")
    tried = []

    def interrupt(*_: object, **__: object) -> None:
        tried.append(1)
        raise dg.DagsterExecutionInterruptedError

    chain = Chain(Home.from_environment(), threads=1)
    if where == "result_of":
        monkeypatch.setattr(resources, "result_of", interrupt)
    elif where == "make":
        monkeypatch.setattr(Chain, "make", interrupt)
    else:
        monkeypatch.setattr(resources, "progress_of", interrupt)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    prepare_instance(chain.home)
    with dg.DagsterInstance.get() as instance:
        step = plan(chain, [("source_frames", "sample")])[0]
        with pytest.raises(KeyboardInterrupt):
            launch.made_in_process(chain, instance, step, {}, lambda *_: None)
        ended = [run.status for run in instance.get_runs()]
    assert len(tried) == 1
    assert ended == [dg.DagsterRunStatus.FAILURE]
