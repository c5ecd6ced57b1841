"""Preference rates with intervals: how often people chose the second arm of a study."""

import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import t as student

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
FEW = 5
"""Fewer participants speak for themselves: where people are of two minds, some few of one mind are often met."""
_Z = 1.959963984540054
RESAMPLES = 2000

PREFERENCE_COLUMNS = {
    "study": "str", "dataset": "str", "sweep": "str", "first_arm": "str", "second_arm": "str", "scope": "str", "image": "str",
    "n_answers": "int64", "n_participants": "int64", "n_images": "int64", "n_dropped": "int64", "chose_second": "int64",
    "n_small": "int64",
    "rate": "float64", "ci_low": "float64", "ci_high": "float64", "method": "str",
}  # fmt: skip


def wilson(chosen: int, answers: int) -> tuple[float, float]:
    """Wilson's score interval (1927) of a share at 95 %; (nan, nan) without answers."""
    if answers == 0:
        return math.nan, math.nan
    share, z2 = chosen / answers, _Z * _Z
    middle = (share + z2 / (2 * answers)) / (1 + z2 / answers)
    half = _Z * math.sqrt(share * (1 - share) / answers + z2 / (4 * answers * answers)) / (1 + z2 / answers)
    # rounding must not push the ends past the share itself, nor past what a share can be
    return max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share))


def cluster_bootstrap(
    chosen: Floats, participants: NDArray[np.int64], images: NDArray[np.int64], *, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of the mean of `chosen` (0 or 1), participants and pictures both drawn with replacement.

    An answer counts as often as its participant was drawn times as often as its picture was (the pigeonhole bootstrap of
    Owen, 2007): people differ from each other, and so do pictures. Resamples without an answer are left out.
    """
    rng = np.random.default_rng(seed)
    people, pictures = int(participants.max()) + 1, int(images.max()) + 1
    table = np.zeros((2, people, pictures))  # how many answers, and how many of them chose
    np.add.at(table[0], (participants, images), 1)
    np.add.at(table[1], (participants, images), chosen)
    drawn_people = rng.multinomial(people, np.full(people, 1 / people), size=RESAMPLES)
    drawn_pictures = rng.multinomial(pictures, np.full(pictures, 1 / pictures), size=RESAMPLES)
    total, sums = (((drawn_people @ cells) * drawn_pictures).sum(axis=1) for cells in table)
    means = sums[total > 0] / total[total > 0]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, (tail, 1 - tail))
    return float(low), float(high)


def preference(answers: pd.DataFrame, *, seed: int = 0) -> dict[str, Any]:
    """Rate, interval and how it was found. answers: rows with participant, image, second (whether it was chosen), and small
    (whether it was judged below its own size), where that is known.

    One participant: Wilson's interval, answers taken as independent; it speaks of that person alone. Several: the cluster
    bootstrap, never narrower than Wilson's nor than Student's interval of the participants' own rates. With few people
    resamples are too alike: two who agree by chance would pass for everybody.
    """
    chosen = answers.second.to_numpy(np.float64)
    people, _ = pd.factorize(answers.participant)
    pictures, names = pd.factorize(answers.image)
    n_people = int(people.max()) + 1 if len(people) else 0
    low, high = wilson(int(chosen.sum()), len(chosen))
    method = "wilson"
    if n_people > 1:
        drawn = cluster_bootstrap(chosen, people.astype(np.int64), pictures.astype(np.int64), seed=seed)
        by_person = answers.groupby("participant").second.mean().to_numpy(np.float64)
        half = float(
            student.ppf(0.5 + CONFIDENCE / 2, n_people - 1) * by_person.std(ddof=1) / math.sqrt(n_people)
        )
        middle = float(by_person.mean())
        low, high = min(low, drawn[0], middle - half), max(high, drawn[1], middle + half)
        low, high, method = max(0.0, low), min(1.0, high), "cluster bootstrap"
    return {
        "n_answers": len(chosen),
        "n_participants": n_people,
        "n_images": len(names),
        "chose_second": int(chosen.sum()),
        "n_small": int(answers.small.astype("boolean").sum()) if "small" in answers else 0,
        "rate": float(chosen.mean()) if len(chosen) else math.nan,
        "ci_low": low,
        "ci_high": high,
        "method": method,
    }


def preferences(design: dict[str, Any], answers: pd.DataFrame, dropped: int) -> pd.DataFrame:
    """A row for all answers and one for each picture. answers: participant, image, second; of those who are counted."""
    head = {
        "study": design["study"],
        "dataset": design["dataset"],
        "sweep": design["sweep"],
        "first_arm": design["arms"][0],
        "second_arm": design["arms"][1],
        "n_dropped": dropped,
    }
    rows = [{**head, "scope": "all", "image": "", **preference(answers)}]
    for image, own in answers.groupby("image", sort=True):
        rows.append({**head, "scope": "image", "image": str(image), **preference(own)})
    return pd.DataFrame(rows)[list(PREFERENCE_COLUMNS)].astype(PREFERENCE_COLUMNS)


def verdict(row: dict[str, Any]) -> str:
    """What the interval says, in words."""
    if not row["n_answers"]:
        return "no answer is counted"
    found = row["second_arm"] if row["ci_low"] > 0.5 else row["first_arm"] if row["ci_high"] < 0.5 else ""
    if found and row["n_participants"] == 1:
        return f"this one person prefers {found}; that says nothing of others"
    if found and row["n_participants"] < FEW:
        return f"these {row['n_participants']} people prefer {found}; that does not carry over to others"
    if found:
        return f"people prefer {found}"
    return "no preference is shown: the interval holds 50 %"
