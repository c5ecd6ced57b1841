"""`saliency_benchmark`: how good saliency models are."""

from collections.abc import Mapping, Sequence
from typing import Any

from assets.graph import Need, Stage, Task, View
from assets.saliency.checks import BENCHMARK
from assets.saliency.names import FLIP, known_trainings, with_fixations
from assets.saliency.sources import MapSource, map_sources, trained_source
from assets.versions import code_version
from assets.world import World
from models.saliency.records import training_of


class SaliencyBenchmark(Stage):
    """CC, SIM, KL, NSS, AUC-Judd and shuffled AUC of every saliency model that is here, with 95 % intervals, beside how
    well half of the people predict the other half."""

    name = "saliency_benchmark"
    reads = ("fixation_maps", "saliency_model")
    group, kinds, checks = "saliency", frozenset({"pytorch", "mlflow"}), BENCHMARK
    onlookers = ("assets.saliency.sources", "assets.saliency.checks", "assets.story")

    def partitions(self, world: World) -> list[str]:
        return with_fixations(world)

    def needs(self, world: World, partition: str) -> Sequence[Need]:
        eyes = [Need("fixation_maps", partition, part) for part in ("measured", "train")]
        return [*eyes, *(Need("saliency_model", key, optional=True) for key in known_trainings(world))]

    def inputs(self, view: View) -> Mapping[str, Any]:
        from models.saliency.catalogue import code_modules

        models = benchmarked(view)
        modules = sorted({m for s in models.values() for m in code_modules(s.variant)})
        return {
            "split": view.given["fixation_maps"].part("measured"),
            "models": {label: s.version for label, s in models.items()},
            "model_code": code_version(*modules),
        }

    def make(self, task: Task) -> None:
        from assets.saliency.benchmark import run_benchmark

        run_benchmark(task, benchmarked(task))


def benchmarked(view: View) -> dict[str, MapSource]:
    """Label → source of every model that is here: the catalogue's with their weights, and all that the user trained
    (folds excepted). `+flip` averages with the mirrored picture's map."""
    found: dict[str, MapSource] = {}
    for label in ("center_prior", "spectral_residual", "sam_lite", f"sam_lite{FLIP}"):
        found[label] = map_sources(view.world, view.given, label.removesuffix(FLIP))[0]
    for name in ("sam_vgg", "sam_resnet"):
        if (view.home.state / "weights" / f"{name}.safetensors").is_file():
            found[name] = map_sources(view.world, view.given, name)[0]
    for model in view.given.all("saliency_model"):
        found[model.partition] = trained_source(view.given, training_of(model.partition))
    return found
