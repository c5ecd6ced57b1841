"""Layers that codecs are built from. Names and forward results are CompressAI's; beside them, forms of the same layers that
take less time where no gradient is wanted."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.codecs.compressai_import import GDN as CompressAIGDN


def conv(channels_in: int, channels_out: int, kernel: int = 5, stride: int = 2) -> nn.Conv2d:
    """Zero borders of half a kernel."""
    return nn.Conv2d(channels_in, channels_out, kernel, stride=stride, padding=kernel // 2)


def deconv(channels_in: int, channels_out: int, kernel: int = 5, stride: int = 2) -> nn.ConvTranspose2d:
    """Exactly `stride` times the size."""
    return nn.ConvTranspose2d(
        channels_in,
        channels_out,
        kernel,
        stride=stride,
        padding=kernel // 2,
        output_padding=stride - 1,
    )


#: pixels of all channels that GDN takes at once: half a MB at N = 128
GDN_BLOCK = 1024


class GDN(CompressAIGDN):
    """Generalised divisive normalisation (Ballé et al. 2016, "Density modeling of images using a generalized normalization
    transformation"): x / sqrt(beta + gamma·x²), or x · sqrt(…) with `inverse`. Without gradient the same bits with half
    the memory traffic."""

    def forward(self, x: Tensor) -> Tensor:
        """x: N×C×H×W, and so is the result."""
        if torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type):
            return super().forward(x)
        channels = x.shape[1]
        gamma, beta = self.gamma_reparam(self.gamma), self.beta_reparam(self.beta)
        if x.is_cpu and len(x) == 1 and torch.get_num_threads() == 1:
            # a matrix product is what torch's convolution is here; in blocks, the steps around it stay in the cache
            last = x.is_contiguous(memory_format=torch.channels_last)
            layout = torch.preserve_format if last else torch.contiguous_format
            out = torch.empty_like(x, memory_format=layout)
            flat, into = (
                t[0].permute(1, 2, 0).reshape(-1, channels) if last else t[0].flatten(1) for t in (x, out)
            )
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
        k, s, p = (int(v[0]) for v in (layer.kernel_size, layer.stride, layer.padding))
        self.stride = s
        self.reach = max((s - 1 + p) // s, (k - 1 - p) // s)
        weight = layer.weight.detach()
        taps = torch.arange(-self.reach, self.reach + 1)
        # for each phase and tap the place in the kernel, k where the kernel has none
        place = torch.arange(s)[:, None] - s * taps + p
        place = torch.where((place >= 0) & (place < k), place, k).to(weight.device)
        padded = F.pad(weight, (0, 1, 0, 1))  # ci × co × k+1 × k+1
        spread = padded[
            :, :, place[:, None, :, None], place[None, :, None, :]
        ]  # ci × co × s × s × taps × taps
        self.weight = (
            spread.permute(1, 2, 3, 0, 4, 5).flatten(0, 2).contiguous(memory_format=torch.channels_last)
        )
        self.bias = None if layer.bias is None else layer.bias.detach().repeat_interleave(s * s)

    def forward(self, x: Tensor) -> Tensor:
        """x: N×C×h×w to N×C'×(h·stride)×(w·stride)."""
        return F.pixel_shuffle(F.conv2d(x, self.weight, self.bias, padding=self.reach), self.stride)
