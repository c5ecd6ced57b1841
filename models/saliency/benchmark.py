"""How well saliency models predict recorded fixations, beside a centre prior and other people.

Protocol: every picture at its own size; ground truth is the binary map of all fixated pixels, blurred with 3 % of the
width; the negatives of the shuffled AUC are all fixations on the other test pictures. The human ceiling lets half of
the people predict the other half (mean over random halves): a lower bound of what is possible, and its KL suffers
from the few samples that make the prediction.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd

from models.errors import FoveaError
from models.saliency.classical import OSIE_PRIOR, fit_center_prior, gaussian_map
from models.saliency.maps import PictureSource, SaliencyModel
from models.saliency.metrics import auc_judd, auc_shuffled, cc, fixation_density, info_gain, kl, nss, sim

METRICS = ("cc", "sim", "kl", "nss", "auc_judd", "auc_shuffled", "info_gain")


def _points(table: pd.DataFrame) -> np.ndarray:
    return table[["x", "y"]].to_numpy(np.float64) - 1.0


def score_map(
    prediction: np.ndarray, points: np.ndarray, density: np.ndarray, others: np.ndarray, prior: np.ndarray
) -> dict[str, float]:
    """All metrics of one map: fixations N×2 (0-based), their density, fixations on other pictures, the centre prior."""
    return {
        "cc": cc(prediction, density),
        "sim": sim(prediction, density),
        "kl": kl(prediction, density),
        "nss": nss(prediction, points),
        "auc_judd": auc_judd(prediction, points),
        "auc_shuffled": auc_shuffled(prediction, points, others),
        "info_gain": info_gain(prediction, points, prior),
    }


def _other_points(
    name: str, size: tuple[int, int], points: Mapping[str, np.ndarray], sizes: Mapping[str, tuple[int, int]]
) -> np.ndarray:
    """Fixations on all pictures but `name`, moved to its size."""
    rest = [(p + 0.5) * [size[1] / sizes[n][1], size[0] / sizes[n][0]] - 0.5 for n, p in points.items() if n != name]
    if not rest:
        raise FoveaError("the shuffled AUC needs fixations on at least two test pictures")
    return np.concatenate(rest)


def score_pictures(
    models: Mapping[str, SaliencyModel],
    pictures: PictureSource,
    fixations: pd.DataFrame,
    names: Sequence[str],
    *,
    train: Sequence[str] = (),
    halves: int = 3,
    seed: int = 0,
    threads: int = 1,
    progress: Callable[[float, float, str], None] | None = None,
) -> pd.DataFrame:
    """One row per model and picture: model, image and METRICS.

    models: label to model; a label that ends in "+flip" predicts with flip averaging. "center_prior" is fit on the
    fixations of `train` where given, else on OSIE's; information gain is over it. halves: random splits of the people
    for the ceiling (label "human"), 0 for none. progress: called with pictures done, all of them, and a note.
    """
    table = fixations[fixations["image"].isin(set(names))]
    groups = {str(name): group for name, group in table.groupby("image")}
    absent = [n for n in names if n not in groups]
    if absent:
        raise FoveaError(f"{absent[0]} and {len(absent) - 1} more pictures have no fixations")
    points = {n: _points(groups[n]) for n in names}
    sizes = {n: pictures(n).shape[:2] for n in names}
    prior = _fit_prior(pictures, fixations, train) if train else OSIE_PRIOR

    def score(name: str) -> list[dict[str, Any]]:
        picture = pictures(name)
        height, width = picture.shape[:2]
        others = _other_points(name, (height, width), points, sizes)
        density = fixation_density(points[name], height, width)
        centre = gaussian_map(height, width, prior)
        rows: list[dict[str, Any]] = []
        for label, model in models.items():
            if model.name == "center_prior":
                prediction = centre
            else:
                prediction = model.predict_float([picture], flip=label.endswith("+flip"))[0]
            rows.append({"model": label, "image": name, **score_map(prediction, points[name], density, others, centre)})
        people = groups[name]["subject"].to_numpy()
        if halves and len(np.unique(people)) > 1:
            rng = np.random.default_rng([seed, names.index(name)])
            splits = [_score_half(points[name], people, others, centre, rng) for _ in range(halves)]
            means = {metric: float(np.mean([s[metric] for s in splits])) for metric in METRICS}
            rows.append({"model": "human", "image": name, **means})
        return rows

    with ThreadPoolExecutor(threads) as pool:
        found: list[dict[str, Any]] = []
        for done, rows in enumerate(pool.map(score, names), 1):
            found += rows
            if progress:
                progress(done, len(names), "pictures scored")
    return pd.DataFrame(found)


def _score_half(
    points: np.ndarray, people: np.ndarray, others: np.ndarray, prior: np.ndarray, rng: np.random.Generator
) -> dict[str, float]:
    who = rng.permutation(np.unique(people))
    first = np.isin(people, who[: len(who) // 2])
    prediction, density = (fixation_density(points[some], *prior.shape) for some in (first, ~first))
    return score_map(prediction, points[~first], density, others, prior)


def _fit_prior(
    pictures: PictureSource, fixations: pd.DataFrame, train: Sequence[str]
) -> tuple[float, float, float, float]:
    table = fixations[fixations["image"].isin(set(train))]
    shapes = {name: pictures(str(name)).shape for name in table["image"].unique()}
    sizes = np.array([[shapes[name][1], shapes[name][0]] for name in table["image"]])
    return fit_center_prior(_points(table), sizes)


def summarise(scores: pd.DataFrame, *, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Means over pictures with bootstrap 95 % intervals: one row per model and metric. Columns: model, metric, mean,
    ci_low, ci_high, n_images. All models share the same resampled pictures."""
    rows = []
    for label, group in scores.groupby("model", sort=False):
        values = group.sort_values("image")[list(METRICS)].to_numpy(np.float64)
        draws = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
        low, high = np.percentile(values[draws].mean(1), [2.5, 97.5], axis=0)
        means = [float(column.mean()) for column in values.T]
        rows += [(label, *found, len(values)) for found in zip(METRICS, means, low, high, strict=True)]
    return pd.DataFrame(rows, columns=["model", "metric", "mean", "ci_low", "ci_high", "n_images"])


def format_table(summary: pd.DataFrame) -> str:
    """A Markdown table: one row per model, mean and interval of every metric."""
    said = [
        f"{mean:.3f} [{low:.3f}, {high:.3f}]" for mean, low, high in summary[["mean", "ci_low", "ci_high"]].to_numpy()
    ]
    wide = summary.assign(said=said).pivot_table("said", "model", "metric", aggfunc="first", sort=False)
    return wide[list(METRICS)].to_markdown(disable_numparse=True)
