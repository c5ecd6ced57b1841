"""Room 2: where people look, and frames that carry it in their alpha channel."""

import dagster as dg

from assets.frames.assets import resized_frames
from assets.partitions import OWNERS, PARTITIONS, RETRY, Workshop
from assets.saliency import checks


@dg.asset(
    partitions_def=PARTITIONS.datasets,
    deps=[resized_frames],
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
