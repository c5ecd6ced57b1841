"""Where a command keeps its state and who carries out its steps: the profiles of `fovea.toml`.

```toml
[profiles.cluster]
storage = "s3://bucket/fovea"                      # units, tables, reports, checkpoints; or a folder that all nodes see
s3_endpoint = "https://s3.example.org"             # for servers other than Amazon's
cache_gib = 200                                    # local disk for what is read from the storage
dagster_database = "postgresql://fovea@db.example.org:5432/dagster"
mlflow = "http://mlflow.example.org:5000"
executor = "ray"
ray_address = "http://ray.example.org:8265"
device = "cuda"
```

`FOVEA_PROFILE`, or `--profile` on the command line, names the profile; `local` needs no table. Secrets stay out of the
file: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the variable that `database_password_env` names, and
MLFLOW_TRACKING_USERNAME with MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN).
"""

import dataclasses
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from models.errors import FoveaError

SETTINGS_FILE: Final = "fovea.toml"
DEFAULT_PROFILE: Final = "local"
EXECUTORS: Final = ("in_process", "ray")
DEVICES: Final = ("cpu", "cuda")
#: Environment variables that hold secrets; never printed, never written.
SECRETS: Final = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
)

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


def _about(default: Any, text: str, least: int = 0) -> Any:
    return field(default=default, metadata={"about": text, "least": least})


@dataclass(frozen=True)
class Profile:
    """One `[profiles.NAME]` table. Every field's meaning is its `about`, which `fovea profile show` prints."""

    name: str = DEFAULT_PROFILE
    storage: str = _about("", "units, tables, reports, checkpoints: s3://bucket/prefix, or a shared folder")
    s3_endpoint: str = _about("", "address of the S3 server; empty: Amazon's")
    s3_region: str = _about("", "region of the bucket; empty: the environment's")
    storage_wait_s: float = _about(180.0, "how long to wait for a storage that does not answer")
    cache_gib: float = _about(20.0, "local disk for what is read from the storage")
    dagster_database: str = _about("", "postgresql://user@host:5432/name; empty: SQLite under FOVEA_HOME")
    database_password_env: str = _about("FOVEA_DATABASE_PASSWORD", "variable with the database's password")
    database_wait_s: float = _about(180.0, "how long to wait for a database that does not answer")
    mlflow: str = _about("", "tracking server, http://host:5000; empty: SQLite under FOVEA_HOME")
    executor: str = _about("in_process", "who carries out steps: in_process or ray")
    parallel: int = _about(0, "steps of `fovea run` at once on this machine; 0: one for each GPU")
    ray_address: str = _about("", "Ray's head: http://host:8265 (its dashboard), host:6379, or auto")
    ray_steps: int = _about(8, "steps under way on the cluster at once", least=1)
    ray_threads: int = _about(
        1, "CPU threads of a step on the cluster, and the CPUs that it asks for", least=1
    )
    device: str = _about("cpu", "of steps on the cluster: cpu, or cuda, which makes them ask for GPUs")

    @property
    def remote(self) -> bool:
        """Whether the storage is an object store."""
        return "://" in self.storage

    def storage_options(self) -> dict[str, Any]:
        """What fsspec needs beside the address, without secrets (botocore reads those from the environment)."""
        if not self.storage.startswith("s3://"):
            return {}
        options: dict[str, Any] = {
            # Other nodes write, too: a listing remembered from a moment ago would hide what they made.
            "use_listings_cache": False,
            "config_kwargs": {
                "connect_timeout": 5,
                "read_timeout": 30,
                "retries": {"mode": "standard", "total_max_attempts": 2},
            },
        }
        if self.s3_endpoint:
            options["endpoint_url"] = self.s3_endpoint
        if self.s3_region:
            options["client_kwargs"] = {"region_name": self.s3_region}
        return options

    def secret_names(self) -> tuple[str, ...]:
        """Environment variables that this profile may read a secret from."""
        return (*SECRETS, self.database_password_env)

    def tracking_uri(self) -> str:
        """Where MLflow runs go: MLFLOW_TRACKING_URI, else the profile's server, else "" (the embedded store)."""
        return (os.environ.get("MLFLOW_TRACKING_URI") or self.mlflow).strip()

    def environment(self, config: Path) -> dict[str, str]:
        """Variables that make a process elsewhere see this profile; holds no secret.

        config: the folder of fovea.toml as that process sees it.
        """
        return {"FOVEA_PROFILE": self.name, "FOVEA_CONFIG": str(config)}


#: Profiles that need no table in fovea.toml.
BUILT_IN: Final = {DEFAULT_PROFILE: Profile(), "ci": Profile("ci", cache_gib=2.0, storage_wait_s=60.0)}


def read_profiles(config: Path) -> dict[str, Profile]:
    """Every profile of `config/fovea.toml` by name, with the built-in ones.

    Raises:
        FoveaError: no TOML, an unknown key, a value of the wrong kind, a password in the file; names file and field.
    """
    file = config / SETTINGS_FILE
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        document = {}
    except (OSError, UnicodeDecodeError) as error:
        raise FoveaError(f"{file}: can't be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        twice = ": two tables of one name? Rename or delete one" if "twice" in str(error) else ""
        raise FoveaError(f"{file}: {error}{twice}") from error
    tables = document.get("profiles", {})
    if not isinstance(tables, Mapping):
        raise FoveaError(f"{file}: profiles: expected tables [profiles.NAME], got {tables!r}")
    found = dict(BUILT_IN)
    for name, table in tables.items():
        found[name] = _profile(name, table, f"{file}: profiles.{name}", config)
    return found


def find_profile(config: Path, name: str | None = None) -> Profile:
    """The profile of that name; default: FOVEA_PROFILE, else `local`. Raises FoveaError."""
    wanted = name or os.environ.get("FOVEA_PROFILE") or DEFAULT_PROFILE
    found = read_profiles(config)
    if wanted not in found:
        raise FoveaError(
            f"no profile {wanted!r}; there are {', '.join(found)}. Write a table [profiles.{wanted}] into "
            f"{config / SETTINGS_FILE}, with storage, dagster_database and mlflow"
        )
    return found[wanted]


def _profile(name: str, table: Any, where: str, config: Path) -> Profile:
    if not _NAME.fullmatch(name):
        raise FoveaError(f"{where}: a profile's name has up to 40 small letters, digits, - and _")
    if not isinstance(table, Mapping):
        raise FoveaError(f"{where}: expected a table [profiles.{name}], got {table!r}")
    fields = {f.name: f for f in dataclasses.fields(Profile) if f.name != "name"}
    if unknown := sorted(set(table) - set(fields)):
        raise FoveaError(f"{where}: unknown key {', '.join(unknown)}; known are {', '.join(fields)}")
    values: dict[str, Any] = {}
    for key, value in table.items():
        kind = fields[key].type
        if kind is float:
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e9:
                raise FoveaError(f"{where}.{key}: expected a number above 0, got {value!r}")
            values[key] = float(value)
        elif kind is bool:
            if not isinstance(value, bool):
                raise FoveaError(f"{where}.{key}: expected true or false, got {value!r}")
            values[key] = value
        elif kind is int:
            least = int(fields[key].metadata["least"])
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise FoveaError(f"{where}.{key}: expected a whole number from {least}, got {value!r}")
            values[key] = value
        else:
            if not isinstance(value, str):
                raise FoveaError(f"{where}.{key}: expected text in quotes, got {value!r}")
            values[key] = value.strip()
    profile = dataclasses.replace(BUILT_IN.get(name, Profile(name)), **values)
    return _checked(profile, where, config)


#: names of parameters of an address that hold a secret
_SECRET: Final = re.compile(r"(?i)(^|&)[^=]*(password|passwd|token|secret|key)[^=]*=")


def _holds_secret(value: str) -> bool:
    try:
        parts = urlsplit(value)
        return parts.password is not None or bool(_SECRET.search(parts.query))
    except ValueError:
        return True


#: variables that name folders, which may be given relative to where a command runs
_FOLDERS: Final = ("FOVEA_HOME", "FOVEA_CONFIG", "FOVEA_DATA", "FOVEA_SHARED", "CITYSCAPES_ROOT")


def passed_on(names: Sequence[str]) -> dict[str, str]:
    """Those variables of this environment as a process elsewhere may be told them, in a file or a job that others read.

    Folders are made absolute. An address with a password or a token in it is left out: each node has its own.
    """
    found = {n: v for n in names if (v := os.environ.get(n)) and not _holds_secret(v)}
    return {n: str(Path(v).absolute()) if n in _FOLDERS else v for n, v in found.items()}


def _split(value: str, where: str) -> SplitResult:
    """The address's parts. Raises FoveaError for one with a password in it, without repeating it."""
    try:
        parts = urlsplit(value)
        secret, _ = parts.password, parts.port
    except ValueError as error:
        raise FoveaError(f"{where}: no address ({error})") from None
    if secret is not None or _SECRET.search(parts.query):
        raise FoveaError(
            f"{where}: a password does not belong in this file; take it out and set it in the environment "
            "(fovea profile show lists the variables)"
        )
    return parts


def _checked(profile: Profile, where: str, config: Path) -> Profile:
    storage = _split(profile.storage, f"{where}.storage")
    if storage.scheme not in ("", "s3") or (storage.scheme == "s3" and not storage.netloc):
        raise FoveaError(
            f'{where}.storage: expected "s3://bucket/prefix" or a folder, got {profile.storage!r}'
        )
    if profile.storage and not storage.scheme:
        folder = Path(profile.storage).expanduser()
        profile = dataclasses.replace(profile, storage=str(config / folder))
    if profile.remote:
        profile = dataclasses.replace(profile, storage=profile.storage.rstrip("/"))
    for key in ("s3_endpoint", "mlflow"):
        value = getattr(profile, key)
        parts = _split(value, f"{where}.{key}")
        if value and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise FoveaError(f'{where}.{key}: expected "http://host:port", got {value!r}')
        if parts.username is not None:
            raise FoveaError(f"{where}.{key}: a user name does not belong in this address; set it in the "
                             "environment (fovea profile show lists the variables)")  # fmt: skip
    _split(profile.ray_address, f"{where}.ray_address")
    if profile.dagster_database:
        database = _split(profile.dagster_database, f"{where}.dagster_database")
        good = database.scheme.partition("+")[0] in ("postgresql", "postgres")
        if not (good and database.hostname and database.username and database.path.strip("/")):
            raise FoveaError(
                f'{where}.dagster_database: expected "postgresql://user@host:5432/name", got '
                f"{profile.dagster_database!r}"
            )
        if database.query:
            raise FoveaError(
                f"{where}.dagster_database: what stands behind the ? is not used; set PGSSLMODE and the like in the "
                "environment of every process"
            )
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", profile.database_password_env):
        raise FoveaError(
            f"{where}.database_password_env: expected the name of an environment variable, not a value"
        )
    if profile.executor not in EXECUTORS:
        raise FoveaError(f"{where}.executor: {profile.executor!r} is none of {', '.join(EXECUTORS)}")
    if profile.device not in DEVICES:
        raise FoveaError(f"{where}.device: {profile.device!r} is none of {', '.join(DEVICES)}")
    return profile
