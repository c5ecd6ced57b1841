"""How strongly a decoder draws the pattern of its own strides.

A transposed convolution whose kernel does not cover its outputs evenly draws a grid, whatever the picture (Odena,
Dumoulin, Olah 2016, "Deconvolution and checkerboard artifacts", Distill). Latents that are the same at every place show it
alone: a decoder that treats all places alike answers with one colour, and whatever else it shows away from the border
repeats with the stride, so all of its energy lies at the stride's frequencies and none at their neighbours.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from models.codecs.base import Codec

GREYS = (0.1, 0.3, 0.5, 0.7, 0.9)
SIDE = 256  # of the flat pictures, in pixels: a multiple of every codec's stride
PLACES = 16  # latents along a side of what is synthesised


@torch.no_grad()
def ripple(synthesise: Callable[[Tensor], Tensor], latent: Tensor, places: int = PLACES) -> float:
    """RMS deviation from each colour's mean, in the middle half of the picture that equal latents give.

    latent: N×M, one vector a picture. synthesise: N×M×h×w to N×C×H×W; the result is in its units. 0 for a decoder that
    treats every place alike.
    """
    x = synthesise(latent[:, :, None, None].expand(-1, -1, places, places).contiguous())
    height, width = x.shape[2:]
    middle = x[:, :, height // 4 : -(height // 4), width // 4 : -(width // 4)].double()
    return float((middle - middle.mean(dim=(2, 3), keepdim=True)).square().mean().sqrt())


@torch.no_grad()
def checkerboard(codec: Codec) -> float:
    """The ripple on flat grey pictures, on 0..255: of the latents that the codec itself gives them, at its highest rate.

    codec: in evaluation mode, after `update`.
    """
    x = torch.tensor(GREYS, device=codec.device)[:, None, None, None].expand(-1, 3, SIDE, SIDE).contiguous()
    flat = torch.ones_like(x[:, :1])
    level = x.new_full((len(GREYS),), float(codec.top_level))
    y_hat = codec.latents(x, saliency_map=flat, level=level).y_hat
    return 255 * ripple(codec.synthesise, y_hat[:, :, y_hat.shape[2] // 2, y_hat.shape[3] // 2])
