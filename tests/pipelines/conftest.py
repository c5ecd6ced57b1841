"""What tests of pipelines share."""

from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow: its first look at an empty one takes seconds."""
    from pipelines.mlflow_tracking import MlflowTracker

    folder = tmp_path_factory.mktemp("template")
    tracker = MlflowTracker(folder, "")
    tracker.store.connect()
    tracker.close()
    return folder / "mlflow.db"


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """One that forgets."""
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def launched(installation: Path, instance: dg.DagsterInstance) -> Callable[[str, str], dg.ExecuteInProcessResult]:
    """Makes a partition of a stage as the UI does."""
    from pipelines import resources
    from pipelines.assets import ASSETS
    from pipelines.partitions import offer

    def launch(stage: str, partition: str) -> dg.ExecuteInProcessResult:
        offer(instance, [(stage, partition)])
        asked = [asset for asset in ASSETS if asset.key == dg.AssetKey(stage)]
        given = {"instance": instance, "resources": {"workshop": resources.FoveaWorkshop()}}
        return dg.materialize(asked, partition_key=partition, raise_on_error=False, **given)

    return launch
