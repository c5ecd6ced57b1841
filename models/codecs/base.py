"""The codec protocol: image ⇄ bytes, the training forward, conditioning. One home for value ranges and geometry.

    picture (uint8, H×W×3) ── x in [0, 1] ── pad ── g_a ── y ── quantise ── strings ── container (.fov)
    saliency_map (uint8, H×W) ── s in [0, 1] ──┘ (encoder only, never sent)
    .fov ── strings ── y_hat ── g_s ── x_hat ── crop, clamp, round ── picture (uint8, H×W×3)

A codec whose rate is lmbda is variable-rate over *levels*: level k (a float, 0 … L−1) stands for a lambda between
`config.lmbda[0]` and `config.lmbda[-1]`, log-interpolated; gain vectors scale the latents by level (Cui et al. 2021,
"Asymmetric gained deep image compression", eq. 3). A codec with a single lambda has one level. Files know levels in
steps of 1/LEVEL_STEPS.
"""

import functools
import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.codecs import bitstream
from models.codecs.config import CodecConfig as CodecConfig
from models.errors import FoveaError
from models.mechanisms import NEEDS_MAP

Picture = NDArray[np.uint8]
Map = TypeVar("Map")

LEVEL_STEPS = 8
"""Positions between two neighbouring levels that a file can name; the coding tables exist for each of them."""


def check_picture(picture: Picture) -> Picture:
    """Raises FoveaError for an array that is no picture."""
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
        raise FoveaError(f"a picture is uint8, H×W×3 with H, W ≥ 1; got {picture.dtype} of shape {picture.shape}")
    return picture


def picture_to_tensor(picture: Picture, stride: int) -> Tensor:
    """uint8 H×W×3 to float32 1×3×H'×W' in [0, 1], the last row and column repeated up to multiples of `stride`."""
    padded = _pad(check_picture(picture), stride)
    return torch.from_numpy(np.ascontiguousarray(padded.transpose(2, 0, 1)))[None].float() / 255.0


def map_to_tensor(saliency_map: Picture, shape: tuple[int, int], stride: int) -> Tensor:
    """uint8 H×W of a picture of this shape (H, W) to float32 1×1×H'×W' in [0, 1], padded as the picture is."""
    if saliency_map.dtype != np.uint8 or saliency_map.shape != shape:
        raise FoveaError(
            f"the saliency map of a {shape[1]}×{shape[0]} picture is uint8 of shape {shape}; "
            f"got {saliency_map.dtype} of shape {saliency_map.shape}"
        )
    return torch.from_numpy(_pad(saliency_map, stride))[None, None].float() / 255.0


def tensor_to_picture(x_hat: Tensor, height: int, width: int) -> Picture:
    """1×3×H'×W' to uint8 H×W×3: crop, clamp to [0, 1], round to the nearest of 256 values."""
    x = x_hat[0, :, :height, :width].clamp(0, 1).mul(255.0).round().to(torch.uint8)
    return x.permute(1, 2, 0).contiguous().cpu().numpy()


def _pad(array: Picture, stride: int) -> Picture:
    widths = [(0, -array.shape[0] % stride), (0, -array.shape[1] % stride)] + [(0, 0)] * (array.ndim - 2)
    return np.ascontiguousarray(np.pad(array, widths, mode="edge"))


def name_of(about: bytes, tensors: Mapping[str, Tensor]) -> bytes:
    """16 bytes that name tensors on the CPU and what they are: SHA-256, truncated."""
    digest = hashlib.sha256(about)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.digest()[:16]


class Addition(NamedTuple):
    """weights: of what was added to a codec. name: 16 bytes that name them and the codec; files made with them hold the
    first 8."""

    name: bytes
    weights: Mapping[str, Tensor]


class Output(NamedTuple):
    """What the training forward gives.

    x_hat: N×3×H×W, unclamped. likelihoods: name → tensor; bits are −log2 of their product. side_bits: N, bits that no
    likelihood covers (the level map of `gain`), without gradient. lmbda: N×1×1×1 or N×1×H×W, the multiplier in force at
    each place. penalty: N, what a mechanism adds to the Lagrangian of each picture, in bits a pixel.
    """

    x_hat: Tensor
    likelihoods: dict[str, Tensor]
    side_bits: Tensor
    lmbda: Tensor
    penalty: Tensor | float = 0.0


class Latents(NamedTuple):
    """symbols: int32 N×M×h×w, what the range coder gets. y_hat: float32 N×M×h×w, what the decoder makes of them."""

    symbols: Tensor
    y_hat: Tensor


class Analysed(NamedTuple):
    """A picture after the analysis transform: files of all its rates begin with this.

    y: 1×M×h×w. saliency_map: 1×1×H'×W' in [0, 1], padded, None where the codec takes none. width, height: of the picture.
    z: the hyperprior's latent where it is not what the encoder makes of y (effort.py). span: by how many rate levels the most
    salient place stands above the least, with mechanism gain; None: as the codec was trained.
    """

    y: Tensor
    saliency_map: Tensor | None
    width: int
    height: int
    z: Tensor | None = None
    span: float | None = None


class Sent(NamedTuple):
    """What a file tells: y_hat, 1×C×h×w, what `synthesise` takes, and the picture's size. cut: whether it is a progressive file
    without much of its end, and shown by the transform that was added for cuts."""

    y_hat: Tensor
    width: int
    height: int
    cut: bool = False


@dataclass(frozen=True, eq=False)
class Encoded:
    """A finished file and what the encoder knows about it.

    data: the whole .fov file. bits_estimate: bits by the entropy model's likelihoods (container and checksums not
    included). sent: what any decoder of this build gets from the file. codec: who made it.
    """

    data: bytes
    bits_estimate: float
    sent: Sent
    codec: "Codec"

    @functools.cached_property
    def reconstruction(self) -> Picture:
        """uint8 H×W×3, what any decoder of this build will show. Computed when it is first asked for, by the codec as it
        is then."""
        return self.codec.show_sent(self.sent)


class Codec(nn.Module, ABC):
    """Base of all codecs; the file of each has its card, too (models/card.py)."""

    #: pictures are padded to a multiple of this many pixels
    stride: int = 16

    #: how the names of the parameters begin that distortion must reach: the analysis transform and what conditions it
    analysis: tuple[str, ...] = ("g_a.", "transforms.")

    #: whether it has progressive files
    cuttable = False

    def __init__(self, config: CodecConfig):
        super().__init__()
        self.config = config
        self._identity: bytes | None = None

    @abstractmethod
    def forward(
        self,
        x: Tensor,
        *,
        saliency_map: Tensor | None = None,
        level: Tensor | None = None,
        centre: Tensor | None = None,
    ) -> Output:
        """Training forward with additive uniform noise (train mode) or rounding (eval mode).

        x: N×3×H×W in [0, 1], H and W multiples of `stride`. saliency_map: N×1×H×W in [0, 1], required by the mechanisms
        in `models.mechanisms.NEEDS_MAP`. level: N floats in [0, L−1]; default: the middle level. centre: N floats, for
        `gain` and `hyper` on crops: `conditioning.centre` of each whole map; default: that of the maps as given.
        """

    @abstractmethod
    def latents(self, x: Tensor, *, saliency_map: Tensor | None = None, level: Tensor | None = None) -> Latents:
        """What `encode` codes for these pictures, arguments as in `forward`; without gradient."""

    @abstractmethod
    def synthesise(self, y_hat: Tensor) -> Tensor:
        """x_hat, N×3×H×W, unclamped: what `decode` shows for these latents; without gradient."""

    def synthesise_cut(self, y_hat: Tensor) -> Tensor:
        """As `synthesise`, for the latents of a file that was cut."""
        return self.synthesise(y_hat)

    def additions(self) -> dict[str, Addition]:
        """What `add` was given, by its kind."""
        return {}

    def add(self, kind: str, weights: Mapping[str, Tensor]) -> None:
        """Weights for the codec as it is that change what some of its files are: "cuts", the synthesis transform for
        pictures of cut files, or "context", the context model for plain files (context.py). Raises FoveaError for a codec
        that takes none of this kind, and where names or shapes do not fit."""
        raise FoveaError(f"a codec {self.config.codec} takes no {kind}")

    def escaped(self, symbols: Tensor, level: Tensor) -> NDArray[np.float64]:
        """The share of each channel's symbols that the coding tables do not hold; 0 without tables. level: N floats."""
        return np.zeros(symbols.shape[1])

    def given(self, saliency_map: Map | None) -> Map:
        """The map. Raises FoveaError without one."""
        if saliency_map is None:
            raise FoveaError(f"a codec with mechanism {self.config.mechanism!r} needs a saliency map")
        return saliency_map

    def padded(self, picture: Picture, saliency_map: Picture | None) -> Analysed:
        """x in place of y, and the map where the mechanism uses one; on the codec's device."""
        height, width = picture.shape[:2]
        bitstream.check_size(width, height)
        x = picture_to_tensor(picture, self.stride).to(self.device)
        if self.config.mechanism not in NEEDS_MAP:
            return Analysed(x, None, width, height)
        s = map_to_tensor(self.given(saliency_map), (height, width), self.stride)
        return Analysed(x, s.to(self.device), width, height)

    @abstractmethod
    def analysed(self, picture: Picture, saliency_map: Picture | None = None) -> Analysed:
        """The part of `encode` that is the same for every rate. A mechanism that uses no map ignores one."""

    @abstractmethod
    def encode_analysed(self, given: Analysed, rate: float | None = None, *, progressive: bool = False) -> Encoded:
        """The rest of `encode`. progressive: a file of which any beginning shows a picture, where the codec is `cuttable`.
        Raises FoveaError for a codec that has none."""

    @abstractmethod
    def entropy_decode(self, data: bytes) -> Sent:
        """The part of `decode` before the synthesis transform. Raises BitstreamError as `decode` does."""

    def encode(self, picture: Picture, *, saliency_map: Picture | None = None, rate: float | None = None) -> Encoded:
        """Any picture size ≥ 1×1. rate: as the codec's card names it, within its range; default: the middle of it."""
        return self.encode_analysed(self.analysed(picture, saliency_map), rate)

    def decode(self, data: bytes) -> Picture:
        """Raises BitstreamError for a file cut short, changed, or made by another model."""
        return self.show_sent(self.entropy_decode(data))

    def decode_checked(self, encoded: Encoded) -> Picture:
        """The picture that the file shows. Raises FoveaError when the decoder gets anything else from it than the
        encoder meant, to the last bit; the picture follows from that by one and the same computation."""
        sent = self.entropy_decode(encoded.data)
        if not (torch.equal(sent.y_hat, encoded.sent.y_hat) and sent[1:] == encoded.sent[1:]):
            raise FoveaError("the decoded file differs from the encoder's reconstruction")
        return self.show_sent(sent)

    @torch.inference_mode()
    def show_sent(self, sent: Sent) -> Picture:
        """uint8 H×W×3: synthesis, crop, clamp, round."""
        synthesise = self.synthesise_cut if sent.cut else self.synthesise
        return tensor_to_picture(synthesise(sent.y_hat), sent.height, sent.width)

    def aux_loss(self) -> Tensor:
        """The entropy models' quantile loss (Ballé 2018), for the aux optimiser; 0 without any."""
        return torch.zeros((), device=self.device)

    def update(self) -> None:
        """Solve the quantiles and build the coding tables, where there are any; needed once after training, before encode
        and decode."""
        self._identity = None

    def identity(self) -> bytes:
        """16 bytes that name weights, tables and configuration: SHA-256 over all, truncated; files hold the first 8.

        Call after `update` (encode and decode do): training changes it.
        """
        return name_of(self.config.to_json().encode(), self.weights())

    def weights(self) -> dict[str, Tensor]:
        """What rebuilds this codec bit for bit, on the CPU: parameters, buffers, and the coding tables if built."""
        return {
            name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items() if tensor.numel()
        }

    def name(self) -> bytes:
        """`identity`, kept until the weights or tables are set anew."""
        if self._identity is None:
            self._identity = self.identity()
        return self._identity

    def copy_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Copy parameters and buffers, all of them, by name. Raises FoveaError when names or shapes do not fit."""
        own = {k: v for k, v in self.state_dict().items() if v.numel()}
        given = {k: v for k, v in weights.items() if v.numel()}
        for what, names in (("lack", own.keys() - given.keys()), ("have unknown", given.keys() - own.keys())):
            if names:
                raise FoveaError(
                    f"weights do not fit this {self.config.codec}: they {what} {', '.join(sorted(names)[:4])}"
                )
        for name, tensor in own.items():
            if given[name].shape != tensor.shape:
                raise FoveaError(
                    f"weights do not fit this {self.config.codec} (n {self.config.n}, m {self.config.m}, "
                    f"{len(self.config.lmbda)} levels): {name} is {tuple(given[name].shape)} in the weights, "
                    f"{tuple(tensor.shape)} in the codec"
                )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(given[name])
        self._identity = None

    @torch.no_grad()
    def round_to_half(self) -> None:
        """Round the main parameters to float16 numbers; before `update`, since tables follow from them."""
        for parameter in self.main_parameters():
            parameter.copy_(parameter.half().float())
        self._identity = None

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take over what `weights()` gave, tables included. Raises FoveaError when names or shapes do not fit."""
        self.copy_weights(weights)

    def start(self, pictures: Sequence[Picture], seed: int = 0) -> None:
        """First weights that suit the training pictures, in place of some of the random ones; most codecs have none."""

    @abstractmethod
    def load_trunk(self, weights: Mapping[str, Tensor]) -> None:
        """Start from a trunk's weights: same names are copied, what conditions the codec starts without effect.

        Raises FoveaError when the trunk has other widths or levels. Coding tables are not taken over.
        """

    @property
    def rates(self) -> tuple[float, ...]:
        """The rates that it was trained for, rising."""
        return self.config.lmbda

    def level_of(self, rate: float) -> float:
        """The level that stands for a lambda, log-interpolated; raises FoveaError outside the codec's range."""
        grid = [math.log(v) for v in self.config.lmbda]
        want = math.log(rate)
        if want < grid[0] - 1e-6 or want > grid[-1] + 1e-6:
            low, high = self.config.lmbda[0], self.config.lmbda[-1]
            raise FoveaError(f"lmbda {rate:g} is outside this model's range {low:g} … {high:g}")
        return float(np.interp(want, grid, np.arange(len(grid), dtype=float)))

    def rate_at(self, level: float) -> float:
        """The rate of a level: the inverse of `level_of`."""
        ends = self.config.lmbda
        return min(max(float(self.lmbda_at(torch.tensor(level))), ends[0]), ends[-1])

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def top_level(self) -> int:
        """L − 1; 0 without levels."""
        return max(len(self.config.lmbda) - 1, 0)

    def lmbda_at(self, level: Tensor) -> Tensor:
        """The multiplier at (fractional) levels, same shape."""
        grid = torch.tensor([math.log(v) for v in self.config.lmbda], dtype=torch.float32, device=level.device)
        low = level.floor().clamp(0, max(len(grid) - 2, 0)).long()
        high = (low + 1).clamp(max=len(grid) - 1)
        return torch.exp(grid[low] + (level - low) * (grid[high] - grid[low]))

    def aux_parameters(self) -> list[nn.Parameter]:
        """The quantiles."""
        return [p for name, p in self.named_parameters() if name.endswith(".quantiles")]

    def fresh_parameters(self) -> list[nn.Parameter]:
        """Those of the main parameters that a trunk lacks: they do nothing when a branch starts."""
        return []

    def main_parameters(self) -> list[nn.Parameter]:
        """Everything but the quantiles; with aux_parameters a partition of all parameters."""
        return [p for name, p in self.named_parameters() if not name.endswith(".quantiles")]
