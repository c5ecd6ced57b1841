import io

import numpy as np
from PIL import Image

from assets.training.plots import training_curves


def test_training_curves_and_a_picture_that_says_that_there_are_none() -> None:
    history = [{"step": i, "loss": 10.0 / (i + 1), "bpp": 0.5, "psnr_db": 20.0 + i} for i in range(20)]
    history += [{"step": 10, "val_psnr_db": 25.0, "val_bpp": 0.4}]
    pixels = np.asarray(Image.open(io.BytesIO(training_curves(history, title="run"))).convert("RGB"))
    assert (pixels == (0xD5, 0x5E, 0x00)).all(axis=2).any()
    assert np.asarray(Image.open(io.BytesIO(training_curves([])))).std() > 0
