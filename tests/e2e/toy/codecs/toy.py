"""A codec of one's own: two convolutions each way, one density a channel. Everything else comes from FactorizedCodec."""

from torch import nn

from models.card import Card, Option, Rate
from models.codecs.factorized import FactorizedCodec

CARD = Card(
    name="toy",
    paper="two convolutions each way",
    codec="Toy",
    rate=Rate(name="lmbda", unit="Lagrange multiplier of 255² · MSE"),
    mechanisms=("none", "loss", "gain"),
    options={"kernel": Option(default=5, choices=(5, 7))},
)


class Toy(FactorizedCodec):
    """g_a and g_s with a ReLU between their two layers, each of stride 4."""

    stages = (1, 2)

    def layers(self, planes: int) -> tuple[nn.Sequential, nn.Sequential]:
        """g_a from this many input planes to y, N×M×H/16×W/16, and g_s back to N×3×H×W."""
        n, m, k = self.config.n, self.config.m, int(dict(self.config.options).get("kernel", 5))
        same = {"stride": 4, "padding": k // 2}
        back = {**same, "output_padding": 3}
        g_a = nn.Sequential(nn.Conv2d(planes, n, k, **same), nn.ReLU(), nn.Conv2d(n, m, k, **same))
        g_s = nn.Sequential(nn.ConvTranspose2d(m, n, k, **back), nn.ReLU(), nn.ConvTranspose2d(n, 3, k, **back))
        return g_a, g_s
