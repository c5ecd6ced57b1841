"""A running `fovea ui`: Dagster's webserver and daemon, and MLflow, asked through GraphQL."""

import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from commands import ROOT
from servers.ports import free_port

from pipelines.addresses import Ports, address

PATIENCE_S = 300.0
LOCATION = "{ repositoriesOrError { ... on RepositoryConnection { nodes { name location { name } } } } }"


class Ui:
    """On free ports, or on those that the home has, from `with` on. environment: as commands.environment makes it. Its log lies
    in `log`."""

    def __init__(self, environment: dict[str, str], log: Path, ports: Ports | None = None):
        self.environment, self.log = environment, log
        self.words: tuple[str, ...] = ()
        if ports is None:
            ports = Ports(free_port(), free_port())
            self.words = ("--port", str(ports.dagster), "--mlflow-port", str(ports.mlflow))
        self.dagster, self.mlflow = map(address, ports)

    def __enter__(self) -> Self:
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pipelines.cli", "ui", *self.words],
                env=self.environment, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        try:
            self.until("the code location", lambda: self.ask(LOCATION)["repositoriesOrError"].get("nodes"))
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """As Ctrl-C does, which ends all that it has started."""
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """What Dagster's GraphQL answers."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.dagster}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = json.load(answer)
        assert "errors" not in found, found["errors"]
        return dict(found["data"])

    def until(self, what: str, look: Any, patience_s: float = PATIENCE_S) -> Any:
        """What `look` finds, once it finds something."""
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            try:
                found = look()
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                found = None
            if found:
                return found
            time.sleep(0.3)
        raise AssertionError(f"{what} did not happen in {patience_s:.0f} s: {self.log.read_text()}")
