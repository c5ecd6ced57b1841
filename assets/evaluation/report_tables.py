"""The report's sentences and tables, from `rd_curves`, `bd_rates` and the ideal; the template writes their numbers.

A verdict is what a comparison allows one to say. It is about one arm with predicted maps against `uniform`, on one dataset,
measured where people looked (`ew_psnr_db`) if their eyes were recorded, else by the maps that steer themselves
(`sw_psnr_db`), which is weaker evidence: that map is what the codec was trained on. Where there is no such arm, verdicts
are about variants of `uniform` against the plain one, by plain PSNR.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from tabulate import tabulate

from assets.evaluation.bd_rate import BASELINE, BD_METRICS, MAIN_METRICS, OWN_MAPS, kind_of, main_metric
from assets.evaluation.numerals import counted, number, percent, with_interval
from assets.evaluation.palette import CLASSICAL, SETTINGS, Cast, look
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


GROUPS = {
    "arms": ("Arms against uniform", "Same codec, trunk, data and training; below 0 the arm needs fewer bits."),
    "controls": (
        "Predicted maps against the same mechanism with other maps",
        "Below 0 the prediction earns something that a control does not; against oracle, above 0 is what better maps could add.",
    ),
    "codecs": ("Codec against codec", "The same arm of two codecs; below 0 the one under test needs fewer bits."),
    "others": (
        "Learned codecs against classical codecs and others’ curves",
        "Below 0 the learned codec needs fewer bits. Published curves are compared by their points alone, without an interval.",
    ),
}
MAPS = ("predicted", "oracle", "center", "shuffled")
MAP_WORDS = {
    "predicted": "predicted maps",
    "oracle": "people’s own fixations (ceiling)",
    "center": "centre bias (control)",
    "shuffled": "another picture’s map (control)",
    "people": "people’s own fixations (ceiling)",
    "half_people": "half of the people, the other half measures",
}
OTHERS = {
    "published": "{codec} is published, its source: {variant}; means only, so without intervals.",
    "external": "{variant} is a {codec} checkpoint trained elsewhere, measured here like our own codecs.",
}


def with_looks(table: pd.DataFrame, cast: Cast, arm: str = "arm") -> list[dict[str, Any]]:
    """The rows with place, look and whether they are a control's. arm: the column that names the arm."""
    return [
        {**r, "place": place_of(r), "look": look(r, cast, arm), "control": r["maps"] not in OWN_MAPS}
        for r in records(table)
    ]


def point_rows(curves: pd.DataFrame, cast: Cast) -> list[dict[str, Any]]:
    """All points, in the order of the table."""
    order = ["dataset", "split", "codec", "arm", "maps", "bpp"]
    rows = with_looks(curves.sort_values(order), cast)
    return [{**r, "runs": str(r.get("mlflow_run_ids") or "").split()} for r in rows]


def bd_groups(rates: pd.DataFrame, cast: Cast) -> list[dict[str, Any]]:
    """The BD table in three parts: arms, controls, and the baseline against what others made."""
    ordered = rates.assign(_maps=rates["maps"].map({m: i for i, m in enumerate(MAPS)}).fillna(9))
    order = ["dataset", "split", "codec", "test_arm", "variant", "_maps", "anchor_arm"]
    groups: dict[str, dict[str, Any]] = {
        name: {"id": name, "title": title, "about": about, "rows": [], "refused": []}
        for name, (title, about) in GROUPS.items()
    }
    for row in with_looks(ordered.sort_values(order, kind="stable"), cast, "test_arm"):
        anchor = row["anchor_arm"]
        group = groups[kind_of(row["test_arm"], anchor)]
        row = row | {"against": CLASSICAL.get(anchor, (anchor,))[0], "also": []}
        alike = ("metric", "method", "against", "place", "reason")
        same = next((r for r in group["refused"] if all(r[k] == row[k] for k in alike)), None)
        if row["status"] == "refused" and same is not None:
            same["also"].append(row["look"].label)
        else:
            group["refused" if row["status"] == "refused" else "rows"].append(row)
    return [group for group in groups.values() if group["rows"] or group["refused"]]


def control_tables(rates: pd.DataFrame, ideal: pd.DataFrame, cast: Cast) -> list[dict[str, Any]]:
    """For each arm: its maps beside each other, with their BD rows, the ideal of those maps and the share of it reached."""
    best = {(r.get("dataset"), r["conditioning"], r["metric"]): r for r in records(ideal)}
    rows = rates[(rates["method"] == METHOD) & (rates["anchor_arm"] == BASELINE)]
    tables = []
    for _, group in rows.groupby(ARM_KEYS, sort=True, dropna=False):
        by = {(r["maps"], r["metric"]): r for r in with_looks(group, cast, "test_arm")}
        metric = main_metric(group, "")
        lines: list[dict[str, Any]] = []
        for maps in MAPS:
            main = by.get((maps, metric))
            if main is None:
                continue
            # the ideal calls people's own fixations so
            allowed = best.get((main["dataset"], "people" if maps == "oracle" else maps, metric), {})
            gain = allowed.get("gain_db", math.nan)
            share = main["bd_quality_db"] / gain if gain > 0 else math.nan
            plain = by.get((maps, "psnr_db"))
            lines.append({"maps": MAP_WORDS[maps], "main": main, "plain": plain, "ideal": allowed, "share": share})
        if lines:
            first: dict[str, Any] = lines[0]["main"]
            label = look({**first, "maps": "predicted"}, cast, "test_arm").label
            metric_label = METRICS[metric].label
            tables.append({"label": label, "place": first["place"], "metric": metric_label, "lines": lines})
    return tables


def ideal_rows_of(ideal: pd.DataFrame) -> list[dict[str, Any]]:
    """The ideal, its conditioning and what measures it in words."""
    measured = {"fixations": "people’s fixations", "saliency": "predicted saliency"}
    return [
        {**r, "conditioning": MAP_WORDS[r["conditioning"]], "measured_on": measured[r["measured_on"]]}
        for r in records(ideal)
    ]


def headline(verdicts: Sequence[Verdict]) -> str:
    """What was found, in a plain sentence: of each codec's best arm where people look, with what that costs the whole picture, or
    of the best variant; where eyes were recorded if they were anywhere. The question where nothing can be said."""
    variants = bool(verdicts) and verdicts[0].arm == BASELINE
    verdicts = [v for v in verdicts if v.metric == "ew_psnr_db"] or verdicts
    several = len({v.place for v in verdicts}) > 1
    said, open_, costs = list[str](), list[str](), list[str]()
    than = "" if variants else " than without a map"

    for v in verdicts:
        parts = (v.main["codec"], v.main["variant"] if variants else "", f"on {v.place}" if several else "")
        name = " ".join(filter(None, parts))
        if v.outcome in (HELPS, HELPS_ALONE, HURTS):
            rate = f"{number(abs(float(v.main['bd_rate_percent'])), 0, unit='%')} {'more' if v.outcome == HURTS else 'fewer'}"
            said.append(f"{name} {rate}" if said else f"{name} needs {rate} bits{than}")
            costs += [percent(row["bd_rate_percent"]) for words, row in v.costs if words == "plain PSNR"]
        else:
            open_.append(name)
    if not said:
        return "Which variant needs fewer bits for the same quality?" if variants else QUESTION
    rest = f"; for {' and '.join(dict.fromkeys(open_))} it is open" if open_ else ""
    if variants:
        return f"For the same PSNR {', '.join(said)}{rest}"
    look = "look" if verdicts[0].metric == "ew_psnr_db" else "are predicted to look"
    whole = f"; {' and '.join(costs)} for the same plain PSNR" if len(costs) == len(said) else ""
    return f"Told where people {look}, {', '.join(said)} for the same quality there{whole}{rest}"


QUESTION = "Does telling the codec where people look make pictures better at the same rate?"


def answers(rates: pd.DataFrame) -> list[str]:
    """The sentence of each codec's best arm for each place, conventional codecs beside it."""
    return [" ".join(filter(None, (answer(v), v.beside))) for v in first_verdicts(rates)]


def answer(verdict: Verdict) -> str:
    """On what, which arm, how many bits at equal looked-at quality, what the whole picture costs, how sure, and what other
    maps give by the same mechanism."""
    main = verdict.main
    variant = f" ({main['variant']})" if main["variant"] else ""
    head = f"On {verdict.place}: {verdict.arm} of {main['codec']}{variant}"
    if not math.isfinite(main["bd_rate_percent"]):
        why = str(main["reason"]) or "no common points"
        return f"{head} and {verdict.against} cannot be compared at equal {verdict.metric_label}: {why}."
    parts = [f"{head} against {verdict.against}: {with_interval(main)} rate at equal {verdict.metric_label}"]
    if verdict.metric == "sw_psnr_db":
        parts[0] += " (by the maps that also steer)"
    parts += [f"{with_interval(row)} at equal {words}" for words, row in verdict.costs]
    why = f": {verdict.reasons[0]}" if verdict.outcome == UNKNOWN else ""
    text = f"{', '.join(parts)}. {verdict.outcome[0].upper()}{verdict.outcome[1:]}{why}."
    compared = {m: row for m, row in verdict.controls.items() if math.isfinite(row["bd_rate_percent"])}
    others = ", ".join(f"{WORDS.get(maps, maps)} {with_interval(row)}" for maps, row in compared.items())
    return f"{text} The same with other maps: {others}." if others else text


def bd_markdown(rates: pd.DataFrame) -> str:
    """Arms against `uniform`, and its variants, as a table in Markdown: BD-rate and 95 % interval at equal quality by each
    metric."""
    own = records(rates[(rates["method"] == METHOD) & (rates["anchor_arm"] == BASELINE)])
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for r in own:
        arm = label_arm(str(r["test_arm"]), str(r["maps"]))
        name = (str(r["dataset"]), str(r["codec"]), " ".join(filter(None, (arm, str(r["variant"])))))
        rows.setdefault(name, {})[str(r["metric"])] = with_interval(r)
    metrics = [m for m in BD_METRICS if any(m in found for found in rows.values())]
    head = ["on", "codec", "arm", *(f"rate at equal {METRICS[m].label}" for m in metrics)]
    lines = [[*n, *(found.get(m, "–") for m in metrics)] for n, found in rows.items()]
    return str(tabulate(lines, head, tablefmt="pipe", disable_numparse=True)) + "\n"


def others_said(curves: pd.DataFrame) -> list[str]:
    """A line on each curve from elsewhere: where it comes from."""
    named = curves[["arm", "codec", "variant"]].drop_duplicates()
    return [text.format(**r) for arm, text in OTHERS.items() for r in records(named[named["arm"] == arm])]


def provenance_rows(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is known of where the numbers come from, as printed: without Markdown's marks of code."""
    return [
        (key, ("; ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)).replace("`", ""))
        for key, value in provenance.items()
        if key != "mlflow_run_url" and value not in ("", None, [], ())
    ]
