"""`trunk_codec` and `trained_codec`: one training run a partition, resumable, told to the tracker."""

import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from assets.graph import Need, Stage, Task, View
from assets.saliency.names import picture_needs
from assets.story import record_of, short_name, told
from assets.training.checks import DOCTOR, looked_at
from assets.world import World
from models.experiments import Experiment, Trunk

#: fields of a resolved record that no digest covers: they name things but change no bit of a training run
NOT_IN_DIGEST = ("kind", "dataset", "preset", "arm", "trunk")
#: what looks at a training without a part in it
LOOKS_ON = (
    "assets.frames.contact", "assets.frames.decode", "assets.frames.encode", "assets.saliency.names",
    "assets.training.checks", "assets.training.milestones", "assets.training.plots", "assets.training.watch",
    "assets.story", "models.metrics", "models.training.adversarial_doctor", "models.training.doctor",
)  # fmt: skip


def _needs(entry: Trunk | Experiment) -> tuple[Need, ...]:
    return picture_needs(entry.dataset, str(entry.resolved()["maps"]), ("train", f"val:{looked_at(entry)}"))


def _code(entry: Trunk | Experiment) -> Sequence[str]:
    from models.codecs.catalogue import code_module, objective_of

    return (objective_of(entry.codec).partition(":")[0], code_module(entry.codec))


def _apart(entry: Trunk | Experiment) -> Sequence[str]:
    """What looks on, and without maps what chooses them; only generative codecs are trained with a critic's eyes."""
    chooses = ("assets.saliency.condition",) if entry.resolved()["maps"] == "none" else ()
    return (*LOOKS_ON, *chooses, *(() if entry.card.objective == "adversarial" else ("models.training.critics",)))


def _inputs(view: View, entry: Trunk | Experiment) -> dict[str, Any]:
    record = entry.resolved()
    eyes = {"fixations": view.world.fixations_digest(entry.dataset)} if record["maps"] == "oracle" else {}
    return {"record": {k: v for k, v in record.items() if k not in NOT_IN_DIGEST}, **eyes}


class TrunkCodec(Stage):
    """A variable-rate codec trained without saliency, from which all arms of a comparison branch. Resumable to the bit: a
    killed run goes on from its last checkpoint."""

    name, over = "trunk_codec", "trunks"
    reads = ("rgba_frames",)
    group, kinds, checks = "training", frozenset({"pytorch"}), DOCTOR
    gpu = share = True

    def needs(self, world: World, partition: str) -> Sequence[Need]:
        trunk = world.trunks[partition]
        return () if trunk.shipped else _needs(trunk)

    def inputs(self, view: View) -> Mapping[str, Any]:
        from models.codecs.catalogue import shipped_digest

        trunk = view.world.trunks[view.partition]
        return {"shipped": shipped_digest(trunk.shipped)} if trunk.shipped else _inputs(view, trunk)

    def code(self, world: World, partition: str) -> Sequence[str]:
        from models.codecs.catalogue import code_module

        trunk = world.trunks[partition]
        return (code_module(trunk.codec),) if trunk.shipped else _code(trunk)

    def apart(self, world: World, partition: str) -> Sequence[str]:
        trunk = world.trunks[partition]
        return (*LOOKS_ON, "assets.training.run") if trunk.shipped else _apart(trunk)

    def make(self, task: Task) -> None:
        trunk = task.world.trunks[task.partition]
        if trunk.shipped:
            from models.codecs.catalogue import shipped_folder

            shutil.copytree(shipped_folder(trunk.shipped), task.writer.path("codec"), dirs_exist_ok=True)
            task.writer.meta["facts"] = {"shipped": trunk.shipped}
            return
        from assets.training.run import run_training

        run_training(task, trunk)


class TrainedCodec(Stage):
    """One experiment: one arm with one seed, at one rate or as one model for several. The codec doctor's checks block
    what comes after."""

    name, over = "trained_codec", "experiments"
    reads = ("rgba_frames", "trunk_codec")
    group, kinds, checks = "training", frozenset({"pytorch", "mlflow"}), DOCTOR
    gpu = share = True

    def needs(self, world: World, partition: str) -> Sequence[Need]:
        experiment = world.experiment(partition)
        trunk = [Need("trunk_codec", experiment.trunk.key)] if experiment.trunk else []
        return [*(() if experiment.untrained else _needs(experiment)), *trunk]

    def inputs(self, view: View) -> Mapping[str, Any]:
        return _inputs(view, view.world.experiment(view.partition))

    def code(self, world: World, partition: str) -> Sequence[str]:
        return _code(world.experiment(partition))

    def apart(self, world: World, partition: str) -> Sequence[str]:
        return _apart(world.experiment(partition))

    def make(self, task: Task) -> None:
        experiment = task.world.experiment(task.partition)
        if experiment.untrained:
            _take_trunk(task, experiment)
            return
        from assets.training.run import run_training

        run_training(task, experiment)


def _take_trunk(task: Task, experiment: Experiment) -> None:
    """The trunk with the experiment's mechanism: the same weights and tables."""
    from models.codecs.catalogue import WEIGHTS, branch_config, build, load_codec, save_codec
    from models.seen import read_seen, write_seen

    folder = task.given["trunk_codec"].folder / "codec"
    trunk = load_codec(folder)
    codec = build(branch_config(experiment, trunk.config))
    codec.load_weights(trunk.weights())
    for kind, added in trunk.additions().items():
        codec.add(kind, added.weights)
    save_codec(codec, task.writer.path("codec"))
    write_seen(task.writer.path("codec") / WEIGHTS, read_seen(folder / WEIGHTS).train)
    with told(task, dataset=experiment.dataset, name=short_name(experiment)) as run:
        run.log_params(record_of(experiment, task.world))
    task.writer.meta["facts"] = {"trained": "no: the trunk as it is"}
