"""Tiny trainings, and processes that carry them out and may be killed."""

import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scenes import scene, spot

from models.arms import arm
from models.codecs import context
from models.codecs.base import Codec, CodecConfig
from models.codecs.catalogue import build, config_for
from models.experiments import Experiment, Trunk
from models.tracking import Run
from models.training.adversarial import Adversarial
from models.training.data import FrameSet
from models.training.loop import train

ROOT = Path(__file__).parents[1]
LMBDA = (0.002, 0.02, 0.1)


def frames(height: int = 40, width: int = 44, *, count: int = 5, seed: int = 0, maps: bool = True) -> FrameSet:
    """Noise, each picture a column wider than the one before."""
    rng = np.random.default_rng(seed)
    pictures = [rng.integers(0, 256, (height, width + i, 3), dtype=np.uint8) for i in range(count)]
    return FrameSet(pictures, [p[..., 1].copy() for p in pictures] if maps else None)


def record(codec: str = "bls2017", **changed) -> dict:
    """A trunk's, with what a mechanism needs."""
    base = Trunk(codec=codec, dataset="d", preset="tiny", rates=LMBDA).resolved()
    small = {"steps": 8, "crop": 32, "batch_size": 2, "lmbda": list(LMBDA)}
    return base | small | {"alpha": 0.1, "gamma": 0.5, "normalised": True, "scale": 1.0} | changed


def made_codec(mechanism: str = "none", lmbda: tuple[float, ...] = LMBDA, codec: str = "bls2017", n: int = 4, m: int = 6) -> Codec:  # fmt: skip
    """With the same first weights each time."""
    torch.manual_seed(0)
    gained = {"gamma": 0.5, "span": 1.0} if mechanism in ("gain", "hyper") else {}
    return build(CodecConfig(codec=codec, n=n, m=m, mechanism=mechanism, lmbda=lmbda, **gained))


def untrained(config: CodecConfig, seed: int = 0) -> Codec:
    """With the same first weights each time, and coding tables."""
    torch.manual_seed(seed)
    codec = build(config).eval()
    codec.update()
    return codec


def shortly_trained(config: CodecConfig, steps: int) -> Codec:
    """In training mode, after `steps` on four drawn pictures with a bright place; without tables."""
    torch.manual_seed(0)
    codec = build(config)
    optimiser = torch.optim.Adam(codec.main_parameters(), lr=2e-3)
    x = torch.from_numpy(np.stack([scene(64, 64, seed) for seed in range(4)])).permute(0, 3, 1, 2) / 255.0
    s = torch.from_numpy(spot(64, 64))[None, None].expand(4, 1, 64, 64) / 255.0
    for _ in range(steps):
        out = codec(x, saliency_map=s, level=torch.rand(4) * codec.top_level)
        rate = sum(-torch.log2(v).sum() for v in out.likelihoods.values()) / (4 * 64 * 64)
        loss = rate + (out.lmbda * 255**2 * (out.x_hat - x).square()).mean() + torch.as_tensor(out.penalty).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(codec.main_parameters(), 1.0)
        optimiser.step()
    return codec


def objective(record: Experiment, frames: FrameSet, kind: type[Any] = Adversarial) -> Any:
    """With the same first weights each time."""
    torch.manual_seed(0)
    return kind(record.resolved(), build(config_for(record)), frames)


def train_here(objective: Any, folder: Path, run: Run | None = None, **hooks: Any) -> Path:
    """On one thread. Gives the folder of what was trained."""
    return train(objective, workdir=folder, tracker_run=run or Run(), threads=1, **hooks)


def generative(name: str = "uniform", overrides: dict | None = None, **options) -> Experiment:
    """An arm of the GAN codec."""
    extreme = {"dataset": "sample", "codec": "agustsson2019", "preset": "gan_tiny", "rates": (4.0,)}
    return Experiment(**extreme, overrides={"steps": 4, "crop": 64, **(overrides or {})}, options=options, **arm(name))


def preload(*codecs: str) -> None:
    """Before forking: these codecs, and what torch imports for a process's first optimiser, longer than a tiny training."""
    for module in (*(f"models.codecs.{name}" for name in codecs), "torch._dynamo"):
        import_module(module)


def forked(work: Callable[[], object], **environment: str) -> int:
    """The number of a child that works, and ends with 1 when that raises. For processes that have computed nothing."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.environ |= environment
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def waited(pid: int) -> None:
    status = os.waitpid(pid, 0)[1]
    assert status == 0, status


def driven(*words: object, folder: Path = ROOT, **environment: str) -> str:
    """What Python prints, on one thread, that is given these words: a script with its arguments, or -c and code."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *map(str, words)],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True, text=True, timeout=580, check=False, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def context_weights(codec, seed=0):
    """A context model for a codec that says much, and nothing of use."""
    torch.manual_seed(seed)
    model = context.ContextModel(codec.config.m)
    model.order.copy_(torch.randperm(codec.config.m))
    for network in model.networks:
        torch.nn.init.normal_(network[-1].weight, std=0.3)
    return context.weights(model, codec.coding_scales)
