"""What addresses of MLflow open, where its artifacts are, and how `fovea ui` starts it."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from assets.evaluation.report_stage import lead
from assets.home import Home
from models.errors import FoveaError
from pipelines import addresses, ui
from pipelines.addresses import Ports, note, noted, ports_of
from pipelines.mlflow_tracking import MlflowTracker, tracked_chain
from pipelines.mlflow_view import belongs, row_name
from pipelines.resources import mlflow_link


@pytest.fixture
def mlflow(template: Path, tmp_path: Path) -> Path:
    (tmp_path / "mlflow").mkdir()
    shutil.copy(template, tmp_path / "mlflow")
    return tmp_path / "mlflow"


def told(folder: Path, key: str = "k") -> str:
    """A run of a sweep with one artifact; its id."""
    tracker = MlflowTracker(folder, "")
    tags = {"fovea.stage": "sweep", "fovea.sweep": "sample.smoke"}
    run = tracker.run(experiment="fovea-sample", name="sweep sample.smoke", key=key, tags=tags)
    run.log_figure(b"png", "curves/rd.png")
    run.finish()
    tracker.close()
    return run.run_id


def test_addresses_open_runs_and_their_table_where_the_ui_is(mlflow: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FOVEA_MLFLOW_UI", raising=False)
    run_id, tracker = told(mlflow), MlflowTracker(mlflow, "")
    page, machine = f"/#/experiments/1/runs/{run_id}?workflowType=machine_learning", "http://127.0.0.1"
    note(mlflow.parent, Ports(3055, 5055))
    assert tracker.run_url(run_id) == f"{machine}:5055{page}"
    monkeypatch.setenv("FOVEA_MLFLOW_UI", f"{machine}:5066/")
    assert tracker.run_url(run_id) == f"{machine}:5066{page}"
    table = tracker.table_url(run_id, "sample.smoke")
    assert table == f"{machine}:5066/#/experiments/1/runs?viewStateShareKey=sample.smoke&workflowType=machine_learning"
    assert tracker.tables() == {"fovea-sample": table.replace("sample.smoke", "trainings")}
    told(mlflow, "sweep sample.smoke")
    assert tracker.tables() == {"sample.smoke": table}, (
        "a table for each sweep: those of all say twice what two have in common"
    )
    assert tracker.run_url("") == tracker.run_url("unknown") == tracker.table_url("unknown", "x") == ""
    experiment = tracker.store.connect().get_experiment("1")
    view = json.loads(experiment.tags["mlflow.sharedViewState.sample.smoke"])
    assert {"params.`arm`", "metrics.`bpp`", "metrics.`bd_rate_percent`"} <= set(view["selectedColumns"])
    assert set(view["selectedColumns"]) < set(view["columnOrder"]) == view["columnWidths"].keys()
    assert {c["yaxis"]["key"] for c in view["compareRunCharts"] if c["type"] == "SCATTER"} >= {"psnr_db", "sw_psnr_db"}
    assert "mlflow.sharedViewState.trainings" in experiment.tags
    # MLflow's own list opens an experiment as traces
    link = "[the run table](#/experiments/1/runs?viewStateShareKey=trainings&workflowType=machine_learning)"
    assert link in experiment.tags["mlflow.note.content"]


def test_a_home_keeps_the_first_free_ports_and_a_copy_of_it_gets_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = {5000, 3000, 3001}
    monkeypatch.setattr(addresses, "free", lambda port: port not in taken)
    home, copy = tmp_path / "home", tmp_path / "copy"
    assert ports_of(home) == Ports(3002, 5001)
    taken.clear()
    assert ports_of(home) == Ports(3002, 5001), "links that are stored go on working"
    shutil.copytree(home, copy)
    taken |= set(ports_of(home))
    own, again = Ports(3000, 5000), Ports(3002, 5001)
    assert ports_of(copy) == own and noted(copy) == (own, True, False)
    moved = home.rename(tmp_path / "moved")
    assert ports_of(moved) == again and noted(moved) == (again, True, False)
    for wrong in ("{}", "null", '{"ports": [70000, 5000], "folder": [], "served": true}', '{"ports": [1e999, 1]}'):
        (moved / "ports.json").write_text(wrong)
        assert noted(moved) is None and ports_of(moved) == own


def test_a_report_leads_to_where_mlflow_is_now(tmp_path: Path) -> None:
    page, text = (
        tmp_path / "a.b.html",
        '<a href="{0}/#/experiments/1/runs/r1?x">r1</a> {{"runUrl": "{0}/#/experiments/1/runs/{{run_id}}"}}',
    )
    elsewhere = ' <a href="https://example.org/#/experiments">e</a>'
    page.write_text(text.format("http://127.0.0.1:5000") + elsewhere)
    lead(page, "http://127.0.0.1:5044")
    assert page.read_text() == text.format("http://127.0.0.1:5044") + elsewhere
    lead(page, "https://host.example/mlflow")
    lead(page, "")
    assert page.read_text() == text.format("https://host.example/mlflow") + elsewhere


def test_the_table_of_a_sweep_has_trainings_that_another_made_in_an_older_store_too(mlflow: Path) -> None:
    told(mlflow)
    tracker = MlflowTracker(mlflow, "")
    client, name = tracker.store.connect(), "mlflow.sharedViewState.sample.smoke"
    client.set_experiment_tag("1", name, "of an earlier version")
    for key, tags in (
        ("mine", {"fovea.sweep": "sample.smoke"}),
        ("theirs", {"fovea.sweep": "sample.arms"}),
        ("no", {}),
    ):
        run = tracker.run(experiment="fovea-sample", name=key, key=key, tags={"fovea.stage": "trained_codec"} | tags)
        run.set_tags({belongs("sample.smoke"): "yes"} if tags else {belongs("sample.arms"): "yes"})
        run.finish()
    told(mlflow)  # the sweep is told of again
    view = json.loads(client.get_experiment("1").tags[name])
    found = client.search_runs(["1"], view["searchFilter"], order_by=[f"{view['orderByKey']} ASC"])
    assert [run.info.run_name for run in found] == ["mine", "theirs"]


def test_dagster_keeps_a_link_without_ports_unless_somebody_named_an_address(
    installation: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FOVEA_MLFLOW_UI", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    home = Home.from_environment()
    home.mlflow.mkdir(parents=True)
    shutil.copy(template, home.mlflow)
    run_id, chain = told(home.mlflow), tracked_chain(home)
    made: Any = SimpleNamespace(manifest={"meta": {"mlflow_run_id": run_id}})
    page = f"#/experiments/1/runs/{run_id}?workflowType=machine_learning"
    assert mlflow_link(made, chain) == f"/mlflow{page}"
    monkeypatch.setenv("FOVEA_MLFLOW_UI", "https://host.example")
    assert mlflow_link(made, chain) == f"https://host.example/{page}"
    monkeypatch.delenv("FOVEA_MLFLOW_UI")
    server = addresses.address(ports_of(home.state).mlflow)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setattr(chain.tracker, "run_url", lambda _: f"{server}/{page}")
    chain.home = Home.from_environment()
    assert mlflow_link(made, chain) == f"{server}/{page}", "a server of others stays where it is"


def test_a_run_leads_to_its_artifact_in_dagster(mlflow: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FOVEA_DAGSTER_UI", raising=False)
    tracker, key = MlflowTracker(mlflow, ""), "l0.01-bls2017-sample-smoke-saliency_gain@center"
    page = "/assets/trained_codec?view=partitions&partition=l0.01-bls2017-sample-smoke-saliency_gain%40center"
    note(mlflow.parent, Ports(3055, 5055))
    assert tracker.asset_url("trained_codec", key) == f"http://127.0.0.1:3055{page}"
    about = {"mlflow.note.content": f"`{key}`: in Dagster.", "fovea.stage": "trained_codec", "fovea.partition": key}
    run = tracker.run(experiment="e", name="0.01 saliency_gain@center bls2017", key="k", tags=about)
    made = tracker.store.connect().get_run(run.run_id)
    assert made.data.tags["mlflow.note.content"] == f"[`{key}`](http://127.0.0.1:3055{page}): in Dagster."
    assert made.info.run_name == "0.01 gain@center bls2017", "lists cut it at 18 characters"
    assert row_name("sweep saliency_gains.smoke") == "sweep saliency_gains.smoke"
    assert row_name("saliency_maps sample") == "saliency_maps sample"
    shared = MlflowTracker(mlflow, "http://mlflow.example.org")
    assert shared.asset_url("trained_codec", key) == "", "who reads it there has no such loopback"
    monkeypatch.setenv("FOVEA_DAGSTER_UI", "https://dagster.example.org/")
    assert shared.asset_url("trained_codec", key) == f"https://dagster.example.org{page}"


def test_what_the_ui_prints_opens_runs_before_and_after_the_first(
    mlflow: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FOVEA_MLFLOW_UI", "http://host:5000")
    home: Any = SimpleNamespace(mlflow=mlflow)
    ui._say("mlflow", "http://host:5000", home, "")
    told(home.mlflow)
    ui._say("mlflow", "http://host:5000", home, "")
    before, after = capsys.readouterr().out.splitlines()
    assert before == "mlflow   http://host:5000/#/experiments?workflowType=machine_learning"
    assert "/#/experiments/1/runs?" in after and after.endswith("&workflowType=machine_learning  fovea-sample")


def test_a_moved_home_keeps_its_artifacts_and_leaves_its_old_place_alone(mlflow: Path, tmp_path: Path) -> None:
    was, now = mlflow.rename(tmp_path / "was here"), tmp_path / "is 100% there"
    first = told(was)
    was.rename(now)
    second = told(now, "another")
    copy = tmp_path / "copy"
    shutil.copytree(now, copy)
    client = MlflowTracker(now, "").store.connect()
    for run_id in (first, second):
        assert [a.path for a in client.list_artifacts(run_id, "curves")] == ["curves/rd.png"]
        assert Path(client.download_artifacts(run_id, "curves/rd.png")).read_bytes() == b"png"
    assert not was.exists() and client.get_experiment("0").artifact_location == (now / "artifacts/0").as_uri()
    copied = MlflowTracker(copy, "").store.connect()
    assert copied.get_run(first).info.artifact_uri.startswith((copy / "artifacts/fovea-sample").as_uri())


@pytest.mark.parametrize("name", ["own", "artifacts"])
def test_an_experiment_of_somebody_s_own_keeps_its_artifacts(mlflow: Path, tmp_path: Path, name: str) -> None:
    told(mlflow)
    client = MlflowTracker(mlflow, "").store.connect()
    place = tmp_path / "elsewhere" / name / "notebook"
    run = client.create_run(client.create_experiment("notebook", artifact_location=place.as_uri()))
    client.log_text(run.info.run_id, "text", "a.txt")
    mlflow.rename(tmp_path / "moved")
    moved = MlflowTracker(tmp_path / "moved", "").store.connect()
    assert [a.path for a in moved.list_artifacts(run.info.run_id)] == ["a.txt"]


@pytest.mark.filterwarnings("ignore")
def test_the_address_of_the_store_is_no_argument(installation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = "postgresql://u:hush@db/mlflow"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    started: dict[str, tuple[list[str], dict[str, str]]] = {}

    def start(command: list[str], environment: dict[str, str], log: Path) -> Any:
        started[log.stem] = command, environment
        if log.stem == "mlflow":
            raise KeyboardInterrupt

    for name in ("prepare_instance", "shown", "stop", "signal.signal"):
        monkeypatch.setattr(f"pipelines.ui.{name}", lambda *_: None)
    monkeypatch.setattr(ui, "_start", start)
    with pytest.raises(FoveaError, match="two servers need two ports"):
        ui.serve(1, 1)
    note(installation / "home", Ports(2, 1))
    ui.serve()
    assert [word for command, _ in started.values() for word in command if word in ("2", "1")][:2] == ["2", "1"]
    assert not [word for command, _ in started.values() for word in command if "hush" in word]
    from mlflow.cli import server

    (option,) = [o for o in server.params if o.name == "backend_store_uri"]
    assert started["mlflow"][1][str(option.envvar)] == address


def test_other_ports_take_reports_and_descriptions_along(
    installation: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FOVEA_MLFLOW_UI", "FOVEA_DAGSTER_UI"):
        monkeypatch.delenv(name, raising=False)
    for name in ("prepare_instance", "shown", "stop", "signal.signal", "_announce"):
        monkeypatch.setattr(f"pipelines.ui.{name}", lambda *_: None)
    taken: set[int] = set()
    for module in (ui, addresses):
        monkeypatch.setattr(module, "free", lambda port: port not in taken)
    monkeypatch.setattr(ui, "_start", lambda *_: SimpleNamespace(poll=lambda: 0))
    mlflow = installation / "home/mlflow"
    mlflow.mkdir(parents=True)
    shutil.copy(template, mlflow)
    note(installation / "home", Ports(3044, 5044))
    tracker, html = MlflowTracker(mlflow, ""), '<a href="http://127.0.0.1:5044/#/experiments/1/runs/r">r</a>'
    page, elsewhere = installation / "home/reports/sample.smoke.html", "[other](https://example.org/assets/3044)"
    page.parent.mkdir()
    page.write_text(html)
    about = {"mlflow.note.content": f"`a@b`, {elsewhere}", "fovea.stage": "rd_points", "fovea.partition": "a@b"}
    run = tracker.run(experiment="fovea-sample", name="n", key="k", tags=about)
    run.log_artifact(page, "report")
    (installation / "report.html").write_text(html)
    run.log_artifact(installation / "report.html", "report")
    run.finish()
    tracker.close()
    client = tracker.store.connect()
    client.create_registered_model("m", description="[in Dagster](" + tracker.asset_url("trained_codec", "c") + ")")
    with pytest.raises(FoveaError, match="dagster, mlflow ended"):
        ui.serve(3046, 5045)

    def lead_to(dagster: int, port: int) -> None:
        base = f"http://127.0.0.1:{dagster}/assets"
        noted_of = client.get_run(run.run_id).data.tags["mlflow.note.content"]
        assert noted_of == f"[`a@b`]({base}/rd_points?view=partitions&partition=a%40b), {elsewhere}"
        model = client.get_registered_model("m").description
        assert model == f"[in Dagster]({base}/trained_codec?view=partitions&partition=c)"
        assert f"({base}/rgba_frames?" in client.get_experiment("1").tags["mlflow.note.content"]
        kept = Path(client.download_artifacts(run.run_id, "report/report.html"))
        led = html.replace("5044", str(port))
        assert page.read_text() == led and kept.read_text() == led

    lead_to(3046, 5045)
    with pytest.raises(FoveaError, match="dagster, mlflow ended"):
        ui.serve(3044)
    lead_to(3044, 5045)
    assert ports_of(installation / "home") == Ports(3044, 5045)
    # a second one beside the first takes nothing along
    taken |= {3044, 5045}
    with pytest.raises(FoveaError, match="port 3044 is taken: stop what"):
        ui.serve()
    open_ = "port 3044 is taken: this home is shown already, at http://127.0.0.1:3044 and http://127.0.0.1:5045; else stop what"
    with Home.from_environment().locked("ui"), pytest.raises(FoveaError, match=open_):
        ui.serve()
    with pytest.raises(FoveaError, match="dagster, mlflow ended"):
        ui.serve(3050, 5050)
    lead_to(3044, 5045)
    assert ports_of(installation / "home") == Ports(3044, 5045)
    # a home that was never shown takes others
    note(installation / "home", Ports(3044, 5045))
    monkeypatch.setenv("FOVEA_MLFLOW_UI", "https://mlflow.example/")
    with pytest.raises(FoveaError, match="dagster, mlflow ended"):
        ui.serve()
    assert ports_of(installation / "home") == Ports(3000, 5000)
    assert "https://mlflow.example/#/experiments/1/runs/r" in page.read_text()
