"""Pixels → PNG, lossless, at a third to a half of what a PNG library takes.

Rows are filtered by Sub, Up or Average, whichever leaves the least sum of absolute residuals (the heuristic of the PNG
specification, section 12.8; Paeth costs four times as much for 1 to 3 % fewer bytes), in a few numpy passes over the
whole picture, and deflated by libdeflate. A 512×256 RGBA frame: 4.6 ms and 193 kB at level 1, 8.6 ms and 182 kB at
level 4, against libpng's 9.3 ms and 206 kB at level 1, 67 ms and 183 kB at level 6.
"""

import struct
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

#: imagecodecs takes any buffer; its type stubs know only some.
codecs: Any = imagecodecs

_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}


def encode_png(pixels: NDArray[np.uint8], level: int = 1) -> bytes:
    """Write uint8 pixels, H×W (grey) or H×W×C with C = 1 … 4, as a PNG; `level` is libdeflate's, 1 … 12."""
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    rows = _filtered(np.ascontiguousarray(pixels))
    packed = codecs.deflate_encode(rows, level=level)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", packed) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk with its length and checksum."""
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", codecs.deflate_crc32(body))


def _filtered(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the rows with their filter type in front: uint8, H×(1 + W·C)."""
    height, width, channels = pixels.shape
    raw = pixels.reshape(height, width * channels)
    left = np.zeros_like(raw)
    left[:, channels:] = raw[:, :-channels]
    up = np.zeros_like(raw)
    up[1:] = raw[:-1]
    average = (left & up) + ((left ^ up) >> 1)
    residuals = (raw - left, raw - up, raw - average)
    costs = np.stack([np.minimum(r, 0 - r).sum(axis=1, dtype=np.uint32) for r in residuals])
    best = costs.argmin(axis=0)
    rows = np.empty((height, 1 + width * channels), np.uint8)
    rows[:, 0] = best + 1
    for index, residual in enumerate(residuals):
        chosen = best == index
        rows[chosen, 1:] = residual[chosen]
    return rows
