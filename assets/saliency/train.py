"""One training of a saliency model, from the store to the store: fixations in, weights out, the tracker told."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from assets.frames.contact import contact_sheet, overlay
from assets.graph import Task
from assets.saliency.fixations import fixation_map
from assets.saliency.names import FIXATIONS, PICTURES
from assets.saliency.plots import training_plot
from assets.saliency.sources import MapSource, open_model
from assets.story import told
from models.device import chosen_device
from models.errors import FoveaError
from models.saliency.catalogue import describe_weights, model_version
from models.saliency.records import PRESETS, SaliencyTraining
from models.seen import write_seen
from models.training.loop import train
from models.training.sam_lite import SamLiteConfig, SamLiteTraining

SHOWN_PICTURES = 6
MOST_STEPS = 500
"""Between checkpoints, where an epoch has more and may be resumed within."""


def train_saliency(task: Task, training: SaliencyTraining) -> None:
    """Train, or go on with what an interrupted run left, and fill the unit: `weights/VARIANT.safetensors` with its JSON and
    the list of pictures that it has seen, `shown/`, facts."""
    made, unit, writer = task.given["fixation_maps"], task.unit, task.writer
    eyes = made.table(FIXATIONS)
    pictures = made.table(PICTURES)
    for part in ("train", "val"):
        if part not in set(pictures.split):
            raise FoveaError(
                f"dataset {training.dataset!r} has no {part} picture with fixations: a saliency model needs both train and "
                f"val (`fovea datasets show {training.dataset}` lists the splits)"
            )
    objective = _objective(task, training, pictures, eyes)
    with told(task, dataset=training.dataset, name=training.key) as run:
        run.log_params(
            {
                **{f"saliency.{k}": v for k, v in objective.record.items()},
                **unit.inputs["record"],
                "code_version": unit.inputs["code"],
                "threads": task.threads,
            }
        )
        run.log_inputs({training.dataset: made.version("train")}, "train")
        with _cv2_threads(task.threads):
            folder = train(
                objective,
                workdir=task.home.work / unit.digest,
                tracker_run=run,
                device=chosen_device(task.device),
                threads=task.threads,
                checkpoint_every=min(MOST_STEPS, objective.row_every),
                progress=lambda step, total, seen: task.progress(
                    step, total, " ".join(f"{k} {v:.3f}" for k, v in seen.items())
                ),
            )
        weights = writer.path(f"weights/{training.variant}.safetensors")
        for name in (weights.name, weights.with_suffix(".json").name):
            shutil.copyfile(folder / name, weights.with_name(name))
        history = [{"epoch": row.pop("step")} | row for row in json.loads((folder / "history.json").read_text())]
        used = pictures[pictures.image.isin(objective.train.names)]
        write_seen(weights, used.sha256, pictures.sha256[pictures.split == "val"])
        described = describe_weights(weights)
        writer.meta["facts"] = {
            "variant": training.variant,
            "pictures_train": len(used),
            "epochs": len(history),
            "chosen_epoch": int(described["chosen_epoch"]),
            **{f"val_{k}": round(v, 4) for k, v in described["val"].items()},
            "weights_sha256": str(described["sha256"]),
            "weights_bytes": weights.stat().st_size,
        }
        png = training_plot(history, title=training.key)
        writer.path("shown/training.png").write_bytes(png)
        run.log_figure(png, "curves/training.png")
        _show(task, training, pictures, eyes, weights)
        for path in (weights, weights.with_suffix(".json")):
            run.log_artifact(path, "saliency_model")
        run.log_artifact(writer.path("shown/validation.png"), "samples")


def _objective(task: Task, training: SaliencyTraining, pictures: pd.DataFrame, eyes: pd.DataFrame) -> SamLiteTraining:
    keys = dict(zip(pictures.image, pictures.key, strict=True))
    split = dict(zip(pictures.image, pictures.split, strict=True))

    def picture(image: str) -> NDArray[np.uint8]:
        return np.array(task.given["fixation_maps"].array("resized_frames", keys[image]))  # torch wants writable memory

    recipe: dict[str, Any] = dict(PRESETS[training.preset])
    config = SamLiteConfig(**recipe, folds=training.folds, fold=training.fold, seed=training.seed)
    about = {"training": training.key, "threads": task.threads, "device": chosen_device(task.device)}
    return SamLiteTraining(picture, eyes, split, config, about=about)


@contextlib.contextmanager
def _cv2_threads(count: int) -> Iterator[None]:
    before = cv2.getNumThreads()
    cv2.setNumThreads(count)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _show(task: Task, training: SaliencyTraining, pictures: pd.DataFrame, eyes: pd.DataFrame, weights: Path) -> None:
    """Validation pictures with people's fixations (left) and the model's map (right), as `shown/validation.png`."""
    source = MapSource(training.variant, weights, model_version(training.variant, weights))
    model = open_model(source, threads=task.threads)
    rows = pictures[pictures.split == "val"]
    sheet = []
    for row in rows.iloc[:: max(1, len(rows) // SHOWN_PICTURES)].head(SHOWN_PICTURES).to_dict("records"):
        frame = np.asarray(task.given["fixation_maps"].array("resized_frames", row["key"]))
        points = eyes.loc[eyes.image == row["image"], ["x", "y"]].to_numpy(np.float64) - 0.5
        density = fixation_map(points, (frame.shape[1], frame.shape[0]))
        sheet += [overlay(frame, density), overlay(frame, model.predict([frame])[0])]
    task.writer.path("shown/validation.png").write_bytes(contact_sheet(sheet, 4, 240))
