"""`saliency_model`: models trained on what people looked at."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from assets.graph import Need, Stage, Task, View
from assets.saliency.names import trainings
from assets.saliency.sources import map_source
from assets.world import World
from models.errors import FoveaError
from models.saliency.records import SaliencyTraining, training_of

CODE = {
    "sam_lite": "models.training.sam_lite",
    "sam_vgg": "models.training.sam",
    "sam_resnet": "models.training.sam",
}


class SaliencyModel(Stage):
    """A saliency model trained on a dataset's fixations; with a fold, without that part of the training pictures.
    Resumable: a killed run goes on from its last epoch."""

    name = "saliency_model"
    reads = ("fixation_maps",)
    group, kinds = "saliency", frozenset({"pytorch", "mlflow"})
    gpu = share = True

    def partitions(self, world: World) -> list[str]:
        return list(trainings(world))

    def needs(self, world: World, partition: str) -> Sequence[Need]:
        dataset = training_of(partition).dataset
        return [Need("fixation_maps", dataset, split) for split in ("train", "val")]

    def inputs(self, view: View) -> Mapping[str, Any]:
        training = training_of(view.partition)
        found: dict[str, Any] = {"record": training.resolved()}
        if training.published_start:
            found["start"] = map_source(*start_weights(view.world, training)).version
        return found

    def code(self, world: World, partition: str) -> Sequence[str]:
        return (CODE[training_of(partition).variant],)

    def apart(self, world: World, partition: str) -> Sequence[str]:
        others = {m for m in CODE.values() if m != CODE[training_of(partition).variant]}
        shown = ("assets.saliency.plots", "assets.saliency.sources", "assets.frames.contact", "assets.story")
        return (*shown, *others)

    def make(self, task: Task) -> None:
        from assets.saliency.train import train_saliency

        train_saliency(task, training_of(task.partition))


def start_weights(world: World, training: SaliencyTraining) -> tuple[str, Path]:
    """The catalogue's model and its weights that a training starts from. Raises FoveaError when they are missing."""
    path = world.home.state / "weights" / f"{training.variant}.safetensors"
    if not path.is_file():
        raise FoveaError(
            f"{training.key} starts from the published weights, which are not at {path}: get them with `fovea "
            f"saliency-weights fetch {training.variant}`, or train from random numbers (much more data): "
            f"{training.dataset}.{training.variant}-scratch"
        )
    return training.variant, path
