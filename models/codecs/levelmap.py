"""The level map of `gain` as bytes: adaptive binary range coding of small integers on a grid.

Each cell is predicted from its neighbours west, north and north-west by the median edge detector of JPEG-LS (Weinberger
et al. 2000); the residual is written as zero or not, sign, and a unary magnitude, each bit with an adaptive probability
in the context of how busy the neighbourhood is. Integer arithmetic throughout: the same bytes on every machine. A map
of zeros is the empty string.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.codecs.bitstream import BitstreamError
from models.codecs.range_coder import RangeDecoder, RangeEncoder

MAX_STEPS = 64
"""Largest magnitude of an entry."""

# Probability of "0" out of 2^16 before anything is known: most residuals are zero, few are larger than one.
_PRIOR_ZERO = (58000, 42000, 30000, 24000)
_PRIOR_MORE = 52000


def _run(coder: RangeEncoder | RangeDecoder, cells: list[list[int]], height: int, width: int) -> None:
    """Walk over the cells in raster order; the encoder reads them, the decoder fills them in."""
    states_zero, states_sign = [[p, 2] for p in _PRIOR_ZERO], [[1 << 15, 1] for _ in range(3)]
    states_more = [[[_PRIOR_MORE, 2] for _ in range(4)] for _ in range(2)]
    encoding = isinstance(coder, RangeEncoder)
    above = [0] * width
    for i in range(height):
        row = cells[i]
        for j in range(width):
            north = above[j] if i else (row[j - 1] if j else 0)
            west = row[j - 1] if j else north
            corner = above[j - 1] if i and j else north
            east = above[j + 1] if i and j + 1 < width else north
            low, high = (west, north) if west < north else (north, west)
            guess = low if corner >= high else high if corner <= low else west + north - corner
            busy = abs(west - corner) + abs(north - corner) + abs(east - north)
            lean = 0 if east == north else 1 if east < north else 2
            residual = row[j] - guess if encoding else 0
            if not coder.bit(states_zero[min(busy, 3)], int(residual != 0)):
                row[j] = guess
                continue
            negative = coder.bit(states_sign[lean], int(residual < 0))
            magnitude, wanted = 1, abs(residual)
            while coder.bit(states_more[int(busy > 1)][min(magnitude, 4) - 1], int(magnitude < wanted)):
                magnitude += 1
                if magnitude > 2 * MAX_STEPS:
                    raise BitstreamError("damaged file: a level is out of any range")
            row[j] = guess - magnitude if negative else guess + magnitude
        above = row


def encode_levels(steps: NDArray[np.int64]) -> bytes:
    """steps: H×W, each within ±MAX_STEPS."""
    if not steps.any():
        return b""
    coder = RangeEncoder()
    _run(coder, steps.tolist(), *steps.shape)
    # an empty string means zeros, so what happens to end in nothing but zeros keeps one byte
    return coder.finish() or b"\0"


def decode_levels(data: bytes, height: int, width: int) -> NDArray[np.int64]:
    """H×W. Raises BitstreamError where no encoder can have written it."""
    cells = [[0] * width for _ in range(height)]
    if data:
        _run(RangeDecoder(data), cells, height, width)
    steps = np.array(cells, dtype=np.int64).reshape(height, width)
    if int(np.abs(steps).max()) > MAX_STEPS:
        raise BitstreamError("damaged file: a level is out of any range")
    return steps


def estimate_bits(steps: Tensor) -> Tensor:
    """About what `encode_levels` takes, computed on the device: N floats for int64 N×1×H×W. For training's figures."""
    cells = steps.float()
    rough = cells.diff(dim=3).abs().flatten(1).sum(dim=1) + cells.diff(dim=2).abs().flatten(1).sum(dim=1)
    return torch.where(rough > 0, 0.35 * steps[0].numel() + rough, torch.zeros_like(rough))
