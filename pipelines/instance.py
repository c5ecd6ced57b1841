"""Dagster's instance: its settings and where it keeps its state. Imports nothing heavy."""

import importlib.util
import json
import os
import secrets
from pathlib import Path
from urllib.parse import unquote, urlsplit

from assets.home import Home, write_whole
from assets.settings import DEFAULT_PROFILE, Profile
from models.errors import FoveaError


def instance_folder(home: Home) -> Path:
    """Where the profile's dagster.yaml is, unless DAGSTER_HOME says otherwise."""
    return home.state / f"dagster-{home.profile.name}" if home.profile.dagster_database else home.dagster


def prepare_instance(home: Home) -> None:
    """Dagster's home under FOVEA_HOME, with its settings; DAGSTER_HOME in the environment wins.

    A profile with a database has a folder of its own, whose settings are written anew each time. Raises FoveaError where
    the cluster extra is not installed.
    """
    if os.environ.get("DAGSTER_HOME"):
        return
    profile = home.profile
    text, ours = INSTANCE, bool(profile.dagster_database)
    if ours:
        if importlib.util.find_spec("dagster_postgres") is None:
            raise FoveaError(
                f"profile {profile.name} keeps Dagster's state in PostgreSQL: install the cluster extra (pip install "
                "'fovea[cluster]')"
            )
        text += database_settings(profile)
    folder = instance_folder(home)
    settings = folder / "dagster.yaml"
    if not settings.exists() or (ours and settings.read_text() != text):
        write_whole(settings, text)
    os.environ["DAGSTER_HOME"] = str(folder)


def database_parts(profile: Profile) -> dict[str, str | int]:
    """User, host, port and name of the profile's database."""
    parts = urlsplit(profile.dagster_database)
    return {
        "username": unquote(parts.username or ""),
        "hostname": parts.hostname or "",
        "port": parts.port or 5432,
        "db_name": unquote(parts.path.strip("/")),
    }


def database_settings(profile: Profile) -> str:
    """The storage's part of dagster.yaml. Its password is named, never written."""
    config: dict[str, object] = {
        **database_parts(profile),
        # plain postgresql:// means psycopg 3 to this SQLAlchemy
        "scheme": "postgresql+psycopg2",
    }
    if os.environ.get(profile.database_password_env):
        config["password"] = {"env": profile.database_password_env}
    storage = {
        "custom": {
            "module": "pipelines.postgres",
            "class": "PatientPostgresStorage",
            "config": {"postgres_db": config, "wait_s": profile.database_wait_s},
        }
    }
    # JSON is YAML
    return f"# written from [profiles.{profile.name}] of fovea.toml\nstorage: {json.dumps(storage)}\n"


def owner(home: Home) -> str:
    """Whose unfinished runs are ours to end: in a database that nodes share, those of this FOVEA_HOME, wherever it is
    mounted; in FOVEA_HOME's own, which profiles share, those of the profile. Call while holding the run lock."""
    if not home.profile.dagster_database:
        return "yes" if home.profile.name == DEFAULT_PROFILE else home.profile.name
    # beside the lock, which allows one command at a time: the folder is what both mean, not the machine (a container has
    # a new host name each time)
    file = home.locks / "owner"
    if not file.exists():
        write_whole(file, secrets.token_hex(8))
    return file.read_text()


#: one training or measuring run at a time by default; `dagster instance concurrency set gpu K` for K GPUs
INSTANCE = """\
telemetry:
  enabled: false
nux:
  enabled: false
concurrency:
  pools:
    default_limit: 1
    granularity: run
run_retries:
  enabled: true
  max_retries: 1
  # only a run whose process died: an asset retries by its own policy, and a wrong name stays wrong
  retry_on_asset_or_op_failure: false
"""
