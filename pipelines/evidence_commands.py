"""`fovea compare`, `fovea curves`, `fovea evaluate`: what is held against what. Heavy imports wait until they are needed."""

import sys
from pathlib import Path

import click


@click.command()
@click.argument("first")
@click.argument("second")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=None,
    help="The page to write; default: FOVEA_HOME/reports/compare/.",
)
def compare(first: str, second: str, output: Path | None) -> None:
    """Hold two sweeps against each other, curve by curve: did a change help?

    \b
    FIRST and SECOND are DATASET.SWEEP; DATASET.SWEEP~1 is that sweep as its tables were made before the current time
    (~2: before that), and a kept table of points (tables/rd_points.parquet or .csv) will do, too.
      fovea compare sample.smoke~1 sample.smoke      before and after a change
      fovea compare osie.smoke osie.seed             two sweeps on the same pictures
    Below 0, SECOND needs fewer bits for the same quality. Exit code 1 when no two curves can be compared.
    """
    import re

    from assets.evaluation.compare import compare_points, sentences
    from assets.evaluation.compare_page import render_comparison
    from assets.evaluation.sides import read_side
    from assets.evaluation.summary import compare_lines
    from assets.home import written_beside
    from models.errors import FoveaError
    from pipelines.cli import open_chain

    chain = open_chain(tracking=False)
    before, after = read_side(chain, first), read_side(chain, second)
    rates, points = compare_points(
        before.points, after.points, list_only_before=before.whole, list_only_after=after.whole
    )
    if rates.empty:
        raise FoveaError(f"{first} and {second} have no curve in common, or only the same classical codecs")
    page = render_comparison(
        first={"name": before.name, "about": before.about},
        second={"name": after.name, "about": after.about},
        before=before.points,
        after=after.points,
        rates=rates,
        points=points,
    )
    names = [re.sub(r"[^\w.~-]+", "_", Path(n).name) for n in (first, second)]
    target = output or chain.home.reports / "compare" / f"{names[0]}-{names[1]}.html"
    with written_beside(target) as beside:
        beside.write_text(page, encoding="utf-8")
    click.echo(compare_lines(rates) + "\n")
    for text in sentences(rates, points):
        click.echo(text)
    click.echo(f"\npage    {target}")
    if not (rates.status != "refused").any():
        sys.exit(1)
