"""`trunk_codec` and `trained_codec`: one training run a partition, resumable, told to the tracker."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from assets.chain import Chain, Progress, Unit
from assets.frames.stages import resized_table
from assets.saliency.stages import ensure_maps, map_keys
from assets.store import UnitWriter, digest
from assets.versions import code_version

#: fields of a resolved record that name things but change no bit of a training run
NAMES_ONLY = ("kind", "dataset", "preset", "arm", "trunk")


def training_code(codec: str, maps: str) -> str:
    """The code version of training this codec on these maps."""
    from models.codecs.catalogue import code_modules, trainer_module

    chooses = () if maps == "none" else ("assets.saliency.condition",)
    return code_version(trainer_module(codec), *code_modules(codec), *chooses)


def split_table(chain: Chain, dataset: str, split: str, model: str | None) -> pd.DataFrame:
    """The frames of a split; with the keys of their maps when a model is named."""
    table = map_keys(chain, dataset, model) if model else resized_table(chain, dataset)
    return table[table.split == split].sort_values("image").reset_index(drop=True)


def needs_model(record: Mapping[str, Any]) -> str | None:
    """The saliency model whose maps condition this run, or None."""
    return str(record["saliency"]) if record.get("maps") in ("predicted", "shuffled") else None


def data_inputs(chain: Chain, record: Mapping[str, Any]) -> dict[str, str]:
    """Digests of everything that training reads."""
    model = needs_model(record)
    table = split_table(chain, str(record["dataset"]), "train", model)
    columns = ["image", "key", "map_key"] if model else ["key"]
    found = {"train_frames": digest(table[columns].to_numpy().tolist())}
    if record.get("maps") == "oracle":
        found["fixations"] = fixations_digest(chain, str(record["dataset"]))
    return found


def fixations_digest(chain: Chain, dataset: str) -> str:
    """Digest of a dataset's fixation table, "" when it has none."""
    import hashlib

    path = chain.dataset(dataset).fixations
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:32] if path else ""


def load_split(
    chain: Chain,
    dataset: str,
    split: str,
    *,
    maps: str,
    model: str,
    progress: Progress,
    limit: int | None = None,
) -> tuple[pd.DataFrame, list[np.ndarray[Any, Any]], list[np.ndarray[Any, Any]] | None]:
    """Table, pictures and the maps that condition a codec (uint8, or None), as memory-mapped arrays."""
    from assets.saliency.condition import condition_maps

    needed = model if maps in ("predicted", "shuffled") else None
    if needed:
        ensure_maps(chain, dataset, needed, progress)
    table = split_table(chain, dataset, split, needed)
    if limit is not None:
        table = table.head(limit)
    pictures = [chain.store.array("resized_frames", k) for k in table.key]
    return table, pictures, condition_maps(chain, dataset, table, pictures, maps)


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
