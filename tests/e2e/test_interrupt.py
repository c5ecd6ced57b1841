"""Ctrl-C and a scheduler's SIGTERM end a run in the middle of a training at once, and the same command goes on from there."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import ROOT, environment, inside

from assets.frames.sample import make_sample

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
WORDS = ("run", "--dataset", "drawn", "--sweep", "long", "--threads", "1")
#: a training with many checkpoints that takes longer than the test, on any machine
LONG = """
[presets.long]
n = 8
m = 12
batch_size = 4
crop = 64
steps = 100
trunk_steps = 1_000_000
checkpoint_every = 50

[sweeps.long]
codecs = ["bls2017"]
rates = [0.013]
preset = "long"
trunk = "own"
"""
#: of a thread that computes without asking whether there was a signal
AT_ONCE_S = 5.0


def test_an_interrupt_ends_the_run_and_is_no_failure_to_try_again(tmp_path: Path) -> None:
    make_sample(tmp_path / "drawn", seed=3, counts={"train": 4, "val": 1, "test": 2}, size=(256, 128), workers=2)
    here = environment(tmp_path)
    inside(here, "datasets", "add", "drawn", str(tmp_path / "drawn" / "leftImg8bit"))
    with (tmp_path / "config" / "fovea.toml").open("a") as settings:
        settings.write(LONG)

    def checkpoints() -> dict[int, float]:
        """Steps that are kept, and since when."""
        kept = (tmp_path / "home" / "work").glob("*/**/step-*.ckpt")
        return {int(re.findall(r"\d+", p.stem)[-1]): p.stat().st_mtime for p in kept}

    for sign in (signal.SIGINT, signal.SIGTERM):
        before, said = checkpoints(), tmp_path / f"{sign.name}.log"
        with said.open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "pipelines.cli", *WORDS],
                env=here,
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            until = time.monotonic() + 600
            while not (fresh := {step for step, since in checkpoints().items() if before.get(step) != since}):
                assert process.poll() is None and time.monotonic() < until, said.read_text()
                time.sleep(0.1)
            process.send_signal(sign)
            began = time.monotonic()
            while "stopping; run the same command again" not in said.read_text():
                assert time.monotonic() - began < AT_ONCE_S, said.read_text()
                time.sleep(0.05)
            assert process.wait(AT_ONCE_S) == 130, said.read_text()
        assert "Traceback" not in said.read_text()
        assert min(fresh) > max(before, default=0), "it did not go on from the checkpoint"
    done = inside(here, "status", "--dataset", "drawn", "--sweep", "long", check=False)
    assert done.returncode == 2 and "trunk_codec" in done.stdout
