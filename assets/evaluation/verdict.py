"""What a comparison allows one to say, in plain words: the headline of a report and its careful small print.

A verdict is about one arm with predicted maps against `uniform`, on one dataset, measured where people looked
(`ew_psnr_db`) if their eyes were recorded, else by the saliency model itself (`sw_psnr_db`), which is weaker evidence:
that map is what the codec was trained on.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from assets.evaluation.bd_rate import BASELINE
from assets.evaluation.rate_distortion import label_arm

CONTROLS = ("center", "shuffled")
METHOD = "pchip"
#: the other way to join the points, which has to give the same sign
CHECK = "akima"

HELPS, HELPS_ALONE, NOT_MAPS, INCONCLUSIVE, HURTS, UNKNOWN = (
    "conclusive: saves bits",
    "saves bits; no control in this sweep",
    "saves bits, but so does a control",
    "inconclusive",
    "conclusive: costs bits",
    "cannot be said",
)


@dataclass(frozen=True)
class Verdict:
    """One arm's answer. key: the columns that name it. rows: its BD rows by metric. controls: BD rows of its controls.

    outcome: one of the module's six. reasons: what was decisive, and what a careful reader should know.
    """

    place: str
    codec: str
    arm: str
    variant: str
    train_dataset: str
    metric: str
    outcome: str
    main: Mapping[str, Any]
    plain: Mapping[str, Any] | None
    controls: Mapping[str, Mapping[str, Any]]
    reasons: tuple[str, ...] = field(default=())

    @property
    def tone(self) -> str:
        """good, bad or open: how the report colours it."""
        return {HELPS: "good", HURTS: "bad"}.get(self.outcome, "open")


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as dictionaries by column name."""
    return [{str(k): v for k, v in row.items()} for row in table.to_dict("records")]


def _finite(row: Mapping[str, Any] | None, column: str) -> bool:
    return row is not None and math.isfinite(float(row[column]))


def _below_zero(row: Mapping[str, Any] | None) -> bool:
    return row is not None and _finite(row, "ci_high") and float(row["ci_high"]) < 0


def _same_sign(main: Mapping[str, Any], check: Mapping[str, Any]) -> bool:
    """Whether both intervals lie on the same side of 0; a check that was refused says nothing."""
    if not _finite(check, "ci_low"):
        return True
    return bool(check["ci_high"] < 0) if main["ci_high"] < 0 else bool(check["ci_low"] > 0)


def find_verdicts(rates: pd.DataFrame) -> list[Verdict]:
    """A verdict for each arm with predicted maps, best first; rates: as `bd_rates` gives them."""
    rows = rates[rates["method"] == METHOD]
    checks = rates[
        (rates["method"] == CHECK) & (rates["anchor_arm"] == BASELINE) & (rates["maps"] == "predicted")
    ]
    named = ["dataset", "split", "train_dataset", "codec", "preset", "variant"]
    verdicts = []
    for key, group in rows.groupby([*named, "test_arm"], sort=True, dropna=False):
        names = dict(zip([*named, "test_arm"], (str(k) for k in key), strict=True))
        arm = names["test_arm"]
        if arm == BASELINE:
            continue
        against = group[group["anchor_arm"] == BASELINE]
        mine = {r["metric"]: r for r in records(against[against["maps"] == "predicted"])}
        metric = "ew_psnr_db" if "ew_psnr_db" in mine else "sw_psnr_db"
        if metric not in mine:
            continue
        on_metric = group[group["metric"] == metric]
        controls = {
            str(r["maps"]): r
            for r in records(on_metric[on_metric["anchor_arm"] == BASELINE])
            if r["maps"] != "predicted"
        }
        versus = {
            maps: next(iter(found), None)
            for maps in CONTROLS
            for found in [records(on_metric[on_metric["anchor_arm"] == label_arm(arm, maps)])]
        }
        same = checks[checks["metric"] == metric]
        for column in (*named, "test_arm"):
            same = same[same[column].astype(str) == names[column]]
        check = next(iter(records(same)), None)
        outcome, reasons = _judge(mine[metric], mine.get("psnr_db"), versus, metric, check)
        place = f"{names['dataset']} · {names['split']}"
        verdicts.append(
            Verdict(
                place,
                names["codec"],
                arm,
                names["variant"],
                names["train_dataset"],
                metric,
                outcome,
                mine[metric],
                mine.get("psnr_db"),
                controls,
                tuple(reasons),
            )
        )
    rank = (HELPS, HELPS_ALONE, NOT_MAPS, INCONCLUSIVE, HURTS, UNKNOWN)
    return sorted(
        verdicts,
        key=lambda v: (
            v.place,
            rank.index(v.outcome),
            v.main["bd_rate_percent"] if _finite(v.main, "bd_rate_percent") else math.inf,
        ),
    )


def _judge(
    main: Mapping[str, Any],
    plain: Mapping[str, Any] | None,
    versus: Mapping[str, Mapping[str, Any] | None],
    metric: str,
    check: Mapping[str, Any] | None,
) -> tuple[str, list[str]]:
    reasons = []
    if not _finite(main, "ci_low"):
        outcome = UNKNOWN
        reasons.append(str(main["reason"]) or "no interval")
    elif main["ci_low"] <= 0 <= main["ci_high"]:
        outcome = INCONCLUSIVE
        reasons.append("The 95 % interval contains 0: with other pictures the sign could turn.")
    elif check is not None and not _same_sign(main, check):
        outcome = INCONCLUSIVE
        reasons.append(
            f"It depends on how the points are joined: PCHIP gives {main['bd_rate_percent']:+.1f} %, Akima "
            f"{check['bd_rate_percent']:+.1f} % [{check['ci_low']:+.1f}, {check['ci_high']:+.1f}]. The curves are too flat, "
            "or their points too few, for a BD-rate."
        )
    elif main["ci_low"] > 0:
        outcome = HURTS
        reasons.append("The whole 95 % interval lies above 0.")
    else:
        there = {maps: row for maps, row in versus.items() if row is not None}
        beaten = [maps for maps, row in there.items() if _below_zero(row)]
        words = {"center": "the centre bias", "shuffled": "another picture's map"}
        if not there:
            outcome = HELPS_ALONE
            reasons.append("Without controls it is open whether it needs these maps, or any map would do.")
        elif len(beaten) == len(there):
            outcome = HELPS
            reasons.append(
                f"Also better than {' and '.join(words[m] for m in beaten)} with the same mechanism."
            )
        else:
            outcome = NOT_MAPS
            rest = [words[m] for m in there if m not in beaten]
            reasons.append(
                f"Not shown to be better than {' or '.join(rest)}: this is no evidence for saliency."
            )
    if metric == "sw_psnr_db":
        reasons.append(
            "No eye movements were recorded here: looked-at quality is by the saliency model that also steers the codec."
        )
    if int(main["n_seeds"]) < 2:
        reasons.append("One training run an arm: the interval covers pictures, not the luck of training.")
    if plain is not None and not _finite(plain, "ci_low"):
        reasons.append(f"What it costs at equal plain PSNR is not known: {plain['reason'] or 'no interval'}.")
    if plain is not None and _finite(plain, "ci_low") and plain["ci_low"] > 10:
        reasons.append("It costs more than a tenth of the rate at equal plain PSNR.")
    return outcome, reasons
