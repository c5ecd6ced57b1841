"""Where a command keeps its state and who carries out its steps: the profiles of `fovea.toml`. docs/cluster.md shows one.

`FOVEA_PROFILE`, or `--profile` on the command line, names the profile; `local` needs no table. Secrets stay out of the
file: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the variable that `database_password_env` names, and
MLFLOW_TRACKING_USERNAME with MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN).
"""

import contextlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import ConfigDict, Field, StringConstraints, field_validator

from models.config import SETTINGS_FILE, expanded, read_tables
from models.errors import FoveaError
from models.validation import Typed, checked

DEFAULT_PROFILE: Final = "local"
#: Environment variables that hold secrets; never printed, never written.
SECRETS: Final = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN",
)  # fmt: skip
Text = Annotated[str, StringConstraints(strip_whitespace=True)]
Amount = Annotated[float, Field(gt=0, lt=1e9)]


class Profile(Typed):
    """One `[profiles.NAME]` table. Every field's meaning is its description, which `fovea profile show` prints."""

    model_config = ConfigDict(strict=True)

    name: str = DEFAULT_PROFILE
    storage: Text = Field(
        default="", description="units, tables, reports, checkpoints: s3://bucket/prefix, or a shared folder"
    )
    s3_endpoint: Text = Field(default="", description="address of the S3 server; empty: Amazon's")
    s3_region: Text = Field(default="", description="region of the bucket; empty: the environment's")
    storage_wait_s: Amount = Field(default=180.0, description="how long to wait for a storage that does not answer")
    cache_gib: Amount = Field(default=20.0, description="local disk for what is read from the storage")
    dagster_database: Text = Field(
        default="", description="postgresql://user@host:5432/name; empty: SQLite under FOVEA_HOME"
    )
    database_password_env: Text = Field(
        default="FOVEA_DATABASE_PASSWORD", description="variable with the database's password"
    )
    database_wait_s: Amount = Field(default=180.0, description="how long to wait for a database that does not answer")
    mlflow: Text = Field(default="", description="tracking server, http://host:5000; empty: SQLite under FOVEA_HOME")
    executor: Literal["in_process", "ray"] = Field(
        default="in_process", description="who carries out steps: in_process or ray"
    )
    parallel: int = Field(
        default=0, ge=0, description="steps of `fovea run` at once on this machine; 0: one for each GPU"
    )
    ray_address: Text = Field(
        default="auto", description="Ray's head: http://host:8265 (its dashboard), host:6379, or auto"
    )
    ray_steps: int = Field(default=8, ge=1, description="steps under way on the cluster at once")
    ray_threads: int = Field(
        default=1, ge=1, description="CPU threads of a step on the cluster, and the CPUs that it asks for"
    )
    device: Literal["cpu", "cuda"] = Field(
        default="cpu", description="of steps on the cluster: cpu, or cuda, which makes them ask for GPUs"
    )

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,39}", name):
            raise FoveaError("a profile's name has up to 40 small letters, digits, - and _")
        return name

    @field_validator("storage")
    @classmethod
    def _is_a_storage(cls, storage: str) -> str:
        parts = _split(storage)
        if parts.scheme not in ("", "s3") or (parts.scheme == "s3" and not parts.netloc):
            raise FoveaError(f'expected "s3://bucket/prefix" or a folder, got {storage!r}')
        return storage.rstrip("/") if parts.scheme else storage

    @field_validator("s3_endpoint", "mlflow")
    @classmethod
    def _is_a_server(cls, address: str) -> str:
        parts = _split(address)
        if address and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise FoveaError(f'expected "http://host:port", got {address!r}')
        return address

    @field_validator("ray_address")
    @classmethod
    def _holds_no_password(cls, address: str) -> str:
        _split(address)
        return address

    @field_validator("dagster_database")
    @classmethod
    def _is_a_database(cls, address: str) -> str:
        parts = _split(address)
        good = parts.scheme.partition("+")[0] in ("postgresql", "postgres")
        if address and not (good and parts.hostname and parts.username and parts.path.strip("/")):
            raise FoveaError(f'expected "postgresql://user@host:5432/name", got {address!r}')
        if parts.query:
            raise FoveaError(
                "what stands behind the ? is not used; set PGSSLMODE and the like in the environment of every process"
            )
        return address

    @field_validator("database_password_env")
    @classmethod
    def _is_a_variable(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise FoveaError("expected the name of an environment variable, not a value")
        return name

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

    def tracking_uri(self) -> str:
        """Where MLflow runs go: MLFLOW_TRACKING_URI, else the profile's server, else "" (the embedded store)."""
        return (os.environ.get("MLFLOW_TRACKING_URI") or self.mlflow).strip()


#: Profiles that need no table in fovea.toml.
BUILT_IN: Final = {DEFAULT_PROFILE: Profile(), "ci": Profile(name="ci", cache_gib=2.0, storage_wait_s=60.0)}


def find_profile(config: Path, name: str | None = None) -> Profile:
    """The profile of that name in `config/fovea.toml`, or a built-in one; default: FOVEA_PROFILE, else `local`. A folder as
    storage is made absolute. Other tables are not looked at. Raises FoveaError: no such profile, no TOML, an unknown field,
    a value of the wrong kind, a password in the file; names file and field."""
    wanted = name or os.environ.get("FOVEA_PROFILE") or DEFAULT_PROFILE
    file = config / SETTINGS_FILE
    tables = read_tables(file, "profiles")
    if wanted not in BUILT_IN | tables:
        raise FoveaError(
            f"no profile {wanted!r}; there are {', '.join(BUILT_IN | tables)}. Write a table [profiles.{wanted}] into "
            f"{file}, with storage, dagster_database and mlflow"
        )
    where, table = f"{file}: profiles.{wanted}", tables.get(wanted, {})
    if not isinstance(table, dict):
        raise FoveaError(f"{where}: expected a table [profiles.{wanted}], got {table!r}")
    base = BUILT_IN[wanted].model_dump(exclude_unset=True) if wanted in BUILT_IN else {}
    profile = checked(Profile, {**base, **table, "name": wanted}, where)
    if profile.storage and not profile.remote:
        storage = str(config / expanded(profile.storage, f"{where}.storage: "))
        profile = profile.model_copy(update={"storage": storage})
    return profile


#: names of parameters of an address that hold a secret
_SECRET: Final = re.compile(r"(?i)(^|&)[^=]*(password|passwd|token|secret|key)[^=]*=")


#: variables that name folders, which may be given relative to where a command runs
_FOLDERS: Final = ("FOVEA_HOME", "FOVEA_CONFIG", "FOVEA_DATA", "FOVEA_SHARED", "CITYSCAPES_ROOT")


def passed_on(names: Sequence[str]) -> dict[str, str]:
    """Those variables of this environment as a process elsewhere may be told them, in a file or a job that others read.
    Folders are made absolute. An address that `_split` refuses is left out: each node has its own."""
    found = {}
    for name in names:
        if value := os.environ.get(name):
            with contextlib.suppress(FoveaError):
                _split(value)
                found[name] = str(Path(value).absolute()) if name in _FOLDERS else value
    return found


def _split(value: str) -> SplitResult:
    """The address's parts. Raises FoveaError for one with a password in it, or with a user name where it is of http, which may
    be a token, without repeating it."""
    try:
        parts = urlsplit(value)
        secret, _ = parts.password, parts.port
    except ValueError as error:
        raise FoveaError(f"no address ({error})") from None
    user = parts.scheme in ("http", "https") and parts.username is not None
    if user or secret is not None or _SECRET.search(parts.query):
        raise FoveaError(
            f"a {'user name' if user else 'password'} does not belong in this file; take it out and set it in the environment "
            "(fovea profile show lists the variables)"
        )
    return parts
