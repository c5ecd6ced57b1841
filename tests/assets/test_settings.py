from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from assets.datasets import load_registry
from assets.home import Home
from assets.settings import Profile, find_profile, passed_on
from models.config import count_in
from models.errors import FoveaError
from pipelines.cli import main
from pipelines.mlflow_store import MlflowStore

SECRET = "http://u:hush@h:5000"
GOOD = """
[datasets.sample]
seed = 3

[profiles.cluster]
storage = "s3://bucket/fovea/"
s3_endpoint = "http://127.0.0.1:9000"
cache_gib = 5
dagster_database = "postgresql://fovea@db:5432/dagster"
mlflow = "http://mlflow:5000"
executor = "ray"
ray_address = "auto"
"""


@pytest.fixture
def config(installation: Path) -> Path:
    return installation


def test_without_a_file_there_are_local_and_ci(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_profile(config) == Profile() and find_profile(config, "ci").cache_gib == 2.0
    home = Home.from_environment()
    assert home.shared is None and str(home.data) == str(config / "home/data")
    assert home.tables == config / "home/tables"
    monkeypatch.setenv("FOVEA_DATA", "memory://bucket/fovea")
    assert Home.from_environment().data.protocol == "memory"


def test_variables_that_cannot_be_read_are_named(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value, words, said in (
        ("FOVEA_DATA", "foo://x", "status", "FOVEA_DATA: foo://x: Unsupported filesystem"),
        ("FOVEA_HOME", "~nobody-here/x", "status", "FOVEA_HOME: ~nobody-here/x: nobody of this name has a home here"),
        ("FOVEA_PARALLEL", "x", "run", "for FOVEA_PARALLEL: 'x'"),
        ("WORLD_SIZE", "two", "train x", "WORLD_SIZE: expected a whole number from 0 on, got 'two'"),
    ):
        with monkeypatch.context() as here:
            here.setenv(name, value)
            done = CliRunner().invoke(main, words.split())
        assert done.exit_code and said in done.output and len(done.output.splitlines()) == 1, done.output
    monkeypatch.setenv("FOVEA_RETRIES", "a")
    with pytest.raises(FoveaError, match="FOVEA_RETRIES: expected a whole number"):
        count_in("FOVEA_RETRIES", 1)


def test_a_profile_moves_what_nodes_share(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (config / "fovea.toml").write_text(GOOD)
    assert load_registry(config)["sample"].seed == 3
    monkeypatch.setenv("FOVEA_PROFILE", "cluster")
    home = Home.from_environment()
    assert str(home.data) == "s3://bucket/fovea/data" and str(home.shared) == "s3://bucket/fovea"
    assert home.profile.cache_gib == 5 and home.locks == config / "home/locks"
    assert home.profile.tracking_uri() == "http://mlflow:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://other:5000")
    assert home.profile.tracking_uri() == "http://other:5000"


def test_a_folder_that_all_nodes_see_is_a_storage_too(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (config / "fovea.toml").write_text('[profiles.nfs]\nstorage = "shared"\n')
    monkeypatch.setenv("FOVEA_PROFILE", "nfs")
    home = Home.from_environment()
    assert home.shared is None and str(home.data) == str(config / "shared/data")
    assert {home.tables.parent, home.work.parent, home.locks.parent} == {config / "shared"}
    assert home.mlflow == config / "home/mlflow"


def test_a_home_of_any_name_has_an_address_for_databases(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOVEA_HOME", str(config / "100% ö #1"))
    assert Home.from_environment().mlflow == config / "100% ö #1/mlflow"
    monkeypatch.setenv("XDG_CACHE_HOME", str(config / "cache"))
    for name in ("a%20b", "why?", "a%20b"):
        monkeypatch.setenv("FOVEA_HOME", str(config / name / "home"))
        home = Home.from_environment()
        assert home.state == config / name / "home" and home.dagster.parent.samefile(home.state)
        assert len(MlflowStore(home.mlflow, "").connect().search_experiments()) == 1
        assert (home.state / "mlflow/mlflow.db").is_file()
    assert len({MlflowStore(home.mlflow, "").uri, *(config / "cache/fovea").iterdir()}) == 3
    home.addressed.unlink()
    home.addressed.symlink_to(config)
    with pytest.raises(FoveaError, match=r"FOVEA_HOME: .* leads elsewhere than to .*a%20b/home: delete it"):
        _ = Home.from_environment().mlflow
    monkeypatch.setenv("XDG_CACHE_HOME", str(config / "%20"))
    with pytest.raises(FoveaError, match=r"FOVEA_HOME: SQLite cannot open databases in .*name a folder without"):
        _ = Home.from_environment().dagster


def test_a_home_that_cannot_be_used_is_refused_by_name(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (config / "file").touch()
    monkeypatch.setenv("FOVEA_HOME", str(config / "file"))
    with pytest.raises(FoveaError, match=r"FOVEA_HOME: .*file is a file; name a folder"):
        Home.from_environment()
    monkeypatch.setenv("FOVEA_HOME", str(config / "home"))
    monkeypatch.setenv("FOVEA_CONFIG", str(config / "file"))
    with pytest.raises(FoveaError, match="FOVEA_CONFIG"):
        Home.from_environment()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('storag = "s3://x"', "profiles.cluster: unknown field 'storag'; did you mean 'storage'?"),
        ("cache_gib = '9'", "profiles.cluster.cache_gib: expected a valid number, got '9'"),
        ("cache_gib = 0", "cache_gib: expected greater than 0, got 0"),
        ("cache_gib = true", "cache_gib: expected a valid number"),
        ("cache_gib = nan", "cache_gib: expected a finite number"),
        ("storage = 5", "profiles.cluster.storage: expected a valid string"),
        ('storage = "http://x"', "storage: expected"),
        ('storage = "s3://"', "storage: expected"),
        ('mlflow = "server:5000"', "mlflow: expected"),
        ('s3_endpoint = "localhost"', "s3_endpoint: expected"),
        ('dagster_database = "mysql://u@h/d"', "dagster_database: expected"),
        ('dagster_database = "postgresql://h/d"', "dagster_database: expected"),
        ('dagster_database = "postgresql://u@h/d?sslmode=require"', "set PGSSLMODE"),
        ('dagster_database = "postgresql://u@h:x/d"', "dagster_database: no address"),
        ('executor = "celery"', "executor: expected 'in_process' or 'ray', got 'celery'"),
        ('device = "gpu"', "device: expected 'cpu' or 'cuda', got 'gpu'"),
        ("ray_steps = 0", "ray_steps: expected greater than or equal to 1, got 0"),
        ("ray_threads = 0", "ray_threads: expected greater than or equal to 1, got 0"),
        ('database_password_env = "p@ss"', "database_password_env: expected the name"),
    ],
)
def test_mistakes_name_file_and_field(config: Path, line: str, said: str) -> None:
    (config / "fovea.toml").write_text(f"[profiles.cluster]\n{line}\n")
    with pytest.raises(FoveaError) as caught:
        find_profile(config, "cluster")
    assert said in str(caught.value) and str(config / "fovea.toml") in str(caught.value)
    assert find_profile(config) == Profile()


@pytest.mark.parametrize(
    "line",
    [
        'dagster_database = "postgresql://u:hush-hush@h/d"',
        'mlflow = "http://u:hush-hush@h:5000"',
        's3_endpoint = "http://u:hush-hush@h:5000"',
        'storage = "s3://key:hush-hush@bucket/x"',
        'storage = "s3://bucket/x?secret=hush-hush"',
        'mlflow = "http://h:5000/?token=hush-hush"',
        'ray_address = "http://u:hush-hush@h:8265"',
        'ray_address = "http://hush-hush@h:8265"',
        'mlflow = "https://hush-hush@h"',
        'dagster_database = "postgresql://u@h/d?password=hush-hush"',
    ],
)
def test_a_password_in_the_file_is_refused_and_not_repeated(config: Path, line: str) -> None:
    (config / "fovea.toml").write_text(f"[profiles.cluster]\n{line}\n")
    with pytest.raises(FoveaError, match="does not belong in this file") as caught:
        find_profile(config, "cluster")
    assert "hush" not in str(caught.value)


def test_an_unknown_profile_lists_what_there_is(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOVEA_PROFILE", "cluster")
    with pytest.raises(FoveaError, match=r"no profile 'cluster'; there are local, ci.*profiles\.cluster"):
        Home.from_environment()


@pytest.mark.parametrize("text", ["[profiles", "profiles = 3", "[profiles]\nlocal = 3", "[profiles.'A b']"])
def test_a_broken_file_is_named(config: Path, text: str) -> None:
    (config / "fovea.toml").write_text(text)
    with pytest.raises(FoveaError, match=r"fovea\.toml"):
        find_profile(config, "A b" if "A b" in text else None)


def test_what_is_passed_on_holds_no_secret_and_stays_the_same(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(config)
    given = {"FOVEA_HOME": "state", "FOVEA_PROFILE": "cluster", "OMP_WAIT_POLICY": "", "MLFLOW_TRACKING_URI": SECRET}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    names = (*given, "FOVEA_NEVER_SET")
    assert passed_on(names) == {"FOVEA_HOME": str(config / "state"), "FOVEA_PROFILE": "cluster"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://h:5000")
    assert passed_on(names)["MLFLOW_TRACKING_URI"] == "http://h:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://dapi0123456789@h")
    assert "MLFLOW_TRACKING_URI" not in passed_on(names), "a user name that is a token"


@given(st.dictionaries(st.sampled_from(["cache_gib", "storage_wait_s"]), st.floats(0.001, 1e6)))
def test_numbers_arrive_as_written(tmp_path_factory: pytest.TempPathFactory, values: dict[str, float]) -> None:
    folder = tmp_path_factory.mktemp("settings")
    lines = "".join(f"{k} = {v!r}\n" for k, v in values.items())
    (folder / "fovea.toml").write_text(f"[profiles.x]\n{lines}")
    profile = find_profile(folder, "x")
    assert all(getattr(profile, k) == v for k, v in values.items())
