"""Partitions of the asset graph and how they map onto each other, from the registry and models.experiments.

Read when the code location loads: a new dataset or sweep shows after a reload of the location.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import dagster as dg

from assets.chain import Chain, evaluation_key
from assets.home import Home
from assets.saliency.names import maps_by_training, trainings, with_fixations


class Workshop(Protocol):
    """What an asset's body calls; pipelines/resources.py provides it."""

    def materialize(self, context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        """Make the unit of the context's asset and partition, or find it in the store."""


def _mapping(pairs: Iterable[tuple[str, str]]) -> dg.StaticPartitionMapping:
    """Downstream partitions by upstream partition."""
    found: dict[str, list[str]] = defaultdict(list)
    for upstream, downstream in pairs:
        if downstream not in found[upstream]:
            found[upstream].append(downstream)
    whole: Mapping[str, list[str]] = dict(found)
    return dg.StaticPartitionMapping(whole)


@dataclass(frozen=True)
class Partitions:
    """Keys: dataset (`eyes`: with fixations); saliency training; trunk key; experiment key; experiment@dataset;
    dataset.sweep."""

    datasets: dg.StaticPartitionsDefinition
    eyes: dg.StaticPartitionsDefinition
    saliency_models: dg.StaticPartitionsDefinition
    archives: dg.StaticPartitionsDefinition
    trunks: dg.StaticPartitionsDefinition
    experiments: dg.StaticPartitionsDefinition
    evaluations: dg.StaticPartitionsDefinition
    sweeps: dg.StaticPartitionsDefinition
    archive_to_dataset: dg.StaticPartitionMapping
    dataset_to_eyes: dg.StaticPartitionMapping
    eyes_to_saliency_model: dg.StaticPartitionMapping
    saliency_model_to_dataset: dg.StaticPartitionMapping
    saliency_model_to_eyes: dg.StaticPartitionMapping
    dataset_to_trunk: dg.StaticPartitionMapping
    dataset_to_experiment: dg.StaticPartitionMapping
    dataset_to_evaluation: dg.StaticPartitionMapping
    dataset_to_sweep: dg.StaticPartitionMapping
    trunk_to_experiment: dg.StaticPartitionMapping
    experiment_to_evaluation: dg.StaticPartitionMapping
    evaluation_to_sweep: dg.StaticPartitionMapping


def partitions(chain: Chain | None = None) -> Partitions:
    """All partitions of an installation's registry (default: that of the environment)."""
    chain = chain or Chain(Home.from_environment(), {})
    experiments = chain.experiments.values()
    sweeps = chain.sweeps.values()
    measured = [(e.key, d, evaluation_key(e.key, d)) for e in experiments for d in e.evaluate_on]
    in_sweep = [
        (evaluation_key(e.key, d), s.key) for s in sweeps for e in s.experiments for d in e.evaluate_on
    ]
    eyes, models = with_fixations(chain), trainings(chain)
    return Partitions(
        datasets=dg.StaticPartitionsDefinition(list(chain.registry)),
        eyes=dg.StaticPartitionsDefinition(eyes),
        saliency_models=dg.StaticPartitionsDefinition(list(models)),
        archives=dg.StaticPartitionsDefinition(["cityscapes"]),
        trunks=dg.StaticPartitionsDefinition(list(chain.trunks)),
        experiments=dg.StaticPartitionsDefinition([e.key for e in experiments]),
        evaluations=dg.StaticPartitionsDefinition([m[2] for m in measured]),
        sweeps=dg.StaticPartitionsDefinition([s.key for s in sweeps]),
        archive_to_dataset=_mapping([("cityscapes", "cityscapes")]),
        dataset_to_eyes=_mapping((d, d) for d in eyes),
        eyes_to_saliency_model=_mapping((m.dataset, m.key) for m in models.values()),
        saliency_model_to_dataset=_mapping(maps_by_training(chain)),
        saliency_model_to_eyes=_mapping((m, d) for m in models for d in eyes),
        dataset_to_trunk=_mapping((t.dataset, t.key) for t in chain.trunks.values() if t.dataset),
        dataset_to_experiment=_mapping((e.dataset, e.key) for e in experiments),
        dataset_to_evaluation=_mapping((d, k) for _, d, k in measured),
        dataset_to_sweep=_mapping((d, s.key) for s in sweeps for d in s.datasets),
        trunk_to_experiment=_mapping((e.trunk.key, e.key) for e in experiments if e.trunk),
        experiment_to_evaluation=_mapping((e, k) for e, _, k in measured),
        evaluation_to_sweep=_mapping(in_sweep),
    )


PARTITIONS = partitions()

#: runs that train or measure codecs wait in this pool; its size is the number of GPUs (dagster.yaml)
GPU_POOL = "gpu"
RETRY = dg.RetryPolicy(max_retries=int(os.environ.get("FOVEA_RETRIES", "1")), delay=5)
OWNERS = ["team:compression-research"]
