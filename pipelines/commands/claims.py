"""`fovea claims`: what was expected before it was measured."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from models.errors import FoveaError
from pipelines.commands import options
from pipelines.commands.options import PATH, chain_here, threads

if TYPE_CHECKING:
    from assets.chain import Chain
    from assets.evaluation.claims import Outcome, Written

FILES = click.argument("files", nargs=-1, type=PATH)


@click.group(cls=options.Group)
def claims() -> None:
    """What a measurement is expected to show, written down before it is made.

    \b
    A claim is a TOML file in results/claims/ or FOVEA_CONFIG/claims/ (docs/experiments.md):
      fovea claims seal FILE     writes into it code, weights and pictures that it will be measured with; then commit it
      fovea claims run FILE      makes what is stale of its sweep and keeps whether the claim held
      fovea claims check         each claim's outcome; exit code 1 when one is not what was run
    """


def _written(chain: "Chain", files: tuple[Path, ...]) -> "list[Written]":
    from assets.evaluation.claims import all_claims, read_claim

    return [read_claim(path) for path in files] or all_claims(chain.home.config)


@claims.command()
@FILES
@click.option(
    "--anew",
    is_flag=True,
    help="Seal a claim that was run once more, as it stands, for the code and weights of today; its outcomes go (Git keeps "
    "them).",
)
@threads
def seal(files: tuple[Path, ...], anew: bool, threads: int) -> None:
    """Write down what claims will be measured with: inputs of the units on both sides. Without FILES: of all that were
    not run."""
    from assets.evaluation.claims import seal, units_of
    from pipelines.commands.runs import make_stale

    chain = chain_here(threads, tracking=False)
    for written in _written(chain, files):
        if written.runs and not (files or anew):
            continue
        if written.runs and (not anew or written.run is None):
            edited = ", and edited after that" if written.run is None else " (for other code or weights: --anew)"
            raise FoveaError(
                f"{written.path} was run already{edited}; a claim under another setting is a file of its own"
            )
        units = set(units_of(chain, written.claim))
        before = [step for step in chain.upstream(*units) if step not in units]
        if make_stale(chain, f"what {written.name} is measured on", before, threads=threads):
            raise FoveaError(f"{written.path}: what it is measured on could not be made; what failed is said above")
        chain.forget()
        seal(chain, written)
        written.path.with_suffix(".json").unlink(missing_ok=True)
        click.echo(f"sealed {written.path}: commit it, then fovea claims run {written.path}")


@claims.command()
@FILES
@threads
def run(files: tuple[Path, ...], threads: int) -> None:
    """Measure what is stale of the claims' sweeps, and keep whether they held."""
    from assets.evaluation import claims
    from assets.evaluation.tables import latest_table
    from assets.versions import commit
    from pipelines.commands.runs import make_stale

    chain = chain_here(threads)
    todo = [w for w in _written(chain, files) if w.run is None]
    for written in todo:
        if wrong := claims.differences(chain, written.claim):
            raise FoveaError(f"{written.path}: {'; '.join(wrong)}")
    for written in todo:
        sweep = written.claim.sweep
        if make_stale(chain, sweep, chain.upstream(("report", sweep)), sweep, threads=threads):
            raise FoveaError(f"{sweep} could not be made; what failed is said above")
        chain.forget()
        found = claims.outcome(written, latest_table(chain, "bd_rates", sweep), commit())
        claims.keep_outcome(written, found)
        _tell(chain, written, found)
    _say(chain, [claims.read_claim(w.path) for w in todo])
    for sweep in dict.fromkeys(w.claim.sweep for w in todo):
        make_stale(chain, sweep, [("report", sweep)], sweep, threads=threads)


def _tell(chain: "Chain", written: "Written", found: "Outcome") -> None:
    dataset = written.claim.sweep.partition(".")[0]
    key = f"claim {written.name} {written.digest[:12]}"
    told = chain.tracker.run(experiment=f"fovea-{dataset}", name=f"claim {written.name}", key=key)
    told.log_params({k: v for k, v in written.claim.model_dump().items() if k != "sealed"})
    told.log_metrics([(0, {k: float(v) for k, v in found._asdict().items() if isinstance(v, float | int)})])
    note = f"{written.claim.says} Expected: {written.claim.bound}. It {found.word}."
    told.set_tags({"fovea.claim": found.word, "mlflow.note.content": note})
    told.finish()
    chain.tracker.flush()


@claims.command()
@FILES
def check(files: tuple[Path, ...]) -> None:
    """Say of each claim whether it held, and whether code, weights, pictures and the claim itself are still those of
    the run."""
    chain = chain_here(tracking=False)
    if _say(chain, _written(chain, files)):
        sys.exit(1)


def _say(chain: "Chain", written: "list[Written]") -> int:
    """A line for each claim; how many are not what was run."""
    from assets.evaluation.claims import differences
    from assets.evaluation.numerals import with_interval

    wrong = 0
    for w in written:
        notes: list[str] = []
        if w.edited:
            notes.append(
                "edited after its run" if w.run is None else f"run {1 + w.runs.index(w.run)}, edited after the first"
            )
        if w.claim.sweep not in chain.world.sweeps:
            notes.append(f"the pictures of {w.claim.sweep} are not here to check")
        else:
            found = differences(chain, w.claim)
            wrong += bool(found) or w.edited
            notes += found
        said = f"{w.run.word}: {with_interval(w.run._asdict())}" if w.run else "not run"
        click.echo(f"{w.name}: {said} ({w.claim.bound} expected){'; ' + '; '.join(notes) if notes else ''}")
    if not written:
        click.echo("no claim is here: results/claims/ and FOVEA_CONFIG/claims/ have none")
    return wrong


@claims.command()
def table() -> None:
    """All claims that were run, as Markdown."""
    from assets.evaluation.claims import all_claims, table

    click.echo(table(all_claims(chain_here(tracking=False).home.config)), nl=False)
