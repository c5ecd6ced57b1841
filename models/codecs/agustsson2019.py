"""Agustsson et al. 2019, "Generative adversarial networks for extreme learned image compression" (ICCV), section 5.1.

             ┌───────────── encoder ─────────────┐                        ┌───────────── generator ─────────────┐
    x ──► 7×7 ─ [3×3 ↓2]… ─ 3×3, C, linear ──► z ──► nearest of L centres ──► [noise] ─ 3×3 ─ residual blocks ─ [↑2]… ─
    N×3×H×W        n/2^k … n             N×C×H/16×W/16      codes ∈ {−2 … 2}                                  7×7 ──► x_hat

No entropy model: a picture takes at most C·log2(L)/256 bits a pixel, and C is the rate: curves, tables and BD-rates run
over C. Between the centres the gradient is
that of the soft assignment with temperature 1 (Mentzer et al. 2018, "Conditional probability models", equation 4).

Where this differs from the paper, by option: `norm` none leaves out instance norm, which takes the brightness out of a
crop and makes its numbers depend on the crop (the layers then start with He's variances); `patch` 2 or 4 replaces the
one or two stages at full resolution by a strided convolution and a pixel shuffle, for training on a CPU; `hold` takes
the ripple out of what is enlarged. Borders are padded with zeros (reflection has no deterministic gradient on a GPU). The
output is linear, not tanh.

Selective compression (section 3.3, mechanism `select`): a region map says which latent places are kept. It is made from
the saliency map (or a label map given in its place: `fovea compress --map`, with `keep` 0), sent in the file and
counted; elsewhere the codes are zero, not sent, and the generator is told. `concat` gives the map to the encoder only.

`fault` plants what ailed the public TensorFlow port, for the codec doctor to find: `gradient` stops the gradient at the
quantiser, `relu` puts a norm and a ReLU before it. (`scale` and `augment` are faults of the training.)
"""

import hashlib
import itertools
import math
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.card import Card, Option, Rate
from models.codecs import bitstream
from models.codecs.base import Analysed, Codec, CodecConfig, Encoded, Latents, Output, Picture, Sent
from models.codecs.bitstream import BitstreamError, Contents
from models.codecs.codes import MAX_PACKED, bound_bits, decode_codes, decode_region, encode_codes, encode_region
from models.errors import FoveaError

CARD = Card(
    name="agustsson2019",
    paper="Agustsson et al. 2019, Generative adversarial networks for extreme learned image compression (ICCV)",
    codec="Agustsson2019",
    rate=Rate(name="channels", unit="code channels C at stride 16", values=(2, 4, 8, 16)),
    mechanisms=("none", "loss", "concat", "select"),
    objective="adversarial",
    options={
        "centres": Option(default=5, least=3),
        "blocks": Option(default=9, least=0),
        "norm": Option(default="instance", choices=("instance", "none")),
        "patch": Option(default=1, choices=(1, 2, 4)),
        "hold": Option(default=0, choices=(0, 1)),
        "noise": Option(default=0, least=0),
        "keep": Option(default=0.5, least=0, most=1),
        # what ailed the public port, for the codec doctor to find
        "fault": Option(default="", any_of=("augment", "gradient", "relu", "scale")),
        # models/training/adversarial.py: weights of the loss's terms, the share of the steps with `fidelity` alone
        "fidelity": Option(default=10.0, least=0, most=1e6, part="training"),
        "perceptual": Option(default=12.0, least=0, most=1e6, part="training"),
        "adversarial": Option(default=1.0, least=0, most=1e6, part="training"),
        "matching": Option(default=12.0, least=0, most=1e6, part="training"),
        "start": Option(default=0.0, least=0, most=1, part="training"),
        "chroma": Option(default=1.0, above=0, most=1e6, part="training"),
        "features": Option(default="efficientnet", choices=("efficientnet", "efficientnet-deep"), part="training"),
        "jitter": Option(default=1, least=1, part="training"),
        # the discriminators
        "critic_width": Option(default=64, least=1, part="training"),
        "critic_scales": Option(default=3, least=1, most=8, part="training"),
        "critic_lr": Option(default=1.0, above=0, most=1e6, part="training"),
        "beta1": Option(default=0.5, least=0, most=0.999, part="training"),
    },
)

NOISE_CELL = 4
"""Latent positions along the side of one cell of noise, which is enlarged before the generator sees it."""

LEAK = 0.1
"""Slope of the soft assignment beyond the outermost centres."""


def _norm(kind: str, channels: int) -> nn.Module:
    return nn.InstanceNorm2d(channels, affine=True) if kind == "instance" else nn.Identity()


def _start(convolution: nn.Module, gain: float) -> None:
    """Weights that keep the activations' size through a ReLU, times gain; biases 0."""
    if isinstance(convolution, nn.Conv2d | nn.ConvTranspose2d):
        inputs = convolution.in_channels * convolution.kernel_size[0] * convolution.kernel_size[1]
        if isinstance(convolution, nn.ConvTranspose2d):
            inputs //= convolution.stride[0] ** 2
        nn.init.normal_(convolution.weight, std=gain * (2 / inputs) ** 0.5)
        nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]


class Hold(nn.Module):
    """The mean of each place and those above, left and above left of it, as far as there are any.

    Behind a layer that doubles the sides: its four phases have kernels of their own, so that what is even comes out with a
    ripple of two places. A hold of order zero has no response there (Sugawara et al. 2018, "Super-resolution using
    convolutional neural networks without any checkerboard artifacts").
    """

    def forward(self, x: Tensor) -> Tensor:
        """N×C×h×w to the same."""
        return F.avg_pool2d(x, 2, stride=1, padding=1, count_include_pad=False)[:, :, :-1, :-1]


class Residual(nn.Module):
    """x + two 3×3 convolutions with norms."""

    def __init__(self, channels: int, norm: str):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            _norm(norm, channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            _norm(norm, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """N×C×h×w to the same."""
        return x + self.body(x)


def quantise(z: Tensor, levels: int, *, stopped: bool = False) -> tuple[Tensor, Tensor]:
    """The nearest centres with the gradient of the soft assignment, and the codes (int32), both shaped like z.

    The centres are the integers −(L−1)/2 … (L−1)/2. stopped: without any gradient, the port's fault.
    """
    half = levels // 2
    codes = torch.round(z.detach()).clamp(-half, half)
    if stopped:
        return codes, codes.int()
    centres = torch.arange(-half, half + 1, device=z.device, dtype=z.dtype)
    near = torch.softmax(-((z[..., None] - centres) ** 2), dim=-1)
    soft = (near * centres).sum(dim=-1)
    # beyond the outermost centres the soft assignment is flat: without a slope there nothing brings z back
    soft = soft + LEAK * (z - z.clamp(-half, half))
    return soft + (codes - soft).detach(), codes.int()


class Agustsson2019(Codec):
    """encoder, generator, and the quantiser between them. `config.n` is the width at stride 16, `config.m` is C.

    Options: centres (L, odd), blocks (residual), norm (instance, none), patch (1, 2, 4), hold (1: a `Hold` behind each
    layer that doubles the sides), noise (channels of it), keep (share of the latent places that `select` keeps; 0: those
    where the map is at least half its maximum), fault.
    """

    stride = 16
    analysis = ("encoder.",)

    def __init__(self, config: CodecConfig):
        super().__init__(config)
        options = dict(config.options)
        self.levels = int(options.get("centres", 5))
        self.noise = int(options.get("noise", 0))
        self.keep = float(options.get("keep", 0.5))
        faults = str(options.get("fault", "")).split("+")
        norm, patch = str(options.get("norm", "instance")), int(options.get("patch", 1))
        hold = int(options.get("hold", 0))
        if self.levels % 2 == 0 or (hold and patch == 4):
            raise FoveaError("agustsson2019: centres is odd; hold goes with patch 1 or 2")
        self.stopped = "gradient" in faults
        stages = {1: 4, 2: 3, 4: 2}[patch]
        n, m = config.n, config.m
        if n % (1 << stages):
            raise FoveaError(f"agustsson2019: the width {n} is not a multiple of {1 << stages}")
        widths = [n >> (stages - k) for k in range(stages + 1)]

        planes = 4 if config.mechanism == "concat" else 3
        down: list[nn.Module] = [
            nn.Conv2d(planes, widths[0], 7, stride=patch, padding=3),
            _norm(norm, widths[0]),
            nn.ReLU(),
        ]
        for low, high in itertools.pairwise(widths):
            down += [nn.Conv2d(low, high, 3, stride=2, padding=1), _norm(norm, high), nn.ReLU()]
        down.append(nn.Conv2d(n, m, 3, padding=1))
        if "relu" in faults:
            down += [nn.InstanceNorm2d(m, affine=True), nn.ReLU()]
        self.encoder = nn.Sequential(*down)

        told = int(config.mechanism == "select")
        up: list[nn.Module] = [nn.Conv2d(m + self.noise + told, n, 3, padding=1), _norm(norm, n), nn.ReLU()]
        up += [Residual(n, norm) for _ in range(int(options.get("blocks", 9)))]
        for low, high in itertools.pairwise(widths[::-1]):
            up += [
                nn.ConvTranspose2d(low, high, 3, stride=2, padding=1, output_padding=1),
                *([Hold()] if hold else []),
                _norm(norm, high),
                nn.ReLU(),
            ]
        last = nn.Conv2d(widths[0], 3 * patch**2, 7 if patch == 1 else 3, padding=3 if patch == 1 else 1)
        up += [last, nn.PixelShuffle(patch)]
        self.generator = nn.Sequential(*up, *([Hold()] if hold and patch > 1 else []))
        if norm == "none":
            for module in self.modules():
                _start(module, 1.0)
            for block in self.generator:
                if isinstance(block, Residual):
                    _start(block.body[3], 0.1)
        # from the start the codes take all the centres, and pictures are mid-grey
        _start(self.encoder[3 * stages + 3], 2.0)
        _start(last, 0.1)
        nn.init.constant_(last.bias, 0.5)  # type: ignore[arg-type]

    @property
    def rates(self) -> tuple[float, ...]:
        """C alone."""
        return (float(self.config.m),)

    def level_of(self, rate: float) -> float:
        """0. Raises FoveaError for another rate than C."""
        if rate != self.config.m:
            raise FoveaError(f"agustsson2019: the rate {rate:g} is not this model's {self.config.m} code channels")
        return 0.0

    def payload_bound(self, height: int, width: int) -> float:
        """Bits that a picture's payload takes at most, whole bytes: C·log2(L) for each latent place, padding included, and
        at least what any file holds. NaN where no bound is known: for `select`, which sends a region besides, and for
        more than codes.MAX_PACKED codes."""
        places = -(-height // self.stride) * -(-width // self.stride)
        if self.config.mechanism == "select" or places * self.config.m > MAX_PACKED:
            return math.nan
        codes = math.ceil(bound_bits(places * self.config.m, self.levels) / 8)
        return 8.0 * max(codes, bitstream.least_bytes(places))

    # ── training ──────────────────────────────────────────────────────────────────────────────────────────────────

    def forward(
        self,
        x: Tensor,
        *,
        saliency_map: Tensor | None = None,
        level: Tensor | None = None,
        centre: Tensor | None = None,
    ) -> Output:
        """As `Codec.forward` says. likelihoods: "y", those of the bound, 1/L each (1 outside of the region)."""
        z = self.analyse(x, saliency_map)
        q, codes = quantise(z, self.levels, stopped=self.stopped)
        region = self.region(saliency_map)
        if region is not None:
            # a place whose codes are all 0 looks to the decoder like one outside
            region = region * (codes != 0).any(dim=1, keepdim=True)
        likelihoods = torch.full_like(q, 1 / self.levels).detach()
        side_bits = x.new_zeros(x.shape[0])
        if region is not None:
            q = q * region
            likelihoods = likelihoods**region
            side_bits = side_bits + region[0].numel()
        x_hat = self._generate(q, region, None if self.training else self._noise_of(codes))
        return Output(x_hat, {"y": likelihoods}, side_bits, x.new_ones(x.shape[0], 1, 1, 1))

    def analyse(self, x: Tensor, saliency_map: Tensor | None) -> Tensor:
        """z before the quantiser, N×C×H/16×W/16."""
        if self.config.mechanism == "concat":
            x = torch.cat((x, self.given(saliency_map)), dim=1)
        return self.encoder((2 * x - 1).contiguous(memory_format=torch.channels_last))

    def region(self, saliency_map: Tensor | None) -> Tensor | None:
        """For `select`, which latent places are kept: 0 or 1, N×1×h×w, without gradient. None for other mechanisms."""
        if self.config.mechanism != "select":
            return None
        with torch.no_grad():
            pooled = F.avg_pool2d(self.given(saliency_map), self.stride)
            flat = pooled.flatten(1)
            if self.keep > 0:
                count = max(1, round(self.keep * flat.shape[1]))
                # the first `count` places by a stable sort: a flat map keeps its share, too
                order = flat.argsort(dim=1, descending=True, stable=True)
                kept = torch.zeros_like(flat).scatter_(1, order[:, :count], 1.0)
            else:
                kept = (flat >= 0.5 * flat.amax(dim=1, keepdim=True)).float()
            return kept.view_as(pooled)

    def _noise_of(self, codes: Tensor) -> Tensor | None:
        """The cells of noise that belong to codes N×C×h×w, for pictures that are measured or decoded: drawn from a seed
        that the codes themselves give, so that a file always shows the same picture. None without noise."""
        if not self.noise:
            return None
        cells = []
        for one in codes.detach().round().to("cpu", torch.int8).numpy():
            seed = int.from_bytes(hashlib.sha256(np.ascontiguousarray(one).tobytes()).digest()[:8], "big")
            shape = (self.noise, -(-one.shape[1] // NOISE_CELL), -(-one.shape[2] // NOISE_CELL))
            cells.append(np.random.Generator(np.random.PCG64(seed)).standard_normal(shape, np.float32))
        return torch.from_numpy(np.stack(cells)).to(codes.device)

    def _generate(self, q: Tensor, region: Tensor | None, cells: Tensor | None) -> Tensor:
        """x_hat from codes. cells: of noise, N×channels×⌈h/NOISE_CELL⌉×⌈w/NOISE_CELL⌉; None draws them."""
        planes = [q]
        if self.noise:
            n, _, h, w = q.shape
            if cells is None:
                cells = torch.randn(n, self.noise, -(-h // NOISE_CELL), -(-w // NOISE_CELL), device=q.device)
            planes.append(F.interpolate(cells, scale_factor=float(NOISE_CELL), mode="nearest")[:, :, :h, :w])
        if region is not None:
            planes.append(region)
        y = torch.cat(planes, dim=1) if len(planes) > 1 else q
        return self.generator(y.contiguous(memory_format=torch.channels_last))

    # ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @torch.no_grad()
    def latents(self, x: Tensor, *, saliency_map: Tensor | None = None, level: Tensor | None = None) -> Latents:
        """As `Codec.latents` says; 0 outside of the region."""
        return self._coded(self.analyse(x, saliency_map), saliency_map)

    def _coded(self, z: Tensor, saliency_map: Tensor | None) -> Latents:
        codes = quantise(z, self.levels)[1]
        region = self.region(saliency_map)
        if region is not None:
            codes = codes * region.int()
        return Latents(codes, codes.float())

    @torch.no_grad()
    def synthesise(self, y_hat: Tensor) -> Tensor:
        """As `Codec.synthesise` says, with the noise that belongs to the codes. Places where all codes are 0 count as
        outside of the region."""
        region = None
        if self.config.mechanism == "select":
            region = (y_hat != 0).any(dim=1, keepdim=True).float()
        return self._generate(y_hat, region, self._noise_of(y_hat))

    @torch.inference_mode()
    def analysed(self, picture: Picture, saliency_map: Picture | None = None) -> Analysed:
        """As `Codec.analysed` says; y is what the quantiser is given."""
        given = self.padded(picture, saliency_map)
        return given._replace(y=self.analyse(given.y, given.saliency_map))

    @torch.inference_mode()
    def encode_analysed(self, given: Analysed, rate: float | None = None, *, progressive: bool = False) -> Encoded:
        """As `Codec.encode_analysed` says; rate can only be the codec's own C. The strings are the region map and the
        codes."""
        if progressive:
            raise FoveaError("a codec agustsson2019 has no progressive files")
        if rate is not None:
            self.level_of(rate)
        width, height = given.width, given.height
        symbols, y_hat = self._coded(given.y, given.saliency_map)
        codes = symbols[0].cpu().numpy()
        # a kept place whose codes are all 0 looks like one outside: the file says what the generator is told
        kept = np.ones(codes.shape[1:], dtype=bool)
        if self.config.mechanism == "select":
            kept = np.asarray(codes.any(axis=0), dtype=bool)
        region, region_bits = encode_region(kept)
        coded, bits = encode_codes(codes, self.levels, kept, bitstream.least_bytes(kept.size))
        data = bitstream.pack(Contents(self.config.codec, self.name(), width, height, 0, (region, coded)))
        return Encoded(data, bits + region_bits, Sent(y_hat, width, height), self)

    @torch.inference_mode()
    def entropy_decode(self, data: bytes) -> Sent:
        file = bitstream.unpack(data)
        bitstream.check_model(file, self.config.codec, self.name())
        if file.level or len(file.strings) != 2:
            raise BitstreamError("damaged file: it has a level or strings that this model does not know")
        h, w = -(-file.height // self.stride), -(-file.width // self.stride)
        region, coded = file.strings
        bitstream.check_plausible(h * w, len(coded))
        kept = decode_region(region, h, w)
        codes = torch.from_numpy(decode_codes(coded, self.config.m, self.levels, kept))
        return Sent(codes[None].float().to(self.device), file.width, file.height)

    # ── weights ───────────────────────────────────────────────────────────────────────────────────────────────────

    def load_trunk(self, weights: Mapping[str, Tensor]) -> None:
        """As `Codec.load_trunk` says. concat: the encoder's new plane starts at zero; select: the generator's."""
        start = dict(weights)
        own = self.state_dict()
        for first in ("encoder.0.weight", "generator.0.weight"):
            given = start.get(first)
            if given is not None and own[first].shape[1] == given.shape[1] + 1:
                start[first] = torch.cat((given, torch.zeros_like(given[:, :1])), dim=1)
        self.copy_weights(start)
