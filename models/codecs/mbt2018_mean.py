"""Minnen, Ballé, Toderici 2018, "Joint autoregressive and hierarchical priors for learned image compression" (NeurIPS).

`mbt2018_mean` is the paper's model without its autoregressive context: the hyperprior tells scales and means. Layers,
widths and state-dict names are those of CompressAI's MeanScaleHyperprior.
"""

from torch import nn

from models.card import Card, Option, Rate
from models.codecs.base import CodecConfig
from models.codecs.hyperprior import HyperpriorCodec
from models.codecs.layers import conv, deconv

CARD = Card(
    name="mbt2018_mean",
    paper="Minnen, Ballé, Toderici 2018, Joint autoregressive and hierarchical priors for learned image compression (NeurIPS)",
    codec="Mbt2018Mean",
    rate=Rate(name="lmbda", unit="Lagrange multiplier of 255² · MSE"),
    mechanisms=("none", "loss", "concat", "sft", "gain", "hyper"),
    options={"cell": Option(default=1, least=1), "arithmetic": Option(default="integer", choices=("integer", "float"))},
)


class Mbt2018Mean(HyperpriorCodec):
    """h_a sees y with its signs; h_s gives M scales, then M means."""

    def __init__(self, config: CodecConfig):
        super().__init__(config)
        n, m = config.n, config.m
        self.h_a = nn.Sequential(
            conv(m, n, 3, 1), nn.LeakyReLU(inplace=True), conv(n, n), nn.LeakyReLU(inplace=True), conv(n, n)
        )
        self.h_s = nn.Sequential(
            deconv(n, m),
            nn.LeakyReLU(inplace=True),
            deconv(m, m * 3 // 2),
            nn.LeakyReLU(inplace=True),
            conv(m * 3 // 2, m * 2, 3, 1),
        )
