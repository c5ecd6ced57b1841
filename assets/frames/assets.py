"""Room 1: pictures in, uint8 arrays of the dataset's size out."""

import dagster as dg

from assets.frames import checks
from assets.partitions import OWNERS, PARTITIONS, RETRY, Workshop


@dg.asset(
    partitions_def=PARTITIONS.datasets,
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

    `sample` draws its street scenes here; a folder is scanned (checksums are cached by size and time of change).
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
