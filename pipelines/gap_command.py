"""`fovea gaps`: training against held-out pictures. Heavy imports wait until they are needed."""

from pathlib import Path

import click


@click.command()
@click.option("--dataset", default="sample", show_default=True, help="A registered dataset.")
@click.option(
    "--sweep",
    "sweep_name",
    default="gan",
    show_default=True,
    help="A sweep of models/sweeps.toml or fovea.toml.",
)
@click.option(
    "--pictures", default=48, show_default=True, type=click.IntRange(2), help="Of each part, at most."
)
@click.option(
    "--classical/--no-classical", default=True, help="With AVIF, WebP and a thumbnail at about the same bits."
)
@click.option(
    "--threads",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="Of torch, and classical files at once.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=None, help="Also write the table as Markdown."
)
def gaps(
    dataset: str, sweep_name: str, pictures: int, classical: bool, threads: int, output: Path | None
) -> None:
    """Training against held-out pictures for each trained experiment of a sweep: PSNR, perceptual distance, patch KID.

    \b
      fovea gaps --sweep gan --dataset street           beside AVIF, WebP and a thumbnail at about the same bits
      fovea gaps --sweep gan-faults --dataset street    what each fault of the public GAN port does
    Writes FOVEA_HOME/tables/generalisation.DATASET.SWEEP.{csv,parquet} and reports/DATASET.SWEEP.generalisation.html.
    """
    import torch

    from assets.evaluation.generalisation import generalisation, kept_crops
    from assets.evaluation.generalisation_page import markdown, page
    from assets.home import written_beside
    from models.errors import FoveaError

    def show(done: float, total: float, note: str = "") -> None:
        click.echo(f"{done:g}/{total:g} {note}", err=True)

    chain = click.get_current_context().find_root().obj(0, tracking=False)
    chain.dataset(dataset)
    key = f"{dataset}.{sweep_name}"
    if key not in chain.sweeps:
        raise FoveaError(f"no sweep {sweep_name!r} on {dataset}")
    torch.set_num_threads(threads)
    table = generalisation(
        chain,
        chain.sweeps[key],
        pictures=pictures,
        against=classical,
        threads=threads,
        progress=show,
    )
    if table.empty:
        raise FoveaError(
            f"no experiment of {key} is trained yet: fovea train KEY, or fovea run --sweep {sweep_name}"
        )
    name = f"generalisation.{key}"
    with written_beside(chain.home.tables / f"{name}.parquet") as beside:
        table.to_parquet(beside, index=False)
    with written_beside(chain.home.tables / f"{name}.csv") as beside:
        table.to_csv(beside, index=False)
    target = chain.home.reports / f"{key}.generalisation.html"
    crops = {unit: kept_crops(chain, unit) for unit in table["unit"]}
    with written_beside(target) as beside:
        beside.write_text(
            page(table, f"{key}: held-out pictures against training pictures", crops), encoding="utf-8"
        )
    text = markdown(table)
    if output is not None:
        with written_beside(output) as beside:
            beside.write_text(text, encoding="utf-8")
    click.echo(text)
    click.echo(f"page    {target}")
