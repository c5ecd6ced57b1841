"""Weight files of SAM in the layout that Keras 1 wrote and that was published."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

GOLDEN = Path(__file__).parent / "golden" / "sam"


def layout_of(variant: str) -> list[dict[str, Any]]:
    return json.loads((GOLDEN / f"layout_{variant}.json").read_text())


def write_weights(
    path: Path,
    layout: list[dict[str, Any]],
    values: Callable[[dict[str, Any], dict[str, Any]], np.ndarray] | None = None,
    *,
    nested: bool = False,
) -> Path:
    """As save_weights (or, `nested`, model.save) does. values: of a layer and its weight; without, arrays take no space and
    read as zeros."""
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights") if nested else file
        if nested:
            file.attrs["keras_version"] = b"1.1.0"
            file.create_group("optimizer_weights")
        root.attrs["layer_names"] = [layer["name"].encode() for layer in layout]
        for layer in layout:
            group = root.create_group(layer["name"])
            group.attrs["weight_names"] = [w["name"].encode() for w in layer["weights"]]
            for weight in layer["weights"]:
                if values is not None:
                    group[weight["name"]] = values(layer, weight)
                else:
                    group.create_dataset(weight["name"], shape=weight["shape"], dtype=weight.get("dtype", "float32"))
    return path
