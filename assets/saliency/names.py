"""Which saliency models there are and which one each dataset's maps come from. Loads nothing heavy."""

from collections.abc import Iterator

from assets.graph import Need
from assets.world import World
from models.experiments import DEFAULT_SALIENCY
from models.saliency.records import DEFAULT_FOLDS, SaliencyTraining, training_of, trainings_of

FIXATIONS = "fixations.parquet"
PICTURES = "pictures.parquet"
SUMMARY = "saliency_benchmark.parquet"
FLIP = "+flip"


def chosen_model(world: World, dataset: str, model: str = DEFAULT_SALIENCY) -> str:
    """The model that a dataset's maps come from: `saliency` of its entry in fovea.toml where the default is asked for."""
    return world.dataset(dataset).saliency or model if model == DEFAULT_SALIENCY else model


def other_maps(world: World, dataset: str, model: str) -> str:
    """The partition of maps of a dataset by another model than its own, "" where the model is its own."""
    own, chosen = chosen_model(world, dataset), chosen_model(world, dataset, model or DEFAULT_SALIENCY)
    return "" if chosen == own else f"{dataset}@{chosen}"


def picture_needs(world: World, dataset: str, maps: str, model: str, splits: tuple[str, ...]) -> tuple[Need, ...]:
    """What reading pictures of these splits with maps of this kind (`predicted`, `none`, …) by this model needs."""
    other = other_maps(world, dataset, model) if maps in ("predicted", "shuffled") else ""
    kind = "pairs" if maps in ("predicted", "shuffled") and not other else "pictures"
    found = [Need("rgba_frames", dataset, f"{split} {kind}") for split in splits]
    return (*found, *(Need("other_maps", other, f"{split} pairs") for split in splits if other))


def with_fixations(world: World) -> list[str]:
    """Datasets on which people's eyes were recorded."""
    return [name for name, dataset in world.registry.items() if dataset.fixations is not None]


def trainings(world: World) -> dict[str, SaliencyTraining]:
    """Every training that the UI offers, by key: SAM-Lite and its folds on each dataset with fixations, and
    what the registry and the sweeps name, on such datasets."""
    found: list[SaliencyTraining] = []
    eyes = with_fixations(world)
    for name in eyes:
        folds = (SaliencyTraining(dataset=name, folds=DEFAULT_FOLDS, fold=k) for k in range(DEFAULT_FOLDS))
        found += [SaliencyTraining(dataset=name), *folds]
    for name in _named(world):
        found += trainings_of(name)
    return {t.key: t for t in found if t.dataset in eyes}


def _named(world: World) -> Iterator[str]:
    yield from (d.saliency for d in world.registry.values() if d.saliency)
    yield from dict.fromkeys(e.saliency for e in world.experiments.values())


def known_trainings(world: World) -> dict[str, SaliencyTraining]:
    """`trainings`, and what was trained on this installation, folds excepted."""
    before = {key: training_of(key) for key in world.made_before("saliency_model")}
    return {k: t for k, t in sorted({**trainings(world), **before}.items()) if not t.folds}
