"""A Fovea codec as an MLflow model: pictures to `.fov` files and back.

MLflow copies this file into the model and runs it when the model is loaded; the weights lie beside it as an artifact.
Input, one row a picture: `image` (a file's bytes, read as all of Fovea reads pictures: what is damaged or ambiguous is
refused by name), optionally `saliency_map` (PNG bytes, grey, the picture's size; every place alike without), and the param
`lmbda` (default: what the codec was trained for, of several the middle, as is 0); output `fov` (bytes) and `bpp`. Or input
`fov`; output `image` (PNG bytes).
"""

import sys
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext


def _prefer_installed(model: Path) -> None:
    # MLflow puts the model's own copy of Fovea first on the path. Where Fovea is installed, that part of it would hide
    # the whole: let it serve only where there is none.
    own = [p for p in sys.path if Path(p).is_relative_to(model)]
    sys.path[:] = [p for p in sys.path if p not in own] + own


class FoveaCodec(PythonModel):  # type: ignore[misc]
    """Compresses rows with `image`, decompresses rows with `fov`."""

    def load_context(self, context: PythonModelContext) -> None:
        """Loads the weights, on the CPU."""
        folder = Path(context.artifacts["codec"])
        _prefer_installed(folder.parent.parent)
        from models.codecs.catalogue import load_codec

        self.codec = load_codec(folder)

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """See the module. Raises ValueError for rows that hold neither column."""
        if "image" in model_input and model_input["image"].notna().all():
            lmbda = float((params or {}).get("lmbda") or 0.0) or None
            out = [self.compressed(label, row, lmbda) for label, row in model_input.iterrows()]
        elif "fov" in model_input and model_input["fov"].notna().all():
            out = [self.decompressed(data) for data in model_input["fov"]]
        else:
            raise ValueError("a Fovea codec needs the column `image` (picture files) or `fov` (compressed files)")
        return pd.DataFrame(out, index=model_input.index)

    def compressed(self, label: object, row: pd.Series, lmbda: float | None) -> dict[str, Any]:
        """`fov` and `bpp` of a row's `image`; bpp counts the whole file over the picture's pixels."""
        import numpy as np

        from assets.frames.decode import read_picture

        picture = read_picture(row["image"], f"row {label}: image")
        saliency_map = np.full(picture.shape[:2], 255, np.uint8)  # every place alike
        if isinstance(given := row.get("saliency_map"), bytes):
            saliency_map = np.ascontiguousarray(read_picture(given, f"row {label}: saliency_map")[..., 0])
        data = self.codec.encode(picture, saliency_map=saliency_map, rate=lmbda).data
        return {"fov": data, "bpp": 8 * len(data) / (picture.shape[0] * picture.shape[1])}

    def decompressed(self, data: bytes) -> dict[str, Any]:
        """`image`, as PNG."""
        from assets.frames.encode import encode_png

        return {"image": encode_png(self.codec.decode(bytes(data)))}


set_model(FoveaCodec())
