"""The code location: rooms, checks, jobs, schedule, sensor, resources. Nothing else is written here."""

import dagster as dg

from assets.evaluation.assets import bd_rates, classical_rd_points, rd_curves, rd_points, report
from assets.frames.assets import cityscapes_archive, resized_frames, source_frames
from assets.home import Home
from assets.saliency.assets import (
    fixation_maps,
    rgba_frames,
    saliency_benchmark,
    saliency_maps,
    saliency_model,
)
from assets.training.assets import trained_codec, trunk_codec
from pipelines.executors import chosen_executor
from pipelines.jobs import JOBS
from pipelines.resources import FoveaWorkshop
from pipelines.schedules import cityscapes_changes, fetch_change, nightly, refresh
from pipelines.sensors import new_pictures

defs = dg.Definitions(
    assets=[
        cityscapes_archive,
        source_frames,
        resized_frames,
        fixation_maps,
        saliency_model,
        saliency_benchmark,
        saliency_maps,
        rgba_frames,
        trunk_codec,
        trained_codec,
        classical_rd_points,
        rd_points,
        rd_curves,
        bd_rates,
        report,
    ],
    jobs=[*JOBS, refresh, fetch_change],
    schedules=[nightly, cityscapes_changes],
    sensors=[new_pictures],
    resources={"workshop": FoveaWorkshop()},
    executor=chosen_executor(Home.from_environment()),
)
