"""An MLflow server on loopback: its state in any database, its artifacts in a folder or bucket.

with MlflowServer(folder, store=postgres.dsn("mlflow")) as mlflow: ...  # mlflow.uri; mlflow.stop(), mlflow.start()
"""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from servers.ports import Server, free_port, wait_for


class MlflowServer(Server):
    def __init__(
        self,
        folder: Path,
        *,
        store: str = "",
        artifacts: str = "",
        environment: Mapping[str, str] | None = None,
        started: bool = True,
    ):
        self.folder, self.port = folder, free_port()
        folder.mkdir(parents=True, exist_ok=True)
        # plain postgresql:// means psycopg 3, which is not here
        self.store = store.replace("postgresql://", "postgresql+psycopg2://") or f"sqlite:///{folder / 'mlflow.db'}"
        self.artifacts = artifacts or str(folder / "artifacts")
        self.environment = dict(environment or {})
        self.process: subprocess.Popen[bytes] | None = None
        if started:
            self.start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        environment = {
            **os.environ,
            **self.environment,
            "PYTHONWARNINGS": "ignore",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            # not on the command line, where everybody could read the password
            "MLFLOW_BACKEND_STORE_URI": self.store,
        }
        environment.pop("MLFLOW_TRACKING_URI", None)
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
                    "--workers", "1", "--artifacts-destination", self.artifacts,
                ],
                stdout=log,
                stderr=log,
                env=environment,
                cwd=self.folder,
                start_new_session=True,
            )  # fmt: skip
        wait_for(self.port, 400)  # a minute of imports on an idle machine

    def stop(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    close = stop
