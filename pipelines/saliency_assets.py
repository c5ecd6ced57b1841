"""Room 2: where people look, and frames that carry it in their alpha channel."""

import dagster as dg

from assets.saliency import checks
from pipelines.frames_assets import resized_frames
from pipelines.partitions import GPU_POOL, OWNERS, PARTITIONS, RETRY, Workshop


@dg.asset(
    partitions_def=PARTITIONS.eyes,
    deps=[dg.AssetDep(resized_frames, partition_mapping=PARTITIONS.dataset_to_eyes)],
    group_name="saliency",
    kinds={"pandas", "parquet"},
    owners=OWNERS,
    retry_policy=RETRY,
    check_specs=checks.FIXATIONS,
)
def fixation_maps(
    context: dg.AssetExecutionContext, workshop: dg.ResourceParam[Workshop]
) -> dg.MaterializeResult:
    """Where people looked, moved to the frames: of datasets with recorded eye movements (`--fixations TABLE`)."""
    return workshop.materialize(context)


@dg.asset(
    partitions_def=PARTITIONS.saliency_models,
    deps=[dg.AssetDep(fixation_maps, partition_mapping=PARTITIONS.eyes_to_saliency_model)],
    group_name="saliency",
    kinds={"pytorch", "mlflow"},
    owners=OWNERS,
    retry_policy=RETRY,
    pool=GPU_POOL,
)
def saliency_model(
    context: dg.AssetExecutionContext, workshop: dg.ResourceParam[Workshop]
) -> dg.MaterializeResult:
    """A saliency model trained on a dataset's fixations; with a fold, without that part of the training pictures.

    Resumable: a killed run goes on from its last epoch.
    """
    return workshop.materialize(context)


@dg.asset(
    partitions_def=PARTITIONS.eyes,
    deps=[
        fixation_maps,
        dg.AssetDep(
            saliency_model,
            partition_mapping=PARTITIONS.saliency_model_to_eyes,
            metadata={"allow_missing_partitions": True},
        ),
    ],
    group_name="saliency",
    kinds={"pytorch", "mlflow"},
    owners=OWNERS,
    retry_policy=RETRY,
    check_specs=checks.BENCHMARK,
)
def saliency_benchmark(
    context: dg.AssetExecutionContext, workshop: dg.ResourceParam[Workshop]
) -> dg.MaterializeResult:
    """CC, SIM, KL, NSS, AUC-Judd and shuffled AUC of every saliency model that is here, with 95 % intervals, beside how
    well half of the people predict the other half."""
    return workshop.materialize(context)


@dg.asset(
    partitions_def=PARTITIONS.datasets,
    deps=[
        resized_frames,
        dg.AssetDep(saliency_model, partition_mapping=PARTITIONS.saliency_model_to_dataset),
    ],
    group_name="saliency",
    kinds={"pytorch"},
    owners=OWNERS,
    retry_policy=RETRY,
    check_specs=checks.MAPS,
)
def saliency_maps(
    context: dg.AssetExecutionContext, workshop: dg.ResourceParam[Workshop]
) -> dg.MaterializeResult:
    """A saliency map a frame (uint8, 255 where the picture is most salient), by content and model version."""
    return workshop.materialize(context)


@dg.asset(
    partitions_def=PARTITIONS.datasets,
    deps=[resized_frames, saliency_maps],
    group_name="saliency",
    kinds={"opencv", "png"},
    owners=OWNERS,
    retry_policy=RETRY,
    check_specs=checks.RGBA,
)
def rgba_frames(
    context: dg.AssetExecutionContext, workshop: dg.ResourceParam[Workshop]
) -> dg.MaterializeResult:
    """Frame and map in one lossless PNG, the map in the alpha channel: the source's packing, to look at and to take away."""
    return workshop.materialize(context)
