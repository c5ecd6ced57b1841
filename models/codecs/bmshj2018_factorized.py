"""Ballé, Minnen, Singh, Hwang, Johnston 2018, "Variational image compression with a scale hyperprior" (ICLR), with one
density a channel: the paper's four-layer transforms (conditioned.py) without its hyperprior. Layers, widths and state-dict
names are those of CompressAI's FactorizedPrior.
"""

from models.card import Card, Option, Rate
from models.codecs.factorized import FactorizedCodec

CARD = Card(
    name="bmshj2018_factorized",
    paper="Ballé, Minnen, Singh, Hwang, Johnston 2018, Variational image compression with a scale hyperprior (ICLR)",
    codec="Bmshj2018Factorized",
    rate=Rate(name="lmbda", unit="Lagrange multiplier of 255² · MSE"),
    mechanisms=("none", "loss", "concat", "sft", "gain"),
    options={"cell": Option(default=1, least=1)},
)


class Bmshj2018Factorized(FactorizedCodec):
    """The four-layer transforms with one density a channel."""

    compressai_bytes = True
