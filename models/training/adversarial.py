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

As in loop.py a step is a pure function of (record, data, initial weights, step): crops come from a counter-based
generator, the generator's noise from one that is seeded for each step. A checkpoint holds both networks, both optimisers
and the average, so a run that was killed and started again ends at the weights of an undisturbed one, bit for bit.

The record's `fault` plants what ailed the public port (codecs.md): `gradient` and `relu` live in the codec, `scale` lets
the generator see one discriminator of three, `augment` cuts the same crop of each picture, never mirrored.
"""

import copy
import hashlib
import json
import math
import os
import platform
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.codecs.base import Codec
from models.errors import FoveaError
from models.losses import l1_ms_ssim, ms_ssim
from models.tracking import Run
from models.training.checkpoint import drop_checkpoints, load_checkpoint, save_checkpoint
from models.training.critics import (
    Discriminators,
    discriminator_loss,
    feature_matching,
    feature_network,
    generator_loss,
    perceptual_distance,
)
from models.training.data import Batch, Crops, FrameSet, Places
from models.training.loop import (
    MAX_SKIPPED,
    PROGRESS_S,
    Diverged,
    Draw,
    Plan,
    SeededNoise,
    TrainingStopped,
    draw,
    identity_of,
    torch_settings,
)

DISCRIMINATORS = "discriminators.safetensors"
OUTSIDE = 0.1
"""Weight of the places whose codes `select` drops, before division by the mean."""
FALLEN_DB, FALLEN_STEPS = 6.0, 500
"""A training whose PSNR was that much below the best of its phase for so many steps has diverged: it does not come back by
itself."""
SUMS = ("loss", "mse", "perceptual", "adversarial", "matching", "discriminator", "grad_norm", "skipped")


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
    faults: tuple[str, ...]

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Terms":
        """Raises FoveaError for a record that lacks a field, naming it."""
        try:
            return cls(
                fidelity=float(record["fidelity"]),
                perceptual=float(record["perceptual"]),
                adversarial=float(record["adversarial"]),
                matching=float(record["matching"]),
                start=float(record["start"]),
                chroma=float(record["chroma"]),
                features=str(record["features"]),
                jitter=int(record["jitter"]),
                width=int(record["critic_width"]),
                scales=int(record["critic_scales"]),
                lr_factor=float(record["critic_lr"]),
                beta1=float(record["beta1"]),
                faults=tuple(str(record["fault"]).split("+")),
            )
        except KeyError as error:
            raise FoveaError(
                f"the record has no field {error}; give train() an experiment's resolved()"
            ) from error

    @property
    def judging(self) -> bool:
        """Whether any term asks the discriminators."""
        return self.adversarial > 0 or self.matching > 0

    def first_judged(self, steps: int) -> int:
        """The first step with more than the distortion."""
        return round(self.start * steps)

    def scales_seen(self) -> int:
        """How many discriminators the generator's adversarial term counts."""
        return 1 if "scale" in self.faults else self.scales


class FixedCrops(Crops):
    """The middle of each picture, never mirrored: the port's fault of no augmentation."""

    def places(self, step: int) -> Places:
        """As `Crops.places`, without chance but the order of the pictures."""
        places = super().places(step)
        top = np.maximum(self._heights[places.picture] - self.crop, 0) // 2
        left = np.maximum(self._widths[places.picture] - self.crop, 0) // 2
        return Places(places.picture, top, left, np.zeros(len(top), dtype=np.bool_))


def crops_of(plan: Plan, terms: Terms, frames: FrameSet, device: torch.device) -> Crops:
    """Where training cuts its crops, by the record."""
    kind = FixedCrops if "augment" in terms.faults else Crops
    return kind(
        frames, seed=plan.seed, batch=plan.batch, crop=plan.crop, device=device, weighting=plan.weighting
    )


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
        self.features = feature_network(terms.features).to(device) if terms.perceptual else None

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
            adversarial = generator_loss(fake, terms.scales_seen())
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


class State:
    """Everything that a step changes, and its way into a checkpoint and back."""

    def __init__(self, plan: Plan, codec: Codec, judges: Judges, device: torch.device):
        self.plan, self.codec, self.judges = plan, codec, judges
        self.main: list[Tensor] = [*codec.main_parameters()]
        self.critics: list[Tensor] = [*judges.discriminators.parameters()]
        betas = (judges.terms.beta1, 0.999)
        self.optimiser = torch.optim.Adam(self.main, lr=plan.lr, betas=betas, fused=True)
        self.critic_optimiser = torch.optim.Adam(self.critics, lr=plan.lr, betas=(0.5, 0.999), fused=True)
        self.average = [p.detach().clone() for p in self.main] if plan.ema else []
        self.step, self.wall_s, self.summed = 0, 0.0, 0
        #: sums over the steps since the last row
        self.sums = torch.zeros(len(SUMS), dtype=torch.float64, device=device)
        self.bad = 0
        self.rows: list[tuple[int, dict[str, float]]] = []

    def snapshot(self, identity: str) -> dict[str, Any]:
        """What `restore` needs."""
        return {
            "identity": identity,
            "step": self.step,
            "wall_s": self.wall_s,
            "parameters": {n: p.detach() for n, p in self.codec.named_parameters()},
            "critics": {n: p.detach() for n, p in self.judges.discriminators.named_parameters()},
            "optimiser": self.optimiser.state_dict(),
            "critic_optimiser": self.critic_optimiser.state_dict(),
            "average": self.average,
            "sums": self.sums,
            "summed": self.summed,
            "bad": self.bad,
            "rows": json.dumps(self.rows),
        }

    @torch.no_grad()
    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from a snapshot of the same training."""
        for name, parameter in self.codec.named_parameters():
            parameter.copy_(saved["parameters"][name])
        for name, parameter in self.judges.discriminators.named_parameters():
            parameter.copy_(saved["critics"][name])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.critic_optimiser.load_state_dict(saved["critic_optimiser"])
        for own, kept in zip(self.average, saved["average"], strict=True):
            own.copy_(kept)
        self.sums.copy_(saved["sums"])
        self.step, self.summed, self.bad = int(saved["step"]), int(saved["summed"]), int(saved["bad"])
        self.wall_s = float(saved["wall_s"])
        self.rows = [(int(step), dict(values)) for step, values in json.loads(saved["rows"])]

    @torch.no_grad()
    def averaged(self) -> Codec:
        """A copy of the codec with the weights that will be kept: the running average where there is one."""
        chosen = copy.deepcopy(self.codec)
        for parameter, average in zip(chosen.main_parameters(), self.average, strict=False):
            parameter.copy_(average)
        return chosen.eval()


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


def train(
    record: Mapping[str, Any],
    codec: Codec,
    frames: FrameSet,
    *,
    workdir: Path,
    tracker_run: Run,
    probe: Callable[[int, Codec], Mapping[str, float]] | None = None,
    device: str | torch.device = "cpu",
    threads: int | None = None,
    checkpoint_every: int = 500,
    probe_every: int = 1000,
    probe_at: Collection[int] = (),
    progress: Callable[[int, int, Mapping[str, float]], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Path:
    """Train `codec` in place against discriminators, or go on with what an interrupted call left in `workdir`.

    Arguments, result and errors are those of models.training.loop.train; the folder also holds the discriminators.
    """
    plan, terms = Plan.of(record), Terms.of(record)
    device = torch.device(device)
    final = workdir / "final"
    if (final / "training.json").exists():
        return final
    if plan.mechanism != codec.config.mechanism:
        raise FoveaError(
            f"the record says mechanism {plan.mechanism!r}, the codec was built for {codec.config.mechanism!r}"
        )
    if plan.mechanism != "none" and frames.maps is None:
        raise FoveaError(f"mechanism {plan.mechanism!r} needs a saliency map for each picture")
    if plan.crop % codec.stride:
        raise FoveaError(f"crop {plan.crop} is not a multiple of {codec.stride}, this codec's stride")
    if plan.mechanism == "none":
        frames = FrameSet(frames.pictures, None, frames.names)
    with torch_settings(plan, device, threads):
        identity = identity_of(record, codec, frames)
        codec.to(device).train()
        state = State(plan, codec, Judges(terms, plan.seed, device), device)
        saved = load_checkpoint(workdir, device)
        if saved is not None:
            if saved["identity"] != identity:
                raise FoveaError(
                    f"{workdir} holds the checkpoint of another training (other record, data or initial weights): "
                    "delete the folder or take another one"
                )
            state.restore(saved)
            tracker_run.log_metrics(state.rows)
        crops = crops_of(plan, terms, frames, device)
        noise = SeededNoise(device)
        row_every = max(1, min(50, plan.steps // 20))
        logged = len(state.rows)
        started, shown = time.monotonic() - state.wall_s, 0.0
        row_time, row_step = time.monotonic(), state.step
        while state.step < plan.steps:
            _take_step(plan, terms, state, crops, noise)
            last = state.step == plan.steps
            if state.step % row_every == 0 or last:
                now = time.monotonic()
                rate = (state.step - row_step) * plan.batch / max(now - row_time, 1e-9)
                state.rows.append((state.step, _row(plan, state) | {"images_per_s": rate}))
                row_time, row_step = now, state.step
                _check_kept(state.rows, plan, terms)
            if probe is not None and (state.step % probe_every == 0 or state.step in probe_at or last):
                seen = dict(probe(state.step, state.averaged()))
                if seen:
                    state.rows.append((state.step, seen))
                codec.train()
                row_time = time.monotonic()
            stopping = should_stop is not None and should_stop()
            if state.step % checkpoint_every == 0 or last or stopping:
                state.wall_s = time.monotonic() - started
                save_checkpoint(workdir, state.step, state.snapshot(identity))
                tracker_run.log_metrics(state.rows[logged:])
                logged = len(state.rows)
            if progress is not None and (last or time.monotonic() - shown > PROGRESS_S):
                shown = time.monotonic()
                progress(state.step, plan.steps, _seen(state))
            if stopping and not last:
                raise TrainingStopped(f"stopped at step {state.step} of {plan.steps}; run again to go on")
        _finish(record, plan, state, workdir, final, device)
    return final


def _take_step(plan: Plan, terms: Terms, state: State, crops: Crops, noise: SeededNoise) -> None:
    """The generator's step, then the discriminators' on the same reconstructions. A step without a finite loss and
    gradient changes no weight."""
    codec, judges, step = state.codec, state.judges, state.step
    judged = step >= terms.first_judged(plan.steps)
    batch = crops.at(step)
    drawn = draw(plan, codec, batch, None, step)
    noise.seed(plan.seed, step)
    with noise:
        output = codec(batch.x, saliency_map=drawn.saliency_map, level=drawn.level)
    x_hat = output.x_hat if batch.valid is None else torch.where(batch.valid > 0, output.x_hat, batch.x)
    judges.discriminators.requires_grad_(False)
    weight = weight_of(plan, codec, batch, drawn)
    cut = cut_of(plan, terms, step)
    found = judges.judge(batch.x, x_hat, distortion=plan.distortion, weight=weight, judged=judged, cut=cut)
    found.loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(state.main, plan.clip_norm or math.inf, foreach=True)
    finite = bool(torch.isfinite(found.loss) & torch.isfinite(norm))
    lr = plan.lr_at(step)
    if finite:
        state.optimiser.param_groups[0]["lr"] = lr
        state.optimiser.step()
    state.optimiser.zero_grad(set_to_none=True)
    opposed = torch.zeros_like(norm)
    if judged and terms.judging and finite:
        judges.discriminators.requires_grad_(True)
        opposed = discriminator_loss(
            judges.discriminators(seen_part(batch.x, cut)),
            judges.discriminators(seen_part(x_hat.detach().clamp(-0.5, 1.5), cut)),
        )
        opposed.backward()
        state.critic_optimiser.param_groups[0]["lr"] = lr * terms.lr_factor
        state.critic_optimiser.step()
        state.critic_optimiser.zero_grad(set_to_none=True)
    with torch.no_grad():
        if state.average and finite:
            torch._foreach_lerp_(state.average, state.main, 1 - min(plan.ema, (1 + step) / (10 + step)))
        if finite:
            parts = (
                found.loss,
                found.mse,
                found.perceptual,
                found.adversarial,
                found.matching,
                opposed,
                norm,
            )
            state.sums[:-1] += torch.stack([p.detach() for p in parts]).double()
        state.sums[-1] += float(not finite)
    state.summed += 1
    state.bad = 0 if finite else state.bad + 1
    state.step = step + 1
    if state.bad >= MAX_SKIPPED:
        names = ", ".join(crops.frames.name(int(i)) for i in batch.picture)
        raise Diverged(
            f"loss or gradient was not finite for {state.bad} steps in a row, until step {step} (learning rate {lr:g}; "
            f"its batch: {names}): lower lr or clip_norm, or look at these pictures"
        )


def _means(state: State) -> dict[str, float]:
    sums = dict(zip(SUMS, state.sums.tolist(), strict=True))
    good = max(state.summed - sums["skipped"], 1)
    row = {name: sums[name] / good for name in SUMS[:-1]}
    row["psnr_db"] = 10 * math.log10(255**2 / max(row["mse"], 1e-9))
    return row


def _row(plan: Plan, state: State) -> dict[str, float]:
    """Means since the last row."""
    row = _means(state) | {"lr": plan.lr_at(state.step - 1), "skipped": float(state.sums[-1])}
    state.sums.zero_()
    state.summed = 0
    return row


def _check_kept(rows: Sequence[tuple[int, Mapping[str, float]]], plan: Plan, terms: Terms) -> None:
    """Raises Diverged for a training that has lost what it had, while loss and gradient are still finite. What the phase
    of the distortion alone had, the next one may give up."""
    start = terms.first_judged(plan.steps)
    seen = [(step, row["psnr_db"]) for step, row in rows if "psnr_db" in row]
    seen = [one for one in seen if one[0] > start] or seen
    at, best = max(seen, key=lambda one: one[1])
    kept = max(step for step, psnr_db in seen if psnr_db >= best - FALLEN_DB)
    last, now = seen[-1]
    if last - kept >= FALLEN_STEPS:
        raise Diverged(
            f"the training has lost what it had: {best:.1f} dB PSNR at step {at}, {now:.1f} dB at step {last}, and no step "
            f"since {kept} was near: lower lr (it was {plan.lr_at(kept):g} there) or clip_norm (0 clips nothing)"
        )


def _seen(state: State) -> dict[str, float]:
    """What a progress line shows."""
    row = _means(state) if state.summed else next((r for _, r in reversed(state.rows) if "loss" in r), {})
    return {k: row[k] for k in ("loss", "psnr_db", "perceptual", "discriminator") if k in row}


def _finish(
    record: Mapping[str, Any], plan: Plan, state: State, workdir: Path, final: Path, device: torch.device
) -> None:
    """Write the artifact; the checkpoints are dropped last."""
    from safetensors.torch import save_file

    from models.codecs.catalogue import save_codec

    trained = state.averaged().to("cpu")
    trained.update()
    beside = workdir / f".final.{os.getpid()}"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    save_codec(trained, beside)
    critics = state.judges.discriminators.state_dict()
    save_file({k: v.detach().cpu().contiguous() for k, v in critics.items()}, beside / DISCRIMINATORS)
    (beside / "history.json").write_text(
        json.dumps([{"step": step} | values for step, values in state.rows], indent=0)
    )
    facts = {
        "record": dict(record),
        "steps": plan.steps,
        "wall_s": round(state.wall_s, 3),
        "steps_per_s": round(plan.steps / max(state.wall_s, 1e-9), 3),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "mode": "fast" if plan.fast else "deterministic",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "weights_sha256": hashlib.sha256((beside / "weights.safetensors").read_bytes()).hexdigest(),
    }
    (beside / "training.json").write_text(json.dumps(facts, indent=1, sort_keys=True))
    shutil.rmtree(final, ignore_errors=True)
    beside.replace(final)
    drop_checkpoints(workdir)
