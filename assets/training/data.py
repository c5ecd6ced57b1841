"""What a training run reads: the frames of a split and the maps that condition a codec."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from assets.chain import Chain, Progress
from assets.frames.stages import resized_table
from assets.saliency.condition import condition_maps
from assets.saliency.names import fixations_digest
from assets.saliency.stages import ensure_maps, map_keys
from assets.store import digest


def split_table(chain: Chain, dataset: str, split: str, model: str | None) -> pd.DataFrame:
    """The frames of a split; with the keys of their maps when a model is named."""
    table = map_keys(chain, dataset, model) if model else resized_table(chain, dataset)
    return table[table.split == split].sort_values("image").reset_index(drop=True)


def needs_model(record: Mapping[str, Any]) -> str | None:
    """The saliency model whose maps condition this run, or None."""
    return str(record["saliency"]) if record.get("maps") in ("predicted", "shuffled") else None


def data_inputs(chain: Chain, record: Mapping[str, Any]) -> dict[str, str]:
    """Digests of everything that training reads."""
    model = needs_model(record)
    table = split_table(chain, str(record["dataset"]), "train", model)
    columns = ["image", "key", "map_key"] if model else ["key"]
    found = {"train_frames": digest(table[columns].to_numpy().tolist())}
    if record.get("maps") == "oracle":
        found["fixations"] = fixations_digest(chain, str(record["dataset"]))
    return found


def load_split(
    chain: Chain,
    dataset: str,
    split: str,
    *,
    maps: str,
    model: str,
    progress: Progress,
    limit: int | None = None,
) -> tuple[pd.DataFrame, list[np.ndarray[Any, Any]], list[np.ndarray[Any, Any]] | None]:
    """Table, pictures and the maps that condition a codec (uint8, or None), as memory-mapped arrays."""
    needed = model if maps in ("predicted", "shuffled") else None
    if needed:
        ensure_maps(chain, dataset, needed, progress)
    table = split_table(chain, dataset, split, needed)
    if limit is not None:
        table = table.head(limit)
    pictures = [chain.store.array("resized_frames", k) for k in table.key]
    return table, pictures, condition_maps(chain, dataset, table, pictures, maps)
