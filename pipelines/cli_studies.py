"""`fovea game` and `fovea study`: pages on which people look at pictures, and what becomes of their answers."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from assets.chain import Chain

ChainOf = Callable[..., "Chain"]
_dataset = click.option("--dataset", default="sample", show_default=True, help="A registered dataset.")
_output = click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Default: in reports."
)


def _write_page(target: Path, html: str) -> None:
    from assets.home import written_beside

    with written_beside(target) as beside:
        beside.write_text(html, encoding="utf-8")
    click.echo(f"page    {target} ({len(html) / 1e6:.1f} MB)")


def _warn(text: str) -> None:
    click.secho(text, fg="yellow", err=True)


@click.command()
@_dataset
@click.option("--experiment", "key", default="", metavar="KEY", help="A training's or a trunk's key.")
@_output
@click.pass_obj
def game(chain_of: ChainOf, dataset: str, key: str, output: Path | None) -> None:
    """Detective or forger: one HTML page on which people tell photos from a codec's pictures while it learns.

    \b
    Levels are checkpoints of a real training, kept when it ran; nothing is trained or measured here.
      fovea train $(fovea status --sweep game --keys)   a training that begins with grey, minutes
      fovea game -o game.html                           works offline, by keyboard and touch
    """
    from assets.studies.game import find_forger, render_game

    chain = chain_of(tracking=False)
    forger = find_forger(chain, dataset, key)
    _write_page(output or chain.home.reports / f"{dataset}.game.html", render_game(forger))
    steps = ", ".join(str(stage["step"]) for stage in forger.said["stages"])
    click.echo(f"{len(forger.crops['original'])} crops at steps {steps} ({forger.key})")
    if forger.begins_good:
        _warn(
            f"{forger.key} started from finished weights: its first level is as hard as its last. `fovea train $(fovea status "
            "--sweep game --keys)` trains a forger that begins with nothing"
        )


@click.group()
def study() -> None:
    """Which of two arms do people prefer at matched bpp? A two-alternative study as one HTML page, and its answers."""


@study.command("make")
@_dataset
@click.option("--sweep", "sweep_name", default="smoke", show_default=True, help="A sweep that was run on it.")
@click.option(
    "--arms", required=True, metavar="A,B", help="Such as uniform,saliency_gain@center or uniform,webp."
)
@click.option("--codec", help="The learned codec, where the sweep has several.")
@click.option("--variant", help="The variant (column of rd_points), where an arm has several.")
@click.option(
    "--pairs", default=24, show_default=True, type=click.IntRange(1, 500), help="Pairs of pictures."
)
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0), help="What is drawn, in which order."
)
@click.option(
    "--tolerance",
    default=0.05,
    show_default=True,
    type=click.FloatRange(0, 0.5),
    help="Share by which bpp may differ.",
)
@_output
@click.pass_obj
def study_make(
    chain_of: ChainOf, /, dataset: str, sweep_name: str, arms: str, output: Path | None, **which: Any
) -> None:
    """Write the page: pairs of pictures at matched bpp, the original beside them, and catch trials.

    \b
    Give the file to people; each saves a file of answers for `fovea study import`. The design is kept in
    FOVEA_CONFIG/studies. #participant=NAME after the page's address names a participant.
    """
    from assets.studies.design import keep_design
    from assets.studies.study import make_design, reconstructions, render_study
    from models.errors import FoveaError

    first, second = (part.strip() for part in arms.split(",")) if arms.count(",") == 1 else ("", "")
    if not first or not second:
        raise FoveaError(
            f"--arms {arms!r}: name two arms with a comma between them, such as uniform,saliency_gain"
        )
    chain = chain_of(tracking=False)
    design = make_design(chain, dataset, sweep_name, (first, second), **which)
    name = f"{dataset}.{sweep_name}.study-{design.study}.html"
    _write_page(output or chain.home.reports / name, render_study(design, reconstructions(chain, design)))
    click.echo(f"design  {keep_design(chain.home.config, design)}")
    for image, why in design.refused.items():
        _warn(f"refused {image}: {why}")
    if len(design.pairs) < which["pairs"]:
        _warn(f"{len(design.pairs)} of the {which['pairs']} pairs asked for could be matched")
    click.echo(
        f"study {design.study}: {len(design.pairs)} pairs on {len({p.image for p in design.pairs})} pictures, "
        f"{len(design.catch)} catch trials; {second} costs {100 * design.mean_difference:+.2f} % bpp on average "
        f"(each pair within {100 * design.tolerance:g} %)"
    )


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
    from assets.studies.preferences import tell

    chain = chain_of()
    studies, fresh, known = import_answers(chain.home.config, files)
    click.echo(f"{fresh} taken in, {known} already there")
    _results(chain, studies)
    for name in studies:
        tell(chain, name)
    chain.tracker.flush()


@study.command("results")
@click.pass_obj
def study_results(chain_of: ChainOf) -> None:
    """Every study's result again, and its table: from the answers that are kept."""
    from assets.studies.design import known_studies
    from models.errors import FoveaError

    chain = chain_of(tracking=False)
    studies = known_studies(chain.home.config)
    if not studies:
        raise FoveaError("no study was made here: fovea study make --arms A,B")
    _results(chain, studies)


def _results(chain: "Chain", studies: Iterable[str]) -> None:
    from assets.studies.preferences import TABLE, result_lines, study_result, write_preferences

    write_preferences(chain)
    for name in studies:
        click.echo("\n" + result_lines(*study_result(chain, name)))
    click.echo("\ncounted: who got so many catch trials right that one guesser in sixteen would, at most")
    click.echo(f"table   {chain.home.tables / f'{TABLE}.parquet'}")
