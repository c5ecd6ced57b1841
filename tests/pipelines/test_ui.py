"""How `fovea ui` starts what it shows; tests/e2e/test_ui.py runs it."""

from pathlib import Path
from typing import Any

import pytest

from pipelines import ui


@pytest.mark.filterwarnings("ignore")
def test_the_address_of_the_store_is_no_argument_that_others_read(
    installation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = "postgresql://u:hush@db/mlflow"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    started: dict[str, tuple[list[str], dict[str, str]]] = {}

    def start(command: list[str], environment: dict[str, str], log: Path) -> Any:
        started[log.stem] = command, environment
        if log.stem == "mlflow":
            raise KeyboardInterrupt

    for name in ("prepare_instance", "shown", "stop", "signal.signal"):
        monkeypatch.setattr(f"pipelines.ui.{name}", lambda *_: None)
    monkeypatch.setattr(ui, "_start", start)
    ui.serve(0, 0)
    assert not [word for command, _ in started.values() for word in command if "hush" in word]
    from mlflow.cli import server

    (option,) = [o for o in server.params if o.name == "backend_store_uri"]
    assert started["mlflow"][1][str(option.envvar)] == address
