"""Trains in forked children, some of which are killed, and prints what came out as JSON.

torch and compressai are imported once, here; this process itself never runs a training, so that forking is safe.
"""

import hashlib
import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import torch
import torch._inductor.config  # what use_deterministic_algorithms imports costs seconds: before forking, not in each child

import models.codecs.bls2017  # noqa: F401  (so does this)
from models.codecs.base import CodecConfig
from models.codecs.catalogue import build
from models.tracking import NullRun
from models.training.data import FrameSet
from models.training.loop import train
from models.training.rate_distortion import RateDistortion

LMBDA = (0.002, 0.02, 0.1)


def record(**changed):
    return {
        "mechanism": "loss",
        "alpha": 0.1,
        "gamma": 0.5,
        "normalised": True,
        "scale": 1.0,
        "lmbda": list(LMBDA),
        "distortion": "mse",
        "seed": 3,
        "steps": 40,
        "batch_size": 2,
        "crop": 32,
        "lr": 1e-3,
        "aux_lr": 1e-3,
        "clip_norm": 1.0,
        "warmup_steps": 4,
        "final_lr_factor": 0.05,
        "ema": 0.9,
    } | changed


def frames():
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (40, 44 + i, 3), dtype=np.uint8) for i in range(5)]
    return FrameSet(pictures, [p[..., 1].copy() for p in pictures])


class JournalRun(NullRun):
    """Appends rows to a file, as a tracker outside of the process would keep them."""

    def __init__(self, path):
        self.path = path

    def log_metrics(self, rows):
        with self.path.open("a") as file:
            file.write("".join(json.dumps([step, dict(values)]) + "\n" for step, values in rows))


def initial():
    torch.manual_seed(0)
    return build(CodecConfig(codec="bls2017", n=4, m=6, mechanism="loss", lmbda=LMBDA))


def run(folder, codec=None, **changed):
    values = record(**changed)
    codec = codec or initial()
    folder.mkdir(parents=True, exist_ok=True)
    return train(
        RateDistortion(values, codec, frames()),
        workdir=folder,
        tracker_run=JournalRun(folder / "journal"),
        probe=lambda step, seen: {"probe/first": float(next(seen.parameters()).sum())},
        threads=1,
        checkpoint_every=5,
        probe_every=20,
    )


def forked(work):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def waited(pid):
    status = os.waitpid(pid, 0)[1]
    assert status == 0, status


def sha(folder):
    return hashlib.sha256((folder / "final" / "weights.safetensors").read_bytes()).hexdigest()


def killed_runs(folder, seconds, kills, rng):
    """Trainings that are started, killed at a random moment and started again, until so many kills have hit.

    At most four kills in one training, which then goes on undisturbed. Returns the number of trainings.
    """
    hits = count = 0
    while hits < kills:
        own = folder / f"killed{count}"
        count += 1
        for _ in range(4):
            pid = forked(lambda own=own: run(own))
            time.sleep(rng.uniform(0, seconds))
            os.kill(pid, signal.SIGKILL)
            hit = os.WIFSIGNALED(os.waitpid(pid, 0)[1])
            hits += hit
            if not hit or hits == kills:
                break
        waited(forked(lambda own=own: run(own)))
    return count


def beside(folder):
    """Two trainings in two threads of one process, while a third thread draws from the global generator."""
    one, other = initial(), initial()
    done = threading.Event()

    def draws():
        while not done.is_set():
            torch.rand(3)

    others = [
        threading.Thread(target=draws, daemon=True),
        threading.Thread(target=run, args=(folder / "other", other), kwargs={"seed": 9}),
    ]
    for thread in others:
        thread.start()
    run(folder / "one", one)
    others[1].join()
    done.set()


def main(folder):
    result = {}
    begun = time.monotonic()
    waited(forked(lambda: run(folder / "a")))
    seconds = time.monotonic() - begun
    waited(forked(lambda: run(folder / "b")))
    rng = random.Random(0)
    killed = killed_runs(folder, 0.7 * seconds, 10, rng)
    waited(forked(lambda: beside(folder / "beside")))
    pids = [forked(lambda s=s: run(folder / f"process{s}", seed=s)) for s in (3, 4)]
    for pid in pids:
        waited(pid)
    for name in ("a", "b", "beside/one", "beside/other", "process3", "process4"):
        result[name] = sha(folder / name)
    result["killed"] = [sha(folder / f"killed{i}") for i in range(killed)]
    print(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
