"""Ballé, Laparra, Simoncelli 2017, "End-to-end optimized image compression" (ICLR), with variable rate and saliency.

              ┌──────────── g_a ────────────┐                                  ┌──────────── g_s ────────────┐
    x ──► conv 9×9 ↓4 ─ GDN ─ conv 5×5 ↓2 ─ GDN ─ conv 5×5 ↓2 ──► y ──► y_hat ──► deconv 5×5 ↑2 ─ IGDN ─ deconv 5×5 ↑2
    N×3×H×W        N              N              M      N×M×H/16×W/16   │              N              N   ─ IGDN
                                                                        │                 ─ deconv 9×9 ↑4 ──► x_hat
                     y ── gain ── round ── range coder with one density a channel ◄────┘                   N×3×H×W

The paper's transforms (N = M there), CompressAI's layers and entropy bottleneck. The last analysis layer has no bias:
the density's median stands for it. Training replaces rounding by uniform noise and minimises bits + lambda·255²·MSE.

What is added: gain vectors over the levels of `config.lmbda` (gain.py), the density evaluated on the bins that a gain
cuts (entropy.py), and the mechanisms of conditioning.py, in the encoder only: the decoder knows the file and nothing
else. With `gain` the file holds a level map; with the others every file decodes with the model alone.
"""

from torch import nn

from models.card import Card, Option, Rate
from models.codecs.factorized import FactorizedCodec
from models.codecs.layers import GDN, Deconvolution

CARD = Card(
    name="bls2017",
    paper="Ballé, Laparra, Simoncelli 2017, End-to-end optimized image compression (ICLR)",
    codec="Bls2017",
    rate=Rate(name="lmbda", unit="Lagrange multiplier of 255² · MSE"),
    mechanisms=("none", "loss", "concat", "sft", "gain"),
    options={"dilation": Option(default=1, least=1), "cell": Option(default=1, least=1)},
)


class Bls2017(FactorizedCodec):
    """Options: `cell` (conditioned.py). `dilation` of the four 5×5 layers (default 1): at 2 a latent sees 105 pixels a
    side instead of 57, with as many weights. In g_s a dilation of 2 at stride 2 reaches every second position only; the
    others hold the bias: the checkerboard of Odena 2016, "Deconvolution and checkerboard artifacts", at its strongest
    (results/checkerboard.py measures it).
    """

    stages = (1, 3, 4)

    def layers(self, planes: int) -> tuple[nn.Sequential, nn.Sequential]:
        n, m = self.config.n, self.config.m
        d = int(dict(self.config.options).get("dilation", 1))
        g_a = nn.Sequential(
            nn.Conv2d(planes, n, 9, stride=4, padding=4),
            GDN(n),
            nn.Conv2d(n, n, 5, stride=2, padding=2 * d, dilation=d),
            GDN(n),
            nn.Conv2d(n, m, 5, stride=2, padding=2 * d, dilation=d, bias=False),
        )
        g_s = nn.Sequential(
            nn.ConvTranspose2d(m, n, 5, stride=2, padding=2 * d, output_padding=1, dilation=d),
            GDN(n, inverse=True),
            nn.ConvTranspose2d(n, n, 5, stride=2, padding=2 * d, output_padding=1, dilation=d),
            GDN(n, inverse=True),
            Deconvolution(n, 3, 9, stride=4, padding=4, output_padding=3),
        )
        return g_a, g_s
