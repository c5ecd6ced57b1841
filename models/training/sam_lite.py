"""Training of SAM-Lite on recorded eye movements.

First the head alone on ImageNet features, then every layer, with the batch norms' statistics held, an exponential
moving average of the weights, and the epoch chosen on the validation pictures. The shipped weights were made with the
defaults, on OSIE: its first 500 pictures by name train, the next 60 validate.
"""

import copy
import dataclasses
import hashlib
import json
import math
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
from models.saliency.losses import sam_loss
from models.saliency.maps import PictureSource
from models.saliency.records import fold_of
from models.saliency.sam_lite import (
    SamLite,
    gaussian_blur,
    imagenet_weights,
    normalise,
    resize_maps,
    resize_picture,
    working_size,
)
from models.training.loop import Move, Objective
from models.training.ranks import Ranks

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


class FixationPictures:
    """Pictures by name, and their fixations, 0-based."""

    def __init__(self, picture: PictureSource, fixations: pd.DataFrame, names: Sequence[str]) -> None:
        self.picture, self.names = picture, list(names)
        groups = fixations.groupby("image", sort=False)[["x", "y"]]
        points = {str(name): group.to_numpy(np.float64) - 1.0 for name, group in groups}
        absent = [n for n in self.names if n not in points]
        if absent:
            raise FoveaError(f"{absent[0]} and {len(absent) - 1} more pictures have no fixations in the table")
        self.points = {n: points[n] for n in self.names}

    def size(self, name: str) -> tuple[int, int]:
        """Height and width."""
        height, width = self.picture(name).shape[:2]
        return height, width


def targets(
    points: np.ndarray, window: tuple[float, float, float, float], size: tuple[int, int], sigma: float
) -> tuple[np.ndarray, np.ndarray]:
    """Fixation counts and density (sums to 1) of a window (x0, y0, width, height) of a picture, on a grid `size`. Points
    are 0-based pixel centres; those outside of the window are left out. sigma: grid cells."""
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
    data: FixationPictures, name: str, size: tuple[int, int], config: SamLiteConfig, rng: np.random.Generator | None
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
        inside = (points[:, 0] >= x0) & (points[:, 0] < x0 + w) & (points[:, 1] >= y0) & (points[:, 1] < y0 + h)
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


def _batches(data: FixationPictures, size: int, rows: int, rng: np.random.Generator | None) -> Iterator[list[str]]:
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


@torch.inference_mode()
def validate(model: SamLite, data: FixationPictures, config: SamLiteConfig) -> dict[str, float]:
    """KL, CC, NSS on the map grid, single pass, and the score that chooses the epoch: CC + NSS/4 − KL/2."""
    model.eval()
    device = next(model.parameters()).device
    total = np.zeros(3)
    for names in _batches(data, config.batch_size, config.rows, None):
        size = working_size(*data.size(names[0]), config.rows)
        pictures, counts, densities = (
            t.to(device) for t in _batch([make_sample(data, n, size, config, None) for n in names])
        )
        _, parts = sam_loss(model(pictures).exp(), densities, counts)
        total += parts.double().cpu().numpy() * len(names)
    return _means(total, len(data.names))


@torch.inference_mode()
def choose_inference(model: SamLite, data: FixationPictures, config: SamLiteConfig) -> dict[str, Any]:
    """Working rows and blur (cells of the map) with the best score on the validation pictures, at their own size. Returns
    `inference` (rows, blur) and `val`: KL, CC, NSS and score of that choice, single pass."""
    model.eval()
    device = next(model.parameters()).device
    table: dict[tuple[int, float], dict[str, float]] = {}
    for rows in sorted({config.rows + offset for offset in (-16, 0, 16)}):
        sums = {blur: np.zeros(3) for blur in BLURS}
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
                _, parts = sam_loss(blurred, density_t, counts_t.clamp(max=1.0))
                sums[blur] += parts.double().cpu().numpy()
        table |= {(rows, blur): _means(total, len(data.names)) for blur, total in sums.items()}
    rows, blur = max(table, key=lambda key: table[key]["score"])
    return {
        "inference": {"rows": rows, "blur": blur},
        "val": table[rows, blur],
        "val_by_rows": {
            str(r): max((v for (q, _), v in table.items() if q == r), key=lambda v: v["score"]) for r, _ in table
        },
    }


def _means(total: np.ndarray, count: int) -> dict[str, float]:
    """Means from sums of KL, CC and NSS, and the score that they give."""
    kl, cc, nss = (total / count).tolist()
    return {"kl": kl, "cc": cc, "nss": nss, "score": cc + nss / 4.0 - kl / 2.0}


def _optimiser(model: SamLite, config: SamLiteConfig, *, whole: bool) -> torch.optim.AdamW:
    backbone = [*model.backbone.parameters()]
    head = [(name, p) for name, p in model.named_parameters() if not name.startswith("backbone.")]
    plain = [p for name, p in head if name.startswith("prior") or p.ndim < 2]
    rest = [p for name, p in head if not name.startswith("prior") and p.ndim >= 2]
    head_lr = config.lr if whole else config.head_lr
    groups: list[dict[str, Any]] = [
        {"params": rest, "base_lr": head_lr, "weight_decay": config.weight_decay},
        {"params": plain, "base_lr": head_lr, "weight_decay": 0.0},
    ]
    if whole:
        groups.append({"params": backbone, "base_lr": config.backbone_lr, "weight_decay": config.weight_decay})
    for p in backbone:
        p.requires_grad_(whole)
    return torch.optim.AdamW(groups, lr=head_lr)


def _set_mode(model: SamLite, *, whole: bool) -> None:
    """Dropout on; batch norm learns statistics only in the head, and only while the head is trained alone."""
    model.train()
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d) and (whole or name.startswith("backbone.")):
            module.eval()


class SamLiteTraining(Objective):
    """SAM-Lite on the fixations (image, x, y) of pictures. A row an epoch: the training's numbers and those of the validation
    pictures; the best epoch's weights are kept.

    split maps the table's image to train, val or test; test pictures are never opened. about: what the JSON beside the
    weights says besides. Raises FoveaError where training or validation pictures, or fixations of one, are missing.
    """

    names = ("kl", "cc", "nss")
    shown = ("kl", "cc", "nss", "val_score")

    def __init__(
        self,
        pictures: PictureSource,
        fixations: pd.DataFrame,
        split: Mapping[str, str],
        config: SamLiteConfig,
        *,
        about: Mapping[str, Any] | None = None,
    ):
        self.config, self.about_weights = config, about or {}
        self.best: dict[str, Tensor] = {}
        self.history: list[dict[str, float]] = []
        train = sorted(n for n, s in split.items() if s == "train")
        if config.folds:
            train = [n for n in train if fold_of(n, config.folds) != config.fold]
        val = sorted(n for n, s in split.items() if s == "val")
        if not train or not val:
            raise FoveaError("the split needs training and validation pictures")
        self.train, self.val = (FixationPictures(pictures, fixations, names) for names in (train, val))
        self.record = {"variant": "sam_lite", **dataclasses.asdict(config)}
        self.batch = config.batch_size
        # where an epoch's random numbers stand is in no checkpoint: only its start is
        self.unit = self.row_every = sum(1 for _ in _batches(self.train, config.batch_size, config.rows, None))
        self.steps = (config.head_epochs + config.epochs) * self.row_every

    def prepare(self, device: torch.device, ranks: Ranks) -> None:
        torch.manual_seed(self.config.seed)
        model = SamLite(dropout=self.config.dropout)
        model.backbone.load_state_dict(imagenet_weights())
        self.device, self.model = device, model.on(device)
        self.networks = {"model": self.model}
        self.averaged = [*self.model.parameters()]
        self.average = [p.detach().clone() for p in self.averaged]
        self.optimisers = {"main": _optimiser(self.model, self.config, whole=False)}

    def identity(self) -> str:
        """Recipe, pictures' names, and where people looked on them."""
        looked = {n: part.points[n].tolist() for part in (self.train, self.val) for n in part.names}
        facts = [dataclasses.asdict(self.config), self.train.names, self.val.names, looked]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "history": json.dumps(self.history)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.best, self.history = dict(state["best"]), json.loads(state["history"])
        if len(self.history) > self.config.head_epochs:
            self.optimisers["main"] = _optimiser(self.model, self.config, whole=True)

    @torch.no_grad()
    def _begin(self, epoch: int) -> None:
        config = self.config
        if epoch == config.head_epochs:
            if self.best:
                self.model.load_state_dict(self.best)
            for own, parameter in zip(self.average, self.averaged, strict=True):
                own.copy_(parameter)
            self.optimisers["main"] = _optimiser(self.model, config, whole=True)
        self.rng = np.random.default_rng([config.seed, epoch])
        torch.manual_seed(config.seed * 10_007 + epoch)
        _set_mode(self.model, whole=epoch >= config.head_epochs)
        self.batches = list(_batches(self.train, config.batch_size, config.rows, self.rng))

    def _stage(self, step: int) -> tuple[bool, int, int]:
        """Whether every layer trains, how many steps of that stage are done, and how many it has."""
        head = self.config.head_epochs * self.row_every
        return (True, step - head, self.steps - head) if step >= head else (False, step, head)

    def moves(self, step: int) -> Iterator[Move]:
        config = self.config
        epoch, place = divmod(step, self.row_every)
        if place == 0:
            self._begin(epoch)
        names = self.batches[place]
        rows = config.rows * math.exp(self.rng.uniform(-1.0, 1.0) * math.log1p(config.scale_jitter))
        size = working_size(*self.train.size(names[0]), round(rows))
        pictures, counts, densities = (
            t.to(self.device) for t in _batch([make_sample(self.train, n, size, config, self.rng) for n in names])
        )
        optimiser = self.optimisers["main"]
        _, done, total = self._stage(step)
        warm = min(1.0, (done + 1) / config.warmup_steps)
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, done / total)))
        for group in optimiser.param_groups:
            group["lr"] = group["base_lr"] * warm * (config.final_lr + (1.0 - config.final_lr) * cosine)
        loss, parts = sam_loss(self.model(pictures).exp(), densities, counts)
        # batches are not all of one size: an epoch's means are over its pictures
        share = len(names) * self.row_every / len(self.train.names)
        yield Move(loss, optimiser, self.averaged, config.clip_norm, share * parts)

    def decay(self, step: int) -> float:
        """None while the head is trained alone."""
        whole, done, _ = self._stage(step)
        return min(self.config.average, (1.0 + done) / (10.0 + done)) if whole else 0.0

    @torch.no_grad()
    def chosen(self) -> SamLite:
        kept = copy.deepcopy(self.model)
        for parameter, average in zip(kept.parameters(), self.average, strict=True):
            parameter.copy_(average)
        return kept.eval()

    def best_epoch(self) -> int:
        """The first of those with the highest score."""
        scores = [row["val_score"] for row in self.history]
        return scores.index(max(scores))

    def row(self, step: int, means: dict[str, float]) -> tuple[int, dict[str, float]]:
        """See Objective; the number is the epoch's, from 0."""
        judged = self.chosen()
        row = {f"train_{k}": means[k] for k in self.names}
        row |= {f"val_{k}": v for k, v in validate(judged, self.val, self.config).items()}
        self.history.append(row)
        if self.best_epoch() == len(self.history) - 1:
            self.best = {k: v.detach().clone() for k, v in judged.state_dict().items()}
        return len(self.history) - 1, row

    def done(self, step: int) -> bool:
        return step >= self.steps or (step % self.row_every == 0 and bool(step) and self.out_of_patience())

    def out_of_patience(self) -> bool:
        """Whether `patience` epochs of all layers in a row have not beaten the best of them."""
        scores = [row["val_score"] for row in self.history[self.config.head_epochs :]]
        since_best = len(scores) - 1 - scores.index(max(scores)) if scores else 0
        return bool(self.config.patience and scores) and since_best >= self.config.patience

    def write(self, folder: Path) -> Path:
        """`sam_lite.safetensors` in fp16, with the inference settings that suit the rounded weights in the JSON beside it."""
        config = self.config
        kept = {k: v for k, v in self.best.items() if not k.endswith("num_batches_tracked")}
        half = {k: v.cpu().half().contiguous() if v.is_floating_point() else v for k, v in kept.items()}
        model = SamLite()
        model.load_state_dict(half, strict=False)
        path = folder / "sam_lite.safetensors"
        save_file(half, path)
        described = {
            "model": "sam_lite",
            **self.about_weights,
            "config": dataclasses.asdict(config),
            "train": describe_names(self.train.names),
            "validation": describe_names(self.val.names),
            **choose_inference(model.on(self.device), self.val, config),
            "history": [
                {"epoch": float(epoch)} | {k: round(v, 5) for k, v in row.items()}
                for epoch, row in enumerate(self.history)
            ],
            "chosen_epoch": self.best_epoch(),
            "versions": {"torch": torch.__version__, "opencv": cv2.__version__, "numpy": np.__version__},
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        path.with_suffix(".json").write_text(json.dumps(described, indent=1) + "\n")
        return path


def describe_names(names: Sequence[str]) -> dict[str, Any]:
    """How many, from which to which, and a digest of all of them."""
    digest = hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()
    return {"count": len(names), "first": min(names), "last": max(names), "sha256": digest}
