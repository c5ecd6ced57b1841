"""`trunk_codec` and `trained_codec`: one training run a partition, resumable, told to the tracker."""

import shutil
from typing import Any

from assets.chain import Chain, Progress, Unit
from assets.store import UnitWriter
from assets.training.data import data_inputs
from assets.versions import code_version

#: fields of a resolved record that name things but change no bit of a training run
NAMES_ONLY = ("kind", "dataset", "preset", "arm", "trunk")


def training_code(codec: str, maps: str) -> str:
    """The code version of training this codec on these maps."""
    from models.codecs.catalogue import code_module, objective_of

    chooses = () if maps == "none" else ("assets.saliency.condition",)
    module = objective_of(codec).partition(":")[0]
    return code_version(module, code_module(codec), *chooses)


class TrunkCodec:
    """The training run that all arms of a comparison start from."""

    name = "trunk_codec"

    def unit(self, chain: Chain, partition: str) -> Unit:
        trunk = chain.trunks[partition]
        if trunk.shipped:
            from models.codecs.catalogue import shipped_digest

            return Unit(self.name, partition, {"shipped": shipped_digest(trunk.shipped)})
        record = trunk.resolved()
        return Unit(
            self.name,
            partition,
            {
                "record": {k: v for k, v in record.items() if k not in NAMES_ONLY},
                "code": training_code(trunk.codec, "none"),
                **data_inputs(chain, record),
            },
        )

    def make(self, chain: Chain, unit: Unit, writer: UnitWriter, progress: Progress) -> None:
        trunk = chain.trunks[unit.partition]
        if trunk.shipped:
            from models.codecs.catalogue import shipped_folder

            shutil.copytree(shipped_folder(trunk.shipped), writer.path("codec"), dirs_exist_ok=True)
            writer.meta["facts"] = {"shipped": trunk.shipped}
            return
        from assets.training.run import run_training

        run_training(chain, unit, trunk, None, writer, progress)


class TrainedCodec:
    """One experiment: the codec of one arm, one rate, one seed."""

    name = "trained_codec"

    def unit(self, chain: Chain, partition: str) -> Unit:
        experiment = chain.experiment(partition)
        record = experiment.resolved()
        inputs: dict[str, Any] = {
            "record": {k: v for k, v in record.items() if k not in NAMES_ONLY},
            "code": training_code(experiment.codec, experiment.maps),
            **data_inputs(chain, record),
        }
        if experiment.trunk:
            inputs["trunk"] = chain.unit("trunk_codec", experiment.trunk.key).key
        return Unit(self.name, partition, inputs)

    def make(self, chain: Chain, unit: Unit, writer: UnitWriter, progress: Progress) -> None:
        from assets.training.run import run_training, start_of

        experiment = chain.experiment(unit.partition)
        run_training(chain, unit, experiment, start_of(chain, experiment, progress), writer, progress)
