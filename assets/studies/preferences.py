"""What the answers to a study say: preference rates with intervals, as a table, in words and as a tracked run."""

import math
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from assets.chain import Chain
from assets.home import written_beside
from assets.studies.answers import counted_answers
from assets.studies.design import Design, known_studies, read_design

CONFIDENCE = 0.95
FEW = 5
"""Fewer participants speak for themselves: where people are of two minds, some few of one mind are often met."""
RESAMPLES = 2000
TABLE = "study_preferences"


def wilson(chosen: int, answers: int) -> tuple[float, float]:
    """Wilson's score interval (1927) of a share at 95 %; (nan, nan) without answers."""
    if answers == 0:
        return math.nan, math.nan
    found = stats.binomtest(chosen, answers).proportion_ci(CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)


def cluster_bootstrap(
    chosen: NDArray[np.float64], participants: NDArray[np.int64], images: NDArray[np.int64], *, seed: int = 0
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
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(sums[total > 0] / total[total > 0], (tail, 1 - tail))
    return float(low), float(high)


def preference(answers: pd.DataFrame) -> dict[str, Any]:
    """Rate, interval and how it was found. answers: see `counted_answers`.

    One participant: Wilson's interval, answers taken as independent; it speaks of that person alone. Several: the cluster
    bootstrap, never narrower than Wilson's nor than Student's interval of the participants' own rates. With few people
    resamples are too alike: two who agree by chance would pass for everybody.
    """
    chosen = answers.second.to_numpy(np.float64)
    people, names = pd.factorize(answers.participant)
    pictures, images = pd.factorize(answers.image)
    low, high = wilson(int(chosen.sum()), len(chosen))
    if len(names) > 1:
        drawn = cluster_bootstrap(chosen, people.astype(np.int64), pictures.astype(np.int64))
        rates = answers.groupby("participant").second.mean().to_numpy(np.float64)
        half = stats.t.ppf(0.5 + CONFIDENCE / 2, len(rates) - 1) * rates.std(ddof=1) / math.sqrt(len(rates))
        low, high = min(low, drawn[0], rates.mean() - half), max(high, drawn[1], rates.mean() + half)
    return {
        "n_answers": len(chosen),
        "n_participants": len(names),
        "n_images": len(images),
        "chose_second": int(chosen.sum()),
        "n_small": int(answers.small.astype("boolean").sum()),
        "rate": float(chosen.mean()) if len(chosen) else math.nan,
        "ci_low": max(0.0, float(low)),
        "ci_high": min(1.0, float(high)),
        "method": "cluster bootstrap" if len(names) > 1 else "wilson",
    }


def preferences(design: Design, answers: pd.DataFrame, dropped: int) -> pd.DataFrame:
    """A row for all answers and one for each picture."""
    names = {"study": design.study, "dataset": design.dataset, "sweep": design.sweep}
    head = {**names, "first_arm": design.arms[0], "second_arm": design.arms[1], "n_dropped": dropped}
    rows = [{**head, "scope": "all", "image": "", **preference(answers)}]
    for image, own in answers.groupby("image"):
        rows.append({**head, "scope": "image", "image": image, **preference(own)})
    return pd.DataFrame(rows)


def study_result(chain: Chain, study: str) -> tuple[pd.DataFrame, dict[str, str]]:
    """Preference rates of one study, and the participants who were dropped with the reason."""
    design = read_design(chain.home.config, study)
    answers, dropped = counted_answers(chain.home.config, design)
    return preferences(design, answers, len(dropped)), dropped


def write_preferences(chain: Chain) -> None:
    """`tables/study_preferences`, Parquet and CSV, of every study that has answers; one writer at a time."""
    with chain.locked("tables"):
        pieces = [study_result(chain, study)[0] for study in known_studies(chain.home.config)]
        whole = pd.concat(
            [piece[piece.n_answers + piece.n_dropped > 0] for piece in pieces], ignore_index=True
        )
        with written_beside(chain.home.tables / f"{TABLE}.parquet") as beside:
            whole.to_parquet(beside, index=False)
        with written_beside(chain.home.tables / f"{TABLE}.csv") as beside:
            whole.to_csv(beside, index=False)


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return cast(list[dict[str, Any]], table.to_dict("records"))


def tell(chain: Chain, study: str) -> None:
    """One tracked run a study, continued by each import: rates at the step that is the number of participants."""
    design = read_design(chain.home.config, study)
    table, dropped = study_result(chain, study)
    rows = _records(table)
    step = rows[0]["n_participants"] + len(dropped)
    run = chain.tracker.run(
        experiment=f"fovea-{design.dataset}",
        name=f"study {study}",
        key=f"study {study}",
        tags={**chain.tags, "fovea.stage": "study", "fovea.study": study},
    )
    counts = {"pairs": len(design.pairs), "catch_trials": len(design.catch)}
    facts = design.model_dump(include={"study", "sweep", "tolerance", "mean_difference", "seed"})
    run.log_params({**facts, "first_arm": design.arms[0], "second_arm": design.arms[1], **counts})
    values = {f"study/{name}": float(rows[0][name]) for name in ("rate", "ci_low", "ci_high", "n_answers")}
    known = {name: value for name, value in values.items() if math.isfinite(value)}
    run.log_metrics([(step, {**known, "study/dropped": float(len(dropped))})])
    run.log_table(rows, f"preferences_{step}")
    run.finish()


def result_lines(table: pd.DataFrame, dropped: dict[str, str]) -> str:
    """A study's result for a terminal."""
    row = _records(table)[0]
    lines = ["study {study}: {first_arm} against {second_arm} on {dataset}.{sweep}".format_map(row)]
    lines += [f"dropped {name}: {why}" for name, why in dropped.items()]
    if row["n_answers"]:
        people = "person" if row["n_participants"] == 1 else "people"
        rate, low, high = (100 * row[name] for name in ("rate", "ci_low", "ci_high"))
        interval = f"{rate:.1f} %, 95 % interval [{low:.1f}, {high:.1f}] ({row['method']})"
        chosen = "{second_arm} chosen {chose_second} of {n_answers} times by {n_participants}".format_map(row)
        lines.append(f"{chosen} {people} on {row['n_images']} pictures: {interval}")
    if row["n_small"]:
        small = "{n_small} of {n_answers} answers are on pictures shown smaller than they are".format_map(row)
        lines.append(f"{small}: fine differences could not be seen there")
    return "\n".join([*lines, verdict(row)])


def verdict(row: dict[str, Any]) -> str:
    """What the interval says, in words."""
    if not row["n_answers"]:
        return "no answer is counted"
    found = row["second_arm"] if row["ci_low"] > 0.5 else row["first_arm"] if row["ci_high"] < 0.5 else ""
    if not found:
        return "no preference is shown: the interval holds 50 %"
    if row["n_participants"] == 1:
        return f"this one person prefers {found}; that says nothing of others"
    if row["n_participants"] < FEW:
        return f"these {row['n_participants']} people prefer {found}; that does not carry over to others"
    return f"people prefer {found}"
