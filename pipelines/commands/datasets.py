"""`fovea datasets`: folders of pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from models.errors import FoveaError
from models.unexpected import database_said, described
from pipelines.commands import options
from pipelines.commands.options import PATH, chain_here

if TYPE_CHECKING:
    from assets.home import Home


@click.group(cls=options.Group)
def datasets() -> None:
    """Register folders of pictures, and see what is in them."""


@datasets.command("list")
def list_() -> None:
    """All datasets."""
    from assets.datasets import format_size

    known = chain_here(tracking=False).world.registry
    click.echo(f"{'name':16} {'kind':10} {'size':9} where")
    for name, dataset in known.items():
        where = dataset.path or {"sample": "drawn by code", "cityscapes": "not here"}.get(dataset.kind, "")
        more = "".join(f", {what}" for what in ("fixations", "texts", "maps") if getattr(dataset, what))
        click.echo(f"{name:16} {dataset.kind:10} {format_size(dataset.size):9} {where}{more}")


@datasets.command()
@click.argument("name")
@click.argument("path", type=PATH)
@click.option(
    "--splits",
    help="CSV with the columns image and split (train, val, test), or counts such as 500/60/140: of pictures that can be used, "
    "by sorted name.",
)
@click.option("--train", multiple=True, help="Glob of training pictures, below PATH; may be repeated.")
@click.option("--val", multiple=True, help="Glob of validation pictures.")
@click.option("--test", multiple=True, help="Glob of test pictures.")
@click.option("--fixations", type=PATH, help="Parquet or CSV: image, subject, x, y (1-based pixels).")
@click.option(
    "--texts", type=PATH, help="Parquet or CSV: image, text, x, y, width, height (pixels), for benchmark --judge ocr."
)
@click.option(
    "--maps",
    type=PATH,
    help="Folder with a map of your own for each picture: its name and size, grey, 0 where nothing matters.",
)
@click.option("--size", help="WxH (area-resized, never enlarged) or native. Default: native.")
@click.option(
    "--classical",
    multiple=True,
    help="A classical codec to measure beside the learned ones (jpeg_trellis, webp, …); repeat it for each. Default: the usual.",
)
def add(name: str, path: Path, splits: str | None, **asked: Any) -> None:
    """Register the pictures below PATH under NAME; once more for the same folder changes the options that are given, also of
    --train, --val and --test each by itself.

    \b
    Splits: --splits CSV, or globs, else sub-folders train/val/test, else 80/10/10 by a hash of each name.
      fovea datasets add kodak ~/kodak --test '*.png'
      fovea datasets add osie ~/osie/stimuli --fixations ~/osie/fixations.parquet
    """
    from assets.home import Home
    from assets.registration import register

    globs = {split: asked.pop(split) for split in ("train", "val", "test")}
    chosen = {split: list(patterns) for split, patterns in globs.items() if patterns}
    if splits and chosen:
        raise FoveaError("give either --splits or globs, not both")
    home = Home.from_environment()
    dataset = register(home, name, path, _say, splits=splits or chosen or None, **asked)
    _show_in_dagster(home)
    click.echo(f"registered {dataset.name}: {dataset.path}")


@datasets.command()
@click.argument("name")
def remove(name: str) -> None:
    """Forget a dataset; its pictures and results stay where they are."""
    from assets.datasets import remove_dataset
    from assets.home import Home

    home = Home.from_environment()
    remove_dataset(home.config, name)
    _show_in_dagster(home)
    click.echo(f"forgot {name}")


def _say(line: str, warns: bool) -> None:
    click.secho(line, fg="yellow" if warns else None)


def _show_in_dagster(home: "Home") -> None:
    """A UI that is open shows it at once; what it shows only later is said, and why. Nothing to do where Dagster was never
    started."""
    from pipelines.instance import instance_folder

    if not (instance_folder(home) / "dagster.yaml").exists():
        return
    from pipelines.partitions import shown

    try:
        if news := shown(home):
            click.echo(news)
    except Exception as error:  # its database is full, locked or away
        options.warn(
            f"Dagster's lists show it when `fovea ui` is started again; not now: {database_said(error) or described(error)}"
        )


@datasets.command()
@click.argument("name")
def show(name: str) -> None:
    """Counts by split, sizes, and what was quarantined with the reason."""
    from assets.registration import look

    look(chain_here(tracking=False), name, _say)
