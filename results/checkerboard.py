"""How strongly a trained decoder draws the pattern of its own strides.

    python results/checkerboard.py FOLDER/codec ...      (folders of trained codecs, `fovea status --keys` names them)

A transposed convolution whose kernel does not cover its outputs evenly draws a grid, whatever the picture (Odena,
Dumoulin, Olah 2016, "Deconvolution and checkerboard artifacts", Distill). Latents that are the same at every place show it
alone: a decoder that treats all places alike answers with one colour, and whatever else it shows away from the border
repeats with the stride.
"""

from pathlib import Path

import torch

from models.codecs.base import Codec
from models.codecs.catalogue import load_codec
from pipelines.terminal import script

GREYS = (0.1, 0.3, 0.5, 0.7, 0.9)
SIDE = 256  # of the flat pictures, in pixels: a multiple of every codec's stride
PLACES = 16  # latents along a side of what is synthesised


@torch.no_grad()
def checkerboard(codec: Codec) -> float:
    """RMS deviation from each colour's mean, on 0..255, in the middle half of what equal latents give: the latents that the
    codec gives to flat greys at its highest rate. codec: in evaluation mode, after `update`."""
    x = torch.tensor(GREYS, device=codec.device)[:, None, None, None].expand(-1, 3, SIDE, SIDE).contiguous()
    level = x.new_full((len(GREYS),), float(codec.top_level))
    y_hat = codec.latents(x, saliency_map=torch.ones_like(x[:, :1]), level=level).y_hat
    latent = y_hat[:, :, y_hat.shape[2] // 2, y_hat.shape[3] // 2, None, None]
    shown = codec.synthesise(latent.expand(-1, -1, PLACES, PLACES).contiguous())
    height, width = shown.shape[2:]
    middle = shown[:, :, height // 4 : -(height // 4), width // 4 : -(width // 4)].double()
    return 255 * float((middle - middle.mean(dim=(2, 3), keepdim=True)).square().mean().sqrt())


def main(folder: str, *more: str) -> None:
    """Print a line for each codec's folder."""
    for one in (folder, *more):
        print(f"{checkerboard(load_codec(Path(one))):6.2f} of 255  {one}")


if __name__ == "__main__":
    script(main, __doc__)
