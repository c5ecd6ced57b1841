"""Training of SAM-Lite on recorded eye movements.

The shipped weights were made by this module's command with its defaults:

    python -m models.saliency.training --pictures DIR --fixations TABLE.parquet --out FOLDER

First the head alone on ImageNet features, then every layer, with the batch norms' statistics held, an exponential
moving average of the weights, and the epoch chosen on the validation pictures. State is written after every epoch;
the same command continues where it was stopped and ends with the same weights.
"""

import argparse
import dataclasses
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from models.errors import FoveaError
from models.saliency.fixations import PictureSource, fold_of, read_fixations, read_picture, split_by_order
from models.saliency.losses import (
    correlation,
    kl_divergence,
    normalised_scanpath_saliency,
    sam_loss,
)
from models.saliency.sam_lite import (
    SamLite,
    gaussian_blur,
    imagenet_weights,
    normalise,
    resize_maps,
    resize_picture,
    working_size,
)
from models.tracking import NullRun, Run

STRIDE = 4
"""Pixels of the working picture per cell of the predicted map."""
BLURS = (0.0, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
"""Candidates for the blur of the finished map, sigma in its cells."""


@dataclasses.dataclass(frozen=True)
class SamLiteConfig:
    """The recipe.

    patience: end when so many epochs of all layers in a row have not beaten the best of them on the validation
    pictures (0: never). fold: that one of `folds` is left out of the training pictures, by hash of the name (folds 0:
    none). sigma: blur of fixations as a fraction of the picture's width. average: decay of the weights' moving average
    per step.
    """

    rows: int = 240
    batch_size: int = 8
    head_epochs: int = 6
    head_lr: float = 2e-3
    epochs: int = 24
    lr: float = 5e-4
    backbone_lr: float = 2e-4
    final_lr: float = 0.05
    weight_decay: float = 1e-3
    warmup_steps: int = 50
    clip_norm: float = 5.0
    patience: int = 1
    average: float = 0.996
    dropout: float = 0.25
    sigma: float = 0.03
    scale_jitter: float = 0.2
    crop: float = 0.25
    photometric: float = 1.0
    folds: int = 0
    fold: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.folds and not 0 <= self.fold < self.folds:
            raise FoveaError(f"fold must be 0 … {self.folds - 1} (folds={self.folds}), not {self.fold}")
        if self.head_epochs < 1 or self.epochs < 0 or self.batch_size < 1 or self.rows < 64:
            raise FoveaError(
                "head_epochs and batch_size must be at least 1, epochs at least 0, rows at least 64"
            )


class FixationPictures:
    """Pictures with fixations: decoded once while they fit into `cache_bytes`."""

    def __init__(
        self, source: PictureSource, fixations: pd.DataFrame, names: Sequence[str], cache_bytes: int = 2**30
    ) -> None:
        self.source, self.names = source, list(names)
        groups = fixations.groupby("image", sort=False)[["x", "y"]]
        points = {str(name): group.to_numpy(np.float64) - 1.0 for name, group in groups}
        absent = [n for n in self.names if n not in points]
        if absent:
            raise FoveaError(
                f"{absent[0]} and {len(absent) - 1} more pictures have no fixations in the table"
            )
        self.points = {n: points[n] for n in self.names}
        self.room = cache_bytes
        self.cache: dict[str, np.ndarray] = {}

    def size(self, name: str) -> tuple[int, int]:
        """Height and width."""
        height, width = self.picture(name).shape[:2]
        return height, width

    def picture(self, name: str) -> np.ndarray:
        """H×W×3 uint8 RGB."""
        if name in self.cache:
            return self.cache[name]
        picture = read_picture(self.source, name)
        if picture.nbytes <= self.room:
            self.room -= picture.nbytes
            self.cache[name] = picture
        return picture


def targets(
    points: np.ndarray, window: tuple[float, float, float, float], size: tuple[int, int], sigma: float
) -> tuple[np.ndarray, np.ndarray]:
    """Fixation counts and density (sums to 1) of a window (x0, y0, width, height) of a picture, on a grid `size`.

    Points are 0-based pixel centres; those outside of the window are left out. sigma: grid cells.
    """
    height, width = size
    columns = np.floor((points[:, 0] + 0.5 - window[0]) / window[2] * width).astype(int)
    rows = np.floor((points[:, 1] + 0.5 - window[1]) / window[3] * height).astype(int)
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    counts = np.zeros(size, np.float32)
    np.add.at(counts, (rows[inside], columns[inside]), 1.0)
    density = cv2.GaussianBlur(counts, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    return counts, density / max(float(density.sum()), 1e-12)


def jitter_colours(picture: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Random contrast, brightness, colour cast and saturation; sometimes grey. uint8 in and out."""
    if strength <= 0:
        return picture
    x = picture.astype(np.float32)
    saturation = 0.0 if rng.random() < 0.08 else 1.0 + strength * rng.uniform(-0.4, 0.4)
    grey = x @ np.array([0.299, 0.587, 0.114], np.float32)
    x = grey[..., None] + saturation * (x - grey[..., None])
    contrast = 1.0 + strength * rng.uniform(-0.3, 0.3)
    gains = (contrast * (1.0 + strength * rng.uniform(-0.08, 0.08, 3))).astype(np.float32)
    mean = float(x.mean())
    x = (x - mean) * gains + mean + strength * float(rng.uniform(-25.0, 25.0))
    return np.clip(x, 0.0, 255.0).astype(np.uint8)


def make_sample(
    data: FixationPictures,
    name: str,
    size: tuple[int, int],
    config: SamLiteConfig,
    rng: np.random.Generator | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One picture at the working size with its counts and density; augmented where rng is given."""
    picture, points = data.picture(name), data.points[name]
    height, width = picture.shape[:2]
    points = np.clip(points, 0.0, [width - 1.0, height - 1.0])
    window = (0, 0, width, height)
    if rng is not None and rng.random() < 0.5:
        keep_y, keep_x = (1.0 - config.crop * rng.random()) * np.clip(rng.normal(1.0, 0.05, 2), 0.9, 1.1)
        w, h = round(width * min(keep_x, 1.0)), round(height * min(keep_y, 1.0))
        x0, y0 = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
        inside = (
            (points[:, 0] >= x0) & (points[:, 0] < x0 + w) & (points[:, 1] >= y0) & (points[:, 1] < y0 + h)
        )
        if inside.mean() > 0.6:
            window = (x0, y0, w, h)
    x0, y0, w, h = window
    grid = (size[0] // STRIDE, size[1] // STRIDE)
    counts, density = targets(points, window, grid, config.sigma * width / w * grid[1])
    part = resize_picture(picture[y0 : y0 + h, x0 : x0 + w], size)
    if rng is not None:
        part = jitter_colours(part, config.photometric, rng)
        if rng.random() < 0.5:
            part, counts, density = part[:, ::-1], counts[:, ::-1], density[:, ::-1]
    return part, counts, density


def _batch(samples: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> tuple[Tensor, Tensor, Tensor]:
    pictures, counts, densities = (np.stack(column) for column in zip(*samples, strict=True))
    return (
        normalise(torch.from_numpy(pictures)),
        torch.from_numpy(counts)[:, None],
        torch.from_numpy(densities)[:, None],
    )


def _batches(
    data: FixationPictures, size: int, rows: int, rng: np.random.Generator | None
) -> Iterator[list[str]]:
    """Names in batches of pictures of one shape, shuffled where rng is given; every picture once."""
    names = list(data.names)
    if rng is not None:
        rng.shuffle(names)
    waiting: dict[tuple[int, int], list[str]] = {}
    for name in names:
        shape = working_size(*data.size(name), rows)
        waiting.setdefault(shape, []).append(name)
        if len(waiting[shape]) == size:
            yield waiting.pop(shape)
    yield from waiting.values()


def train_epoch(
    model: SamLite,
    average: SamLite | None,
    optimiser: torch.optim.Optimizer,
    data: FixationPictures,
    config: SamLiteConfig,
    first_step: int,
    total_steps: int,
    rng: np.random.Generator,
) -> dict[str, float]:
    """One pass over the training pictures; returns the means of the loss parts."""
    sums: dict[str, float] = {}
    device = next(model.parameters()).device
    step = first_step
    for names in _batches(data, config.batch_size, config.rows, rng):
        shape = data.size(names[0])
        rows = config.rows * math.exp(rng.uniform(-1.0, 1.0) * math.log1p(config.scale_jitter))
        size = working_size(*shape, round(rows))
        pictures, counts, densities = (
            t.to(device) for t in _batch([make_sample(data, n, size, config, rng) for n in names])
        )
        warm = min(1.0, (step + 1) / config.warmup_steps)
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / total_steps)))
        for group in optimiser.param_groups:
            group["lr"] = group["base_lr"] * warm * (config.final_lr + (1.0 - config.final_lr) * cosine)
        loss, parts = sam_loss(model(pictures).exp(), densities, counts)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimiser.step()
        if average is not None:
            decay = min(config.average, (1.0 + step) / (10.0 + step))
            with torch.no_grad():
                for a, p in zip(average.parameters(), model.parameters(), strict=True):
                    a.lerp_(p, 1.0 - decay)
        for key, value in parts.items():
            sums[key] = sums.get(key, 0.0) + value * len(names)
        step += 1
    return {key: value / len(data.names) for key, value in sums.items()}


@torch.inference_mode()
def validate(model: SamLite, data: FixationPictures, config: SamLiteConfig) -> dict[str, float]:
    """KL, CC, NSS on the map grid, single pass, and the score that chooses the epoch: CC + NSS/4 − KL/2."""
    model.eval()
    device = next(model.parameters()).device
    sums = {"kl": 0.0, "cc": 0.0, "nss": 0.0}
    for names in _batches(data, config.batch_size, config.rows, None):
        size = working_size(*data.size(names[0]), config.rows)
        pictures, counts, densities = (
            t.to(device) for t in _batch([make_sample(data, n, size, config, None) for n in names])
        )
        maps = model(pictures).exp()
        sums["kl"] += kl_divergence(maps, densities).item() * len(names)
        sums["cc"] += correlation(maps, densities).item() * len(names)
        sums["nss"] += normalised_scanpath_saliency(maps, counts).item() * len(names)
    means = {key: value / len(data.names) for key, value in sums.items()}
    return _with_score(means)


@torch.inference_mode()
def choose_inference(model: SamLite, data: FixationPictures, config: SamLiteConfig) -> dict[str, Any]:
    """Working rows and blur (cells of the map) with the best score on the validation pictures, at their own size.

    Returns `inference` (rows, blur) and `val`: KL, CC, NSS and score of that choice, single pass.
    """
    model.eval()
    device = next(model.parameters()).device
    table: dict[tuple[int, float], dict[str, float]] = {}
    for rows in sorted({config.rows + offset for offset in (-16, 0, 16)}):
        sums = {blur: dict.fromkeys(("kl", "cc", "nss"), 0.0) for blur in BLURS}
        for name in data.names:
            picture = data.picture(name)
            height, width = picture.shape[:2]
            part = resize_picture(picture, working_size(height, width, rows))
            x = normalise(torch.from_numpy(part)[None].to(device))
            counts, density = targets(
                np.clip(data.points[name], 0.0, [width - 1.0, height - 1.0]),
                (0, 0, width, height),
                (height, width),
                config.sigma * width,
            )
            density_t, counts_t = (torch.from_numpy(a)[None, None].to(device) for a in (density, counts))
            maps = model(x).exp()
            for blur in BLURS:
                blurred = resize_maps(gaussian_blur(maps, blur), (height, width))
                sums[blur]["kl"] += kl_divergence(blurred, density_t).item()
                sums[blur]["cc"] += correlation(blurred, density_t).item()
                sums[blur]["nss"] += normalised_scanpath_saliency(blurred, counts_t.clamp(max=1.0)).item()
        for blur, values in sums.items():
            table[rows, blur] = _with_score({k: v / len(data.names) for k, v in values.items()})
    rows, blur = max(table, key=lambda key: table[key]["score"])
    return {
        "inference": {"rows": rows, "blur": blur},
        "val": table[rows, blur],
        "val_by_rows": {
            str(r): max((v for (q, _), v in table.items() if q == r), key=lambda v: v["score"])
            for r, _ in table
        },
    }


def _with_score(means: dict[str, float]) -> dict[str, float]:
    return {**means, "score": means["cc"] + means["nss"] / 4.0 - means["kl"] / 2.0}


def _optimiser(model: SamLite, config: SamLiteConfig, *, whole: bool) -> torch.optim.AdamW:
    backbone = [p for n, p in model.named_parameters() if n.startswith("backbone.")]
    plain = [
        p
        for n, p in model.named_parameters()
        if n.startswith("prior") or (p.ndim < 2 and "backbone." not in n)
    ]
    rest = [
        p
        for n, p in model.named_parameters()
        if not n.startswith("backbone.") and not any(p is q for q in plain)
    ]
    head_lr = config.lr if whole else config.head_lr
    groups: list[dict[str, Any]] = [
        {"params": rest, "base_lr": head_lr, "weight_decay": config.weight_decay},
        {"params": plain, "base_lr": head_lr, "weight_decay": 0.0},
    ]
    if whole:
        groups.append(
            {"params": backbone, "base_lr": config.backbone_lr, "weight_decay": config.weight_decay}
        )
    for p in backbone:
        p.requires_grad_(whole)
    return torch.optim.AdamW(groups, lr=head_lr)


def _set_mode(model: SamLite, *, whole: bool) -> None:
    """Dropout on; batch norm learns statistics only in the head, and only while the head is trained alone."""
    model.train()
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d) and (whole or name.startswith("backbone.")):
            module.eval()


def _out_of_patience(history: Sequence[Mapping[str, Any]], config: SamLiteConfig) -> bool:
    scores = [row["val_score"] for row in history[config.head_epochs :]]
    return bool(config.patience and scores) and len(scores) - 1 - scores.index(max(scores)) >= config.patience


def _save(path: Path, value: Any) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    torch.save(value, partial)
    partial.replace(path)


def train_sam_lite(
    pictures: PictureSource,
    fixations: pd.DataFrame,
    split: Mapping[str, str],
    config: SamLiteConfig,
    out: Path,
    run: Run | None = None,
    *,
    about: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> Path:
    """Train and write `out/sam_lite.safetensors` (fp16) with its JSON beside it; returns the path of the weights.

    `split` maps the table's image to train, val or test; test pictures are never opened. `out` keeps the
    state of an unfinished run: calling again continues it. `about` is added to the JSON. Raises FoveaError where the
    record in `out` is another.
    """
    run = run or NullRun()
    train_names = sorted(n for n, s in split.items() if s == "train")
    if config.folds:
        train_names = [n for n in train_names if fold_of(n, config.folds) != config.fold]
    val_names = sorted(n for n, s in split.items() if s == "val")
    if not train_names or not val_names:
        raise FoveaError("the split needs training and validation pictures")
    train, val = (FixationPictures(pictures, fixations, names) for names in (train_names, val_names))

    out.mkdir(parents=True, exist_ok=True)
    record = {"config": dataclasses.asdict(config), "train": train_names, "val": val_names}
    state_path = out / "state.pt"
    torch.manual_seed(config.seed)
    model = SamLite(dropout=config.dropout)
    model.backbone.load_state_dict(imagenet_weights())
    model = model.on(device)
    average = SamLite(dropout=config.dropout).on(device)
    best: dict[str, Tensor] = {}
    history: list[dict[str, Any]] = []
    saved: dict[str, Any] | None = None
    if state_path.exists():
        saved = torch.load(state_path, map_location=device, weights_only=True)
        if saved["record"] != json.dumps(record):
            raise FoveaError(
                f"{state_path} belongs to another training run: choose another --out or remove it"
            )
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        best, history = saved["best"], json.loads(saved["history"])
    run.log_params({f"saliency.{k}": v for k, v in dataclasses.asdict(config).items()})

    steps = sum(1 for _ in _batches(train, config.batch_size, config.rows, None))
    total = config.head_epochs + config.epochs
    optimiser = _optimiser(model, config, whole=len(history) > config.head_epochs)
    if saved is not None and len(history) != config.head_epochs:
        optimiser.load_state_dict(saved["optimiser"])
    for epoch in range(len(history), total):
        if _out_of_patience(history, config):
            break
        whole = epoch >= config.head_epochs
        start = time.monotonic()
        if epoch == config.head_epochs:
            if best:
                model.load_state_dict(best)
            average.load_state_dict(model.state_dict())
            optimiser = _optimiser(model, config, whole=True)
        rng = np.random.default_rng([config.seed, epoch])
        torch.manual_seed(config.seed * 10_007 + epoch)
        _set_mode(model, whole=whole)
        stage_epoch, stage_epochs = (
            (epoch - config.head_epochs, config.epochs) if whole else (epoch, config.head_epochs)
        )
        train_means = train_epoch(
            model,
            average if whole else None,
            optimiser,
            train,
            config,
            stage_epoch * steps,
            stage_epochs * steps,
            rng,
        )
        judged = average if whole else model
        val_means = validate(judged, val, config)
        row = {f"train_{k}": v for k, v in train_means.items()} | {
            f"val_{k}": v for k, v in val_means.items()
        }
        if not best or val_means["score"] > max(h["val_score"] for h in history):
            best = {k: v.detach().clone() for k, v in judged.state_dict().items()}
        history.append({"epoch": epoch, "seconds": round(time.monotonic() - start, 1), **row})
        run.log_metrics([(epoch, row)])
        print(
            f"epoch {epoch + 1}/{total} {'all layers' if whole else 'head'}: "
            + " ".join(f"{k} {v:.4f}" for k, v in row.items())
            + f" ({history[-1]['seconds']} s)",
            file=sys.stderr,
            flush=True,
        )
        _save(
            state_path,
            {
                "record": json.dumps(record),
                "history": json.dumps(history),
                "model": model.state_dict(),
                "average": average.state_dict(),
                "best": best,
                "optimiser": optimiser.state_dict(),
            },
        )
    path = out / "sam_lite.safetensors"
    return finish(path, best, val, train_names, config, history, device, about=about or {})


def finish(
    path: Path,
    state: Mapping[str, Tensor],
    val: FixationPictures,
    train_names: Sequence[str],
    config: SamLiteConfig,
    history: Sequence[Mapping[str, Any]],
    device: str,
    *,
    about: Mapping[str, Any],
) -> Path:
    """Round the weights to fp16, choose the inference settings with them, and write both."""
    model = SamLite()
    model.load_state_dict({k: v.half() if v.is_floating_point() else v for k, v in state.items()})
    model = model.on(device)
    described = {
        "model": "sam_lite",
        **about,
        "config": dataclasses.asdict(config),
        "train": describe_names(train_names),
        "validation": describe_names(val.names),
        **choose_inference(model, val, config),
        "history": [{k: round(float(v), 5) for k, v in row.items()} for row in history],
        "chosen_epoch": max(history, key=lambda row: row["val_score"])["epoch"],
        "versions": {"torch": torch.__version__, "opencv": cv2.__version__, "numpy": np.__version__},
    }
    return write_weights(path, state, described)


def describe_names(names: Sequence[str]) -> dict[str, Any]:
    """How many, from which to which, and a digest of all of them."""
    digest = hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()
    return {"count": len(names), "first": min(names), "last": max(names), "sha256": digest}


def write_weights(path: Path, state: Mapping[str, Tensor], about: Mapping[str, Any]) -> Path:
    """fp16 safetensors and, beside it, a JSON with `about` and the file's SHA-256; both atomically."""
    tensors = {
        k: v.detach().cpu().to(torch.float16 if v.is_floating_point() else v.dtype).contiguous()
        for k, v in state.items()
        if not k.endswith("num_batches_tracked")
    }
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(tensors, partial)
    digest = hashlib.sha256(partial.read_bytes()).hexdigest()
    partial.chmod(0o644)
    partial.replace(path)
    described = path.with_suffix(".json")
    partial = described.with_name(f".{described.name}.{os.getpid()}")
    partial.write_text(json.dumps({**about, "sha256": digest}, indent=1) + "\n")
    partial.replace(described)
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m models.saliency.training", description=__doc__)
    parser.add_argument("--pictures", type=Path, required=True, help="folder of pictures")
    parser.add_argument(
        "--fixations", type=Path, required=True, help="Parquet or CSV: image, subject, x, y (1-based)"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for state and weights")
    parser.add_argument("--train", type=int, default=500, help="the first N sorted names train (default 500)")
    parser.add_argument("--val", type=int, default=60, help="the next N names choose the epoch (default 60)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--device", default="cpu")
    for field in dataclasses.fields(SamLiteConfig):
        flag = "--" + field.name.replace("_", "-")
        parser.add_argument(flag, type=type(field.default), default=field.default)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    cv2.setNumThreads(given.threads)
    table = read_fixations(given.fixations)
    names = sorted(str(n) for n in table["image"].unique())
    config = SamLiteConfig(**{f.name: getattr(given, f.name) for f in dataclasses.fields(SamLiteConfig)})
    split = split_by_order(names, given.train, given.val)
    about = {
        "command": " ".join(["python -m models.saliency.training", *(arguments or sys.argv[1:])]),
        "fixations_sha256": hashlib.sha256(given.fixations.read_bytes()).hexdigest(),
        "split": f"sorted names: the first {given.train} train, the next {given.val} choose epoch, rows and blur",
        "threads": given.threads,
    }
    path = train_sam_lite(
        given.pictures,
        table,
        split,
        config,
        given.out,
        about=about,
        device=given.device,
    )
    print(path)


if __name__ == "__main__":
    main()
