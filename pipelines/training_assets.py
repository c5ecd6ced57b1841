"""Room 3: codecs trained."""

import dagster as dg

from assets.training import checks
from pipelines.partitions import GPU_POOL, OWNERS, PARTITIONS, RETRY, Workshop
from pipelines.saliency_assets import rgba_frames


@dg.asset(
    partitions_def=PARTITIONS.trunks,
    deps=[dg.AssetDep(rgba_frames, partition_mapping=PARTITIONS.dataset_to_trunk)],
    group_name="training",
    kinds={"pytorch"},
    owners=OWNERS,
    retry_policy=RETRY,
    pool=GPU_POOL,
    check_specs=checks.specs("trunk_codec"),
)
def trunk_codec(
    context: dg.AssetExecutionContext, workshop: dg.ResourceParam[Workshop]
) -> dg.MaterializeResult:
    """A variable-rate codec trained without saliency, from which all arms of a comparison branch.

    Resumable to the bit: a killed run goes on from its last checkpoint.
    """
    return workshop.materialize(context)


@dg.asset(
    partitions_def=PARTITIONS.experiments,
    deps=[
        dg.AssetDep(rgba_frames, partition_mapping=PARTITIONS.dataset_to_experiment),
        dg.AssetDep(trunk_codec, partition_mapping=PARTITIONS.trunk_to_experiment),
    ],
    group_name="training",
    kinds={"pytorch", "mlflow"},
    owners=OWNERS,
    retry_policy=RETRY,
    pool=GPU_POOL,
    check_specs=checks.specs("trained_codec"),
)
def trained_codec(
    context: dg.AssetExecutionContext, workshop: dg.ResourceParam[Workshop]
) -> dg.MaterializeResult:
    """One experiment: one arm at one rate with one seed. The codec doctor's checks block what comes after."""
    return workshop.materialize(context)
