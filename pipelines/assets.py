"""Dagster's side of the graph: assets, partitions and how they map onto each other, and checks, derived from the stages;
and jobs, which name the stages that they launch.

Read when the code location loads: a new dataset or sweep shows after a reload of the location.
"""

import functools
import os
from collections.abc import Mapping
from typing import Any, Protocol

import dagster as dg

from assets.graph import Stage, edges
from assets.home import Home
from assets.stages import STAGES
from assets.world import World

#: runs of stages with `gpu` wait in this pool: so many at once as its limit, which dagster.yaml sets for all pools, says;
#: `dagster instance concurrency set gpu K` sets it for this one
GPU_POOL = "gpu"
RETRY = dg.RetryPolicy(max_retries=int(os.environ.get("FOVEA_RETRIES", "1")), delay=5)
OWNERS = ["team:compression-research"]


class Workshop(Protocol):
    """What an asset's body calls; pipelines/resources.py provides it."""

    def materialize(self, context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        """Make the unit of the context's asset and partition, or find it in the store."""


@functools.cache
def partitions(keys: tuple[str, ...]) -> dg.StaticPartitionsDefinition:
    """Stages with equal partitions share a definition, so that they can be launched together."""
    return dg.StaticPartitionsDefinition(list(keys))


def dependencies(stage: Stage, world: World, known: Mapping[str, dict[str, None]]) -> list[dg.AssetDep]:
    """Upstream assets with the partitions of theirs that each partition needs. known: partitions by stage."""
    found: dict[str, dict[str, dict[str, None]]] = {name: {} for name in stage.reads}
    optional: set[str] = set()
    for need, partition in edges(stage, world):
        if need.partition in known[need.stage]:
            found[need.stage].setdefault(need.partition, {})[partition] = None
            optional |= {need.stage} if need.optional else set()
    deps = []
    for name, pairs in found.items():
        same = known[name] == known[stage.name] and all(list(down) == [up] for up, down in pairs.items())
        mapping = dg.StaticPartitionMapping({up: list(down) for up, down in pairs.items()})
        metadata = {"allow_missing_partitions": True} if name in optional else None
        deps.append(dg.AssetDep(name, partition_mapping=None if same else mapping, metadata=metadata))
    return deps


def asset_of(stage: Stage, world: World, known: Mapping[str, dict[str, None]]) -> dg.AssetsDefinition:
    """The asset of a stage."""

    def body(context: dg.AssetExecutionContext, workshop: dg.ResourceParam[Workshop]) -> dg.MaterializeResult:
        return workshop.materialize(context)

    specs = [
        dg.AssetCheckSpec(c.name, asset=stage.name, blocking=c.blocking, description=c.about)
        for c in stage.checks
    ]
    made: dg.AssetsDefinition = dg.asset(
        name=stage.name,
        description=" ".join((stage.__doc__ or "").split()),
        partitions_def=partitions(tuple(known[stage.name])),
        deps=dependencies(stage, world, known),
        group_name=stage.group,
        kinds=set(stage.kinds),
        owners=OWNERS,
        retry_policy=RETRY if stage.retried else None,
        pool=GPU_POOL if stage.gpu else None,
        check_specs=specs,
    )(body)
    return made


def assets_of(world: World, stages: Mapping[str, Stage] = STAGES) -> list[dg.AssetsDefinition]:
    """An asset for each stage, over what is registered."""
    known = {name: dict.fromkeys(stage.partitions(world)) for name, stage in stages.items()}
    return [asset_of(stage, world, known) for stage in stages.values()]


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
    "saliency_training": (("saliency_model",), "One training of a saliency model."),
    "classical": (("classical_rd_points",), "The classical codecs on one dataset."),
    "trunk": (("trunk_codec",), "One trunk."),
    "experiment": (("trained_codec",), "One experiment."),
    "evaluation": (("rd_points",), "One experiment on one dataset."),
    "external": (("external_rd_points",), "Checkpoints that others trained, on one dataset."),
    "tables": (
        ("rd_curves", "bd_rates", "report"),
        "Tables and report of one dataset's sweep, from what has been measured.",
    ),
}
JOBS: dict[str, Any] = {
    name: dg.define_asset_job(name, selection=dg.AssetSelection.assets(*stages), description=about)
    for name, (stages, about) in LAUNCHED.items()
}

WORLD = World(Home.from_environment())
ASSETS = assets_of(WORLD)
