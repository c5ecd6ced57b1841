"""Detective or forger: a page on which people tell photos from a codec's reconstructions while it learns.

The codec is a forger: it sees a picture once, writes a short note (the compressed file) and paints the picture again from
the note. Each kept step of a finished training is a level of the game.
"""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from assets.chain import Chain
from assets.evaluation.page import Picture
from assets.frames.decode import read_picture
from assets.graph import Waiting
from assets.studies.page import Album, render
from assets.training.milestones import FORMAT, FROM_TRUNK
from models.errors import FoveaError
from models.experiments import Experiment, Trunk

LEVELS = 8


class Forger(NamedTuple):
    """One training: stages.json, and its crops by sheet ("original" and each step), each N×side×side×3 uint8."""

    key: str
    said: dict[str, Any]
    crops: dict[str, Picture]

    @property
    def begins_good(self) -> bool:
        """Whether the training started from finished weights, so that its first level is as hard as its last."""
        return len(self.said["stages"]) <= FROM_TRUNK + 1


def read_forger(folder: Path, key: str) -> Forger:
    """The forger that a training's unit holds. Raises FoveaError when the unit has no stages or they are damaged."""
    kept, again = folder / "stages", f"delete {folder}, then `fovea train {key}`"
    if not (kept / "stages.json").exists():
        raise FoveaError(f"{key} was trained without keeping its stages; {again} keeps them")
    try:
        said = json.loads((kept / "stages.json").read_text())
        if said["format"] != FORMAT:
            raise ValueError(f"format {said['format']!r}, this version reads {FORMAT}")
        shape = (len(said["crops"]), said["crops"][0]["side"], said["crops"][0]["side"], 3)
        names = ("original", *(str(stage["step"]) for stage in said["stages"]))
        crops = {name: read_picture(kept / f"{name}.png").reshape(shape) for name in names}
        return Forger(key, said, crops)
    except (KeyError, TypeError, ValueError, IndexError, OSError) as error:
        raise FoveaError(f"{kept} is damaged ({error}); {again}") from error


def find_forger(chain: Chain, dataset: str, key: str = "") -> Forger:
    """The training or trunk asked for by key, else the finished one on the dataset that shows most stages and steps.

    A training from random weights begins with grey and ends with pictures; one that starts from a trunk is good from its
    first step. Raises FoveaError that says what to train.
    """
    chain.world.dataset(dataset)
    if key:
        stage = "trunk_codec" if key in chain.world.trunks else "trained_codec"
        try:
            return read_forger(chain.made(stage, key).folder, key)
        except Waiting as error:
            raise FoveaError(f"{key} is not trained yet: `fovea train {key}` trains it") from error
    kept = []
    trainings: list[Trunk | Experiment] = [*chain.world.trunks.values(), *chain.world.experiments.values()]
    for entry in (e for e in trainings if e.dataset == dataset and not e.seed):
        with contextlib.suppress(FoveaError):
            made = chain.made("trunk_codec" if entry.key in chain.world.trunks else "trained_codec", entry.key)
            if "stages/stages.json" in made.manifest["objects"]:
                kept.append((made, entry.key))
    forgers = [read_forger(made.folder, name) for made, name in kept]
    if not forgers:
        trains = f"`fovea run --dataset {dataset} --sweep game` trains one from nothing"
        raise FoveaError(f"dataset {dataset!r} has no finished training with its stages kept: {trains}")
    return max(forgers, key=lambda forger: (len(forger.said["stages"]), forger.said["steps"]))


def render_game(forger: Forger) -> str:
    """The game as one HTML file: at most `LEVELS` stages, evenly over all of them, the first and the last among them."""
    stages, originals = forger.said["stages"], forger.crops["original"]
    pixels = originals[0].shape[0] * originals[0].shape[1]
    places = np.linspace(0, len(stages) - 1, min(LEVELS, len(stages))).round().astype(int)
    album = Album()

    def trial(stage: Mapping[str, Any], crop: int, forged: Picture) -> dict[str, Any]:
        asked = {"pair": f"{stage['step']}-{crop}", "kind": f"step {stage['step']}", "image": f"crop {crop}"}
        pictures = [album.put(originals[crop]), album.put(forged)]
        note = max(1, round(stage["bpp_estimate"][crop] * pixels / 8))
        return {**asked, "names": ["real photo", "forged"], "pictures": pictures, "note": note}

    rounds = []
    for stage in (stages[place] for place in places):
        forgeries = enumerate(forger.crops[str(stage["step"])])
        trials = [trial(stage, crop, forged) for crop, forged in forgeries]
        rounds.append({"step": stage["step"], "trials": trials})
    trained = "never trained" if forger.said["held_out"] else "trained, too,"
    hard = " It started from finished weights: its first level is already hard." if forger.begins_good else ""
    about = (
        f"The forger is a learned image codec ({forger.key}), its levels are {forger.said['steps']} steps of one training; "
        f"it {trained} on these pictures.{hard} A photo is {3 * pixels} bytes before compression."
    )
    return render("game", album, originals[0].shape, rounds, study=forger.key, seed=0, about=about)
