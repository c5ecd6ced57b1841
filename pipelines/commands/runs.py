"""`fovea run`, `status`, `saliency-benchmark`: what makes units, or says which are stale."""

import contextlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from models.errors import FoveaError
from pipelines.commands import options
from pipelines.commands.options import COUNT, chain_here, sweep_of

if TYPE_CHECKING:
    from assets.chain import Chain
    from assets.graph import Made
    from pipelines.plan import Step


USUAL = ("jpeg", "webp")
"""Conventional codecs that a run's summary always holds guided arms against."""
ALIKE = 3
"""Units of a stage that `status` lists, where all are stale for the same reason."""


def _made(chain: "Chain", stage: str, partition: str) -> "Made | None":
    from assets.graph import Waiting

    try:
        return chain.made(stage, partition)
    except Waiting:
        return None


@click.command()
@options.dataset
@options.sweep()
@options.threads
@options.device
@click.option(
    "--parallel",
    default=0,
    envvar="FOVEA_PARALLEL",
    type=COUNT,
    help="Steps at once. Default: `parallel` of the profile, else one for each GPU, one without. More than GPUs: several "
    "share one. Without --threads each has its part of the cores, and its bits are those of so many threads.",
)
@click.option("--frames-only", is_flag=True, help="Stop at the packed frames of --dataset: no codec, no table.")
@click.option("--peers", is_flag=True, help="Print the conventional codecs' numbers, too.")
def run(
    dataset: str, sweep_name: str, threads: int, device: str, parallel: int, frames_only: bool, peers: bool
) -> None:
    """Make what is stale of a sweep, and only that: frames, maps, codecs, tables, report.

    \b
    Prints the arms' points and BD-rates, what they say in a sentence, and where report and UIs are.
    Exit code 1 when something failed; what does not depend on it is made all the same.
    """
    chain = chain_here(threads, device)
    if frames_only:
        chain.world.dataset(dataset)
        failed = make_stale(
            chain, dataset, chain.upstream(("rgba_frames", dataset)), threads=threads, parallel=parallel
        )
        if made := _made(chain, "rgba_frames", dataset):
            click.echo(f"frames  {made.facts['frames']}, listed in {made.folder / 'rgba.parquet'}")
    else:
        sweep = sweep_of(chain, sweep_name, dataset)
        _check_sweep(chain, sweep)
        failed = make_stale(
            chain, sweep.key, chain.upstream(("report", sweep.key)), sweep.key, threads=threads, parallel=parallel
        )  # fmt: skip
        _summary(chain, sweep.key, peers)
    say_quarantined(chain, dataset)
    if failed:
        sys.exit(1)


def _check_sweep(chain: "Chain", sweep: Any) -> None:
    """Raises FoveaError before anything is made when a folder is gone, a dataset has no picture to measure or to train on, or
    a trunk no such rate."""
    from assets.evaluation.pieces import measured_split
    from assets.graph import Waiting
    from models.codecs.catalogue import config_for
    from models.mechanisms import LEVELLED

    for dataset in sorted({sweep.dataset, *(d for e in sweep.experiments for d in e.evaluate_on)}):
        with contextlib.suppress(Waiting):
            measured_split(chain.given, chain.world, dataset)
    levelled = any(e.mechanism in LEVELLED for e in sweep.experiments)
    way = 'trunk = "none"' + (" and variable = true, two rates or more" if levelled else "")
    for e in sweep.experiments:
        levels = config_for(e).lmbda if e.trunk and e.rate_name == "lmbda" else e.rates
        if outside := [r for r in e.rates if not min(levels) * 0.999999 <= r <= max(levels) * 1.000001]:
            raise FoveaError(
                f"sweep {sweep.name!r}: {e.codec} cannot have rate {outside[0]:g}: the trunk {e.trunk.key} that it starts from "
                f"was trained for {min(levels):g} … {max(levels):g}; choose `rates` within, or start without: {way}"
            )
    for dataset in sorted({e.dataset for e in sweep.experiments if not e.untrained}):
        with contextlib.suppress(Waiting):
            files = chain.given["source_frames", dataset].part("files")
            if not ((files["split"] == "train") & (files["status"] == "ok")).any():
                raise FoveaError(
                    f"dataset {dataset!r} has no training picture, and sweep {sweep.name!r} trains: measure what is trained "
                    f"already with `fovea benchmark --dataset {dataset}`, or {chain.world.dataset(dataset).way_to('train')}"
                )


def say_quarantined(chain: "Chain", dataset: str) -> None:
    """Pictures that could not be decoded, by name."""
    from assets.registration import undecoded

    for broken in undecoded(chain, dataset):
        options.warn(f"quarantined {broken['image']}: {broken['reason']}")


def make_stale(
    chain: "Chain",
    name: str,
    wanted: list[tuple[str, str]],
    sweep_key: str = "",
    *,
    threads: int = 0,
    parallel: int = 1,
) -> int:
    """Make what is stale of the targets as Dagster runs, with progress; returns how many failed. parallel: steps at once;
    0: what the profile says, else one for each GPU. Raises FoveaError as `check_eyes`."""
    from pipelines.plan import plan

    work = [step for step in plan(chain, wanted) if step.stale or step.again]
    if not work:
        chain.tracker.flush()  # what waited for MLflow's server
        click.echo(f"{name}: everything is up to date, nothing to run")
        return 0
    options.check_eyes(chain, [step.name for step in work])
    from pipelines.instance import prepare_instance
    from pipelines.launch import one_run_at_a_time, run_targets
    from pipelines.schedules import sweep
    from pipelines.terminal import Board

    with one_run_at_a_time(chain.home):
        prepare_instance(chain.home)
        at_once = parallel or _parallel(chain)
        with Board(len(work), parallel=min(at_once, len(work))) as board:
            how: dict[str, Any] = {"threads": threads, "parallel": at_once, "steps": len(work)}
            outcome = run_targets(chain, wanted, sweep, sweep=sweep_key, show=board.show, **how)
        chain.tracker.flush()
    click.echo(
        f"{outcome.made} made, {outcome.found} already there, {outcome.failed} failed, {outcome.skipped} skipped"
    )
    for message in outcome.messages:
        click.secho(f"failed: {message}", fg="red", err=True)
    return outcome.failed


def _parallel(chain: "Chain") -> int:
    """Steps at once where nobody says: the profile's number, else one for each GPU."""
    if chain.home.profile.parallel:
        return chain.home.profile.parallel
    if chain.device not in ("auto", "cuda"):
        return 1
    from pipelines.workers import gpus

    return max(1, len(gpus()))


def _summary(chain: "Chain", key: str, peers: bool) -> None:
    """Report and tables where people look for them, also when somebody deleted them there; and what they say where a codec
    of the sweep is among them. peers: with the numbers of codecs from elsewhere."""
    if report := _made(chain, "report", key):
        from assets.evaluation.report_stage import publish

        publish(chain, report)
    rates, curves = _made(chain, "bd_rates", key), _made(chain, "rd_curves", key)
    if not rates or not curves:
        return
    from assets.evaluation.palette import cast_of
    from pipelines.addresses import address, ports_of

    if cast_of(curves.table("rd_curves.parquet")).codecs or peers:
        _print_tables(curves, rates, peers)
    click.echo(f"report  {(chain.home.reports / f'{key}.html').as_uri()}")
    click.echo(f"tables  {chain.home.tables}")
    if table := chain.tracker.table_url(chain.tracker.run_id(f"sweep {key}"), key):
        click.echo(f"MLflow  {table}")
    click.echo(f"UIs     fovea ui   (Dagster at {address(ports_of(chain.home.state).dagster)})")


def _print_tables(curves: "Made", rates: "Made", peers: bool) -> None:
    from assets.evaluation.bd_rate import kind_of
    from assets.evaluation.palette import cast_of
    from assets.evaluation.report_tables import answers
    from assets.evaluation.summary import bd_lines, curve_lines, shortened

    points, found, common = shortened(curves.table("rd_curves.parquet"), rates.table("bd_rates.parquet"))
    shown = found
    if not peers and len(codecs := cast_of(points).codecs):
        points = points[points["codec"].isin(codecs)]
        usual = (found["maps"] == "predicted") & found["anchor_arm"].isin(USUAL)
        compared = zip(usual, found["test_arm"], found["anchor_arm"], strict=True)
        shown = found[[always or kind_of(test, anchor) != "others" for always, test, anchor in compared]]
    click.echo("\n" + curve_lines(points))
    click.echo("\n" + bd_lines(shown))
    if len(shown) < len(found):
        click.echo("(against all conventional codecs: in the report, or with --peers)")
    if common:
        click.echo(common)
    click.echo()
    for sentence in answers(found):
        click.secho(sentence, bold=True)


@click.command()
@options.dataset
@options.sweep()
@click.option("--all", "everything", is_flag=True, help="List each unit, and what is up to date, too.")
@click.option("--keys", is_flag=True, help="List the sweep's experiment keys (for fovea train) and stop.")
def status(dataset: str, sweep_name: str, everything: bool, keys: bool) -> None:
    """Say what is stale, and why. Computes nothing. Exit code 0 when all is up to date, 2 when something is stale."""
    from pipelines.plan import plan

    chain = chain_here(tracking=False)
    sweep = sweep_of(chain, sweep_name, dataset)
    if keys:
        for experiment in sweep.experiments:
            click.echo(experiment.key)
        return
    _check_sweep(chain, sweep)
    wanted = chain.upstream(("report", sweep.key))
    steps = plan(chain, wanted)
    work = [step for step in steps if step.stale]
    for (stage, word, why), units in _alike(steps if everything else work).items():
        shown = units if everything or len(units) <= ALIKE else [f"{units[0]} and {len(units) - 1} more"]
        for unit in shown:
            click.echo(f"{word}  {stage} {unit}{f': {why}' if why else ''}")
    if not work:
        back = sum(step.again for step in steps)
        more = f"; {back} of its results were made before others: fovea run brings tables and pages back to them"
        click.echo(f"{sweep.key}: up to date{more if back else ''}")
        return
    click.echo(f"{sweep.key}: {len(work)} of {len(dict.fromkeys(wanted))} units are stale")
    sys.exit(2)


def _alike(steps: Sequence["Step"]) -> dict[tuple[str, str, str], list[str]]:
    """Partitions by stage, by whether they are stale, and why."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for step in steps:
        found.setdefault((step.stage, "stale" if step.stale else "fresh", step.why), []).append(step.partition)
    return found


@click.command("saliency-benchmark")
@click.argument("dataset")
@options.threads
@options.device
def saliency_benchmark(dataset: str, threads: int, device: str) -> None:
    """How well each saliency model predicts where people looked on DATASET: a table with 95 % intervals.

    \b
    On its test pictures (else val). DATASET needs recorded eye movements (fovea datasets add … --fixations TABLE).
    Every model that is here is in: SAM-VGG and SAM-ResNet once their weights are (fovea saliency-weights), and what
    you trained (fovea train DATASET.sam_lite). `human`: half of the people predict the other half.
    """
    from assets.saliency.fixations import fixation_table

    chain = chain_here(threads, device)
    fixation_table(chain.world.dataset(dataset))
    wanted = [*chain.upstream(("fixation_maps", dataset)), ("saliency_benchmark", dataset)]
    failed = make_stale(chain, f"saliency benchmark of {dataset}", wanted)
    made = _made(chain, "saliency_benchmark", dataset)
    if made:
        from assets.evaluation.numerals import counted

        facts = made.facts
        click.echo(f"\n{dataset}, {facts['split']}: {counted(facts['pictures'])}, means with 95 % intervals\n")
        click.echo((made.folder / "shown" / "benchmark.md").read_text())
        click.echo(f"table   {chain.home.tables / 'saliency_benchmark.parquet'}")
    if failed or not made:
        sys.exit(1)
