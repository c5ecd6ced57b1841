"""Trainings of saliency models, and the names by which maps are asked for. Torch-free: the planner loads this.

osie.sam_lite                  trained on the dataset osie
osie.sam_lite-fold0of3         the same without one third of the training pictures
osie.sam_lite-s1               with seed 1
osie.sam_lite+3folds           a name for maps: each training picture's map from a model that has not seen it
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from models.errors import FoveaError
from models.saliency.catalogue import MODELS
from models.validation import unknown

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "tiny": {"rows": 64, "batch_size": 4, "head_epochs": 1, "epochs": 1, "warmup_steps": 2},
}
"""What each preset changes of the recipe (models.training.sam_lite.SamLiteConfig)."""
DEFAULT_FOLDS = 3
OWN_MAPS = "own maps"
"""In place of a model's name where each picture has a map of its own, a file."""
_NAME = re.compile(
    r"(?P<dataset>[a-z0-9][a-z0-9_-]*)\.sam_lite(?P<preset>-tiny)?"
    r"(-fold(?P<fold>\d+)of(?P<folds>\d+))?(-s(?P<seed>[1-9]\d*))?(\+(?P<parts>\d+)folds)?"
)


@dataclass(frozen=True, kw_only=True)
class SaliencyTraining:
    """One training of SAM-Lite on the fixations of a dataset's train and val parts. fold: that one of `folds` is left out of
    the training pictures (folds 0: none)."""

    variant: ClassVar[str] = "sam_lite"
    dataset: str
    preset: str = "default"
    folds: int = 0
    fold: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.folds == 1 or self.folds < 0 or not 0 <= self.fold < max(1, self.folds):
            raise FoveaError(f"fold must be one of 0 … folds − 1, folds at least 2; not {self.fold} of {self.folds}")

    @property
    def key(self) -> str:
        """The partition of `saliency_model`."""
        fold = f"-fold{self.fold}of{self.folds}" if self.folds else ""
        seed = f"-s{self.seed}" if self.seed else ""
        preset = "" if self.preset == "default" else f"-{self.preset}"
        return f"{self.dataset}.{self.variant}{preset}{fold}{seed}"

    def resolved(self) -> dict[str, Any]:
        """Everything that sets this training apart, flat, JSON-ready."""
        named = {name: getattr(self, name) for name in ("variant", "folds", "fold", "seed")}
        return {**named, "start": "imagenet", **PRESETS[self.preset]}


def trainings_of(name: str) -> tuple[SaliencyTraining, ...]:
    """The trainings that a name for maps stands for: none for own maps or a model of the catalogue, one for a training's key, and with
    `+Kfolds` the K trainings that leave a fold out after it. Raises FoveaError for a name that is neither."""
    if name in MODELS or name == OWN_MAPS:
        return ()
    found = _NAME.fullmatch(name)
    if not found:
        raise FoveaError(
            f"{unknown('saliency model', name, MODELS)}; or one that you train, such as "
            f"osie.sam_lite or osie.sam_lite+{DEFAULT_FOLDS}folds"
        )
    fields: dict[str, Any] = {
        "dataset": found["dataset"],
        "preset": "tiny" if found["preset"] else "default",
        "seed": int(found["seed"] or 0),
    }
    if found["folds"] and found["parts"]:
        raise FoveaError(f"{name}: either one fold's model (-fold0of3) or maps from all of them (+3folds)")
    folds, fold = int(found["folds"] or 0), int(found["fold"] or 0)
    if found["folds"] and not folds:
        raise FoveaError(f"{name}: folds must be at least 2")
    main = SaliencyTraining(**fields, folds=folds, fold=fold)
    if not found["parts"]:
        return (main,)
    parts = int(found["parts"])
    if not 2 <= parts <= 100:
        raise FoveaError(f"{name}: folds must be 2 … 100, not {parts}")
    return (main, *(SaliencyTraining(**fields, folds=parts, fold=k) for k in range(parts)))


def fold_of(name: str, folds: int) -> int:
    """The fold that a picture belongs to: a hash of its name, the same everywhere."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % folds


def is_training(key: str) -> bool:
    """Whether this is written like a training's key."""
    found = _NAME.fullmatch(key)
    return bool(found and not found["parts"])


def training_of(key: str) -> SaliencyTraining:
    """The training with this key. Raises FoveaError for anything else."""
    found = trainings_of(key)
    if len(found) != 1 or found[0].key != key:
        raise FoveaError(f"{key!r} is no training of a saliency model; write DATASET.sam_lite, such as osie.sam_lite")
    return found[0]
