"""Pictures with their maps, as training and measuring read them: rows of `rgba_frames` and arrays in its two shards."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from assets.graph import Given
from assets.saliency.condition import condition_maps
from assets.world import World

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray


class Reader(Protocol):
    """Who reads pictures: a chain, or the task of a stage."""

    given: Given
    world: World


class Pairs(NamedTuple):
    """table: image, split, key (and map_key), by image. pictures: uint8 H×W×3 each. maps: uint8 H×W each that condition a
    codec, 255 the picture's maximum, or None."""

    table: "pd.DataFrame"
    pictures: "list[NDArray[np.uint8]]"
    maps: "list[NDArray[np.uint8]] | None"

    def some(self, places: Sequence[int]) -> "Pairs":
        """Those at `places`."""
        maps = None if self.maps is None else [self.maps[i] for i in places]
        return Pairs(self.table.iloc[list(places)], [self.pictures[i] for i in places], maps)


def open_pairs(reader: Reader, dataset: str, split: str, *, maps: str = "predicted") -> Pairs:
    """The pictures of a split (`train`, `val`, `test`, or `measured`: test where there is one, else val; of `val:4` the
    first four) and the maps of this kind, memory-mapped. Raises Waiting for what is not made, FoveaError for maps that
    cannot be."""
    frames = reader.given["rgba_frames", dataset]
    predicted = maps in ("predicted", "shuffled")
    table = frames.part(f"{split} {'pairs' if predicted else 'pictures'}")
    pictures = [frames.array("resized_frames", k) for k in table.key]
    own = [frames.array("saliency_maps", k) for k in table.map_key] if predicted else None
    return Pairs(table, pictures, condition_maps(reader.world.dataset(dataset), table, pictures, own, maps))
