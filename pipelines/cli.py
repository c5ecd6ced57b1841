"""`fovea`: the same functions as the Dagster graph, from a terminal. Heavy imports wait until a command needs them."""

import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipelines.cli_studies import game, study
from pipelines.evidence_commands import COMMANDS
from pipelines.gap_command import gaps

if TYPE_CHECKING:
    from assets.chain import Chain

# OpenMP's threads spin while they wait: on cores that others use, too, that makes training several times slower
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


class Guarded(click.Group):
    """Errors that a user can put right are printed without a traceback, with exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        from models.errors import FoveaError

        try:
            return super().invoke(ctx)
        except FoveaError as error:
            click.secho(f"fovea: {error}", fg="red", err=True)
            ctx.exit(1)
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                raise
            where = f"{error.filename}: " if error.filename else ""
            click.secho(f"fovea: {where}{error.strerror or error}{_disk_note()}", fg="red", err=True)
            ctx.exit(1)
        except Exception as error:
            note = _disk_note()
            if not note:
                raise
            click.secho(f"fovea: {type(error).__name__}{note}", fg="red", err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            click.echo("\nfovea: stopped; run the same command again and it goes on from here", err=True)
            ctx.exit(130)


def _disk_note() -> str:
    """What to do when the disk of FOVEA_HOME is full; "" when it is not. Databases say it in words of their own."""
    import shutil

    from assets.home import Home
    from models.errors import FoveaError

    try:
        home = Home.from_environment().state
    except FoveaError:
        return ""
    place = next(p for p in (home, *home.parents) if p.exists())
    if shutil.disk_usage(place).free >= 1 << 20:
        return ""
    return f": no space left on the disk of {home}: free some, or set FOVEA_HOME to a larger disk, and run the same command again"


@click.group(cls=Guarded, context_settings=CONTEXT)
@click.version_option(package_name="fovea", prog_name="fovea")
@click.pass_context
def main(context: click.Context) -> None:
    """Saliency-guided learned image compression, as an incremental pipeline.

    \b
    First steps:
      fovea run                                    the whole chain on the embedded sample
      fovea datasets add street ~/photos           register a folder of your own pictures
      fovea run --dataset street --sweep smoke     the same tables and report for them
      fovea status --dataset street                what is stale, and why
      fovea compress photo.png -o photo.fov        one picture, with the shipped codec

    State lies in FOVEA_HOME (default .fovea/), what you typed in FOVEA_CONFIG (default: fovea.toml here).
    """
    context.obj = _chain  # for the commands of other modules


def _chain(threads: int = 0, device: str = "auto", tracking: bool = True) -> "Chain":
    from assets.home import Home
    from assets.stages import open_chain
    from models.tracking import NullTracker

    home = Home.from_environment()
    if tracking:
        from pipelines.mlflow_tracking import MlflowTracker

        chain = open_chain(
            home, tracker=MlflowTracker(home.mlflow, home.profile.tracking_uri()), device=device
        )
    else:
        chain = open_chain(home, tracker=NullTracker(), device=device)
    if threads:
        chain.threads = threads
    return chain


def _sweep(chain: "Chain", sweep: str, dataset: str) -> Any:
    from models.experiments import sweep as find

    chain.dataset(dataset)
    find(sweep, dataset)
    return chain.sweeps[f"{dataset}.{sweep}"]


def _common(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--dataset",
            default="sample",
            show_default=True,
            help="A registered dataset (fovea datasets list).",
        ),
        click.option(
            "--sweep",
            "sweep_name",
            default="smoke",
            show_default=True,
            help="A sweep of models/experiments.py.",
        ),
        click.option("--strict", is_flag=True, help="Count a changed library version as stale, too."),
    ):
        command = option(command)
    return command


@main.command()
@_common
@click.option(
    "--threads",
    default=0,
    type=click.IntRange(min=0),
    help="CPU threads; default: all cores. Part of what makes bits reproducible.",
)
@click.option("--device", default="auto", help="cpu, cuda, cuda:1; default: a GPU if there is one.")
@click.option(
    "--parallel",
    default=0,
    envvar="FOVEA_PARALLEL",
    type=click.IntRange(min=0),
    help="Steps at once. Default: `parallel` of the profile, else one for each GPU, one without. More than GPUs: several "
    "share one. Without --threads each has its part of the cores, and its bits are those of so many threads.",
)
@click.option(
    "--frames-only", is_flag=True, help="Stop at the packed frames of --dataset: no codec, no table."
)
def run(
    dataset: str,
    sweep_name: str,
    strict: bool,
    threads: int,
    device: str,
    parallel: int,
    frames_only: bool,
) -> None:
    """Make what is stale of a sweep, and only that: frames, maps, codecs, tables, report.

    \b
    Prints the rate-distortion table and BD-rates, and where report and UIs are.
    Exit code 1 when something failed; what does not depend on it is made all the same.
    """
    from pipelines.plan import dataset_targets, targets

    chain = _chain(threads, device)
    if frames_only:
        chain.dataset(dataset)
        name, wanted, sweep_key = dataset, dataset_targets(dataset, chain), ""
    else:
        sweep = _sweep(chain, sweep_name, dataset)
        name, wanted, sweep_key = sweep.key, targets(sweep, chain), sweep.key
        _can_be_measured(chain, sweep)
    failed = _make_stale(chain, name, wanted, sweep_key, strict, threads, parallel)
    if frames_only:
        _frames_summary(chain, dataset)
    else:
        _publish(chain, name)
        _summary(chain, name)
    _quarantined_frames(chain, dataset)
    if failed:
        sys.exit(1)


def _can_be_measured(chain: "Chain", sweep: Any) -> None:
    """Raises FoveaError before anything is trained when a folder is gone or a dataset has no picture to measure on."""
    from assets.chain import Waiting
    from assets.evaluation.pieces import measured_split

    for dataset in sorted({sweep.dataset, *(d for e in sweep.experiments for d in e.evaluate_on)}):
        try:
            measured_split(chain, dataset)
        except Waiting:
            continue


def _publish(chain: "Chain", key: str) -> None:
    """Report and tables where people look for them, also when somebody deleted them there."""
    from assets.chain import Waiting
    from assets.evaluation.stages import publish

    try:
        publish(chain, chain.made("report", key))
    except Waiting:
        return


def _quarantined_frames(chain: "Chain", dataset: str) -> None:
    """Pictures that could not be decoded, by name."""
    from assets.chain import Waiting

    try:
        made = chain.made("resized_frames", dataset)
    except Waiting:
        return
    for broken in made.manifest["meta"].get("quarantined", []):
        click.secho(f"quarantined {broken['image']}: {broken['reason']}", fg="yellow", err=True)


def _make_stale(
    chain: "Chain",
    name: str,
    wanted: list[tuple[str, str]],
    sweep_key: str = "",
    strict: bool = False,
    threads: int = 0,
    parallel: int = 1,
) -> int:
    """Make what is stale of the targets as Dagster runs, with progress; returns how many failed.

    parallel: steps at once; 0: what the profile says, else one for each GPU.
    """
    from assets.home import Home
    from pipelines.plan import stale

    work = stale(chain, wanted, strict=strict)
    failed = 0
    if work:
        from pipelines.instance import prepare_instance
        from pipelines.launch import one_run_at_a_time, run_targets
        from pipelines.terminal import Board

        home = Home.from_environment()
        with one_run_at_a_time(home):
            prepare_instance(home)
            at_once = min(_parallel(parallel, chain.device, home.profile.parallel), len(work))
            with Board(len(work), parallel=at_once) as board:
                outcome = run_targets(
                    chain,
                    wanted,
                    sweep=sweep_key,
                    show=board.show,
                    strict=strict,
                    threads=threads,
                    parallel=at_once,
                )
            chain.tracker.flush()
        click.echo(
            f"{outcome.made} made, {outcome.found} already there, {outcome.failed} failed, {outcome.skipped} skipped"
        )
        for message in outcome.messages:
            click.secho(f"failed: {message}", fg="red", err=True)
        failed = outcome.failed
    else:
        click.echo(f"{name}: everything is up to date, nothing to run")
    return failed


def _parallel(asked: int, device: str, by_profile: int) -> int:
    """Steps at once: as asked, else the profile's number, else one for each GPU."""
    if asked or by_profile:
        return asked or by_profile
    if device not in ("auto", "cuda"):
        return 1
    from pipelines.workers import gpus

    return max(1, len(gpus()))


def _frames_summary(chain: "Chain", dataset: str) -> None:
    from assets.chain import Waiting

    try:
        made = chain.made("rgba_frames", dataset)
    except Waiting:
        return
    click.echo(f"frames  {made.facts['frames']}, listed in {made.folder / 'rgba.parquet'}")


def _summary(chain: "Chain", key: str) -> None:
    from assets.chain import Waiting

    try:
        made = chain.made("bd_rates", key)
        curves = chain.made("rd_curves", key)
    except Waiting:
        return
    import pandas as pd

    from assets.evaluation.summary import bd_lines, curve_lines

    click.echo("\n" + curve_lines(pd.read_parquet(curves.folder / "rd_curves.parquet")))
    click.echo("\n" + bd_lines(pd.read_parquet(made.folder / "bd_rates.parquet")))
    click.echo(f"\nreport  {chain.home.reports / f'{key}.html'}")
    click.echo(f"tables  {chain.home.tables}")
    click.echo("UIs     make ui   (Dagster http://127.0.0.1:3000, MLflow http://127.0.0.1:5000)")


@main.command()
@_common
@click.option("--all", "everything", is_flag=True, help="List what is up to date, too.")
@click.option("--keys", is_flag=True, help="List the sweep's experiment keys (for fovea train) and stop.")
def status(dataset: str, sweep_name: str, strict: bool, everything: bool, keys: bool) -> None:
    """Say what is stale, and why. Computes nothing. Exit code 0 when all is up to date, 2 when something is stale."""
    from pipelines.plan import plan, stale, targets

    chain = _chain(tracking=False)
    sweep = _sweep(chain, sweep_name, dataset)
    if keys:
        for experiment in sweep.experiments:
            click.echo(experiment.key)
        return
    _can_be_measured(chain, sweep)
    wanted = targets(sweep, chain)
    if everything:
        for step in plan(chain, wanted, strict=strict):
            click.echo(
                f"{'stale' if step.stale else 'fresh'}  {step.stage} {step.partition}"
                + (f": {step.why}" if step.why else "")
            )
    work = stale(chain, wanted, strict=strict)
    if not everything:
        for step in work:
            click.echo(f"stale  {step.stage} {step.partition}: {step.why}")
    click.echo(
        f"{sweep.key}: {len(work)} of {len(dict.fromkeys(wanted))} units are stale"
        if work
        else f"{sweep.key}: up to date"
    )
    if work:
        sys.exit(2)


@main.command()
@click.argument("key")
@click.option("--threads", default=0, type=click.IntRange(min=0), help="CPU threads; default: all cores.")
@click.option("--device", default="auto", help="cpu, cuda, cuda:1; default: a GPU if there is one.")
@click.option(
    "--processes",
    default=1,
    type=click.IntRange(min=1),
    help="Share the training of one codec: one process a GPU, or so many on the CPU.",
)
@click.option("--tracking/--no-tracking", default=True, help="Tell MLflow about it.")
def train(key: str, threads: int, device: str, processes: int, tracking: bool) -> None:
    """Train one experiment by its key, without Dagster: for a batch queue or a bare GPU box.

    \b
    KEY is an experiment's (fovea status --keys), a trunk's, or a saliency model's: DATASET.VARIANT, for example
      fovea train osie.sam_lite                 also sam_vgg, sam_resnet; -scratch, -fold0of3, -s1 after it
    Frames, maps and the trunk are made first where they are missing. A killed run goes on from its last checkpoint, with
    any number of processes. Several machines: start it with torchrun, FOVEA_HOME on a disk that all of them see.
    """
    import contextlib

    from assets.saliency.names import model_targets
    from models.errors import FoveaError
    from models.saliency.records import is_training, training_of
    from models.tracking import NullTracker
    from pipelines.plan import Step, dataset_targets
    from pipelines.terminal import Board

    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
    chain = _chain(threads, device, tracking)
    if is_training(key):
        if processes > 1 or launched:
            raise FoveaError(f"{key}: a saliency model is trained by one process")
        wanted, folder = model_targets(chain, [], [training_of(key).key]), "weights"
    elif key in chain.trunks:
        dataset, folder = chain.trunks[key].dataset, "codec"
        wanted = [*(dataset_targets(dataset, chain)[:-1] if dataset else []), ("trunk_codec", key)]
    else:
        experiment, folder = chain.experiment(key), "codec"
        models = model_targets(chain, [], [experiment.saliency])
        wanted = models + dataset_targets(experiment.dataset, chain)[:-1]
        if experiment.trunk:
            wanted.append(("trunk_codec", experiment.trunk.key))
        wanted.append(("trained_codec", key))
    if processes > 1 and not launched:
        from pipelines.ranks import launch_ranks

        sys.exit(launch_ranks(sys.argv[1:], processes))

    with contextlib.ExitStack() as stack:
        if launched:
            from models.training.ranks import join, joined

            ranks, chain.device = stack.enter_context(join(device))
            if not threads:
                here = int(os.environ.get("LOCAL_WORLD_SIZE", ranks.size))
                chain.threads = max(1, chain.threads // here)
        else:
            from models.training.ranks import joined

            ranks = joined()
        from assets.training.ranks import make_with

        if not ranks.first:
            chain.tracker = NullTracker()
        board = stack.enter_context(Board(len(wanted))) if ranks.first else None
        for stage, partition in wanted:
            chain.forget()
            progress = [board.show(Step(stage, partition, "needed"))] if board else []
            made = make_with(chain, ranks, stage, partition, *progress)
        if made is None:
            return
    chain.tracker.flush()
    click.echo(f"{'found' if made.hit else 'trained'} {key}\n{made.folder / folder}")
    for name, value in made.facts.items():
        click.echo(f"  {name}: {value}")


@main.command()
@click.option("--sweep", "sweep_name", default="smoke", show_default=True, help="A sweep.")
@click.option("--dataset", default="sample", show_default=True, help="A registered dataset.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Default: DATASET.SWEEP.sbatch here.")
@click.option("--time", "time_limit", default="24:00:00", show_default=True, help="Limit of each task.")
@click.option("--partition", default="", help="The cluster's partition.")
@click.option("--account", default="", help="The account that pays.")
@click.option("--gpus", default=0, type=click.IntRange(min=0), help="GPUs of a training.")
@click.option("--cpus", default=4, show_default=True, type=click.IntRange(min=1), help="CPUs of a task.")
@click.option("--memory", default="16G", show_default=True, help="Memory of a task.")
@click.option("--at-once", default=0, type=click.IntRange(min=0), help="Trainings at once; default: all.")
def slurm(
    sweep_name: str,
    dataset: str,
    output: Path | None,
    time_limit: str,
    partition: str,
    account: str,
    gpus: int,
    cpus: int,
    memory: str,
    at_once: int,
) -> None:
    """Write a script that trains a sweep on a SLURM cluster: frames, then trunks, then an array of experiments.

    \b
      fovea slurm --sweep seed --dataset cityscapes --partition gpu --gpus 1 --time 24:00:00
      bash cityscapes.seed.sbatch          submits; nodes need this folder, .venv and FOVEA_HOME at the same place
      fovea run --sweep seed --dataset cityscapes      afterwards: measures, tables, report
    """
    from assets.home import written_beside
    from pipelines.slurm import Resources, missing, script

    chain = _chain(tracking=False)
    sweep = _sweep(chain, sweep_name, dataset)
    asked = Resources(time_limit, partition, account, gpus, cpus, memory, at_once, "cuda" if gpus else "cpu")
    path = (output or Path(f"{sweep.key}.sbatch")).absolute()
    text = script(chain, sweep, asked)
    with written_beside(path) as beside:
        beside.write_text(text)
    trunks, experiments = missing(chain, sweep)
    click.echo(f"{path}: {len(trunks)} trunks, {len(experiments)} experiments\nsubmit: bash {path}")


@main.group()
def datasets() -> None:
    """Register folders of pictures, and see what is in them."""


@datasets.command("list")
def datasets_list() -> None:
    """All datasets."""
    from assets.datasets import format_size

    for name, dataset in _chain(tracking=False).registry.items():
        where = dataset.path or {"sample": "drawn by code", "cityscapes": "not here"}.get(dataset.kind, "")
        eyes = ", fixations" if dataset.fixations else ""
        click.echo(f"{name:16} {dataset.kind:10} {format_size(dataset.size):9} {where}{eyes}")


@datasets.command("add")
@click.argument("name")
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--splits", help="CSV with the columns image and split (train, val, test), or counts such as 500/60/140."
)
@click.option(
    "--train", "train_globs", multiple=True, help="Glob of training pictures, below PATH; may be repeated."
)
@click.option("--val", "val_globs", multiple=True, help="Glob of validation pictures.")
@click.option("--test", "test_globs", multiple=True, help="Glob of test pictures.")
@click.option(
    "--fixations",
    type=click.Path(path_type=Path),
    help="Parquet or CSV: image, subject, x, y (1-based pixels).",
)
@click.option("--size", default=None, help="WxH (area-resized, never enlarged) or native. Default: native.")
def datasets_add(
    name: str,
    path: Path,
    splits: str | None,
    train_globs: tuple[str, ...],
    val_globs: tuple[str, ...],
    test_globs: tuple[str, ...],
    fixations: Path | None,
    size: str | None,
) -> None:
    """Register the pictures below PATH under NAME.

    \b
    Splits: --splits CSV, or globs, else sub-folders train/val/test, else 80/10/10 by a hash of each name.
      fovea datasets add kodak ~/kodak --test '*.png'
      fovea datasets add osie ~/osie/stimuli --fixations ~/osie/fixations.parquet
    """
    from assets.datasets import add_dataset, remove_dataset
    from assets.home import Home
    from models.errors import FoveaError

    globs = {"train": list(train_globs), "val": list(val_globs), "test": list(test_globs)}
    chosen = {k: v for k, v in globs.items() if v}
    if splits and chosen:
        raise FoveaError("give either --splits or globs, not both")
    home = Home.from_environment()
    dataset = add_dataset(
        home.config,
        name,
        path,
        splits=splits or chosen or None,
        fixations=fixations,
        size=size,
    )
    try:
        if _show(name, new=True) == 0:
            raise FoveaError(f"{path}: none of its pictures can be used (reasons above)")
    except FoveaError:
        remove_dataset(home.config, name)
        raise
    click.echo(f"registered {dataset.name}: {dataset.path}")


@datasets.command("remove")
@click.argument("name")
def datasets_remove(name: str) -> None:
    """Forget a dataset; its pictures and results stay where they are."""
    from assets.datasets import remove_dataset
    from assets.home import Home

    remove_dataset(Home.from_environment().config, name)
    click.echo(f"forgot {name}")


@datasets.command("show")
@click.argument("name")
def datasets_show(name: str) -> None:
    """Counts by split, sizes, and what was quarantined with the reason."""
    _show(name)


def _show(name: str, *, new: bool = False) -> int:
    """Print what is in a dataset; returns how many pictures can be used. new: fixations of unknown
    pictures are an error where the splits leave none out."""
    from assets.frames.stages import source_table

    chain = _chain(tracking=False)
    table = source_table(chain, name)
    good = table[table.status == "ok"]
    counts = ", ".join(f"{int((good.split == s).sum())} {s}" for s in ("train", "val", "test"))
    click.echo(f"{name}: {len(good)} pictures ({counts})")
    sizes = [
        (f"{w}×{h}", n) for (w, h), n in Counter(zip(good.width, good.height, strict=True)).most_common()
    ]
    click.echo(
        "sizes: " + ", ".join(f"{size} ({n})" for size, n in sizes[:5]) + (" …" if len(sizes) > 5 else "")
    )
    for row in table[table.status != "ok"].to_dict("records"):
        click.secho(f"quarantined {row['image']}: {row['reason']}", fg="yellow")
    _quarantined_frames(chain, name)
    if not set(good.split) & {"val", "test"}:
        click.secho(
            f"{name} has nothing to measure on: name pictures with --test GLOB or --splits CSV", fg="yellow"
        )
    path = chain.dataset(name).fixations
    if path:
        from assets.frames.manifest import left_out
        from assets.saliency.fixations import read_fixations

        # the table may well know the pictures that the splits leave out
        found = read_fixations(path, table, ignore_unknown=not new or bool(left_out(table)))
        eyes = found.table
        more = f"; {found.ignored} on pictures that are not in the dataset" if found.ignored else ""
        click.echo(
            f"fixations: {len(eyes)} of {eyes.subject.nunique()} people on {eyes.image.nunique()} pictures{more}"
        )
    return len(good)


@main.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="The .fov file to write; a folder for several pictures.",
)
@click.option(
    "--model",
    default="bls2017",
    show_default=True,
    help="A shipped codec's name, or a folder with codec.json and weights.",
)
@click.option(
    "--lmbda", type=float, default=None, help="Rate: the Lagrange multiplier, within the model's range."
)
@click.option(
    "--bpp", type=float, default=None, help="Rate: bits per pixel of the file, as near as levels allow."
)
@click.option(
    "--saliency/--no-saliency",
    "use_saliency",
    default=None,
    help="Give salient places more bits (models of the arms saliency_gain and saliency_hyper).",
)
@click.option(
    "--map",
    "maps",
    type=click.Path(path_type=Path),
    default=None,
    help="A grey picture that says what matters, 0 where nothing does, in place of the saliency model; a folder for several.",
)
def compress(
    images: tuple[Path, ...],
    output: Path,
    model: str,
    lmbda: float | None,
    bpp: float | None,
    use_saliency: bool | None,
    maps: Path | None,
) -> None:
    """Compress a picture to a .fov file, or pictures and folders of them over all cores; prints each one's bpp."""
    import math

    from assets.evaluation.code_files import compress_files, pictures_in, targets_of
    from models.codecs.catalogue import open_codec
    from models.errors import FoveaError

    if lmbda is not None and not (math.isfinite(lmbda) and lmbda > 0):
        raise FoveaError(f"--lmbda {lmbda:g}: a positive number is needed")
    if bpp is not None and not (math.isfinite(bpp) and bpp > 0):
        raise FoveaError(f"--bpp {bpp:g}: a positive number is needed")
    if bpp is not None and lmbda is not None:
        raise FoveaError("give either --lmbda or --bpp, not both")
    if len(images) == 1 and images[0].is_file() and not output.is_dir() and output.suffix.lower() != ".fov":
        raise FoveaError(f"{output}: compressed pictures are .fov files; name a file that ends in .fov")
    work = targets_of(images, output, ".fov", pictures_in)
    codec = open_codec(model)
    failed: list[str] | None = [] if len(work) > 1 else None
    for path, size, spent in compress_files(
        work, codec, lmbda=lmbda, bpp=bpp, use_saliency=use_saliency, maps=maps, failed=failed
    ):
        click.echo(f"{path}: {size} bytes, {spent:.4f} bpp")
    _tell_failed(failed, len(work))


def _tell_failed(failed: list[str] | None, count: int) -> None:
    """Say what could not be done of several files. Raises FoveaError when there is any."""
    from models.errors import FoveaError

    for line in failed or ():
        click.echo(line, err=True)
    if failed:
        raise FoveaError(f"{len(failed)} of {count} files could not be done (above); the others are written")


@main.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="The PNG to write; a folder for several files.",
)
@click.option(
    "--model",
    default=None,
    help="A shipped codec's name or a folder; default: the shipped codec that made the file.",
)
def decompress(files: tuple[Path, ...], output: Path, model: str | None) -> None:
    """Decode a .fov file to a PNG, or several files and folders of them over all cores."""
    from assets.evaluation.code_files import decompress_files, files_in, targets_of
    from models.codecs.bitstream import unpack
    from models.codecs.catalogue import codec_for, open_codec
    from models.errors import FoveaError

    if len(files) == 1 and files[0].is_file() and not output.is_dir() and output.suffix.lower() != ".png":
        raise FoveaError(f"{output}: decoded pictures are written as PNG; name a file that ends in .png")
    named = open_codec(model) if model else None
    found: dict[bytes, Any] = {}

    def opened(data: bytes) -> Any:
        if named is not None:
            return named
        wanted = unpack(data).model
        if wanted not in found:
            found[wanted] = codec_for(data)
        return found[wanted]

    work = targets_of(files, output, ".png", files_in)
    failed: list[str] | None = [] if len(work) > 1 else None
    for path, width, height in decompress_files(work, opened, failed=failed):
        click.echo(f"{path}: {width}×{height}")
    _tell_failed(failed, len(work))


@main.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="A PNG for one picture, a folder for several.",
)
@click.option(
    "--model",
    default=None,
    help="sam_lite, sam_vgg, sam_resnet, spectral_residual, center_prior, or one that you trained, such as osie.sam_lite.",
)
@click.option(
    "--overlay", is_flag=True, help="The map as heat over the picture, instead of the raw grey map."
)
@click.option(
    "--flip", is_flag=True, help="Average with the mirrored picture: a little better, twice the time."
)
@click.option("--device", default="auto", help="cpu, cuda, cuda:1; default: a GPU if there is one.")
def saliency(
    images: tuple[Path, ...], output: Path, model: str | None, overlay: bool, flip: bool, device: str
) -> None:
    """Predict where people look: a grey PNG (255 = most salient) for each picture or folder of pictures."""
    from assets.saliency.predict_files import predict_files
    from assets.saliency.stages import map_sources, open_model
    from models.device import chosen_device
    from models.experiments import DEFAULT_SALIENCY

    chain = _chain(tracking=False)
    source = map_sources(chain, model or DEFAULT_SALIENCY)[0]
    opened = open_model(source, device=chosen_device(device), threads=chain.threads)
    with click.progressbar(length=1, label="maps", file=sys.stderr) as bar:

        def progress(done: float, total: float, note: str = "") -> None:
            bar.length = int(total)
            bar.update(int(done) - bar.pos)

        written = predict_files(images, output, model=opened, overlay=overlay, flip=flip, progress=progress)
    for path in written:
        click.echo(str(path))


@main.command("saliency-benchmark")
@click.argument("dataset")
@click.option("--threads", default=0, type=click.IntRange(min=0), help="CPU threads; default: all cores.")
@click.option("--device", default="auto", help="cpu, cuda, cuda:1; default: a GPU if there is one.")
def saliency_benchmark(dataset: str, threads: int, device: str) -> None:
    """How well each saliency model predicts where people looked on DATASET: a table with 95 % intervals.

    \b
    On its test pictures (else val). DATASET needs recorded eye movements (fovea datasets add … --fixations TABLE).
    Every model that is here is in: SAM-VGG and SAM-ResNet once their weights are (fovea saliency-weights), and what
    you trained (fovea train DATASET.sam_lite). `human`: half of the people predict the other half.
    """
    from assets.chain import Waiting
    from assets.saliency.fixations import fixation_table

    chain = _chain(threads, device)
    fixation_table(chain.dataset(dataset))
    stages = ("source_frames", "resized_frames", "fixation_maps", "saliency_benchmark")
    failed = _make_stale(chain, f"saliency benchmark of {dataset}", [(stage, dataset) for stage in stages])
    try:
        made = chain.made("saliency_benchmark", dataset)
    except Waiting:
        sys.exit(1)
    facts = made.facts
    click.echo(f"\n{dataset}, {facts['split']}: {facts['pictures']} pictures, means with 95 % intervals\n")
    click.echo((made.folder / "shown" / "benchmark.md").read_text())
    click.echo(f"table   {chain.home.tables / 'saliency_benchmark.parquet'}")
    if failed:
        sys.exit(1)


@main.group("saliency-weights")
def saliency_weights() -> None:
    """Published weights of SAM-VGG and SAM-ResNet: download, or import a file that you have. sam_lite needs none."""


@saliency_weights.command("fetch")
@click.argument("name", type=click.Choice(["sam_vgg", "sam_resnet"]))
@click.option(
    "--url", default=None, help="The file or its folder. Default: FOVEA_SAM_URL, else the authors' release."
)
@click.option("--sha256", default=None, help="Expected checksum. Default: the first download's, remembered.")
@click.option(
    "--edition", default="2015", show_default=True, help="SALICON edition: 2015, or 2017 (ResNet only)."
)
def weights_fetch(name: str, url: str | None, sha256: str | None, edition: str) -> None:
    """Download and convert; an interrupted download goes on where it stopped."""
    from assets.home import Home
    from models.network import Manner, Progress
    from models.saliency.sam_import import fetch_weights

    folder = Home.from_environment().state / "weights"
    with click.progressbar(length=1, label=name, file=sys.stderr) as bar:

        def report(state: Progress) -> None:
            bar.length = state.total_bytes or state.done_bytes + 1
            bar.update(state.done_bytes - bar.pos)

        path = fetch_weights(name, folder, url, sha256, Manner(report=report), edition=edition)
    click.echo(str(path))


@saliency_weights.command("import")
@click.argument("file", type=click.Path(path_type=Path))
def weights_import(file: Path) -> None:
    """Convert a published weight file (HDF5, called .pkl or .h5). Nothing in it is executed."""
    from assets.home import Home
    from models.saliency.sam_import import convert

    click.echo(str(convert(file, Home.from_environment().state / "weights")))


@main.command()
@click.option("--port", default=3000, show_default=True, help="Dagster's port; MLflow takes --mlflow-port.")
@click.option("--mlflow-port", default=5000, show_default=True)
def ui(port: int, mlflow_port: int) -> None:
    """Dagster UI with its daemon, and the MLflow UI, on loopback; one Ctrl-C stops all."""
    from pipelines.ui import serve

    serve(port, mlflow_port)


@main.group()
def profile() -> None:
    """Settings for one machine, a cluster or CI: tables [profiles.NAME] of fovea.toml."""


def _named(name: str | None) -> Any:
    """The home as the named profile sees it."""
    from assets.home import Home

    if name:
        _choose_profile(click.get_current_context(), click.Option(["--profile"]), name)
    return Home.from_environment()


@profile.command("show")
@click.argument("name", required=False)
def profile_show(name: str | None) -> None:
    """The effective settings of NAME; secrets only as set or not set."""
    from pipelines.profile_check import shown_settings

    for key, value, meaning in shown_settings(_named(name)):
        click.echo(f"{key:25} {value or '-':44} {meaning}")


@profile.command("check")
@click.argument("name", required=False)
def profile_check(name: str | None) -> None:
    """Try every part of NAME for real: storage, database, MLflow, executor. Exit code 1 when something does not work."""
    from pipelines.profile_check import check_profile

    failed = 0
    for line in check_profile(_named(name)):
        failed += not line.good
        word = click.style("ok    ", fg="green") if line.good else click.style("failed", fg="red")
        click.echo(f"{word}  {line.part:9} {line.said}")
    if failed:
        sys.exit(1)


def _choose_profile(context: click.Context, option: click.Parameter, name: str | None) -> None:
    """Everything below this command, child processes too, sees the profile."""
    if not name:
        return
    before = os.environ.get("FOVEA_PROFILE")
    os.environ["FOVEA_PROFILE"] = name

    def restore() -> None:
        os.environ.pop("FOVEA_PROFILE", None)
        if before is not None:
            os.environ["FOVEA_PROFILE"] = before

    context.call_on_close(restore)


def _with_profiles(group: click.Group) -> None:
    for command in group.commands.values():
        if isinstance(command, click.Group):
            _with_profiles(command)
        elif command.name not in ("compress", "decompress"):
            command.params.append(
                click.Option(
                    ["--profile"],
                    metavar="NAME",
                    expose_value=False,
                    is_eager=True,
                    callback=_choose_profile,
                    help="A profile of fovea.toml; default: FOVEA_PROFILE, else local.",
                )
            )


for command in (*COMMANDS, gaps, game, study):
    main.add_command(command)

_with_profiles(main)


if __name__ == "__main__":
    main()
