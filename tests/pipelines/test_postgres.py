"""Dagster's state in a real PostgreSQL that restarts."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy
from servers.postgres_server import PASSWORD, PASSWORD_ENV, PostgresServer, why_not

from assets.home import Home
from assets.settings import Profile
from models.errors import FoveaError
from pipelines.instance import INSTANCE, database_settings, prepare_instance
from pipelines.profile_check import check_part

pytest.importorskip("dagster_postgres")
pytestmark = [pytest.mark.cluster, pytest.mark.skipif(bool(why_not()), reason=why_not())]


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture
def profile(postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Profile]:
    monkeypatch.setenv(PASSWORD_ENV, PASSWORD)
    profile = Profile(name="cluster", dagster_database=postgres.address(), database_wait_s=60)
    (tmp_path / "dagster.yaml").write_text(INSTANCE + database_settings(profile))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    yield profile


DISTURB: list[Callable[[], None]] = []


@dg.op
def slow(context: dg.OpExecutionContext) -> None:
    for place in range(6):
        context.log.info(f"line {place}")
        if place == 1:
            for disturb in DISTURB:
                threading.Thread(target=disturb).start()
        time.sleep(0.2)


@dg.job
def work() -> None:
    slow()


def test_a_run_survives_a_restart_and_each_event_is_there_once(profile: Profile, postgres: PostgresServer) -> None:
    with dg.DagsterInstance.get() as instance:
        DISTURB.append(lambda: (postgres.stop(), time.sleep(3), postgres.start(), None)[-1])
        try:
            result = work.execute_in_process(instance=instance)
        finally:
            DISTURB.clear()
        assert result.success
        lines = [r.event_log_entry.message for r in instance.get_records_for_run(result.run_id).records]
        assert [m for m in lines if m.startswith("line")] == [f"line {k}" for k in range(6)]


def test_the_check_sees_the_schema(
    profile: Profile, postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from upath import UPath

    home = Home(tmp_path / "home", tmp_path, UPath(tmp_path / "data"), profile)
    monkeypatch.setenv("DAGSTER_HOME", "")
    prepare_instance(home)
    with dg.DagsterInstance.get():
        pass
    (line,) = check_part("database", home)
    assert line.good, line
    ((head,),) = postgres.rows("select version_num from alembic_version")
    import psycopg2

    with psycopg2.connect(postgres.dsn("dagster")) as connection, connection.cursor() as cursor:
        cursor.execute("update alembic_version set version_num = '7f2b1a4ca7a5'")
    (old,) = check_part("database", home)
    assert not old.good and "dagster instance migrate" in old.said
    with psycopg2.connect(postgres.dsn("dagster")) as connection, connection.cursor() as cursor:
        cursor.execute("update alembic_version set version_num = %s", (head,))
    assert next(check_part("database", home)).good
    monkeypatch.setenv(PASSWORD_ENV, "wrong")
    (refused,) = check_part("database", home)
    assert not refused.good and f"set {PASSWORD_ENV}" in refused.said


def test_a_wrong_password_is_refused_at_once(profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD_ENV, "wrong-secret")
    with pytest.raises(FoveaError, match="password authentication failed") as caught, dg.DagsterInstance.get():
        pass
    assert "wrong-secret" not in str(caught.value) + json.dumps([str(a) for a in caught.value.args])


def test_methods_start_again_when_they_are_cut(profile: Profile, postgres: PostgresServer) -> None:
    with dg.DagsterInstance.get() as instance:
        storage = instance.run_storage
        cuts: list[int] = []

        def cut(connection: Any, cursor: Any, *_: object) -> None:
            if not cuts:
                cuts.append(1)
                pid = connection.connection.driver_connection.info.backend_pid
                postgres.rows(f"select pg_terminate_backend({pid})", "postgres")

        sqlalchemy.event.listen(storage._engine, "before_cursor_execute", cut)  # type: ignore[attr-defined]
        assert instance.get_runs_count() >= 0 and cuts


def test_a_server_that_stays_away_ends_with_what_to_do(
    profile: Profile, postgres: PostgresServer, tmp_path: Path
) -> None:
    hasty = profile.model_copy(update={"database_wait_s": 1.0})
    (tmp_path / "dagster.yaml").write_text(INSTANCE + database_settings(hasty))
    with dg.DagsterInstance.get() as instance:
        postgres.stop()
        try:
            began = time.monotonic()
            with pytest.raises(FoveaError, match="run the same command again"):
                instance.get_runs_count()
            assert time.monotonic() - began < 20
        finally:
            postgres.start()
        assert instance.get_runs_count() >= 0
