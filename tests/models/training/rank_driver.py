"""Trains alone and with two processes, stopped and killed ones among them; run by test_ranks.py with a folder."""

import contextlib
import os
import signal
import socket
import sys
import time
from pathlib import Path

from trainings import LMBDA, forked, frames, generative, made_codec, objective, preload, record, train_here, waited

from models.training.adversarial import Adversarial
from models.training.data import FrameSet
from models.training.loop import TrainingStopped
from models.training.ranks import join, joined
from models.training.rate_distortion import RateDistortion

preload("agustsson2019", "bls2017", "mbt2018_mean")

CASES = (("bls2017", "gain"), ("mbt2018_mean", "loss"), ("mbt2018_mean", "hyper"), ("agustsson2019", "select"))


def rate_distortion(codec: str, mechanism: str, frames: FrameSet) -> RateDistortion:
    lmbda = LMBDA if mechanism != "loss" else LMBDA[:1]
    size = {"crop": 64, "steps": 4} if codec == "mbt2018_mean" else {"crop": 32}
    budget = {"batch_size": 3, "lr": 1e-3, "ema": 0.9, "augment": 0.5, **size}
    given = record(codec, mechanism=mechanism, lmbda=list(lmbda), **budget)
    return RateDistortion(given, made_codec(mechanism, lmbda, codec, n=6, m=8), frames)


def adversarial(codec: str, mechanism: str, frames: FrameSet) -> Adversarial:
    """With noise, both phases, and crops that the judges see from places of their own."""
    budget = {"steps": 4, "batch_size": 3, "crop": 80, "ema": 0.9}
    return objective(generative(f"saliency_{mechanism}", budget, jitter=4, noise=2, start=0.25), frames)


def share(folder: Path, codec: str, mechanism: str, stop: int) -> Path:
    """This process's part, or the whole training when it is alone."""
    training = (adversarial if codec == "agustsson2019" else rate_distortion)(codec, mechanism, frames(60, 70))
    steps = iter(range(1, 100))
    stopped = (lambda: next(steps) > stop) if stop else None
    return train_here(training, folder, checkpoint_every=3, should_stop=stopped)


def rank(folder: Path, codec: str, mechanism: str, stop: int) -> None:
    with join("cpu"):
        own = folder if joined().first else folder / "nobody-writes-here"
        with contextlib.suppress(TrainingStopped):
            share(own, codec, mechanism, stop)
        assert joined().first or not own.exists()


def together(folder: Path, codec: str, mechanism: str, *, stop: int = 0, kill: bool = False) -> None:
    """Two processes, forked from this one, where torch is imported and nothing has been computed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pids = [
        forked(
            lambda: rank(folder, codec, mechanism, stop),
            MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", RANK=str(number),
        )
        for number in range(2)
    ]  # fmt: skip
    if kill:
        deadline = time.monotonic() + 60
        while not list(folder.glob("*.ckpt")) and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(pids[1], signal.SIGKILL)
    codes = [os.waitpid(pid, 0)[1] for pid in pids]
    assert all(codes) if kill else not any(codes), codes


def main(folder: Path) -> None:
    for codec, mechanism in CASES:
        waited(forked(lambda own=(folder / f"one-{codec}-{mechanism}", codec, mechanism, 0): share(*own)))
        together(folder / f"two-{codec}-{mechanism}", codec, mechanism)
    together(folder / "parts", *CASES[0], stop=4)
    assert list((folder / "parts").glob("*.ckpt"))
    waited(forked(lambda: share(folder / "parts", *CASES[0], 0)))
    together(folder / "killed", *CASES[0], kill=True)
    together(folder / "killed", *CASES[0])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
