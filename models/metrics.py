"""What a reconstruction is worth: PSNR, MS-SSIM and their weighted forms, and indices that need no network.

Pictures are uint8 RGB, H×W×3. Maps are H×W, uint8 or float, not negative, in any scale: a weighted metric divides them
by their sum. `sw_` weights with a saliency map, `bg_` with its complement (1 − s, s scaled to maximum 1), `ew_` with a
fixation map, which is how long people looked where.

Three rules hold everywhere:

- PSNR ends at 100 dB (`PSNR_CAP_DB`), so identical pictures give a number that means and tables survive.
- A metric that cannot be measured on a picture (a map of zeros, a picture too small for an index) is NaN.
- A picture smaller than 161 pixels on a side gets fewer MS-SSIM scales: as many as leave an 11-pixel window room, with
  the scales' weights divided by their sum. Below 11 pixels the window is the largest odd one that fits.

MS-SSIM is Wang et al. 2003 ("Multiscale structural similarity for image quality assessment") as `pytorch_msssim`
computes it, per channel, zero padding of odd sides included; the tests hold the two together. It is written out here
because its weighted forms pool the same similarity maps.
"""

from collections.abc import Mapping
from dataclasses import dataclass

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
_PERCEPTUAL_MIN_SIDE = 16


@dataclass(frozen=True)
class Metric:
    """How a metric is called, read and scaled.

    map: the map it needs, "saliency", "fixation" or "". worst, best: the ends of its range. decibel: for a similarity
    in [0, 1] whose curves are compared in −10·log10(1 − x).
    """

    name: str
    label: str
    unit: str
    worst: float
    best: float
    map: str = ""
    decibel: bool = False
    perceptual: bool = False

    @property
    def higher_is_better(self) -> bool:
        """False for an index that counts error."""
        return self.best > self.worst


METRICS: Mapping[str, Metric] = {
    m.name: m
    for m in (
        Metric("psnr_db", "PSNR", "dB", 0.0, PSNR_CAP_DB),
        Metric("ms_ssim", "MS-SSIM", "", 0.0, 1.0, decibel=True),
        Metric("sw_psnr_db", "saliency-weighted PSNR", "dB", 0.0, PSNR_CAP_DB, map="saliency"),
        Metric("bg_psnr_db", "background PSNR", "dB", 0.0, PSNR_CAP_DB, map="saliency"),
        Metric("sw_ms_ssim", "saliency-weighted MS-SSIM", "", 0.0, 1.0, map="saliency", decibel=True),
        Metric("ew_psnr_db", "eye-weighted PSNR", "dB", 0.0, PSNR_CAP_DB, map="fixation"),
        Metric("ew_ms_ssim", "eye-weighted MS-SSIM", "", 0.0, 1.0, map="fixation", decibel=True),
        Metric("vsi", "VSI", "", 0.0, 1.0, perceptual=True),
        Metric("haarpsi", "HaarPSI", "", 0.0, 1.0, perceptual=True),
        Metric("gmsd", "GMSD", "", 0.5, 0.0, perceptual=True),
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
        raise FoveaError(
            f"the map is {weight.shape}, the picture {shape[:2]}; resize the map with the picture"
        )
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
        return float(min(PSNR_CAP_DB, 10 * np.log10(255.0**2 / error)))
    return PSNR_CAP_DB if error == 0 else float("nan")


def mse(original: Picture, reconstruction: Picture) -> float:
    """Mean squared error over pixels and channels, 0..255². Never weighted."""
    _check(original, reconstruction)
    return _mean(_squared_error(original, reconstruction))


def sw_mse(original: Picture, reconstruction: Picture, saliency_map: Map) -> float:
    """Squared error weighted by the map divided by its sum, 0..255². NaN for a map of zeros."""
    _check(original, reconstruction)
    return _weighted(_squared_error(original, reconstruction), _weights(saliency_map, original.shape))


def psnr_db(original: Picture, reconstruction: Picture) -> float:
    """10·log10(255² / MSE) over RGB, at most 100 dB."""
    return _psnr_db(mse(original, reconstruction))


def sw_psnr_db(original: Picture, reconstruction: Picture, saliency_map: Map) -> float:
    """PSNR of the squared error weighted by the saliency map divided by its sum, at most 100 dB."""
    return _psnr_db(sw_mse(original, reconstruction, saliency_map))


def bg_psnr_db(original: Picture, reconstruction: Picture, saliency_map: Map) -> float:
    """PSNR weighted by the saliency map's complement: what the background pays. NaN where nothing is background."""
    return _psnr_db(sw_mse(original, reconstruction, _complement(saliency_map)))


def ew_psnr_db(original: Picture, reconstruction: Picture, fixation_map: Map) -> float:
    """PSNR weighted by where people looked (eye-weighted), at most 100 dB."""
    return _psnr_db(sw_mse(original, reconstruction, fixation_map))


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
    return np.asarray(blurred, np.float32).reshape(values.shape)[
        margin : height - margin, margin : width - margin
    ]


def _halve(values: _Float, border: int = cv2.BORDER_CONSTANT) -> _Float:
    """2×2 means. An odd side is padded before its first row or column: with zeros, as `pytorch_msssim` pads, by default."""
    height, width = values.shape[:2]
    if height % 2 or width % 2:
        padded = cv2.copyMakeBorder(values, height % 2, 0, width % 2, 0, border, value=(0, 0, 0, 0))
        values = np.asarray(padded, np.float32)
    # nearest-aligned area averaging at exactly one half is the 2×2 mean
    return np.asarray(cv2.resize(values, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.float32)


def _scales(height: int, width: int) -> int:
    count = 1
    while count < len(MS_SSIM_WEIGHTS) and min(height, width) > (_WINDOW - 1) * 2**count:
        count += 1
    return count


def _ms_ssim(
    original: Picture, reconstruction: Picture, weights: Mapping[str, _Float | None]
) -> dict[str, float]:
    """MS-SSIM under each of the weights (None: every place counts the same), from one set of similarity maps."""
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
                pooled = (
                    inside.ravel() @ similarity.reshape(-1, 3) / total if total > 0 else np.full(3, np.nan)
                )
            products[name] *= np.maximum(pooled, 0.0) ** exponent
        if scale < count - 1:
            x, y = _halve(x), _halve(y)
            # repeated at the border, so that a constant map stays constant
            pooling = {n: None if w is None else _halve(w, cv2.BORDER_REPLICATE) for n, w in pooling.items()}
    return {name: float(product.mean()) for name, product in products.items()}


def ms_ssim(original: Picture, reconstruction: Picture) -> float:
    """Multi-scale structural similarity in [0, 1] over RGB; small pictures as the module says."""
    _check(original, reconstruction)
    return _ms_ssim(original, reconstruction, {"": None})[""]


def sw_ms_ssim(original: Picture, reconstruction: Picture, saliency_map: Map) -> float:
    """MS-SSIM whose similarity maps are pooled, at each scale, with the saliency map halved along.

    Similarity exists where the window lies inside the picture; the map is cropped to that and divided by its sum, so
    that a constant map gives MS-SSIM itself. NaN where nothing salient is left.
    """
    _check(original, reconstruction)
    return _ms_ssim(original, reconstruction, {"": _weights(saliency_map, original.shape)})[""]


def ew_ms_ssim(original: Picture, reconstruction: Picture, fixation_map: Map) -> float:
    """`sw_ms_ssim` with where people looked for weights."""
    return sw_ms_ssim(original, reconstruction, fixation_map)


def perceptual_indices(original: Picture, reconstruction: Picture) -> dict[str, float]:
    """VSI and HaarPSI (0 to 1, 1 = identical), GMSD (0 = identical, at most 0.5), by `piq`.

    Zhang et al. 2014 ("VSI"), Reisenhofer et al. 2018 ("HaarPSI"), Xue et al. 2014 ("GMSD"). NaN below 16 pixels a side.
    """
    _check(original, reconstruction)
    if min(original.shape[:2]) < _PERCEPTUAL_MIN_SIDE:
        return dict.fromkeys(("vsi", "haarpsi", "gmsd"), float("nan"))
    # torch and piq take seconds to import, and most callers can do without these three
    import piq
    import torch

    with torch.inference_mode():
        x, y = (
            torch.from_numpy(np.ascontiguousarray(p.transpose(2, 0, 1)[None])).float().div_(255)
            for p in (original, reconstruction)
        )
        return {
            "vsi": float(piq.vsi(x, y, data_range=1.0)),
            "haarpsi": float(piq.haarpsi(x, y, data_range=1.0)),
            "gmsd": float(piq.gmsd(x, y, data_range=1.0)),
        }


def measure(
    original: Picture,
    reconstruction: Picture,
    *,
    saliency_map: Map | None = None,
    fixation_map: Map | None = None,
    perceptual: bool = True,
) -> dict[str, float]:
    """Every metric of `METRICS`, in its order, with the work shared; NaN where a map is missing.

    perceptual: also VSI, HaarPSI and GMSD, which take more time than all the others together (NaN without).
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
    if perceptual:
        values.update(perceptual_indices(original, reconstruction))
    return values
