"""Rate–distortion training: the objective of codecs that have a rate to weigh.

Crops, mirrored or not, and levels come from counter-based generators, the quantisation noise from a generator of its own
that is seeded for each step. The main parameters and the quantiles (whose loss has no gradient in common with the rest)
are groups of one fused Adam: CompressAI's two optimisers in one pass.
"""

import copy
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from models.codecs.base import LEVEL_STEPS, Codec, map_to_tensor
from models.device import has_bfloat16
from models.errors import FoveaError
from models.losses import rate_distortion
from models.mechanisms import LEVELLED
from models.saliency.weighting import augment_maps, weight_map
from models.training.data import Batch, Crops, FrameSet, Weighting
from models.training.exact import SeededNoise
from models.training.loop import Move, Objective
from models.training.ranks import Ranks
from models.training.soap import Soap

#: fields of a record that `identity` leaves out: they name things, `saliency` what made the maps, which are in it themselves
NOT_IN_IDENTITY = frozenset({"kind", "dataset", "preset", "arm", "trunk", "saliency"})
#: mechanisms whose loss is weighted; LEVELLED ones have a lambda at each place instead
WEIGHTED = ("loss", "concat", "sft")
#: share of the batches of LEVELLED ones whose level is the same everywhere, so that the codec stays good at that
UNIFORM_SHARE = 0.25


def read_fields(kind: Any, record: Mapping[str, Any], **named: str) -> dict[str, Any]:
    """The texts and numbers that a NamedTuple takes, as its annotations have them. named: what the record calls a
    field, where that is another name. Raises FoveaError for a record that lacks one without a default."""
    found = {}
    for field, annotation in kind.__annotations__.items():
        name = named.get(field, field)
        if name in record and annotation in (int, float, str, bool):
            found[field] = annotation(record[name])
        elif name not in record and field not in kind._field_defaults:
            raise FoveaError(f"the record has no field {name!r}; give train() an experiment's resolved()")
    return found


class Plan(NamedTuple):
    """The numbers of a record, typed.

    optimiser: "adam" or "soap" (soap.py). balance: the Lagrangian of a picture at lambda counts
    (middle lambda / lambda)^balance, so that the high rates, whose Lagrangian is largest, do not decide everything. trim: by
    how many latent places, at most, the sides of a step's crops are shorter than `crop`.
    """

    seed: int
    steps: int
    batch: int
    crop: int
    lr: float
    aux_lr: float
    clip_norm: float
    warmup_steps: int
    final_lr_factor: float
    ema: float
    distortion: str
    mechanism: str
    gamma: float = 1.0
    augment: float = 0.0
    fresh_lr_factor: float = 1.0
    optimiser: str = "adam"
    balance: float = 0.0
    trim: int = 0
    weighting: Weighting | None = None
    lmbda: tuple[float, ...] = ()
    fast: bool = False

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Plan":
        """Raises FoveaError for a record that lacks a field, naming it."""
        weighted = record.get("mechanism") in WEIGHTED
        return cls(
            **read_fields(cls, record, batch="batch_size"),
            weighting=Weighting(**read_fields(Weighting, record)) if weighted else None,
            lmbda=tuple(map(float, record.get("lmbda", ()))),
            fast=record.get("mode") == "fast",
        )

    def lr_at(self, step: int) -> float:
        """Linear warm-up, then a cosine from lr to lr · final_lr_factor at the last step."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        part = (step - self.warmup_steps) / max(self.steps - 1 - self.warmup_steps, 1)
        low = self.lr * self.final_lr_factor
        return low + (self.lr - low) * 0.5 * (1 + math.cos(math.pi * part))


class Draw(NamedTuple):
    """What a step gives the codec beside the batch."""

    level: Tensor
    saliency_map: Tensor | None
    centre: Tensor | None
    weight: Tensor | None


Drawn = TypeVar("Drawn", Batch, Draw)


def levels_at(plan: Plan, codec: Codec, step: int) -> np.ndarray:
    """The level of each item of a step's batch, float32. One lambda: the nearest level that a file can name. Several:
    spread evenly over the range with a random offset, in random order, so that each batch covers it."""
    low = codec.level_of(plan.lmbda[0]) if plan.lmbda else 0.0
    if len(plan.lmbda) <= 1:
        return np.full(plan.batch, round(low * LEVEL_STEPS) / LEVEL_STEPS, dtype=np.float32)
    high = codec.level_of(plan.lmbda[-1])
    rng = np.random.Generator(np.random.Philox(key=[plan.seed, 0x1E7E1], counter=[0, 0, 0, step]))
    parts = (rng.permutation(plan.batch) + rng.random()) / plan.batch
    return (low + (high - low) * parts).astype(np.float32)


def draw(plan: Plan, codec: Codec, batch: Batch, centres: Tensor | None, step: int) -> Draw:
    """Levels, maps and weights of a step."""
    device = batch.x.device
    level = torch.from_numpy(levels_at(plan, codec, step)).to(device, non_blocking=True)
    s, w = batch.s, batch.w
    if plan.mechanism == "none" or s is None:
        return Draw(level, None, None, None)
    centre = None
    if centres is not None:
        centre = centres[torch.from_numpy(batch.picture).to(device, non_blocking=True)]
    if plan.augment > 0:
        # a changed map belongs to its crop alone: the crop counts as a whole picture
        s, changed = augment_maps(s, seed=plan.seed, step=step, share=plan.augment)
        items = torch.from_numpy(changed).to(device, non_blocking=True)
        if w is not None and plan.weighting is not None:
            g = plan.weighting
            own = weight_map(s, alpha=g.alpha, gamma=g.gamma, normalised=g.normalised, scale=g.scale)
            w = torch.where(items[:, None, None, None], own, w)
        if centre is not None:
            centre = torch.where(items, _centre(codec, s, plan.gamma), centre)
    if plan.mechanism in LEVELLED:
        rng = np.random.Generator(np.random.Philox(key=[plan.seed, 0x0411], counter=[0, 0, 0, step]))
        if rng.random() < UNIFORM_SHARE:
            return Draw(level, torch.ones_like(s), None, None)
    return Draw(level, s, centre, w)


def _centre(codec: Codec, s: Tensor, gamma: float) -> Tensor:
    from models.codecs.conditioning import centre

    return centre(s, gamma, codec.stride * int(getattr(codec, "cell", 1)))


def whole_centres(codec: Codec, frames: FrameSet, device: torch.device) -> Tensor | None:
    """For `gain` and `hyper`: what the levels of each whole picture move around, as the encoder will compute it; N floats."""
    if codec.config.mechanism not in LEVELLED or frames.maps is None:
        return None
    gamma = codec.config.gamma
    values = [
        _centre(codec, map_to_tensor(np.ascontiguousarray(m), m.shape[:2], codec.stride), gamma) for m in frames.maps
    ]
    return torch.cat(values).to(device)


def _shared(values: Drawn, share: slice) -> Drawn:
    """The items of a batch that are a rank's."""
    return type(values)._make(None if v is None else v[share] for v in values)


def crops_of(plan: Plan, frames: FrameSet, device: torch.device, cutter: type[Crops] = Crops) -> Crops:
    """What cuts the crops of a training."""
    return cutter(frames, seed=plan.seed, batch=plan.batch, crop=plan.crop, device=device, weighting=plan.weighting)


class RateDistortion(Objective):
    """A codec's bits and distortion, lambda weighing the two, on crops of frames.

    record: `resolved()` of an Experiment or a Trunk. codec: built, with its initial or its trunk's weights, trained in
    place; its own `config.mechanism` says what it is given. frames: the train split, with the arm's maps where the
    mechanism uses them. Raises FoveaError when they or a field of the record are missing.
    """

    names: tuple[str, ...] = ("loss", "bpp", "mse")
    shown: tuple[str, ...] = ("loss", "bpp", "psnr_db")
    shareable = True
    cutter: type[Crops] = Crops
    half = False
    """Whether the weights are written as float16 numbers."""

    def __init__(self, record: Mapping[str, Any], codec: Codec, frames: FrameSet):
        self.record, self.codec = record, codec
        self.plan = plan = Plan.of(record)
        if plan.mechanism != codec.config.mechanism:
            raise FoveaError(
                f"the record says mechanism {plan.mechanism!r}, the codec was built for {codec.config.mechanism!r}"
            )
        if plan.mechanism != "none" and frames.maps is None:
            raise FoveaError(f"mechanism {plan.mechanism!r} needs a saliency map for each picture")
        if plan.crop % codec.stride:
            raise FoveaError(
                f"crop {plan.crop} is not a multiple of {codec.stride}, this codec's stride: take "
                f"{max(plan.crop // codec.stride, 1) * codec.stride}"
            )
        self.frames = FrameSet(frames.pictures, None, frames.names) if plan.mechanism == "none" else frames
        self.steps, self.batch, self.exact = plan.steps, plan.batch, not plan.fast
        self.row_every = max(1, min(50, plan.steps // 20))

    def prepare(self, device: torch.device, ranks: Ranks) -> None:
        plan = self.plan
        self.device, self.share = device, ranks.share(plan.batch)
        self.part = (self.share.stop - self.share.start) / plan.batch
        self.alone = ranks.alone
        self.noise = SeededNoise(device) if ranks.alone else SeededNoise(device, plan.batch, self.share)
        self.codec.to(device).train()
        self.averaged = [*self.trained(self.codec)]
        self.average = [p.detach().clone() for p in self.averaged] if plan.ema else []
        self.crops = crops_of(plan, self.frames, device, self.cutter)
        self.networks = {"codec": self.codec}
        self.optimisers = {}
        self.equip()

    def trained(self, codec: Codec) -> Sequence[Tensor]:
        """Of a codec the parameters that it changes, the quantiles not counted."""
        return codec.main_parameters()

    def equip(self) -> None:
        """The optimiser, and what else the steps need."""
        plan, main, aux = self.plan, self.averaged, [*self.codec.aux_parameters()]
        fresh = self.codec.fresh_parameters() if plan.fresh_lr_factor != 1 else []
        known = {id(p) for p in fresh}
        groups: list[dict[str, Any]] = [{"params": [p for p in main if id(p) not in known], "lr": plan.lr}]
        #: of the groups that follow the schedule, the first ones; kept here, since a checkpoint replaces what groups say
        self.factors = [1.0]
        if fresh:
            groups.append({"params": fresh, "lr": plan.lr})
            self.factors.append(plan.fresh_lr_factor)
        if aux:
            groups.append({"params": aux, "lr": plan.aux_lr})
        if plan.optimiser == "soap":
            groups[-1]["plain"] = bool(aux)
            self.optimisers["main"] = Soap(groups)
        else:
            self.optimisers["main"] = torch.optim.Adam(groups, fused=True)
        self.centres = whole_centres(self.codec, self.frames, self.device)

    def identity(self) -> str:
        """The record without names, the initial weights, the data."""
        hashed = hashlib.sha256()
        facts = {k: v for k, v in self.record.items() if k not in NOT_IN_IDENTITY}
        hashed.update(json.dumps(facts, sort_keys=True).encode())
        hashed.update(self.codec.config.to_json().encode())
        for name, parameter in self.codec.named_parameters():
            hashed.update(name.encode())
            hashed.update(parameter.detach().cpu().contiguous().numpy().tobytes())
        hashed.update(self.frames.digest().encode())
        return hashed.hexdigest()

    def autocast(self) -> torch.autocast:
        """For the forward of a step: in bfloat16 where the plan is fast and the device faster by it."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.plan.fast and has_bfloat16(self.device))

    def drawn(self, step: int, centres: Tensor | None) -> tuple[Batch, Draw]:
        """This rank's share of a step's batch and of what goes with it."""
        batch = self.crops.at(step)
        if self.plan.trim:
            batch = self._trimmed(batch, step)
        found = draw(self.plan, self.codec, batch, centres, step)
        return (batch, found) if self.alone else (_shared(batch, self.share), _shared(found, self.share))

    def _trimmed(self, batch: Batch, step: int) -> Batch:
        rng = np.random.Generator(np.random.Philox(key=[self.plan.seed, 0x7219], counter=[0, 0, 0, step]))
        height, width = self.plan.crop - self.codec.stride * rng.integers(0, self.plan.trim + 1, 2)
        x, s, w, valid = (None if v is None else v[..., :height, :width] for v in batch[:4])
        assert x is not None
        return Batch(x, s, w, valid, batch.picture)

    def moves(self, step: int) -> Iterator[Move]:
        """One step of both groups."""
        plan, optimiser = self.plan, self.optimisers["main"]
        batch, drawn = self.drawn(step, self.centres)
        self.noise.seed(plan.seed, step)
        with self.noise, self.autocast():
            output = self.codec(batch.x, saliency_map=drawn.saliency_map, level=drawn.level, centre=drawn.centre)
        found = rate_distortion(
            output,
            batch.x,
            weight=drawn.weight,
            distortion=plan.distortion,
            valid=batch.valid,
            emphasis=self.emphasis(drawn.level),
        )
        # the quantiles' gradient comes from no picture: it is the same on every rank
        loss = self.part * found.loss + self.codec.aux_loss()
        for group, factor in zip(optimiser.param_groups, self.factors, strict=False):
            group["lr"] = plan.lr_at(step) * factor
        numbers = torch.stack((found.loss, found.bpp, found.mse)).detach()
        yield Move(loss, optimiser, self.averaged, plan.clip_norm, numbers)

    def emphasis(self, level: Tensor) -> Tensor | None:
        """What each picture's Lagrangian counts, N, by its base level; see Plan."""
        if not self.plan.balance:
            return None
        codec = self.codec
        middle = codec.lmbda_at(level.new_full((1,), 0.5 * codec.top_level))
        return (middle / codec.lmbda_at(level)) ** self.plan.balance

    def decay(self, step: int) -> float:
        return self.plan.ema

    def derived(self, means: dict[str, float]) -> dict[str, float]:
        """With psnr_db."""
        return means | {"psnr_db": 10 * math.log10(255**2 / max(means["mse"], 1e-9))}

    def row(self, step: int, means: dict[str, float]) -> tuple[int, dict[str, float]]:
        """With the learning rate."""
        return step, self.derived(means) | {"lr": self.plan.lr_at(step - 1)}

    def about(self, step: int) -> str:
        """Rates, learning rate and pictures."""
        return f"lambda {', '.join(f'{v:g}' for v in self.plan.lmbda)}, {self.seen_at(step)}"

    def seen_at(self, step: int) -> str:
        """A step's learning rate and pictures, for messages."""
        names = ", ".join(self.frames.name(int(i)) for i in self.crops.places(step).picture)
        return f"learning rate {self.plan.lr_at(step):g}; its batch: {names}"

    @torch.no_grad()
    def chosen(self) -> Codec:
        """The codec with the running average of its weights where there is one."""
        kept = copy.deepcopy(self.codec)
        for parameter, average in zip(self.trained(kept), self.average, strict=False):
            parameter.copy_(average)
        return kept.eval()

    def write(self, folder: Path) -> Path:
        """The codec's files, its quantiles solved and its coding tables built."""
        from models.codecs.catalogue import WEIGHTS, save_codec

        trained = self.chosen().to("cpu")
        if self.half:
            trained.round_to_half()
        self.complete(trained)
        trained.update()
        save_codec(trained, folder, half=self.half)
        return folder / WEIGHTS

    def complete(self, trained: Codec) -> None:
        """What is found last, with the weights that are written."""
