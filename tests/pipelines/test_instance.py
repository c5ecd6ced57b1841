import os
from pathlib import Path

import pytest
import yaml

from assets.home import Home
from pipelines.instance import owner, prepare_instance

PROFILE = '[profiles.cluster]\ndagster_database = "postgresql://me%40x@db.example:5433/dagster"\n'


@pytest.fixture
def place(installation: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (installation / "fovea.toml").write_text(PROFILE)
    # first set, so that what prepare_instance sets is taken back
    monkeypatch.setenv("DAGSTER_HOME", "")
    return installation


def test_the_local_profile_keeps_its_file_as_it_was_edited(place: Path) -> None:
    prepare_instance(Home.from_environment())
    file = place / "home/dagster/dagster.yaml"
    assert os.environ["DAGSTER_HOME"] == str(file.parent) and "storage" not in yaml.safe_load(file.read_text())
    file.write_text("edited: true\n")
    os.environ["DAGSTER_HOME"] = ""
    prepare_instance(Home.from_environment())
    assert file.read_text() == "edited: true\n" and owner(Home.from_environment()) == "yes"


def test_a_database_is_named_without_its_password(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dagster_postgres")
    monkeypatch.setenv("FOVEA_PROFILE", "cluster")
    monkeypatch.setenv("FOVEA_DATABASE_PASSWORD", "hush-hush")
    home = Home.from_environment()
    prepare_instance(home)
    file = place / "home/dagster-cluster/dagster.yaml"
    assert os.environ["DAGSTER_HOME"] == str(file.parent) and "hush" not in file.read_text()
    settings = yaml.safe_load(file.read_text())
    database = settings["storage"]["custom"]["config"]["postgres_db"]
    where = {"hostname": "db.example", "port": 5433, "db_name": "dagster", "scheme": "postgresql+psycopg2"}
    assert database == {"username": "me@x", "password": {"env": "FOVEA_DATABASE_PASSWORD"}, **where}
    assert settings["concurrency"]["pools"]["default_limit"] == 1


def test_a_folder_is_the_same_owner_on_whatever_machine(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "fovea.toml").write_text('[profiles.cluster]\ndagster_database = "postgresql://u@db/dagster"\n')
    monkeypatch.setenv("FOVEA_PROFILE", "cluster")
    home = Home.from_environment()
    one = owner(home)
    monkeypatch.setattr("socket.gethostname", lambda: "another")
    assert len(one) == 16 and owner(home) == one
    monkeypatch.setenv("FOVEA_HOME", str(place / "other"))
    assert owner(Home.from_environment()) != one


def test_dagster_home_of_the_environment_wins(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(place / "mine"))
    prepare_instance(Home.from_environment())
    assert os.environ["DAGSTER_HOME"] == str(place / "mine") and not (place / "home").exists()
