"""What commands share: options, the chain that they work on, and how they say and write things."""

import contextlib
import json
import math
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from models.errors import FoveaError
from models.validation import unknown

if TYPE_CHECKING:
    from assets.chain import Chain
    from models.codecs.base import Codec

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Number(click.FloatRange):
    """A finite number within bounds, which `click.FloatRange` lets nan pass."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Fails for what is no number, outside the bounds, infinite or nan."""
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return found

    def _describe_range(self) -> str:
        return "" if self.min is None and self.max is None else super()._describe_range()


class FileName(click.Path):
    """A path, which `click.Path` lets be empty: the working folder, then."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Fails for an empty name."""
        if not str(value):
            self.fail("the name is empty", param, ctx)
        return super().convert(value, param, ctx)


class Group(click.Group):
    """Lists its commands with their whole first sentences."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click's, but cuts nothing."""
        with formatter.section("Commands"):
            formatter.write_dl([(n, c.get_short_help_str(limit=200)) for n, c in self.commands.items()])


#: in each page's head (`output`)
PAGE = rb" Fovea</title>"
PATH = FileName(path_type=Path)
COUNT = click.IntRange(min=0)
CODEC = "A shipped codec's name, an experiment's key, a saved codec's folder, or an MLflow address (models:/NAME/1)"
PORT = click.IntRange(1, 65535)

dataset = click.option(
    "--dataset", default="sample", show_default=True, help="A registered dataset (fovea datasets list)."
)
threads = click.option(
    "--threads", default=0, type=COUNT, help="CPU threads; default: all cores. Part of what makes bits reproducible."
)
device = click.option("--device", default="auto", help="cpu, cuda, cuda:1; default: a GPU if there is one.")


def sweep(default: str = "smoke") -> Decorator:
    """`--sweep`, as `sweep_name`."""
    about = "A sweep of models/sweeps.toml or fovea.toml."
    return click.option("--sweep", "sweep_name", default=default, show_default=True, help=about)


def output(about: str, *, required: bool = False, mark: bytes = b"") -> Decorator:
    """`-o`, `--output`: a path. mark: a pattern in the first KiB of what the command writes; it writes over nothing else, and
    over no folder."""

    def checked(_: click.Context, __: click.Parameter, path: Path | None) -> Path | None:
        from assets.home import check_ours

        if path and mark:
            if path.is_dir():
                raise FoveaError(f"{path} is a folder: name the file to write, for example {path / 'output'}")
            check_ours(path, mark)
        return path

    return click.option("-o", "--output", type=PATH, required=required, help=about, callback=checked)


def chain_here(threads: int = 0, device: str = "auto", tracking: bool = True) -> "Chain":
    """The chain of this installation. threads: 0 leaves all cores. Raises FoveaError for a device that is not here, unless a
    cluster carries out the steps."""
    options: dict[str, Any] = {"device": device, **({"threads": threads} if threads else {})}
    if tracking:
        from pipelines.mlflow_tracking import tracked_chain

        chain = tracked_chain(**options)
    else:
        from assets.stages import open_chain

        chain = open_chain(**options)
    if device not in ("auto", "cpu") and chain.home.profile.executor != "ray":
        from models.device import chosen_device

        chosen_device(device)
    return chain


def sweep_of(chain: "Chain", name: str, on: str) -> Any:
    """The sweep of this name on a dataset. Raises FoveaError for one that is not there, of either."""
    from models.sweeps import sweep as find

    chain.world.dataset(on)
    whole, found = find(name, on, chain.world.registry), chain.world.sweeps[f"{on}.{name}"]
    if missing := len(whole.experiments) - len(found.experiments):
        said = "1 experiment" if missing == 1 else f"{missing} experiments"
        click.echo(f"left out: {said} guided by people's own fixations, of which {on} has none", err=True)
    return found


def check_eyes(chain: "Chain", wanted: Iterable[tuple[str, str]]) -> None:
    """Raises FoveaError, before anything is made, for a saliency model among the targets that is trained on a dataset which is
    not there, or on which nobody's eyes were recorded."""
    from assets.saliency.fixations import fixation_table
    from models.saliency.records import training_of

    for key in (partition for stage, partition in wanted if stage == "saliency_model"):
        try:
            fixation_table(chain.world.dataset(training_of(key).dataset))
        except FoveaError as error:
            raise FoveaError(f"saliency model {key}: {error}") from error


def warn(text: str) -> None:
    """In yellow, beside the output."""
    click.secho(text, fg="yellow", err=True)


def codec_named(name: str, say: Callable[[str], object] = warn) -> "Codec":
    """A codec by what a command line calls it: a shipped name, an experiment's key, a saved codec's folder, or an MLflow
    model's address (models:/NAME/VERSION, models:/NAME@ALIAS). say: hears that it failed the codec doctor. Raises
    FoveaError for what is none of them, or not made."""
    from models.codecs.catalogue import find_folder, load_codec, shipped

    if name.startswith("models:/"):
        from assets.home import Home
        from pipelines.mlflow_model import fetch_codec
        from pipelines.mlflow_store import MlflowStore, Unreachable

        home = Home.from_environment()
        store = MlflowStore(home.mlflow, home.profile.tracking_uri().strip())
        try:
            client = store.connect()
        except Unreachable as error:
            raise FoveaError(f"{name}: MLflow at {store.name} does not answer: {error}") from error
        with tempfile.TemporaryDirectory(prefix="fovea-model-") as folder:
            return load_codec(fetch_codec(name, client, Path(folder)))
    if name not in shipped() and not Path(name).exists():
        from assets.graph import Waiting

        chain = chain_here(tracking=False)
        if name not in chain.world.experiments:
            raise FoveaError(
                f"{unknown('codec', name, shipped())}; or give an experiment's key (fovea status --keys), a folder, or a "
                "models:/ address"
            )
        try:
            saved = chain.made("trained_codec", name).folder / "codec"
        except Waiting:
            raise FoveaError(f"{name} is not trained, or is stale: fovea train {name}") from None
    else:
        saved = find_folder(name)
    if failed := _failed(saved.parent / "doctor.json"):
        say(f"{name} is not fit to be used: codec doctor failed: {failed}")
    return load_codec(saved)


def _failed(findings: Path) -> str:
    """What the codec doctor found wrong with a training; "" without its findings."""
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
        found = json.loads(findings.read_text())
        return ", ".join(f["name"] for f in found if not f["passed"])
    return ""


def write_page(path: Path, text: str) -> None:
    """Write a text, whole or not at all."""
    from assets.home import write_output

    write_output(path, text)
