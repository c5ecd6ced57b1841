"""SAM's three losses (Cornia et al. 2018), differentiable: 10·KL − 2·CC − NSS.

All take N×1×H×W float32 and return the mean over the batch. Predictions and targets may have any positive scale:
KL and CC normalise both sides, NSS standardises the prediction.
"""

import torch
from torch import Tensor

EPSILON = 1e-7
KL_WEIGHT, CC_WEIGHT, NSS_WEIGHT = 10.0, -2.0, -1.0


def kl_divergence(prediction: Tensor, density: Tensor) -> Tensor:
    """KL(density ‖ prediction) in nats, both divided by their sums; the published code's ε placement."""
    y = density.flatten(1) / (density.flatten(1).sum(1, keepdim=True) + EPSILON)
    q = prediction.flatten(1) / (prediction.flatten(1).sum(1, keepdim=True) + EPSILON)
    return (y * torch.log(y / (q + EPSILON) + EPSILON)).sum(1).mean()


def correlation(prediction: Tensor, density: Tensor) -> Tensor:
    """Pearson's correlation over the positions of each map."""
    p = prediction.flatten(1) - prediction.flatten(1).mean(1, keepdim=True)
    y = density.flatten(1) - density.flatten(1).mean(1, keepdim=True)
    p = p / p.norm(dim=1, keepdim=True).clamp_min(torch.finfo(p.dtype).tiny)
    y = y / y.norm(dim=1, keepdim=True).clamp_min(torch.finfo(y.dtype).tiny)
    return (p * y).sum(1).mean()


def normalised_scanpath_saliency(prediction: Tensor, fixations: Tensor) -> Tensor:
    """Mean of the standardised prediction (population standard deviation) over fixations. `fixations` holds 1 where
    somebody looked, or a count: counts weigh. Maps without a fixation count as 0."""
    p = prediction.flatten(1)
    z = (p - p.mean(1, keepdim=True)) / (p.std(1, correction=0, keepdim=True) + EPSILON * p.amax(1, keepdim=True))
    f = fixations.flatten(1)
    return ((z * f).sum(1) / f.sum(1).clamp_min(1.0)).mean()


def sam_loss(prediction: Tensor, density: Tensor, fixations: Tensor) -> tuple[Tensor, Tensor]:
    """The training loss, and its three parts KL, CC, NSS (not multiplied by their weights), detached."""
    kl = kl_divergence(prediction, density)
    cc = correlation(prediction, density)
    nss = normalised_scanpath_saliency(prediction, fixations)
    loss = KL_WEIGHT * kl + CC_WEIGHT * cc + NSS_WEIGHT * nss
    return loss, torch.stack((kl, cc, nss)).detach()
