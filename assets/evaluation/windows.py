"""Which part of a picture is shown where the whole is too much."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray


def salient_window(weights: NDArray[Any], side: int) -> tuple[int, int, int, int]:
    """Top, left, height and width of the window with the largest sum of weights; the whole where a side is shorter."""
    height, width = min(side, weights.shape[0]), min(side, weights.shape[1])
    sums = cv2.integral(np.asarray(weights, np.float64))
    windows = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    top, left = np.unravel_index(int(np.argmax(windows)), windows.shape)
    return int(top), int(left), height, width
