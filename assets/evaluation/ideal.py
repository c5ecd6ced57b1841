"""What the maps of a dataset allow ideally (models/saliency/ideal.py), and how much of it codecs reached."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from assets.evaluation.rate_distortion import MIN_IMAGES, RESAMPLES
from models.bootstrap import interval, resample_counts
from models.saliency.ideal import ALPHA, GAMMA, Ideal, ideal_gain
from models.saliency.maps import fit_map
from models.saliency.weighting import center_map, derangement

Map = NDArray[Any]

IDEAL_COLUMNS = (
    "conditioning",  # predicted, people, half_people, center, shuffled
    "measured_on",  # fixations (ew_), saliency (sw_)
    "metric",
    "gain_db",
    "gain_low",
    "gain_high",
    "cost_db",
    "alpha",
    "gamma",
    "n_images",
)


def ideal_rows(
    saliency_maps: Sequence[Map],
    fixation_maps: Sequence[Map | None],
    *,
    fixation_halves: Sequence[tuple[Map, Map] | None] | None = None,
    images: Sequence[str] | None = None,
) -> pd.DataFrame:
    """The ideal rows of a dataset, means over pictures with 95 % bootstrap intervals, columns `IDEAL_COLUMNS`.

    Measured on people's fixations (`ew_psnr_db`, pictures that have them) and on predicted saliency (`sw_psnr_db`);
    conditioned on predicted maps, on people's own, on the centre bias, on another picture's predicted map (the
    derangement over `images`), and, where `fixation_halves` gives the maps of two halves of the people, on one half
    while the other measures (both ways, averaged). A row that no picture can give is not there.
    """
    count = len(saliency_maps)
    names = list(images) if images is not None else [f"{i:09}" for i in range(count)]
    others = derangement(names) if count > 1 else []
    seen: dict[tuple[str, str], list[Ideal]] = defaultdict(list)

    for i, own in enumerate(saliency_maps):
        conditions: dict[str, Map] = {"predicted": own, "center": center_map(*own.shape)}
        if others:
            conditions["shuffled"] = fit_map(saliency_maps[others[i]], own.shape)
        eyes = fixation_maps[i]
        if own.any():
            for name, condition in conditions.items():
                seen[name, "saliency"].append(ideal_gain(condition, own))
        if eyes is not None and eyes.any():
            for name, condition in {"people": eyes, **conditions}.items():
                seen[name, "fixations"].append(ideal_gain(condition, eyes))
        if fixation_halves is not None and (halves := fixation_halves[i]) is not None:
            both = np.mean([ideal_gain(*halves), ideal_gain(*halves[::-1])], axis=0)
            seen["half_people", "fixations"].append(Ideal(*both.tolist()))
    order = ("people", "half_people", "predicted", "center", "shuffled")
    rows = []
    for conditioning, measured_on in sorted(seen, key=lambda key: (key[1], order.index(key[0]))):
        gains, costs = np.array(seen[conditioning, measured_on]).T
        n = len(gains)
        low, high = interval(resample_counts(n, RESAMPLES) @ gains / n) if n >= MIN_IMAGES else (np.nan, np.nan)
        metric = "ew_psnr_db" if measured_on == "fixations" else "sw_psnr_db"
        rows.append((conditioning, measured_on, metric, gains.mean(), low, high, costs.mean(), ALPHA, GAMMA, n))
    return pd.DataFrame(rows, columns=list(IDEAL_COLUMNS))
