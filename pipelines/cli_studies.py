"""`fovea game` and `fovea study`: pages on which people look at pictures, and what becomes of their answers."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from assets.chain import Chain

ChainOf = Callable[..., "Chain"]


@click.command()
@click.option("--dataset", default="sample", show_default=True, help="A registered dataset.")
@click.option("--codec", "codecs", multiple=True, help="Only the forgers of this codec; may be repeated.")
@click.option(
    "--experiment",
    "keys",
    multiple=True,
    metavar="KEY",
    help="A training's or a trunk's key; may be repeated.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=None,
    help="Default: DATASET.game.html in reports.",
)
@click.option(
    "--budget-mb",
    default=6.0,
    show_default=True,
    type=click.FloatRange(min=0.1),
    help="Size of the pictures.",
)
@click.pass_obj
def game(
    chain_of: ChainOf,
    dataset: str,
    codecs: tuple[str, ...],
    keys: tuple[str, ...],
    output: Path | None,
    budget_mb: float,
) -> None:
    """Detective or forger: one HTML page on which people tell photos from a codec's pictures while it learns.

    \b
    Levels are checkpoints of real trainings, kept when they ran; nothing is trained or measured here.
      fovea train $(fovea status --sweep game --keys)   a training that begins with grey, minutes
      fovea game -o game.html                           works offline, by keyboard and touch
    """
    from assets.home import written_beside
    from assets.studies.forgers import begins_good, find_forgers
    from assets.studies.game import render_game

    chain = chain_of(tracking=False)
    _no_folder(output)
    forgers = find_forgers(chain, dataset, keys=keys, codecs=codecs)
    html = render_game(forgers, dataset=dataset, budget_bytes=int(budget_mb * 1e6))
    target = output or chain.home.reports / f"{dataset}.game.html"
    with written_beside(target) as beside:
        beside.write_text(html, encoding="utf-8")
    for forger in forgers:
        steps = ", ".join(str(s.step) for s in forger.stages)
        click.echo(f"{forger.codec}: {len(forger.originals)} crops at steps {steps} ({forger.key})")
        if begins_good(forger):
            click.secho(
                f"{forger.key} started from finished weights: its first level is as hard as its last. `fovea train "
                "$(fovea status --sweep game --keys)` trains a forger that begins with nothing",
                fg="yellow",
                err=True,
            )
    click.echo(f"{target}: {len(html) / 1e6:.1f} MB")
    if len(html) > 1.5e6 * budget_mb:
        click.secho(
            f"that is more than --budget-mb {budget_mb:g}, with pictures as small as they can be: name fewer trainings "
            "(--experiment)",
            fg="yellow",
            err=True,
        )


def _no_folder(output: Path | None) -> None:
    from models.errors import FoveaError

    if output is not None and output.is_dir():
        raise FoveaError(f"{output} is a folder: name the file to write, for example {output / 'page.html'}")


@click.group()
def study() -> None:
    """Which of two arms do people prefer at matched bpp? A two-alternative study as one HTML page, and its answers."""


@study.command("make")
@click.option("--dataset", default="sample", show_default=True, help="A registered dataset.")
@click.option("--sweep", "sweep_name", default="smoke", show_default=True, help="A sweep that was run on it.")
@click.option(
    "--arms",
    required=True,
    metavar="A,B",
    help="Two arms, such as uniform,saliency_gain or saliency_gain@center,webp.",
)
@click.option("--codec", default="", help="The learned codec, where the sweep has several.")
@click.option("--variant", default=None, help="The variant (column of rd_points), where an arm has several.")
@click.option(
    "--pairs", default=24, show_default=True, type=click.IntRange(1, 500), help="Pairs of pictures."
)
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(min=0), help="What is drawn, in which order."
)
@click.option(
    "--tolerance",
    default=0.05,
    show_default=True,
    type=click.FloatRange(0, 0.5),
    help="By which share of their mean the two bpp of a pair may differ.",
)
@click.option(
    "--budget-mb",
    default=30.0,
    show_default=True,
    type=click.FloatRange(min=0.1),
    help="Size of the pictures.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=None, help="Default: in reports.")
@click.pass_obj
def study_make(
    chain_of: ChainOf,
    dataset: str,
    sweep_name: str,
    arms: str,
    codec: str,
    variant: str | None,
    pairs: int,
    seed: int,
    tolerance: float,
    budget_mb: float,
    output: Path | None,
) -> None:
    """Write the page: pairs of pictures at matched bpp, the original beside them, and catch trials.

    \b
    Give the file to people; each saves a file of answers for `fovea study import`. The design is kept in
    FOVEA_CONFIG/studies. #participant=NAME after the page's address names a participant.
    """
    from assets.home import written_beside
    from assets.studies.answers import keep_design
    from assets.studies.study import design, reconstructions, render_study
    from models.errors import FoveaError

    named = tuple(a.strip() for a in arms.split(","))
    if len(named) != 2 or not all(named):
        raise FoveaError(
            f"--arms {arms!r}: name two arms with a comma between them, such as uniform,saliency_gain"
        )
    chain = chain_of(tracking=False)
    _no_folder(output)
    said, matches = design(
        chain,
        dataset,
        sweep_name,
        (named[0], named[1]),
        pairs=pairs,
        seed=seed,
        tolerance=tolerance,
        codec=codec,
        variant=variant,
    )
    html = render_study(said, reconstructions(chain, dataset, matches), budget_bytes=int(budget_mb * 1e6))
    target = output or chain.home.reports / f"{dataset}.{sweep_name}.study-{said['study']}.html"
    with written_beside(target) as beside:
        beside.write_text(html, encoding="utf-8")
    kept = keep_design(chain.home.config, said)
    for image, why in said["refused"].items():
        click.secho(f"refused {image}: {why}", fg="yellow", err=True)
    if len(matches) < pairs:
        click.secho(f"{len(matches)} of the {pairs} pairs asked for could be matched", fg="yellow", err=True)
    click.echo(
        f"study {said['study']}: {len(matches)} pairs on {len({m.image for m in matches})} pictures, {len(said['catch'])} catch "
        f"trials; {named[1]} costs {100 * said['mean_difference']:+.2f} % bpp on average (each pair within {100 * tolerance:g} %)"
    )
    click.echo(f"page    {target} ({len(html) / 1e6:.1f} MB)\ndesign  {kept}")


@study.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.pass_obj
def study_import(chain_of: ChainOf, files: tuple[Path, ...]) -> None:
    """Take in files of answers (JSON or CSV), and say what people prefer.

    \b
    All files are checked before one is kept; the same answers are kept once. People who did no better on
    the catch trials than one guesser in sixteen does are dropped, by their random name. Intervals: Wilson for one
    participant, for several a bootstrap over participants and pictures, never narrower than Student's over participants.
    """
    from assets.studies.answers import import_answers
    from assets.studies.results import TABLE, result_lines, study_result, tell, write_preferences

    chain = chain_of()
    studies, fresh, known = import_answers(chain.home.config, files)
    click.echo(f"{fresh} taken in, {known} already there")
    write_preferences(chain)
    for name in studies:
        tell(chain, name)
        table, dropped = study_result(chain, name)
        click.echo("\n" + result_lines(table, dropped))
    chain.tracker.flush()
    click.echo("\ncounted: who got so many catch trials right that one guesser in sixteen would, at most")
    click.echo(f"table   {chain.home.tables / f'{TABLE}.parquet'}")


@study.command("results")
@click.pass_obj
def study_results(chain_of: ChainOf) -> None:
    """Every study's result again, and its table: from the answers that are kept."""
    from assets.studies.answers import known_studies
    from assets.studies.results import TABLE, result_lines, study_result, write_preferences
    from models.errors import FoveaError

    chain = chain_of(tracking=False)
    studies = known_studies(chain.home.config)
    if not studies:
        raise FoveaError("no study was made here: fovea study make --arms A,B")
    write_preferences(chain)
    for name in studies:
        click.echo(result_lines(*study_result(chain, name)) + "\n")
    click.echo(f"table   {chain.home.tables / f'{TABLE}.parquet'}")
