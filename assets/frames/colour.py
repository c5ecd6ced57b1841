"""Embedded colour profiles: pictures are brought to sRGB when they are read."""

import functools
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

Picture = NDArray[np.uint8]


def to_srgb(picture: Picture, profile: bytes) -> Picture:
    """uint8 RGB H×W×3 in the colours of an ICC profile, as sRGB: relative colorimetric, with black point compensation.

    The very same array where the profile is sRGB within one level, can't be used, or is of another kind than the picture (a
    grey one needs R = G = B): the samples are then taken as sRGB.
    """
    found = _transform(profile) if profile else None
    if found is None:
        return picture
    mode, transform = found
    if mode == "L" and (picture != picture[..., :1]).any():
        return picture
    return _applied(transform, picture, mode)


@functools.lru_cache(maxsize=64)
def _transform(profile: bytes) -> tuple[str, Any] | None:
    """Mode and transform; None where nothing is to be done."""
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = {"RGB ": "RGB", "GRAY": "L"}[opened.profile.xcolor_space]
        transform = ImageCms.buildTransform(
            opened,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        levels = np.arange(0, 256, 15, dtype=np.uint8)
        grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(len(levels), -1, 3)
        if mode == "L":
            grid = np.repeat(grid[..., :1], 3, axis=2)
        shown = _applied(transform, grid, mode)
    except (ImageCms.PyCMSError, OSError, ValueError, KeyError, TypeError):
        return None
    return (mode, transform) if np.abs(shown.astype(int) - grid).max() > 1 else None


def _applied(transform: Any, picture: Picture, mode: str) -> Picture:
    shown = ImageCms.applyTransform(Image.fromarray(picture if mode == "RGB" else picture[..., 0]), transform)
    assert shown is not None  # not in place
    return np.array(shown)
