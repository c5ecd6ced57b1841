"""What a saliency map costs to keep: as float arrays, as a grey PNG, and as the alpha channel of the frame's own PNG."""

import io
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from assets.frames.encode import encode_png
from assets.saliency.rgba import pack

SAMPLE = 8
WAYS = {
    "npz_bytes": "float32 array, npz",
    "npz_compressed_bytes": "float32 array, compressed npz",
    "png_bytes": "8-bit grey PNG",
    "alpha_bytes": "alpha channel: RGBA PNG over RGB PNG",
}

Row = Mapping[str, Any]
Pixels = NDArray[np.uint8]


def chosen(table: pd.DataFrame, count: int = SAMPLE) -> pd.DataFrame:
    """The frames that sizes are measured on: by their maps' keys, so that one changed frame changes the sample little."""
    return table.drop_duplicates("map_key").sort_values("map_key").head(count)


def measure_sizes(frame: Pixels, saliency_map: Pixels, density: NDArray[np.floating[Any]]) -> dict[str, int]:
    """Bytes of one map in each of `WAYS`, and of the frame's PNG without it. `frame` is H×W×3, `saliency_map` H×W, both
    uint8; `density` H×W is the map as the model predicts it."""
    plain, packed = io.BytesIO(), io.BytesIO()
    np.savez(plain, density.astype(np.float32))
    np.savez_compressed(packed, density.astype(np.float32))
    rgb = len(encode_png(frame))
    return {
        "npz_bytes": len(plain.getvalue()),
        "npz_compressed_bytes": len(packed.getvalue()),
        "png_bytes": len(encode_png(saliency_map)),
        "alpha_bytes": len(pack(frame, saliency_map)) - rgb,
        "rgb_bytes": rgb,
    }


def sizes_table(
    rows: Iterable[Row], known: pd.DataFrame | None, measure: Callable[[Row], dict[str, int]]
) -> pd.DataFrame:
    """One row a frame: image, rgba_key and `measure_sizes`; a frame that `known` has is not measured again."""
    before: dict[str, dict[str, Any]] = {}
    if known is not None:
        before = {row["rgba_key"]: {str(k): v for k, v in row.items()} for row in known.to_dict("records")}
    found = []
    for row in rows:
        sizes = before.get(row["rgba_key"]) or measure(row)
        found.append({**sizes, "image": row["image"], "rgba_key": row["rgba_key"]})
    return pd.DataFrame(found)


def mean_sizes(table: pd.DataFrame) -> dict[str, int]:
    """Mean bytes a map, for each of `WAYS`."""
    return {way: round(float(table[way].mean())) for way in WAYS}


def sizes_markdown(table: pd.DataFrame) -> str:
    """The table that Dagster shows: bytes a map, and times the alpha channel's."""
    means = mean_sizes(table)
    alpha = max(1, means["alpha_bytes"])
    rgb = float(table.rgb_bytes.mean())
    lines = ["| the map as | bytes | × alpha |", "| --- | ---: | ---: |"]
    lines += [f"| {said} | {means[way]:,} | {means[way] / alpha:.1f} |" for way, said in WAYS.items()]
    lines.append(
        f"\nMeans over {len(table)} frames, whose RGB PNG has {rgb:,.0f} bytes: the alpha channel adds "
        f"{100 * means['alpha_bytes'] / rgb:.1f} %. The float arrays hold the map as predicted, PNG and alpha hold it in "
        "8 bits.\n"
    )
    return "\n".join(lines)
