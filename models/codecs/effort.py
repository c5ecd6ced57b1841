"""Encoder effort: the latents of one picture refined by gradient steps. The decoder knows nothing of it.

An encoder computes latents in one pass; better ones for this picture can be found by descending on what the file costs,

    bits(y, z) / pixels + mean(lmbda · 255² · (x − x_hat)²),

lambda that of each place's level. Rounding is replaced by stochastic Gumbel annealing (Yang, Bamler, Mandt 2020,
"Improving inference for neural image compression", section 3.2): each value goes to one of its two neighbours, at random
by its distance, the more firmly the further the descent is. Every few steps the latents are rounded, coded for real as
far as their estimate, and the best so far are kept: so more steps never cost more.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from models.codecs import conditioning
from models.codecs.base import LEVEL_STEPS, Analysed, Codec, Picture, picture_to_tensor
from models.codecs.conditioned import ConditionedCodec, Setting
from models.codecs.hyperprior import HyperpriorCodec
from models.errors import FoveaError

EVERY = 10
"""Steps between looks at rounded latents."""

LR = 0.03
"""Adam's, in bins a step."""


def annealed(temperature: float, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Values to a random mixture of their two neighbours, nearly one of them at low temperature (equation 8)."""

    def quantise(values: Tensor) -> Tensor:
        low = values.detach().floor()
        part = (values - low).clamp(1e-4, 1 - 1e-4)
        logits = torch.stack((-torch.atanh(part), -torch.atanh(1 - part))) / temperature
        uniform = torch.rand(logits.shape, generator=generator, device=values.device).clamp(1e-9, 1 - 1e-9)
        up = torch.softmax((logits - torch.log(-torch.log(uniform))) / temperature, dim=0)[1]
        return low + up

    return quantise


def temperature_at(step: int) -> float:
    """A function of the step alone, so that a longer descent begins as a shorter one does."""
    return max(0.5 * 0.98**step, 0.05)


class Refinement:
    """The descent for one picture at one rate. `best` is what `Codec.encode_analysed` takes."""

    def __init__(self, codec: Codec, picture: Picture, given: Analysed, rate: float | None = None):
        """given: of `codec.analysed(picture, …)`. Raises FoveaError for a codec whose latents cannot be refined."""
        fits = isinstance(codec, ConditionedCodec) and codec.refinable and codec.top_level
        if not fits or codec.config.mechanism not in ("none", "loss", "gain"):
            raise FoveaError(
                f"effort is not for {codec.config.codec} with mechanism {codec.config.mechanism}: it needs levels, no "
                "context model, and a map that acts by levels alone"
            )
        assert isinstance(codec, ConditionedCodec)
        self.codec, self.given = codec, given
        self.x = picture_to_tensor(picture, codec.stride).to(codec.device)
        self.inside = torch.zeros_like(self.x[:, :1])
        self.inside[:, :, : given.height, : given.width] = 1
        self.pixels = given.height * given.width
        wanted = codec.level_of(rate) if rate is not None else 0.5 * codec.top_level
        with torch.no_grad():
            self.base = codec.base_level(given.y, torch.tensor([round(wanted * LEVEL_STEPS) / LEVEL_STEPS]))
            self.level, _ = codec.places(self.base, given.y, given.saliency_map, span=given.span)
            lmbda = codec.lmbda_at(self.level)
            if lmbda.shape[-1] > 1 or lmbda.shape[-2] > 1:
                lmbda = conditioning.spread(lmbda, self.x.shape[2], self.x.shape[3], codec.stride)
            self.lmbda = 255**2 * lmbda * self.inside
            self.bins = [codec.gain(self.level)[0]]
            self.start = [given.y]
            if isinstance(codec, HyperpriorCodec):
                gains = codec.gains_z(self.base)
                assert gains is not None  # with levels there are some
                self.bins.append(gains[0])
                self.start.append(codec.hyper_analyse(given.y, None))
        self.best, self.cost = given, self.cost_of(self.start)

    def cost_of(self, latents: list[Tensor]) -> float:
        """The Lagrangian of rounded latents, as the file will hold them."""
        codec, given = self.codec, self.given
        with torch.inference_mode():
            given = self._given(latents)
            _, y_hat, bits = codec.write(given.y, Setting(given.saliency_map, self.base, self.level, given.z))
            error = (codec.synthesise(y_hat) - self.x).square().mean(dim=1, keepdim=True)
            return bits / self.pixels + float((self.lmbda * error).sum()) / self.pixels

    def _given(self, latents: list[Tensor]) -> Analysed:
        return self.given._replace(y=latents[0], z=latents[1] if len(latents) > 1 else None)

    def steps(self, count: int) -> Iterator[float]:
        """Descend so many steps, in tens; yields the best cost after each. A pure function of picture, rate and count."""
        codec = self.codec
        generator = torch.Generator(codec.device).manual_seed(0)
        # in bins: a step of the learning rate means the same at every level
        moved = [(v * g).detach().clone().requires_grad_() for v, g in zip(self.start, self.bins, strict=True)]
        optimiser = torch.optim.Adam(moved, lr=LR)
        for step in range(1, count // EVERY * EVERY + 1):
            latents = [v / g for v, g in zip(moved, self.bins, strict=True)]
            z = latents[1] if len(latents) > 1 else None
            quantise = annealed(temperature_at(step), generator)
            modelled = codec.model(latents[0], Setting(None, self.base, self.level, z, quantise))
            bits = sum(-torch.log2(v).sum() for v in modelled.likelihoods.values())
            error = (codec.show(modelled.y_hat) - self.x).square().mean(dim=1, keepdim=True)
            loss = (bits + (self.lmbda * error).sum()) / self.pixels
            for value, gradient in zip(moved, torch.autograd.grad(loss, moved), strict=True):
                value.grad = gradient
            optimiser.step()
            if step % EVERY == 0:
                latents = [(v / g).detach() for v, g in zip(moved, self.bins, strict=True)]
                cost = self.cost_of(latents)
                if cost < self.cost:
                    self.best, self.cost = self._given(latents), cost
            yield self.cost


def refine(codec: Codec, picture: Picture, given: Analysed, rate: float | None, effort: int) -> Analysed:
    """`given` with latents refined by `effort` steps. Raises FoveaError for a codec that cannot."""
    if effort == 0:
        return given
    refinement = Refinement(codec, picture, given, rate)
    with torch.enable_grad():
        for _ in refinement.steps(effort):
            pass
    return refinement.best
