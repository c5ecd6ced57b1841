from pathlib import Path

import pytest
from click.testing import CliRunner
from servers.s3_server import S3Server

from assets.home import Home
from pipelines import profile_check
from pipelines.cli import main
from pipelines.profile_check import Line, check_part, check_profile, compare_versions


@pytest.fixture
def config(installation: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(profile_check, "PATIENCE_S", 1.0)
    (installation / "fovea.toml").write_text(
        f'[profiles.cluster]\nstorage = "s3://fovea/check"\ns3_endpoint = "{s3.endpoint}"\n'
        'mlflow = "http://127.0.0.1:9"\ndagster_database = "postgresql://me@127.0.0.1:9/d"\n'
    )
    return installation


def look(name: str, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("FOVEA_PROFILE", name)
    return Home.from_environment()


def test_a_local_profile_is_well_and_leaves_nothing(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = list(check_profile(look("local", monkeypatch)))
    assert all(line.good for line in lines), lines
    assert [line.part for line in lines] == ["storage", "database", "mlflow", "executor", "versions"]
    assert [p for p in (config / "home").rglob("*") if p.is_file()] == []


def test_storage_is_written_read_and_deleted(config: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = check_part("storage", look("cluster", monkeypatch))
    assert line.good and line.said.startswith("s3://fovea/check: written, read, deleted")
    assert s3.objects(prefix="check") == {}


def test_each_failing_part_has_advice_and_hides_no_other(
    config: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.door.shut()
    monkeypatch.setattr("pipelines.profile_check.prepare_instance", lambda home: None)
    found = {line.part: line for line in check_profile(look("cluster", monkeypatch))}
    assert not found["storage"].good and "has not answered" in found["storage"].said
    assert not found["mlflow"].good and "start it, or correct mlflow" in found["mlflow"].said
    assert not found["database"].good and "start the server" in found["database"].said and found["versions"].good


def test_what_no_node_can_do_is_no_good(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (config / "fovea.toml").write_text(
        f'[profiles.lost]\nstorage = "{config}/nowhere/share"\n'
        '[profiles.gpus]\nexecutor = "ray"\nray_threads = 4\ndevice = "cuda"\n'
    )
    (line,) = check_part("storage", look("lost", monkeypatch))
    assert not line.good and f"no folder {config}/nowhere/share: mount it" in line.said
    assert not (config / "nowhere").exists()
    node = {"name": "a", "cpus": 2.0, "gpus": 0.0, "versions": profile_check.own_versions()}
    monkeypatch.setattr(profile_check, "nodes_of", lambda _: [node])
    found = {line.part: line for line in check_part("executor", look("gpus", monkeypatch))}
    assert found["ray"].good and found["versions"].good
    assert not found["device"].good and "no node has a GPU" in found["device"].said
    assert not found["ray_threads"].good and "asks for 4 CPUs, and no node has more than 2" in found["ray_threads"].said
    node |= {"cpus": 8.0, "gpus": 1.0}
    assert all(line.good for line in check_part("executor", look("gpus", monkeypatch)))


def test_versions_of_nodes_are_compared_one_by_one() -> None:
    own = {"python": "3.11.7", "torch": "2.15.0", "commit": "abc"}
    same, other = compare_versions(own, {"a": dict(own), "b": {**own, "torch": "2.14.0"}})
    assert same == Line("versions", True, "a: equal to this machine")
    assert not other.good and other.said.startswith("b: torch 2.14.0 (here 2.15.0); install the same")


@pytest.mark.parametrize(("status", "said"), [(401, "MLFLOW_TRACKING_USERNAME"), (500, "mlflow db upgrade")])
def test_a_server_that_refuses_or_fails_says_what_to_do(
    config: Path, monkeypatch: pytest.MonkeyPatch, status: int, said: str
) -> None:
    import requests

    from pipelines.mlflow_store import MlflowStore

    def answer(self: requests.Session, method: str, url: str, **_: object) -> requests.Response:
        response = requests.Response()
        response.status_code, response._content = status, b"no"
        return response

    monkeypatch.setattr(requests.Session, "request", answer)
    monkeypatch.setattr(MlflowStore, "connect", lambda store: store._client)
    (line,) = check_part("mlflow", look("cluster", monkeypatch))
    assert not line.good and said in line.said


def test_secrets_are_masked_and_the_exit_code_tells(
    config: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hush-hush")
    done = CliRunner().invoke(main, ["profile", "show", "cluster"])
    assert done.exit_code == 0 and "s3://fovea/check" in done.stdout
    assert s3.environment["AWS_SECRET_ACCESS_KEY"] not in done.stdout and "hush" not in done.stdout
    assert "FOVEA_DATABASE_PASSWORD   not set" in done.stdout
    monkeypatch.setattr("pipelines.profile_check.prepare_instance", lambda home: None)
    done = CliRunner().invoke(main, ["profile", "check", "cluster"])
    assert done.exit_code == 1 and "hush" not in done.output
    unknown = CliRunner().invoke(main, ["status", "--profile", "nobody"])
    assert unknown.exit_code == 1 and "no profile 'nobody'" in unknown.output


def test_another_dagster_home_is_told(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(config / "mine"))
    (line,) = check_part("database", look("cluster", monkeypatch))
    assert not line.good and "wins over dagster_database" in line.said
