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
