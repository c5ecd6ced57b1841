"""One training run from the store to the store: data in, codec, doctor, tracker."""

import importlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from assets.chain import Chain, Progress, Unit
from assets.saliency.names import chosen_model
from assets.saliency.stages import map_sources
from assets.store import UnitWriter
from assets.training.data import load_split, needs_model
from assets.training.milestones import (
    FROM_SCRATCH,
    FROM_TRUNK,
    Milestones,
    Shown,
    choose_crops,
    milestone_steps,
    scored,
)
from models.codecs.base import Codec, map_to_tensor, picture_to_tensor, tensor_to_picture
from models.codecs.catalogue import branch_config, build, config_for, load_codec, trainer_module
from models.device import chosen_device
from models.experiments import DEFAULT_SALIENCY, GENERATIVE, PRESETS, Experiment, Trunk
from models.metrics import psnr_db
from models.training.data import FrameSet
from models.training.doctor import Finding, examine

PROBE_PICTURES = 4
GENERATIVE_PROBE_PICTURES = 8
#: looks at held-out pictures in a training of a generative codec, however short
LEAST_PROBES = 4
DOCTOR_PICTURES = 4


class Prepared(NamedTuple):
    """What a training starts from. held: a few validation pictures; the conditions are their maps, or None."""

    codec: Codec
    frames: FrameSet
    held: Sequence[Any]
    held_names: Sequence[str]
    held_conditions: Sequence[Any] | None
    checkpoint_every: int


def start_of(chain: Chain, entry: Experiment | Trunk, progress: Progress) -> Path | None:
    """The codec folder of the entry's trunk, which is made where it is missing; None without one."""
    trunk = entry.trunk if isinstance(entry, Experiment) else None
    return chain.make("trunk_codec", trunk.key, progress).folder / "codec" if trunk else None


def prepared(chain: Chain, entry: Experiment | Trunk, start: Path | None, progress: Progress) -> Prepared:
    """Data and the codec with its first weights, the same in every process. start: the trunk's codec folder."""
    record = entry.resolved()
    maps = str(record["maps"])
    model = str(record.get("saliency") or DEFAULT_SALIENCY)
    table, pictures, conditions = load_split(
        chain, entry.dataset, "train", maps=maps, model=model, progress=progress
    )
    if table.empty:
        from models.errors import FoveaError

        raise FoveaError(
            f"dataset {entry.dataset!r} has no training picture; `fovea datasets show {entry.dataset}` lists the splits"
        )
    held_table, held, held_conditions = load_split(
        chain, entry.dataset, "val", maps=maps, model=model, progress=progress, limit=_looked_at(entry)
    )
    torch.manual_seed(int(record["seed"]))
    if start is not None and isinstance(entry, Experiment):
        trunk = load_codec(start)
        codec = build(branch_config(entry, trunk.config))
        codec.load_trunk(trunk.state_dict())
    else:
        codec = build(config_for(entry))
    return Prepared(
        codec,
        FrameSet(pictures, conditions, names=list(table.image)),
        held,
        list(held_table.image),
        held_conditions,
        PRESETS[entry.preset].checkpoint_every,
    )


def run_training(
    chain: Chain,
    unit: Unit,
    entry: Experiment | Trunk,
    start: Path | None,
    writer: UnitWriter,
    progress: Progress,
) -> None:
    """Train, or go on with what an interrupted run left, and fill the unit.

    start: the trunk's codec folder. The unit gets `codec/` (weights, configuration, training.json), `doctor.json`,
    `shown/training.png`, `stages/` (held-out crops at growing steps: assets/training/milestones.py), and facts.
    """
    record = entry.resolved()
    codec, frames, held, held_names, held_conditions, checkpoint_every = prepared(
        chain, entry, start, progress
    )
    pictures, conditions = frames.pictures, frames.maps

    run = chain.tracker.run(
        experiment=f"fovea-{entry.dataset}",
        name=entry.key,
        key=unit.key,
        parent_key=chain.tags.get("fovea.parent", ""),
        tags={
            **chain.tags,
            "fovea.stage": unit.stage,
            "fovea.unit": unit.key,
            "fovea.partition": unit.partition,
        },
    )
    try:
        run.log_params(
            {
                **record,
                **maps_by(chain, record),
                "code_version": unit.inputs.get("code", ""),
                "threads": chain.threads,
            }
        )
        run.log_inputs({entry.dataset: str(unit.inputs["train_frames"])}, "train")
        lambdas = [float(v) for v in record["lmbda"]]
        middle = lambdas[len(lambdas) // 2]
        looked_at = _looked_at(entry)
        generative = entry.codec in GENERATIVE
        some = spread(len(pictures), looked_at) if generative else range(min(looked_at, len(pictures)))
        seen = [pictures[i] for i in some], None if conditions is None else [conditions[i] for i in some]
        perceive = _perceive() if generative else None
        # what the stages show: held-out pictures, or training pictures where none are held out
        watched, images = (held, held_names) if held else (seen[0], [frames.names[i] for i in some])
        milestones = Milestones(
            chain.home.work / unit.key / "stages", choose_crops(watched, [str(i) for i in images]), watched
        )
        kept_at = milestone_steps(int(record["steps"]), FROM_SCRATCH if start is None else FROM_TRUNK)
        probe_every = PRESETS[entry.preset].probe_every
        # sweeps of generative codecs have far shorter budgets than their preset: they are looked at on their way, too
        if generative:
            probe_every = max(1, min(probe_every, int(record["steps"]) // LEAST_PROBES))

        def watch(step: int, codec: Codec) -> dict[str, float]:
            """Look at the watched pictures and keep how their crops look."""
            shown: list[Shown] = []
            values = look(codec, watched, held_conditions if held else seen[1], middle, shown, perceive)
            milestones.keep(step, shown)
            return values

        def probe(step: int, codec: Codec) -> dict[str, float]:
            if step % probe_every and step != int(record["steps"]):
                watch(step, codec)
                return {}
            kept = watch(step, codec) if step in kept_at else None
            if not held:
                kept = kept or look(codec, *seen, middle, None, perceive)
                return {f"probe/train_{k}": v for k, v in kept.items()}
            found = {f"probe/train_{k}": v for k, v in look(codec, *seen, middle, None, perceive).items()}
            kept = kept or look(codec, held, held_conditions, middle, None, perceive)
            found |= {f"probe/val_{k}": v for k, v in kept.items()}
            found["probe/gap_db"] = found["probe/train_psnr_db"] - found["probe/val_psnr_db"]
            return found

        watch(0, codec)
        train = trainer(entry.codec)
        folder = train(
            record,
            codec,
            frames,
            workdir=chain.home.work / unit.key,
            tracker_run=run,
            probe=probe,
            device=chosen_device(chain.device),
            threads=chain.threads,
            checkpoint_every=checkpoint_every,
            probe_every=probe_every,
            probe_at=frozenset(kept_at),
            progress=lambda step, total, seen: progress(
                step, total, " ".join(f"{k} {v:.3g}" for k, v in seen.items())
            ),
        )
        shutil.copytree(folder, writer.path("codec"), dirs_exist_ok=True)
        trained = load_codec(writer.path("codec"))
        findings = examine(
            trained,
            [np.asarray(p) for p in pictures[:DOCTOR_PICTURES]],
            maps=None if conditions is None else conditions[:DOCTOR_PICTURES],
            held_out=[np.asarray(p) for p in held],
            held_out_maps=held_conditions,
            seed=int(record["seed"]),
        )
        if generative:
            from models.training.adversarial_doctor import detective, examine_training

            findings += examine_training(record, folder, frames)
        writer.path("doctor.json").write_text(json.dumps([f._asdict() for f in findings], indent=1))
        history = (
            json.loads((folder / "history.json").read_text()) if (folder / "history.json").exists() else []
        )
        facts = training_facts(writer.path("codec"), findings)
        writer.meta["facts"] = facts
        writer.meta["mlflow_run_id"] = run.run_id
        writer.meta["mlflow_key"] = unit.key
        stages = milestones.collected(
            steps=int(record["steps"]), lmbda=middle, held_out=bool(held), dataset=entry.dataset
        )
        if generative and stages:
            stages |= scored(stages, detective(record, folder))
        for name, data in stages.items():
            writer.path(f"stages/{name}").write_bytes(data)
        if history:
            from assets.training.plots import training_curves

            png = training_curves(history, title=entry.key)
            writer.path("shown/training.png").write_bytes(png)
            run.log_figure(png, "curves/training.png")
        show_samples(
            trained, (held or pictures)[:2], (held_conditions if held else conditions), middle, writer
        )
        for path in sorted(writer.path("codec").iterdir()):
            run.log_artifact(path, "codec")
        run.log_artifact(writer.path("doctor.json"))
        for path in sorted(writer.path("shown").glob("sample*.png")):
            run.log_artifact(path, "samples")
        run.finish()
    except BaseException:
        run.finish("FAILED")
        raise


def maps_by(chain: Chain, record: Mapping[str, Any]) -> dict[str, str]:
    """The saliency model behind the run's maps with its version: fovea.toml may name another than the record's default."""
    asked = needs_model(record)
    if not asked:
        return {}
    name = chosen_model(chain, str(record["dataset"]), asked)
    return {"maps_by": f"{name} {map_sources(chain, name)[0].version}"}


def trainer(codec: str) -> Callable[..., Path]:
    """What trains a codec: the rate–distortion loop, or the adversarial one."""
    found: Callable[..., Path] = importlib.import_module(trainer_module(codec)).train
    return found


def _looked_at(entry: Experiment | Trunk) -> int:
    """How many pictures of each part the probes see."""
    return GENERATIVE_PROBE_PICTURES if entry.codec in GENERATIVE else PROBE_PICTURES


def spread(count: int, wanted: int) -> list[int]:
    """Places of `wanted` pictures of `count`, or of all, spread evenly: a handful of the first ones would be one scene."""
    chosen = min(wanted, count)
    return sorted({round(i * (count - 1) / max(chosen - 1, 1)) for i in range(chosen)})


def _perceive() -> Callable[[Any, Any], float]:
    from models.training.critics import feature_network, perceptual_distance

    network = feature_network("efficientnet")
    return lambda x_hat, x: float(perceptual_distance(network, x_hat, x)[0])


def look(
    codec: Codec,
    pictures: Sequence[Any],
    maps: Sequence[Any] | None,
    lmbda: float,
    shown: list[Shown] | None = None,
    perceive: Callable[[Any, Any], float] | None = None,
) -> dict[str, float]:
    """Mean PSNR and estimated bpp over a few whole pictures, by the forward in evaluation mode: no file is written.

    shown: gets each picture's reconstruction. perceive: also the mean of this distance of x_hat and x, as `perceptual`.
    """
    was_training = codec.training
    codec.eval()
    psnr, bpp, perceived = [], [], []
    try:
        with torch.inference_mode():
            for place, picture in enumerate(pictures):
                height, width = picture.shape[:2]
                x = picture_to_tensor(np.asarray(picture), codec.stride)
                s = (
                    None
                    if maps is None
                    else map_to_tensor(np.asarray(maps[place]), (height, width), codec.stride)
                )
                device = next(codec.parameters()).device
                level = torch.tensor([codec.level_of(lmbda)], device=device)
                seen = codec(x.to(device), saliency_map=None if s is None else s.to(device), level=level)
                x_hat = tensor_to_picture(seen.x_hat.cpu(), height, width)
                psnr.append(psnr_db(np.asarray(picture), x_hat))
                bits = sum(float(-torch.log2(p).sum()) for p in seen.likelihoods.values()) + float(
                    seen.side_bits.sum()
                )
                bpp.append(bits / (height * width))
                if shown is not None:
                    shown.append(Shown(x_hat, psnr[-1], bpp[-1]))
                if perceive is not None:
                    perceived.append(perceive(seen.x_hat.clamp(0, 1).cpu(), x))
    finally:
        codec.train(was_training)
    found = {"psnr_db": float(np.mean(psnr)), "bpp_estimate": float(np.mean(bpp))}
    return found | ({"perceptual": float(np.mean(perceived))} if perceived else {})


def training_facts(folder: Path, findings: Sequence[Finding]) -> dict[str, Any]:
    """What Dagster shows of a finished run."""
    done: Mapping[str, Any] = json.loads((folder / "training.json").read_text())
    facts: dict[str, Any] = {
        k: done[k]
        for k in ("steps", "wall_s", "steps_per_s", "threads", "device", "mode", "weights_sha256")
        if k in done
    }
    facts["doctor"] = (
        "passed"
        if all(f.passed for f in findings)
        else "failed: " + ", ".join(f.name for f in findings if not f.passed)
    )
    return facts


def show_samples(
    codec: Codec, pictures: Sequence[Any], maps: Sequence[Any] | None, lmbda: float, writer: UnitWriter
) -> None:
    """Originals beside their reconstructions, as `shown/sample.png`."""
    from assets.frames.contact import contact_sheet

    sheet = []
    for place, picture in enumerate(pictures):
        whole = np.asarray(picture)
        sheet += [
            whole,
            codec.encode(
                whole, saliency_map=None if maps is None else np.asarray(maps[place]), lmbda=lmbda
            ).reconstruction,
        ]
    writer.path("shown/sample.png").write_bytes(contact_sheet(sheet, 2))
