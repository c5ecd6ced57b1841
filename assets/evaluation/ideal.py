"""What the maps of a dataset allow ideally (models/saliency/ideal.py), and how much of it codecs reached."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from assets.evaluation.rate_distortion import CONFIDENCE, MIN_IMAGES, RESAMPLES, resample_counts
from models.saliency.ideal import ALPHA, GAMMA, Ideal, ideal_gain
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
MAPS_OF_CONDITIONING = {
    "predicted": "predicted",
    "oracle": "people",
    "center": "center",
    "shuffled": "shuffled",
}
"""Which ideal row belongs to an experiment's `maps`."""


def ideal_rows(
    saliency_maps: Sequence[Map],
    fixation_maps: Sequence[Map | None],
    *,
    fixation_halves: Sequence[tuple[Map, Map] | None] | None = None,
    images: Sequence[str] | None = None,
    alpha: float = ALPHA,
    gamma: float = GAMMA,
) -> pd.DataFrame:
    """The ideal rows of a dataset, means over pictures with 95 % bootstrap intervals, columns `IDEAL_COLUMNS`.

    Measured on people's fixations (`ew_psnr_db`, pictures that have them) and on predicted saliency (`sw_psnr_db`);
    conditioned on predicted maps, on people's own, on the centre bias, on another picture's predicted map (the
    derangement over `images`), and, where `fixation_halves` gives the maps of two halves of the people, on one half
    while the other measures (both ways, averaged). A row that no picture can give is not there.
    """
    count = len(saliency_maps)
    others = (
        derangement(list(images) if images is not None else [f"{i:09}" for i in range(count)])
        if count > 1
        else []
    )
    seen: dict[tuple[str, str], list[Ideal]] = {}

    def add(conditioning: str, measured_on: str, *ideals: Ideal) -> None:
        mean = Ideal(*np.mean(ideals, axis=0).tolist())
        seen.setdefault((conditioning, measured_on), []).append(mean)

    for i, own in enumerate(saliency_maps):
        conditions: dict[str, Map] = {"predicted": own, "center": center_map(*own.shape)}
        if others:
            conditions["shuffled"] = _fit(saliency_maps[others[i]], own.shape)
        eyes = fixation_maps[i]
        if eyes is not None:
            conditions = {"people": eyes, **conditions}
        for measured_on, metric_map in (("fixations", eyes), ("saliency", own)):
            if metric_map is not None and np.asarray(metric_map).sum() > 0:
                for name, condition in conditions.items():
                    if name == "people" and measured_on == "saliency":
                        continue
                    add(name, measured_on, ideal_gain(condition, metric_map, alpha=alpha, gamma=gamma))
        halves = fixation_halves[i] if fixation_halves is not None else None
        if halves is not None:
            there = ideal_gain(halves[0], halves[1], alpha=alpha, gamma=gamma)
            back = ideal_gain(halves[1], halves[0], alpha=alpha, gamma=gamma)
            add("half_people", "fixations", there, back)
    order = ("people", "half_people", "predicted", "center", "shuffled")
    rows = []
    for conditioning, measured_on in sorted(seen, key=lambda key: (key[1], order.index(key[0]))):
        values = np.array(seen[conditioning, measured_on])
        n = len(values)
        low = high = np.nan
        if n >= MIN_IMAGES:
            tail = (1 - CONFIDENCE) / 2
            low, high = np.quantile(resample_counts(n, RESAMPLES, 0) @ values[:, 0] / n, (tail, 1 - tail))
        rows.append(
            (
                conditioning,
                measured_on,
                "ew_psnr_db" if measured_on == "fixations" else "sw_psnr_db",
                values[:, 0].mean(),
                low,
                high,
                values[:, 1].mean(),
                alpha,
                gamma,
                n,
            )
        )
    return pd.DataFrame(rows, columns=list(IDEAL_COLUMNS))


def _fit(saliency_map: Map, shape: tuple[int, ...]) -> Map:
    if saliency_map.shape == shape:
        return saliency_map
    resized = cv2.resize(np.asarray(saliency_map), (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized)


def share_of_ideal(rates: pd.DataFrame, ideal: pd.DataFrame) -> pd.DataFrame:
    """How much of the ideal each arm reached: BD-quality against `uniform` over the ideal gain of the same maps.

    rates: as `bd_rates` gives it (PCHIP rows are read); ideal: as `ideal_rows` gives it. Columns: codec, test_arm, maps,
    metric, reached_db, ideal_db, share (1 = all of it), plain_db (BD-quality on plain PSNR), ideal_cost_db. Rows
    without an ideal or with a refused comparison are left out.
    """
    wanted = rates[(rates["anchor_arm"] == "uniform") & (rates["method"] == "pchip")]
    keys = ["dataset", "split", "train_dataset", "codec", "preset", "variant", "test_arm", "maps"]
    plain = wanted[wanted["metric"] == "psnr_db"].set_index(keys)["bd_quality_db"]
    rows = []
    for row in wanted[wanted["metric"].isin(["ew_psnr_db", "sw_psnr_db"])].to_dict("records"):
        condition = MAPS_OF_CONDITIONING.get(str(row["maps"]), "")
        match = ideal[(ideal["conditioning"] == condition) & (ideal["metric"] == row["metric"])]
        if match.empty or not np.isfinite(row["bd_quality_db"]):
            continue
        best = match.iloc[0]
        rows.append(
            {
                **{k: row[k] for k in keys},
                "metric": row["metric"],
                "reached_db": row["bd_quality_db"],
                "ideal_db": float(best["gain_db"]),
                "share": row["bd_quality_db"] / float(best["gain_db"]) if best["gain_db"] > 0 else np.nan,
                "plain_db": float(plain.get(tuple(row[k] for k in keys), np.nan)),
                "ideal_cost_db": float(best["cost_db"]),
            }
        )
    columns = [*keys, "metric", "reached_db", "ideal_db", "share", "plain_db", "ideal_cost_db"]
    return pd.DataFrame(rows, columns=columns)
