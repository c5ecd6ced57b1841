"""`fovea`: the same functions as the Dagster graph, from a terminal. Heavy imports wait until a command needs them."""

import atexit
import contextlib
import errno
import io
import os
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

import click

from models.config import pin_folders
from models.errors import FoveaError
from models.unexpected import database_said, described
from models.validation import printable
from pipelines.commands.claims import claims
from pipelines.commands.datasets import datasets
from pipelines.commands.evidence import benchmark, compare, curves, evaluate
from pipelines.commands.options import PORT, Group
from pipelines.commands.pictures import compress, cut, decompress, saliency, saliency_weights
from pipelines.commands.runs import run, saliency_benchmark, status
from pipelines.commands.studies import game, study
from pipelines.commands.training import base, slurm, train

# OpenMP's threads spin while they wait: on cores that others use, too, that makes training several times slower
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


class Guarded(click.Group):
    """Errors that a user can put right are one line without a traceback, with exit code 1; 2 for words that no command
    takes."""

    def main(self, args: Sequence[str] | None = None, *more: Any, **named: Any) -> Any:
        """As click's. A process that is this command (no args) ends with it: Python would take seconds to take apart what torch
        and Dagster have loaded."""
        if args is not None:
            return super().main(args, *more, **named)
        code: Any = 1
        _open_closed_streams()
        try:
            super().main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else ended.code is not None
        except OSError as error:
            os.write(2, f"fovea: what is printed cannot be written: {error.strerror}\n".encode())
        except Exception as error:
            traceback.print_exception(error)
            click.secho(f"fovea: {printable(described(error))}", fg="red", err=True)
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                code = code or 1
        os._exit(code)

    def make_context(self, *given: Any, **more: Any) -> click.Context:
        """As click's."""
        with _usage_in_a_line():
            return super().make_context(*given, **more)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                # names of files are bytes, and a terminal may know few characters
                stream.reconfigure(errors="backslashreplace")
        try:
            with _stoppable(), _usage_in_a_line():
                return super().invoke(ctx)
        except (click.exceptions.Exit, BrokenPipeError):
            raise
        except FoveaError as error:
            said = str(error)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            way = ": free some, or write to a larger disk, and run the same command again" if full else ""
            said = f"{where}{error.strerror or error}{_disk_note() or way}"
        except Exception as error:
            database, note = database_said(error), _disk_note()
            if not (database or note):
                raise
            said = f"{database or type(error).__name__}{note}"
        except KeyboardInterrupt:
            ctx.exit(130)
        click.secho(f"fovea: {printable(said, keep=chr(10))}", fg="red", err=True)
        ctx.exit(1)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """All commands by task, each with its whole first sentence."""
        for task, commands in TASKS.items():
            with formatter.section(task):
                formatter.write_dl([(str(c.name), c.get_short_help_str(limit=200)) for c in commands])


def _open_closed_streams() -> None:
    """A closed standard stream leads nowhere from here on: the next file to be opened would take its number."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), "r" if name == "stdin" else "w"))


@contextlib.contextmanager
def _usage_in_a_line() -> Iterator[None]:
    """What click says of words that it does not take, without the usage before it."""
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        if isinstance(error, click.BadParameter) and error.ctx and error.param and error.param.name:
            source = error.ctx.get_parameter_source(error.param.name)
            if source is click.core.ParameterSource.ENVIRONMENT:
                error.param_hint = str(error.param.envvar)
        said = " ".join(error.format_message().split()).rstrip(".")
        path = error.ctx.command_path if error.ctx else "fovea"
        click.secho(f"fovea: {said[0].lower()}{said[1:]}; for help: {path} --help", fg="red", err=True)
        raise click.exceptions.Exit(error.exit_code) from None


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Ctrl-C, and a scheduler's SIGTERM likewise, say at once that they were heard: what is under way may take seconds
    to end."""

    def stop(number: int, frame: FrameType | None) -> None:
        for sign in signs:
            signal.signal(sign, signal.default_int_handler)
        if os.getpid() == mine:  # and no child that was forked
            context = click.get_current_context(silent=True)
            way = "; run the same command again and it goes on from here" if context and _goes_on(context) else ""
            os.write(2, f"\nfovea: stopping{way}\n".encode())
        raise KeyboardInterrupt

    def unraisable(error: "sys.UnraisableHookArgs") -> None:
        if error.exc_type is not KeyboardInterrupt:
            hook(error)
        elif os.getpid() == mine:  # Python drops what is raised while something is being destroyed
            threading.Timer(0.05, os.kill, (mine, signs[0])).start()

    mine, hook = os.getpid(), sys.unraisablehook
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signs = [s for s in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(s) is not signal.SIG_IGN]
    before = {sign: signal.signal(sign, stop) for sign in signs}
    sys.unraisablehook = unraisable
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for sign, handler in before.items():
            signal.signal(sign, handler)


#: commands that keep what they have made when they are stopped
GO_ON = {
    "run", "train", "base", "benchmark", "claims run", "claims seal", "evaluate", "saliency-benchmark", "saliency-weights fetch",
}  # fmt: skip


def _goes_on(context: click.Context) -> bool:
    called = context.find_root().command_path  # several words: python -m fovea
    return context.command_path.removeprefix(f"{called} ") in GO_ON


def _disk_note() -> str:
    """What to do when the disk of FOVEA_HOME is full; "" when it is not. Databases say it in words of their own."""
    from assets.home import Home

    try:
        home = Home.from_environment().state
    except FoveaError:
        return ""
    place = next(p for p in (home, *home.parents) if p.exists())
    disk = shutil.disk_usage(place)
    if disk.free >= 1 << 20 or not disk.total:  # /proc and its like have no disk
        return ""
    return f": no space left on the disk of {home}: free some, or set FOVEA_HOME to a larger disk, and run the same command again"


@click.group(cls=Guarded, context_settings=CONTEXT)
@click.version_option(package_name="fovea", prog_name="fovea")
def main() -> None:
    """Saliency-guided learned image compression, as an incremental pipeline.

    \b
    First steps:
      fovea run                                    the whole chain on the embedded sample
      fovea datasets add street ~/photos           register a folder of your own pictures
      fovea run --dataset street --sweep smoke     the same tables and report for them
      fovea status --dataset street                what is stale, and why
      fovea compress photo.png -o photo.fov        one picture, with the shipped codec

    State lies in FOVEA_HOME (default: .fovea/ of the repository), what you typed in fovea.toml of FOVEA_CONFIG
    (default: the repository). Installed as a package, Fovea takes the working directory in place of the repository.
    """
    pin_folders()


@click.command()
@click.option("--port", type=PORT, help="Dagster's port. Default: as last time; at first 3000, or the next free one.")
@click.option("--mlflow-port", type=PORT, help="MLflow's port; likewise, from 5000 on. Stored links follow.")
def ui(port: int | None, mlflow_port: int | None) -> None:
    """Dagster UI with its daemon, and the MLflow UI, on loopback; one Ctrl-C stops all."""
    from pipelines.ui import serve

    serve(port, mlflow_port)


def _choose_profile(context: click.Context, option: click.Parameter, name: str | None) -> None:
    """Everything below this command, child processes too, sees the profile."""
    if not name:
        return
    before = os.environ.get("FOVEA_PROFILE", "")
    os.environ["FOVEA_PROFILE"] = name
    context.call_on_close(lambda: os.environ.update(FOVEA_PROFILE=before))


PROFILE = click.argument("name", required=False, expose_value=False, callback=_choose_profile)


@click.group(cls=Group)
def profile() -> None:
    """Settings for one machine, a cluster or CI: tables [profiles.NAME] of fovea.toml."""


@profile.command()
@PROFILE
def show() -> None:
    """The effective settings of NAME; secrets only as set or not set."""
    from assets.home import Home
    from pipelines.profile_check import shown_settings

    for key, value, meaning in shown_settings(Home.from_environment()):
        click.echo(f"{key:25} {value or '-':44} {meaning}")


@profile.command()
@PROFILE
def check() -> None:
    """Try every part of NAME for real: storage, database, MLflow, executor. Exit code 1 when something does not work."""
    from assets.home import Home
    from pipelines.profile_check import check_profile

    failed = 0
    for line in check_profile(Home.from_environment()):
        failed += not line.good
        word = click.style("ok    ", fg="green") if line.good else click.style("failed", fg="red")
        click.echo(f"{word}  {line.part:9} {line.said}")
    if failed:
        sys.exit(1)


def _with_profiles(group: click.Group) -> None:
    for command in group.commands.values():
        if isinstance(command, click.Group):
            _with_profiles(command)
        elif command.name not in ("compress", "decompress", "cut"):
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


#: as `fovea --help` lists them
TASKS: dict[str, tuple[click.Command, ...]] = {
    "Pictures": (compress, decompress, cut, saliency),
    "Experiments": (datasets, run, status, ui, train, base),
    "Evidence": (benchmark, claims, compare, curves, evaluate, saliency_benchmark),
    "People": (game, study),
    "Machines": (profile, slurm, saliency_weights),
}
for command in (command for commands in TASKS.values() for command in commands):
    main.add_command(command)

_with_profiles(main)


if __name__ == "__main__":
    main()
