"""What the answers to a study say: preference rates with intervals, as a table, in words and as a tracked run."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from assets.chain import Chain
from assets.evaluation.numerals import counted
from assets.evaluation.rate_distortion import records
from assets.evaluation.tables import keep_table
from assets.studies.answers import counted_answers
from assets.studies.design import Design, known_studies, read_design
from models.bootstrap import CONFIDENCE, interval, resample_counts

FEW = 5
"""Fewer participants speak for themselves: where people are of two minds, some few of one mind are often met."""
RESAMPLES = 2000
TABLE = "study_preferences"


class Result(NamedTuple):
    """What a study found: a row of `TABLE` for all answers and one for each picture, and who was dropped, why."""

    design: Design
    table: pd.DataFrame
    dropped: dict[str, str]


def wilson(chosen: int, answers: int) -> tuple[float, float]:
    """Wilson's score interval (1927) of a share at 95 %; (nan, nan) without answers."""
    if answers == 0:
        return math.nan, math.nan
    found = stats.binomtest(chosen, answers).proportion_ci(CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)


def cluster_bootstrap(answers: pd.DataFrame) -> tuple[float, float]:
    """95 % percentile interval of the mean of `second`, participants and pictures both drawn with replacement.

    An answer counts as often as its participant was drawn times as often as its picture was (the pigeonhole bootstrap of
    Owen, 2007): people differ from each other, and so do pictures. Resamples without an answer are left out.
    """
    cells = answers.groupby(["participant", "image"]).second.agg(["size", "sum"]).unstack(fill_value=0)
    counts, chosen = (cells[name].to_numpy(np.float64) for name in ("size", "sum"))
    people, pictures = (resample_counts(n, RESAMPLES, axis) for axis, n in enumerate(counts.shape))
    total, sums = (((people @ table) * pictures).sum(axis=1) for table in (counts, chosen))
    return interval(sums[total > 0] / total[total > 0])


def preference(answers: pd.DataFrame) -> dict[str, Any]:
    """Rate, interval and how it was found. answers: see `counted_answers`.

    One participant: Wilson's interval, answers taken as independent; it speaks of that person alone. Several: the cluster
    bootstrap, never narrower than Wilson's nor than Student's interval of the participants' own rates. With few people
    resamples are too alike: two who agree by chance would pass for everybody.
    """
    count, chosen, people = len(answers), int(answers.second.sum()), answers.participant.nunique()
    low, high = wilson(chosen, count)
    if people > 1:
        drawn = cluster_bootstrap(answers)
        rates = answers.groupby("participant").second.mean().to_numpy(np.float64)
        half = stats.t.ppf(0.5 + CONFIDENCE / 2, people - 1) * rates.std(ddof=1) / math.sqrt(people)
        low, high = min(low, drawn[0], rates.mean() - half), max(high, drawn[1], rates.mean() + half)
    return {
        "n_answers": count,
        "n_participants": people,
        "n_images": answers.image.nunique(),
        "chose_second": chosen,
        "n_small": int(answers.small.sum()),
        "rate": chosen / count if count else math.nan,
        "ci_low": max(0.0, float(low)),
        "ci_high": min(1.0, float(high)),
        "method": "cluster bootstrap" if people > 1 else "wilson",
    }


def preferences(design: Design, answers: pd.DataFrame, dropped: int) -> pd.DataFrame:
    """A row for all answers and one for each picture."""
    names = {"study": design.study, "dataset": design.dataset, "sweep": design.sweep}
    head = {**names, "first_arm": design.arms[0], "second_arm": design.arms[1], "n_dropped": dropped}
    rows = [{**head, "scope": "all", "image": "", **preference(answers)}]
    for image, own in answers.groupby("image"):
        rows.append({**head, "scope": "image", "image": image, **preference(own)})
    return pd.DataFrame(rows)


def study_result(config: Path, study: str) -> Result:
    """What the answers that are kept of a study say."""
    design = read_design(config, study)
    answers, dropped = counted_answers(config, design)
    return Result(design, preferences(design, answers, len(dropped)), dropped)


def write_preferences(chain: Chain) -> dict[str, Result]:
    """`tables/study_preferences` of every study that has answers, one writer at a time; the results of all studies."""
    with chain.home.locked("tables"):
        found = {study: study_result(chain.home.config, study) for study in known_studies(chain.home.config)}
        kept = [r.table[r.table.n_answers + r.table.n_dropped > 0] for r in found.values()]
        keep_table(chain.home.tables, TABLE, pd.concat(kept, ignore_index=True))
    return found


def tell(chain: Chain, result: Result) -> None:
    """One tracked run a study, continued by each import: rates at the step that is the number of participants."""
    design, rows = result.design, records(result.table)
    step = rows[0]["n_participants"] + len(result.dropped)
    name = f"study {design.study}"
    tags = {**chain.tags, "fovea.stage": "study", "fovea.study": design.study}
    run = chain.tracker.run(experiment=f"fovea-{design.dataset}", name=name, key=name, tags=tags)
    counts = {"pairs": len(design.pairs), "catch_trials": len(design.catch)}
    facts = design.model_dump(include={"study", "sweep", "tolerance", "mean_difference", "seed"})
    run.log_params({**facts, "first_arm": design.arms[0], "second_arm": design.arms[1], **counts})
    values = {f"study/{name}": float(rows[0][name]) for name in ("rate", "ci_low", "ci_high", "n_answers")}
    known = {name: value for name, value in values.items() if math.isfinite(value)}
    run.log_metrics([(step, {**known, "study/dropped": float(len(result.dropped))})])
    run.log_table(rows, f"preferences_{step}")
    run.finish()


def result_lines(result: Result) -> str:
    """A study's result for a terminal."""
    row = records(result.table)[0]
    lines = ["study {study}: {first_arm} against {second_arm} on {dataset}.{sweep}".format_map(row)]
    lines += [f"dropped {name}: {why}" for name, why in result.dropped.items()]
    if row["n_answers"]:
        people = "person" if row["n_participants"] == 1 else "people"
        rate, low, high = (100 * row[name] for name in ("rate", "ci_low", "ci_high"))
        interval = f"{rate:.1f} %, 95 % interval [{low:.1f}, {high:.1f}] ({row['method']})"
        chosen = "{second_arm} chosen {chose_second} of {n_answers} times by {n_participants}".format_map(row)
        lines.append(f"{chosen} {people} on {counted(row['n_images'])}: {interval}")
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
