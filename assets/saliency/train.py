"""One training of a saliency model, from the store to the store: fixations in, weights out, the tracker told."""

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from assets.chain import Chain, Progress, Unit
from assets.frames.contact import contact_sheet, overlay
from assets.saliency.fixations import fixation_map
from assets.saliency.names import FIXATIONS, PICTURES
from assets.saliency.plots import training_plot
from assets.saliency.stages import MapSource, open_model
from assets.store import UnitWriter
from models.device import chosen_device
from models.errors import FoveaError
from models.saliency.catalogue import describe_weights, model_version
from models.saliency.fixations import fold_of
from models.saliency.records import PRESETS, SaliencyTraining, write_seen
from models.tracking import Run

SHOWN_PICTURES = 6


class Told(Run):
    """A tracked run that also moves the progress bar and keeps what it was told."""

    def __init__(self, run: Run, progress: Progress, epochs: int):
        self.run, self.progress, self.epochs = run, progress, epochs
        self.history: list[dict[str, float]] = []

    def log_params(self, params: Mapping[str, Any]) -> None:
        """As they come."""
        self.run.log_params(params)

    def log_metrics(self, rows: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """One row an epoch."""
        self.run.log_metrics(rows)
        for epoch, values in rows:
            self.history.append({"epoch": epoch, **values})
            said = {k: v for k, v in values.items() if k.startswith("val")}
            self.progress(epoch + 1, self.epochs, " ".join(f"{k} {v:.3f}" for k, v in said.items()))


def train_saliency(
    chain: Chain, unit: Unit, training: SaliencyTraining, writer: UnitWriter, progress: Progress
) -> None:
    """Train, or go on with what an interrupted run left, and fill the unit: `weights/VARIANT.safetensors` with its JSON and
    the list of pictures that it has seen, `shown/`, facts."""
    made = chain.made("fixation_maps", training.dataset)
    eyes = pd.read_parquet(made.folder / FIXATIONS)
    pictures = pd.read_parquet(made.folder / PICTURES)
    split = dict(zip(pictures.image, pictures.split, strict=True))
    for part in ("train", "val"):
        if part not in split.values():
            raise FoveaError(
                f"dataset {training.dataset!r} has no {part} picture with fixations: a saliency model needs both train and "
                f"val (`fovea datasets show {training.dataset}` lists the splits)"
            )
    run = chain.tracker.run(
        experiment=f"fovea-{training.dataset}",
        name=training.key,
        key=unit.key,
        parent_key=chain.tags.get("fovea.parent", ""),
        tags={
            **chain.tags,
            "fovea.stage": unit.stage,
            "fovea.unit": unit.key,
            "fovea.partition": unit.partition,
        },
    )
    workdir = chain.home.work / unit.key
    try:
        run.log_params(
            {**unit.inputs["record"], "code_version": unit.inputs["code"], "threads": chain.threads}
        )
        run.log_inputs({training.dataset: str(unit.inputs["train_fixations"])}, "train")
        with _threads(chain.threads):
            weights, history = _train(chain, training, pictures, eyes, split, run, progress, workdir)
        target = writer.path(f"weights/{weights.name}")
        shutil.copyfile(weights, target)
        shutil.copyfile(weights.with_suffix(".json"), target.with_suffix(".json"))
        used = _train_rows(pictures, training)
        write_seen(target, used.sha256, pictures.sha256[pictures.split == "val"])
        writer.meta["facts"] = _facts(training, target, history, len(used))
        writer.meta["mlflow_run_id"] = run.run_id
        writer.meta["mlflow_key"] = unit.key
        png = training_plot(history, title=training.key)
        writer.path("shown/training.png").write_bytes(png)
        run.log_figure(png, "curves/training.png")
        _show(chain, training, pictures, eyes, target, writer)
        for path in (target, target.with_suffix(".json")):
            run.log_artifact(path, "saliency_model")
        run.log_artifact(writer.path("shown/validation.png"), "samples")
        run.finish()
    except BaseException:
        run.finish("FAILED")
        raise


def _train_rows(pictures: pd.DataFrame, training: SaliencyTraining) -> pd.DataFrame:
    rows = pictures[pictures.split == "train"]
    if training.folds:
        rows = rows[[fold_of(i, training.folds) != training.fold for i in rows.image]]
    return rows


def _train(
    chain: Chain,
    training: SaliencyTraining,
    pictures: pd.DataFrame,
    eyes: pd.DataFrame,
    split: Mapping[str, str],
    run: Run,
    progress: Progress,
    workdir: Path,
) -> tuple[Path, list[dict[str, float]]]:
    keys = dict(zip(pictures.image, pictures.key, strict=True))

    def picture(image: str) -> NDArray[np.uint8]:
        return np.array(chain.store.array("resized_frames", keys[image]))  # torch wants writable memory

    recipe: dict[str, Any] = dict(PRESETS[training.preset][training.variant])
    device = chosen_device(chain.device)
    if training.variant == "sam_lite":
        from models.saliency.training import SamLiteConfig, train_sam_lite

        config = SamLiteConfig(**recipe, folds=training.folds, fold=training.fold, seed=training.seed)
        told = Told(run, progress, config.head_epochs + config.epochs)
        about = {"training": training.key, "threads": chain.threads, "device": device}
        path = train_sam_lite(picture, eyes, split, config, workdir, told, about=about, device=device)
        return path, list(describe_weights(path)["history"])
    from models.saliency.sam_training import Item, SAMConfig, train

    points = {
        str(image): tuple(map(tuple, rows[["x", "y"]].to_numpy(float).tolist()))
        for image, rows in eyes.groupby("image")
    }
    parts = {
        part: [Item(i, picture(i), points=points[i]) for i in sorted(split) if split[i] == part]
        for part in ("train", "val")
    }
    start = chain.home.state / "weights" / f"{training.variant}.safetensors"
    settings = SAMConfig(**recipe, seed=training.seed)
    found = train(
        training.variant,
        parts["train"],
        parts["val"],
        workdir,
        settings,
        start=start if training.published_start else None,
        device=device,
        run=Told(run, progress, settings.epochs),
    )
    assert found is not None
    told_before = json.loads((workdir / "checkpoint" / "progress.json").read_text())["progress"]["history"]
    return found, [{"epoch": float(epoch), **row} for epoch, row in enumerate(told_before)]


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(count)
    cv2.setNumThreads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def _facts(
    training: SaliencyTraining, weights: Path, history: Sequence[Mapping[str, float]], pictures: int
) -> dict[str, Any]:
    about = describe_weights(weights)
    reached = {
        k.removeprefix("val/"): float(v) for k, v in about["val"].items() if not k.startswith("train/")
    }
    return {
        "variant": training.variant,
        "pictures_train": pictures,
        "epochs": len(history),
        "chosen_epoch": int(about.get("chosen_epoch", about.get("epoch", 0))),
        **{f"val_{k}": round(v, 4) for k, v in reached.items()},
        "weights_sha256": str(about["sha256"]),
        "weights_bytes": weights.stat().st_size,
    }


def _show(
    chain: Chain,
    training: SaliencyTraining,
    pictures: pd.DataFrame,
    eyes: pd.DataFrame,
    weights: Path,
    writer: UnitWriter,
) -> None:
    """Validation pictures with people's fixations (left) and the model's map (right), as `shown/validation.png`."""
    source = MapSource(training.variant, weights, model_version(training.variant, weights))
    model = open_model(source, threads=chain.threads)
    rows = pictures[pictures.split == "val"]
    sheet = []
    for row in rows.iloc[:: max(1, len(rows) // SHOWN_PICTURES)].head(SHOWN_PICTURES).to_dict("records"):
        frame = np.asarray(chain.store.array("resized_frames", row["key"]))
        points = eyes.loc[eyes.image == row["image"], ["x", "y"]].to_numpy(np.float64) - 0.5
        density = fixation_map(points, (frame.shape[1], frame.shape[0]))
        people = np.round(density * (255 / density.max())).astype(np.uint8)
        sheet += [overlay(frame, people), overlay(frame, model.predict([frame])[0])]
    writer.path("shown/validation.png").write_bytes(contact_sheet(sheet, 4, 240))
