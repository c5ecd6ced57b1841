"""Room 4: rate–distortion evidence."""

import dagster as dg

from assets.evaluation import checks
from pipelines.partitions import GPU_POOL, OWNERS, PARTITIONS, RETRY, Workshop
from pipelines.saliency_assets import rgba_frames
from pipelines.training_assets import trained_codec


@dg.asset(
    partitions_def=PARTITIONS.datasets,
    deps=[rgba_frames],
    group_name="evaluation",
    kinds={"jpeg", "python"},
    owners=OWNERS,
    retry_policy=RETRY,
    check_specs=checks.specs("classical_rd_points"),
)
def classical_rd_points(
    context: dg.AssetExecutionContext, workshop: dg.ResourceParam[Workshop]
) -> dg.MaterializeResult:
    """JPEG, WebP, AVIF and JPEG XL on the dataset's measured split, each picture at each quality, once a picture."""
    return workshop.materialize(context)


@dg.asset(
    partitions_def=PARTITIONS.evaluations,
    deps=[
        dg.AssetDep(trained_codec, partition_mapping=PARTITIONS.experiment_to_evaluation),
        dg.AssetDep(rgba_frames, partition_mapping=PARTITIONS.dataset_to_evaluation),
    ],
    group_name="evaluation",
    kinds={"pytorch", "mlflow"},
    owners=OWNERS,
    retry_policy=RETRY,
    pool=GPU_POOL,
    check_specs=checks.specs("rd_points"),
)
def rd_points(
    context: dg.AssetExecutionContext, workshop: dg.ResourceParam[Workshop]
) -> dg.MaterializeResult:
    """One row a picture: bytes of the real file, PSNR, MS-SSIM and their saliency- and eye-weighted forms."""
    return workshop.materialize(context)


@dg.asset(
    partitions_def=PARTITIONS.sweeps,
    deps=[
        dg.AssetDep(
            rd_points,
            partition_mapping=PARTITIONS.evaluation_to_sweep,
            metadata={"allow_missing_partitions": True},
        ),
        dg.AssetDep(classical_rd_points, partition_mapping=PARTITIONS.dataset_to_sweep),
    ],
    group_name="evaluation",
    kinds={"pandas", "parquet"},
    owners=OWNERS,
)
def rd_curves(
    context: dg.AssetExecutionContext, workshop: dg.ResourceParam[Workshop]
) -> dg.MaterializeResult:
    """Means over pictures and seeds with 95 % bootstrap intervals, a row for each point of each curve."""
    return workshop.materialize(context)


@dg.asset(
    partitions_def=PARTITIONS.sweeps,
    deps=[rd_curves],
    group_name="evaluation",
    kinds={"pandas", "parquet"},
    owners=OWNERS,
)
def bd_rates(context: dg.AssetExecutionContext, workshop: dg.ResourceParam[Workshop]) -> dg.MaterializeResult:
    """BD-rates of each arm against `uniform`, and of `uniform` against the classical codecs, with paired intervals.

    A refused comparison keeps its row, with the reason. The ideal that the maps allow stands beside them.
    """
    return workshop.materialize(context)


@dg.asset(
    partitions_def=PARTITIONS.sweeps,
    deps=[rd_curves, bd_rates],
    group_name="evaluation",
    kinds={"html"},
    owners=OWNERS,
)
def report(context: dg.AssetExecutionContext, workshop: dg.ResourceParam[Workshop]) -> dg.MaterializeResult:
    """One self-contained HTML file: curves, BD-rates with intervals, pictures side by side, each with its bpp."""
    return workshop.materialize(context)
