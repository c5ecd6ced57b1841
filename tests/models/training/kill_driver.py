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

import torch
from trainings import forked, frames, generative, made_codec, objective, preload, record, train_here, waited

from models.tracking import Run
from models.training.critics import EfficientFeatures
from models.training.rate_distortion import RateDistortion

preload("agustsson2019", "bls2017")


class JournalRun(Run):
    """Appends rows to a file, as a tracker outside of the process would keep them."""

    def __init__(self, path):
        self.path = path

    def log_metrics(self, rows):
        with self.path.open("a") as file:
            file.write("".join(json.dumps([step, dict(values)]) + "\n" for step, values in rows))


def run(folder, codec=None, seed=3):
    budget = {"steps": 40, "lr": 1e-3, "aux_lr": 1e-3, "warmup_steps": 4, "ema": 0.9}
    folder.mkdir(parents=True, exist_ok=True)
    training = RateDistortion(record(mechanism="loss", seed=seed, **budget), codec or made_codec("loss"), frames())
    seen = {"probe": lambda step, codec: {"probe/first": float(next(codec.parameters()).sum())}, "probe_every": 20}
    return train_here(training, folder, JournalRun(folder / "journal"), checkpoint_every=5, **seen)


def run_adversarial(folder):
    given = generative(overrides={"steps": 16, "ema": 0.9}, noise=2, start=0.25)
    return train_here(objective(given, frames(70, 72, maps=False)), folder, checkpoint_every=3)


def sha(folder):
    files = sorted((folder / "final").glob("*.safetensors"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def killed_runs(work, folder, seconds, kills):
    """Trainings that are started, killed at a random moment and started again, until so many kills have hit.

    At most four kills in one training, which then goes on undisturbed. Returns their digests.
    """
    rng, hits, found = random.Random(0), 0, []
    while hits < kills:
        own = folder / f"killed{len(found)}"
        for _ in range(4):
            pid = forked(lambda own=own: work(own))
            time.sleep(rng.uniform(0, seconds))
            os.kill(pid, signal.SIGKILL)
            hit = os.WIFSIGNALED(os.waitpid(pid, 0)[1])
            hits += hit
            if not hit or hits == kills:
                break
        waited(forked(lambda own=own: work(own)))
        found.append(sha(own))
    return found


def beside(folder):
    """Two trainings in two threads of one process, while a third thread draws from the global generator."""
    one, other = made_codec("loss"), made_codec("loss")
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


def undisturbed_and_killed(folder, work, kills):
    """Digests of a training from beginning to end, and of others that are killed within the time that the first takes."""
    begun = time.monotonic()
    waited(forked(lambda: work(folder / "a")))
    killed = killed_runs(work, folder, 0.7 * (time.monotonic() - begun), kills)
    return {"a": sha(folder / "a"), "killed": killed}


def main(folder):
    EfficientFeatures("efficientnet")
    result = undisturbed_and_killed(folder, run, 10)
    result["adversarial"] = undisturbed_and_killed(folder / "adversarial", run_adversarial, 4)
    waited(forked(lambda: run(folder / "b")))
    waited(forked(lambda: beside(folder / "beside")))
    for pid in [forked(lambda s=s: run(folder / f"process{s}", seed=s)) for s in (3, 4)]:
        waited(pid)
    names = ("b", "beside/one", "beside/other", "process3", "process4")
    print(json.dumps(result | {name: sha(folder / name) for name in names}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
