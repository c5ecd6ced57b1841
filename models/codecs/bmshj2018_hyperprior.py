"""Ballé, Minnen, Singh, Hwang, Johnston 2018, "Variational image compression with a scale hyperprior" (ICLR).

The paper's four-layer transforms (conditioned.py) and Gaussians with zero mean whose scales a hyperprior tells
(hyperprior.py). Layers, widths and state-dict names are those of CompressAI's ScaleHyperprior.
"""

import torch
from torch import Tensor, nn

from models.card import Card, Option, Rate
from models.codecs.base import CodecConfig
from models.codecs.hyperprior import HyperpriorCodec
from models.codecs.layers import conv, deconv

CARD = Card(
    name="bmshj2018_hyperprior",
    paper="Ballé, Minnen, Singh, Hwang, Johnston 2018, Variational image compression with a scale hyperprior (ICLR)",
    codec="Bmshj2018Hyperprior",
    rate=Rate(name="lmbda", unit="Lagrange multiplier of 255² · MSE"),
    mechanisms=("none", "loss", "concat", "sft", "gain", "hyper"),
    options={"cell": Option(default=1, least=1), "arithmetic": Option(default="integer", choices=("integer", "float"))},
)


class Bmshj2018Hyperprior(HyperpriorCodec):
    """h_a sees |y|; h_s ends in a ReLU and gives scales."""

    def __init__(self, config: CodecConfig):
        super().__init__(config)
        n, m = config.n, config.m
        self.h_a = nn.Sequential(conv(m, n, 3, 1), nn.ReLU(inplace=True), conv(n, n), nn.ReLU(inplace=True), conv(n, n))
        self.h_s = nn.Sequential(
            deconv(n, n),
            nn.ReLU(inplace=True),
            deconv(n, n),
            nn.ReLU(inplace=True),
            conv(n, m, 3, 1),
            nn.ReLU(inplace=True),
        )

    @staticmethod
    def hyper_input(y: Tensor) -> Tensor:
        return torch.abs(y)

    @staticmethod
    def split(parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        return parameters, None
