"""Dagster's instance under FOVEA_HOME: its settings and where it keeps its state. Imports nothing heavy."""

import os

from assets.home import Home, written_beside


def prepare_instance(home: Home) -> None:
    """Dagster's home under FOVEA_HOME, with its settings; DAGSTER_HOME in the environment wins."""
    folder = os.environ.get("DAGSTER_HOME")
    if folder:
        return
    home.dagster.mkdir(parents=True, exist_ok=True)
    settings = home.dagster / "dagster.yaml"
    if not settings.exists():
        with written_beside(settings) as beside:
            beside.write_text(INSTANCE)
    os.environ["DAGSTER_HOME"] = str(home.dagster)


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
"""
