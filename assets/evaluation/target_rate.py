"""Experiments that name a rate instead of a lambda: the level is searched on validation pictures of the training dataset."""

from typing import Any

import numpy as np

from assets.graph import Progress, Task
from assets.saliency.pairs import open_pairs
from models.errors import FoveaError
from models.experiments import Experiment


def searched_rates(
    task: Task, experiment: Experiment, codec: Any, split: str, progress: Progress
) -> list[dict[str, float]]:
    """For each target: target_bpp, rate, level and the bpp reached on these validation pictures; empty without targets.
    Raises FoveaError with the reachable range for a target outside of it."""
    from models.codecs.target_rate import search_rate

    if not experiment.target_bpp:
        return []
    table, pictures, maps = open_pairs(task, experiment.dataset, split, maps=experiment.maps, model=experiment.saliency)
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
        found.append({"target_bpp": target, "rate": reached.rate, "level": reached.level, "val_bpp": reached.bpp})
    return found
