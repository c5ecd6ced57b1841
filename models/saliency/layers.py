"""Layers of SAM-Lite: batch norm that folds, TF-SAME padding, separable attentive ConvLSTM, Gaussian priors.

The recurrent attention and the priors follow Cornia et al., "Predicting Human Eye Fixations via an LSTM-based
Saliency Attentive Model", IEEE TIP 2018, with depthwise-separable convolutions in place of dense ones.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME padding of one axis: (before, after), the odd pixel after."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class ConvNorm(nn.Module):
    """Convolution (SAME padding), batch norm, and optionally an activation that is clamped to [0, 6].

    Outside of `norm.training` the batch norm is an affine map with constant statistics: it is multiplied into the
    kernel, so that the activations are touched once, in training too. `fold()` does this once and for all.
    """

    def __init__(
        self, n_in: int, n_out: int, kernel: int = 1, stride: int = 1, groups: int = 1, *, relu6: bool = True
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.groups, self.relu6 = kernel, stride, groups, relu6
        self.weight = nn.Parameter(torch.empty(n_out, n_in // groups, kernel, kernel))
        nn.init.kaiming_normal_(self.weight, mode="fan_out")
        self.norm: nn.BatchNorm2d | None = nn.BatchNorm2d(n_out, eps=1e-3)
        self.bias: nn.Parameter | None = None

    def folded(self) -> tuple[Tensor, Tensor | None]:
        """Kernel and bias with the running statistics multiplied in."""
        if self.norm is None:
            return self.weight, self.bias
        norm = self.norm
        assert norm.running_var is not None and norm.running_mean is not None
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        return self.weight * scale.view(-1, 1, 1, 1), norm.bias - norm.running_mean * scale

    def fold(self) -> None:
        """Replace the batch norm by a bias. Inference only; cannot be undone."""
        weight, bias = self.folded()
        assert bias is not None
        self.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
        self.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
        self.norm = None

    def forward(self, x: Tensor) -> Tensor:
        """N×C×H×W to N×C'×⌈H/stride⌉×⌈W/stride⌉."""
        top, bottom = same_padding(x.shape[2], self.kernel, self.stride)
        left, right = same_padding(x.shape[3], self.kernel, self.stride)
        padding = (top, left)
        if top != bottom or left != right:
            x, padding = F.pad(x, (left, right, top, bottom)), (0, 0)
        if self.norm is not None and self.norm.training:
            x = self.norm(F.conv2d(x, self.weight, None, self.stride, padding, 1, self.groups))
        else:
            weight, bias = self.folded()
            x = F.conv2d(x, weight, bias, self.stride, padding, 1, self.groups)
        return F.relu6(x, inplace=True) if self.relu6 else x


class Separable(nn.Module):
    """Depthwise k×k, then 1×1 with bias: the light stand-in for a dense convolution."""

    def __init__(self, n_in: int, n_out: int, kernel: int = 3, dilation: int = 1) -> None:
        super().__init__()
        padding = dilation * (kernel - 1) // 2
        self.depthwise = nn.Conv2d(n_in, n_in, kernel, padding=padding, dilation=dilation, groups=n_in, bias=False)
        self.pointwise = nn.Conv2d(n_in, n_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """N×n_in×H×W to N×n_out×H×W."""
        return self.pointwise(self.depthwise(x))


class AttentiveConvLSTM(nn.Module):
    """SAM's recurrent attention over one feature map, T identical time steps, depthwise-separable convolutions.

    e_t = V_a * tanh(W_a * h_{t-1} + U_a * x); a_t = H·W·softmax(e_t); the gates read a_t·x and h_{t-1}. As in the
    published code, W_a acts on the hidden state and U_a on the input. The softmax is multiplied by the number of
    positions (mean 1), which keeps the input's scale at any size. V_a starts at zero: attention starts uniform.
    """

    def __init__(self, channels: int, steps: int = 4) -> None:
        super().__init__()
        self.channels, self.steps = channels, steps
        self.w_a = Separable(channels, channels)
        self.u_a = Separable(channels, channels)
        self.v_a = nn.Conv2d(channels, 1, 3, padding=1, bias=False)
        self.w = Separable(channels, 4 * channels)
        self.u = Separable(channels, 4 * channels)
        nn.init.zeros_(self.v_a.weight)

    def attention(self, u_x: Tensor, hidden: Tensor | None) -> Tensor:
        """Attention map N×1×H×W with mean 1."""
        energy = self.v_a(torch.tanh(u_x if hidden is None else u_x + self.w_a(hidden)))
        n, _, height, width = energy.shape
        return torch.softmax(energy.float().flatten(1), 1).view(n, 1, height, width) * (height * width)

    def forward(self, x: Tensor) -> Tensor:
        """N×C×H×W features to the last hidden state, same shape, in (-1, 1)."""
        u_x = self.u_a(x)
        hidden: Tensor | None = None
        cell: Tensor | None = None
        for _ in range(self.steps):
            attended = x * self.attention(u_x, hidden).to(x.dtype)
            gates = self.w(attended)
            if hidden is not None:
                gates = gates + self.u(hidden)
            i, f, o, g = gates.chunk(4, 1)
            update = torch.sigmoid(i) * torch.tanh(g)
            cell = update if cell is None else torch.sigmoid(f) * cell + update
            hidden = torch.sigmoid(o) * torch.tanh(cell)
        assert hidden is not None
        return hidden


class GaussianPriors(nn.Module):
    """Learned Gaussian maps, each divided by its own maximum, parameters clipped at every forward as in SAM.

    Coordinates run from 0 to 1 along each axis on its own, so that a prior keeps its place relative to the frame
    at any aspect ratio. (SAM measures both axes in units of the width; its input is always 4:3.)
    """

    means = (0.25, 0.75)
    sigmas = (0.1, 0.9)

    def __init__(self, count: int = 16) -> None:
        super().__init__()
        self.mu = nn.Parameter(torch.empty(2, count).uniform_(0.3, 0.7))
        self.sigma = nn.Parameter(torch.empty(2, count).uniform_(0.1, 0.4))

    def forward(self, height: int, width: int) -> Tensor:
        """1×count×height×width, float32, in (0, 1], maximum 1."""
        x = torch.linspace(0.0, 1.0, width, device=self.mu.device)
        y = torch.linspace(0.0, 1.0, height, device=self.mu.device)
        mu, sigma = self.mu.float().clamp(*self.means), self.sigma.float().clamp(*self.sigmas)
        z_x = (x - mu[0, :, None]) / sigma[0, :, None]
        z_y = (y - mu[1, :, None]) / sigma[1, :, None]
        g = torch.exp(-0.5 * (z_y[:, :, None] ** 2 + z_x[:, None, :] ** 2))
        return (g / g.amax((1, 2), keepdim=True))[None]
