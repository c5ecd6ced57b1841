"""How training and evaluation tell their story, without knowing MLflow.

`Run` and `Tracker` themselves keep nothing: they serve where nobody listens, and who listens to one thing overrides one
method. `pipelines/mlflow_tracking.py` has those that tell MLflow.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def belongs(sweep: str) -> str:
    """The tag of the runs that belong to a sweep; `fovea.sweep` names the one that made them."""
    return f"fovea.sweep.{sweep}"


class Run:
    """One tracked run. Everything may be called again after a resume: what is already logged is not logged twice."""

    @property
    def run_id(self) -> str:
        """The server's id, or "" while the server has not been reached."""
        return ""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Once-only facts: the resolved record."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Searchable marks, such as `fovea.key` or `dagster.run_id`; may change."""

    def log_metrics(self, rows: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """(step, values) rows in one batch. A (name, step) pair that the run already has is left out."""

    def log_latest(self, values: Mapping[str, float]) -> None:
        """What is known of a run that is over, as it stands now: a value that differs from the one that the run has takes its
        place, at a step of its own."""

    def log_inputs(self, digests: Mapping[str, str], context: str) -> None:
        """Dataset name to content digest; context is "train" or "test"."""

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """A file, copied under the run's artifacts."""

    def log_figure(self, png: bytes, name: str) -> None:
        """A picture such as `curves/rd.png`."""

    def log_table(self, rows: Iterable[Mapping[str, Any]], name: str) -> None:
        """A small table, shown in the UI as `name`.json."""

    def finish(self, status: str = "FINISHED") -> None:
        """FINISHED, FAILED or KILLED."""


class Tracker:
    """Opens runs. `key` identifies a run across resumes and processes: the same key continues the same run."""

    def run(
        self, *, experiment: str, name: str, key: str, parent_key: str = "", tags: Mapping[str, str] | None = None
    ) -> Run:
        """Start or continue the run with this key."""
        return Run()

    def register_model(self, run: Run, *, folder: Path, name: str, alias: str = "", about: str = "") -> str:
        """Register the codec in `folder` (weights + configuration) as a model; returns its address or "". about: Markdown."""
        return ""

    def run_id(self, key: str) -> str:
        """The server's id of the run with this key; "" while the server has not been reached."""
        return ""

    def run_url(self, run_id: str) -> str:
        """Where a browser shows the run, or ""."""
        return ""

    def table_url(self, run_id: str, sweep: str) -> str:
        """Where a browser shows the table of the trainings of a sweep, to which the run belongs, or ""."""
        return ""

    def asset_url(self, stage: str, partition: str) -> str:
        """Where a browser shows the artifact in Dagster, or ""."""
        return ""

    def flush(self) -> None:
        """Send what waits; says what could not be sent."""
