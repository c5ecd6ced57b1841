"""Which saliency models there are and which one each dataset's maps come from. Loads nothing heavy."""

from assets.graph import Need
from assets.world import World
from models.experiments import DEFAULT_SALIENCY
from models.saliency.records import DEFAULT_FOLDS, SaliencyTraining, training_of, trainings_of

FIXATIONS = "fixations.parquet"
PICTURES = "pictures.parquet"
SUMMARY = "saliency_benchmark.parquet"
FLIP = "+flip"


def chosen_model(world: World, dataset: str) -> str:
    """The model that a dataset's maps come from: `saliency` of its entry in fovea.toml, else the default."""
    return world.dataset(dataset).saliency or DEFAULT_SALIENCY


def picture_needs(dataset: str, maps: str, splits: tuple[str, ...]) -> tuple[Need, ...]:
    """What reading pictures of these splits with maps of this kind (`predicted`, `none`, …) needs."""
    kind = "pairs" if maps in ("predicted", "shuffled") else "pictures"
    return tuple(Need("rgba_frames", dataset, f"{split} {kind}") for split in splits)


def with_fixations(world: World) -> list[str]:
    """Datasets on which people's eyes were recorded."""
    return [name for name, dataset in world.registry.items() if dataset.fixations is not None]


def trainings(world: World) -> dict[str, SaliencyTraining]:
    """Every training that the UI offers, by key: SAM-Lite and its folds on each dataset with fixations, and
    what the registry names, on such datasets."""
    eyes = with_fixations(world)
    names = [f"{dataset}.sam_lite+{DEFAULT_FOLDS}folds" for dataset in eyes]
    names += [dataset.saliency for dataset in world.registry.values() if dataset.saliency]
    return {t.key: t for name in names for t in trainings_of(name) if t.dataset in eyes}


def known_trainings(world: World) -> dict[str, SaliencyTraining]:
    """`trainings`, and what was trained on this installation, folds excepted."""
    before = {key: training_of(key) for key in world.made_before("saliency_model")}
    return {k: t for k, t in sorted({**trainings(world), **before}.items()) if not t.folds}
