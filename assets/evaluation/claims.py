"""Claims: what a measurement is expected to show, written down before it is made, and whether it did.

A claim is a TOML file in `results/claims/` or `FOVEA_CONFIG/claims/`, named after it (docs/experiments.md shows one).

`seal` adds what it will be measured with: the inputs of the units of both sides, thus code, weights, pictures and fixations.
The file is then committed, and its run leaves NAME.json beside it: the SHA-256 of the claim as it was, the BD-rate and its
interval. A claim that was edited after its run, or whose code, weights or pictures are others by now, is named.
"""

import contextlib
import datetime
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import tomlkit

from assets.chain import Chain, explain
from assets.evaluation.numerals import counted, percent, with_interval
from assets.evaluation.pieces import measured_table
from assets.evaluation.rate_distortion import label_arm, records
from assets.graph import Waiting
from assets.home import ROOT, read_whole, write_whole
from assets.world import evaluation_key
from models.codecs.catalogue import WEIGHTS
from models.codecs.classical import CLASSICAL
from models.errors import FoveaError
from models.metrics import METRICS
from models.seen import read_seen
from models.validation import Typed, checked, unknown

SHIPPED = ROOT / "results/claims"
METHOD = "pchip"


class Claim(Typed):
    """The BD-rates of `sweep` (DATASET.SWEEP) decide: `arm` against another arm of the codec or a classical codec, of `preset`
    and `variant` where the sweep has several. The whole 95 % interval lies at or below `most`, at or above `least`. sealed:
    for each unit ("stage partition") its inputs."""

    says: str
    sweep: str
    codec: str
    arm: str
    against: str
    metric: str
    preset: str | None = None
    variant: str | None = None
    least: float = -math.inf
    most: float = math.inf
    sealed: dict[str, dict[str, Any]] = {}

    model_config = {**Typed.model_config, "allow_inf_nan": True}

    @property
    def bound(self) -> str:
        """In words, for the whole interval."""
        low, high = math.isfinite(self.least), math.isfinite(self.most)
        if low and high:
            return f"{percent(self.least)} to {percent(self.most)}"
        return f"at most {percent(self.most)}" if high else f"at least {percent(self.least)}"


class Outcome(NamedTuple):
    """A run of a claim. claim: SHA-256 of the file that it was run with. commit: of the code."""

    claim: str
    date: str
    commit: str
    bd_rate_percent: float
    ci_low: float
    ci_high: float
    n_images: int
    held: bool

    @property
    def word(self) -> str:
        """held, or did not hold."""
        return "held" if self.held else "did not hold"


class Written(NamedTuple):
    """A claim with its file, the file's SHA-256, and its runs, oldest first."""

    path: Path
    claim: Claim
    digest: str
    runs: list[Outcome]

    @property
    def name(self) -> str:
        """The file's, without its ending."""
        return self.path.stem

    @property
    def run(self) -> Outcome | None:
        """The run that decides: the first of the claim as it stands."""
        return next((r for r in self.runs if r.claim == self.digest), None)

    @property
    def edited(self) -> bool:
        """Whether the file was changed after it had been run."""
        return bool(self.runs) and self.runs[0].claim != self.digest


def read_claim(path: Path) -> Written:
    """Raises FoveaError for a file that is no claim, naming file and field."""
    try:
        text = read_whole(path)
        claim = checked(Claim, tomlkit.parse(text.decode()).unwrap(), str(path))
    except UnicodeDecodeError:
        raise FoveaError(f"{path}: not a text file; a claim is a TOML file") from None
    except tomlkit.exceptions.ParseError as error:
        raise FoveaError(f"{path}: {error}") from error
    if not (math.isfinite(claim.least) or math.isfinite(claim.most)):
        raise FoveaError(f"{path}: a claim needs a bound: most, least, or both")
    if claim.metric not in METRICS:
        raise FoveaError(f"{path}.metric: {unknown('metric', claim.metric, METRICS)}")
    record = path.with_suffix(".json")
    try:
        runs = [Outcome(**run) for run in json.loads(record.read_text())] if record.exists() else []
    except (ValueError, TypeError) as error:
        raise FoveaError(f"{record}: not what fovea claims run keeps of a claim: {error}") from error
    return Written(path, claim, hashlib.sha256(text).hexdigest(), runs)


def all_claims(config: Path) -> list[Written]:
    """Those that ship and those of FOVEA_CONFIG, by name."""
    return [read_claim(path) for path in _files(config)]


def _files(config: Path) -> list[Path]:
    files = {path for folder in (SHIPPED, config / "claims") for path in folder.glob("*.toml")}
    return sorted(files, key=lambda path: path.stem)


def units_of(chain: Chain, claim: Claim) -> list[tuple[str, str]]:
    """Stage and partition of what both sides are measured by. Raises FoveaError for a sweep, arm or codec that is not there."""
    sweep = chain.world.sweep(claim.sweep)
    asked = {"codec": claim.codec, "preset": claim.preset, "variant": claim.variant}
    own = [e for e in sweep.experiments if all(v in (None, getattr(e, name)) for name, v in asked.items())]
    found: list[tuple[str, str]] = []
    for side in (claim.arm, claim.against):
        if side in CLASSICAL:
            found.append(("classical_rd_points", sweep.dataset))
            continue
        keys = [e.key for e in own if e.label == side]
        if not keys:
            raise FoveaError(
                f"{claim.sweep}: {claim.codec}: {unknown('arm', side, [*(e.label for e in own), *CLASSICAL])}"
            )
        found += [("rd_points", evaluation_key(key, sweep.dataset)) for key in keys]
    return found


def inputs_of(chain: Chain, claim: Claim) -> dict[str, dict[str, Any]]:
    """What `sealed` holds. Raises FoveaError while frames or maps, which have to be known, are not made."""
    try:
        return {
            f"{stage} {partition}": json.loads(json.dumps(dict(chain.unit(stage, partition).inputs)))
            for stage, partition in units_of(chain, claim)
        }
    except Waiting as waiting:
        raise FoveaError(f"{waiting}: fovea claims seal makes it") from waiting


def check_unseen(chain: Chain, written: Written) -> None:
    """Raises FoveaError where a codec of either side was trained on pictures that it would be measured on."""
    table = measured_table(chain, written.claim.sweep.partition(".")[0])
    for stage, partition in units_of(chain, written.claim):
        for need in chain.needs(stage, partition):
            if need.stage == "trained_codec":
                seen = read_seen(chain.made(need.stage, need.partition).folder / "codec" / WEIGHTS)
                check_known(written, sum(seen.trained_on(table.sha256)), len(table))


def check_known(written: Written, known: int, of: int) -> None:
    """Raises FoveaError where `known` of `of` pictures are known to the codec that is measured on them."""
    if known:
        said = f"the codec was trained on {known} of the {counted(of)}"
        raise FoveaError(f"{written.path}: {said}: they cannot show what is claimed")


def seal(chain: Chain, written: Written) -> None:
    """Write into a claim what it will be measured with. Raises FoveaError where that can show nothing."""
    check_unseen(chain, written)
    document = tomlkit.parse(written.path.read_text())
    document["sealed"] = inputs_of(chain, written.claim)
    write_whole(written.path, tomlkit.dumps(document).encode())


def differences(chain: Chain, claim: Claim) -> list[str]:
    """What is not as it was sealed, in words. Raises FoveaError where this cannot be said."""
    if not claim.sealed:
        return ["not sealed: fovea claims seal FILE writes down what it will be measured with"]
    now = inputs_of(chain, claim)
    if now.keys() != claim.sealed.keys():
        return ["the sweep's experiments are others"]
    return sorted({line for unit, inputs in claim.sealed.items() for line in explain(inputs, now[unit])})


def outcome(written: Written, rates: pd.DataFrame, commit: str) -> Outcome:
    """rates: as `bd_rates` gives them for the claim's sweep. Raises FoveaError for a comparison that is not among them, or was
    refused."""
    claim = written.claim
    asked = claim.model_dump(include={"codec", "metric", "preset", "variant"})
    asked |= {"dataset": claim.sweep.partition(".")[0], "anchor_arm": claim.against, "method": METHOD}
    rows = [
        r
        for r in records(rates)
        if all(wanted in (None, r[name]) for name, wanted in asked.items())
        and label_arm(r["test_arm"], r["maps"]) == claim.arm
    ]
    compared = f"{claim.arm} with {claim.against} on {claim.metric}"
    if not rows:
        raise FoveaError(f"{written.path}: {claim.sweep} compares no {compared}")
    if len(rows) > 1:
        several = " and ".join(str([r["preset"], r["variant"], r["split"]]) for r in rows)
        raise FoveaError(
            f"{written.path}: {claim.sweep} compares {compared} more than once; a claim is about one: set preset or variant, "
            f"of {several} (preset, variant, split)"
        )
    row = rows[0]
    if not math.isfinite(row["ci_low"]):
        raise FoveaError(f"{written.path}: the comparison was refused: {row['reason'] or 'no interval'}")
    check_known(written, int(row["n_trained_on"]), int(row["n_images"]))
    numbers = {k: round(float(row[k]), 3) for k in ("bd_rate_percent", "ci_low", "ci_high")}
    held = claim.least <= numbers["ci_low"] and numbers["ci_high"] <= claim.most
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    return Outcome(written.digest, date, commit, **numbers, n_images=int(row["n_images"]), held=held)


def keep_outcome(written: Written, found: Outcome) -> None:
    """Append a run to the claim's record."""
    runs = [run._asdict() for run in (*written.runs, found)]
    write_whole(written.path.with_suffix(".json"), (json.dumps(runs, indent=1) + "\n").encode())


def table(claims: Sequence[Written]) -> str:
    """Markdown, a row for each claim that was run, what saves most first."""
    lines = ["| claim, written down before the run | expected | found | |", "|---|---|---|---|"]
    for w, run in _run(claims):
        found = f"{with_interval(run._asdict())}, {counted(run.n_images)}"
        again = f"; run {1 + w.runs.index(run)}, after a first under another setting" if w.edited else ""
        lines.append(f"| {w.claim.says} | {w.claim.bound} | {found} | {run.word}{again} |")
    return "\n".join(lines).replace("\u202f", " ").replace("\u00a0", " ") + "\n"


def shown(config: Path, sweep: str) -> list[Mapping[str, Any]]:
    """The claims about a sweep that were run, for a page: says, bound, found, word; what saves most first. A file that is no
    claim is left to `fovea claims check`: it stops no report."""
    claims = []
    for path in _files(config):
        with contextlib.suppress(FoveaError):
            claims.append(read_claim(path))
    return [
        {"says": w.claim.says, "bound": w.claim.bound, "found": with_interval(run._asdict()), "word": run.word}
        for w, run in _run(claims)
        if w.claim.sweep == sweep
    ]


def _run(claims: Sequence[Written]) -> list[tuple[Written, Outcome]]:
    """Those that were run, what saves most first."""
    return sorted(((w, w.run) for w in claims if w.run), key=lambda pair: pair[1].bd_rate_percent)
