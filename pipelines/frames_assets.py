"""Room 1: pictures in, uint8 arrays of the dataset's size out."""

import dagster as dg

from assets.frames import checks
from pipelines.partitions import OWNERS, PARTITIONS, RETRY, Workshop


@dg.asset(
    partitions_def=PARTITIONS.archives,
    group_name="frames",
    kinds={"python", "zip"},
    owners=OWNERS,
    retry_policy=RETRY,
    check_specs=checks.ARCHIVE,
)
def cityscapes_archive(
    context: dg.AssetExecutionContext, workshop: dg.ResourceParam[Workshop]
) -> dg.MaterializeResult:
    """The package of Cityscapes frames: downloaded (resumable, md5 checked), or the user's own, used in place.

    `CITYSCAPES_ROOT` names an archive or an extracted tree; without it the account of `CITYSCAPES_USERNAME` and
    `CITYSCAPES_PASSWORD` downloads it under FOVEA_HOME/downloads. Nothing is extracted.
    """
    return workshop.materialize(context)


@dg.asset(
    partitions_def=PARTITIONS.datasets,
    deps=[dg.AssetDep(cityscapes_archive, partition_mapping=PARTITIONS.archive_to_dataset)],
    group_name="frames",
    kinds={"python", "file"},
    owners=OWNERS,
    retry_policy=RETRY,
    check_specs=checks.SOURCE,
)
def source_frames(
    context: dg.AssetExecutionContext, workshop: dg.ResourceParam[Workshop]
) -> dg.MaterializeResult:
    """The dataset's files as a validated manifest: image, split, size, SHA-256; what cannot be used is quarantined.

    `sample` draws its street scenes here; a folder is scanned (checksums are cached by size and time of change);
    Cityscapes is read from its archive's directory, and must be complete or declared a subset.
    """
    return workshop.materialize(context)


@dg.asset(
    partitions_def=PARTITIONS.datasets,
    deps=[source_frames],
    group_name="frames",
    kinds={"opencv", "numpy"},
    owners=OWNERS,
    retry_policy=RETRY,
    check_specs=checks.RESIZED,
)
def resized_frames(
    context: dg.AssetExecutionContext, workshop: dg.ResourceParam[Workshop]
) -> dg.MaterializeResult:
    """Decoded, upright, area-resized frames as raw uint8 arrays in memory-mapped shards, one array a picture.

    Addressed by content: only pictures that changed are processed; nothing is ever upscaled.
    """
    return workshop.materialize(context)
