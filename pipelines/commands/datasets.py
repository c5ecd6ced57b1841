"""`fovea datasets`: folders of pictures."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from models.errors import FoveaError
from pipelines.commands import options
from pipelines.commands.options import PATH, chain_here
from pipelines.commands.runs import say_quarantined

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
    from assets.datasets import add_dataset, put_back
    from assets.home import Home
    from models.config import SETTINGS_FILE, read_tables

    globs = {split: asked.pop(split) for split in ("train", "val", "test")}
    chosen = {split: list(patterns) for split, patterns in globs.items() if patterns}
    if splits and chosen:
        raise FoveaError("give either --splits or globs, not both")
    home = Home.from_environment()
    before = read_tables(home.config / SETTINGS_FILE, "datasets").get(name)
    dataset = add_dataset(home.config, name, path, splits=splits or chosen or None, **asked)
    try:
        if _show(name) == 0:
            raise FoveaError(f"{path}: none of its pictures can be used (reasons above)")
    except BaseException:
        put_back(home.config, name, before)
        raise
    _shown_in_dagster(home)
    click.echo(f"registered {dataset.name}: {dataset.path}")


@datasets.command()
@click.argument("name")
def remove(name: str) -> None:
    """Forget a dataset; its pictures and results stay where they are."""
    from assets.datasets import remove_dataset
    from assets.home import Home

    home = Home.from_environment()
    remove_dataset(home.config, name)
    _shown_in_dagster(home)
    click.echo(f"forgot {name}")


def _shown_in_dagster(home: "Home") -> None:
    """A UI that is open shows it at once; nothing to do where Dagster was never started."""
    from pipelines.instance import instance_folder

    if (instance_folder(home) / "dagster.yaml").exists():
        from pipelines.partitions import shown

        shown(home)


@datasets.command()
@click.argument("name")
def show(name: str) -> None:
    """Counts by split, sizes, and what was quarantined with the reason."""
    _show(name)


def _show(name: str) -> int:
    """Print what is in a dataset; returns how many pictures can be used."""
    from assets.datasets import format_size
    from assets.evaluation.numerals import counted
    from assets.evaluation.rate_distortion import MIN_IMAGES
    from assets.frames.folder import find_pictures
    from assets.frames.resize import fit
    from assets.saliency.own_maps import keyed_own_maps

    chain = chain_here(tracking=False)
    table = chain.given["source_frames", name].part("files")
    good = table[table.status == "ok"]
    if len(good):  # what frames could not be made of, as far as that was tried
        good = good[good.image.isin(chain.given["resized_frames", name].part("frames").image)]
    counts = ", ".join(f"{int((good.split == s).sum())} {s}" for s in ("train", "val", "test"))
    dataset = chain.world.dataset(name)
    unused = len(find_pictures(dataset.root())) - len(table) if dataset.kind == "folder" else 0
    click.echo(f"{name}: {counted(len(good))} ({counts}{f'; {unused} more in no split' if unused else ''})")
    sizes = Counter(zip(good.width, good.height, strict=True)).most_common()
    said = ", ".join(f"{w}×{h} ({n})" for (w, h), n in sizes[:5])
    click.echo(f"sizes: {said}{' …' if len(sizes) > 5 else ''}")
    for row in table[table.status != "ok"].to_dict("records"):
        click.secho(f"quarantined {row['image']}: {row['reason']}", fg="yellow")
    say_quarantined(chain, name)
    measured = next((s for s in ("test", "val") if s in set(good.split)), "")
    lacks, few = [], int((good.split == measured).sum())
    if measured != "test":
        lacks.append("no test picture (codecs are measured on val)" if measured else "nothing to measure on")
    if measured and few < MIN_IMAGES:
        lacks.append(
            f"{counted(few, f'{measured} picture')} (with fewer than {MIN_IMAGES} no comparison has an interval)"
        )
    if len(good) < sum(dataset.splits.counts or ()):
        lacks.append(f"fewer pictures that can be used than its splits, {dataset.splits.to_toml()}, ask for")
    if lacks:
        click.secho(f"{name} has {'; '.join(lacks)}: {dataset.way_to('test')}", fg="yellow")
    if set(good.split) == {"train", "test"}:
        click.secho(f"{name} has no val picture: trainings are watched on training pictures alone", fg="yellow")
    frames = [fit(size, dataset.size) for size in zip(good.width, good.height, strict=True)]
    if dataset.size != "native" and (small := sum(frame.size != dataset.size for frame in frames)):
        click.secho(
            f"smaller than {format_size(dataset.size)}, so cut to its aspect and not enlarged: {small} of {counted(len(good))} "
            f"of {name}",
            fg="yellow",
        )
    jpeg = good.path.str.lower().str.endswith((".jpg", ".jpeg"))
    jpegs = sum(is_one and frame.scale == (1, 1) for is_one, frame in zip(jpeg, frames, strict=True))
    if jpegs and dataset.kind == "folder":
        click.secho(
            f"{jpegs} of {counted(len(good))} of {name} are JPEG files at their own size: their blocks are cheap for JPEG, which "
            "looks better than it is. To shrink them: the same command with --size WxH",
            fg="yellow",
        )
    if path := dataset.fixations:
        from assets.saliency.fixations import read_fixations

        found = read_fixations(path, table)
        eyes = found.table
        more = f"; left out: {found.why()}" if found.why() else ""
        click.echo(
            f"fixations: {len(eyes)} of {eyes.subject.nunique()} people on {eyes.image.nunique()} pictures{more}"
        )
    if file := dataset.texts:
        from assets.frames.texts import read_texts

        texts = read_texts(file, table)
        click.echo(f"texts: {len(texts)} on {texts.image.nunique()} pictures")
    if folder := dataset.maps:
        frames_there = chain.given["resized_frames", name].part("frames")
        keyed_own_maps(dataset, frames_there, chain.home.state / "cache")
        click.echo(f"maps: one for each picture, in {folder}")
    return len(good)
