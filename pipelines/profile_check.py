"""`fovea profile check`: does a profile work from here? Each part is tried for real, and what fails says what to do."""

import importlib.metadata
import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from assets.home import Home
from assets.remote import Remote
from assets.settings import SECRETS, Profile, passed_on
from models.errors import FoveaError
from pipelines.instance import database_parts, instance_folder, prepare_instance
from pipelines.mlflow_store import MlflowStore, Unreachable, redacted, unanswered
from pipelines.ray_nodes import ANSWER_S, MARK, own_versions

#: seconds that the storage and the database may take here, whatever a run grants them
PATIENCE_S = 10.0
#: a server that wants to know who asks
REFUSED = (401, 403)


class Line(NamedTuple):
    """One part of the profile: whether it works, what was seen or what to do."""

    part: str
    good: bool
    said: str


def check_profile(home: Home) -> Iterator[Line]:
    """Try storage, database, MLflow and the executor, one line each (several for the executor)."""
    for part in CHECKS:
        yield from check_part(part, home)


def check_part(part: str, home: Home) -> Iterator[Line]:
    """The lines of one part. A library's own error does not hide the other parts."""
    try:
        found = CHECKS[part](home)
        yield from [Line(part, True, found)] if isinstance(found, str) else found
    except FoveaError as error:
        yield Line(part, False, str(error))
    except Exception as error:
        yield Line(part, False, f"{type(error).__name__}: {_without_secrets(error, home.profile)}")


def _without_secrets(error: BaseException, profile: Profile) -> str:
    text = str(error)
    for value in filter(None, map(os.environ.get, (*SECRETS, profile.database_password_env))):
        text = text.replace(value, "…")
    return " ".join(text.split())[:300]


def check_storage(home: Home) -> str:
    """Write, read and delete a small object. Raises FoveaError for a shared folder that is not there: a node that lacks the mount
    would fill its own disk."""
    folder = home.profile.storage
    if folder and not home.shared and not Path(folder).is_dir():
        raise FoveaError(f"no folder {folder}: mount it, or make it, on every node")
    text, name = secrets.token_bytes(64), f"check-{secrets.token_hex(8)}"
    place = Remote(home.shared.root, PATIENCE_S) if home.shared else home.common
    began = time.monotonic()
    place.write(name, text)
    read = place.read(name)
    place.delete(name)
    if place.listing(name):
        raise FoveaError(f"{place}: an object could not be deleted; allow s3:DeleteObject")
    if read != text:
        raise FoveaError(f"{place} gave back other bytes than were written: not a storage to trust")
    return f"{place}: written, read, deleted in {1000 * (time.monotonic() - began):.0f} ms"


def check_database(home: Home) -> str:
    """Reach Dagster's database and compare its schema with this version of Dagster."""
    if not home.profile.dagster_database:
        return f"SQLite in {home.dagster}"
    given = os.environ.get("DAGSTER_HOME", "")
    if given and Path(given) != instance_folder(home):
        raise FoveaError(
            f"DAGSTER_HOME={given} wins over dagster_database: unset it, or make its dagster.yaml name this database "
            "(deploy/dagster.yaml shows how)"
        )
    prepare_instance(home)
    parts = database_parts(home.profile)
    where = f"{parts['hostname']}:{parts['port']}/{parts['db_name']}"
    if not _has_tables(where, parts, home.profile):
        return f"{where}: reachable, still empty; the first run makes its tables"
    import dagster as dg
    import sqlalchemy.exc

    try:
        with dg.DagsterInstance.get() as instance:
            stores = {
                "runs": instance.run_storage,
                "events": instance.event_log_storage,
                "schedules": instance.schedule_storage,
            }
            found = {name: store.alembic_version() for name, store in stores.items() if store is not None}
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise FoveaError(f"{where}: {_without_secrets(error, home.profile)}") from error
    if old := [name for name, version in found.items() if version and version[0] != version[1]]:
        raise FoveaError(
            f"{where}: the schema of {', '.join(old)} is not this Dagster's; stop all runs, then: DAGSTER_HOME="
            f"{os.environ['DAGSTER_HOME']} dagster instance migrate"
        )
    return f"{where}: reachable, schema {next(iter(found.values()))[0]} is current"  # type: ignore[index]


def _has_tables(where: str, parts: dict[str, Any], profile: Profile) -> bool:
    import sqlalchemy

    from pipelines.postgres import may_pass

    password = os.environ.get(profile.database_password_env) or None
    host = {"host": parts["hostname"], "port": parts["port"], "database": parts["db_name"]}
    address = sqlalchemy.URL.create("postgresql+psycopg2", parts["username"], password, **host)
    engine = sqlalchemy.create_engine(address, connect_args={"connect_timeout": int(PATIENCE_S)})
    try:
        return sqlalchemy.inspect(engine).has_table("runs")
    except sqlalchemy.exc.OperationalError as error:
        text = _without_secrets(error.orig or error, profile)
        todo = f"set {profile.database_password_env} to the password of {parts['username']}"
        if may_pass(error):
            todo = "start the server, or correct dagster_database"
        elif "does not exist" in text and "database" in text:
            todo = (
                f"make it: createdb -h {parts['hostname']} -p {parts['port']} -U {parts['username']} {parts['db_name']}"
            )
        raise FoveaError(f"{where}: {text}; {todo}") from error
    finally:
        engine.dispose()


def check_mlflow(home: Home) -> str:
    """Ask the tracking server for an experiment with the credentials, as trackers do, and for its version."""
    uri = home.profile.tracking_uri()
    if not uri.startswith(("http://", "https://")):
        return redacted(uri) if uri else f"SQLite in {home.mlflow}"
    import requests
    from mlflow.exceptions import MlflowException

    where = redacted(uri)
    try:
        MlflowStore(home.mlflow, uri).connect().search_experiments(max_results=1)
        server = requests.get(f"{uri.rstrip('/')}/version", timeout=PATIENCE_S).text.strip()[:20]
    except (Unreachable, requests.RequestException, MlflowException) as error:
        reason = _without_secrets(error, home.profile)
        if not isinstance(error, MlflowException) or unanswered(error):
            raise FoveaError(
                f"{where} does not answer ({reason}); start it, or correct mlflow in the profile"
            ) from error
        if error.get_http_status_code() in REFUSED:  # type: ignore[no-untyped-call]  # MLflow has no types there
            login = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            raise FoveaError(f"{where} refuses: set {login}") from error
        raise FoveaError(f"{where}: {reason}; is its database up, and migrated (mlflow db upgrade)?") from error
    own = importlib.metadata.version("mlflow")
    said = f"{where} answers, version {server}"
    said += "" if server == own else f"; this machine has {own}: install the same"
    if server.split(".")[:2] != own.split(".")[:2]:
        raise FoveaError(said)
    return said


def check_executor(home: Home) -> Iterator[Line]:
    """Who carries out steps; for Ray its resources, and the versions on each node."""
    if home.profile.executor == "in_process":
        import torch

        gpus = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
        cpus = len(os.sched_getaffinity(0))
        yield Line("executor", True, f"this process: {cpus} CPUs, GPUs: {', '.join(gpus) or 'none'}")
        yield Line("versions", True, ", ".join(f"{k} {v}" for k, v in own_versions().items() if v))
        return
    nodes = nodes_of(home.profile)
    cpu, gpu = (sum(node[kind] for node in nodes) for kind in ("cpus", "gpus"))
    said = f"{home.profile.ray_address}: {len(nodes)} nodes, {cpu:g} CPUs, {gpu:g} GPUs"
    none = f"{home.profile.ray_address} has no node alive; start one: ray start --address HEAD:6379"
    yield Line("ray", bool(nodes), said if nodes else none)
    yield from _fitting(home.profile, nodes)
    yield from compare_versions(own_versions(), {str(n["name"]): n["versions"] for n in nodes})


def _fitting(profile: Profile, nodes: list[dict[str, Any]]) -> Iterator[Line]:
    """What no step could be given on these nodes."""
    most = max((node["cpus"] for node in nodes), default=0)
    if nodes and profile.device.startswith("cuda") and not any(node["gpus"] for node in nodes):
        yield Line("device", False, f"device is {profile.device}, and no node has a GPU")
    if nodes and profile.ray_threads > most:
        yield Line(
            "ray_threads", False, f"a step asks for {profile.ray_threads} CPUs, and no node has more than {most:g}"
        )


def nodes_of(cluster: Profile) -> list[dict[str, Any]]:
    """What a job on the cluster finds on each node. Raises FoveaError when the cluster does not answer or run it."""
    from pipelines.ray_cluster import FORWARDED, submission_client

    client = submission_client(cluster)
    job = client.submit_job(
        entrypoint=f"{sys.executable} -m pipelines.ray_nodes",
        entrypoint_num_cpus=0,
        runtime_env={"env_vars": dict(passed_on(FORWARDED))},
    )
    deadline = time.monotonic() + 2 * ANSWER_S
    while not (status := client.get_job_status(job)).is_terminal() and time.monotonic() < deadline:
        time.sleep(0.5)
    log = client.get_job_logs(job)
    for line in log.splitlines():
        if MARK in line:
            return list(json.loads(line.partition(MARK)[2]))
    if not status.is_terminal():
        client.stop_job(job)
    last = log.strip().splitlines()[-1:] or ["no log"]
    raise FoveaError(
        f"Ray at {cluster.ray_address} did not run a job ({status}: {last[0][:200]}); nodes need the same installation at the "
        "same place, or PYTHONPATH"
    )


def compare_versions(own: dict[str, str], nodes: dict[str, dict[str, str]]) -> Iterator[Line]:
    """One line for each node: equal to this machine, or what differs."""
    for name, theirs in nodes.items():
        other = [f"{k} {theirs.get(k, 'absent')} (here {v})" for k, v in own.items() if theirs.get(k) != v]
        differs = f"{', '.join(other)}; install the same lock file and commit there"
        yield Line("versions", not other, f"{name}: {differs if other else 'equal to this machine'}")


CHECKS: dict[str, Callable[[Home], str | Iterator[Line]]] = {
    "storage": check_storage,
    "database": check_database,
    "mlflow": check_mlflow,
    "executor": check_executor,
}


def shown_settings(home: Home) -> Iterator[tuple[str, str, str]]:
    """Key, effective value and meaning of every setting; secrets as `set` or `not set`."""
    profile = home.profile
    yield "profile", profile.name, "FOVEA_PROFILE or --profile"
    for name, field in Profile.model_fields.items():
        if name != "name":
            value = getattr(profile, name)
            text = f"{value:g}" if isinstance(value, float) else str(value)
            yield name, text, str(field.description)
    yield "FOVEA_HOME", str(home.state), "this machine's state"
    yield "units", str(home.data), "content store" + (" (FOVEA_DATA)" if os.environ.get("FOVEA_DATA") else "")
    for name, wins in (("MLFLOW_TRACKING_URI", "mlflow"), ("DAGSTER_HOME", "dagster_database")):
        if os.environ.get(name):
            yield name, redacted(os.environ[name]), f"wins over {wins}"
    needed = {"AWS": profile.storage.startswith("s3://"), "MLF": profile.tracking_uri().startswith("http")}
    wanted = [profile.database_password_env] if profile.dagster_database else []
    for name in (*wanted, *(secret for secret in SECRETS if needed.get(secret[:3]))):
        yield name, "set" if os.environ.get(name) else "not set", "secret"
