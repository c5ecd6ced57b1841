"""What a reconstruction is worth: PSNR, MS-SSIM and their weighted forms, and indices that need no network.

Pictures are uint8 RGB, H×W×3. Maps are H×W, uint8 or float, not negative, in any scale: a weighted metric divides them
by their sum. `sw_` weights with a saliency map, `bg_` with its complement (1 − s, s scaled to maximum 1), `ew_` with a
fixation map, which is how long people looked where.

Three rules hold everywhere:

- PSNR lies in 0 … 100 dB (`PSNR_CAP_DB`), so identical pictures give a number that means and tables survive; MS-SSIM and
  the indices end at their bounds, which rounding would pass on flat pictures.
- A metric that cannot be measured on a picture (a map of zeros, a picture too small for an index) is NaN.
- A picture smaller than 161 pixels on a side gets fewer MS-SSIM scales: as many as leave an 11-pixel window room, with
  the scales' weights divided by their sum. Below 11 pixels the window is the largest odd one that fits.

MS-SSIM is Wang et al. 2003 ("Multiscale structural similarity for image quality assessment") as `pytorch_msssim`
computes it, per channel, zero padding of odd sides included; the tests hold the two together. It is written out here
because its weighted forms pool the same similarity maps.
"""

from collections.abc import Mapping
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from models.errors import FoveaError

Picture = NDArray[np.uint8]
Map = NDArray[np.generic]
_Float = NDArray[np.float32]

PSNR_CAP_DB = 100.0
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW = 11
_WINDOW_SIGMA = 1.5
_C1 = (0.01 * 255) ** 2
_C2 = (0.03 * 255) ** 2
_INDICES = ("vsi", "haarpsi", "gmsd")
_INDICES_MIN_SIDE = 16


class Metric(NamedTuple):
    """How a metric is called and read. decibel: a similarity in [0, 1] whose curves are compared in −10·log10(1 − x)."""

    name: str
    label: str
    unit: str = ""
    decibel: bool = False


METRICS: Mapping[str, Metric] = {
    m.name: m
    for m in (
        Metric("psnr_db", "PSNR", "dB"),
        Metric("ms_ssim", "MS-SSIM", decibel=True),
        Metric("sw_psnr_db", "saliency-weighted PSNR", "dB"),
        Metric("bg_psnr_db", "background PSNR", "dB"),
        Metric("sw_ms_ssim", "saliency-weighted MS-SSIM", decibel=True),
        Metric("ew_psnr_db", "eye-weighted PSNR", "dB"),
        Metric("ew_ms_ssim", "eye-weighted MS-SSIM", decibel=True),
        Metric("vsi", "VSI"),
        Metric("haarpsi", "HaarPSI"),
        Metric("gmsd", "GMSD"),
    )
}


def _check(original: Picture, reconstruction: Picture) -> None:
    for name, picture in (("original", original), ("reconstruction", reconstruction)):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or picture.size == 0:
            raise FoveaError(
                f"{name}: a metric needs uint8 RGB, H×W×3, got {picture.dtype} {picture.shape}; convert it first"
            )
    if original.shape != reconstruction.shape:
        raise FoveaError(
            f"original {original.shape} and reconstruction {reconstruction.shape} differ in size; crop the padding"
        )


def _weights(weight: Map, shape: tuple[int, ...]) -> _Float:
    """The map as float32 divided by its sum, or all NaN where that sum is 0."""
    if weight.shape != shape[:2]:
        raise FoveaError(f"the map is {weight.shape}, the picture {shape[:2]}; resize the map with the picture")
    values = weight.astype(np.float32)
    total = float(values.sum(dtype=np.float64))
    if not np.isfinite(total) or float(values.min()) < 0:
        raise FoveaError("a map that weights a metric must be finite and not negative")
    return values / np.float32(total) if total > 0 else np.full_like(values, np.nan)


def _complement(saliency_map: Map) -> _Float:
    values = saliency_map.astype(np.float32)
    peak = float(values.max())
    return 1.0 - values / np.float32(peak) if peak > 0 else np.ones_like(values)


def _squared_error(original: Picture, reconstruction: Picture) -> _Float:
    """Mean over the channels, H×W, in units of 0..255 squared."""
    difference = cv2.absdiff(original, reconstruction).astype(np.float32)
    planes = cv2.transform(difference * difference, np.full((1, 3), 1 / 3, np.float32))
    return np.asarray(planes, np.float32).reshape(original.shape[:2])


def _mean(values: _Float) -> float:
    return float(values.mean(dtype=np.float64))


def _weighted(values: _Float, weights: _Float) -> float:
    """Sum of values times weights; NaN weights give NaN."""
    return float(np.dot(values.ravel(), weights.ravel()))


def _psnr_db(error: float) -> float:
    if error > 0:
        return float(np.clip(10 * np.log10(255.0**2 / error), 0.0, PSNR_CAP_DB))
    return PSNR_CAP_DB if error == 0 else float("nan")


def psnr_db(original: Picture, reconstruction: Picture, weight: Map | None = None) -> float:
    """10·log10(255² / MSE) over RGB, at most 100 dB. weight: a map that the squared error is weighted by."""
    _check(original, reconstruction)
    error = _squared_error(original, reconstruction)
    return _psnr_db(_mean(error) if weight is None else _weighted(error, _weights(weight, original.shape)))


def _kernel(side: int) -> _Float:
    size = min(_WINDOW, side if side % 2 else side - 1)
    offsets = np.arange(size, dtype=np.float64) - size // 2
    values = np.exp(-(offsets**2) / (2 * _WINDOW_SIGMA**2))
    return (values / values.sum()).astype(np.float32)


def _blur(values: _Float, kernel: _Float) -> _Float:
    """Separable convolution, only where the window lies inside."""
    margin = len(kernel) // 2
    blurred = cv2.sepFilter2D(values, cv2.CV_32F, kernel, kernel, borderType=cv2.BORDER_REFLECT)
    height, width = values.shape[:2]
    return np.asarray(blurred, np.float32).reshape(values.shape)[margin : height - margin, margin : width - margin]


def _halve(values: _Float, border: int = cv2.BORDER_CONSTANT) -> _Float:
    """2×2 means. An odd side is padded before its first row or column: with zeros, as `pytorch_msssim` pads, by default."""
    height, width = values.shape[:2]
    if height % 2 or width % 2:
        padded = cv2.copyMakeBorder(values, height % 2, 0, width % 2, 0, border, value=(0, 0, 0, 0))
        values = np.asarray(padded, np.float32)
    # nearest-aligned area averaging at exactly one half is the 2×2 mean
    return np.asarray(cv2.resize(values, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.float32)


def _scales(height: int, width: int) -> int:
    return 1 + sum(min(height, width) > (_WINDOW - 1) * 2**k for k in range(1, len(MS_SSIM_WEIGHTS)))


def _ms_ssim(original: Picture, reconstruction: Picture, weights: Mapping[str, _Float | None]) -> dict[str, float]:
    """MS-SSIM under each of the weights, from one set of similarity maps that are pooled with them, halved along, at
    each scale.

    Similarity exists where the window lies inside the picture; weights are cropped to that and divided by their sum, so
    that constant ones give what None gives: every place counts the same. NaN where no weight is left.
    """
    count = _scales(*original.shape[:2])
    exponents = np.array(MS_SSIM_WEIGHTS[:count])
    exponents /= exponents.sum()
    x, y = original.astype(np.float32), reconstruction.astype(np.float32)
    pooling = dict(weights)
    products = {name: np.ones(3) for name in weights}
    for scale, exponent in enumerate(exponents):
        kernel = _kernel(min(x.shape[:2]))
        mu_x, mu_y = _blur(x, kernel), _blur(y, kernel)
        cross = mu_x * mu_y
        squares = mu_x * mu_x + mu_y * mu_y
        # MS-SSIM needs the two variances only as a sum: one convolution instead of two
        variances = _blur(x * x + y * y, kernel) - squares
        covariance = _blur(x * y, kernel) - cross
        similarity = (2 * covariance + _C2) / (variances + _C2)
        if scale == count - 1:
            similarity *= (2 * cross + _C1) / (squares + _C1)
        margin = len(kernel) // 2
        for name, weight in pooling.items():
            if weight is None:
                pooled = similarity.mean(axis=(0, 1), dtype=np.float64)
            else:
                inside = weight[margin : weight.shape[0] - margin, margin : weight.shape[1] - margin]
                total = float(inside.sum(dtype=np.float64))
                pooled = inside.ravel() @ similarity.reshape(-1, 3) / total if total > 0 else np.full(3, np.nan)
            products[name] *= np.clip(pooled, 0.0, 1.0) ** exponent
        if scale < count - 1:
            x, y = _halve(x), _halve(y)
            # repeated at the border, so that a constant map stays constant
            pooling = {n: None if w is None else _halve(w, cv2.BORDER_REPLICATE) for n, w in pooling.items()}
    return {name: float(product.mean()) for name, product in products.items()}


def _indices(original: Picture, reconstruction: Picture) -> dict[str, float]:
    """VSI and HaarPSI (0 to 1, 1 = identical), GMSD (0 = identical, at most 0.5), by `piq`.

    Zhang et al. 2014 ("VSI"), Reisenhofer et al. 2018 ("HaarPSI"), Xue et al. 2014 ("GMSD"). NaN below 16 pixels a side.
    Equal pictures are 1, 1 and 0, also black ones, for which HaarPSI divides by 0.
    """
    if min(original.shape[:2]) < _INDICES_MIN_SIDE:
        return dict.fromkeys(_INDICES, float("nan"))
    if np.array_equal(original, reconstruction):
        return {"vsi": 1.0, "haarpsi": 1.0, "gmsd": 0.0}
    # torch and piq take seconds to import
    import piq
    import torch

    with torch.inference_mode():
        x, y = (
            torch.from_numpy(np.ascontiguousarray(p.transpose(2, 0, 1)[None])).float().div_(255)
            for p in (original, reconstruction)
        )
        found = {name: float(getattr(piq, name)(x, y, data_range=1.0)) for name in _INDICES}
    return {name: min(max(value, 0.0), 0.5 if name == "gmsd" else 1.0) for name, value in found.items()}


def measure(
    original: Picture,
    reconstruction: Picture,
    *,
    saliency_map: Map | None = None,
    fixation_map: Map | None = None,
    indices: bool = True,
) -> dict[str, float]:
    """Every metric of `METRICS`, in its order, with the work shared; NaN where a map is missing.

    indices: also VSI, HaarPSI and GMSD, which take more time than all the others together (NaN without).
    Raises FoveaError for pictures or maps that do not go together.
    """
    _check(original, reconstruction)
    values = dict.fromkeys(METRICS, float("nan"))
    error = _squared_error(original, reconstruction)
    values["psnr_db"] = _psnr_db(_mean(error))
    pooling: dict[str, _Float | None] = {"ms_ssim": None}
    if saliency_map is not None:
        pooling["sw_ms_ssim"] = weights = _weights(saliency_map, original.shape)
        values["sw_psnr_db"] = _psnr_db(_weighted(error, weights))
        background = _weights(_complement(saliency_map), original.shape)
        values["bg_psnr_db"] = _psnr_db(_weighted(error, background))
    if fixation_map is not None:
        pooling["ew_ms_ssim"] = weights = _weights(fixation_map, original.shape)
        values["ew_psnr_db"] = _psnr_db(_weighted(error, weights))
    values.update(_ms_ssim(original, reconstruction, pooling))
    return values | (_indices(original, reconstruction) if indices else {})
