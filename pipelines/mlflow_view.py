"""Which page of MLflow a link opens, and what its run table shows.

MLflow 3 opens experiments as traces unless an address says otherwise, and hides columns of metrics and parameters; its chart
view begins with the metrics of training. A view that is kept in a tag of the experiment names columns, their widths and first
charts; an address names the view.
"""

import json
import os
import re
import urllib.parse
from pathlib import Path
from typing import Any

from models.arms import ARMS
from models.tracking import belongs
from pipelines.addresses import address, ports_of

TABLE = "workflowType=machine_learning"
VIEW_TAG, ALL = "mlflow.sharedViewState.", "trainings"
#: width in pixels of the columns that a person chooses, in order: a window of 1,500 shows all of them
_COLUMNS = {
    "params.`arm`": 160, "params.`codec`": 104, "params.`rate`": 72, "metrics.`bpp`": 66, "metrics.`psnr_db`": 76,
    "metrics.`sw_psnr_db`": 98, "metrics.`ew_psnr_db`": 98, "metrics.`bd_rate_percent`": 124,
}  # fmt: skip
#: those that MLflow always shows, by its names for them
_FIXED = {"attributes.`Run Name`": 200, "runDateAndNestInfo": 140, "duration": 80}
_OF_SALIENCY = [arm.removeprefix("saliency_") for arm in ARMS if arm.startswith("saliency_")]
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
    """The state of a run table with a row a training: of one sweep, whichever made them, or of all."""
    own = f" and tags.`{belongs(sweep)}` = 'yes'" if sweep else ""
    name, created, took = _FIXED
    return json.dumps(
        {
            "searchFilter": f"tags.`fovea.stage` = 'trained_codec'{own}",
            # arm beside arm at each rate; by date they would be folded up under the sweep's run
            "orderByKey": "tags.`mlflow.runName`",
            "orderByAsc": True,
            "startTime": "ALL",
            "lifecycleFilter": "Active",
            "modelVersionFilter": "All Runs",
            "datasetsFilter": [],
            "selectedColumns": list(_COLUMNS),
            "columnOrder": [name, created, *_COLUMNS, took],
            "columnWidths": _FIXED | _COLUMNS,
            **_charts(),
        }
    )


def row_name(name: str) -> str:
    """A run's name as lists that cut it at 18 characters tell it apart: `0.0045 gain@center bls2017`. name: with the arm as it
    is called elsewhere, `saliency_gain@center`."""
    return re.sub(rf"(^| )saliency_(?=({'|'.join(_OF_SALIENCY)})(@| |$))", r"\1", name)


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


def dagster_address(folder: Path, server: str) -> str:
    """Where Dagster's pages are: FOVEA_DAGSTER_UI, or where `fovea ui` shows them. "" where others read an MLflow server and
    nobody said where Dagster is. folder: `Home.mlflow`."""
    here = "" if server.startswith("http") else address(ports_of(folder.parent).dagster)
    return (os.environ.get("FOVEA_DAGSTER_UI") or here).rstrip("/")


def asset_address(folder: Path, server: str, stage: str, partition: str) -> str:
    """Dagster's page of an artifact; "" as `dagster_address`."""
    base, words = (
        dagster_address(folder, server),
        urllib.parse.urlencode({"view": "partitions", "partition": partition}),
    )
    return f"{base}/assets/{stage}?{words}" if base else ""


def led(text: str, dagster: str) -> str:
    """A description whose links to artifacts begin with an address of Dagster's pages."""
    return re.sub(r"https?://[^\s()]+?(?=/assets/\w+\?view=partitions&partition=)", lambda _: dagster, text)
