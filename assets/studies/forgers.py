"""Who forges: finished trainings that kept how they showed held-out crops at growing steps."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from assets.chain import Chain, Waiting
from assets.frames.decode import read_picture
from assets.training.milestones import FORMAT, FROM_TRUNK
from models.errors import FoveaError
from models.experiments import Experiment, Trunk, sweep

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Stage:
    """How the codec shows the crops at a step. bpp: estimated, of the whole pictures that the crops come from.

    caught: the share of these crops that the codec's discriminator tells from their originals, where it has one.
    """

    step: int
    pictures: Sequence[Picture]
    psnr_db: Sequence[float]
    bpp: Sequence[float]
    caught: float | None = None


@dataclass(frozen=True)
class Forger:
    """One training: its originals (square crops, uint8) and its stages by rising step. held_out: never trained on them."""

    key: str
    codec: str
    lmbda: float
    steps: int
    held_out: bool
    originals: Sequence[Picture]
    stages: Sequence[Stage]


def read_forger(folder: Path, key: str, codec: str) -> Forger:
    """The forger that a training's unit holds. Raises FoveaError when the unit has no stages or they are damaged."""
    listing = folder / "stages" / "stages.json"
    if not listing.exists():
        raise FoveaError(
            f"{key} was trained without keeping its stages; delete {folder}, then `fovea train {key}` keeps them"
        )
    try:
        said = json.loads(listing.read_text())
        if said["format"] != FORMAT:
            raise FoveaError(f"{listing}: format {said['format']!r}, this version reads {FORMAT}")
        side = int(said["crops"][0]["side"])
        originals = _crops(folder / "stages" / "original.png", side)
        scores = folder / "stages" / "scores.json"
        caught = (
            {int(s["step"]): float(s["caught"]) for s in json.loads(scores.read_text())["stages"]}
            if scores.exists()
            else {}
        )
        stages = [
            Stage(
                int(s["step"]),
                _crops(folder / "stages" / f"{s['step']}.png", side),
                [float(v) for v in s["psnr_db"]],
                [float(v) for v in s["bpp_estimate"]],
                caught.get(int(s["step"])),
            )
            for s in said["stages"]
        ]
        forger = Forger(
            key, codec, float(said["lmbda"]), int(said["steps"]), bool(said["held_out"]), originals, stages
        )
    except (KeyError, TypeError, ValueError, IndexError, OSError) as error:
        raise FoveaError(
            f"{folder / 'stages'} is damaged ({error}); delete {folder}, then `fovea train {key}`"
        ) from error
    if any(len(s.pictures) != len(originals) for s in stages) or not stages:
        raise FoveaError(f"{folder / 'stages'} is damaged: the stages have not as many crops as originals")
    return forger


def _crops(path: Path, side: int) -> list[Picture]:
    sheet = read_picture(path)
    return [sheet[top : top + side] for top in range(0, sheet.shape[0] - side + 1, side)]


def find_forgers(
    chain: Chain, dataset: str, *, keys: Sequence[str] = (), codecs: Sequence[str] = ()
) -> list[Forger]:
    """The trainings asked for by key, else for each codec the finished one on the dataset that has the most to learn.

    A training from random weights begins with grey and ends with pictures; one that starts from a trunk is good from its
    first step, and is taken only where its codec has no other. Raises FoveaError that says what to train.
    """
    chain.dataset(dataset)
    entries: dict[str, Trunk | Experiment] = {**chain.trunks, **chain.experiments}
    if keys:
        for key in keys:
            if key not in entries:
                chain.experiment(key)  # raises with the nearest keys
        found = []
        for key in keys:
            stage = "trunk_codec" if key in chain.trunks else "trained_codec"
            try:
                made = chain.made(stage, key)
            except Waiting as error:
                raise FoveaError(f"{key} is not trained yet: `fovea train {key}` trains it") from error
            found.append(read_forger(made.folder, key, entries[key].codec))
        return found
    best: dict[str, Forger] = {}
    lacking = 0
    for key, entry in entries.items():
        if entry.dataset != dataset or (codecs and entry.codec not in codecs) or entry.seed:
            continue
        stage = "trunk_codec" if key in chain.trunks else "trained_codec"
        try:
            made = chain.made(stage, key)
        except (Waiting, FoveaError):
            continue
        if "stages/stages.json" not in made.manifest["objects"]:
            lacking += 1
            continue
        forger = read_forger(made.folder, key, entry.codec)
        known = best.get(entry.codec)
        if known is None or (len(forger.stages), forger.steps) > (len(known.stages), known.steps):
            best[entry.codec] = forger
    if not best:
        only = f" of {', '.join(codecs)}" if codecs else ""
        older = (
            f" ({lacking} finished before stages were kept, or are trunks that ship; a game needs one that is trained here)"
            if lacking
            else ""
        )
        raise FoveaError(
            f"dataset {dataset!r} has no finished training{only} with its stages kept{older}: `fovea train "
            f"{suggested(chain, dataset, codecs)}` trains one from nothing"
        )
    return list(best.values())


def suggested(chain: Chain, dataset: str, codecs: Sequence[str] = ()) -> str:
    """The key of a training from random weights that makes a good game: of the sweep `game` where the codec is in it."""
    own = [e.key for e in sweep("game", dataset).experiments if not codecs or e.codec in codecs]
    scratch = [
        e.key
        for e in chain.experiments.values()
        if e.dataset == dataset and e.trunk is None and (not codecs or e.codec in codecs)
    ]
    return [*own, *scratch, "KEY"][0]


def begins_good(forger: Forger) -> bool:
    """Whether the training started from finished weights, so that its first level is as hard as its last."""
    return len(forger.stages) <= FROM_TRUNK + 1
