"""Numbers of each map, measured once a map, and the mean map of a dataset, in flat memory."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from assets.frames.stages import SHARD_FRAMES
from assets.graph import Made
from assets.store import Shelf

MAPS = "maps.parquet"

Map = NDArray[np.uint8]


def earlier_table(made: Made | None, name: str, version: str) -> pd.DataFrame | None:
    """A table of the partition's last artifact, when it was made by this version (`meta["statistics"]`); else None."""
    if made is None or made.manifest["meta"].get("statistics") != version or name not in made.manifest["objects"]:
        return None
    return made.table(name)


def measure_maps(
    maps: Shelf,
    table: pd.DataFrame,
    columns: tuple[str, ...],
    measure: Callable[[Map], tuple[float, ...]],
    known: pd.DataFrame | None,
) -> tuple[pd.DataFrame, NDArray[np.float64] | None]:
    """The table with `columns` for each map, and the mean map (H×W, 0 … 255) where all have one size. Maps whose `map_key`
    is in `known` are not measured again."""
    names = list(columns)
    values: dict[str, tuple[float, ...]] = {}
    if known is not None and {"map_key", *names} <= set(known.columns):
        values = dict(zip(known.map_key, known[names].itertuples(index=False, name=None), strict=True))
    total: NDArray[np.float64] | None = None
    shapes = set()
    for place, key in enumerate(table.map_key):
        saliency_map = maps.array(key)
        shapes.add(saliency_map.shape)
        if key not in values:
            values[key] = measure(saliency_map)
        if len(shapes) == 1:
            if total is None:
                total = np.zeros(saliency_map.shape)
            total += saliency_map
        if place % SHARD_FRAMES == SHARD_FRAMES - 1:
            maps.store.release()
    measured = pd.DataFrame([values[key] for key in table.map_key], columns=names, index=table.index)
    mean = total / len(table) if total is not None and len(shapes) == 1 else None
    return table.assign(**{name: measured[name] for name in names}), mean
