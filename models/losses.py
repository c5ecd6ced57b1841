"""The rate–distortion Lagrangian, with an optional weight map.

    loss = bits / pixels + mean(lmbda · w · d) + penalty

w is the weight map (models/saliency/weighting.py), 1 where there is none; lmbda is one number a picture or, for codecs
whose rate follows a level map, one a place (`Output.lmbda`). penalty is zero for all mechanisms but `hyper`
(`Output.penalty`, hyperprior_model.py). d is the distortion:

- mse: 255² · err², averaged over the colours (Ballé 2017, CompressAI: lmbda 0.0018 … 0.18);
- ms_ssim: 1 − MS-SSIM of values in [0, 1] (CompressAI: lmbda 2.4 … 220);
- l1_ms_ssim: 0.84 · (1 − MS-SSIM) + 0.16 · G_8 ∗ |err| for values in [0, 1] (Zhao 2017, equation 14), both terms means
  over places. The authors' released code uses 0.025 with an L1 that is summed over its window: their alpha only means
  something together with its scaling.

Padding never counts: neither in the mean nor in the pixels that bits are divided by. (The penalty is the codec's affair.)
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.codecs.base import Output
from models.errors import FoveaError

ZHAO_ALPHA = 0.84
ZHAO_SIGMAS = (0.5, 1.0, 2.0, 4.0, 8.0)
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang 2003, table in section 4


class Loss(NamedTuple):
    """Means over the batch. distortion: w · d without lmbda. mse: never weighted, on 0..255."""

    loss: Tensor
    bpp: Tensor
    distortion: Tensor
    mse: Tensor


def bits(output: Output) -> Tensor:
    """Bits of each picture by its likelihoods and its side information, N."""
    total = output.side_bits
    for likelihoods in output.likelihoods.values():
        total = total - torch.log2(likelihoods.float()).flatten(1).sum(dim=1)
    return total


def rate_distortion(
    output: Output,
    x: Tensor,
    *,
    weight: Tensor | None = None,
    distortion: str = "mse",
    valid: Tensor | None = None,
    emphasis: Tensor | None = None,
) -> Loss:
    """The Lagrangian of a batch.

    output: of the codec's training forward. x: N×3×H×W in [0, 1]. weight: N×1×H×W, mean 1 over the whole pictures that
    x is cut from. valid: N×1×H×W, 1 on picture and 0 on padding; None where there is no padding. emphasis: N, what each
    picture's Lagrangian is multiplied by. distortion: mse, ms_ssim or l1_ms_ssim. Raises FoveaError for another.
    """
    pixels = x.shape[2] * x.shape[3] if valid is None else valid.sum(dim=(1, 2, 3))
    bpp = bits(output) / pixels

    x_hat = output.x_hat.float()
    squared = 255**2 * (x_hat - x).square().mean(dim=1, keepdim=True)
    mse = _mean(squared, valid)

    if distortion == "ms_ssim":
        w = torch.ones_like(squared) if weight is None else weight
        d_mean = _mean(w, valid) * (1 - ms_ssim(x_hat, x, weight=w if valid is None else w * valid))
        priced = output.lmbda * w
        cost = _mean(priced, valid) * (1 - ms_ssim(x_hat, x, weight=priced if valid is None else priced * valid))
    elif distortion in ("mse", "l1_ms_ssim"):
        d = squared if distortion == "mse" else l1_ms_ssim(x_hat, x)
        d = d if weight is None else weight * d
        cost = _mean(output.lmbda * d, valid)
        d_mean = _mean(d, valid)
    else:
        raise FoveaError(f"unknown distortion {distortion!r}; known: mse, ms_ssim, l1_ms_ssim")

    lagrangian = bpp + cost + output.penalty
    if emphasis is not None:
        lagrangian = emphasis * lagrangian
    return Loss(lagrangian.mean(), bpp.mean(), d_mean.mean(), mse.mean())


def _mean(values: Tensor, valid: Tensor | None) -> Tensor:
    """Mean of each picture over its valid places; values N×1×H×W (or N×1×1×1), result N."""
    if valid is None:
        return values.mean(dim=(1, 2, 3))
    return (values * valid).sum(dim=(1, 2, 3)) / valid.sum(dim=(1, 2, 3))


def _gaussian(sigma: float, radius: int, like: Tensor) -> Tensor:
    at = torch.arange(-radius, radius + 1, dtype=like.dtype, device=like.device)
    window = torch.exp(-0.5 * (at / sigma) ** 2)
    return window / window.sum()


def _filter(values: Tensor, window: Tensor) -> Tensor:
    """Separable filter of every channel, no padding."""
    channels = values.shape[1]
    vertical = window.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    horizontal = window.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    return F.conv2d(F.conv2d(values, vertical, groups=channels), horizontal, groups=channels)


def _similarity(a: Tensor, b: Tensor, window: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM's luminance and contrast–structure maps."""
    n = a.shape[0]
    filtered = _filter(torch.cat((a, b, a * a, b * b, a * b)), window)
    mu_a, mu_b, aa, bb, ab = filtered.split(n)
    luminance = (2 * mu_a * mu_b + SSIM_C1) / (mu_a**2 + mu_b**2 + SSIM_C1)
    variances = (aa - mu_a**2) + (bb - mu_b**2)
    structure = (2 * (ab - mu_a * mu_b) + SSIM_C2) / (variances + SSIM_C2)
    return luminance, structure


def ms_ssim(x_hat: Tensor, x: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """Multi-scale SSIM of each picture (Wang 2003; 11×11 window, sigma 1.5), values in [0, 1], N.

    weight: N×1×H×W, not negative: each scale's similarity map is pooled with it instead of evenly. Sides below 161
    pixels have no room for five scales: as many as fit are used, their exponents divided by their sum.
    """
    side = min(x.shape[2], x.shape[3])
    scales = sum((side >> k) > 10 for k in range(len(MS_SSIM_WEIGHTS)))
    if scales == 0:
        raise FoveaError(f"MS-SSIM needs pictures or crops of at least 11×11, got {x.shape[2]}×{x.shape[3]}")
    exponents = x.new_tensor(MS_SSIM_WEIGHTS[:scales])
    exponents = exponents / exponents.sum()
    window = _gaussian(1.5, 5, x)
    a, b, w = x_hat, x, weight
    result = x.new_ones(x.shape[0], x.shape[1])
    for scale in range(scales):
        luminance, structure = _similarity(a, b, window)
        values = structure * luminance if scale == scales - 1 else structure
        if w is None:
            pooled = values.mean(dim=(2, 3))
        else:
            # an interior place's weight counts: those within the window's radius of the border have no value
            inner = w[:, :, 5:-5, 5:-5]
            total = inner.sum(dim=(2, 3))
            pooled = torch.where(
                total > 0, (values * inner).sum(dim=(2, 3)) / total.clamp_min(1e-12), values.mean(dim=(2, 3))
            )
        result = result * pooled.clamp_min(1e-6) ** exponents[scale]
        if scale < scales - 1:
            a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
            w = None if w is None else F.avg_pool2d(w, 2)
    return result.mean(dim=1)


def l1_ms_ssim(x_hat: Tensor, x: Tensor) -> Tensor:
    """Zhao 2017's mix at every place, values in [0, 1], N×1×H×W. Windows of sigma 0.5, 1, 2, 4, 8 at full resolution around
    each place (equation 8), cut at 3 sigma, borders replicated; L1 smoothed by the widest (equation 14)."""
    product = torch.ones_like(x)
    luminance = product
    for sigma in ZHAO_SIGMAS:
        luminance, structure = _similarity(_padded(x_hat, sigma), _padded(x, sigma), _window(sigma, x))
        product = product * structure
    smoothed = _filter(_padded((x_hat - x).abs(), ZHAO_SIGMAS[-1]), _window(ZHAO_SIGMAS[-1], x))
    mixed = ZHAO_ALPHA * (1 - luminance * product) + (1 - ZHAO_ALPHA) * smoothed
    return mixed.mean(dim=1, keepdim=True)


def _window(sigma: float, like: Tensor) -> Tensor:
    return _gaussian(sigma, round(3 * sigma), like)


def _padded(values: Tensor, sigma: float) -> Tensor:
    radius = round(3 * sigma)
    return F.pad(values, (radius, radius, radius, radius), mode="replicate")
