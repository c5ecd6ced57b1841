"""The training loop: a record, a codec and frames in; a folder with weights, configuration and history out.

A step is a pure function of (record, data, initial weights, step): crops, mirrored or not, come from a counter-based
generator, the quantisation noise from a generator of its own that is seeded for each step, levels likewise. So a run
that was killed at any moment and started again ends at the weights of an undisturbed one, bit for bit on the same
machine, device and thread count, whatever else trains beside it in other processes or threads. One training may be
shared by several processes (ranks.py): equal to one process up to the order of floating-point sums.

The main parameters and the quantiles (whose loss has no gradient in common with the rest) are two groups of one fused
Adam: CompressAI's two optimisers in one pass.
"""

import copy
import hashlib
import json
import math
import os
import platform
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from models.codecs.base import LEVEL_STEPS, Codec, map_to_tensor
from models.codecs.conditioning import LEVELLED
from models.errors import FoveaError
from models.losses import rate_distortion
from models.memory import keep_freed_memory
from models.saliency.weighting import augment_maps, weight_map
from models.tracking import NullRun, Run
from models.training.checkpoint import drop_checkpoints, load_checkpoint, save_checkpoint
from models.training.data import Batch, Crops, FrameSet, Weighting
from models.training.ranks import Ranks, joined, packed, unpacked

#: fields of a record that name it and change nothing
NAMES_ONLY = frozenset({"kind", "dataset", "preset", "arm", "trunk", "saliency"})
#: mechanisms whose loss is weighted; LEVELLED ones have a lambda at each place instead
WEIGHTED = ("loss", "concat", "sft")
#: steps in a row without a finite loss and gradient that are skipped before giving up
MAX_SKIPPED = 20
#: share of the batches of LEVELLED ones whose level is the same everywhere, so that the codec stays good at that
UNIFORM_SHARE = 0.25
PROGRESS_S = 0.5
SUMS = ("loss", "bpp", "mse", "grad_norm", "skipped")


class TrainingStopped(FoveaError):
    """`should_stop` said so; a checkpoint was written and the same call goes on from it."""


class Diverged(FoveaError):
    """Loss or gradient was not finite for too many steps in a row, or an adversarial training lost what it had."""


class SeededNoise(TorchFunctionMode):
    """Everything random that torch draws inside comes from one generator instead of the process's global one.

    CompressAI's quantisation noise takes the global generator, which all threads of a process share. This mode holds
    for the calling thread only. A rank draws for the whole batch and takes its share.
    """

    IN_PLACE = frozenset({torch.Tensor.uniform_, torch.Tensor.normal_})
    DRAWS = IN_PLACE | {torch.rand, torch.randn}

    def __init__(self, device: torch.device, batch: int = 0, share: slice | None = None):
        super().__init__()
        self.generator = torch.Generator(device)
        self.batch, self.share = batch, share

    def seed(self, seed: int, step: int) -> None:
        """Restart the generator for a step."""
        mixed = np.random.SeedSequence([seed, step, 0x4015E]).generate_state(1, np.uint64)[0]
        self.generator.manual_seed(int(mixed))

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Adds the generator to a random function, passes everything else on."""
        kwargs = kwargs or {}
        if func in self.DRAWS and kwargs.get("generator") is None:
            kwargs["generator"] = self.generator
            if self.share is not None:
                return self._shared(func, args, kwargs, self.share)
        return func(*args, **kwargs)

    def _shared(self, func: Callable[..., Any], args: Any, kwargs: dict[str, Any], share: slice) -> Tensor:
        """This rank's part of what one process would draw for the whole batch.

        The batch is the first axis, or part of the last where CompressAI has its bottleneck's C×1×(N·h·w).
        """
        if func not in self.IN_PLACE:
            raise NotImplementedError(
                f"{func.__name__} has no share of a batch: draw with uniform_ or normal_"
            )
        own: Tensor = args[0]
        count = share.stop - share.start
        axis = 2 if own.ndim == 3 and own.shape[1] == 1 else 0
        places, rest = divmod(own.shape[axis], count)
        if rest or (axis == 0 and places != 1):
            raise NotImplementedError(f"random numbers of shape {tuple(own.shape)} for a batch of {count}")
        shape = list(own.shape)
        shape[axis] = self.batch * places
        layout = torch.contiguous_format if own.is_contiguous() else torch.channels_last
        whole = torch.empty(shape, dtype=own.dtype, device=own.device, memory_format=layout)
        func(whole, *args[1:], **kwargs)
        return own.copy_(whole.narrow(axis, share.start * places, count * places))


class Plan(NamedTuple):
    """The numbers of a record, typed. Learning rates are Adam's."""

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
    weighting: Weighting | None
    gamma: float
    lmbda: tuple[float, ...]
    fast: bool
    augment: float
    fresh_lr_factor: float = 1.0

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Plan":
        """Raises FoveaError for a record that lacks a field, naming it."""
        try:
            mechanism = str(record["mechanism"])
            weighting = None
            if mechanism in WEIGHTED:
                weighting = Weighting(
                    alpha=float(record["alpha"]),
                    gamma=float(record["gamma"]),
                    normalised=bool(record["normalised"]),
                    scale=float(record["scale"]),
                )
            return cls(
                seed=int(record["seed"]),
                steps=int(record["steps"]),
                batch=int(record["batch_size"]),
                crop=int(record["crop"]),
                lr=float(record["lr"]),
                aux_lr=float(record["aux_lr"]),
                clip_norm=float(record["clip_norm"]),
                warmup_steps=int(record["warmup_steps"]),
                final_lr_factor=float(record["final_lr_factor"]),
                ema=float(record["ema"]),
                distortion=str(record["distortion"]),
                mechanism=mechanism,
                weighting=weighting,
                gamma=float(record.get("gamma", 1.0)),
                lmbda=tuple(float(v) for v in record["lmbda"]),
                fast=record.get("mode", "deterministic") == "fast",
                augment=float(record.get("augment", 0.0)),
                fresh_lr_factor=float(record.get("fresh_lr_factor", 1.0)),
            )
        except KeyError as error:
            raise FoveaError(
                f"the record has no field {error}; give train() an experiment's resolved()"
            ) from error

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


def levels_at(plan: Plan, codec: Codec, step: int) -> np.ndarray:
    """The level of each item of a step's batch, float32.

    One lambda: the nearest level that a file can name. Several: spread evenly over the range with a random offset, in
    random order, so that each batch covers it.
    """
    low = codec.level_of(plan.lmbda[0])
    if len(plan.lmbda) == 1:
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
        _centre(codec, map_to_tensor(np.ascontiguousarray(m), m.shape[:2], codec.stride), gamma)
        for m in frames.maps
    ]
    return torch.cat(values).to(device)


_settings = threading.Lock()
_trainings: list[tuple[Any, ...]] = []


@contextmanager
def torch_settings(plan: Plan, device: torch.device, threads: int | None) -> Iterator[None]:
    """Threads and deterministic algorithms for the time of the training, the caller's settings afterwards.

    All but the thread count hold for the process: with several trainings in its threads the first to begin notes what
    to go back to, the last to end does it, and one that must be deterministic makes all of them so.
    """
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    else:
        keep_freed_memory()
    own_threads = torch.get_num_threads()
    with _settings:
        if not _trainings:
            _trainings.append(
                (
                    torch.are_deterministic_algorithms_enabled(),
                    torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
                    torch.backends.cudnn.benchmark,
                )
            )
        exact = not plan.fast or (len(_trainings) > 1 and torch.are_deterministic_algorithms_enabled())
        _trainings.append(())
        torch.use_deterministic_algorithms(exact)
        # each tensor is written before it is read: filling it first would only cost time
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = not exact
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(own_threads)
        with _settings:
            _trainings.pop()
            if len(_trainings) == 1:
                deterministic, fill, benchmark = _trainings.pop()
                torch.use_deterministic_algorithms(deterministic)
                torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
                torch.backends.cudnn.benchmark = benchmark


class State:
    """Everything that a step changes, and its way into a checkpoint and back. Equal on all ranks."""

    def __init__(self, plan: Plan, codec: Codec, device: torch.device, ranks: Ranks):
        self.plan, self.codec, self.device, self.ranks = plan, codec, device, ranks
        self.main: list[Tensor] = [*codec.main_parameters()]
        self.aux: list[Tensor] = [*codec.aux_parameters()]
        fresh = codec.fresh_parameters() if plan.fresh_lr_factor != 1 else []
        known = {id(p) for p in fresh}
        groups: list[dict[str, Any]] = [
            {"params": [p for p in self.main if id(p) not in known], "lr": plan.lr}
        ]
        #: of the groups that follow the schedule, the first ones; kept here, since a checkpoint replaces what groups say
        self.factors = [1.0]
        if fresh:
            groups.append({"params": fresh, "lr": plan.lr})
            self.factors.append(plan.fresh_lr_factor)
        if self.aux:
            groups.append({"params": self.aux, "lr": plan.aux_lr})
        self.optimiser = torch.optim.Adam(groups, fused=True)
        self.average = [p.detach().clone() for p in self.main] if plan.ema else []
        self.step = 0
        self.wall_s = 0.0
        #: sums over the steps since the last row; kept on the device, read once a row
        self.sums = torch.zeros(len(SUMS), dtype=torch.float64, device=device)
        self.summed = 0
        #: steps without a finite loss: in a row until now, and the longest row since the last look
        self.bad = torch.zeros(2, dtype=torch.int32, device=device)
        self.rows: list[tuple[int, dict[str, float]]] = []

    def snapshot(self, identity: str) -> dict[str, Any]:
        """What `restore` needs."""
        return {
            "identity": identity,
            "step": self.step,
            "wall_s": self.wall_s,
            "parameters": {name: p.detach() for name, p in self.codec.named_parameters()},
            "optimiser": self.optimiser.state_dict(),
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
        self.optimiser.load_state_dict(saved["optimiser"])
        for own, kept in zip(self.average, saved["average"], strict=True):
            own.copy_(kept)
        self.sums.copy_(saved["sums"])
        self.bad.copy_(saved["bad"])
        self.step, self.summed, self.wall_s = int(saved["step"]), int(saved["summed"]), float(saved["wall_s"])
        self.rows = [(int(step), dict(values)) for step, values in json.loads(saved["rows"])]

    @torch.no_grad()
    def averaged(self) -> Codec:
        """A copy of the codec with the weights that will be kept: the running average where there is one."""
        chosen = copy.deepcopy(self.codec)
        for parameter, average in zip(chosen.main_parameters(), self.average, strict=False):
            parameter.copy_(average)
        return chosen.eval()


def identity_of(record: Mapping[str, Any], codec: Codec, frames: FrameSet) -> str:
    """What a checkpoint belongs to: the record without names, the initial weights, the data."""
    hashed = hashlib.sha256()
    facts = {k: v for k, v in record.items() if k not in NAMES_ONLY}
    hashed.update(json.dumps(facts, sort_keys=True).encode())
    hashed.update(codec.config.to_json().encode())
    for name, parameter in codec.named_parameters():
        hashed.update(name.encode())
        hashed.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    hashed.update(frames.digest().encode())
    return hashed.hexdigest()


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
    ranks: Ranks | None = None,
) -> Path:
    """Train `codec` in place, or go on with what an interrupted call left in `workdir`; returns the artifact's folder.

    record: `resolved()` of an Experiment or a Trunk. codec: built, with its initial or its trunk's weights; in training
    its own `config.mechanism` says what it is given. frames: the train split, with the arm's maps where the mechanism
    uses them. probe: gets (step, a copy of the codec in eval mode) every `probe_every` steps, at the steps `probe_at` and
    at the end; what it returns is logged. threads: CPU threads for torch; part of what makes a run reproducible, None
    leaves them as they are. progress: gets (step, total, values) about twice a second. ranks: the processes that share the
    training, each of which makes this call with equal arguments (default: those that this one has joined); only rank 0
    looks at `workdir`, `tracker_run`, `probe`, `progress` and `should_stop`. A checkpoint does not know how many there were.

    The folder `final` appears complete or not at all: the codec's files, training.json (record, steps, wall_s,
    versions, device, threads, weights_sha256) and history.json (a row every few steps). Rows reach `tracker_run` at
    checkpoints, and again after a resume: it leaves out what it has.

    Raises TrainingStopped when `should_stop` says so, Diverged when loss or gradient stay non-finite, and FoveaError
    when `workdir` holds another training or the maps that the mechanism needs are missing.
    """
    plan = Plan.of(record)
    device = torch.device(device)
    final = workdir / "final"
    ranks = ranks or joined()
    ranks.begin()
    if ranks.told(lambda: b"done" if (final / "training.json").exists() else b""):
        return final
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
    if plan.mechanism == "none":
        frames = FrameSet(frames.pictures, None, frames.names)
    with torch_settings(plan, device, threads):
        return _train(
            record,
            plan,
            codec,
            frames,
            workdir,
            final,
            tracker_run,
            probe,
            device,
            checkpoint_every,
            probe_every,
            probe_at,
            progress,
            should_stop,
            ranks,
        )


def _train(
    record: Mapping[str, Any],
    plan: Plan,
    codec: Codec,
    frames: FrameSet,
    workdir: Path,
    final: Path,
    tracker_run: Run,
    probe: Callable[[int, Codec], Mapping[str, float]] | None,
    device: torch.device,
    checkpoint_every: int,
    probe_every: int,
    probe_at: Collection[int],
    progress: Callable[[int, int, Mapping[str, float]], None] | None,
    should_stop: Callable[[], bool] | None,
    ranks: Ranks,
) -> Path:
    identity = identity_of(record, codec, frames)
    ranks.check_equal("record, pictures or initial weights", identity.encode())
    share = ranks.share(plan.batch)
    codec.to(device).train()
    state = State(plan, codec, device, ranks)
    if not ranks.first:
        tracker_run, probe, progress, should_stop = NullRun(), None, None, None
    saved = _resumed(workdir, identity, device, ranks)
    if saved is not None:
        state.restore(saved)
        tracker_run.log_metrics(state.rows)

    crops = Crops(
        frames, seed=plan.seed, batch=plan.batch, crop=plan.crop, device=device, weighting=plan.weighting
    )
    centres = whole_centres(codec, frames, device)
    noise = SeededNoise(device) if ranks.alone else SeededNoise(device, plan.batch, share)
    row_every = max(1, min(50, plan.steps // 20))
    look_every = row_every if device.type != "cpu" else 1
    logged = len(state.rows)
    started, shown, shown_step = time.monotonic() - state.wall_s, 0.0, state.step
    row_time, row_step = time.monotonic(), state.step

    while state.step < plan.steps:
        step = state.step
        asking = not ranks.alone and ((step + 1) % look_every == 0 or step + 1 == plan.steps)
        asked = (should_stop is not None and should_stop()) if asking else None
        told = _take_step(plan, state, crops, centres, noise, share, asked)
        state.step = step + 1
        last = state.step == plan.steps

        if state.step % look_every == 0 or last:
            _check_finite(plan, state, crops)
        if state.step % row_every == 0 or last:
            now = time.monotonic()
            rate = (state.step - row_step) * plan.batch / max(now - row_time, 1e-9)
            state.rows.append((state.step, _row(plan, state) | {"images_per_s": rate}))
            row_time, row_step = now, state.step
        if probe is not None and (state.step % probe_every == 0 or state.step in probe_at or last):
            seen = dict(probe(state.step, state.averaged()))
            if seen:
                state.rows.append((state.step, seen))
            codec.train()
            row_time = time.monotonic()
        stopping = told or (ranks.alone and should_stop is not None and should_stop())
        if state.step % checkpoint_every == 0 or last or stopping:
            state.wall_s = time.monotonic() - started
            if not ranks.alone:
                ranks.check_equal(f"weights after step {state.step}", _fingerprint(codec))
            if ranks.first:
                save_checkpoint(workdir, state.step, state.snapshot(identity))
            tracker_run.log_metrics(state.rows[logged:])
            logged = len(state.rows)
        if progress is not None and (last or time.monotonic() - shown > PROGRESS_S):
            now = time.monotonic()
            seen = _seen(state)
            seen["steps_per_s"] = (state.step - shown_step) / max(now - max(shown, started), 1e-9)
            progress(state.step, plan.steps, seen)
            shown, shown_step = now, state.step
        if stopping and not last:
            raise TrainingStopped(f"stopped at step {state.step} of {plan.steps}; run again to go on")

    if ranks.first:
        _finish(record, plan, state, workdir, final, device)
    ranks.wait()
    return final


def _resumed(workdir: Path, identity: str, device: torch.device, ranks: Ranks) -> dict[str, Any] | None:
    """The state to go on from: what rank 0 finds in its folder, on every rank."""
    found: list[dict[str, Any] | None] = [None]

    def look() -> bytes:
        saved = found[0] = load_checkpoint(workdir, device)
        if saved is None:
            return b""
        if saved["identity"] != identity:
            raise FoveaError(
                f"{workdir} holds the checkpoint of another training (other record, data or initial weights): "
                "delete the folder or take another one"
            )
        return b"alone" if ranks.alone else packed(saved)

    payload = ranks.told(look)
    return found[0] if ranks.first or not payload else unpacked(payload, device)


def _fingerprint(codec: Codec) -> bytes:
    """All parameters' bits."""
    hashed = hashlib.sha256()
    for parameter in codec.parameters():
        hashed.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    return hashed.digest()


def _shared(batch: Batch, drawn: Draw, share: slice) -> tuple[Batch, Draw]:
    """The items of a batch that are a rank's."""

    def cut(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[share]

    own = Batch(batch.x[share], cut(batch.s), cut(batch.w), cut(batch.valid), batch.picture[share])
    return own, Draw(drawn.level[share], cut(drawn.saliency_map), cut(drawn.centre), cut(drawn.weight))


def _take_step(
    plan: Plan,
    state: State,
    crops: Crops,
    centres: Tensor | None,
    noise: SeededNoise,
    share: slice,
    stop: bool | None,
) -> bool:
    """Forward, backward, one step of both groups. A step without a finite loss and gradient changes no weight.

    share: this rank's items of the batch. stop: whether this rank wants to, None when nobody asks at this step. Gives
    whether one of them does, which comes with the sums.
    """
    codec, optimiser, step, ranks = state.codec, state.optimiser, state.step, state.ranks
    batch = crops.at(step)
    drawn = draw(plan, codec, batch, centres, step)
    if not ranks.alone:
        batch, drawn = _shared(batch, drawn, share)
    noise.seed(plan.seed, step)
    with noise, torch.autocast(state.device.type, torch.bfloat16, enabled=plan.fast):
        output = codec(batch.x, saliency_map=drawn.saliency_map, level=drawn.level, centre=drawn.centre)
    loss = rate_distortion(
        output, batch.x, weight=drawn.weight, distortion=plan.distortion, valid=batch.valid
    )
    part = (share.stop - share.start) / plan.batch
    own = loss.loss if ranks.alone else part * loss.loss
    total = own + codec.aux_loss() if state.aux else own
    total.backward()
    seen = torch.stack((loss.loss, loss.bpp, loss.mse)).detach()
    stopping = False
    if not ranks.alone:
        # the quantiles' gradient comes from no picture: it is the same everywhere
        flag = seen.new_tensor(float(bool(stop)))
        *sums, total, flag = ranks.sum_gradients(state.main, [*(part * seen), total.detach(), flag])
        seen = torch.stack(sums)
        stopping = stop is not None and bool(flag > 0)
    norm = torch.nn.utils.clip_grad_norm_(state.main, plan.clip_norm or math.inf, foreach=True)

    with torch.no_grad():
        finite = torch.isfinite(total) & torch.isfinite(norm)
        for group, factor in zip(optimiser.param_groups, state.factors, strict=False):
            group["lr"] = plan.lr_at(step) * factor
        optimiser.found_inf = (~finite).float()  # type: ignore[attr-defined]
        optimiser.grad_scale = None  # type: ignore[attr-defined]
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if state.average:
            torch._foreach_lerp_(state.average, state.main, 1 - plan.ema)
        state.sums[:4] += torch.where(finite, torch.cat((seen, norm[None])).double(), 0)
        state.sums[4] += ~finite
        state.summed += 1
        state.bad[0] = torch.where(finite, 0, state.bad[0] + 1)
        state.bad[1] = torch.maximum(state.bad[0], state.bad[1])
    return stopping


def _check_finite(plan: Plan, state: State, crops: Crops) -> None:
    """Give up when too many steps in a row were skipped."""
    longest = int(state.bad[1])
    state.bad[1] = 0
    if longest < MAX_SKIPPED:
        return
    step = state.step - 1
    names = ", ".join(crops.frames.name(int(i)) for i in crops.places(step).picture)
    lambdas = ", ".join(f"{v:g}" for v in plan.lmbda)
    raise Diverged(
        f"loss or gradient was not finite for {longest} steps in a row, until step {step} (lambda {lambdas}, "
        f"learning rate {plan.lr_at(step):g}; its batch: {names}): lower lr or clip_norm, or look at these pictures"
    )


def _row(plan: Plan, state: State) -> dict[str, float]:
    """Means since the last row."""
    sums = dict(zip(SUMS, state.sums.tolist(), strict=True))
    good = max(state.summed - sums["skipped"], 1)
    row = {name: sums[name] / good for name in SUMS[:-1]}
    row["psnr_db"] = 10 * math.log10(255**2 / max(row["mse"], 1e-9))
    row["lr"] = plan.lr_at(state.step - 1)
    row["skipped"] = sums["skipped"]
    state.sums.zero_()
    state.summed = 0
    return row


def _seen(state: State) -> dict[str, float]:
    """What a progress line shows: the running means, or the last row's where nothing has been summed since."""
    if state.summed == 0 and state.rows:
        row = next((r for _, r in reversed(state.rows) if "loss" in r), {})
        return {k: row[k] for k in ("loss", "bpp", "psnr_db") if k in row}
    sums = dict(zip(SUMS, state.sums.tolist(), strict=True))
    good = max(state.summed - sums["skipped"], 1)
    mse = sums["mse"] / good
    return {
        "loss": sums["loss"] / good,
        "bpp": sums["bpp"] / good,
        "psnr_db": 10 * math.log10(255**2 / max(mse, 1e-9)),
    }


def _finish(
    record: Mapping[str, Any], plan: Plan, state: State, workdir: Path, final: Path, device: torch.device
) -> None:
    """Solve the quantiles, build the tables, write the artifact; the checkpoints are dropped last."""
    from models.codecs.catalogue import save_codec

    trained = state.averaged().to("cpu")
    trained.update()
    beside = workdir / f".final.{os.getpid()}"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    save_codec(trained, beside)
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
        "processes": state.ranks.size,
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
