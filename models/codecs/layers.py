"""Layers that codecs are built from. Names and forward results are CompressAI's; beside them, forms of the same layers that
take less time. In training (a gradient is wanted) with channels-last tensors on the CPU, results may differ in the last
bit: GDN's on several threads, `Deconvolution`'s always."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.codecs.compressai_import import GDN as CompressAIGDN


def conv(channels_in: int, channels_out: int, kernel: int = 5, stride: int = 2) -> nn.Conv2d:
    """Zero borders of half a kernel."""
    return nn.Conv2d(channels_in, channels_out, kernel, stride=stride, padding=kernel // 2)


def deconv(channels_in: int, channels_out: int, kernel: int = 5, stride: int = 2) -> nn.ConvTranspose2d:
    """Exactly `stride` times the size."""
    kind = Deconvolution if channels_out <= FEW else nn.ConvTranspose2d
    return kind(channels_in, channels_out, kernel, stride=stride, padding=kernel // 2, output_padding=stride - 1)


#: channels up to which `Subpixel` is the faster form
FEW = 4
#: pixels of all channels that GDN takes at once: half a MB at N = 128
GDN_BLOCK = 1024


class _Normalised(torch.autograd.Function):
    """GDN of channels-last float32 on the CPU, a few thousand places at a time (`_rows`), so that the steps around the
    products find what they need in a cache."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, inverse: bool) -> Tensor:
        out, norm = torch.empty_like(x), torch.empty_like(x)
        for one, its_norm, to in zip(*map(_rows, (x, norm, out)), strict=True):
            torch.addmm(beta, one * one, gamma.t(), out=its_norm)
            torch.mul(its_norm.sqrt() if inverse else its_norm.rsqrt(), one, out=to)
        ctx.inverse = inverse
        ctx.save_for_backward(x, norm, gamma)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        # with n = beta + gamma·x² and y = x·n^p, p = ±½: d = p·grad·x·n^(p−1) is the gradient of n, and that of x is
        # grad·n^p + 2x·(gammaᵀ·d)
        x, norm, gamma = ctx.saved_tensors
        to_x, to_gamma, to_beta = torch.empty_like(x), torch.zeros_like(gamma), torch.zeros_like(gamma[0])
        grad = grad.contiguous(memory_format=torch.channels_last)
        for one, its_norm, its_grad, to in zip(*map(_rows, (x, norm, grad, to_x)), strict=True):
            if ctx.inverse:
                factor = its_norm.sqrt()
                d = (its_grad * one).div_(factor).mul_(0.5)
            else:
                factor = its_norm.rsqrt()
                d = (its_grad * one).mul_(factor).div_(its_norm).mul_(-0.5)
            to_gamma.addmm_(d.t(), one * one)
            to_beta.add_(d.sum(dim=0))
            torch.mul(its_grad, factor, out=to)
            to.addcmul_(d @ gamma, one, value=2)
        return to_x, to_gamma, to_beta, None


def _rows(x: Tensor) -> tuple[Tensor, ...]:
    """Blocks of places × channels of a channels-last tensor: larger than without gradient, since here Python's part of a
    block is several times as long."""
    return x.permute(0, 2, 3, 1).flatten(0, 2).split(4 * GDN_BLOCK)


class GDN(CompressAIGDN):
    """Generalised divisive normalisation (Ballé et al. 2016, "Density modeling of images using a generalized normalization
    transformation"): x / sqrt(beta + gamma·x²), or x · sqrt(…) with `inverse`. With less memory traffic than
    CompressAI's layer, and the same bits, but where a gradient of a channels-last tensor is wanted on several threads."""

    def forward(self, x: Tensor) -> Tensor:
        """x: N×C×H×W, and so is the result."""
        if torch.is_autocast_enabled(x.device.type):
            return super().forward(x)
        channels = x.shape[1]
        if torch.is_grad_enabled():
            if not (x.is_cpu and x.dtype == torch.float32 and is_channels_last(x)):
                return super().forward(x)
            gamma, beta = self.gamma_reparam(self.gamma), self.beta_reparam(self.beta)
            return cast(Tensor, _Normalised.apply(x, gamma, beta, self.inverse))
        gamma, beta = self.gamma_reparam(self.gamma), self.beta_reparam(self.beta)
        if x.is_cpu and len(x) == 1 and torch.get_num_threads() == 1:
            # a matrix product is what torch's convolution is here; in blocks, the steps around it stay in the cache
            last = x.is_contiguous(memory_format=torch.channels_last)
            layout = torch.preserve_format if last else torch.contiguous_format
            out = torch.empty_like(x, memory_format=layout)
            flat, into = (t[0].permute(1, 2, 0).reshape(-1, channels) if last else t[0].flatten(1) for t in (x, out))
            along = 0 if last else 1
            for block, to in zip(flat.split(GDN_BLOCK, along), into.split(GDN_BLOCK, along), strict=True):
                norm = (
                    torch.addmm(beta, block * block, gamma.t())
                    if last
                    else torch.addmm(beta[:, None], gamma, block * block)
                )
                torch.mul(norm.sqrt_() if self.inverse else norm.rsqrt_(), block, out=to)
            return out
        norm = F.conv2d(x * x, gamma.reshape(channels, channels, 1, 1), beta)
        return (norm.sqrt_() if self.inverse else norm.rsqrt_()).mul_(x)


def is_channels_last(x: Tensor) -> bool:
    """Whether x is, and not at the same time as torch has it by default."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


class Deconvolution(nn.ConvTranspose2d):
    """torch's layer, where a gradient of a channels-last tensor on the CPU is wanted in the form of `Subpixel`."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """x: N×C×h×w to N×C'×(h·stride)×(w·stride)."""
        faster = torch.is_grad_enabled() and output_size is None and x.is_cpu and is_channels_last(x)
        if not (faster and Subpixel.fits(self)):
            return super().forward(x, output_size)
        weight, bias, reach = subpixel_weights(self)
        return F.pixel_shuffle(F.conv2d(x, weight, bias, padding=reach), int(self.stride[0]))


def subpixel_weights(layer: nn.ConvTranspose2d) -> tuple[Tensor, Tensor | None, int]:
    """Weight and bias of the convolution before the shuffle, and its padding."""
    k, s, p = (int(v[0]) for v in (layer.kernel_size, layer.stride, layer.padding))
    reach = max((s - 1 + p) // s, (k - 1 - p) // s)
    # place a − s·d + p of the kernel, for phase a and tap d: with `before` zeros ahead, place s·t + a with t = reach − d
    before = s * reach - p
    after = s * (2 * reach + 1) - before - k
    padded = F.pad(layer.weight, (before, after, before, after))  # ci × co × (taps·s) × (taps·s)
    parts = padded.unflatten(3, (-1, s)).unflatten(2, (-1, s)).flip(2, 4)  # ci × co × taps × s × taps × s
    weight = parts.permute(1, 3, 5, 0, 2, 4).flatten(0, 2).contiguous(memory_format=torch.channels_last)
    bias = None if layer.bias is None else layer.bias.repeat_interleave(s * s)
    return weight, bias, reach


class Subpixel(nn.Module):
    """A `deconv` to few channels as a convolution to stride² times as many and a shuffle: about twice as fast on CPUs.

    out[s·i + a] = Σ_d x[i + d]·w[a − s·d + p] for each of the s phases a along an axis (Shi et al. 2016, "Is the
    deconvolution layer the same as a convolutional layer?"). Sums are taken in another order than the layer's.
    """

    @staticmethod
    def fits(layer: nn.Module) -> bool:
        """Whether this is a layer that the form is right for: as `deconv` makes them."""
        if not isinstance(layer, nn.ConvTranspose2d):
            return False
        k, s, p = (int(v[0]) for v in (layer.kernel_size, layer.stride, layer.padding))
        plain = layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
        square = all(len(set(v)) == 1 for v in (layer.kernel_size, layer.stride, layer.padding))
        return plain and square and layer.output_padding == (s + 2 * p - k,) * 2

    def __init__(self, layer: nn.ConvTranspose2d):
        """The layer's weights as they are at this moment; `fits` holds for it."""
        super().__init__()
        self.stride = int(layer.stride[0])
        with torch.no_grad():
            self.weight, self.bias, self.reach = subpixel_weights(layer)

    def forward(self, x: Tensor) -> Tensor:
        """x: N×C×h×w to N×C'×(h·stride)×(w·stride)."""
        return F.pixel_shuffle(F.conv2d(x, self.weight, self.bias, padding=self.reach), self.stride)
