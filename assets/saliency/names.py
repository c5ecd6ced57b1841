"""Which saliency models there are and which one each dataset's maps come from. Loads nothing heavy."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from assets.chain import Chain
from models.experiments import DEFAULT_SALIENCY
from models.saliency.records import DEFAULT_FOLDS, SaliencyTraining, trainings_of

FIXATIONS = "fixations.parquet"
PICTURES = "pictures.parquet"
SUMMARY = "saliency_benchmark.parquet"
FLIP = "+flip"


def fixations_digest(chain: Chain, dataset: str) -> str:
    """Digest of a dataset's fixation table, "" when it has none."""
    path = chain.dataset(dataset).fixations
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:32] if path else ""


def chosen_model(chain: Chain, dataset: str, model: str = DEFAULT_SALIENCY) -> str:
    """The model that a dataset's maps come from: `saliency` of its entry in fovea.toml where the default is asked for."""
    return chain.dataset(dataset).saliency or model if model == DEFAULT_SALIENCY else model


def with_fixations(chain: Chain) -> list[str]:
    """Datasets on which people's eyes were recorded."""
    return [name for name, dataset in chain.registry.items() if dataset.fixations is not None]


def trainings(chain: Chain) -> dict[str, SaliencyTraining]:
    """Every training that the UI offers, by key: each variant and SAM-Lite's folds on each dataset with fixations, and
    what the registry and the sweeps name, on such datasets."""
    found: list[SaliencyTraining] = []
    eyes = with_fixations(chain)
    for name in eyes:
        found += [SaliencyTraining(dataset=name, variant=v) for v in ("sam_lite", "sam_vgg", "sam_resnet")]
        found += [SaliencyTraining(dataset=name, folds=DEFAULT_FOLDS, fold=k) for k in range(DEFAULT_FOLDS)]
    for name in _named(chain):
        found += trainings_of(name)
    return {t.key: t for t in found if t.dataset in eyes}


def _named(chain: Chain) -> Iterator[str]:
    yield from (d.saliency for d in chain.registry.values() if d.saliency)
    yield from dict.fromkeys(e.saliency for e in chain.experiments.values())


def maps_by_training(chain: Chain) -> list[tuple[str, str]]:
    """(training's key, dataset) for each dataset whose maps come from a model that the user trains."""
    known = trainings(chain)
    return [
        (t.key, name)
        for name, d in chain.registry.items()
        if d.saliency
        for t in trainings_of(d.saliency)
        if t.key in known
    ]


def model_targets(chain: Chain, datasets: Iterable[str], models: Iterable[str] = ()) -> list[tuple[str, str]]:
    """(stage, partition) of every saliency model that these datasets' maps, or these models, need; each after what it is
    trained on."""
    found: dict[tuple[str, str], None] = {}
    for name in (*(chosen_model(chain, d) for d in datasets), *models):
        for training in trainings_of(name):
            eyes = ("source_frames", "resized_frames", "fixation_maps")
            found |= dict.fromkeys((stage, training.dataset) for stage in eyes)
            found[("saliency_model", training.key)] = None
    return list(found)
