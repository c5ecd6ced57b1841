"""The codec protocol: image ⇄ bytes, the training forward, conditioning. One home for value ranges and geometry.

    picture (uint8, H×W×3) ── x in [0, 1] ── pad ── g_a ── y ── quantise ── strings ── container (.fov)
    saliency_map (uint8, H×W) ── s in [0, 1] ──┘ (encoder only, never sent)
    .fov ── strings ── y_hat ── g_s ── x_hat ── crop, clamp, round ── picture (uint8, H×W×3)

A codec is variable-rate over *levels*: level k (a float, 0 … L−1) stands for a lambda between `config.lmbda[0]` and
`config.lmbda[-1]`, log-interpolated; gain vectors scale the latents by level (Cui et al. 2021, "Asymmetric gained deep
image compression", eq. 3). A codec with a single lambda has one level.
"""

import dataclasses
import json
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.errors import FoveaError

Picture = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class CodecConfig:
    """What rebuilds a codec before its weights are loaded; kept as JSON beside them.

    lmbda: the levels' Lagrange multipliers, rising. Distortion is measured on 0..255 (lmbda · 255² · MSE of [0, 1]).
    """

    codec: str
    n: int
    m: int
    mechanism: str = "none"
    lmbda: tuple[float, ...] = (0.013,)
    gamma: float = 1.0
    span: float = 0.0
    options: tuple[tuple[str, Any], ...] = ()

    def to_json(self) -> str:
        """JSON with sorted keys."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises FoveaError for text that is not a codec's configuration."""
        try:
            raw = json.loads(text)
            raw["lmbda"] = tuple(raw["lmbda"])
            raw["options"] = tuple((str(k), v) for k, v in raw.get("options", ()))
            return cls(**raw)
        except (TypeError, KeyError, ValueError) as error:
            raise FoveaError(f"not a codec configuration: {error}") from error


class Output(NamedTuple):
    """What the training forward gives.

    x_hat: N×3×H×W, unclamped. likelihoods: name → tensor; bits are −log2 of their product. side_bits: N, bits that no
    likelihood covers (the level map of `gain`), without gradient. lmbda: N×1×1×1 or N×1×H×W, the multiplier in force at
    each place.
    """

    x_hat: Tensor
    likelihoods: dict[str, Tensor]
    side_bits: Tensor
    lmbda: Tensor


class Encoded(NamedTuple):
    """A finished file and what the encoder knows about it.

    data: the whole .fov file. reconstruction: uint8 H×W×3, what any decoder of this build will show. bits_estimate: bits
    by the entropy model's likelihoods (container and checksums not included).
    """

    data: bytes
    reconstruction: Picture
    bits_estimate: float


class Codec(nn.Module, ABC):
    """Base of all codecs. A codec's file is `models/codecs/<paper>.py`."""

    #: pictures are padded to a multiple of this many pixels
    stride: int = 16

    def __init__(self, config: CodecConfig):
        super().__init__()
        self.config = config

    @abstractmethod
    def forward(
        self, x: Tensor, *, saliency_map: Tensor | None = None, level: Tensor | None = None
    ) -> Output:
        """Training forward with additive uniform noise (train mode) or rounding (eval mode).

        x: N×3×H×W in [0, 1], H and W multiples of `stride`. saliency_map: N×1×H×W in [0, 1], required by the
        mechanisms concat, sft and gain. level: N floats in [0, L−1]; default: the middle level.
        """

    @abstractmethod
    def encode(
        self, picture: Picture, *, saliency_map: Picture | None = None, lmbda: float | None = None
    ) -> Encoded:
        """Any picture size ≥ 1×1. lmbda: the rate, within the codec's range; default: the middle of it."""

    @abstractmethod
    def decode(self, data: bytes) -> Picture:
        """Raises BitstreamError for a file cut short, changed, or made by another model."""

    @abstractmethod
    def aux_loss(self) -> Tensor:
        """The entropy models' quantile loss (Ballé 2018), for the aux optimiser."""

    @abstractmethod
    def update(self) -> None:
        """Solve the quantiles and build the coding tables; needed once after training, before encode and decode."""

    @abstractmethod
    def identity(self) -> bytes:
        """16 bytes that name weights and configuration: SHA-256 over both, truncated. Stands in each file."""

    def level_of(self, lmbda: float) -> float:
        """The level that stands for a lambda, log-interpolated; raises FoveaError outside the codec's range."""
        grid = [math.log(v) for v in self.config.lmbda]
        want = math.log(lmbda)
        if want < grid[0] - 1e-6 or want > grid[-1] + 1e-6:
            low, high = self.config.lmbda[0], self.config.lmbda[-1]
            raise FoveaError(f"lmbda {lmbda:g} is outside this model's range {low:g} … {high:g}")
        return float(np.interp(want, grid, np.arange(len(grid), dtype=float)))

    def lmbda_at(self, level: Tensor) -> Tensor:
        """The multiplier at (fractional) levels, same shape."""
        grid = torch.tensor(
            [math.log(v) for v in self.config.lmbda], dtype=torch.float32, device=level.device
        )
        low = level.floor().clamp(0, max(len(grid) - 2, 0)).long()
        high = (low + 1).clamp(max=len(grid) - 1)
        return torch.exp(grid[low] + (level - low) * (grid[high] - grid[low]))

    def aux_parameters(self) -> list[nn.Parameter]:
        """The quantiles."""
        return [p for name, p in self.named_parameters() if name.endswith(".quantiles")]

    def main_parameters(self) -> list[nn.Parameter]:
        """Everything but the quantiles; with aux_parameters a partition of all parameters."""
        return [p for name, p in self.named_parameters() if not name.endswith(".quantiles")]
