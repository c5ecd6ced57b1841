"""Adversarial training: a codec that generates, discriminators that judge it, an optimiser for each.

    codec:           fidelity · d(x, x_hat) + perceptual · P + adversarial · (D(x_hat) − 1)²/2 + matching · FM
    discriminators:  (D(x) − 1)²/2 + D(x_hat)²/2

d is, by the record's `distortion`, the squared error of values in [-1, 1] (Agustsson et al. 2019, section 5), 1 − MS-SSIM,
or Zhao 2017's mix; `chroma` counts the squared error of colour differences that many times, since a short training
otherwise ends in grey. With `jitter`, classifier and discriminators see each crop without some rows above and columns on
the left, other ones in each step: both halve the sides again and again as the generator doubles them, and where the two
always meet in the same places, a pattern of these places pleases them. d and P carry the weight map where the mechanism
has one. For `select` the weight is 1 where codes are kept and OUTSIDE elsewhere, divided by its mean: the generator may
invent there. The first `start` of the steps know d alone. Rates need no term: they are fixed by C.

The record's `fault` plants what ailed the public port (codecs/agustsson2019.py): `gradient` and `relu` live in the codec,
`scale` lets the generator see one discriminator of three, `augment` cuts the same crop of each picture, never mirrored.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.codecs.base import Codec
from models.losses import l1_ms_ssim, ms_ssim
from models.training.critics import (
    Discriminators,
    EfficientFeatures,
    discriminator_loss,
    feature_matching,
    generator_loss,
    perceptual_distance,
)
from models.training.data import Batch, Crops, FrameSet, Places
from models.training.loop import Diverged, Move, Rows
from models.training.rate_distortion import Draw, Plan, RateDistortion, read_fields

DISCRIMINATORS = "discriminators.safetensors"
OUTSIDE = 0.1
"""Weight of the places whose codes `select` drops, before division by the mean."""
FALLEN_DB, FALLEN_STEPS = 6.0, 500
"""A training whose PSNR was that much below the best of its phase for so many steps has diverged: it does not come back by
itself."""


class Terms(NamedTuple):
    """A record's numbers beyond Plan. Weights of the loss; start: the share of the steps with the distortion d alone."""

    fidelity: float
    perceptual: float
    adversarial: float
    matching: float
    start: float
    chroma: float
    features: str
    jitter: int
    width: int
    scales: int
    lr_factor: float
    beta1: float
    faults: tuple[str, ...] = ()

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Terms":
        """Raises FoveaError for a record that lacks a field, naming it."""
        named = {"width": "critic_width", "scales": "critic_scales", "lr_factor": "critic_lr"}
        faults = tuple(str(record.get("fault", "")).split("+"))
        return cls(**read_fields(cls, record, **named), faults=faults)

    @property
    def judging(self) -> bool:
        """Whether any term asks the discriminators."""
        return self.adversarial > 0 or self.matching > 0

    def first_judged(self, steps: int) -> int:
        """The first step with more than the distortion."""
        return round(self.start * steps)


class FixedCrops(Crops):
    """The middle of each picture, never mirrored: the port's fault of no augmentation."""

    def places(self, step: int) -> Places:
        """As `Crops.places`, without chance but the order of the pictures."""
        places = super().places(step)
        top = np.maximum(self._heights[places.picture] - self.crop, 0) // 2
        left = np.maximum(self._widths[places.picture] - self.crop, 0) // 2
        return Places(places.picture, top, left, np.zeros(len(top), dtype=np.bool_))


def cutter_of(terms: Terms) -> type[Crops]:
    """What cuts the crops, by the record."""
    return FixedCrops if "augment" in terms.faults else Crops


class Judgement(NamedTuple):
    """The generator's loss and its parts, means over the batch. mse: never weighted, on 0..255."""

    loss: Tensor
    mse: Tensor
    perceptual: Tensor
    adversarial: Tensor
    matching: Tensor


class Judges:
    """What the generator's pictures are held against: discriminators and a classifier's features."""

    def __init__(self, terms: Terms, seed: int, device: torch.device):
        self.terms = terms
        random = torch.get_rng_state()
        torch.manual_seed(seed + 0xD15C)
        self.discriminators = Discriminators(terms.width, terms.scales).to(device)
        torch.set_rng_state(random)
        self.features = EfficientFeatures(terms.features).to(device) if terms.perceptual else None

    def judge(
        self,
        x: Tensor,
        x_hat: Tensor,
        *,
        distortion: str,
        weight: Tensor | None,
        judged: bool,
        cut: tuple[int, int] = (0, 0),
    ) -> Judgement:
        """The generator's loss; judged: not the distortion alone. weight: N×1×H×W or None. cut: how many rows above and
        columns on the left classifier and discriminators do not see."""
        terms = self.terms
        squared = (x_hat - x).square().mean(dim=1, keepdim=True)
        w = torch.ones_like(squared) if weight is None else weight
        if distortion == "mse":
            d = 4 * (w * self._squared(x_hat - x, squared)).mean()
        elif distortion == "ms_ssim":
            d = (w.mean(dim=(1, 2, 3)) * (1 - ms_ssim(x_hat, x, weight=weight))).mean()
        else:
            d = (w * l1_ms_ssim(x_hat, x)).mean()
        zero = x.new_zeros(())
        p = adversarial = matching = zero
        if judged:
            x, x_hat = seen_part(x, cut), seen_part(x_hat, cut)
            weight = None if weight is None else seen_part(weight, cut)
        if judged and self.features is not None:
            p = perceptual_distance(self.features, x_hat, x, weight).mean()
        if judged and terms.judging:
            fake = self.discriminators(x_hat)
            with torch.no_grad():
                real = self.discriminators(x)
            adversarial = generator_loss(fake, 1 if "scale" in terms.faults else terms.scales)
            matching = feature_matching(real, fake)
        loss = terms.fidelity * d + terms.perceptual * p
        loss = loss + terms.adversarial * adversarial + terms.matching * matching
        return Judgement(loss, 255**2 * squared.mean(), p, adversarial, matching)

    def _squared(self, error: Tensor, squared: Tensor) -> Tensor:
        """N×1×H×W: the mean over colours of the squared error N×3×H×W, its part off the grey axis times `chroma`."""
        if self.terms.chroma == 1:
            return squared
        grey = error.mean(dim=1, keepdim=True).square()
        return grey + self.terms.chroma * (squared - grey)


def cut_of(plan: Plan, terms: Terms, step: int) -> tuple[int, int]:
    """How many rows above and columns on the left the judges do not see in a step: at random, each less than `jitter`."""
    if terms.jitter == 1:
        return 0, 0
    above, left = np.random.default_rng([plan.seed, step, 0x5417]).integers(terms.jitter, size=2)
    return int(above), int(left)


def seen_part(x: Tensor, cut: tuple[int, int]) -> Tensor:
    """N×C×H×W without its first rows and columns."""
    return x if cut == (0, 0) else x[:, :, cut[0] :, cut[1] :]


def weight_of(plan: Plan, codec: Codec, batch: Batch, drawn: Draw) -> Tensor | None:
    """The weight map of a step's distortion, N×1×H×W: that of the arm, times 0 on padding; for `select` that of the
    region."""
    weight = drawn.weight
    region = getattr(codec, "region", None)
    if plan.mechanism == "select" and region is not None:
        kept = region(drawn.saliency_map)
        weight = kept + OUTSIDE * (1 - kept)
        weight = F.interpolate(weight / weight.mean(dim=(1, 2, 3), keepdim=True), batch.x.shape[2:])
    if batch.valid is not None:
        weight = batch.valid if weight is None else weight * batch.valid
    return weight


class Adversarial(RateDistortion):
    """A codec against discriminators; the artifact also holds these."""

    names = ("loss", "mse", "perceptual", "adversarial", "matching", "discriminator")
    shown = ("loss", "psnr_db", "perceptual", "discriminator")

    def __init__(self, record: Mapping[str, Any], codec: Codec, frames: FrameSet):
        super().__init__(record, codec, frames)
        self.terms = Terms.of(record)
        self.cutter = cutter_of(self.terms)

    def equip(self) -> None:
        """Discriminators, classifier, an optimiser for each side."""
        lr = self.plan.lr
        self.judges = Judges(self.terms, self.plan.seed, self.device)
        self.critics: list[Tensor] = [*self.judges.discriminators.parameters()]
        self.networks["discriminators"] = self.judges.discriminators
        self.optimisers = {
            "main": torch.optim.Adam(self.averaged, lr=lr, betas=(self.terms.beta1, 0.999), fused=True),
            "critics": torch.optim.Adam(self.critics, lr=lr, betas=(0.5, 0.999), fused=True),
        }

    def moves(self, step: int) -> Iterator[Move]:
        """The generator's, then the discriminators' on the same reconstructions."""
        plan, terms, judges = self.plan, self.terms, self.judges
        generator, critics = self.optimisers["main"], self.optimisers["critics"]
        judged = step >= terms.first_judged(plan.steps)
        batch, drawn = self.drawn(step, None)
        self.noise.seed(plan.seed, step)
        with self.noise:
            output = self.codec(batch.x, saliency_map=drawn.saliency_map, level=drawn.level)
        x_hat = output.x_hat if batch.valid is None else torch.where(batch.valid > 0, output.x_hat, batch.x)
        judges.discriminators.requires_grad_(False)
        weight = weight_of(plan, self.codec, batch, drawn)
        cut = cut_of(plan, terms, step)
        found = judges.judge(batch.x, x_hat, distortion=plan.distortion, weight=weight, judged=judged, cut=cut)
        lr = plan.lr_at(step)
        generator.param_groups[0]["lr"] = lr
        critics.param_groups[0]["lr"] = lr * terms.lr_factor
        numbers = torch.stack((found.loss, found.mse, found.perceptual, found.adversarial, found.matching)).detach()
        yield Move(self.part * found.loss, generator, self.averaged, plan.clip_norm, numbers)
        if not (judged and terms.judging):
            return
        judges.discriminators.requires_grad_(True)
        opposed = discriminator_loss(
            judges.discriminators(seen_part(batch.x, cut)),
            judges.discriminators(seen_part(x_hat.detach().clamp(-0.5, 1.5), cut)),
        )
        yield Move(self.part * opposed, critics, self.critics, 0.0, opposed.detach()[None])

    def decay(self, step: int) -> float:
        """Less in the first steps, so that the average forgets the random weights."""
        return min(self.plan.ema, (1 + step) / (10 + step))

    def about(self, step: int) -> str:
        return self.seen_at(step)

    def check(self, rows: Rows) -> None:
        """Raises Diverged for a training that has lost what it had, while loss and gradient are still finite. What the
        phase of the distortion alone had, the next one may give up."""
        start = self.terms.first_judged(self.plan.steps)
        seen = [(step, row["psnr_db"]) for step, row in rows if "psnr_db" in row]
        seen = [one for one in seen if one[0] > start] or seen
        at, best = max(seen, key=lambda one: one[1])
        kept = max(step for step, psnr_db in seen if psnr_db >= best - FALLEN_DB)
        last, now = seen[-1]
        if last - kept >= FALLEN_STEPS:
            raise Diverged(
                f"the training has lost what it had: {best:.1f} dB PSNR at step {at}, {now:.1f} dB at step {last}, and no "
                f"step since {kept} was near: lower lr (it was {self.plan.lr_at(kept):g} there) or clip_norm (0 clips nothing)"
            )

    def write(self, folder: Path) -> Path:
        """The codec's files and the discriminators."""
        from safetensors.torch import save_file

        critics = self.judges.discriminators.state_dict()
        save_file({k: v.detach().cpu().contiguous() for k, v in critics.items()}, folder / DISCRIMINATORS)
        return super().write(folder)
