"""SAM's three losses, in the exact form and arithmetic of the published code (Cornia et al. 2018).

All take a prediction N×1×H×W, ≥ 0, of any scale, and a density or fixation map of the same shape; all return N
values, weights and signs included. The prediction is first divided by its maximum: ε = 1e-7 is relative to that.
The published training adds the three, at 480×640.

Theano adds float32 numbers up in float64 and rounds the sum. The correlation subtracts large sums from each other, so
its fourth digit hangs on that: all sums here do the same.
"""

import torch
from torch import Tensor

EPSILON = 1e-7
KL_WEIGHT, CC_WEIGHT, NSS_WEIGHT = 10.0, -2.0, -1.0


def _sum(x: Tensor) -> Tensor:
    """N×1×H×W to N×1×1×1, over the rows, then over the columns, each added up in float64."""
    for axis in (2, 3):
        x = x.sum(axis, keepdim=True, dtype=torch.float64).to(x.dtype)
    return x


def _mean(x: Tensor) -> Tensor:
    return x.mean((1, 2, 3), keepdim=True, dtype=torch.float64).to(x.dtype)


def _or_one(x: Tensor) -> Tensor:
    """A divisor: 1 where the published code would divide by zero or less (dead or constant maps)."""
    return torch.where(x > 0, x, torch.ones_like(x))


def _scaled(prediction: Tensor) -> Tensor:
    """Maximum 1; a dead map stays zero."""
    return prediction / _or_one(prediction.amax((2, 3), keepdim=True))


def _to_sum_1(x: Tensor) -> Tensor:
    return x / (_sum(x) + EPSILON)


def kl_loss(prediction: Tensor, density: Tensor) -> Tensor:
    """10 · Σ y log(y / (q + ε) + ε), with y and q divided by their sums + ε."""
    y, q = _to_sum_1(density), _to_sum_1(_scaled(prediction))
    return KL_WEIGHT * _sum(y * torch.log(y / (q + EPSILON) + EPSILON)).flatten()


def cc_loss(prediction: Tensor, density: Tensor) -> Tensor:
    """−2 · Pearson's correlation: (Σ yq − Σy Σq / n) / √((Σ y² − (Σy)² / n) (Σ q² − (Σq)² / n)). 0, with gradient 0, where
    one of the maps is constant."""
    y, q = _to_sum_1(density), _to_sum_1(_scaled(prediction))
    n = y.shape[2] * y.shape[3]
    sum_y, sum_q = _sum(y), _sum(q)
    covariance = _sum(y * q) - sum_y * sum_q / n
    power = (_sum(y * y) - sum_y**2 / n) * (_sum(q * q) - sum_q**2 / n)
    correlation = torch.where(power > 0, covariance, torch.zeros_like(power)) / _or_one(power).sqrt()
    return CC_WEIGHT * correlation.flatten()


def nss_loss(prediction: Tensor, fixations: Tensor) -> Tensor:
    """−mean over fixated pixels of (p − mean p) / (std p + ε), population standard deviation. `fixations` is 0 or 1. A
    picture without a fixation counts as 0."""
    p = _scaled(prediction)
    centred = p - _mean(p)
    variance = _mean(centred * centred)
    z = centred / (torch.where(variance > 0, _or_one(variance).sqrt(), variance) + EPSILON)
    return (NSS_WEIGHT * _sum(fixations * z) / _sum(fixations).clamp_min(1.0)).flatten()


def sam_loss(prediction: Tensor, density: Tensor, fixations: Tensor) -> Tensor:
    """The sum of the three, mean over the batch."""
    losses = kl_loss(prediction, density) + cc_loss(prediction, density) + nss_loss(prediction, fixations)
    return losses.mean()
