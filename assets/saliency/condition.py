"""Which map conditions a codec: predicted, another picture's, the centre bias, or people's own fixations."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from assets.datasets import Dataset
from assets.saliency.fixations import frame_fixation_maps
from models.errors import FoveaError
from models.saliency.maps import fit_map, scale_to_uint8

Array = NDArray[np.uint8]


def condition_maps(
    dataset: Dataset, table: pd.DataFrame, pictures: Sequence[Array], own: Sequence[Array] | None, maps: str
) -> list[Array] | None:
    """One uint8 map (255 = the picture's maximum) for each row of the table, or None for `none`.

    own: each picture's predicted map. `shuffled` gives each picture the map of another one of the same table, by a fixed
    derangement, resized when sizes differ. Raises FoveaError when `oracle` is asked of a dataset without fixations.
    """
    if maps == "none":
        return None
    if maps == "predicted" and own is not None:
        return list(own)
    if maps == "shuffled" and own is not None:
        from models.saliency.weighting import derangement

        order = derangement(list(table.image), seed=0)
        return [fit_map(own[other], picture.shape) for other, picture in zip(order, pictures, strict=True)]
    if maps == "center":
        from models.saliency.weighting import center_map

        return [scale_to_uint8(center_map(*p.shape[:2])) for p in pictures]
    if maps == "oracle":
        found = frame_fixation_maps(dataset, table, [p.shape[:2] for p in pictures])
        missing = [image for image, m in zip(table.image, found, strict=True) if m is None]
        if missing:
            raise FoveaError(
                f"maps 'oracle' need people's fixations for each picture; dataset {dataset.name!r} has none for "
                f"{', '.join(missing[:3])}{' …' if len(missing) > 3 else ''} (fovea datasets add … --fixations TABLE)"
            )
        return [scale_to_uint8(m) for m in found if m is not None]
    raise FoveaError(f"unknown maps {maps!r}")
