"""The hyper synthesis transform, and a context model, in integers: the same result on every machine, in whatever order
sums are taken.

What an entropy decoder derives its tables from must be what the encoder had, to the last bit, or everything after the
first difference is garbage (Ballé, Johnston, Minnen 2019, "Integer networks for data compression with latent-variable
models"). Activations are multiples of 2^-FRACTION within ±LIMIT, weights multiples of 2^-shift with the largest shift
up to WEIGHT_SHIFT for which no sum of products reaches 2^52. Every partial sum is then an integer that a float64 holds
exactly, so float64 convolutions compute integer arithmetic, with or without fused multiply-add, blocked in any way. It
runs on the CPU, where convolutions of float64 are matrix products; no FFT or Winograd transform takes part.

Weights are rounded from the float32 ones, which is exact arithmetic too: nothing needs to be stored.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.errors import FoveaError

FRACTION = 12
"""Bits behind the point of every activation, scale and mean."""

ONE = 1 << FRACTION
LIMIT = 1 << 24
"""Largest magnitude of an activation as an integer: 4096."""

WEIGHT_SHIFT = 16

_LEAK, _LEAK_SHIFT = 41943, 22  # 0.01 as a multiple of 2^-22
_EXACT = 2.0**52


class _Layer(NamedTuple):
    layer: nn.Conv2d | nn.ConvTranspose2d
    weight: Tensor
    bias: Tensor
    shift: int


class IntegerSynthesis:
    """A sequence of Conv2d, ConvTranspose2d, ReLU and LeakyReLU(0.01), with the weights that it has at this moment."""

    def __init__(self, transform: nn.Sequential):
        """Raises FoveaError for weights that are too large or not finite."""
        self.layers: list[_Layer | nn.Module] = []
        for layer in transform:
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                self.layers.append(_rounded(layer))
            elif isinstance(layer, nn.ReLU) or (isinstance(layer, nn.LeakyReLU) and layer.negative_slope == 0.01):
                self.layers.append(layer)
            else:
                raise TypeError(f"no integer form of {layer}")

    @torch.no_grad()
    def __call__(self, values: Tensor) -> Tensor:
        """values: float64 N×C×h×w on the CPU, integers within ±LIMIT; so is the result."""
        for layer in self.layers:
            if isinstance(layer, _Layer):
                sums = _convolve(layer, values)
                values = torch.round(sums * 2.0**-layer.shift).clamp(-LIMIT, LIMIT)
            elif isinstance(layer, nn.ReLU):
                values = values.clamp(min=0)
            else:
                values = torch.where(values < 0, torch.round(values * (_LEAK * 2.0**-_LEAK_SHIFT)), values)
        return values


def _rounded(layer: nn.Conv2d | nn.ConvTranspose2d) -> _Layer:
    weight = layer.weight.detach().cpu().double()
    bias = torch.zeros(layer.out_channels).double() if layer.bias is None else layer.bias.detach().cpu().double()
    outer = 0 if isinstance(layer, nn.Conv2d) else 1
    for shift in range(WEIGHT_SHIFT, -1, -1):
        integers, offset = torch.round(weight * 2.0**shift), torch.round(bias * 2.0 ** (shift + FRACTION))
        # the sum over an output channel's weights; a transposed convolution uses a part of them at each place
        reach = integers.abs().sum(dim=[d for d in range(4) if d != outer]) * LIMIT + offset.abs()
        if bool((reach < _EXACT).all()):
            return _Layer(layer, integers, offset, shift)
    raise FoveaError("a network that coding asks has weights that are too large: the training has diverged")


def _convolve(step: _Layer, values: Tensor) -> Tensor:
    layer, weight, bias, _ = step
    if isinstance(layer, nn.ConvTranspose2d):
        return F.conv_transpose2d(
            values,
            weight,
            bias,
            stride=layer.stride,  # type: ignore[arg-type]
            padding=layer.padding,  # type: ignore[arg-type]
            output_padding=layer.output_padding,  # type: ignore[arg-type]
        )
    return F.conv2d(values, weight, bias, stride=layer.stride, padding=layer.padding)  # type: ignore[arg-type]
