"""One training run of a codec from the store to the store: data in, codec, doctor, tracker."""

import importlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from assets.graph import Bench, Task
from assets.saliency.pairs import Pairs, open_pairs
from assets.store import UnitWriter
from assets.story import maps_by, record_of, short_name, told
from assets.training.checks import looked_at
from assets.training.milestones import FROM_SCRATCH, FROM_TRUNK, Milestones, choose_crops, milestone_steps
from assets.training.watch import Watch, spread
from models.codecs.base import Codec
from models.codecs.catalogue import WEIGHTS, branch_config, build, config_for, load_codec, objective_of, save_codec
from models.device import chosen_device
from models.errors import FoveaError
from models.experiments import Experiment, Trunk
from models.presets import find_preset
from models.seen import read_seen, write_seen
from models.tracking import Run
from models.training.data import FrameSet
from models.training.doctor import Finding, examine
from models.training.loop import Objective, train

#: looks at held-out pictures in a training of a generative codec, however short
LEAST_PROBES = 4
DOCTOR_PICTURES = 4


class Prepared(NamedTuple):
    """What a training starts from, the same in every process. held: a few validation pictures. trunk: of a branch."""

    entry: Experiment | Trunk
    record: dict[str, Any]
    objective: Objective
    codec: Codec
    frames: FrameSet
    train: Pairs
    held: Pairs
    trunk: Codec | None

    @property
    def generative(self) -> bool:
        """Whether the codec invents, so that its training is looked at and examined for more."""
        return self.entry.card.objective == "adversarial"

    @property
    def rate(self) -> float:
        """The middle of the rates: the one to look at."""
        return self.entry.rates[len(self.entry.rates) // 2]

    @property
    def checkpoint_every(self) -> int:
        """Steps between checkpoints."""
        return find_preset(self.entry.preset).checkpoint_every


def prepared(bench: Bench, entry: Experiment | Trunk) -> Prepared:
    """Data and the codec with its first weights, the trunk's or random ones."""
    record = entry.resolved()

    seen, held = (
        open_pairs(bench, entry.dataset, split, maps=str(record["maps"]))
        for split in ("train", f"val:{looked_at(entry)}")
    )
    if not seen.pictures:
        raise FoveaError(
            f"dataset {entry.dataset!r} has no training picture; `fovea datasets show {entry.dataset}` lists the splits"
        )
    torch.manual_seed(int(record["seed"]))
    trunk = None
    if isinstance(entry, Experiment) and entry.trunk:
        trunk = load_codec(bench.given["trunk_codec"].folder / "codec")
        codec = build(branch_config(entry, trunk.config))
        codec.load_trunk(trunk.state_dict())
    else:
        codec = build(config_for(entry))
        codec.start(seen.pictures, int(record["seed"]))
    module, _, name = objective_of(entry.codec).partition(":")
    frames = FrameSet(seen.pictures, seen.maps, names=list(seen.table.image))
    objective: Objective = getattr(importlib.import_module(module), name)(record, codec, frames)
    return Prepared(entry, record, objective, codec, frames, seen, held, trunk)


def run_training(task: Task, entry: Experiment | Trunk) -> None:
    """Train, or go on with what an interrupted run left, and fill the unit.

    The unit gets `codec/` (weights, the list of the pictures that they have seen, configuration, training.json),
    `doctor.json`, `shown/training.png`, `stages/` (held-out crops at growing steps: assets/training/milestones.py), and
    facts.
    """
    given, unit, writer = prepared(task, entry), task.unit, task.writer
    workdir = task.home.work / unit.digest
    with told(task, dataset=entry.dataset, name=short_name(entry)) as run:
        run.log_params({**record_of(entry, task.world), "threads": task.threads})
        run.set_tags(maps_by(task, entry.dataset, str(given.record["maps"])))
        run.log_inputs({entry.dataset: data_version(task)}, "train")
        watch = _watch(given, workdir / "stages", FROM_TRUNK if given.trunk else FROM_SCRATCH)
        watch.keep(0, given.codec)
        folder = train(
            given.objective,
            workdir=workdir,
            tracker_run=Prefixed(run),
            probe=watch.probe,
            device=chosen_device(task.device),
            threads=task.threads,
            checkpoint_every=given.checkpoint_every,
            probe_every=watch.every,
            probe_at=frozenset(watch.kept_at),
            progress=lambda step, total, seen: task.progress(
                step, total, " ".join(f"{k} {v:.3g}" for k, v in seen.items())
            ),
        )
        shutil.copytree(folder, writer.path("codec"), dirs_exist_ok=True)
        before: Iterable[str] = ()
        if given.trunk is not None:
            before = read_seen(task.given["trunk_codec"].folder / "codec" / WEIGHTS).train
            _keep_context(given.trunk, writer.path("codec"))
        write_seen(writer.path("codec") / WEIGHTS, [*given.train.table.sha256, *before])
        _fill(given, watch, folder, writer, run)


def _keep_context(trunk: Codec, folder: Path) -> None:
    """A branch's files are coded with its trunk's context model, so that both are compared on equal terms: it foretells symbols
    by scales and symbols, whatever the weights."""
    if added := trunk.additions().get("context"):
        codec = load_codec(folder)
        codec.add("context", added.weights)
        save_codec(codec, folder)


class Prefixed(Run):
    """Tells a run of a training's rows as `train/…` and `val/…`: its plain names are those of the test pictures."""

    def __init__(self, run: Run):
        self._run = run

    def log_metrics(self, rows: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """See models.tracking.Run. MLflow's page of compared runs opens on the metric that it was told first: PSNR."""
        for_people = ((step, sorted(row.items(), key=lambda item: item[0] != "psnr_db")) for step, row in rows)
        self._run.log_metrics([(step, {_prefixed(k): v for k, v in row}) for step, row in for_people])


def _prefixed(name: str) -> str:
    """`probe/val_psnr_db` is `val/psnr_db`, `probe/train_psnr_db` is `train/pictures_psnr_db`, `loss` is `train/loss`;
    `bpp` is `train/bpp_estimate`, since no file was made."""
    part, _, what = name.removeprefix("probe/").partition("_")
    if not name.startswith("probe/"):
        return f"train/{'bpp_estimate' if name == 'bpp' else name}"
    return {"val": f"val/{what}", "train": f"train/pictures_{what}"}.get(part, f"val/{part}_{what}")


def _fill(given: Prepared, watch: Watch, folder: Path, writer: UnitWriter, run: Run) -> None:
    """What a unit holds beside the codec: the doctor's findings, stages, pictures, facts; the tracker gets them, too."""
    codec = load_codec(writer.path("codec"))
    findings = _examined(given, codec, folder)
    writer.path("doctor.json").write_text(json.dumps([f._asdict() for f in findings], indent=1))
    done: Mapping[str, Any] = json.loads((writer.path("codec") / "training.json").read_text())
    wanted = ("steps", "wall_s", "steps_per_s", "threads", "device", "mode", "weights_sha256")
    failed = [f.name for f in findings if not f.passed]
    doctor = "failed: " + ", ".join(failed) if failed else "passed"
    writer.meta["facts"] = {k: done[k] for k in wanted if k in done} | {"doctor": doctor}
    stages = watch.milestones.collected(
        steps=watch.steps,
        rate_name=given.entry.rate_name,
        rate=given.rate,
        held_out=bool(given.held.pictures),
        dataset=given.entry.dataset,
    )
    for name, data in stages.items():
        writer.path(f"stages/{name}").write_bytes(data)
    history = json.loads((folder / "history.json").read_text())
    if history:
        from assets.training.plots import training_curves

        png = training_curves(history, title=given.entry.key)
        writer.path("shown/training.png").write_bytes(png)
        run.log_figure(png, "curves/training.png")
    shown = given.held if given.held.pictures else given.train
    show_samples(codec, shown.pictures[:2], shown.maps, given.rate, writer)
    for path in sorted(writer.path("codec").iterdir()):
        run.log_artifact(path, "codec")
    run.log_artifact(writer.path("doctor.json"))
    for path in sorted(writer.path("shown").glob("sample*.png")):
        run.log_artifact(path, "samples")


def _watch(given: Prepared, folder: Path, stages: int) -> Watch:
    """What looks at the training. stages: how many to keep beside the first."""
    steps, wanted = int(given.record["steps"]), looked_at(given.entry)
    count = len(given.train.pictures)
    seen = given.train.some(spread(count, wanted) if given.generative else range(min(wanted, count)))
    watched = given.held if given.held.pictures else seen
    crops = choose_crops(watched.pictures, list(watched.table.image))
    every = find_preset(given.entry.preset).probe_every
    perceive = None
    if given.generative:
        from models.training.critics import EfficientFeatures, perceptual_distance

        # sweeps of generative codecs have far shorter budgets than their preset: they are looked at on their way, too
        every = max(1, min(every, steps // LEAST_PROBES))
        network = EfficientFeatures("efficientnet")

        def perceive(x_hat: torch.Tensor, x: torch.Tensor) -> float:
            return float(perceptual_distance(network, x_hat, x)[0])

    return Watch(
        seen=seen,
        held=given.held,
        milestones=Milestones(folder, crops, watched.pictures),
        kept_at=milestone_steps(steps, stages),
        steps=steps,
        every=every,
        rate=given.rate,
        perceive=perceive,
    )


def _examined(given: Prepared, codec: Codec, folder: Path) -> list[Finding]:
    some = given.train.some(range(min(DOCTOR_PICTURES, len(given.train.pictures))))
    findings = examine(
        codec,
        [np.asarray(p) for p in some.pictures],
        maps=some.maps,
        held_out=[np.asarray(p) for p in given.held.pictures],
        held_out_maps=given.held.maps,
        trunk=given.trunk,
        seed=int(given.record["seed"]),
    )
    if given.generative:
        from models.training.adversarial_doctor import examine_training

        findings += examine_training(given.record, folder, given.frames)
    return findings


def data_version(task: Task) -> str:
    """The version of the training pictures, with their maps where those condition the codec."""
    needs = [n for n in task.given.needs or () if n.part.startswith("train ")]
    return str(task.unit.inputs[f"{needs[-1].stage} {needs[-1].part}"])


def show_samples(
    codec: Codec, pictures: Sequence[Any], maps: Sequence[Any] | None, rate: float, writer: UnitWriter
) -> None:
    """Originals beside their reconstructions, as `shown/sample.png`."""
    from assets.frames.contact import contact_sheet

    sheet = []
    for place, picture in enumerate(pictures):
        whole, s = np.asarray(picture), None if maps is None else np.asarray(maps[place])
        sheet += [whole, codec.encode(whole, saliency_map=s, rate=rate).reconstruction]
    writer.path("shown/sample.png").write_bytes(contact_sheet(sheet, 2))
