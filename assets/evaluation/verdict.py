"""What a comparison allows one to say, in plain words: the headline of a report and its careful small print.

A verdict is about one arm with predicted maps against `uniform`, on one dataset, measured where people looked
(`ew_psnr_db`) if their eyes were recorded, else by the maps that steer themselves (`sw_psnr_db`), which is weaker evidence:
that map is what the codec was trained on. Where there is no such arm, verdicts are about variants of `uniform` against the
plain one, by plain PSNR.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from assets.evaluation.bd_rate import BASELINE, MAIN_METRICS, OWN_MAPS
from assets.evaluation.numerals import counted, with_interval
from assets.evaluation.palette import CLASSICAL, SETTINGS
from assets.evaluation.rate_distortion import label_arm, place_of, records
from models.metrics import METRICS

#: maps that are not predicted from the picture, in words
WORDS = {"center": "the centre bias", "shuffled": "another picture’s map", "oracle": "people’s own fixations"}
#: those that predicted maps have to beat
CONTROLS = ("center", "shuffled")
#: what counts the whole picture alike
COSTS = {"plain PSNR": "psnr_db", "MS-SSIM": "ms_ssim"}
METHOD = "pchip"
#: columns of bd_rates that set one arm apart from another
ARM_KEYS = ["dataset", "split", "train_dataset", "codec", "preset", "variant", "test_arm"]
#: the other way to join the points, which has to give the same sign
CHECK = "akima"

OUTCOMES = HELPS, HELPS_ALONE, NOT_MAPS, INCONCLUSIVE, HURTS, UNKNOWN = (
    "conclusive: saves bits",
    "saves bits; no control in this sweep",
    "saves bits, but so does a control",
    "inconclusive",
    "conclusive: costs bits",
    "cannot be said",
)


@dataclass(frozen=True)
class Verdict:
    """One arm's answer. main: its BD row on `metric`. costs: what the whole picture costs, its BD rows at equal quality by
    others of COSTS, with the words for each. controls: BD rows of its controls by map.

    beside: the arm against conventional codecs, in words. outcome: one of `OUTCOMES`, which stand from the best to the
    worst. reasons: what was decisive, and what a careful reader should know.
    """

    metric: str
    outcome: str
    main: Mapping[str, Any]
    costs: Sequence[tuple[str, Mapping[str, Any]]]
    controls: Mapping[str, Mapping[str, Any]]
    beside: str
    reasons: Sequence[str]

    @property
    def place(self) -> str:
        """The pictures that it holds for."""
        return place_of(self.main)

    @property
    def arm(self) -> str:
        """The arm, or `uniform` where variants of it are compared."""
        return str(self.main["test_arm"])

    @property
    def against(self) -> str:
        """What it was held against."""
        return f"plain {BASELINE}" if self.arm == BASELINE else BASELINE

    @property
    def tone(self) -> str:
        """good, bad or open: how the report colours it."""
        return {HELPS: "good", HURTS: "bad"}.get(self.outcome, "open")

    @property
    def metric_label(self) -> str:
        """The metric's name on a page."""
        return METRICS[self.metric].label


def find_verdicts(rates: pd.DataFrame) -> list[Verdict]:
    """A verdict for each arm with predicted maps, best first; where there is none, for each variant of `uniform`. rates: as
    `bd_rates` gives them."""
    based = rates["test_arm"] == BASELINE
    verdicts = _verdicts(rates[~based], "predicted", MAIN_METRICS) or _verdicts(rates[based], "none", ("psnr_db",))

    def order(v: Verdict) -> tuple[str, int, float]:
        known = math.isfinite(v.main["bd_rate_percent"])
        return v.place, OUTCOMES.index(v.outcome), v.main["bd_rate_percent"] if known else math.inf

    return sorted(verdicts, key=order)


def _verdicts(rates: pd.DataFrame, maps: str, metrics: Sequence[str]) -> list[Verdict]:
    """Of the curves with these maps, by the first of the metrics that there is."""
    verdicts = []
    for names, group in rates.groupby(ARM_KEYS, sort=True, dropna=False):
        rows = {(r["metric"], r["method"], r["anchor_arm"], r["maps"]): r for r in records(group)}
        metric = next((m for m in metrics if (m, METHOD, BASELINE, maps) in rows), "")
        if not metric:
            continue
        main = rows[metric, METHOD, BASELINE, maps]
        whole = {words: rows.get((m, METHOD, BASELINE, maps)) for words, m in COSTS.items() if m != metric}
        costs = [(words, row) for words, row in whole.items() if row and math.isfinite(row["bd_rate_percent"])]
        versus = {m: rows.get((metric, METHOD, label_arm(str(names[-1]), m), maps)) for m in CONTROLS}
        outcome, why = _outcome(main, rows.get((metric, CHECK, BASELINE, maps)), versus)
        alike = [metric, METHOD, BASELINE]
        controls = {m: row for (*told, m), row in rows.items() if told == alike and m not in OWN_MAPS}
        others = [rows.get((metric, METHOD, name, maps)) for name in SETTINGS]
        reasons = [why, *_caveats(main, whole.get("plain PSNR"), metric)]
        verdicts.append(Verdict(metric, outcome, main, costs, controls, _beside(others), reasons))
    return verdicts


def first_verdicts(rates: pd.DataFrame) -> list[Verdict]:
    """Of `find_verdicts` the best of each codec on each place."""
    found: dict[tuple[str, str], Verdict] = {}
    for verdict in find_verdicts(rates):
        found.setdefault((verdict.place, str(verdict.main["codec"])), verdict)
    return list(found.values())


def _outcome(
    main: Mapping[str, Any], check: Mapping[str, Any] | None, versus: Mapping[str, Mapping[str, Any] | None]
) -> tuple[str, str]:
    """The outcome and what decided it. check: the same comparison by Akima; versus: against each control, where it is there."""
    if main["n_trained_on"]:
        known = f"{main['n_trained_on']} of these {counted(main['n_images'])}"
        return UNKNOWN, f"the codec was trained on {known}, so this is no test"
    if not math.isfinite(main["ci_low"]):
        return UNKNOWN, str(main["reason"]) or "no interval"
    if main["ci_low"] <= 0 <= main["ci_high"]:
        return INCONCLUSIVE, "The 95 % interval contains 0: with other pictures the sign could turn."
    below = main["ci_high"] < 0
    # a check that was refused says nothing
    if check and math.isfinite(check["ci_low"]) and not (check["ci_high"] < 0 if below else check["ci_low"] > 0):
        return INCONCLUSIVE, (
            f"It depends on how the points are joined: PCHIP gives {main['bd_rate_percent']:+.1f} %, Akima "
            f"{check['bd_rate_percent']:+.1f} % [{check['ci_low']:+.1f}, {check['ci_high']:+.1f}]. The curves are too flat, "
            "or their points too few, for a BD-rate."
        )
    if not below:
        return HURTS, "The whole 95 % interval lies above 0."
    if main["test_arm"] == BASELINE:
        return HELPS, "The whole 95 % interval lies below 0."
    there = {WORDS[maps]: row["ci_high"] < 0 for maps, row in versus.items() if row is not None}
    if not there:
        return HELPS_ALONE, "Without controls it is open whether it needs these maps, or any map would do."
    if all(there.values()):
        return HELPS, f"Also better than {' and '.join(there)} with the same mechanism."
    rest = " or ".join(name for name, beaten in there.items() if not beaten)
    return NOT_MAPS, f"Not shown to be better than {rest}: this is no evidence for saliency."


def _beside(others: Sequence[Mapping[str, Any] | None]) -> str:
    """The arm against conventional codecs, where there is an interval, on pictures that no codec was trained on."""
    there = [row for row in others if row and math.isfinite(row["ci_low"]) and not row["n_trained_on"]]
    named = [(CLASSICAL[row["anchor_arm"]][0], SETTINGS[row["anchor_arm"]], with_interval(row)) for row in there]
    said = ", ".join(f"{label} ({setting}) {rate}" for label, setting, rate in named)
    return f"Against conventional codecs at the same quality: {said}." if said else ""


def _caveats(main: Mapping[str, Any], plain: Mapping[str, Any] | None, metric: str) -> list[str]:
    found = []
    if metric == "sw_psnr_db":
        found.append("No eye movements were recorded here: looked-at quality is by the maps that also steer the codec.")
    if main["train_dataset"] and int(main["n_seeds"]) < 2:
        covers = ": the interval covers pictures, not the luck of training" if math.isfinite(main["ci_low"]) else ""
        found.append(f"One training run an arm{covers}.")
    if plain is not None and not math.isfinite(plain["ci_low"]):
        found.append(f"What it costs at equal plain PSNR is not known: {plain['reason'] or 'no interval'}.")
    elif plain is not None and plain["ci_low"] > 10:
        found.append("It costs more than a tenth of the rate at equal plain PSNR.")
    return found
