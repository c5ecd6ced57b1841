"""Contact sheets: a few pictures in one PNG, for people."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray


def contact_sheet(pictures: Sequence[NDArray[np.uint8]], columns: int = 3, width: int = 320) -> bytes:
    """Pictures (uint8 RGB, H×W×3, or grey H×W), scaled to one width, as one PNG in rows."""
    scaled = []
    for picture in pictures:
        rgb = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, 2)
        height = max(1, round(rgb.shape[0] * width / rgb.shape[1]))
        scaled.append(np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA), np.uint8))
    sheet = []
    for row in (scaled[start : start + columns] for start in range(0, len(scaled), columns)):
        height = max(p.shape[0] for p in row)
        row += [np.full((1, width, 3), 255, np.uint8)] * (columns - len(row))
        padded = [np.pad(p, ((0, height - p.shape[0]), (0, 0), (0, 0)), constant_values=255) for p in row]
        sheet.append(np.hstack(padded))
    done, data = cv2.imencode(".png", cv2.cvtColor(np.vstack(sheet), cv2.COLOR_RGB2BGR))
    if not done:
        raise RuntimeError("OpenCV could not write a PNG")
    return bytes(data)


def overlay(picture: NDArray[np.uint8], saliency_map: NDArray[Any]) -> NDArray[np.uint8]:
    """The map, scaled to its maximum, as a heat layer over the grey picture; both H×W, result uint8 RGB.

    From dark violet to yellow (most): readable without colour vision."""
    share = np.asarray(saliency_map, np.float32) / (float(saliency_map.max()) or 1)
    colour = cv2.applyColorMap(np.round(share * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB).astype(np.float32)
    heat = cv2.cvtColor(colour, cv2.COLOR_BGR2RGB).astype(np.float32)
    share = 0.55 * np.sqrt(share)[..., None]
    return np.asarray((grey * (1 - share) + heat * share).round(), np.uint8)
