"""Adversarial trainings in forked children, some of which are killed; prints the weights' digests as JSON."""

import hashlib
import json
import os
import random
import re
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch._inductor.config

import models.codecs.agustsson2019  # noqa: F401  (so does this)
from models.codecs.catalogue import build, config_for
from models.experiments import Experiment
from models.tracking import NullRun
from models.training.adversarial import DISCRIMINATORS, Adversarial
from models.training.critics import feature_network
from models.training.data import FrameSet
from models.training.loop import train

STEPS = 24


def experiment(**options):
    chosen = {"noise": 2, "start": 0.25, **options}
    return Experiment(
        dataset="sample",
        codec="agustsson2019",
        preset="gan_tiny",
        rates=(4.0,),
        overrides={"steps": STEPS, "ema": 0.9},
        options=tuple(sorted(chosen.items())),
    )


def frames():
    rng = np.random.default_rng(0)
    return FrameSet([rng.integers(0, 256, (70, 72 + i, 3), dtype=np.uint8) for i in range(5)])


def run(folder, **kwargs):
    record = experiment()
    torch.manual_seed(0)
    return train(
        Adversarial(record.resolved(), build(config_for(record)), frames()),
        workdir=folder,
        tracker_run=NullRun(),
        threads=1,
        checkpoint_every=3,
        **kwargs,
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


def sha(folder):
    names = ("weights.safetensors", DISCRIMINATORS)
    return [hashlib.sha256((folder / "final" / n).read_bytes()).hexdigest() for n in names]


def reached(folder):
    """The step of the last checkpoint; that of a finished training is the last step."""
    steps = [int(re.findall(r"\d+", f.stem)[-1]) for f in folder.glob("**/step-*.ckpt")]
    return STEPS if (folder / "final").exists() else max(steps, default=0)


def main(folder):
    feature_network("efficientnet")
    begun = time.monotonic()
    assert os.waitpid(forked(lambda: run(folder / "a")), 0)[1] == 0
    seconds = time.monotonic() - begun
    rng = random.Random(0)
    hits = 0
    for least in (3, 9, 15):
        pid = forked(lambda: run(folder / "killed"))
        # how long steps take is the machine's business: somewhere after that checkpoint, before the end
        while reached(folder / "killed") < least:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 2) * seconds / STEPS)
        os.kill(pid, signal.SIGKILL)
        hits += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    assert os.waitpid(forked(lambda: run(folder / "killed")), 0)[1] == 0
    print(json.dumps({"a": sha(folder / "a"), "killed": sha(folder / "killed"), "hits": hits}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
