"""Trains alone and with two processes, stopped and killed ones among them; run by test_ranks.py with a folder."""

import contextlib
import os
import signal
import socket
import sys
import time
import warnings
from pathlib import Path

warnings.simplefilter("ignore")

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch._inductor.config  # noqa: E402  (these cost seconds: before forking, not in each child)

import models.codecs.agustsson2019  # noqa: E402
import models.codecs.bls2017  # noqa: E402
import models.codecs.mbt2018_mean  # noqa: E402, F401
from models.arms import arm  # noqa: E402
from models.codecs.base import CodecConfig  # noqa: E402
from models.codecs.catalogue import build, config_for  # noqa: E402
from models.experiments import Experiment, Trunk  # noqa: E402
from models.tracking import NullRun  # noqa: E402
from models.training.adversarial import Adversarial  # noqa: E402
from models.training.data import FrameSet  # noqa: E402
from models.training.loop import TrainingStopped, train  # noqa: E402
from models.training.ranks import join, joined  # noqa: E402
from models.training.rate_distortion import RateDistortion  # noqa: E402

CASES = (
    ("bls2017", "gain"),
    ("mbt2018_mean", "loss"),
    ("mbt2018_mean", "hyper"),
    ("agustsson2019", "select"),
)
LMBDA = (0.002, 0.02, 0.1)


def record(codec: str, mechanism: str) -> dict:
    base = Trunk(codec=codec, dataset="d", preset="tiny", rates=LMBDA).resolved()
    return base | {
        "mechanism": mechanism,
        "alpha": 0.1,
        "gamma": 0.5,
        "normalised": True,
        "scale": 1.0,
        "steps": 8,
        "crop": 64 if codec == "mbt2018_mean" else 32,
        "batch_size": 3,
        "lr": 1e-3,
        "ema": 0.9,
        "augment": 0.5,
    }


def rate_distortion(codec: str, mechanism: str, frames: FrameSet) -> RateDistortion:
    torch.manual_seed(0)
    lmbda = LMBDA if mechanism != "loss" else LMBDA[:1]
    gained = {"gamma": 0.5, "span": 1.0} if mechanism in ("gain", "hyper") else {}
    made = build(CodecConfig(codec=codec, n=6, m=8, mechanism=mechanism, lmbda=lmbda, **gained))
    return RateDistortion(record(codec, mechanism) | {"lmbda": list(lmbda)}, made, frames)


def adversarial(codec: str, mechanism: str, frames: FrameSet) -> Adversarial:
    """With noise, both phases, and crops that the judges see from places of their own."""
    given = Experiment(
        dataset="d",
        codec=codec,
        preset="gan_tiny",
        rates=(4.0,),
        overrides={"steps": 8, "batch_size": 3, "crop": 80, "ema": 0.9},
        options=(("jitter", 4), ("noise", 2), ("start", 0.25)),
        **arm(f"saliency_{mechanism}"),
    )
    torch.manual_seed(0)
    return Adversarial(given.resolved(), build(config_for(given)), frames)


def share(folder: Path, codec: str, mechanism: str, stop: int) -> Path:
    """This process's part, or the whole training when it is alone."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (60 + i, 70, 3), dtype=np.uint8) for i in range(5)]
    frames = FrameSet(pictures, [p[..., 1].copy() for p in pictures])
    objective = (adversarial if codec == "agustsson2019" else rate_distortion)(codec, mechanism, frames)
    steps = iter(range(1, 100))
    return train(
        objective,
        workdir=folder,
        tracker_run=NullRun(),
        threads=1,
        checkpoint_every=3,
        should_stop=(lambda: next(steps) > stop) if stop else None,
    )


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
    pids = []
    for number in range(2):
        pid = os.fork()
        if pid == 0:
            os.environ |= {
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "WORLD_SIZE": "2",
                "RANK": str(number),
            }
            code = 1
            try:
                rank(folder, codec, mechanism, stop)
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)
    if kill:
        deadline = time.monotonic() + 60
        while not list(folder.glob("*.ckpt")) and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(pids[1], signal.SIGKILL)
    codes = [os.waitpid(pid, 0)[1] for pid in pids]
    assert all(codes) if kill else not any(codes), codes


def alone(*given) -> None:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            share(*given)
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


def main(folder: Path) -> None:
    for codec, mechanism in CASES:
        alone(folder / f"one-{codec}", codec, mechanism, 0)
        together(folder / f"two-{codec}", codec, mechanism)
    together(folder / "parts", *CASES[0], stop=4)
    assert list((folder / "parts").glob("*.ckpt"))
    alone(folder / "parts", *CASES[0], 0)
    together(folder / "killed", *CASES[0], kill=True)
    together(folder / "killed", *CASES[0])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
