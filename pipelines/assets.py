"""Dagster's side of the graph: assets, partitions and checks, derived from the stages; and jobs, which name the stages that
they launch."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import dagster as dg

from assets.graph import Stage
from assets.home import Home
from assets.stages import STAGES
from assets.world import World
from models.config import count_in
from pipelines.partitions import axis, drawn, read_by
from pipelines.resources import FoveaWorkshop, show_failed

#: runs of stages with `gpu` wait in this pool: so many at once as its limit, which dagster.yaml sets for all pools, says;
#: `dagster instance concurrency set gpu K` sets it for this one
GPU_POOL = "gpu"
RETRY = dg.RetryPolicy(max_retries=count_in("FOVEA_RETRIES", 1), delay=5)
OWNERS = ["team:compression-research"]


def asset_of(stage: Stage, known: Collection[str]) -> dg.AssetsDefinition:
    """The asset of a stage. Which partitions of the others its partitions need, the planner knows; here one is made from the
    same of an asset that shares them, and else from all. known: stages that have an asset."""

    def body(context: dg.AssetExecutionContext, workshop: FoveaWorkshop) -> Iterator[dg.MaterializeResult]:
        made = workshop.materialize(context)
        yield made
        if any(
            not found.passed and found.severity == dg.AssetCheckSeverity.ERROR for found in made.check_results or ()
        ):
            show_failed(context.instance, context.run.run_id, context.run.job_name, stage.name, context.partition_key)

    made: dg.AssetsDefinition = dg.asset(
        name=stage.name,
        description=" ".join((stage.__doc__ or "").split()),
        partitions_def=axis(stage.name),
        deps=[
            dg.AssetDep(name, partition_mapping=None if axis(name) == axis(stage.name) else dg.AllPartitionMapping())
            for name in read_by(stage, known, _WORLD)
        ],
        group_name=stage.group,
        kinds=set(stage.kinds),
        owners=OWNERS,
        retry_policy=RETRY if stage.retried else None,
        pool=GPU_POOL if stage.gpu else None,
        check_specs=[
            dg.AssetCheckSpec(c.name, asset=stage.name, blocking=c.blocking, description=c.about) for c in stage.checks
        ],
    )(body)
    for output in made.op.output_defs:
        if output.name in made.check_specs_by_output_name:
            # else Dagster wants a word on each check, also where it does not apply
            output._is_required = False
    return made


_WORLD = World(Home.from_environment())
_DRAWN = {stage.name: stage for stage in drawn(STAGES, _WORLD)}
ASSETS = [asset_of(stage, _DRAWN) for stage in _DRAWN.values()]

#: jobs to launch from the UI: name → stages, all with the same partitions
LAUNCHED: Mapping[str, tuple[tuple[str, ...], str]] = {
    "frames": (
        ("source_frames", "resized_frames", "saliency_maps", "rgba_frames"),
        "One dataset: files → resized frames → saliency maps → RGBA PNGs. Only what changed is processed.",
    ),
    "benchmark": (
        ("fixation_maps", "saliency_benchmark"),
        "How well each saliency model predicts where people looked, on one dataset with fixations.",
    ),
    "saliency_training": (("saliency_model",), "Trains a saliency model on one dataset's eye movements."),
    "classical": (("classical_rd_points",), "Measures JPEG, WebP and the other classical codecs on one dataset."),
    "trunk": (("trunk_codec",), "Trains a trunk: the codec that several experiments start from."),
    "experiment": (("trained_codec",), "Trains one codec: an arm at a rate, or at all rates where it serves several."),
    "evaluation": (("rd_points",), "Measures a trained codec on the test pictures of one dataset."),
    "external": (("external_rd_points",), "Measures checkpoints that others trained on one dataset."),
    "tables": (
        ("rd_curves", "bd_rates", "report"),
        "Tables and report of one dataset's sweep, from what has been measured.",
    ),
}
JOBS: dict[str, Any] = {
    name: dg.define_asset_job(name, selection=dg.AssetSelection.assets(*stages), description=about)
    for name, (stages, about) in LAUNCHED.items()
    if set(stages) <= set(_DRAWN)
}
