"""The code location: assets, jobs, schedules, sensor, resources. Nothing else is written here."""

import dagster as dg

from assets.frames.sources import ARCHIVE_STAGE
from assets.home import Home
from pipelines.assets import ASSETS, JOBS
from pipelines.resources import FoveaWorkshop, chosen_executor
from pipelines.schedules import cityscapes_changes, fetch_change, new_pictures, nightly, register_dataset, sweep

#: where nobody can reach Cityscapes, the graph has no archive, and nothing looks for another one
_ARCHIVE = any(asset.key == dg.AssetKey(ARCHIVE_STAGE) for asset in ASSETS)

defs = dg.Definitions(
    assets=ASSETS,
    jobs=[sweep, register_dataset, *JOBS.values(), *([fetch_change] if _ARCHIVE else [])],
    schedules=[nightly, *([cityscapes_changes] if _ARCHIVE else [])],
    sensors=[new_pictures],
    resources={"workshop": FoveaWorkshop()},
    executor=chosen_executor(Home.from_environment()),
)
