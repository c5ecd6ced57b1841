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

MAX_STEPS = 64
"""Largest magnitude of an entry."""

_TOP = 1 << 24
_BITS = 16
# Probability of "0" out of 2^16 before anything is known: most residuals are zero, few are larger than one.
_PRIOR_ZERO = (58000, 42000, 30000, 24000)
_PRIOR_MORE = 52000


class _Model:
    """The adaptive probabilities. A bit's probability moves by 1/(n + 2) at its n-th use, at last by 1/32."""

    def __init__(self) -> None:
        self.zero = [[p, 2] for p in _PRIOR_ZERO]
        self.sign = [[1 << 15, 1] for _ in range(3)]
        self.more = [[[_PRIOR_MORE, 2] for _ in range(4)] for _ in range(2)]

    @staticmethod
    def adapt(state: list[int], bit: int) -> None:
        p, n = state
        p += (0 if bit else 65536) // (n + 2) - p // (n + 2)
        state[0] = min(max(p, 512), 65024)
        if n < 30:
            state[1] = n + 1


class _Encoder:
    """Range encoder with carry (as in LZMA)."""

    def __init__(self) -> None:
        self.low, self.range, self.cache, self.pending, self.out = 0, 0xFFFFFFFF, 0, 1, bytearray()

    def bit(self, state: list[int], bit: int) -> int:
        bound = (self.range >> _BITS) * state[0]
        if bit:
            self.low += bound
            self.range -= bound
        else:
            self.range = bound
        while self.range < _TOP:
            self.range = self.range << 8 & 0xFFFFFFFF
            self._shift()
        _Model.adapt(state, bit)
        return bit

    def _shift(self) -> None:
        if self.low < 0xFF000000 or self.low > 0xFFFFFFFF:
            carry = self.low >> 32
            self.out.append(self.cache + carry & 0xFF)
            self.out.extend(bytes([0xFF + carry & 0xFF]) * (self.pending - 1))
            self.pending = 0
            self.cache = self.low >> 24 & 0xFF
        self.pending += 1
        self.low = self.low << 8 & 0xFFFFFFFF

    def finish(self) -> bytes:
        # the value of the interval with the most trailing zeros: the decoder reads zeros past the end
        for k in range(31, -1, -1):
            value = -(-self.low >> k) << k
            if value < self.low + self.range:
                self.low = value
                break
        for _ in range(5):
            self._shift()
        return bytes(self.out[1:]).rstrip(b"\0")


class _Decoder:
    def __init__(self, data: bytes):
        self.data, self.position, self.range, self.code = data, 4, 0xFFFFFFFF, 0
        self.code = int.from_bytes(data[:4].ljust(4, b"\0"), "big")

    def bit(self, state: list[int], _: int) -> int:
        bound = (self.range >> _BITS) * state[0]
        if self.code < bound:
            self.range, bit = bound, 0
        else:
            self.code -= bound
            self.range -= bound
            bit = 1
        while self.range < _TOP:
            self.range = self.range << 8 & 0xFFFFFFFF
            byte = self.data[self.position] if self.position < len(self.data) else 0
            self.code = (self.code << 8 | byte) & 0xFFFFFFFF
            self.position += 1
        _Model.adapt(state, bit)
        return bit


def _run(coder: _Encoder | _Decoder, cells: list[list[int]], height: int, width: int) -> None:
    """Walk over the cells in raster order; the encoder reads them, the decoder fills them in."""
    model = _Model()
    encoding = isinstance(coder, _Encoder)
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
            if not coder.bit(model.zero[min(busy, 3)], int(residual != 0)):
                row[j] = guess
                continue
            negative = coder.bit(model.sign[lean], int(residual < 0))
            magnitude, wanted = 1, abs(residual)
            while coder.bit(model.more[int(busy > 1)][min(magnitude, 4) - 1], int(magnitude < wanted)):
                magnitude += 1
                if magnitude > 2 * MAX_STEPS:
                    raise BitstreamError("damaged file: a level is out of any range")
            row[j] = guess - magnitude if negative else guess + magnitude
        above = row


def encode_levels(steps: NDArray[np.int64]) -> bytes:
    """steps: H×W, each within ±MAX_STEPS."""
    if not steps.any():
        return b""
    coder = _Encoder()
    _run(coder, steps.tolist(), *steps.shape)
    # an empty string means zeros, so what happens to end in nothing but zeros keeps one byte
    return coder.finish() or b"\0"


def decode_levels(data: bytes, height: int, width: int) -> NDArray[np.int64]:
    """H×W. Raises BitstreamError where no encoder can have written it."""
    cells = [[0] * width for _ in range(height)]
    if data:
        _run(_Decoder(data), cells, height, width)
    steps = np.array(cells, dtype=np.int64).reshape(height, width)
    if int(np.abs(steps).max()) > MAX_STEPS:
        raise BitstreamError("damaged file: a level is out of any range")
    return steps


def estimate_bits(steps: Tensor) -> Tensor:
    """About what `encode_levels` takes, computed on the device: N floats for int64 N×1×H×W. For training's figures."""
    cells = steps.float()
    rough = cells.diff(dim=3).abs().flatten(1).sum(dim=1) + cells.diff(dim=2).abs().flatten(1).sum(dim=1)
    return torch.where(rough > 0, 0.35 * steps[0].numel() + rough, torch.zeros_like(rough))
