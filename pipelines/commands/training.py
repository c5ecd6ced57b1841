"""`fovea train`, `slurm`: trainings on their own, on this machine or a queue's."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from models.config import count_in
from models.errors import FoveaError
from pipelines.commands import options
from pipelines.commands.options import COUNT, chain_here, check_eyes, sweep_of

if TYPE_CHECKING:
    from assets.chain import Chain
    from assets.graph import Made

#: seconds between two looks at the processes of a training, and what they have to end in
POLL_S, PATIENCE_S = 0.2, 10.0


@click.command()
@click.argument("key")
@options.threads
@options.device
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
    KEY is an experiment's (fovea status --keys), a trunk's, or a saliency model's: DATASET.sam_lite, for example
      fovea train osie.sam_lite                 also -fold0of3, -s1 after it
    Frames, maps and the trunk are made first where they are missing. A killed run goes on from its last checkpoint, with
    any number of processes. Several machines: start it with torchrun, FOVEA_HOME on a disk that all of them see.
    """
    from models.saliency.records import is_training

    launched = count_in("WORLD_SIZE", 1) > 1
    chain = chain_here(threads, device, tracking)
    if is_training(key) and (processes > 1 or launched):
        raise FoveaError(f"{key}: a saliency model is trained by one process")
    wanted = _training_targets(chain, key)
    check_eyes(chain, wanted)
    if processes > 1 and not launched:
        sys.exit(launch_ranks(sys.argv[1:], processes))
    made = _make_with_ranks(chain, wanted, launched, device, threads)
    if made is None:
        return  # another process has the results
    chain.tracker.flush()
    folder = made.folder / ("weights" if is_training(key) else "codec")
    click.echo(f"{'found' if made.hit else 'trained'} {key}\n{folder}")
    for name, value in made.facts.items():
        click.echo(f"  {name}: {value}")
    if failed := chain.failed(made.unit.stage, made.unit.digest):
        raise FoveaError(f"{key} is trained, but not fit to be used: {failed}")


def launch_ranks(arguments: Sequence[str], processes: int) -> int:
    """Run the command line `processes` times on this machine, as torchrun would, as the ranks of one training; gives the exit
    code. When one fails the others are ended. They are this process's children in its own process group, so that a Ctrl-C
    reaches all."""
    import psutil

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
    }
    children = [
        psutil.Popen(
            [sys.executable, "-m", "pipelines.cli", *arguments],
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            # one story on the terminal; what another rank dies of is still seen
            stdout=None if rank == 0 else subprocess.DEVNULL,
        )
        for rank in range(processes)
    ]
    try:
        left = children
        while left:
            ended, left = psutil.wait_procs(left, POLL_S)
            if failed := next((child.returncode for child in ended if child.returncode), 0):
                return failed if failed > 0 else 1
        return 0
    except KeyboardInterrupt:
        psutil.wait_procs(children, PATIENCE_S)
        return 130
    finally:
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.terminate()
        for child in psutil.wait_procs(children, PATIENCE_S)[1]:
            child.kill()
            child.wait()


def _training_targets(chain: "Chain", key: str) -> list[tuple[str, str]]:
    """What a training needs, and the training itself last."""
    from models.saliency.records import is_training, training_of

    if is_training(key):
        return chain.upstream(("saliency_model", training_of(key).key))
    if key in chain.world.trunks:
        return chain.upstream(("trunk_codec", key))
    return chain.upstream(("trained_codec", chain.world.experiment(key).key))


@contextlib.contextmanager
def _ended_together() -> Iterator[None]:
    """One rank of a training. Raises FoveaError where another one is gone, in place of torch's errors."""
    import torch.distributed as dist

    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise FoveaError(
            f"another process of this training ended, so rank {os.environ['RANK']} does, too. It says why, unless it was killed, as "
            "for want of memory; run the same command again and it goes on from the last checkpoint"
        ) from error


def _make_with_ranks(
    chain: "Chain", wanted: list[tuple[str, str]], launched: bool, device: str, threads: int
) -> "Made | None":
    """Make targets in order, the last one shared by the processes that were launched for it; None for all but the first
    of them."""
    from assets.training.ranks import make_with
    from models.tracking import Tracker
    from models.training.ranks import join, joined
    from pipelines.plan import Step
    from pipelines.terminal import Board

    with contextlib.ExitStack() as stack:
        if launched:
            stack.enter_context(_ended_together())
            ranks, chain.device = stack.enter_context(join(device))
            if not threads:
                chain.threads = max(1, chain.threads // count_in("LOCAL_WORLD_SIZE", ranks.size))
        else:
            ranks = joined()
        if not ranks.first:
            chain.tracker = Tracker()
        board = stack.enter_context(Board(len(wanted))) if ranks.first else None
        for stage, partition in wanted:
            chain.forget()
            progress = [board.show(Step(stage, partition, "needed"))] if board else []
            made = make_with(chain, ranks, stage, partition, *progress)
    return made


@click.command()
@options.sweep()
@options.dataset
@options.output("Default: DATASET.SWEEP.sbatch here.", mark=rb"bash THIS_FILE")
@click.option("--time", default="24:00:00", show_default=True, help="Limit of each task.")
@click.option("--partition", default="", help="The cluster's partition.")
@click.option("--account", default="", help="The account that pays.")
@click.option("--gpus", default=0, type=COUNT, help="GPUs of a training.")
@click.option(
    "--cpus", default=4, show_default=True, type=click.IntRange(min=1), help="CPUs of a task, shared by its GPUs."
)
@click.option("--memory", default="16G", show_default=True, help="Memory of a task.")
@click.option("--at-once", default=0, type=COUNT, help="Trainings at once; default: all.")
def slurm(sweep_name: str, dataset: str, output: Path | None, **asked: Any) -> None:
    """Write a script that trains a sweep on a SLURM cluster: frames, then trunks, then an array of experiments.

    \b
      fovea slurm --sweep seed --dataset cityscapes --partition gpu --gpus 1 --time 24:00:00
      bash cityscapes.seed.sbatch          submits; nodes need this folder, .venv and FOVEA_HOME at the same place
      fovea run --sweep seed --dataset cityscapes      afterwards: measures, tables, report
    """
    from assets.home import write_output
    from pipelines.slurm import Resources, missing, script

    chain = chain_here(tracking=False)
    sweep = sweep_of(chain, sweep_name, dataset)
    check_eyes(chain, chain.upstream(("report", sweep.key)))
    path = (output or Path(f"{sweep.key}.sbatch")).absolute()
    text = script(chain, sweep, Resources(**asked, device="cuda" if asked["gpus"] else "cpu"))
    write_output(path, text)
    trunks, experiments = missing(chain, sweep)
    click.echo(f"{path}: {len(trunks)} trunks, {len(experiments)} experiments\nsubmit: bash {path}")


@click.command()
@click.argument("name")
@click.option("--pictures", multiple=True, required=True, metavar="FOLDER[:COUNT]", help="May be repeated.")
@click.option("--steps", type=click.IntRange(min=1), required=True)
@click.option("--begin", default="", help="A codec to go on from: a shipped one's name, or a folder.")
@click.option(
    "--part",
    type=click.Choice(["context", "cuts"]),
    help="Only the context model, or what shows cut files, of --begin or of the shipped codec.",
)
@click.option("--lr", type=options.Number(0, min_open=True), help="Learning rate; default: the recipe's.")
@options.output("Folder for checkpoints and, in `final`, the codec.", required=True)
@options.threads
@options.device
def base(
    name: str,
    pictures: tuple[str, ...],
    steps: int,
    begin: str,
    part: str | None,
    lr: float | None,
    output: Path,
    threads: int,
    device: str,
) -> None:
    """Train a codec as those that ship were trained, on folders of pictures: light, bls2017, toderici2017.

    A killed training goes on when the same command is given again. JPEGs are taken at 0.45, 0.5 and 0.625 of their
    sides; maps are SAM-Lite's. Neither Dagster nor MLflow takes part.
    """
    import torch

    from assets.training.bases import config_of, files_of, frames_of, started_from, train_base
    from models.device import chosen_device

    # what cannot be is told before maps are made, which takes long
    config_of(name)
    chosen = chosen_device(device)
    started_from(name, begin, part or "")
    files = files_of(pictures)

    def progress(step: int, total: int, values: Any) -> None:
        said = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        click.echo(f"\r{step}/{total}  {said}\x1b[K", err=True, nl=step == total)

    folder = train_base(
        name,
        frames_of(pictures, threads or None),
        output,
        steps=steps,
        begin=begin,
        part=part or "",
        files=files,
        changes={} if lr is None else {"lr": lr},
        threads=threads or torch.get_num_threads(),
        device=chosen,
        progress=progress,
    )
    click.echo(folder)
