"""The command line, in processes of its own and in this one, on a home and a configuration below one folder."""

import contextlib
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from click.testing import CliRunner

ROOT = Path(__file__).resolve().parents[1]


def environment(base: Path, **more: str) -> dict[str, str]:
    """State in `base`/home and settings in `base`/config (made here), whatever this process's environment says. One thread, as
    in the tests themselves: there is a worker on each core."""
    (base / "config").mkdir(parents=True, exist_ok=True)
    foreign = ("CITYSCAPES_", "DAGSTER_", "FOVEA_", "PYTHONDONTWRITEBYTECODE")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    here = {"FOVEA_HOME": str(base / "home"), "FOVEA_CONFIG": str(base / "config"), "PYTHONPATH": str(ROOT)}
    return kept | here | {"PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"} | more


def python(given: dict[str, str], *words: str) -> "subprocess.CompletedProcess[str]":
    """In the folder of the code that the environment names, so that a copy of it can be tried."""
    return subprocess.run(
        [sys.executable, *words], cwd=given["PYTHONPATH"], env=given, capture_output=True, text=True, timeout=900
    )  # fmt: skip


def fovea(given: dict[str, str], *words: str, check: bool = False) -> "subprocess.CompletedProcess[str]":
    done = python(given, "-m", "pipelines.cli", *words)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(words)}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done


@contextlib.contextmanager
def inside_of(given: dict[str, str]) -> Iterator[None]:
    """This process with that environment, and without the warnings that are errors in tests: others' are not ours."""
    with mock.patch.dict(os.environ, given, clear=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def inside(given: dict[str, str], *words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """The command in this process, which has imported what each process of its own would take seconds to import."""
    from pipelines.cli import main

    with inside_of(given):
        done = CliRunner().invoke(main, words)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    if check and done.exit_code:
        raise AssertionError(f"{' '.join(words)}: {done.output[-3000:]}")
    return subprocess.CompletedProcess(words, done.exit_code, done.stdout, done.stderr)
