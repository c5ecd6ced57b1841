"""Experiments that name a rate instead of a lambda: the level is searched on validation pictures of the training dataset."""

from typing import Any

import numpy as np

from assets.chain import Chain, Progress
from assets.store import digest
from assets.training.data import load_split, needs_model, split_table
from assets.versions import code_version
from models.errors import FoveaError
from models.experiments import DEFAULT_SALIENCY, Experiment

#: validation pictures that a rate is searched on: the first by name
PICTURES = 32


def rate_inputs(chain: Chain, experiment: Experiment) -> dict[str, Any]:
    """What the searched lambdas depend on, beside the codec; nothing for an experiment that names its lambdas."""
    if not experiment.target_bpp:
        return {}
    model = needs_model(experiment.resolved())
    table = split_table(chain, experiment.dataset, "val", model).head(PICTURES)
    columns = ["image", "key", "map_key"] if model else ["key"]
    return {
        "target_bpp": list(experiment.target_bpp),
        "rate_pictures": digest(table[columns].to_numpy().tolist()),
        "rate_code": code_version("models.codecs.target_rate"),
    }


def searched_rates(
    chain: Chain, experiment: Experiment, codec: Any, progress: Progress
) -> list[dict[str, float]]:
    """For each target: target_bpp, lmbda, level and the bpp reached on validation pictures; empty without targets.

    Raises FoveaError with the reachable range for a target outside of it.
    """
    from models.codecs.target_rate import search_rate

    if not experiment.target_bpp:
        return []
    model = experiment.saliency or DEFAULT_SALIENCY
    table, pictures, maps = load_split(
        chain, experiment.dataset, "val", maps=experiment.maps, model=model, progress=progress, limit=PICTURES
    )
    if table.empty:
        raise FoveaError(
            f"dataset {experiment.dataset!r} has no validation picture to search a rate on "
            f"(fovea datasets show {experiment.dataset})"
        )
    arrays = [np.asarray(p) for p in pictures]
    found = []
    for number, target in enumerate(experiment.target_bpp):
        progress(number, len(experiment.target_bpp), f"rates searched, {target:g} bpp")
        reached = search_rate(codec, arrays, maps, target)
        found.append(
            {"target_bpp": target, "lmbda": reached.lmbda, "level": reached.level, "val_bpp": reached.bpp}
        )
    return found
