"""What the sensor asks for, tick by tick, on real folders; what schedules ask for, and jobs beside other work."""

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import numpy as np
import pytest
from PIL import Image

from assets.datasets import add_dataset, load_registry, remove_dataset
from assets.home import Home
from assets.stages import open_chain
from pipelines import schedules
from pipelines.definitions import defs
from pipelines.instance import prepare_instance
from pipelines.launch import one_run_at_a_time
from pipelines.schedules import Wanted, bring_up_to_date, folder_state, new_pictures, nightly

STAGES = ("source_frames", "resized_frames", "saliency_maps", "rgba_frames")
Tick = Callable[[], list[dg.RunRequest] | str]


def draw(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        pixels = np.random.default_rng(seed).integers(0, 255, (64, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Seconds added to the time that the sensor sees."""
    from time import time

    clock = SimpleNamespace(later_s=0.0, time=lambda: time() + clock.later_s)
    monkeypatch.setattr(schedules, "time", clock)
    return clock


@pytest.fixture
def tick(instance: dg.DagsterInstance, installation: Path) -> Tick:
    """Evaluates the sensor as the daemon does: what it asks for, or why it asks for nothing. Keeps its cursor."""
    cursor: list[str | None] = [None]

    def ticked() -> list[dg.RunRequest] | str:
        told = new_pictures(dg.build_sensor_context(instance=instance, cursor=cursor[0]))
        if isinstance(told, dg.SkipReason):
            return told.skip_message or ""
        cursor[0] = told.cursor
        return list(told.run_requests or ())

    return ticked


def only(asked: list[dg.RunRequest] | str) -> dg.RunRequest:
    """The one request."""
    assert not isinstance(asked, str), asked
    (request,) = asked
    return request


def launched(instance: dg.DagsterInstance, request: dg.RunRequest) -> dg.DagsterRun:
    """Its run, queued."""
    return instance.create_run_for_job(defs.resolve_job_def("frames"), tags=dict(request.tags))


def make_frames(name: str, instance: dg.DagsterInstance) -> None:
    """As a run does, which tells Dagster."""
    chain = open_chain()
    for stage in STAGES:
        chain.make(stage, name)
        instance.report_runless_asset_event(dg.AssetMaterialization(stage, partition=name))


def test_a_failed_run_is_asked_for_again_after_an_hour_and_a_changed_folder_at_once(
    installation: Path, instance: dg.DagsterInstance, tick: Tick, clock: SimpleNamespace
) -> None:
    folder = installation / "pictures"
    draw(folder, "a.png", "b.png", "c.png")
    add_dataset(installation, "two", folder, splits="1/1/1")
    first = only(tick())
    run = launched(instance, first)
    clock.later_s = 7200
    assert "is under way" in tick(), "not while it is queued or runs, however long"
    clock.later_s = 0
    instance.report_run_failed(run)
    assert "an hour after" in tick() and "an hour after" in tick()
    clock.later_s = 3700
    again = only(tick())
    assert again.tags == first.tags and again.run_key != first.run_key
    instance.report_run_failed(launched(instance, again))
    clock.later_s = 0
    assert "an hour after" in tick()
    draw(folder, "d.png")
    changed = launched(instance, only(tick()))
    make_frames("two", instance)
    instance.report_run_canceled(changed)
    clock.later_s = 3700
    assert tick() == [] and tick() == "no registered folder changed"


def test_a_dataset_added_again_with_another_size_is_another_run(
    installation: Path, instance: dg.DagsterInstance, tick: Tick
) -> None:
    draw(installation / "pictures", "a.png", "b.png", "c.png")
    asked = []
    for size in ("native", "48x32"):
        add_dataset(installation, "two", installation / "pictures", splits="1/1/1", size=size)
        asked.append(only(tick()))
        instance.report_run_canceled(launched(instance, asked[-1]))
        make_frames("two", instance)
        remove_dataset(installation, "two")
    assert asked[0].run_key != asked[1].run_key


def test_the_state_of_a_folder_follows_links_and_sees_no_other_files(installation: Path) -> None:
    folder = installation / "pictures"
    draw(installation / "elsewhere", "a.png", "b.png")
    folder.mkdir()
    (folder / "more").symlink_to(installation / "elsewhere")
    (folder / "gone.png").symlink_to(installation / "nowhere.png")
    add_dataset(installation, "linked", folder, splits="1/1/0")

    def state() -> str:
        return folder_state(load_registry(installation)["linked"], folder)

    before = state()
    (folder / "notes.txt").write_text("no picture")
    assert state() == before
    draw(installation / "elsewhere", "c.png")
    assert state() != before


def test_a_folder_that_cannot_be_read_keeps_no_other_waiting(
    installation: Path, tick: Tick, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("bad", "good"):
        draw(installation / name, "a.png", "b.png")
        add_dataset(installation, name, installation / name, splits="1/1/0")
    look = schedules.find_pictures

    def refused(root: Path) -> list[str]:
        if root.name == "bad":
            raise schedules.FoveaError("bad: the folder can't be listed")
        return look(root)

    monkeypatch.setattr(schedules, "find_pictures", refused)
    assert only(tick()).partition_key == "good"


# ---- schedules


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("", "no sweep has been run yet"),
        ("sample.smokee", "unknown sweep 'smokee'; did you mean 'smoke'"),
        ("moon.smoke,sample.smoke", None),
    ],
)
def test_a_sweep_that_is_not_there_is_named_and_keeps_no_other(
    named: str, said: str | None, installation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOVEA_NIGHTLY", named)
    told = nightly(dg.build_schedule_context())
    if said is None:
        assert isinstance(told, dg.RunRequest)
        assert told.run_config["ops"]["bring_up_to_date"]["config"]["sweeps"] == ["sample.smoke"]
    else:
        assert isinstance(told, dg.SkipReason) and said in str(told.skip_message)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"sweeps": ["sampel.smoke"]}, "unknown dataset 'sampel'; did you mean 'sample'?"),
        ({"sweeps": ["sample.smok"]}, "unknown sweep 'smok'; did you mean 'smoke'?"),
        ({"sweeps": ["smoke"]}, "'smoke' is no sweep; write dataset.sweep, for example sample.smoke"),
        ({"sweeps": [], "units": ["rgba_frame sample"]}, "unknown asset 'rgba_frame'; did you mean 'rgba_frames'?"),
        (
            {"sweeps": [], "units": ["rgba_frames sampel"]},
            "rgba_frames: unknown partition 'sampel'; did you mean 'sample'?",
        ),
        (
            {"sweeps": [], "units": ["trunk_codec shiped-light"]},
            "trunk_codec: unknown partition 'shiped-light'; did you mean 'shipped-light'?",
        ),
        (
            {"sweeps": [], "units": ["rgba_frames sampel", "rgba_frame sample"]},
            "rgba_frames: unknown partition 'sampel'; did you mean 'sample'?; unknown asset 'rgba_frame'; did you mean",
        ),
        ({"sweeps": []}, "nothing to do: name a sweep, such as sample.smoke, or a unit"),
    ],
)
def test_a_wrong_name_in_a_form_fails_once_and_says_what_was_meant(
    asked: dict[str, list[str]], said: str, installation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", "")
    prepare_instance(Home.from_environment())
    with dg.DagsterInstance.get() as kept:
        config = {"ops": {"bring_up_to_date": {"config": asked}}}
        done = defs.resolve_job_def("sweep").execute_in_process(config, instance=kept, raise_on_error=False)
        (failed,) = [event.step_failure_data for event in done.all_events if event.is_step_failure]
        assert failed.user_failure_data and str(failed.user_failure_data.description).startswith(said)
        run = kept.get_run_by_id(done.run_id)
        assert run is not None and run.tags["dagster/will_retry"] == "false"
        assert not [row for axis in ("datasets", "trunk_codec") for row in kept.get_dynamic_partitions(axis)]


def test_the_form_of_a_dataset_asks_for_its_folder_alone() -> None:
    job = defs.resolve_job_def("register_dataset")
    with pytest.raises(dg.DagsterInvalidConfigError, match='Missing required config entry "path"'):
        job.execute_in_process({"ops": {"register": {"config": {"name": "mine"}}}})
    assert dg.validate_run_config(job, {"ops": {"register": {"config": {"path": "/pictures"}}}})


def test_a_form_makes_a_unit_with_what_it_is_made_from_and_registers_what_was_looked_at(
    installation: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", "")
    prepare_instance(Home.from_environment())
    draw(installation / "pictures", "a.png", "b.png")
    (installation / "eyes.csv").write_text("foo,bar\n1,2\n")

    def launch(job: str, op: str, **config: Any) -> str:
        done = defs.resolve_job_def(job).execute_in_process(
            {"ops": {op: {"config": config}}}, instance=kept, raise_on_error=False
        )
        failed = [e.step_failure_data.user_failure_data for e in done.all_events if e.is_step_failure]
        return str(failed[0].description) if failed and failed[0] else ""

    with dg.DagsterInstance.get() as kept:
        given = {"name": "mine", "path": str(installation / "pictures")}
        said = launch("register_dataset", "register", **given, fixations=str(installation / "eyes.csv"))
        assert "eyes.csv: no column image, subject, x, y" in said and "mine" not in load_registry(installation)
        (installation / "broken").mkdir()
        (installation / "broken/a.png").write_bytes(b"none")
        said = launch("register_dataset", "register", name="mine", path=str(installation / "broken"))
        assert "has no usable picture: a, not a PNG" in said and "mine" not in load_registry(installation)
        assert launch("register_dataset", "register", **given, splits="1/0/1") == ""
        assert "mine has 1 test picture (with fewer than" in capfd.readouterr().err
        assert launch("sweep", "bring_up_to_date", sweeps=[], units=["rgba_frames mine"]) == ""
        assert kept.get_materialized_partitions(dg.AssetKey("rgba_frames")) == {"mine"}


def test_a_run_that_was_launched_from_a_form_is_found_by_its_sweeps(
    installation: Path, instance: dg.DagsterInstance
) -> None:
    job, made = defs.resolve_job_def("sweep"), list[str]()
    for sweeps in (["moon.smoke", "moon.arms"], ["moon.arms"]):
        config = {"ops": {"bring_up_to_date": {"config": {"sweeps": sweeps}}}}
        done = job.execute_in_process(run_config=config, instance=instance, raise_on_error=False)
        made.append(done.run_id)
        assert not done.success

    def found(**tags: str) -> list[str]:
        return [run.run_id for run in instance.get_runs(dg.RunsFilter(tags=tags))][::-1]

    assert found(**{"fovea/sweep.moon.smoke": "yes"}) == made[:1] and found(**{"fovea/sweep.moon.arms": "yes"}) == made
    assert found(**{"fovea/sweep": "moon.arms"}) == made[1:]


def test_a_job_waits_for_the_run_that_is_at_work(
    installation: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, made = Home.from_environment(), list[str]()
    monkeypatch.setattr(schedules, "brought_up_to_date", lambda _, __, name, *___: made.append(name) or ())
    taken, free = threading.Event(), threading.Event()

    def work() -> None:
        with one_run_at_a_time(home):
            taken.set()
            free.wait(30)

    worker = threading.Thread(target=work)
    worker.start()
    taken.wait(30)
    context = dg.build_op_context(instance=instance)
    wanted = Wanted(sweeps=[], units=["source_frames sample"])
    with monkeypatch.context() as patched:
        patched.setattr(schedules, "WAIT_S", 0.2)
        with pytest.raises(Exception, match="another `fovea run` works on"):
            bring_up_to_date(context, wanted)
    threading.Timer(0.5, free.set).start()
    bring_up_to_date(context, wanted)
    worker.join()
    assert made == ["source_frames sample"]
