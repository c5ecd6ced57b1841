"""Which page of MLflow a link opens, and what its run table shows.

MLflow 3 opens experiments as traces unless an address says otherwise, and hides columns of metrics and parameters; its chart
view begins with the metrics of training. A view that is kept in a tag of the experiment names columns and first charts; an
address names the view.
"""

import json
import os
from pathlib import Path
from typing import Any

from pipelines.addresses import address, ports_of

TABLE = "workflowType=machine_learning"
VIEW_TAG, ALL = "mlflow.sharedViewState.", "trainings"
_COLUMNS = (
    "params.`arm`", "params.`codec`", "params.`rate`", "metrics.`bpp`", "metrics.`psnr_db`",
    "metrics.`sw_psnr_db`", "metrics.`ew_psnr_db`", "metrics.`bd_rate_percent`", "attributes.`Duration`",
    "attributes.`Source`",
)  # fmt: skip
_OVER_BPP = ("psnr_db", "sw_psnr_db", "ms_ssim")


def _charts() -> dict[str, Any]:
    """The chart view's first section; MLflow adds those of all other metrics after it."""
    common: dict[str, Any] = {
        "metricSectionId": "first",
        "deleted": False,
        "isGenerated": False,
        "runsCountToCompare": 100,
    }
    plots: list[dict[str, Any]] = [
        {
            "uuid": key,
            "type": "SCATTER",
            "xaxis": {"key": "bpp", "type": "METRIC"},
            "yaxis": {"key": key, "type": "METRIC"},
        }
        for key in _OVER_BPP
    ]
    bar: dict[str, Any] = {"uuid": "bd", "type": "BAR", "metricKey": "bd_rate_percent"}
    section = {"uuid": "first", "name": "Test pictures", "display": True, "isReordered": True, "columns": 2}
    return {
        "compareRunCharts": [common | chart for chart in (*plots, bar)],
        "compareRunSections": [section],
        "isAccordionReordered": True,  # else sections are sorted by name
        "runsHiddenMode": "SHOW_ALL",
    }


def view(sweep: str = "") -> str:
    """The state of a run table with a row a training: of one sweep, or of all."""
    rows = "tags.`fovea.stage` = 'trained_codec'" + (f" and tags.`fovea.sweep` = '{sweep}'" if sweep else "")
    return json.dumps(
        {
            "searchFilter": rows,
            # by date they would be folded up under the sweep's run
            "orderByKey": "params.`arm`",
            "orderByAsc": True,
            "startTime": "ALL",
            "lifecycleFilter": "Active",
            "modelVersionFilter": "All Runs",
            "datasetsFilter": [],
            "selectedColumns": list(_COLUMNS),
            **_charts(),
        }
    )


def run_address(base: str, experiment_id: str, run_id: str) -> str:
    """The page of one run."""
    return f"{base}/#/experiments/{experiment_id}/runs/{run_id}?{TABLE}"


def table_address(base: str, experiment_id: str, sweep: str = "") -> str:
    """The run table of a sweep, or of all trainings on a dataset."""
    return f"{base}/#/experiments/{experiment_id}/runs?viewStateShareKey={sweep or ALL}&{TABLE}"


def base_address(folder: Path, server: str) -> str:
    """Where MLflow's pages are: FOVEA_MLFLOW_UI, the server, or where `fovea ui` shows them. folder: `Home.mlflow`."""
    named = os.environ.get("FOVEA_MLFLOW_UI") or (server if server.startswith("http") else "")
    return named.rstrip("/") or address(ports_of(folder.parent).mlflow)
