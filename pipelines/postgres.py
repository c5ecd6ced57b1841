"""Dagster's state in PostgreSQL, with patience: a database that restarts costs a run some waiting, not its life.

Imported only by a Dagster instance whose `dagster.yaml` names the class; `pipelines/instance.py` writes that file.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import dagster as dg
import sqlalchemy
import sqlalchemy.event
import sqlalchemy.exc
from dagster._config.config_schema import UserConfigSchema
from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage
from dagster_postgres.utils import pg_url_from_config

from assets.remote import patiently
from models.errors import FoveaError

DEFAULT_WAIT_S = 180.0
#: SQLSTATE classes and words of a server that is away or starting, in contrast to one that refuses
PASSING = (
    "connection refused", "could not connect", "starting up", "shutting down", "terminating connection",
    "closed the connection unexpectedly", "connection already closed", "timeout expired", "timed out",
    "recovery mode", "too many clients", "reset by peer", "name resolution",
)  # fmt: skip


def may_pass(error: BaseException) -> bool:
    """Whether waiting may help: the server is away or starting, rather than refusing the user or the database."""
    text = str(error).lower()
    return any(words in text for words in PASSING)


def _waited_for(call: Callable[[], Any], passing: Callable[[BaseException], bool], wait_s: float) -> Any:
    """What the call returns. Raises FoveaError where the server stays away."""
    try:
        return patiently(call, passing, wait_s, "Dagster's database")
    except Exception as error:
        if not passing(error):
            raise
        raise FoveaError(
            f"Dagster's database does not answer ({str(error).splitlines()[0][:200]}); what is finished is kept: bring it back "
            "and run the same command again; `fovea profile check` says what to do"
        ) from error


def connect_patiently(engine: Any, wait_s: float) -> None:
    """Let every new connection of an engine wait for the server. Raises FoveaError where it stays away."""

    def connect(dialect: Any, _record: Any, words: Any, settings: Any) -> Any:
        settings.setdefault("connect_timeout", 10)
        return _waited_for(lambda: dialect.connect(*words, **settings), may_pass, wait_s)

    sqlalchemy.event.listen(engine, "do_connect", connect)


#: methods that hand out a connection: what is done with it is tried again as a whole, by the method that asked
CONNECTIONS = frozenset({"connect", "run_connection", "index_connection", "index_transaction"})


def call_patiently(storage: Any, wait_s: float) -> None:
    """Let every public method of a storage start again when the server cuts it in the middle of a statement. Raises FoveaError
    where the server stays away.

    Each statement commits by itself. One that was committed and cut before its answer came is stored twice; that can be
    a line of a log, never a result: those lie in the content store.
    """

    def cut(error: BaseException) -> bool:
        return isinstance(error, sqlalchemy.exc.DBAPIError) and may_pass(error)

    def again(method: Callable[..., Any], *words: Any, **named: Any) -> Any:
        return _waited_for(lambda: method(*words, **named), cut, wait_s)

    for name in dir(type(storage)):
        found = inspect.getattr_static(type(storage), name)
        if name[0] != "_" and name not in CONNECTIONS and inspect.isfunction(found):
            setattr(storage, name, functools.partial(again, getattr(storage, name)))


class PatientPostgresStorage(DagsterPostgresStorage):
    """dagster_postgres' storage that waits up to `wait_s` seconds for a server that is away. Raises FoveaError when the
    server stays away, or refuses the user or the database."""

    def __init__(
        self,
        postgres_url: str,
        should_autocreate_tables: bool = True,
        inst_data: ConfigurableClassData | None = None,
        wait_s: float = DEFAULT_WAIT_S,
    ):
        probe = sqlalchemy.create_engine(postgres_url, poolclass=sqlalchemy.pool.NullPool)
        connect_patiently(probe, wait_s)
        try:
            probe.connect().close()
        except sqlalchemy.exc.SQLAlchemyError as error:
            reason = " ".join(str(getattr(error, "orig", error)).split())
            raise FoveaError(
                f"Dagster's database at {probe.url.host}:{probe.url.port}/{probe.url.database}: {reason[:300]}; what is "
                "finished is kept; `fovea profile check` says what to do"
            ) from None
        super().__init__(postgres_url, should_autocreate_tables, inst_data)
        for storage in (self._run_storage, self._event_log_storage, self._schedule_storage):
            connect_patiently(storage._engine, wait_s)
            call_patiently(storage, wait_s)

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """dagster_postgres' fields, and `wait_s`."""
        fields: Any = super().config_type()
        return {**fields, "wait_s": dg.Field(float, is_required=False, default_value=DEFAULT_WAIT_S)}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> "PatientPostgresStorage":
        """As Dagster makes it from `dagster.yaml`."""
        return cls(
            pg_url_from_config(config_value),
            config_value.get("should_autocreate_tables", True),
            inst_data,
            config_value.get("wait_s", DEFAULT_WAIT_S),
        )
