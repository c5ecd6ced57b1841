import re
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import dagster as dg
import pandas as pd
import pytest
from click.testing import CliRunner
from dagster import DagsterRunStatus
from dagster._core.storage.partition_status_cache import AssetPartitionStatus

from assets.evaluation.checks import MEASURED
from assets.frames.stages import SourceFrames
from assets.graph import Check, Made, Unit
from assets.home import Home
from assets.stages import open_chain
from assets.world import World
from models.metrics import METRICS
from pipelines import launch
from pipelines.cli import main
from pipelines.instance import prepare_instance
from pipelines.launch import IN_PROCESS, end_orphans, one_run_at_a_time
from pipelines.partitions import axis, drawn, sync_rows
from pipelines.resources import FoveaWorkshop, events, failure_text, result_of
from pipelines.schedules import sweep


@dg.op
def nothing() -> None:
    pass


@dg.job
def idle() -> None:
    nothing()


def test_runs_of_killed_commands_are_ended_and_others_left_alone(instance: dg.DagsterInstance) -> None:
    ours = {"tags": {IN_PROCESS: "yes"}}
    killed = instance.create_run_for_job(idle, status=DagsterRunStatus.STARTED, **ours)
    waiting = instance.create_run_for_job(idle, status=DagsterRunStatus.NOT_STARTED, **ours)
    of_the_daemon = instance.create_run_for_job(idle, status=DagsterRunStatus.STARTED)
    end_orphans(instance)
    status = {run.run_id: run.status for run in instance.get_runs()}
    assert status[of_the_daemon.run_id] == DagsterRunStatus.STARTED
    assert status[killed.run_id] == status[waiting.run_id] == DagsterRunStatus.FAILURE


def test_one_run_at_a_time(installation: Path) -> None:
    home = Home.from_environment()
    with one_run_at_a_time(home):
        done = CliRunner().invoke(main, ["run", "--frames-only"])
    assert done.exit_code == 1 and "another `fovea run` works on" in done.output
    with one_run_at_a_time(home):
        pass


def test_a_plan_is_one_run_which_the_ui_can_launch_again(installation: Path) -> None:
    (installation / "fovea.toml").write_text("[datasets.sample]\ncounts = { train = 1, val = 1, test = 1 }\n")
    chain = open_chain(threads=1)
    wanted = [("source_frames", "sample"), ("resized_frames", "sample")]
    prepare_instance(chain.home)
    assert launch.run_targets(chain, wanted, sweep).made == 2
    with dg.DagsterInstance.get() as instance:
        (run,) = instance.get_runs()
        events = [e.dagster_event for e in instance.all_logs(run.run_id) if e.dagster_event]
        made = [e.step_materialization_data.materialization for e in events if e.is_step_materialization]
        assert instance.get_dynamic_partitions("datasets") == ["sample"]
        assert instance.get_dynamic_partitions("sweeps") == []
    assert (run.job_name, run.status) == ("sweep", DagsterRunStatus.SUCCESS)
    assert run.tags[".dagster/repository"] == "__repository__@fovea", "else no timeline shows it"
    assert run.tags["dagster/max_retries"] == "0", "the daemon would start a command of a terminal again"
    assert run.run_config["ops"]["bring_up_to_date"]["config"]["units"] == [" ".join(name) for name in wanted]
    assert [(m.asset_key.path[-1], m.partition) for m in made] == wanted
    checks = {e.asset_check_evaluation_data.check_name for e in events if "CHECK_EVALUATION" in e.event_type_value}
    assert {"splits_present", "no_frame_lost"} <= checks


def test_a_failure_is_told_to_the_run_with_its_stack(installation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.steps.RETRY", dg.RetryPolicy(max_retries=1, delay=0))
    monkeypatch.setattr(
        "assets.frames.stages.SourceFrames.make", mock.Mock(side_effect=RuntimeError("the lamp is out"))
    )
    chain = open_chain(threads=1)
    prepare_instance(chain.home)
    done = launch.run_targets(chain, [("source_frames", "sample"), ("resized_frames", "sample")], sweep)
    assert (done.failed, done.skipped) == (1, 1)
    place = r"RuntimeError in assets/chain.py, line \d+: the lamp is out"
    assert re.fullmatch(f"source_frames sample: {place}", *done.messages)
    step = mock.Mock(asset_key=dg.AssetKey("source_frames"), partition_key="sample")
    step.run.tags = {}
    with pytest.raises(dg.Failure) as caught:
        FoveaWorkshop(threads=1).materialize(step)
    assert re.fullmatch(place, caught.value.description or ""), "on a cluster"
    with dg.DagsterInstance.get() as instance:
        (run,) = instance.get_runs()
        said = [e.dagster_event for e in instance.all_logs(run.run_id) if e.dagster_event]
    stacks = [e.engine_event_data.error for e in said if e.is_engine_event and e.engine_event_data.error]
    assert run.status == DagsterRunStatus.FAILURE
    assert len(stacks) == 2 and all("the lamp is out" in s.message and s.stack for s in stacks)


def test_what_a_blocking_check_found_unfit_is_kept_and_shown_as_failed(
    installation: Path,
    instance: dg.DagsterInstance,
    launched: Callable[[str, str], dg.ExecuteInProcessResult],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (installation / "fovea.toml").write_text("[datasets.sample]\ncounts = { train = 1, val = 1, test = 1 }\n")
    key, asked = dg.AssetKey("source_frames"), [("source_frames", "sample")]

    def status(of: dg.DagsterInstance) -> AssetPartitionStatus | None:
        assert of.get_materialized_partitions(key) == {"sample"}
        return (of.get_status_by_partition(key, ["sample"], axis("source_frames")) or {})["sample"]

    real = SourceFrames.checks
    for holds, shown in ((False, AssetPartitionStatus.FAILED), (True, AssetPartitionStatus.MATERIALIZED)):
        checks = [c._replace(blocking=True, holds=lambda _, holds=holds: (holds, {"detail": "odd"})) for c in real]
        monkeypatch.setattr(SourceFrames, "checks", tuple(checks))
        chain = open_chain(threads=1)
        prepare_instance(chain.home)
        assert launch.run_targets(chain, asked, sweep).failed == (not holds)
        with dg.DagsterInstance.get() as kept:
            assert status(kept) is shown
        assert launched("source_frames", "sample").success is holds and status(instance) is shown


def test_rows_are_what_was_asked_for(installation: Path, instance: dg.DagsterInstance) -> None:
    home, stages, settings = Home.from_environment(), open_chain().stages, installation / "fovea.toml"
    (installation / "more").mkdir()
    (installation / "eyes.csv").write_text("image,subject,x,y\n")
    more = '[datasets.more]\npath = "more"\n'
    for text, datasets in (("", ["sample"]), (more, ["sample", "more"]), ("", ["sample"])):
        settings.write_text(text)
        sync_rows(instance, open_chain())
        assert instance.get_dynamic_partitions("datasets") == datasets
        # what a new graph offers; a folder adds no row but its own
        assert instance.get_dynamic_partitions("sweeps") == ["sample.smoke"]
        assert "fixation_maps" not in {s.name for s in drawn(stages, World(home))}
    settings.write_text(more + 'fixations = "eyes.csv"\n')
    assert {"fixation_maps", "saliency_model"} <= {s.name for s in drawn(stages, World(home))}


def test_a_failed_check_says_what_it_saw_until_it_holds(installation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = {"image": "a", "codec": "jpeg", "rate_name": "quality", "rate": 50.0, "bpp": 1.0, "psnr_db": 30.0}
    chain = open_chain()
    stage = chain.stages["classical_rd_points"]
    monkeypatch.setattr(type(stage), "checks", MEASURED)
    unit = Unit(stage.name, "some", {})

    def told(**values: float) -> str:
        with chain.store.writing(stage.name, unit.digest) as writer:
            row = dict.fromkeys(METRICS, 0.5) | point | values
            pd.DataFrame([row, row | {"ms_ssim": 0.5}]).to_parquet(writer.path("points.parquet"))
            writer.meta["facts"] = {}
        manifest = chain.store.manifest(stage.name, unit.digest)
        made = Made(unit, True, manifest, chain.store)
        chain.examine(made)
        shutil.rmtree(made.folder)
        _, *checks = events(stage.name, "some", result_of(made, chain))
        found = failure_text(checks)
        assert found == chain.failed(stage.name, unit.digest)
        return found

    said = told(ms_ssim=1.5, haarpsi=float("inf"))
    at = "a, jpeg at quality 50"
    assert said.startswith(f"check values_in_range failed: {at}: ms_ssim is 1.5; {at}: haarpsi is inf")
    assert chain.failed(stage.name, unit.digest) == said
    both = (*MEASURED, Check("colour", "", lambda made: (False, {"detail": "grey"}), True))
    both += (Check("shape", "", lambda made: (False, {}), True), Check("size", "", lambda made: (False, {})))
    with monkeypatch.context() as more:
        more.setattr(type(stage), "checks", both)
        assert told(ms_ssim=1.5).endswith("ms_ssim is 1.5; colour, shape failed, too")
    assert told(sw_psnr_db=float("nan")) == "" and chain.failed(stage.name, unit.digest) == ""
