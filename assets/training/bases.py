"""The trainings of the codecs that ship: models/codecs/weights/<name>, from folders of pictures, without a dataset.

A base serves every map: it is trained with levels all over its range and, over the pictures, with SAM-Lite's maps, with
random maps, with blends of both, and with none (models/training/rate_distortion.py). A training can go on from another
one's weights: it is a new one with a learning rate of its own, whose record names where it began.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

from assets.datasets import PICTURE_SUFFIXES
from models.card import find_card
from models.codecs.base import Codec, CodecConfig
from models.codecs.catalogue import WEIGHTS, build, find_folder, load_codec
from models.errors import FoveaError
from models.saliency.maps import Picture
from models.saliency.predict import load_model
from models.seen import read_seen, write_seen
from models.tracking import Run
from models.training.context import ContextTraining
from models.training.cuts import Cuts, with_levels
from models.training.data import FrameSet
from models.training.loop import train
from models.training.rate_distortion import RateDistortion
from models.training.recurrent import Recurrent
from models.validation import unknown

LAMBDAS = tuple(0.0008 * 2**k for k in range(9))
SHRUNK = (0.45, 0.5, 0.625)
"""Sizes at which a JPEG is trained on, as parts of its sides: its blocks and ringing are not what a codec is to learn."""

RECIPE: dict[str, Any] = {
    "seed": 0, "batch_size": 4, "crop": 256, "lr": 1e-3, "aux_lr": 1e-3, "clip_norm": 1.0,
    "warmup_steps": 100, "final_lr_factor": 0.02, "ema": 0.999, "distortion": "mse", "mechanism": "gain",
    "gamma": 0.5, "span": 4.0, "lmbda": list(LAMBDAS), "augment": 0.5, "mode": "fast", "optimiser": "soap",
    "balance": 0.4, "trim": 3,
}  # fmt: skip
"""Crops have places of z with all their neighbours: in those of 128 pixels each lies at a corner, and what h_a and h_s do
inside a picture is left to chance. Trimmed, they end within a place of z, as pictures do."""
RECURRENT: dict[str, Any] = RECIPE | {
    "crop": 64, "lr": 3e-3, "ema": 0.998, "mechanism": "none", "loss": "l1", "lmbda": [], "balance": 0.0, "trim": 0,
    "unrolled": 10, "reconstruction": "scaled", "prime": 0, "stops": "rate", "context": "bits",
}  # fmt: skip
RECIPES = {"light": RECIPE, "bls2017": RECIPE, "toderici2017": RECURRENT}
PLAIN = 120
"""Made pictures of one colour or a slow change between two, which photographs have too little of: skies, walls, borders."""
STARK = 180
"""Made pictures of what photographs have too little of in another way: colours at the ends of their range, patterns of two of
them, and photographs with a box of either. Unseen, they are foretold so badly that a red square costs more than the rest."""
WIDTHS = {"light": (96, 256), "bls2017": (128, 192), "toderici2017": (128, 32)}
"""N and M of each base."""


def config_of(name: str) -> CodecConfig:
    """What a base is built from. Raises FoveaError for a codec that has none."""
    if name not in WIDTHS:
        raise FoveaError(unknown("base", name, WIDTHS))
    (n, m), recipe = WIDTHS[name], RECIPES[name]
    gained = {"gamma": recipe["gamma"], "span": recipe["span"]} if recipe["mechanism"] == "gain" else {}
    options = {k: recipe[k] for k, o in find_card(name).card.options.items() if o.part == "codec" and k in recipe}
    return CodecConfig(
        codec=name,
        n=n,
        m=m,
        mechanism=recipe["mechanism"],
        lmbda=tuple(recipe["lmbda"]),
        options=tuple(sorted(options.items())),
        **gained,
    )


def plain_pictures(count: int) -> list[Picture]:
    """H×W×3 uint8: half of them of one colour, black, white, grey or any; half a straight gradient."""
    pictures = []
    for k in range(count):
        rng = np.random.default_rng(k)
        first, second = rng.integers(0, 256, (2, 3)).astype(float)
        if k % 4 == 0:
            first = np.full(3, (0.0, 255.0, first[0])[k // 4 % 3])
        turn, (y, x) = 2 * np.pi * rng.random(), np.mgrid[:288, :384]
        along = np.cos(turn) * x + np.sin(turn) * y
        along = (along - along.min()) / np.ptp(along) if k % 2 else np.zeros_like(along)
        pictures.append(np.round(first + (second - first) * along[..., None]).astype(np.uint8))
    return pictures


def stark_pictures(count: int, photographs: Sequence[Picture]) -> list[Picture]:
    """H×W×3 uint8, in turn: one colour at an end of its range in each of red, green and blue, or nearly; a pattern of two
    colours, a chequer, stripes, or noise in cells of 1 to 16 pixels; a photograph with a box of either on it."""
    pictures: list[Picture] = []
    for k in range(count):
        rng = np.random.default_rng([k, 1])
        colours = 255.0 * rng.integers(0, 2, (2, 3)) + rng.normal(0, 20, (2, 3)) * (k % 2)
        photograph = photographs[int(rng.integers(len(photographs)))] if k % 3 == 2 and photographs else None
        height, width = (288, 384) if photograph is None else photograph.shape[:2]
        box = np.broadcast_to(colours[0], (height, width, 3))
        if k % 3 == 1 or rng.random() < 0.5:
            y, x = np.mgrid[:height, :width] // rng.choice([1, 2, 3, 4, 6, 8, 16])
            noise = rng.random((height, width))[y, x] < rng.random()
            chosen = (np.asarray((x + y) % 2 == 0), x % 2 == 0, y % 2 == 0, noise)[rng.integers(4)]
            box = np.where(chosen[..., None], colours[0], colours[1])
        shown = np.round(box.clip(0, 255)).astype(np.uint8)
        if photograph is not None:
            tall, wide = (int(rng.integers(side // 8, side)) for side in (height, width))
            top, left = int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1))
            inside = slice(top, top + tall), slice(left, left + wide)
            shown, box = photograph.copy(), shown
            shown[inside] = box[inside]
        pictures.append(shown)
    return pictures


def files_of(sources: Sequence[str]) -> list[Path]:
    """The pictures of all sources: folders, or FOLDER:COUNT for the first so many of its files by name. Raises FoveaError
    for a folder that is not there, or has no picture, or fewer; and for another COUNT than a whole number from 1 on."""
    found: list[Path] = []
    for source in sources:
        folder, colon, count = (source, "", "") if Path(source).is_dir() else source.rpartition(":")
        if colon and not (count.isascii() and count.isdigit() and int(count)):
            raise FoveaError(f"{source}: in FOLDER:COUNT, COUNT is a whole number from 1 on")
        folder = folder if colon else source
        if not Path(folder).is_dir():
            raise FoveaError(f"no folder {folder}")
        files = sorted(p for p in Path(folder).glob("*") if p.suffix.lower() in PICTURE_SUFFIXES)
        if not files:
            raise FoveaError(f"{folder}: no picture in it")
        if colon and len(files) < int(count):
            raise FoveaError(f"{source}: the folder has only {len(files)}")
        found += files[: int(count)] if colon else files
    return found


def is_jpeg(name: str) -> bool:
    """Whether a file is one, by its name: it is trained on at the sizes of SHRUNK."""
    return name.lower().endswith((".jpg", ".jpeg"))


def frames_of(sources: Sequence[str], threads: int | None = None) -> FrameSet:
    """Pictures of the sources (see `files_of`), then plain ones, with SAM-Lite's maps. Raises FoveaError as it does, or
    for a file that can't be read."""
    from assets.frames.decode import read_picture  # loads imagecodecs, which a training of frames at hand need not have

    pictures: list[Picture] = []
    names: list[str] = []
    for file in files_of(sources):
        picture = read_picture(file)
        for scale in SHRUNK if is_jpeg(file.name) else (1.0,):
            size = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
            smaller = picture if scale == 1 else cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
            pictures.append(smaller.astype(np.uint8, copy=False))
            names.append(f"{file.name}@{scale:g}")
    pictures += plain_pictures(PLAIN) + stark_pictures(STARK, pictures)
    names += [f"plain {k}" for k in range(PLAIN)] + [f"stark {k}" for k in range(STARK)]
    return FrameSet(pictures, load_model("sam_lite", threads=threads).predict(pictures), names)


def started_from(name: str, begin: str, part: str) -> Codec | None:
    """The codec that a training of `train_base` goes on from; None: from scratch. Raises FoveaError for one that is not there,
    is another codec, or takes no such part."""
    if not (begin or part):
        return None
    codec = load_codec(find_folder(begin or name))
    if codec.config.codec != name:
        raise FoveaError(f"{begin} is a codec {codec.config.codec}: {name} goes on from one of its own name")
    if part:
        with_levels(codec)
    return codec


class Base(RateDistortion):
    """A codec that ships in half the bytes."""

    half = True


class Part(NamedTuple):
    """What is trained for a codec whose own weights stay, and how its recipe differs."""

    objective: type[RateDistortion]
    recipe: Mapping[str, Any] = {}


PARTS = {"": Part(Base), "cuts": Part(Cuts), "context": Part(ContextTraining, {"batch_size": 8, "lr": 3e-3})}


def train_base(
    name: str,
    frames: FrameSet,
    workdir: Path,
    *,
    steps: int,
    begin: str = "",
    part: str = "",
    files: Sequence[Path] = (),
    changes: Mapping[str, Any] = {},
    **hooks: Any,
) -> Path:
    """Train a base, or go on where an interrupted call stopped; gives the folder of the codec, its data's digest and
    count beside it in training.json, and the list of the pictures that it has seen.

    begin: a shipped codec's name or a saved codec's folder whose weights it starts from; "" is from scratch. part: one of
    PARTS alone, for `begin` or for the shipped codec. files: what the frames are from. changes: in place
    of the recipe's values. hooks: what `train` takes beside objective and folder. Raises FoveaError as `train` does, and
    for a codec that has no recipe.
    """
    config = config_of(name)
    started = started_from(name, begin, part)
    record = {
        **RECIPES[name],
        **PARTS[part].recipe,
        **changes,
        "kind": "base",
        "codec": name,
        "n": config.n,
        "m": config.m,
        "steps": steps,
    }
    before = read_seen(find_folder(begin or name) / WEIGHTS).train if started else ()
    contents = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    record["data"] = {"pictures": len(frames), "sha256": frames.digest()}
    if started is not None:
        record["begin"] = started.identity().hex()
        if part in (added := started.additions()):
            record["goes_on_from"] = added[part].name.hex()
    objective: RateDistortion
    if part and started is not None:
        record["kind"] = part
        objective = PARTS[part].objective(record, started, frames)
    else:
        torch.manual_seed(record["seed"])
        codec = build(config)
        if started is None:
            codec.start(frames.pictures, record["seed"])
        else:
            codec.load_trunk(started.weights())
        objective = (Recurrent if find_card(name).card.objective == "recurrent" else Base)(record, codec, frames)
    folder = train(objective, workdir=workdir, tracker_run=Run(), **hooks)
    write_seen(folder / WEIGHTS, [*contents, *before])
    return folder
