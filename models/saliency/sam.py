"""SAM-VGG and SAM-ResNet, as their published code computes them.

Cornia, Baraldi, Serra, Cucchiara, "Predicting Human Eye Fixations via an LSTM-based Saliency Attentive Model", IEEE
TIP 2018. The published code (Keras 1.1 on Theano 0.9) differs from the paper and from today's defaults in places;
the code is what the published weights were trained with, so the code is what counts here.

    H×W×3 uint8 RGB
      │ fit: resize, black bars on the uint8 picture, BGR, minus the ImageNet mean
      ▼
    3×240×320 ─ dilated VGG-16 ─────────────────────────────┐
            └── dilated ResNet-50 ─ 2048 ─ 3×3 conv, ReLU ──┤
                                                            ▼ x: 512×30×40 (1/8)
       ┌──────────────── attentive ConvLSTM, t = 1 … 4 ─────────────────────┐
       │ e = V_a * tanh(W_a * h + U_a * x)    a = softmax over positions(e) │
       │ i, f, g, o from W * (a·x) + U * h    c = f·c + i·g    h = o·tanh c │
       └────────────────────────────────────────────────────────────┬───────┘
                                                                    ▼ h_4: 512×30×40
       [ h_4 | 16 Gaussians ] ─ 5×5 dilation 4, ReLU ─ [ · | 16 Gaussians ] ─ 5×5 dilation 4, ReLU ─ 1×1, ReLU
                                                                    │ 1×30×40
                                                                    ▼ bilinear ×16, Theano's phase
    1×480×640 ─ unfit: resize, cut the bars off ─ Gaussian blur, 7 pixels of the picture ─ divide by the maximum

The networks take any input whose sides are divisible by 8. `models.saliency.sam_import` makes the weights' files,
`sam_weights` reads them, `sam_predictor` has the geometry around the network.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.errors import FoveaError

INPUT_SIZE = (240, 320)
"""Rows and columns that the published weights were trained at."""
BLUR_SIGMA = 7.0
"""Standard deviation of the last blur, in pixels of the picture."""
FEATURES = 512
STEPS = 4
PRIORS = 16


# --- Layers ---------------------------------------------------------------------------------------------------------


class ShiftedMaxPool(nn.Module):
    """2×2 max pooling with Theano's 'same' border: out[i] = max(x[s·i − 1], x[s·i]) along each axis. Padding lies on all
    sides and the surplus is cut off at the end, so the windows are one pixel before the usual."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """N×C×H×W to N×C×⌈H/s⌉×⌈W/s⌉."""
        pooled = F.max_pool2d(x, 2, self.stride, padding=1)
        return pooled[:, :, : -(-x.shape[2] // self.stride), : -(-x.shape[3] // self.stride)]


class LearnedPrior(nn.Module):
    """16 Gaussians: one vector [μ_x, μ_y, σ_x, σ_y], clipped at every forward, each map divided by its maximum. Both axes
    are in units of the width: x runs from 0 to 1, y from (1 − H/W)/2 to (1 + H/W)/2, ends included."""

    limits = ((0.25, 0.75), (0.35, 0.65), (0.1, 0.9), (0.2, 0.8))

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(4 * PRIORS))

    def forward(self, height: int, width: int) -> Tensor:
        """1×16×height×width float32, in [0, 1], maximum 1."""
        values = self.weight.float().view(4, PRIORS, 1, 1)
        mu_x, mu_y, sigma_x, sigma_y = (v.clamp(low, high) for v, (low, high) in zip(values, self.limits, strict=True))
        aspect = height / width
        device = self.weight.device
        x = torch.linspace(0.0, 1.0, width, device=device)
        y = torch.linspace((1 - aspect) / 2, (1 + aspect) / 2, height, device=device)[:, None]
        exponent = (x - mu_x) ** 2 / (2 * sigma_x**2 + 1e-7) + (y - mu_y) ** 2 / (2 * sigma_y**2 + 1e-7)
        g = torch.exp(-exponent) / (2 * math.pi * sigma_x * sigma_y + 1e-7)
        return (g / g.amax((1, 2), keepdim=True))[None]


class AttentiveConvLSTM(nn.Module):
    """Recurrent attention over one feature map that is fed in at each of 4 steps.

    W_a acts on the hidden state and U_a on the input (the paper has the letters the other way round). The attention
    is not rescaled: it multiplies the input by about 1/(H·W). The gates' kernels lie one after the other in `w` (input)
    and `u` (hidden state), in the order i, f, c, o; each has its own bias.
    """

    gates = ("i", "f", "c", "o")

    def __init__(self) -> None:
        super().__init__()
        self.w_a = nn.Conv2d(FEATURES, FEATURES, 3, padding=1)
        self.u_a = nn.Conv2d(FEATURES, FEATURES, 3, padding=1)
        self.v_a = nn.Conv2d(FEATURES, 1, 3, padding=1, bias=False)
        self.w = nn.Conv2d(FEATURES, 4 * FEATURES, 3, padding=1)
        self.u = nn.Conv2d(FEATURES, 4 * FEATURES, 3, padding=1)

    def attention(self, u_x: Tensor, hidden: Tensor | None) -> Tensor:
        """N×1×H×W, sum 1 over the positions. `u_x` is U_a * x; no hidden state means zeros."""
        assert self.w_a.bias is not None
        w_h = self.w_a.bias.view(1, -1, 1, 1) if hidden is None else self.w_a(hidden)
        energy = self.v_a(torch.tanh(u_x + w_h))
        return torch.softmax(energy.float().flatten(1), 1).view_as(energy)

    def forward(self, x: Tensor) -> Tensor:
        """N×512×H×W features to the last hidden state, same shape, in (−1, 1)."""
        assert self.u.bias is not None
        u_x = self.u_a(x)
        hidden: Tensor | None = None
        cell: Tensor | None = None
        for _ in range(STEPS):
            gates = self.w(x * self.attention(u_x, hidden).to(x.dtype))
            gates = gates + (self.u.bias.view(1, -1, 1, 1) if hidden is None else self.u(hidden))
            i, f, g, o = gates.chunk(4, 1)
            update = torch.sigmoid(i) * torch.tanh(g)
            cell = update if cell is None else torch.sigmoid(f) * cell + update
            hidden = torch.sigmoid(o) * torch.tanh(cell)
        assert hidden is not None
        return hidden


def upsample_matrix(size: int, factor: int, device: torch.device | str = "cpu") -> Tensor:
    """Theano's bilinear upsampling of one axis as a matrix, (factor·size)×size float32.

    Sample k lies at output index factor·k + factor/2 − 1, half a pixel before where half-pixel centres would put
    it; beyond the outermost samples their values are repeated.
    """
    position = (np.arange(factor * size) - (factor // 2 - 1)) / factor
    columns = [np.interp(position, np.arange(size), sample) for sample in np.eye(size)]
    return torch.from_numpy(np.stack(columns, axis=1)).float().to(device)


def upsample(x: Tensor, factor: int = 16) -> Tensor:
    """N×1×H×W to N×1×(factor·H)×(factor·W) float32, Theano's `bilinear_upsampling`."""
    with torch.autocast(x.device.type, enabled=False):
        rows = upsample_matrix(x.shape[2], factor, x.device)
        columns = upsample_matrix(x.shape[3], factor, x.device)
        return rows @ x.float() @ columns.T


# --- Backbones ------------------------------------------------------------------------------------------------------


class DilatedVGG(nn.Module):
    """VGG-16's convolutions at 1/8: the third pool is shifted, the fourth doesn't stride, the fifth stage dilates."""

    stages = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))

    def __init__(self) -> None:
        super().__init__()
        n_in = 3
        for stage, (n_out, repeats) in enumerate(self.stages, 1):
            dilation = 2 if stage == 5 else 1
            for repeat in range(1, repeats + 1):
                conv = nn.Conv2d(n_in, n_out, 3, padding=dilation, dilation=dilation)
                self.add_module(f"block{stage}_conv{repeat}", conv)
                n_in = n_out
        self.block1_pool = nn.MaxPool2d(2)
        self.block2_pool = nn.MaxPool2d(2)
        self.block3_pool = ShiftedMaxPool(2)
        self.block4_pool = ShiftedMaxPool(1)

    def forward(self, x: Tensor) -> Tensor:
        """N×3×H×W, BGR minus the mean, to N×512×H/8×W/8."""
        for stage, (_, repeats) in enumerate(self.stages, 1):
            for repeat in range(1, repeats + 1):
                x = F.relu(self.get_submodule(f"block{stage}_conv{repeat}")(x))
            if stage < 5:
                x = self.get_submodule(f"block{stage}_pool")(x)
        return x


class Bottleneck(nn.Module):
    """ResNet v1's block in its first form: the stride sits in the first 1×1, not in the 3×3. All convs have biases."""

    def __init__(self, n_in: int, width: int, n_out: int, *, stride: int, dilation: int, project: bool) -> None:
        super().__init__()
        self.branch2a = nn.Conv2d(n_in, width, 1, stride)
        self.bn_branch2a = batch_norm(width)
        self.branch2b = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
        self.bn_branch2b = batch_norm(width)
        self.branch2c = nn.Conv2d(width, n_out, 1)
        self.bn_branch2c = batch_norm(n_out)
        self.branch1 = nn.Conv2d(n_in, n_out, 1, stride) if project else None
        self.bn_branch1 = batch_norm(n_out) if project else None

    def forward(self, x: Tensor) -> Tensor:
        """N×n_in×H×W to N×n_out×H/stride×W/stride."""
        y = F.relu(self.bn_branch2a(self.branch2a(x)))
        y = F.relu(self.bn_branch2b(self.branch2b(y)))
        y = self.bn_branch2c(self.branch2c(y))
        if self.branch1 is not None and self.bn_branch1 is not None:
            x = self.bn_branch1(self.branch1(x))
        return F.relu(x + y)


class DilatedResNet(nn.Module):
    """ResNet-50 v1 at 1/8: stages 4 and 5 don't stride, their 3×3 dilate by 2 and 4."""

    stages = (
        # name, blocks, width, out, stride of the first block, dilation
        (2, "abc", 64, 256, 1, 1),
        (3, "abcd", 128, 512, 2, 1),
        (4, "abcdef", 256, 1024, 1, 2),
        (5, "abc", 512, 2048, 1, 4),
    )

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3)
        self.bn_conv1 = batch_norm(64)
        self.pool1 = nn.MaxPool2d(3, 2, padding=1)
        n_in = 64
        for stage, letters, width, n_out, stride, dilation in self.stages:
            for letter in letters:
                first = letter == "a"
                block = Bottleneck(n_in, width, n_out, stride=stride if first else 1, dilation=dilation, project=first)
                self.add_module(f"res{stage}{letter}", block)
                n_in = n_out

    def forward(self, x: Tensor) -> Tensor:
        """N×3×H×W, BGR minus the mean, to N×2048×H/8×W/8."""
        x = self.pool1(F.relu(self.bn_conv1(self.conv1(x))))
        for block in self.children():
            if isinstance(block, Bottleneck):
                x = block(x)
        return x


def batch_norm(channels: int) -> nn.Module:
    """Keras 1's batch norm: ε 1e-5, running averages that keep 99 % at each step."""
    return nn.BatchNorm2d(channels, eps=1e-5, momentum=0.01)


# --- Networks -------------------------------------------------------------------------------------------------------


class SAM(nn.Module):
    """The whole network; see the module's diagram. `name` is "sam_vgg" (51.8 M parameters) or "sam_resnet" (70.1 M)."""

    def __init__(self, name: str) -> None:
        super().__init__()
        if name not in NETWORKS:
            raise FoveaError(f"unknown network {name!r}: one of {', '.join(NETWORKS)}")
        self.name = name
        self.backbone = NETWORKS[name]()
        self.reduce = nn.Conv2d(2048, FEATURES, 3, padding=1) if name == "sam_resnet" else None
        self.recurrent = AttentiveConvLSTM()
        self.prior1 = LearnedPrior()
        self.mix1 = nn.Conv2d(FEATURES + PRIORS, FEATURES, 5, padding=8, dilation=4)
        self.prior2 = LearnedPrior()
        self.mix2 = nn.Conv2d(FEATURES + PRIORS, FEATURES, 5, padding=8, dilation=4)
        self.readout = nn.Conv2d(FEATURES, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """N×3×H×W (see `preprocess`; H and W divisible by 8) to saliency ≥ 0, N×1×2H×2W float32, any scale."""
        if x.shape[2] % 8 or x.shape[3] % 8:
            raise FoveaError(f"SAM's input sides must be divisible by 8, not {x.shape[2]}×{x.shape[3]}")
        x = self.backbone(x)
        if self.reduce is not None:
            x = F.relu(self.reduce(x))
        x = self.recurrent(x)
        for prior, mix in ((self.prior1, self.mix1), (self.prior2, self.mix2)):
            gaussians = prior(*x.shape[2:]).to(x.dtype).expand(x.shape[0], -1, -1, -1)
            x = F.relu(mix(torch.cat([x, gaussians], 1)))
        return upsample(F.relu(self.readout(x)))

    def fold(self) -> "SAM":
        """Multiply the constant statistics of the ResNet's batch norms, each called bn_ and its convolution's name, into the
        convolutions, for inference; returns self in evaluation mode."""
        self.eval()
        for part in self.modules():
            for name, norm in list(part.named_children()):
                if isinstance(norm, nn.BatchNorm2d):
                    convolution = name.removeprefix("bn_")
                    setattr(part, convolution, fuse_conv_bn_eval(getattr(part, convolution), norm))
                    setattr(part, name, nn.Identity())
        return self


NETWORKS: dict[str, type[nn.Module]] = {"sam_vgg": DilatedVGG, "sam_resnet": DilatedResNet}


def build(name: str) -> SAM:
    """The network with uninitialised weights on the meta device: shapes without memory."""
    with torch.device("meta"):
        return SAM(name)
