"""A frame and its saliency map in one RGBA PNG: colours as they are, the map in the alpha channel.

Lossless in both: colours under alpha 0 are kept (nothing here premultiplies), so do not open and save such files in
programs that drop what is fully transparent.
"""

from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from assets.frames.decode import read_png_samples
from assets.frames.encode import encode_png
from models.errors import FoveaError
from models.threads import in_order

K = TypeVar("K")
Pixels = NDArray[np.uint8]


def pack(rgb: Pixels, saliency_map: Pixels) -> bytes:
    """Write a frame (uint8 H×W×3) and its map (uint8 H×W, 255 = the picture's maximum) as one RGBA PNG. Raises FoveaError:
    the two differ in size, or are not uint8 of these shapes."""
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise FoveaError(f"rgba: the frame must be uint8 H×W×3, not {rgb.dtype} {rgb.shape}")
    if saliency_map.dtype != np.uint8 or saliency_map.shape != rgb.shape[:2]:
        raise FoveaError(
            f"rgba: the saliency map must be uint8 {rgb.shape[:2]}, not {saliency_map.dtype} {saliency_map.shape}"
        )
    return encode_png(np.dstack((rgb, saliency_map)))


def unpack(data: bytes) -> tuple[Pixels, Pixels]:
    """Read what `pack` wrote: the frame (uint8 H×W×3) and its map (uint8 H×W), both C-contiguous. Raises FoveaError: not an
    8-bit RGBA PNG, or a damaged one."""
    pixels = read_png_samples(data, "rgba frame")
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 4:
        raise FoveaError(f"rgba: expected an 8-bit RGBA PNG, got {pixels.dtype} {pixels.shape}")
    return np.ascontiguousarray(pixels[..., :3]), np.ascontiguousarray(pixels[..., 3])


def pack_many(
    items: Iterable[tuple[K, Pixels, Pixels]], *, workers: int | None = None, chunk: int = 4
) -> Iterator[tuple[K, bytes]]:
    """Pack (key, frame, map) on all cores; yields (key, PNG bytes) in order, `workers × chunk` in memory at most."""

    def one(item: tuple[K, Pixels, Pixels]) -> tuple[K, bytes]:
        key, rgb, saliency_map = item
        return key, pack(rgb, saliency_map)

    return in_order(one, items, threads=workers or 0, ahead=chunk)
