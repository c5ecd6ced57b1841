"""PostgreSQL on loopback in a folder of its own, run by an unprivileged user when the tests run as root.

if reason := why_not(): pytest.skip(reason)
with PostgresServer() as postgres: ...  # postgres.address("dagster"), postgres.environment, postgres.restart()
"""

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

from servers.ports import Server, free_port

USER, PASSWORD = "fovea", "pg-test-secret-41c7d2"
PASSWORD_ENV = "FOVEA_DATABASE_PASSWORD"


def programs() -> Path | None:
    """The folder of initdb and postgres: Debian keeps them off the PATH."""
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((p for p in places if (p / "initdb").exists() and (p / "postgres").exists()), None)


def _account() -> pwd.struct_passwd | None:
    """Who runs the server when we are root, which PostgreSQL refuses."""
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    return None


def why_not() -> str:
    """Why there can be no server here; "" when there can."""
    if programs() is None:
        return "PostgreSQL is not installed (make system; Debian: apt-get install postgresql)"
    if os.geteuid() == 0 and _account() is None:
        return "PostgreSQL refuses to run as root, and there is no user postgres or nobody"
    return ""


class PostgresServer(Server):
    def __init__(self) -> None:
        found = programs()
        assert found is not None, why_not()
        # not below pytest's folders: each new pytest session closes those to the server's user again
        self.folder = folder = Path(tempfile.mkdtemp(prefix="fovea-postgres-"))
        self.bin, self.port = found, free_port()
        self._as = _account() if os.geteuid() == 0 else None
        password = folder / "password"
        password.write_text(PASSWORD)
        if self._as:
            os.chown(folder, self._as.pw_uid, self._as.pw_gid)
            os.chown(password, self._as.pw_uid, self._as.pw_gid)
        self._run(
            "initdb", "-U", USER, "-A", "scram-sha-256", "--pwfile", str(password),
            "-E", "UTF8", "--locale", "C", "--no-sync",
        )  # fmt: skip
        password.unlink()
        self.start()
        self.make("dagster")
        self.make("mlflow")

    def _run(self, program: str, *words: str) -> None:
        identity = {"user": self._as.pw_uid, "group": self._as.pw_gid, "extra_groups": []} if self._as else {}
        done = subprocess.run(
            [str(self.bin / program), "-D", str(self.folder / "data"), *words],
            capture_output=True, text=True, check=False, cwd=self.folder, **identity,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        """Until it answers."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        self._run("pg_ctl", "start", "-w", "-l", str(self.folder / "log"), "-o", options)

    def stop(self) -> None:
        """At once: clients' connections are cut."""
        self._run("pg_ctl", "stop", "-w", "-m", "fast")

    def restart(self) -> None:
        self.stop()
        self.start()

    def dsn(self, database: str) -> str:
        return f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def address(self, database: str = "dagster") -> str:
        """As it stands in fovea.toml: without the password."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    @property
    def environment(self) -> dict[str, str]:
        return {PASSWORD_ENV: PASSWORD}

    def make(self, database: str) -> None:
        import psycopg2

        with contextlib.closing(psycopg2.connect(self.dsn("postgres"))) as connection:
            connection.autocommit = True
            connection.cursor().execute(f'CREATE DATABASE "{database}"')

    def rows(self, query: str, database: str = "dagster") -> list[tuple[object, ...]]:
        import psycopg2

        with contextlib.closing(psycopg2.connect(self.dsn(database))) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            return list(cursor.fetchall())

    def close(self) -> None:
        if (self.folder / "data" / "postmaster.pid").exists():
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
