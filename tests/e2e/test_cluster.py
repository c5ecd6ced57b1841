"""One tiny sweep on the local profile and on a cluster: steps on Ray's nodes, S3, PostgreSQL and an MLflow server; well
and disturbed."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from servers.mlflow_server import MlflowServer
from servers.postgres_server import PASSWORD, PostgresServer, why_not
from servers.ray_nodes import RayNodes
from servers.s3_server import SECRET_KEY, S3Server

from assets.frames.sample import make_sample

pytest.importorskip("ray")
pytest.importorskip("s3fs")
pytest.importorskip("moto")
pytest.importorskip("dagster_postgres")
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.e2e,
    pytest.mark.timeout(4000),
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
]
ROOT = Path(__file__).resolve().parent.parent.parent
COUNTS = {"train": 4, "val": 1, "test": 2}
OUTAGE_S = 30.0
SECONDS = re.compile(r"_s(_low|_high)?$")
SWEEP = ("run", "--dataset", "drawn", "--sweep", "tiny", "--threads", "1")


@dataclass
class Cluster:
    """Servers on loopback, and the command line of nodes that use them."""

    base: Path
    s3: S3Server
    postgres: PostgresServer
    mlflow: MlflowServer

    def command(self, home: str, *words: str) -> tuple[list[str], dict[str, str]]:
        environment = {
            **os.environ,
            **self.s3.environment,
            **self.postgres.environment,
            "PYTHONPATH": str(ROOT),
            "FOVEA_HOME": str(self.base / home),
            "FOVEA_CONFIG": str(self.base),
            "PYTHONWARNINGS": "ignore",
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        for name in ("DAGSTER_HOME", "FOVEA_PROFILE", "FOVEA_DATA", "MLFLOW_TRACKING_URI"):
            environment.pop(name, None)
        return [sys.executable, "-m", "pipelines.cli", *words], environment

    def add_profile(
        self, name: str, prefix: str, database: str, mlflow: MlflowServer, nodes: RayNodes | None = None
    ) -> None:
        with (self.base / "fovea.toml").open("a") as file:
            file.write(
                f'[profiles.{name}]\nstorage = "s3://fovea/{prefix}"\ns3_endpoint = "{self.s3.endpoint}"\n'
                f'mlflow = "{mlflow.uri}"\ndagster_database = "{self.postgres.address(database)}"\n'
            )
            if nodes is not None:
                file.write(f'executor = "ray"\nray_address = "{nodes.address}"\nray_steps = 3\n')

    def fovea(self, home: str, *words: str, good: bool = True) -> subprocess.CompletedProcess[str]:
        command, environment = self.command(home, *words)
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=3000, check=False
        )
        if good and done.returncode:
            raise AssertionError(f"{' '.join(words)}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        return done

    def tables(self, home: str) -> dict[str, pd.DataFrame]:
        return {p.name: compared(pd.read_parquet(p)) for p in sorted((self.base / home / "tables").glob("*.parquet"))}


def compared(table: pd.DataFrame) -> pd.DataFrame:
    """What must be equal: all but seconds, with their intervals, and the ids that servers give."""
    return table.drop(columns=[c for c in table if SECONDS.search(str(c)) or "mlflow_run_id" in str(c)])


def equal(one: dict[str, pd.DataFrame], other: dict[str, pd.DataFrame]) -> None:
    assert {"rd_points.parquet", "rd_curves.parquet", "bd_rates.parquet"} <= set(one) and set(one) == set(other)
    for name, table in one.items():
        assert len(table) > 0
        pd.testing.assert_frame_equal(table, other[name], obj=name)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    base = tmp_path_factory.mktemp("cluster")
    with S3Server() as s3, PostgresServer() as postgres:
        s3.make_bucket()
        storage = {**s3.environment, "MLFLOW_S3_ENDPOINT_URL": s3.direct}
        secrets = {**s3.environment, **postgres.environment}
        with (
            MlflowServer(
                base / "server", store=postgres.dsn("mlflow"), artifacts="s3://fovea/mlflow", environment=storage
            ) as mlflow,
            RayNodes(ROOT, environment=secrets) as nodes,
        ):
            make_sample(base / "drawn", seed=3, counts=COUNTS, size=(256, 128), workers=2)
            made = Cluster(base, s3, postgres, mlflow)
            made.add_profile("cluster", "well", "dagster", mlflow, nodes)
            made.fovea("local", "datasets", "add", "drawn", str(base / "drawn" / "leftImg8bit"))
            assert " 0 failed" in made.fovea("local", *SWEEP).stdout
            yield made


@pytest.fixture(scope="module")
def ran(cluster: Cluster) -> subprocess.CompletedProcess[str]:
    return cluster.fovea("node", *SWEEP, "--profile", "cluster")


def test_the_tables_are_those_of_one_machine(cluster: Cluster, ran: subprocess.CompletedProcess[str]) -> None:
    assert " 0 failed" in ran.stdout
    equal(cluster.tables("local"), cluster.tables("node"))
    shared = cluster.s3.objects(prefix="well/")
    for name in ("tables/rd_points.parquet", "tables/bd_rates.csv", "reports/drawn.tiny.html"):
        assert f"well/{name}" in shared
    assert not [name for name in shared if name.startswith("well/work/")]  # checkpoints of finished trainings are gone


def test_every_manifest_names_objects_that_are_there(cluster: Cluster, ran: subprocess.CompletedProcess[str]) -> None:
    import json

    shared = cluster.s3.objects(prefix="well/data/")
    manifests = [name for name in shared if name.endswith("/manifest.json")]
    assert len(manifests) >= 10
    for name in manifests:
        manifest = json.loads(shared[name])
        base = f"{name.rsplit('/', 1)[0]}/{manifest['at']}"
        for item, size in manifest["objects"].items():
            assert len(shared[f"{base}/{item}"]) == size


def test_another_node_finds_everything(cluster: Cluster, ran: subprocess.CompletedProcess[str]) -> None:
    again = cluster.fovea("other", *SWEEP, "--profile", "cluster")
    assert "everything is up to date, nothing to run" in again.stdout
    equal(cluster.tables("local"), cluster.tables("other"))


def test_dagster_and_mlflow_keep_their_state_in_the_database(
    cluster: Cluster, ran: subprocess.CompletedProcess[str]
) -> None:
    statuses = dict(cluster.postgres.rows("select status, count(*) from runs group by 1"))  # type: ignore[arg-type]
    assert set(statuses) == {"SUCCESS"} and not (cluster.base / "node" / "dagster").exists()
    assert not (cluster.base / "node" / "mlflow" / "mlflow.db").exists()
    check = cluster.fovea("node", "profile", "check", "cluster")
    assert "is current" in check.stdout and "failed" not in check.stdout


def test_no_secret_is_written_anywhere(cluster: Cluster, ran: subprocess.CompletedProcess[str]) -> None:
    secrets = [SECRET_KEY.encode(), PASSWORD.encode()]
    assert not any(s.decode() in ran.stdout + ran.stderr for s in secrets)
    files = [p for home in ("node", "other", "local") for p in (cluster.base / home).rglob("*") if p.is_file()]
    assert len(files) > 50
    for path in files:
        assert not any(secret in path.read_bytes() for secret in secrets), path
    for name, content in cluster.s3.objects().items():
        assert not any(secret in content for secret in secrets), name
    dumped = subprocess.run(
        [str(cluster.postgres.bin / "pg_dumpall"), "--no-role-passwords", "-d", cluster.postgres.address("postgres")],
        # it hands the address on to pg_dump, but no password in it
        env={**os.environ, "PGPASSWORD": PASSWORD},
        capture_output=True,
        check=True,
    ).stdout
    assert len(dumped) > 100_000 and not any(secret in dumped for secret in secrets)


class Disturber(threading.Thread):
    """Restarts the database once frames are made, and takes storage and MLflow away during the first training."""

    def __init__(self, cluster: Cluster, mlflow: MlflowServer):
        super().__init__(daemon=True)
        self.cluster, self.mlflow, self.done = cluster, mlflow, list[str]()

    def wait(self, stage: str) -> None:
        deadline = time.monotonic() + 1500
        while time.monotonic() < deadline:
            if self.cluster.s3.client().list_objects_v2(Bucket="fovea", Prefix=stage).get("KeyCount"):
                return
            time.sleep(0.3)
        raise TimeoutError(stage)

    def run(self) -> None:
        self.wait("disturbed/data/source_frames/")
        self.cluster.postgres.restart()
        self.done.append("database")
        self.wait("disturbed/data/saliency_maps/")
        self.mlflow.stop()
        self.cluster.s3.door.shut()
        time.sleep(OUTAGE_S)
        self.cluster.s3.door.open()
        self.done.append("storage")
        self.wait("disturbed/data/trunk_codec/")
        self.cluster.postgres.restart()
        self.mlflow.start()
        self.done.append("mlflow")


FLUSH = """
from assets.home import Home
from pipelines.mlflow_tracking import MlflowTracker
home = Home.from_environment()
tracker = MlflowTracker(home.mlflow, home.profile.tracking_uri())
tracker.flush()
tracker.close()
"""
METRICS = """
select t.value, m.key, m.step, count(*) from metrics m
join tags t on t.run_uuid = m.run_uuid and t.key = 'fovea.key'
where m.key not like 'system/%' group by 1, 2, 3
"""


def counted(rows: Sequence[Sequence[object]]) -> dict[tuple[object, ...], object]:
    return {tuple(row[:3]): row[3] for row in rows}


def test_outages_lose_and_double_nothing(cluster: Cluster, ran: subprocess.CompletedProcess[str]) -> None:
    cluster.postgres.make("disturbed")
    cluster.postgres.make("disturbed_mlflow")
    store = cluster.postgres.dsn("disturbed_mlflow")
    with MlflowServer(cluster.base / "server2", store=store) as mlflow:
        cluster.add_profile("disturbed", "disturbed", "disturbed", mlflow)
        disturber = Disturber(cluster, mlflow)
        disturber.start()
        done = cluster.fovea("far", *SWEEP, "--profile", "disturbed", good=False)
        disturber.join(900)
        assert disturber.done == ["database", "storage", "mlflow"]
        if done.returncode:
            # a clear message, and the same command goes on from there
            assert "Traceback" not in done.stderr
            done = cluster.fovea("far", *SWEEP, "--profile", "disturbed")
        assert " 0 failed" in done.stdout, done.stdout + done.stderr
        flush(cluster)
    equal(cluster.tables("local"), cluster.tables("far"))
    statuses = {s for (s,) in cluster.postgres.rows("select distinct status from runs", "disturbed")}
    assert "SUCCESS" in statuses and not statuses & {"STARTED", "STARTING", "NOT_STARTED"}
    expected = counted(cluster.postgres.rows(METRICS, "mlflow"))
    assert set(expected.values()) == {1} and counted(cluster.postgres.rows(METRICS, "disturbed_mlflow")) == expected


def flush(cluster: Cluster) -> None:
    """What any later command does: send what MLflow has missed."""
    _, environment = cluster.command("far")
    subprocess.run(
        [sys.executable, "-c", FLUSH],
        env={**environment, "FOVEA_PROFILE": "disturbed"},
        cwd=ROOT,
        check=True,
        timeout=600,
    )
