"""The training loop, whatever is trained: steps, clipping, averages, guards, rows, probes, checkpoints, several processes.

An `Objective` says what a batch is, which networks and optimisers there are, what a step computes and what is kept:
rate_distortion.py, adversarial.py, recurrent.py, sam_lite.py.

A step is a pure function of (record, data, initial weights, step), so a run that was killed at any moment and started
again ends at the weights of an undisturbed one, bit for bit on the same machine, device and thread count, whatever else
trains beside it in other processes or threads. One training may be shared by several processes (ranks.py): equal to one
process up to the order of floating-point sums.
"""

import hashlib
import json
import math
import os
import platform
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from models.errors import FoveaError
from models.tracking import Run
from models.training.checkpoint import drop_checkpoints, load_checkpoint, packed, save_checkpoint, unpacked
from models.training.exact import torch_settings
from models.training.ranks import Ranks, joined

PROGRESS_S = 0.5

Rows = list[tuple[int, dict[str, float]]]


class TrainingStopped(FoveaError):
    """`should_stop` said so; a checkpoint was written and the same call goes on from it."""


class Diverged(FoveaError):
    """Loss or gradient was not finite for too many steps in a row, or a training lost what it had."""


class Move(NamedTuple):
    """One backward pass and the update that follows it.

    loss: scalar; of the batch's items those that are this rank's, weighted by their part of it. parameters: those whose
    gradients the ranks share; their norm is held below `clip_norm` (0: any). numbers: a vector of means over this
    rank's items, detached, for the rows.
    """

    loss: Tensor
    optimiser: torch.optim.Optimizer
    parameters: Sequence[Tensor]
    clip_norm: float
    numbers: Tensor


class Objective(ABC):
    """What is trained, and how. `prepare` fills what is only declared here; everything in `networks`, `optimisers` and
    `average` goes into checkpoints and comes back in place."""

    record: Mapping[str, Any]
    #: at most so many; `done` may end sooner
    steps: int
    #: items of a step, over all ranks
    batch: int
    #: steps between rows
    row_every: int
    #: a checkpoint may only be taken after a multiple of so many steps
    unit: int = 1
    #: of the moves' numbers, in their order; a step without a later move counts 0 there
    names: tuple[str, ...]
    #: what a progress line shows, of the numbers since the last row or of the rows
    shown: tuple[str, ...]
    #: steps in a row without a finite loss and gradient that are skipped before giving up
    most_skipped = 20
    #: whether torch must be deterministic
    exact = True
    #: whether several processes may share the batches
    shareable = False

    networks: dict[str, nn.Module]
    optimisers: dict[str, torch.optim.Optimizer]
    #: tensors that change with steps, and their running average; both empty without one
    averaged: list[Tensor]
    average: list[Tensor]
    #: this rank's part of a batch, 0 to 1
    part = 1.0

    @abstractmethod
    def prepare(self, device: torch.device, ranks: Ranks) -> None:
        """Data and networks on the device, optimisers; called once, before everything that follows here."""

    @abstractmethod
    def identity(self) -> str:
        """What a checkpoint belongs to: a digest of all that decides the result."""

    @abstractmethod
    def moves(self, step: int) -> Iterator[Move]:
        """What a step does: it goes on after each move when that has changed the weights. The first move's gradient norm
        is what rows show."""

    def decay(self, step: int) -> float:
        """How much of the running average a step leaves."""
        return 0.0

    def derived(self, means: dict[str, float]) -> dict[str, float]:
        """The means over some steps, with what follows from them."""
        return means

    def row(self, step: int, means: dict[str, float]) -> tuple[int, dict[str, float]]:
        """The metrics after `step` steps, behind the number that they are logged at: the step, or an epoch. May look at
        held-out data."""
        return step, self.derived(means)

    def check(self, rows: Rows) -> None:  # noqa: B027
        """Raises Diverged for a training that is lost though everything is finite; called after each row."""

    def done(self, step: int) -> bool:
        """Whether training ends after `step` steps."""
        return step >= self.steps

    def about(self, step: int) -> str:
        """A step's circumstances, for messages."""
        return ""

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds beside networks, optimisers and average."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Go on from `state`; networks, optimisers and average are filled afterwards."""

    @abstractmethod
    def chosen(self) -> Any:
        """A copy of what will be kept, in evaluation mode: what a probe looks at."""

    @abstractmethod
    def write(self, folder: Path) -> Path:
        """Write the artifact's files into a new folder; gives the file of weights."""


class Hooks(NamedTuple):
    """What a training tells to whom, and asks."""

    tracker_run: Run
    probe: Callable[[int, Any], Mapping[str, float]] | None = None
    probe_every: int = 1000
    probe_at: Collection[int] = ()
    progress: Callable[[int, int, Mapping[str, float]], None] | None = None
    should_stop: Callable[[], bool] | None = None


def train(
    objective: Objective,
    *,
    workdir: Path,
    tracker_run: Run,
    probe: Callable[[int, Any], Mapping[str, float]] | None = None,
    device: str | torch.device = "cpu",
    threads: int | None = None,
    checkpoint_every: int = 500,
    probe_every: int = 1000,
    probe_at: Collection[int] = (),
    progress: Callable[[int, int, Mapping[str, float]], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    ranks: Ranks | None = None,
) -> Path:
    """Train, or go on with what an interrupted call left in `workdir`; returns the artifact's folder.

    probe: gets (step, the objective's `chosen`) every `probe_every` steps, at the steps `probe_at` and at the end; what it
    returns is logged. threads: CPU threads for torch; part of what makes a run reproducible, None leaves them as they are.
    progress: gets (step, total, values) about twice a second. ranks: the processes that share the training, each of which
    makes this call with an equal objective (default: those that this one has joined); only rank 0 looks at `workdir`,
    `tracker_run`, `probe`, `progress` and `should_stop`. A checkpoint does not know how many there were.

    The folder `final` appears complete or not at all: the objective's files, training.json (record, steps, wall_s,
    versions, device, threads, weights_sha256) and history.json (the rows). Rows reach `tracker_run` at checkpoints, and
    again after a resume: it leaves out what it has.

    Raises TrainingStopped when `should_stop` says so, Diverged when loss or gradient stay non-finite, and FoveaError
    when `workdir` holds another training.
    """
    device = torch.device(device)
    final = workdir / "final"
    ranks = ranks or joined()
    ranks.begin()
    if ranks.told(lambda: b"done" if (final / "training.json").exists() else b""):
        return final
    if not (ranks.alone or objective.shareable):
        raise FoveaError(f"{type(objective).__name__} is not trained by several processes")
    hooks = Hooks(tracker_run, probe, probe_every, probe_at, progress, should_stop)
    with torch_settings(objective.exact, device, threads):
        training = Training(objective, workdir, device, ranks, hooks if ranks.first else Hooks(Run()))
        training.run(checkpoint_every)
        if ranks.first:
            training.finish(final)
        ranks.wait()
    return final


class Training:
    """A training under way. What its steps change is equal on all ranks."""

    def __init__(self, objective: Objective, workdir: Path, device: torch.device, ranks: Ranks, hooks: Hooks):
        self.objective, self.workdir, self.device = objective, workdir, device
        self.ranks, self.hooks = ranks, hooks
        objective.prepare(device, ranks)
        self.identity = objective.identity()
        ranks.check_equal("record, pictures or initial weights", self.identity.encode())
        self.step, self.wall_s = 0, 0.0
        #: sums over the steps since the last row: skipped ones, gradient norm, the moves' numbers; kept on the device
        self.sums = torch.zeros(2 + len(objective.names), dtype=torch.float64, device=device)
        self.summed = 0
        #: steps without a finite loss: in a row until now, and the longest row since the last look
        self.bad = torch.zeros(2, dtype=torch.int32, device=device)
        self.rows: Rows = []
        saved = self._saved()
        if saved is not None:
            self._restore(saved)
            hooks.tracker_run.log_metrics(self.rows)
        self._logged = len(self.rows)
        self._started, self._shown, self._shown_step = time.monotonic() - self.wall_s, 0.0, self.step
        self._row_time, self._row_step = time.monotonic(), self.step

    def run(self, checkpoint_every: int) -> None:
        """All steps that are left."""
        objective, alone = self.objective, self.ranks.alone
        # reading what lies on a GPU waits for it
        look_every = objective.row_every if self.device.type != "cpu" else 1
        stopping, last = False, objective.done(self.step)
        while not last:
            looking = (self.step + 1) % look_every == 0 or self.step + 1 == objective.steps
            asked = self._asked() if looking and not alone else None
            stopping = self._take_step(asked) or stopping
            if looking:
                self._check_finite()
            if self.step % objective.row_every == 0 or self.step == objective.steps:
                self._add_row()
            last = objective.done(self.step)
            self._probe(last)
            stopping = stopping or (alone and self._asked())
            stops = stopping and self.step % objective.unit == 0
            if self.step % checkpoint_every == 0 or last or stops:
                self._save()
            self._show(last)
            if stops and not last:
                raise TrainingStopped(f"stopped at step {self.step} of {objective.steps}; run again to go on")

    def _asked(self) -> bool:
        return self.hooks.should_stop is not None and self.hooks.should_stop()

    def _take_step(self, stop: bool | None) -> bool:
        """All moves of a step, then the average. A move without a finite loss and gradient, and those after it, change no
        weight.

        stop: whether this rank wants to, None when nobody asks at this step. Gives whether one of them does, which comes
        with the sums.
        """
        objective, ranks, step = self.objective, self.ranks, self.step
        finite = torch.ones((), dtype=torch.bool, device=self.device)
        values: list[Tensor] = []
        stopping = False
        for move in objective.moves(step):
            move.loss.backward()
            loss, numbers = move.loss.detach(), move.numbers
            if not ranks.alone:
                flag = loss.new_tensor(float(bool(stop)))
                *summed, loss, flag = ranks.sum_gradients(move.parameters, [*(objective.part * numbers), loss, flag])
                numbers = torch.stack(summed)
                stopping = stopping or (stop is not None and bool(flag > 0))
            norm = nn.utils.clip_grad_norm_(move.parameters, move.clip_norm or math.inf, foreach=True)
            with torch.no_grad():
                finite = finite & torch.isfinite(loss) & torch.isfinite(norm)
                _update(move.optimiser, finite)
            values += [numbers] if values else [norm[None], numbers]
        with torch.no_grad():
            if objective.average:
                torch._foreach_lerp_(objective.average, objective.averaged, 1 - objective.decay(step))
            seen = torch.cat(values).double()
            self.sums[0] += ~finite
            self.sums[1 : 1 + len(seen)] += torch.where(finite, seen, 0)
            self.summed += 1
            self.bad[0] = torch.where(finite, 0, self.bad[0] + 1)
            self.bad[1] = torch.maximum(self.bad[0], self.bad[1])
        self.step = step + 1
        return stopping

    def _check_finite(self) -> None:
        """Give up when too many steps in a row were skipped."""
        longest = int(self.bad[1])
        self.bad[1] = 0
        if longest >= self.objective.most_skipped:
            raise Diverged(
                f"loss or gradient was not finite for {longest} steps in a row, until step {self.step - 1} "
                f"({self.objective.about(self.step - 1)}): lower lr or clip_norm, or look at these pictures"
            )

    def _means(self) -> dict[str, float]:
        skipped, *sums = self.sums.tolist()
        good = max(self.summed - skipped, 1)
        named = zip(("grad_norm", *self.objective.names), sums, strict=True)
        return {name: value / good for name, value in named} | {"skipped": skipped}

    def _add_row(self) -> None:
        """Means since the last row."""
        seconds = max(time.monotonic() - self._row_time, 1e-9)
        rate = (self.step - self._row_step) * self.objective.batch / seconds
        number, row = self.objective.row(self.step, self._means())
        self.rows.append((number, row | {"images_per_s": rate}))
        self.sums.zero_()
        self.summed = 0
        self._row_time, self._row_step = time.monotonic(), self.step
        self.objective.check(self.rows)

    def _probe(self, last: bool) -> None:
        probe, every, steps = self.hooks.probe, self.hooks.probe_every, self.hooks.probe_at
        if probe is None or not (self.step % every == 0 or self.step in steps or last):
            return
        seen = dict(probe(self.step, self.objective.chosen()))
        if seen:
            self.rows.append((self.step, seen))
        self._row_time = time.monotonic()

    def _show(self, last: bool) -> None:
        """A progress line, now and then."""
        now = time.monotonic()
        if self.hooks.progress is None or not (last or now - self._shown > PROGRESS_S):
            return
        rate = (self.step - self._shown_step) / max(now - max(self._shown, self._started), 1e-9)
        self.hooks.progress(self.step, self.objective.steps, self._seen() | {"steps_per_s": rate})
        self._shown, self._shown_step = now, self.step

    def _seen(self) -> dict[str, float]:
        """What a progress line shows: the means since the last row; else the last row that has them."""
        shown = self.objective.shown
        known = next((row for _, row in reversed(self.rows) if shown[-1] in row), {})
        if self.summed:
            known = known | self.objective.derived(self._means())
        return {k: known[k] for k in shown if k in known}

    def _save(self) -> None:
        """A checkpoint, and the rows until now to the tracker."""
        objective = self.objective
        self.wall_s = time.monotonic() - self._started
        if not self.ranks.alone:
            self.ranks.check_equal(f"weights after step {self.step}", self._fingerprint())
        if not self.ranks.first:
            return
        state = {
            "identity": self.identity,
            "step": self.step,
            "wall_s": self.wall_s,
            "networks": {name: _tensors(network) for name, network in objective.networks.items()},
            "optimisers": {name: o.state_dict() for name, o in objective.optimisers.items()},
            "average": objective.average,
            "sums": self.sums,
            "summed": self.summed,
            "bad": self.bad,
            "rows": json.dumps(self.rows),
            "own": objective.state(),
        }
        save_checkpoint(self.workdir, self.step, state)
        self.hooks.tracker_run.log_metrics(self.rows[self._logged :])
        self._logged = len(self.rows)

    def _fingerprint(self) -> bytes:
        """All networks' bits."""
        hashed = hashlib.sha256()
        for network in self.objective.networks.values():
            for parameter in network.parameters():
                hashed.update(parameter.detach().cpu().contiguous().numpy().tobytes())
        return hashed.digest()

    def _saved(self) -> dict[str, Any] | None:
        """The state to go on from: what rank 0 finds in its folder, on every rank."""
        found: list[dict[str, Any] | None] = [None]

        def look() -> bytes:
            saved = found[0] = load_checkpoint(self.workdir, self.device)
            if saved is None:
                return b""
            if saved["identity"] != self.identity:
                raise FoveaError(
                    f"{self.workdir} holds the checkpoint of another training (other record, data or initial weights): "
                    "delete the folder or take another one"
                )
            return b"alone" if self.ranks.alone else packed(saved)

        payload = self.ranks.told(look)
        return found[0] if self.ranks.first or not payload else unpacked(payload, self.device)

    @torch.no_grad()
    def _restore(self, saved: Mapping[str, Any]) -> None:
        objective = self.objective
        objective.restore(saved["own"])
        for name, network in objective.networks.items():
            for key, tensor in _tensors(network).items():
                tensor.copy_(saved["networks"][name][key])
        for name, optimiser in objective.optimisers.items():
            optimiser.load_state_dict(saved["optimisers"][name])
        for own, kept in zip(objective.average, saved["average"], strict=True):
            own.copy_(kept)
        self.sums.copy_(saved["sums"])
        self.bad.copy_(saved["bad"])
        self.step, self.summed, self.wall_s = int(saved["step"]), int(saved["summed"]), float(saved["wall_s"])
        self.rows = [(int(step), dict(values)) for step, values in json.loads(saved["rows"])]

    def finish(self, final: Path) -> None:
        """Write the artifact; the checkpoints are dropped last."""
        beside = self.workdir / f".final.{os.getpid()}"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        weights = self.objective.write(beside)
        (beside / "history.json").write_text(
            json.dumps([{"step": step} | values for step, values in self.rows], indent=0)
        )
        on_gpu = self.device.type == "cuda"
        facts = {
            "record": dict(self.objective.record),
            "steps": self.step,
            "wall_s": round(self.wall_s, 3),
            "steps_per_s": round(self.step / max(self.wall_s, 1e-9), 3),
            "device": torch.cuda.get_device_name(self.device) if on_gpu else self.device.type,
            "threads": torch.get_num_threads(),
            "processes": self.ranks.size,
            "mode": "deterministic" if self.objective.exact else "fast",
            "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
            "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        }
        (beside / "training.json").write_text(json.dumps(facts, indent=1, sort_keys=True))
        shutil.rmtree(final, ignore_errors=True)
        beside.replace(final)
        drop_checkpoints(self.workdir)


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, detached, sharing their memory."""
    return {n: t.detach() for n, t in (*network.named_parameters(), *network.named_buffers())}


def _update(optimiser: torch.optim.Optimizer, finite: Tensor) -> None:
    """One step where `finite`; a fused optimiser decides on the device, without waiting for it."""
    if optimiser.defaults.get("fused"):
        optimiser.found_inf = (~finite).float()  # type: ignore[attr-defined]
        optimiser.grad_scale = None  # type: ignore[attr-defined]
        optimiser.step()
    elif finite:
        optimiser.step()
    optimiser.zero_grad(set_to_none=True)
