"""Toderici et al. 2017, "Full resolution image compression with recurrent neural networks" (CVPR), with what Johnston et
al. 2018 add ("Improved lossy image compression with priming and spatially adaptive bit rates").

    residual ──► conv ↓2 ─ GRU ↓2 ─ GRU ↓2 ─ GRU ↓2 ─ 1×1, tanh ──► bits ──► 1×1 ─ GRU ↑2 ─ GRU ↑2 ─ GRU ↑2 ─ GRU ↑2 ─ 1×1 ──► part
    N×3×H×W      n/8       n/2      n        n        m  ±1, N×m×H/16×W/16   n     n        n        n/2      n/4         N×3×H×W

One network codes a picture in T iterations, each what those before have left: every iteration takes m bits for each 16×16
pixels, and how many there are is the rate. What is shown begins as mid-grey; with `reconstruction` (section 3.3)

    one_shot   each iteration gives the whole picture anew, from the bits and from what the GRUs remember;
    additive   it gives what is to be added;
    scaled     it, too, and a small network says from what is shown so far by how much a place's residual is enlarged.

Encoder and decoder start every picture without memory, and the encoder runs the decoder: the residual is that of the
decoder's own sum, never clamped. `prime` more iterations of both before the first bits, which tell nothing, let them
settle (Johnston, section 3.1).

A place of 16×16 pixels may stop early: its bits are 0 from then on, which is not sent. The stop map stands in the file:
where every place goes equally far (none), how far each is by a saliency map (`gain`, as conditioning.py has it, a level
being an iteration), or until its squared error is the picture's mean at the rate asked for (`stops` quality, Johnston,
section 3.3). Any beginning of a file that has the first iteration shows a picture.

Bits are coded in context (bit_context.py), or as they are (`context` none). Layers are the paper's, the gain network's are
one fewer, for places of 16×16.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.card import Card, Option, Rate
from models.codecs import bitstream, conditioning, levelmap
from models.codecs.base import Analysed, Codec, CodecConfig, Encoded, Latents, Output, Picture, Sent, picture_to_tensor
from models.codecs.bit_context import BitContext
from models.codecs.bitstream import BitstreamError, Contents
from models.errors import FoveaError

CARD = Card(
    name="toderici2017",
    paper="Toderici et al. 2017, Full resolution image compression with recurrent neural networks (CVPR)",
    codec="Toderici2017",
    rate=Rate(name="iterations", unit="iterations, m bits each for 16×16 pixels"),
    mechanisms=("none", "gain"),
    objective="recurrent",
    options={
        # T; every rate up to it is there
        "unrolled": Option(default=16, least=1, most=64),
        "reconstruction": Option(default="scaled", choices=("one_shot", "additive", "scaled")),
        "prime": Option(default=0, least=0, most=16),
        "stops": Option(default="rate", choices=("rate", "quality")),
        "context": Option(default="bits", choices=("bits", "none")),
        # models/training/recurrent.py
        "loss": Option(default="l1", choices=("l1", "mse", "l1_ssim"), part="training"),
    },
)

GREY = 0.5


class ConvGru(nn.Module):
    """h' = (1 − z)·h + z·tanh(W x + U (r·h)), z and r likewise with a sigmoid. inner: side of U's kernels."""

    def __init__(self, inputs: int, channels: int, inner: int, stride: int = 1):
        super().__init__()
        self.x = nn.Conv2d(inputs, 3 * channels, 3, stride, 1)
        self.gates = nn.Conv2d(channels, 2 * channels, inner, padding=inner // 2, bias=False)
        self.h = nn.Conv2d(channels, channels, inner, padding=inner // 2, bias=False)

    def forward(self, x: Tensor, h: Tensor | None) -> Tensor:
        """The next h. None: nothing is remembered."""
        given = self.x(x)
        if h is None:
            z, _, new = given.chunk(3, dim=1)
            return torch.sigmoid(z) * torch.tanh(new)
        c = h.shape[1]
        z, r = torch.sigmoid(given[:, : 2 * c] + self.gates(h)).chunk(2, dim=1)
        return torch.lerp(h, torch.tanh(given[:, 2 * c :] + self.h(r * h)), z)


Memory = list[Tensor | None]


class Half(nn.Module):
    """The encoder or the decoder: a layer, recurrent ones, a layer; `up` doubles the sides after each of these."""

    def __init__(self, first: nn.Module, cells: Sequence[ConvGru], last: nn.Module, up: bool):
        super().__init__()
        self.first, self.cells, self.last = first, nn.ModuleList(cells), last
        self.after = nn.PixelShuffle(2) if up else nn.Identity()

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """One iteration; what is remembered changes in place."""
        x = self.first(x)
        for i, cell in enumerate(self.cells):
            memory[i] = x = cell(x, memory[i])
            x = self.after(x)
        out: Tensor = self.last(x)
        return out

    def fresh(self) -> Memory:
        """Before the first iteration."""
        return [None] * len(self.cells)


class Toderici2017(Codec):
    """`config.n` is the widest layer's channels, `config.m` the bits of a place and iteration."""

    stride = 16
    analysis = ("encoder.",)
    cuttable = True

    def __init__(self, config: CodecConfig):
        super().__init__(config)
        n, m, options = config.n, config.m, dict(config.options)
        self.iterations = int(options.get("unrolled", 16))
        self.reconstruction = str(options.get("reconstruction", "scaled"))
        self.prime = int(options.get("prime", 0))
        self.by_quality = options.get("stops", "rate") == "quality"
        self.in_context = options.get("context", "bits") == "bits"
        if n % 16 or m < 1:
            raise FoveaError(f"toderici2017: the width n is a multiple of 16 and m at least 1, not {n} and {m}")
        if self.by_quality and config.mechanism != "none":
            raise FoveaError("toderici2017: stops quality goes without a map: mechanism none")
        self.encoder = Half(
            nn.Conv2d(3, n // 8, 3, 2, 1),
            [ConvGru(n // 8, n // 2, 1, 2), ConvGru(n // 2, n, 1, 2), ConvGru(n, n, 1, 2)],
            nn.Sequential(nn.Conv2d(n, m, 1), nn.Tanh()),
            up=False,
        )
        self.decoder = Half(
            nn.Conv2d(m, n, 1),
            [ConvGru(n, n, 1), ConvGru(n // 4, n, 1), ConvGru(n // 4, n // 2, 3), ConvGru(n // 8, n // 4, 3)],
            nn.Conv2d(n // 16, 3, 1),
            up=True,
        )
        if self.reconstruction == "scaled":
            widths = (3, 32, 32, 32)
            layers = [(nn.Conv2d(a, b, 3, 2, 1), nn.ELU()) for a, b in itertools.pairwise(widths)]
            self.scale = nn.Sequential(*(v for pair in layers for v in pair), nn.Conv2d(32, 1, 3, 2, 1), nn.ELU())
        self.context = BitContext(m)

    # ── iterations ────────────────────────────────────────────────────────────────────────────────────────────────

    def binarise(self, code: Tensor) -> Tensor:
        """−1 or 1, of the code's sign; in training at random with the code for a mean, and with its gradient."""
        if not self.training:
            return torch.where(code >= 0, 1.0, -1.0)
        noise = torch.empty_like(code).uniform_(-1, 1)
        return code + (torch.where(code.detach() >= noise, 1.0, -1.0) - code).detach()

    def unroll(self, x: Tensor, stops: Tensor, top: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The bits of each of `top` iterations, N×m×h×w, and what is shown after it, N×3×H×W, unclamped.

        x: N×3×H×W in [0, 1]. stops: iterations of each place, N×1×h×w or one for all.
        """
        remembered = self.encoder.fresh()
        reader = Reader(self, x.shape[0], x.shape[2], x.shape[3])
        for t in range(top):
            residual = (x - reader.shown) * reader.scale
            for _ in range(1 if t else 1 + self.prime):
                code = self.encoder(residual, remembered)
            bits = self.binarise(code.float()) * (stops > t)
            yield bits, reader.take(bits)

    def stop_map(
        self,
        x: Tensor,
        base: Tensor,
        saliency_map: Tensor | None = None,
        centre: Tensor | None = None,
        span: float | None = None,
    ) -> Tensor:
        """Iterations of each place, int64 N×1×h×w, from the picture's (1 to T, any number), N×1×1×1."""
        h, w = x.shape[2] // self.stride, x.shape[3] // self.stride
        places = base.expand(-1, 1, h, w)
        if self.config.mechanism == "gain":
            gamma, apart = self.config.gamma, self.config.span if span is None else span
            steps = conditioning.level_steps(self.given(saliency_map), gamma, apart, self.stride, centre)
            places = places + conditioning.STEP * steps
        elif self.by_quality:
            return self.reached(x, base)
        return places.round().long().clamp(1, self.iterations)

    @torch.no_grad()
    def reached(self, x: Tensor, base: Tensor) -> Tensor:
        """The first iteration in which each place's squared error is at most the picture's mean after `base` of them."""
        shown = [v for _, v in self.unroll(x, x.new_full((1, 1, 1, 1), self.iterations), self.iterations)]
        errors = torch.stack([F.avg_pool2d((x - v).square().mean(1, keepdim=True), self.stride) for v in shown])
        means = errors.mean(dim=(3, 4), keepdim=True)
        wanted = means.gather(0, base.round().long().clamp(1, self.iterations)[None] - 1)
        good = errors <= wanted
        good[-1] = True
        return 1 + good.int().argmax(dim=0)

    def forward(
        self,
        x: Tensor,
        *,
        saliency_map: Tensor | None = None,
        level: Tensor | None = None,
        centre: Tensor | None = None,
    ) -> Output:
        """As `Codec.forward` says, each picture after its last iteration. The bits count as side_bits, uncoded."""
        stops = self.stop_map(x, self.base(x, level), saliency_map, centre)
        last = stops.amax(dim=(1, 2, 3))
        x_hat = torch.empty_like(x)
        for t, (_, shown) in enumerate(self.unroll(x, stops, int(last.max()))):
            x_hat = torch.where((last > t)[:, None, None, None], shown, x_hat)
        bits = (self.config.m * stops).sum(dim=(1, 2, 3)).float() + levelmap.estimate_bits(stops - stops.amax())
        return Output(x_hat, {}, bits, x.new_ones(x.shape[0], 1, 1, 1))

    def base(self, x: Tensor, level: Tensor | None) -> Tensor:
        """Iterations, N×1×1×1, of levels: the middle of them by default."""
        if level is None:
            level = x.new_full((x.shape[0],), 0.5 * self.top_level)
        return 1 + level.to(x.device, torch.float32).reshape(-1, 1, 1, 1)

    # ── rates ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def rates(self) -> tuple[float, ...]:
        """1 to T."""
        return tuple(float(t) for t in range(1, self.iterations + 1))

    @property
    def top_level(self) -> int:
        """T − 1."""
        return self.iterations - 1

    def level_of(self, rate: float) -> float:
        """One less. Raises FoveaError outside of 1 to T."""
        if not 1 <= rate <= self.iterations:
            raise FoveaError(f"iterations {rate:g} is outside this model's range 1 … {self.iterations}")
        return rate - 1

    def rate_at(self, level: float) -> float:
        """One more."""
        return level + 1

    # ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @torch.no_grad()
    def fit(self, pictures: Sequence[Picture], seed: int = 0) -> None:
        """Set what the bits' context says from those of pictures. In evaluation mode."""
        everywhere = torch.full((1, 1, 1, 1), self.iterations, device=self.device)
        planes = []
        for picture in pictures:
            x = picture_to_tensor(picture, self.stride).to(self.device)
            bits = torch.cat([b for b, _ in self.unroll(x, everywhere, self.iterations)])
            planes.append(bits.to("cpu", torch.int8).numpy())
        self.context.fit(planes, seed=seed)
        self._identity = None

    @torch.no_grad()
    def latents(self, x: Tensor, *, saliency_map: Tensor | None = None, level: Tensor | None = None) -> Latents:
        """As `Codec.latents` says: the bits of all iterations, one after the other, N×(T·m)×h×w."""
        return self._coded(x, self.stop_map(x, self.base(x, level), saliency_map))

    def _coded(self, x: Tensor, stops: Tensor) -> Latents:
        with torch.autocast(x.device.type, enabled=False):
            bits = torch.cat([b for b, _ in self.unroll(x, stops, int(stops.max()))], dim=1)
        return Latents(bits.int(), bits)

    @torch.no_grad()
    def synthesise(self, y_hat: Tensor) -> Tensor:
        """As `Codec.synthesise` says, after as many iterations as there are bits."""
        n, _, h, w = y_hat.shape
        reader = Reader(self, n, h * self.stride, w * self.stride)
        with torch.autocast(y_hat.device.type, enabled=False):
            for bits in y_hat.split(self.config.m, dim=1):
                reader.take(bits)
        return reader.shown

    @torch.inference_mode()
    def analysed(self, picture: Picture, saliency_map: Picture | None = None) -> Analysed:
        """As `Codec.analysed` says. y: the padded picture, and, where all places go equally far, z: the bits of all
        iterations, which every rate's begin."""
        given = self.padded(picture, saliency_map)
        if self.config.mechanism == "gain" or self.by_quality:
            return given
        return given._replace(z=self.latents(given.y, level=torch.full((1,), float(self.top_level))).y_hat)

    @torch.inference_mode()
    def encode_analysed(self, given: Analysed, rate: float | None = None, *, progressive: bool = False) -> Encoded:
        """As `Codec.encode_analysed` says; every file is progressive. The strings are the stop map (how many iterations
        fewer than the file's), the first iteration's bits, and those of the others."""
        x, s, width, height, bits, apart = given
        level = None if rate is None else torch.tensor([self.level_of(rate)])
        stops = self.stop_map(x, self.base(x, level), s, span=apart)
        top = int(stops.max())
        y_hat = self._coded(x, stops).y_hat if bits is None else bits[:, : top * self.config.m]
        planes = y_hat.reshape(top, self.config.m, *y_hat.shape[2:]).to("cpu", torch.int8).numpy()
        far = stops[0, 0].cpu().numpy()
        stop_map = levelmap.encode_levels(far - top)
        context = self._context()
        first, taken = context.write(planes[:1], far, 0)
        rest, more = context.write(planes, far, 1)
        # whole words, in which `bitstream.cut` cuts
        rest = rest.ljust(-(-len(rest) // bitstream.WORD) * bitstream.WORD, b"\0")
        strings = (stop_map, first.ljust(bitstream.least_bytes(far.size), b"\0"), rest)
        contents = Contents(self.config.codec, self.name(), width, height, top, strings, total=len(rest))
        estimate = taken + more + 8 * len(stop_map)
        return Encoded(bitstream.pack(contents), estimate, Sent(y_hat, width, height), self)

    def _context(self) -> BitContext:
        return self.context if self.in_context else BitContext(self.config.m)

    @torch.inference_mode()
    def entropy_decode(self, data: bytes) -> Sent:
        file = bitstream.unpack(data)
        bitstream.check_model(file, self.config.codec, self.name())
        top = file.level
        if not 1 <= top <= self.iterations or len(file.strings) != 3 or file.total is None:
            raise BitstreamError("damaged file: it has iterations or strings that this model does not know")
        h, w = -(-file.height // self.stride), -(-file.width // self.stride)
        stop_map, first, rest = file.strings
        bitstream.check_plausible(h * w, len(first))
        far = top + levelmap.decode_levels(stop_map, h, w)
        if far.min() < 1 or far.max() > top:
            raise BitstreamError("damaged file: a place has iterations that the file does not have")
        planes = np.zeros((top, self.config.m, h, w), dtype=np.int8)
        context = self._context()
        context.read(first, planes[:1], far, 0, whole=True)
        there = context.read(rest, planes, far, 1, whole=len(rest) == file.total)
        bits = torch.from_numpy(planes[:there]).flatten(0, 1)[None].float().to(self.device)
        return Sent(bits, file.width, file.height)

    # ── weights ───────────────────────────────────────────────────────────────────────────────────────────────────

    def load_trunk(self, weights: Mapping[str, Tensor]) -> None:
        self.copy_weights(weights)


class Reader:
    """The decoder under way, of `count` pictures of these sides. shown: N×3×H×W, unclamped. scale: by how much the next
    residual is enlarged, N×1×H×W or 1."""

    def __init__(self, codec: Toderici2017, count: int, height: int, width: int):
        self.codec, self.shown = codec, torch.full((count, 3, height, width), GREY, device=codec.device)
        self.memory = codec.decoder.fresh()
        self.scale: Tensor | float = 1.0
        self._first = True

    def take(self, bits: Tensor) -> Tensor:
        """The next iteration's bits, N×m×h×w; gives what is shown then."""
        codec = self.codec
        for _ in range(1 + codec.prime if self._first else 1):
            part = codec.decoder(bits, self.memory).float()
        self._first = False
        if codec.reconstruction == "one_shot":
            self.shown = GREY + part
        else:
            self.shown = self.shown + part / self.scale
        if codec.reconstruction == "scaled":
            enlarged = 2 + codec.scale(self.shown).float()
            self.scale = F.interpolate(enlarged, scale_factor=float(codec.stride), mode="nearest")
        return self.shown
