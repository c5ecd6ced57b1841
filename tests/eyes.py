"""Pictures with a place that everybody looks at."""

import cv2
import numpy as np
import pandas as pd


def looked_at() -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Eight pictures, uint8, 66×88×3, by name, and the fixations of four people on their bright spots."""
    rng = np.random.default_rng(0)
    pictures, rows = {}, []
    for i in range(8):
        picture = rng.integers(60, 120, (66, 88, 3)).astype(np.uint8)
        x, y = rng.integers(20, 68), rng.integers(16, 50)
        cv2.circle(picture, (int(x), int(y)), 8, (40, 220, 250), -1)
        pictures[f"{i}.png"] = np.ascontiguousarray(picture[:, :, ::-1])
        rows += [(f"{i}.png", s, x + rng.normal(1, 3), y + rng.normal(1, 3)) for s in range(4) for _ in range(5)]
    return pictures, pd.DataFrame(rows, columns=["image", "subject", "x", "y"])
