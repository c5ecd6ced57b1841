import json
import logging
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
from servers.mlflow_server import MlflowServer

from models.errors import FoveaError
from pipelines import mlflow_tracking
from pipelines.journal import Journal
from pipelines.mlflow_store import MlflowStore, Unreachable, clean_name, redacted
from pipelines.mlflow_tracking import MlflowTracker, shown

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def home(template, tmp_path, monkeypatch):
    monkeypatch.setattr(mlflow_tracking, "SYSTEM_METRICS_S", 3600.0)  # else a slow machine adds rows
    folder = tmp_path / "mlflow"
    folder.mkdir()
    shutil.copy(template, folder / "mlflow.db")
    return folder


@pytest.fixture
def tracker(home):
    return MlflowTracker(home, "")


def client(tracker):
    return tracker.store.connect()


def rows(home, query):
    with closing(sqlite3.connect(home / "mlflow.db")) as database:
        return database.execute(query).fetchall()


@pytest.fixture
def outage(tracker, monkeypatch):
    """While it is entered, MLflow is away."""

    @contextmanager
    def away():
        with monkeypatch.context() as patch:
            patch.setattr(tracker.store, "connect", mock.Mock(side_effect=Unreachable("Connection refused")))
            yield

    return away


def start(tracker, key="k1", **more):
    return tracker.run(**{"experiment": "fovea-sample", "name": "arm", "key": key, **more})


def as_another_process(home):
    """A tracker that shares nothing in memory with those before it."""
    mlflow_tracking._adopted.clear()
    return MlflowTracker(home, "")


def test_a_whole_story(tracker, home, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t-value")
    run = start(tracker, tags={"dagster.run_id": "d1"})
    run.log_params({"lr": 1e-3, "lmbda": [0.1, 0.2], "arm": "gain@center", "a@b": 1})
    run.log_metrics([(0, {"loss": 2.0}), (10, {"loss": 1.0, "bad@name": float("nan")})])
    run.log_inputs({"sample": "d" * 64}, "train")
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"w")
    run.log_artifact(weights, "codec")
    weights.unlink()
    run.log_figure(b"png", "curves/rd.png")
    run.log_table([{"bpp": 0.5, "psnr_db": float("nan")}, {"bpp": 1, "note": Path("x")}], "tables/rd")
    run.finish()

    found = client(tracker).get_run(run.run_id)
    assert found.info.status == "FINISHED" and found.info.run_name == "arm"
    assert found.data.params == {"lr": "0.001", "lmbda": "[0.1, 0.2]", "arm": "gain@center", "a_b": "1"}
    told = {"fovea.key": "k1", "dagster.run_id": "d1"}
    assert {k: v for k, v in found.data.tags.items() if not k.startswith("mlflow.")} == told
    own = ("runName", "source.name", "source.type", "source.git.commit", "loggedArtifacts")
    assert set(found.data.tags) == {*told, *(f"mlflow.{name}" for name in own)}
    assert b"s3cr3t-value" not in (home / "mlflow.db").read_bytes()  # nothing of the environment is logged
    assert [(m.step, m.value) for m in client(tracker).get_metric_history(run.run_id, "loss")] == [(0, 2.0), (10, 1.0)]
    assert "bad_name" in found.data.metrics
    (dataset,) = found.inputs.dataset_inputs
    assert dataset.dataset.name == "sample" and dataset.dataset.digest == "d" * 36
    assert json.loads(dataset.dataset.source)["digest"] == "d" * 64
    assert {t.key: t.value for t in dataset.tags} == {"mlflow.data.context": "train"}
    where = home / "artifacts" / "fovea-sample" / run.run_id / "artifacts"
    assert (where / "codec" / "weights.bin").read_bytes() == b"w"
    assert (where / "curves" / "rd.png").read_bytes() == b"png"
    table = json.loads((where / "tables" / "rd.json").read_text())
    assert table == {"columns": ["bpp", "psnr_db", "note"], "data": [[0.5, None, None], [1, None, "x"]]}
    assert json.loads(found.data.tags["mlflow.loggedArtifacts"]) == [{"path": "tables/rd.json", "type": "table"}]
    assert not [p for p in (home / "journal" / "spool").rglob("*") if p.is_file()]
    assert not Path("mlruns").exists() and not Path("mlflow.db").exists()
    default = client(tracker).get_experiment_by_name("Default")
    assert default.artifact_location.startswith("file:///") and default.artifact_location.endswith("artifacts/0")


def test_logging_everything_again_changes_nothing(tracker, home):
    for _ in range(2):
        run = start(tracker)
        run.log_params({"lr": 1e-3})
        run.log_metrics([(s, {"loss": s / 2}) for s in range(20)])
        run.log_inputs({"sample": "d1"}, "train")
        run.log_table([{"a": 1}], "t")
        run.finish()
    assert rows(home, "select count(*), count(distinct step) from metrics") == [(20, 20)]
    assert rows(home, "select count(*) from runs") == rows(home, "select count(*) from params") == [(1,)]
    assert rows(home, "select count(*) from inputs") == [(1,)]
    assert len(json.loads(client(tracker).get_run(run.run_id).data.tags["mlflow.loggedArtifacts"])) == 1


def test_the_same_key_is_the_same_run_in_another_process(tracker, home):
    first = start(tracker)
    first.log_metrics([(0, {"loss": 1.0}), (1, {"loss": 2.0})])
    first.finish("FAILED")
    again = start(as_another_process(home))
    again.log_metrics([(1, {"loss": 7.0}), (2, {"loss": 3.0})])
    tracker = as_another_process(home)
    tracker.flush()
    assert again.run_id == first.run_id
    assert rows(home, "select step, value from metrics order by step") == [(0, 1.0), (1, 2.0), (2, 3.0)]
    assert client(tracker).get_run(first.run_id).info.status == "RUNNING"
    start(tracker).finish()
    assert client(tracker).get_run(first.run_id).info.status == "FINISHED"


def test_failed_and_resumed_before_the_server_hears_of_either(tracker, outage):
    with outage():
        run = start(tracker)
        run.log_metrics([(0, {"loss": 1.0})])
        run.finish("FAILED")
        run.log_metrics([(1, {"loss": 1.0})])
    tracker.flush()
    assert client(tracker).get_run(run.run_id).info.status == "RUNNING"


@pytest.mark.parametrize("lost", ["journal", "progress"])
def test_what_the_server_has_is_found_by_tag_and_not_doubled(tracker, home, lost):
    first = start(tracker)
    first.log_metrics([(s, {"loss": s}) for s in range(2500)])
    first.finish()
    run_id, journal = first.run_id, Journal.of(home / "journal", "k1")
    if lost == "journal":
        shutil.rmtree(home / "journal")
    else:  # sent, and killed before that was written down
        journal.save_progress("local", replace(journal.progress("local"), offset=0))
    again = start(as_another_process(home))
    again.log_metrics([(s, {"loss": s}) for s in range(2503)])
    again.finish()
    assert again.run_id == run_id
    assert rows(home, "select count(*), count(distinct step) from metrics") == [(2503, 2503)]


def test_a_run_or_store_that_was_deleted_is_told_again(tracker, home, template):
    first = start(tracker)
    first.log_metrics([(0, {"loss": 1.0})])
    first.finish()
    deleted = first.run_id
    client(tracker).delete_run(deleted)
    tracker = as_another_process(home)
    second = start(tracker)
    assert second.run_id != deleted and client(tracker).get_run(second.run_id).data.metrics == {"loss": 1.0}
    client(tracker).delete_run(second.run_id)  # under a run that is open
    second.log_metrics([(1, {"loss": 2.0})])
    second.finish()
    assert len(client(tracker).get_metric_history(second.run_id, "loss")) == 2


def test_what_stands_now_takes_the_place_of_what_stood_and_told_again_changes_nothing(tracker, home):
    def found() -> list[tuple[int, float]]:
        return [(m.step, m.value) for m in client(tracker).get_metric_history(run.run_id, "bpp")]

    run = start(tracker)
    run.finish()
    for value, stands in ((0.5, [0.5]), (0.4, [0.5, 0.4]), (0.40000004, [0.5, 0.4]), (0.5, [0.5, 0.4, 0.5])):
        tracker = as_another_process(home)
        run = start(tracker)
        run.log_latest({"bpp": value})
        run.finish()
        assert found() == list(enumerate(stands)), "a value that was there before is found again, too"
    assert client(tracker).get_run(run.run_id).data.metrics == {"bpp": 0.5}
    assert client(tracker).get_run(run.run_id).info.status == "FINISHED"
    for progress in home.rglob("*.progress*"):
        progress.unlink()
    start(as_another_process(home)).finish()
    assert found() == [(0, 0.5), (1, 0.4), (2, 0.5)]


def test_parents(tracker):
    child = start(tracker, key="c1", parent_key="sweep s")
    parent = start(tracker, key="sweep s", name="Sweep s")
    other = start(tracker, key="c2", parent_key="sweep s")
    parent.finish()
    for run in (child, other):
        assert client(tracker).get_run(run.run_id).data.tags["mlflow.parentRunId"] == parent.run_id
    assert client(tracker).get_run(parent.run_id).info.run_name == "Sweep s"
    assert "mlflow.parentRunId" not in client(tracker).get_run(parent.run_id).data.tags


def test_params_cannot_change_but_training_goes_on(tracker, caplog):
    run = start(tracker)
    run.log_params({"lr": 1e-3})
    run.log_params({"lr": 2e-3, "seed": 0})
    run.log_params({"lr": 2e-3})
    run.finish()
    assert client(tracker).get_run(run.run_id).data.params == {"lr": "0.001", "seed": "0"}
    assert [r.message for r in caplog.records if "keeps lr=0.001" in r.message][1:] == []
    assert "keeps lr=0.001, the value 0.002 was not logged" in caplog.text


def test_ctrl_c_while_mlflow_is_imported_is_no_fault_of_its_own(tracker, monkeypatch, caplog):
    half = AttributeError("partially initialized module 'mlflow' has no attribute 'x'")
    monkeypatch.setattr(tracker.store, "connect", mock.Mock(side_effect=half))
    tracker.run(experiment="e", name="n", key="k").log_params({"lr": 1})
    tracker.flush()
    assert tracker.store.connect.called and "cannot be opened" not in caplog.text


def test_odd_names_and_values(tracker, caplog):
    run = start(tracker)
    run.log_params({"long": "x" * 7000, "../up": 1, "": 2})
    run.log_metrics([(0, {"loss": float("inf"), "none": None, "text": "x", "/abs//y": 1})])  # type: ignore[dict-item]
    run.finish()
    data = client(tracker).get_run(run.run_id).data
    assert len(data.params["long"]) == 6000 and "7000 characters" in data.params["long"]
    assert set(data.metrics) == {"loss", "abs/y"} and {"up", "_"} < set(data.params)
    assert "metric none: None is no number" in caplog.text
    assert clean_name("rd/psnr_db@kodak") == "rd/psnr_db_kodak" and clean_name("a" * 300) == "a" * 250
    assert shown("a" * 6001) != shown("a" * 6000 + "b") and shown({"b": 1, "a": 2}) == '{"a": 2, "b": 1}'


def test_what_a_user_may_get_wrong(tracker, tmp_path):
    run = start(tracker)
    with pytest.raises(FoveaError, match="DONE"):
        run.finish("DONE")
    with pytest.raises(FoveaError, match="does not exist"):
        run.log_artifact(tmp_path / "gone.png")
    with pytest.raises(FoveaError, match="quotes"):
        start(tracker, key="a'b\"c")
    with pytest.raises(FoveaError, match="no codec in"):
        tracker.register_model(run, folder=tmp_path, name="fovea-x")
    assert start(tracker, key="it's").run_id == start(tracker, key="it's").run_id != run.run_id


def test_an_outage_is_said_once_and_made_up_for(tracker, home, outage, caplog):
    run = start(tracker)
    with outage():
        for step in range(100):
            run.log_metrics([(step, {"loss": 1.0, "bpp": 2.0})])
        run.log_figure(b"x", "x.png")
        run.finish()
        fresh = start(tracker, key="k2", parent_key="k1")
        fresh.log_metrics([(0, {"loss": 1.0})])
        assert fresh.run_id == ""
        fresh.finish()
        said = [r.message for r in caplog.records]
        assert len(said) == 1 and "201 values wait in" in said[0] and "Connection refused" in said[0]
        tracker.flush()
        assert "204 values" in caplog.records[-1].message or "values for MLflow" in caplog.records[-1].message
    tracker.flush()
    assert "answers again" in caplog.text
    assert rows(home, "select count(*), count(distinct key || step || run_uuid) from metrics") == [(201, 201)]
    assert client(tracker).get_run(fresh.run_id).info.status == "FINISHED"
    assert client(tracker).get_run(fresh.run_id).data.tags["mlflow.parentRunId"] == run.run_id
    assert not tracker.waiting()


@pytest.mark.parametrize("error", [KeyError("config"), FoveaError("no codec")])
def test_a_run_that_mlflow_cannot_take_holds_back_no_other(tracker, home, outage, tmp_path, monkeypatch, caplog, error):
    codec = tmp_path / "codec"
    codec.mkdir()
    (codec / "codec.json").write_text("{}")

    with outage():
        bad = start(tracker, key="bad", name="bad arm")
        tracker.register_model(bad, folder=codec, name="m")
        for key in "abcdefgh":
            start(tracker, key=key).finish()
        tracker.close()  # else its thread may say it, too
    caplog.clear()
    monkeypatch.setattr(MlflowStore, "_register", mock.Mock(side_effect=error))
    later = as_another_process(home)
    for _ in range(2):
        later.flush()
    assert [j.header()["key"] for j in Journal.all(later.journals) if j.waits("local")] == ["bad"]
    assert rows(home, "select count(*) from runs where status = 'FINISHED'") == [(8,)]
    (said,) = [r.message for r in caplog.records if "does not take" in r.message]
    assert "run 'bad arm'" in said and type(error).__name__ in said and "its 1 values wait" in said
    assert not later.send(bad.journal), "it rests, too, until the next flush"
    monkeypatch.setattr(MlflowStore, "_register", lambda *_: None)
    later.flush()
    assert not later.waiting()


def test_a_journal_whose_first_record_is_torn_has_no_table_and_is_begun_again(tracker, home):
    whole = start(tracker, key="whole")
    journal = Journal.of(tracker.journals, "torn")
    journal.path.write_bytes(b'\n{"op":"run","exper\n{"op":"tags","tags":{"a":"b"}}\n')
    assert list(tracker.tables()) == ["fovea-sample"]
    start(tracker, key="torn").finish()
    assert rows(home, "select count(*) from runs") == [(2,)] and whole.run_id


def test_errors_while_sending_neither_lose_nor_double(tracker, home, monkeypatch):
    run = start(tracker)
    real, chance = client(tracker).log_batch, random.Random(3)

    def flaky(*args, **more):
        if chance.random() < 0.4:
            raise ConnectionError("before")
        real(*args, **more)
        if chance.random() < 0.4:
            raise ConnectionError("after")

    monkeypatch.setattr(client(tracker), "log_batch", flaky)
    for start_at in range(0, 1500, 100):
        run.log_metrics([(s, {"a": s, "b": s}) for s in range(start_at, start_at + 100)])
        tracker.flush()
    for _ in range(50):
        tracker.flush()
    found = rows(home, "select key, count(*), count(distinct step) from metrics group by key")
    assert found == [("a", 1500, 1500), ("b", 1500, 1500)]


def test_a_server_that_is_not_there_costs_little(home, caplog):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    tracker = MlflowTracker(home, f"http://someone:hunter2@127.0.0.1:{port}/?token=t0psecret")
    run = start(tracker, tags={"x": "y"})
    run.log_metrics([(0, {"loss": 1.0})])
    run.finish()
    tracker.flush()
    assert run.run_id == "" and f"MLflow at http://127.0.0.1:{port}/ does not answer" in caplog.text
    everything = caplog.text + "".join(p.read_text() for p in (home / "journal").rglob("*") if p.is_file())
    for secret in ("hunter2", "someone", "t0psecret"):
        assert secret not in everything


def test_addresses_are_shown_without_credentials(tmp_path):
    assert redacted("https://u:p@h:5000/x?k=v") == "https://h:5000/x"
    assert redacted("postgresql+psycopg2://u:p%40q@db/mlflow") == "postgresql+psycopg2://db/mlflow"
    uri = "https://u5er:p%40ss@h/x"
    assert "p@ss" not in MlflowStore(tmp_path, uri).scrubbed(f"failed for {uri}, p%40ss, p@ss, u5er")
    assert MlflowTracker(tmp_path, "http://u:p@h:1").store.name == "http://h:1"
    assert MlflowTracker(tmp_path, "").store.name == f"sqlite:///{tmp_path}/mlflow.db"


def test_system_metrics_of_runs_that_train(tracker, home, monkeypatch):
    monkeypatch.setattr(mlflow_tracking, "SEND_EVERY_S", 0.05)
    monkeypatch.setattr(mlflow_tracking, "SYSTEM_METRICS_S", 0.3)
    training, idle = start(tracker), start(tracker, key="idle")
    training.log_metrics([(0, {"loss": 1.0})])
    query = "select run_uuid, key, step from metrics where key like 'system/%'"
    deadline = time.monotonic() + 20
    while len({step for _, _, step in rows(home, query)}) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    training.finish()
    found = rows(home, query)
    assert {run for run, _, _ in found} == {training.run_id} != {idle.run_id}
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_percentage"} <= {k for _, k, _ in found}
    assert len(found) == len({(k, s) for _, k, s in found}) >= 8


PRELUDE = """
import os, sys
from pathlib import Path
from pipelines import mlflow_tracking
from pipelines.mlflow_tracking import MlflowTracker
import mlflow.store.tracking.sqlalchemy_store, mlflow.tracking  # paid once, before the forks

mlflow_tracking.SEND_EVERY_S, mlflow_tracking.SYSTEM_METRICS_S = 0.005, 3600.0
home = Path(sys.argv[1])

def forked(work):
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    return pid
"""
TRAINING = """
checkpoint, steps = Path(sys.argv[2]), int(sys.argv[3])

def train():
    run = MlflowTracker(home, "").run(experiment="e", name="n", key="k", parent_key="p")
    run.log_params({"lr": 1})
    step = int(checkpoint.read_text()) if checkpoint.exists() else 0
    while step < steps:
        run.log_metrics([(step, {"loss": float(step), "bpp": 2.0 * step, "nan": float("nan")})])
        step += 1
        if step % 20 == 0:
            beside = checkpoint.with_suffix(".tmp")
            beside.write_text(str(step))
            beside.replace(checkpoint)
    run.finish()

for line in sys.stdin:  # one trained-until-killed child a line
    pid = forked(train)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
AT_ONCE = """
def work():
    tracker = MlflowTracker(home, "")
    for key in range(4):
        run = tracker.run(experiment="e", name="n", key=f"k{key}", parent_key="parent")
        for step in range(100):
            run.log_metrics([(step, {"a": step, "b": 1})])
        run.finish()
    tracker.close()

sys.exit(any(os.waitpid(pid, 0)[1] for pid in [forked(work) for _ in range(3)]))
"""


def script(code, *arguments, **more):
    """A process that runs PRELUDE and code."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", PRELUDE + code, *map(str, arguments)]
    return subprocess.Popen(command, text=True, env=environment, **more)


def test_killed_at_random_moments_each_step_is_logged_once(home, tmp_path):
    steps, chance, killed = 4000, random.Random(7), 0
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with script(TRAINING, home, tmp_path / "checkpoint", steps, **pipes) as trainer:
        for attempt in range(40):
            trainer.stdin.write("train\n")
            trainer.stdin.flush()
            pid = int(trainer.stdout.readline())
            if attempt < 12:
                time.sleep(chance.uniform(0.0, 0.6))
                os.kill(pid, signal.SIGKILL)
            code = int(trainer.stdout.readline())
            killed += code == -signal.SIGKILL
            if code == 0 and attempt >= 12:
                break
        trainer.stdin.close()
    assert killed >= 5
    assert rows(home, "select key, count(*), count(distinct step) from metrics group by key") == [
        (name, steps, steps) for name in ("bpp", "loss", "nan")
    ]
    assert rows(home, "select count(*), max(status) from runs where name = 'n'") == [(1, "FINISHED")]


def test_several_processes_at_once_on_a_fresh_home(tmp_path):
    with script(AT_ONCE, tmp_path / "mlflow", stderr=subprocess.PIPE) as done:
        said = done.communicate()[1]
    assert done.returncode == 0 and "does not" not in said, said
    runs = rows(tmp_path / "mlflow", "select name, count(*) from runs group by name order by name")
    assert runs == [("n", 4), ("parent", 1)]
    counts = "select count(*), count(distinct run_uuid || key || step) from metrics"
    assert rows(tmp_path / "mlflow", counts) == [(800, 800)]


@pytest.mark.e2e
@pytest.mark.slow
def test_a_real_server_that_goes_away_and_comes_back(template, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    served = tmp_path / "served-here"
    served.mkdir()
    shutil.copy(template, served / "mlflow.db")
    server = MlflowServer(served, started=False)
    tracker = MlflowTracker(tmp_path / "home", server.uri)
    try:
        early = start(tracker, key="early")  # the server is not there yet
        early.log_metrics([(0, {"loss": 1.0})])
        server.start()
        tracker.flush()
        assert early.run_id
        run = start(tracker, parent_key="early")
        run.log_metrics([(s, {"loss": s, "bpp": 1.0}) for s in range(300)])
        run.log_figure(b"png", "curves/rd.png")
        tracker.flush()
        server.stop()
        caplog.clear()
        for step in range(300, 600):
            run.log_metrics([(step, {"loss": step, "bpp": 1.0})])
        run.log_figure(b"png", "curves/later.png")
        run.finish()
        tracker.flush()
        assert caplog.text.count("does not answer") == 1 and "601 values" in caplog.text
        server.start()
        tracker.flush()
        query = "select key, count(*), count(distinct step) from metrics where key not like 'system/%' group by key"
        found = rows(served, query)
        assert found == [("bpp", 600, 600), ("loss", 601, 600)]
        assert client(tracker).get_run(run.run_id).info.status == "FINISHED"
        paths = {a.path for a in client(tracker).list_artifacts(run.run_id, "curves")}
        assert paths == {"curves/rd.png", "curves/later.png"} and tracker.run_url(run.run_id).startswith(server.uri)
    finally:
        server.stop()
        tracker.close()
