"""`fovea game` and `fovea study`: pages on which people look at pictures, and what becomes of their answers."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from models.errors import FoveaError
from pipelines.commands import options
from pipelines.commands.options import PATH, Number, chain_here, warn, write_page

if TYPE_CHECKING:
    from assets.studies.preferences import Result

OUTPUT = options.output("Default: in reports.", mark=options.PAGE)


def _keep_page(target: Path, html: str) -> None:
    write_page(target, html)
    click.echo(f"page    {target} ({len(html) / 1e6:.1f} MB)")


@click.command()
@options.dataset
@click.option("--experiment", "key", default="", metavar="KEY", help="A training's or a trunk's key.")
@OUTPUT
def game(dataset: str, key: str, output: Path | None) -> None:
    """Detective or forger: one HTML page on which people tell photos from a codec's pictures while it learns.

    \b
    Levels are checkpoints of a real training, kept when it ran; nothing is trained or measured here.
      fovea train $(fovea status --sweep game --keys)   a training that begins with grey, minutes
      fovea game -o game.html                           works offline, by keyboard and touch
    """
    from assets.studies.game import find_forger, render_game

    chain = chain_here(tracking=False)
    forger = find_forger(chain, dataset, key)
    _keep_page(output or chain.home.reports / f"{dataset}.game.html", render_game(forger))
    steps = ", ".join(str(stage["step"]) for stage in forger.said["stages"])
    click.echo(f"{len(forger.crops['original'])} crops at steps {steps} ({forger.key})")
    if forger.begins_good:
        warn(
            f"{forger.key} started from finished weights: its first level is as hard as its last. `fovea train $(fovea status "
            "--sweep game --keys)` trains a forger that begins with nothing"
        )


@click.group(cls=options.Group)
def study() -> None:
    """Which of two arms do people prefer at matched bpp? A two-alternative study as one HTML page, and its answers."""


@study.command("make")
@options.dataset
@options.sweep()
@click.option("--arms", required=True, metavar="A,B", help="Such as uniform,saliency_gain@center or uniform,webp.")
@click.option("--codec", help="The learned codec, where the sweep has several.")
@click.option("--variant", help="The variant (column of rd_points), where an arm has several.")
@click.option("--pairs", default=24, show_default=True, type=click.IntRange(1, 500), help="Pairs of pictures.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="What is drawn, in which order.")
@click.option(
    "--tolerance", default=0.05, show_default=True, type=Number(0, 0.5), help="Share by which bpp may differ."
)
@OUTPUT
def study_make(dataset: str, sweep_name: str, arms: str, output: Path | None, **which: Any) -> None:
    """Write the page: pairs of pictures at matched bpp, the original beside them, and catch trials.

    \b
    Give the file to people; each saves a file of answers for `fovea study import`. The design is kept in
    FOVEA_CONFIG/studies. #participant=NAME after the page's address names a participant.
    """
    from assets.studies.design import keep_design
    from assets.studies.study import make_design, reconstructions, render_study

    first, second = (part.strip() for part in arms.split(",")) if arms.count(",") == 1 else ("", "")
    if not first or not second:
        raise FoveaError(f"--arms {arms!r}: name two arms with a comma between them, such as uniform,saliency_gain")
    chain = chain_here(tracking=False)
    sweep = options.sweep_of(chain, sweep_name, dataset)
    design = make_design(chain, sweep, (first, second), **which)
    name = f"{sweep.key}.study-{design.study}.html"
    _keep_page(output or chain.home.reports / name, render_study(design, reconstructions(chain, design)))
    click.echo(f"design  {keep_design(chain.home.config, design)}")
    for image, why in design.refused.items():
        warn(f"refused {image}: {why}")
    if len(design.pairs) < which["pairs"]:
        warn(f"{len(design.pairs)} of the {which['pairs']} pairs asked for could be matched")
    click.echo(
        f"study {design.study}: {len(design.pairs)} pairs on {len({p.image for p in design.pairs})} pictures, "
        f"{len(design.catch)} catch trials; {second} costs {100 * design.mean_difference:+.2f} % bpp on average "
        f"(each pair within {100 * design.tolerance:g} %)"
    )


@study.command("import")
@click.argument("files", nargs=-1, required=True, type=PATH)
def study_import(files: tuple[Path, ...]) -> None:
    """Take in files of answers, and say what people prefer.

    \b
    All files are checked before one is kept; the same answers are kept once. People who did no better on
    the catch trials than one guesser in sixteen does are dropped, by their random name. Intervals: Wilson for one
    participant, for several a bootstrap over participants and pictures, never narrower than Student's over participants.
    """
    from assets.studies.answers import import_answers
    from assets.studies.preferences import tell, write_preferences

    chain = chain_here()
    studies, fresh, known = import_answers(chain.home.config, files)
    click.echo(f"{fresh} taken in, {known} already there")
    found = write_preferences(chain)
    _show(chain.home.tables, [found[name] for name in studies])
    for name in studies:
        tell(chain, found[name])
    chain.tracker.flush()


@study.command("results")
def study_results() -> None:
    """Every study's result again, and its table: from the answers that are kept."""
    from assets.studies.design import known_studies
    from assets.studies.preferences import write_preferences

    chain = chain_here(tracking=False)
    if not known_studies(chain.home.config):
        raise FoveaError("no study was made here: fovea study make --arms A,B")
    _show(chain.home.tables, write_preferences(chain).values())


def _show(tables: Path, results: Iterable["Result"]) -> None:
    from assets.studies.preferences import TABLE, result_lines

    for result in results:
        click.echo("\n" + result_lines(result))
    click.echo("\ncounted: who got so many catch trials right that one guesser in sixteen would, at most")
    click.echo(f"table   {tables / f'{TABLE}.parquet'}")
