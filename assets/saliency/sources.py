"""The weights behind a saliency model's name, and the key of the map that they give a frame."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from assets.graph import Given
from assets.store import digest
from assets.versions import code_version
from assets.world import World
from models.saliency.records import SaliencyTraining, trainings_of
from models.seen import Seen, read_seen

if TYPE_CHECKING:
    import pandas as pd

    from models.saliency.maps import SaliencyModel

NOTHING_SEEN = Seen()


@dataclass(frozen=True)
class MapSource:
    """Weights that maps come from: of a variant in the catalogue, in a file, or (None) where the catalogue has them."""

    variant: str
    weights: Path | None
    version: str
    seen: Seen = NOTHING_SEEN


def map_source(variant: str, weights: Path | None) -> MapSource:
    """A source with its version, and the pictures that its weights have seen."""
    from models.saliency.catalogue import model_version

    seen = NOTHING_SEEN if weights is None else read_seen(weights)
    return MapSource(variant, weights, model_version(variant, weights), seen)


def trained_source(given: Given, training: SaliencyTraining) -> MapSource:
    """What a training made. Raises Waiting when it is not done."""
    folder = given["saliency_model", training.key].folder
    return map_source(training.variant, folder / f"weights/{training.variant}.safetensors")


def map_sources(world: World, given: Given, model: str) -> tuple[MapSource, ...]:
    """The sources behind a model's name: the model itself, or the user's trainings of it, of which folds left out a part of
    the training pictures. Raises Waiting for a training that is not done, FoveaError for an unknown name or missing weights."""
    from models.saliency.catalogue import weights_path

    if trained := trainings_of(model):
        return tuple(trained_source(given, t) for t in trained)
    if model in ("sam_vgg", "sam_resnet"):
        return (map_source(model, world.home.state / "weights" / f"{model}.safetensors"),)
    if model == "sam_lite":
        return (map_source(model, weights_path(model)),)
    return (map_source(model, None),)


def keyed_maps(table: "pd.DataFrame", sources: Sequence[MapSource]) -> "pd.DataFrame":
    """Frames with the key of each one's map: `map_key`, and where the map comes from.

    `map_source`: index in `sources`. `map_seen`: whether its weights were trained on this very picture. A picture that the
    model was trained on gets its map from weights that have not seen it, where there are any.
    """
    from models.saliency.catalogue import code_modules

    code = code_version(*code_modules(sources[0].variant))
    known = list(zip(*(s.seen.trained_on(table.sha256) for s in sources), strict=True))
    picked = [known_by.index(False) if False in known_by else 0 for known_by in known]
    keys = [
        digest({"frame": k, "model": sources[i].variant, "version": sources[i].version, "code": code})
        for k, i in zip(table.key, picked, strict=True)
    ]
    seen = [known_by[i] for known_by, i in zip(known, picked, strict=True)]
    return table.assign(map_key=keys, map_source=picked, map_seen=seen)


def open_model(source: MapSource, *, device: str = "cpu", threads: int = 1) -> "SaliencyModel":
    """The source, ready to predict."""
    from models.saliency.predict import load_model

    return load_model(source.variant, weights_dir=source.weights, device=device, threads=threads)
