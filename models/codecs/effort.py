"""Encoder effort: the symbols of one picture chosen again and again, each time by what the others show. The decoder
knows nothing of it.

An encoder chooses symbols in one pass, each as if its error were all that a place shows; others are better for

    bits(symbols) / pixels + mean(lmbda · 255² · (x − x_hat)²),

lambda that of each place's level. Around the symbols at hand that error is, in each symbol s, nearly g·(k − s) + w·(k −
s)²: g its gradient, w the diagonal of the decoder's Gauss-Newton matrix, estimated by random signs (Bekas, Kokiopoulou,
Saad 2007, "An estimator for the diagonal of a matrix"). So the value that s should stand for moves towards s − g / 2w,
and is then quantised by rate and error (Sullivan and Wiegand 1998, see `HyperpriorModel._chosen`) with w as what error
is worth. All symbols move at once, so they move by a part of the way. The best so far are kept, by what the file costs:
so more steps never cost more.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from models.codecs import conditioning
from models.codecs.base import LEVEL_STEPS, Analysed, Codec, Picture, picture_to_tensor
from models.codecs.conditioned import ConditionedCodec, Setting
from models.codecs.hyperprior import HyperpriorCodec
from models.errors import FoveaError
from models.threads import check_stopped

EVERY = 10
"""Steps between looks at what the file would cost."""
MOVE, SHORTER = 0.4, 0.75
"""Of the way to where a value should be, in the first step; and what becomes of it when a step made things worse."""
CAUTION = 1.3
"""What error is taken to be worth, in multiples of the estimate: neighbours move, too."""
SLACK = 0.03
"""A step may cost this much more than the best so far; beyond that the descent goes back to the best, with smaller steps."""
LEAST = 0.5
"""Bits that a bin of squared error is worth at least."""
SIGNS = 4
"""Random signs that the decoder's sensitivity is estimated from."""


class Refinement:
    """The descent for one picture at one rate. `best` is what `Codec.encode_analysed` takes."""

    def __init__(self, codec: Codec, picture: Picture, given: Analysed, rate: float | None = None):
        """given: of `codec.analysed(picture, …)`. Raises FoveaError for a codec whose latents cannot be refined."""
        fits = isinstance(codec, ConditionedCodec) and codec.refinable and codec.top_level
        if not fits or codec.config.mechanism not in ("none", "loss", "gain"):
            raise FoveaError(
                f"effort is not for {codec.config.codec} with mechanism {codec.config.mechanism}: it needs levels, no "
                "autoregressive context model, and a map that acts by levels alone"
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
            z = given.z
            if z is None and isinstance(codec, HyperpriorCodec):
                z = codec.hyper_analyse(given.y, None)
        self.at = Setting(None, self.base, self.level, z, torch.round)
        self.best, self.cost = given, self.cost_of(given.y)

    def cost_of(self, y: Tensor) -> float:
        """The Lagrangian of y, as the file will hold it."""
        check_stopped()
        with torch.inference_mode():
            _, y_hat, bits = self.codec.write(y, self.at._replace(saliency_map=self.given.saliency_map, quantise=None))
            return (bits + float(self._error(self.codec.synthesise(y_hat)))) / self.pixels

    def _error(self, shown: Tensor) -> Tensor:
        return (self.lmbda * (shown - self.x).square().mean(dim=1, keepdim=True)).sum()

    def _worth(self, y_hat: Tensor, size: Tensor) -> Tensor:
        """Bits that a squared bin of error is worth in each channel, 1×M×1×1. size: of a bin."""
        y_hat = y_hat.detach().requires_grad_()
        shown = self.codec.show(y_hat)
        generator = torch.Generator(y_hat.device).manual_seed(0)
        found = torch.zeros_like(y_hat)
        for _ in range(SIGNS):
            check_stopped()
            signs = torch.randint(0, 2, shown.shape, generator=generator, device=y_hat.device) * 2.0 - 1
            seen = (shown * signs * (self.lmbda / 3).sqrt()).sum()
            found += torch.autograd.grad(seen, y_hat, retain_graph=True)[0].square() / SIGNS
        return CAUTION * (found * size.square()).mean(dim=(2, 3), keepdim=True).clamp_min(LEAST / CAUTION)

    def steps(self, count: int) -> Iterator[float]:
        """So many steps, rounded up to tens; yields the best cost after each. A pure function of picture, rate and count."""
        codec, at = self.codec, self.at
        with torch.no_grad():
            symbols, y_hat = codec.quantise(self.given.y, at._replace(quantise=None))
            gain, size = codec.gain(self.level)  # learned apart: one is not the other's inverse
            mean = y_hat - symbols * size
            # means are taken off before the gain, a factorised prior's medians behind it
            if isinstance(codec, HyperpriorCodec):
                shift = mean - codec.moved(mean, (gain, size)) / gain
            else:
                shift = mean / (size * gain)
        worth, kept, move = self._worth(y_hat, size), self.given.y, MOVE
        symbols = symbols.float()
        values, (error, gradient) = symbols.clone(), self._slope(symbols * size + mean)
        with torch.no_grad():  # z costs the same all along
            least = last = float(self._bits(symbols / gain + shift).sum()) + error
        good = symbols, symbols, gradient
        for step in range(1, -(-count // EVERY) * EVERY + 1):
            check_stopped()
            with torch.no_grad():
                values += move * (symbols - gradient * size / (2 * worth) - values)
                nearest = torch.round(values)
                before = nearest - torch.sign(nearest)
                bits, fewer = (self._bits(s / gain + shift) for s in (nearest, before))
                more = (values - before).square() - (values - nearest).square()
                turned = bits - fewer > worth * more
                symbols, bits = torch.where(turned, before, nearest), torch.where(turned, fewer, bits).sum()
            error, gradient = self._slope(symbols * size + mean)
            cost = float(bits) + error
            if not cost < last:
                move *= SHORTER
            if cost < least:
                least, kept, good = cost, symbols / gain + shift, (values.clone(), symbols, gradient)
            elif not cost < least * (1 + SLACK):
                worth = worth / SHORTER
                values, symbols, gradient = good[0].clone(), *good[1:]
            last = cost
            if step % EVERY == 0 and (whole := self.cost_of(kept)) < self.cost:
                self.best, self.cost = self.given._replace(y=kept, z=at.z), whole
            yield self.cost

    def _slope(self, y_hat: Tensor) -> tuple[float, Tensor]:
        """What the error of y_hat costs, in bits, and its gradient."""
        y_hat = y_hat.detach().requires_grad_()
        error = self._error(self.codec.show(y_hat))
        (gradient,) = torch.autograd.grad(error, y_hat)
        return float(error.detach()), gradient

    def _bits(self, y: Tensor) -> Tensor:
        """Of each symbol of y, whose values lie where symbols do."""
        return -torch.log2(self.codec.model(y, self.at).likelihoods["y"])


def refine(codec: Codec, picture: Picture, given: Analysed, rate: float | None, effort: int) -> Analysed:
    """`given` with latents refined by `effort` steps. Raises FoveaError for a codec that cannot."""
    if effort == 0:
        return given
    refinement = Refinement(codec, picture, given, rate)
    with torch.enable_grad():
        for _ in refinement.steps(effort):
            pass
    return refinement.best
