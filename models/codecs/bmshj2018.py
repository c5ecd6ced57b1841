"""Ballé, Minnen, Singh, Hwang, Johnston 2018, "Variational image compression with a scale hyperprior" (ICLR).

Two codecs with the paper's four-layer transforms (conditioned.py): one density a channel (`bmshj2018_factorized`), and
Gaussians with zero mean whose scales a hyperprior tells (`bmshj2018_hyperprior`, hyperprior.py). Layers, widths and
state-dict names are those of CompressAI's FactorizedPrior and ScaleHyperprior.
"""

import torch
from torch import Tensor, nn

from models.codecs.base import CodecConfig
from models.codecs.factorized import FactorizedCodec
from models.codecs.hyperprior import HyperpriorCodec
from models.codecs.layers import conv, deconv


class Bmshj2018Factorized(FactorizedCodec):
    """The four-layer transforms with one density a channel."""

    compressai_bytes = True


class Bmshj2018Hyperprior(HyperpriorCodec):
    """h_a sees |y|; h_s ends in a ReLU and gives scales."""

    def __init__(self, config: CodecConfig):
        super().__init__(config)
        n, m = config.n, config.m
        self.h_a = nn.Sequential(
            conv(m, n, 3, 1), nn.ReLU(inplace=True), conv(n, n), nn.ReLU(inplace=True), conv(n, n)
        )
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
        """As `HyperpriorCodec.hyper_input` says."""
        return torch.abs(y)

    @staticmethod
    def split(parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        """As `HyperpriorCodec.split` says."""
        return parameters, None
