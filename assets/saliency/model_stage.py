"""`saliency_model`: models trained on what people looked at."""

from collections.abc import Mapping, Sequence
from typing import Any

from assets.graph import Need, Stage, Task, View
from assets.saliency.names import trainings
from assets.world import World
from models.saliency.records import training_of


class SaliencyModel(Stage):
    """A saliency model trained on a dataset's fixations; with a fold, without that part of the training pictures.
    Resumable: a killed run goes on from its last epoch."""

    name = "saliency_model"
    reads = ("fixation_maps",)
    group, kinds = "saliency", frozenset({"pytorch", "mlflow"})
    gpu = share = True
    onlookers = ("assets.saliency.plots", "assets.saliency.sources", "assets.frames.contact", "assets.story")

    def partitions(self, world: World) -> list[str]:
        return list(trainings(world))

    def needs(self, world: World, partition: str) -> Sequence[Need]:
        dataset = training_of(partition).dataset
        return [Need("fixation_maps", dataset, split) for split in ("train", "val")]

    def inputs(self, view: View) -> Mapping[str, Any]:
        return {"record": training_of(view.partition).resolved()}

    def make(self, task: Task) -> None:
        from assets.saliency.train import train_saliency

        train_saliency(task, training_of(task.partition))
