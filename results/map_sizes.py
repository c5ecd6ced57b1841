"""What a saliency map costs to keep: as float arrays, as a grey PNG, and as the alpha channel of its frame's own PNG.

    python results/map_sizes.py sample

Mean bytes over a few test frames of a dataset whose maps are made. The float arrays hold the map as SAM-Lite predicts
it, PNG and alpha hold it in 8 bits.
"""

import io

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from assets.frames.encode import encode_png
from assets.saliency.pairs import open_pairs
from assets.saliency.rgba import pack
from assets.stages import open_chain
from models.saliency.predict import load_model
from pipelines.terminal import script

FRAMES = 8


def sizes(frame: NDArray[np.uint8], saliency_map: NDArray[np.uint8], density: NDArray[np.float32]) -> dict[str, int]:
    """Bytes of one map by way, and of the frame's PNG without it; H×W×3, H×W, H×W."""
    plain, packed = io.BytesIO(), io.BytesIO()
    np.savez(plain, density)
    np.savez_compressed(packed, density)
    rgb = len(encode_png(frame))
    return {
        "float32, npz": len(plain.getvalue()),
        "float32, compressed npz": len(packed.getvalue()),
        "8-bit grey PNG": len(encode_png(saliency_map)),
        "alpha channel: RGBA PNG over RGB PNG": len(pack(frame, saliency_map)) - rgb,
        "RGB PNG of the frame": rgb,
    }


def main(dataset: str) -> None:
    """Print the table of a dataset."""
    _, frames, maps = open_pairs(open_chain(), dataset, "measured")
    frames = [np.asarray(frame) for frame in frames[:FRAMES]]
    triples = zip(frames, maps or [], load_model("sam_lite").predict_float(frames), strict=False)
    print(pd.DataFrame([sizes(*triple) for triple in triples]).mean().round().astype(int).to_string())


if __name__ == "__main__":
    script(main, __doc__)
