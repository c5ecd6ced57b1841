"""Codecs with a hyperprior: y is Gaussian with scales (and means) that a second, coded latent tells the decoder.

    x ─► g_a ─► y ──────┬──────► × gain ─► round ─► q ─► × inverse_gain ─► y_hat ─► g_s ─► x_hat
                        ▼                          ▲
                       h_a ─► z ─► round ─► z_hat ─► h_s ─► sigma, mu
                     N×N×H/64×W/64                        N×M×H/16×W/16

Levels. With y ~ N(mu, sigma²) at gain 1 and q = round((y − mu)·g), the bins of q are 1/g wide on the y axis, so

    P(q) = Φ((q + ½) / (g·sigma)) − Φ((q − ½) / (g·sigma)),        y_hat = q · inverse_gain + mu:

the exact change of variables. Sigma and mu are those of y at gain 1 whatever the level; the decoder knows the gain at
each place and scales sigma by it. z has gains of its own, by the base level (its places are four times coarser than
the level map), with the factorized prior on the bins that they cut (entropy.py). With one level all gains are 1 and
this is CompressAI's computation.

y need not have a multiple of 4 rows: h_a sees it with zeros added, what h_s says about them is cut off. Nothing is
coded for places that the picture has not.

With `sft` the map modulates g_a and h_a; g_s is modulated from z_hat alone, which is in the file.

With `hyper` the decoder reads the level of each place from z_hat, and no level map is sent:

    level − base ─► h_a_level ─► + z        z_hat ─► h_s_level ─► told ─► level = base + told, on LEVEL_STEPS

The encoder knows z_hat, too, so it quantises with the told levels, not with those that it wanted: nothing can disagree.
What it wanted (the map's levels) sets the lambda at each place, and in training a penalty pulls told towards wanted.
(Song et al. 2021 let a quality map reach the decoder through z_hat by feature transforms; here it is a level.)
"""

from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.codecs import conditioning
from models.codecs.base import LEVEL_STEPS, CodecConfig
from models.codecs.conditioned import ConditionedCodec, Modelled, Setting
from models.codecs.entropy import Quantise, noisy, ste
from models.codecs.gain import Gain
from models.codecs.layers import conv, deconv

# isort: split
# after compressai_import, which keeps the rest of the package from loading
from compressai.entropy_models import GaussianConditional
from compressai.ops.bound_ops import LowerBoundFunction

SCALES_MIN, SCALES_MAX, SCALES = 0.11, 256.0, 64
"""CompressAI's scale table: this many scales between these two, logarithmically spaced."""

TELLING = 0.2
"""What a level of difference between asked and told costs in training, squared, in bits a pixel: a mean over all places
of y, those on padding included. From rate and distortion alone the hyperprior learns to tell, too, but slowly, and then
mostly levels of its own taste."""

HYPER = 4
"""Places of y along the side of a place of z."""


def scale_table(between: int = 1) -> list[float]:
    """As CompressAI's get_scale_table(), or with each of its steps cut into `between`."""
    count = between * (SCALES - 1) + 1
    return torch.exp(torch.linspace(np.log(SCALES_MIN), np.log(SCALES_MAX), count)).tolist()


class HyperpriorModel(ConditionedCodec):
    """h_a, h_s, gaussian_conditional beside what ConditionedCodec has: what is trained."""

    conditioned = ("transforms.", "h_a_transforms.", "g_s_transforms.", "condition.", "h_a_level.", "h_s_level.")
    #: whether training, under gains, shows h_s and g_s the symbols that files have instead of the noisy ones that it rates
    straight_through = False
    #: bits that a squared bin of error is worth where the encoder may take the symbol before the one that a value rounds to
    #: (`symbols_of`); None: it never does
    worth: float | None = None
    h_a: nn.Sequential
    h_s: nn.Sequential

    def __init__(self, config: CodecConfig, hidden: int = 32):
        super().__init__(config, bottleneck=config.n)
        n = config.n
        self.gaussian_conditional = GaussianConditional(scale_table())
        self.gain_z = Gain(n, config.lmbda)
        if self.gain_z.levels > 1:
            # what the hyperprior tells is as useful at low rates as at high ones, until training finds otherwise
            for logs in self.gain_z.parameters():
                nn.init.zeros_(logs)
        if config.mechanism == "sft":
            self.h_a_transforms = nn.ModuleList(conditioning.FeatureTransform(n) for _ in range(2))
            self.condition = nn.Sequential(
                deconv(n, hidden), nn.LeakyReLU(0.1), deconv(hidden, hidden), nn.LeakyReLU(0.1)
            )
            self.g_s_transforms = nn.ModuleList(conditioning.SynthesisTransform(n, hidden) for _ in range(3))
        if config.mechanism == "hyper":
            asking, telling = conv(hidden, n), conv(hidden, 1, 3, 1)
            # a branch starts where its trunk stopped: nothing is asked, and what is told rounds to the base level, but
            # is not nothing, so that asking has a gradient
            nn.init.zeros_(asking.weight)
            nn.init.zeros_(cast(Tensor, asking.bias))
            nn.init.normal_(telling.weight, std=1e-3)
            nn.init.zeros_(cast(Tensor, telling.bias))
            self.h_a_level = nn.Sequential(
                conv(1, hidden, 3, 1), nn.LeakyReLU(), conv(hidden, hidden), nn.LeakyReLU(), asking
            )
            self.h_s_level = nn.Sequential(
                deconv(n, hidden), nn.LeakyReLU(), deconv(hidden, hidden), nn.LeakyReLU(), telling
            )

    # ── what a paper's class says ─────────────────────────────────────────────────────────────────────────────────

    @staticmethod
    def hyper_input(y: Tensor) -> Tensor:
        """What h_a is given of y."""
        return y

    @staticmethod
    def split(parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        """Sigma and mu from what h_s gives: M scales, then M means."""
        scales, means = parameters.chunk(2, 1)
        return scales, means

    # ── the model ─────────────────────────────────────────────────────────────────────────────────────────────────

    def hyper_analyse(self, y: Tensor, saliency_map: Tensor | None, wanted: Tensor | None = None) -> Tensor:
        """z, N×N×⌈h/4⌉×⌈w/4⌉. wanted: what is to be told with `hyper`, N×1×h×w."""
        below, beside = -y.shape[2] % HYPER, -y.shape[3] % HYPER
        v = self.hyper_input(y)
        if below or beside:
            v = F.pad(v, (0, beside, 0, below))
        if wanted is not None:
            if below or beside:
                wanted = F.pad(wanted, (0, beside, 0, below), mode="replicate")
            return self.h_a(v) + self.h_a_level(wanted)
        if self.config.mechanism != "sft":
            return self.h_a(v)
        s = self.given(saliency_map)
        if below or beside:
            s = F.pad(s, (0, beside * self.stride, 0, below * self.stride), mode="replicate")
        for i, layer in enumerate(self.h_a):
            v = layer(v)
            if i in (1, 3):
                v = self.h_a_transforms[i // 2](v, s)
        return v

    def latent_z(self, y: Tensor, at: Setting) -> Tensor:
        """What the encoder makes of y, unless the setting has another."""
        if at.z is not None:
            return at.z
        return self.hyper_analyse(y, at.saliency_map, self.wanted(at.base, at.level))

    @property
    def tells(self) -> bool:
        """Whether z_hat says levels."""
        return self.config.mechanism == "hyper"

    def wanted(self, base: Tensor, level: Tensor) -> Tensor | None:
        """With `hyper` what `hyper_analyse` is asked to tell: how far each place's level is from the base level."""
        return level - base if self.tells else None

    def level_told(self, told: Tensor, base: Tensor) -> Tensor:
        """The level at each place, N×1×h×w, from how far it is from the base level: within the range, and one that a
        file can name."""
        return (torch.round((base + told) * LEVEL_STEPS) / LEVEL_STEPS).clamp(0, self.top_level)

    def level_learned(self, told: Tensor, base: Tensor) -> Tensor:
        """`level_told` for training: without steps, and beyond an end of the range with a gradient where it leads back."""
        zero, top = told.new_zeros(1), told.new_full((1,), -float(self.top_level))
        level: Tensor = -LowerBoundFunction.apply(-LowerBoundFunction.apply(base + told, zero), top)
        return level

    def gains_z(self, base: Tensor) -> tuple[Tensor, Tensor] | None:
        """Gain and inverse gain of z at base levels N×1×1×1; None for a codec with a single level."""
        return self.gain_z(base) if self.top_level else None

    def model(self, y: Tensor, at: Setting) -> Modelled:
        """As `ConditionedCodec.model` says. likelihoods: "y" and "z"."""
        _, base, level, _, quantise = at
        wanted, z = self.wanted(base, level), self.latent_z(y, at)
        with torch.autocast(y.device.type, enabled=False):
            z_hat, z_likelihoods = self.entropy_bottleneck(
                z.float(), self.gains_z(base), quantise=quantise, rounded=self._rounds(quantise)
            )
        sigma, mu = self.split(self.h_s(z_hat)[:, :, : y.shape[2], : y.shape[3]])
        penalty: Tensor | float = 0.0
        if wanted is not None:
            told = self.h_s_level(z_hat)[:, :, : y.shape[2], : y.shape[3]].float()
            penalty = TELLING * (told - wanted).square().mean(dim=(1, 2, 3))
            level = self.level_learned(told, base) if self.training else self.level_told(told, base)
        with torch.autocast(y.device.type, enabled=False):
            y_hat, y_likelihoods = self._gaussian(
                y.float(), sigma.float(), None if mu is None else mu.float(), self.gains(level), quantise
            )
        return Modelled(self._with_z(y_hat, z_hat), {"y": y_likelihoods, "z": z_likelihoods}, penalty)

    def _gaussian(
        self,
        y: Tensor,
        sigma: Tensor,
        mu: Tensor | None,
        gain: tuple[Tensor, Tensor] | None,
        quantise: Quantise | None = None,
    ) -> tuple[Tensor, Tensor]:
        if gain is None:
            return self.gaussian_conditional(y, sigma, means=mu)
        forward, inverse = gain
        scaled = y * forward if mu is None else (y - mu) * forward + self.moved(mu, gain)
        scale = sigma * forward
        q = (quantise or (noisy if self.training else torch.round))(scaled)
        shown = ste(scaled, self._chosen(scaled, scale)) if self._rounds(quantise) else q
        y_hat = shown * inverse
        return y_hat if mu is None else y_hat + mu, self._likelihood(q, scale)

    def moved(self, mu: Tensor, gain: tuple[Tensor, Tensor]) -> Tensor:
        """mu · (gain − 1 / inverse gain): the error, in bins, that a mean makes where gain · inverse gain is not 1, and
        0 where it is below one bin. The encoder adds it to what it codes; decoders do not know it.

        Where training shows symbols, nothing holds gain · inverse gain at 1: with means near 0, g_s learns y in units
        of its own. A mean that is far off, as for patterns that no training had, reaches it in other units. Photographs
        have hardly such a place.
        """
        if not self.straight_through:
            return torch.zeros_like(mu[:, :1, :1, :1])
        moved = mu.detach() * (gain[0] - 1 / gain[1]).detach()
        return torch.where(moved.abs() > 1, moved, 0)

    def _rounds(self, quantise: Quantise | None) -> bool:
        return self.training and self.straight_through and quantise is None

    @torch.no_grad()
    def _chosen(self, values: Tensor, scale: Tensor) -> Tensor:
        """Symbols for values in units of a bin. A codec that says what error is worth takes, instead of the symbol that a
        value rounds to, the one before it on the way to zero where that saves more bits than its error is worth
        (rate–distortion optimised quantisation: Sullivan and Wiegand 1998, "Rate-distortion optimization for video
        compression"). Decoders know nothing of it."""
        symbols = torch.round(values)
        if self.worth is not None:
            at = symbols != 0
            value, nearest, scale = values[at], symbols[at], scale[at]
            before = nearest - torch.sign(nearest)
            saved = torch.log2(self._likelihood(before, scale) / self._likelihood(nearest, scale))
            error = (value - before).square() - (value - nearest).square()
            symbols[at] = torch.where(saved > self.worth * error, before, nearest)
        return symbols

    def _likelihood(self, q: Tensor, scale: Tensor) -> Tensor:
        conditional = self.gaussian_conditional
        return conditional.likelihood_lower_bound(conditional._likelihood(q, scale))

    def _with_z(self, y_hat: Tensor, z_hat: Tensor) -> Tensor:
        """What `show` takes: y_hat; with `sft` N×(M + N)×h×w, z_hat behind it with each place repeated."""
        if self.config.mechanism != "sft":
            return y_hat
        return torch.cat((y_hat, conditioning.spread(z_hat, y_hat.shape[2], y_hat.shape[3], HYPER)), dim=1)

    def show(self, y_hat: Tensor, g_s: nn.Sequential | None = None) -> Tensor:
        if self.config.mechanism != "sft":
            return super().show(y_hat, g_s)
        v, z_hat = y_hat[:, : self.config.m], y_hat[:, self.config.m :, ::HYPER, ::HYPER]
        features = self.condition(z_hat)[:, :, : v.shape[2], : v.shape[3]]
        for i, layer in enumerate(g_s or self.g_s):
            v = layer(v)
            if i in (1, 3, 5):
                v = self.g_s_transforms[i // 2](v, features)
        return v
