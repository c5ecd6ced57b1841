"""What the answers to studies say: a table, lines for a terminal, and a tracked run for each study."""

import math
from typing import Any

import pandas as pd

from assets.chain import Chain
from assets.home import written_beside
from assets.studies.answers import counted_answers, known_studies, read_design
from assets.studies.preferences import PREFERENCE_COLUMNS, preferences, verdict

TABLE = "study_preferences"


def study_result(chain: Chain, study: str) -> tuple[pd.DataFrame, dict[str, str]]:
    """Preference rates of one study, and the participants who were dropped with the reason."""
    design = read_design(chain.home.config, study)
    answers, dropped = counted_answers(chain.home.config, design)
    return preferences(design, answers, len(dropped)), dropped


def write_preferences(chain: Chain) -> pd.DataFrame:
    """`tables/study_preferences`, Parquet and CSV, of every study that has answers; one writer at a time."""
    with chain.locked("tables"):
        pieces = [study_result(chain, study)[0] for study in known_studies(chain.home.config)]
        pieces = [p for p in pieces if p.n_answers.sum() or p.n_dropped.sum()]
        whole = (
            pd.concat(pieces, ignore_index=True)
            if pieces
            else pd.DataFrame(columns=list(PREFERENCE_COLUMNS)).astype(PREFERENCE_COLUMNS)
        )
        with written_beside(chain.home.tables / f"{TABLE}.parquet") as beside:
            whole.to_parquet(beside, index=False)
        with written_beside(chain.home.tables / f"{TABLE}.csv") as beside:
            whole.to_csv(beside, index=False)
    return whole


def tell(chain: Chain, study: str) -> str:
    """One tracked run a study, continued by each import: rates at the step that is the number of participants."""
    design = read_design(chain.home.config, study)
    table, dropped = study_result(chain, study)
    row: dict[str, Any] = {str(k): v for k, v in table.iloc[0].to_dict().items()}
    run = chain.tracker.run(
        experiment=f"fovea-{design['dataset']}",
        name=f"study {study}",
        key=f"study {study}",
        tags={**chain.tags, "fovea.stage": "study", "fovea.study": study},
    )
    try:
        run.log_params(
            {
                "study": study,
                "sweep": design["sweep"],
                "first_arm": design["arms"][0],
                "second_arm": design["arms"][1],
                "pairs": len(design["pairs"]),
                "catch_trials": len(design["catch"]),
                "tolerance": design["tolerance"],
                "mean_difference": design["mean_difference"],
                "seed": design["seed"],
            }
        )
        values = {
            f"study/{name}": float(row[name])
            for name in ("rate", "ci_low", "ci_high", "n_answers")
            if math.isfinite(float(row[name]))
        }
        values["study/dropped"] = float(len(dropped))
        run.log_metrics([(int(row["n_participants"]) + len(dropped), values)])
        run.log_table(
            [{str(k): v for k, v in r.items()} for r in table.to_dict("records")],
            f"preferences_{row['n_participants'] + len(dropped)}",
        )
        run.finish()
    except BaseException:
        run.finish("FAILED")
        raise
    return run.run_id


def result_lines(table: pd.DataFrame, dropped: dict[str, str]) -> str:
    """A study's result for a terminal."""
    row: dict[str, Any] = {str(k): v for k, v in table.iloc[0].to_dict().items()}
    lines = [
        f"study {row['study']}: {row['first_arm']} against {row['second_arm']} on {row['dataset']}.{row['sweep']}",
    ]
    lines += [f"dropped {name}: {why}" for name, why in dropped.items()]
    if row["n_answers"]:
        lines.append(
            f"{row['second_arm']} chosen {row['chose_second']} of {row['n_answers']} times by {row['n_participants']} "
            f"{'person' if row['n_participants'] == 1 else 'people'} on {row['n_images']} pictures: "
            f"{100 * row['rate']:.1f} %, 95 % interval [{100 * row['ci_low']:.1f}, {100 * row['ci_high']:.1f}] ({row['method']})"
        )
    if row.get("n_small"):
        lines.append(
            f"{row['n_small']} of {row['n_answers']} answers are on pictures shown smaller than they are: fine differences "
            "could not be seen there"
        )
    lines.append(verdict(row))
    return "\n".join(lines)
