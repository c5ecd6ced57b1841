"""Tiny trainings of every kind, whole and in parts; their weights on record where arithmetic is the same."""

import hashlib
import itertools
from pathlib import Path

import pytest
import torch
from eyes import looked_at
from trainings import LMBDA, frames, generative, made_codec, objective, record, train_here

from models.codecs import light
from models.experiments import Trunk
from models.training import rate_distortion
from models.training.adversarial import DISCRIMINATORS
from models.training.loop import TrainingStopped
from models.training.rate_distortion import RateDistortion
from models.training.sam_lite import SamLiteConfig, SamLiteTraining

#: what `arithmetic` gives where the weights were recorded, by whether it is fast
SAME_ARITHMETIC = {
    False: "c23220a1d6f9d5b6c39487e6645cfb9f5de801fab8568ae67bfb9dd4deb773a1",
    True: "51dbff87b4d4c3b2f410686aef35ef21e1f6af67e18cd51971be70e1b13a855e",
}
ON_RECORD = {
    "trunk": "6afffadb63e77b9911f2831492de2100a307cdfc2c739c90c15674d8046e8821",
    "loss": "7ae812bb2769e092cce276d5ed6521f2957239d879fff3d6072a66a6d64dbc42",
    "sft": "2aa80885d40cd2c92b273798baf73361a750fe68bedaa13d81989432fd79013c",
    "hyper": "9d65a711842fc9885a8cc3f4e3571653930efece079bb490fc105eed3c0cea96",
    "gain-fast": "941cab8651089ac4f24e2620ee38f3c1cc05c30cdfb0e07803977753c87a94f6",
    "gan": "e4758c1436449afac39bb2e4ad42956e8ca83e9f41e797b31341c05c6b64e0fe",
    "gan-select": "bdfc47c1d0d62e37ba5f8554b86ecae6d2a1acce75add62c375886ad6bef3b51",
    "sam_lite": "f221b786c38db4caa6fff39bc2332d35adbdebaa3de9656d27e1976f444011d1",
}


def codec(name, mechanism, lmbda=LMBDA, **changed):
    budget = {"steps": 12, "batch_size": 3, "ema": 0.9, "augment": 0.5, "warmup_steps": 3, "lmbda": list(lmbda)}
    crop = Trunk(codec=name, dataset="d", preset="tiny").resolved()["crop"]
    made = made_codec(mechanism, lmbda, name, n=8, m=12)
    return RateDistortion(record(name, mechanism=mechanism, crop=crop, **budget | changed), made, frames(85, 85))


def gan(name="uniform", **options):
    return objective(generative(name, {"steps": 10, "ema": 0.9, "crop": 80}, **options), frames(85, 85))


def sam_lite():
    pictures, table = looked_at()
    config = SamLiteConfig(rows=64, batch_size=4, head_epochs=2, epochs=2, warmup_steps=2, patience=0)
    split = {name: "train" if i < 6 else "val" for i, name in enumerate(pictures)}
    return SamLiteTraining(pictures.__getitem__, table, split, config)


CASES = {
    "trunk": lambda: codec("bls2017", "none"),
    "loss": lambda: codec("bmshj2018_factorized", "loss", (0.01,)),
    "sft": lambda: codec("bls2017", "sft", fresh_lr_factor=10.0),
    "hyper": lambda: codec("mbt2018_mean", "hyper"),
    "gain-fast": lambda: codec("bls2017", "gain", mode="fast"),
    "light-soap": lambda: codec("light", "gain", mode="fast", optimiser="soap", balance=0.4),
    "gan": lambda: gan(noise=2, start=0.25),
    "gan-select": lambda: gan("saliency_select", jitter=4, chroma=4.0),
    "sam_lite": sam_lite,
}


def digest(case, folder: Path, *stops):
    """SHA-256 of the weights of a training that is stopped after so many steps, and so many, and goes on."""
    for stop in (*stops, None):
        steps = itertools.count(1)
        try:
            stopped = None if stop is None else (lambda steps=steps, stop=stop: next(steps) == stop)
            final = train_here(CASES[case](), folder, checkpoint_every=5, should_stop=stopped)
        except TrainingStopped:
            continue
    files = [*final.glob("*.safetensors")]
    files.sort(key=lambda path: path.name == DISCRIMINATORS)
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def arithmetic(fast: bool) -> str:
    """How this processor rounds: a digest of a product, a convolution with its gradient, and a few functions; where it is
    fast, with bfloat16's products, which processors that have instructions for them sum in different orders."""
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(4, 8, 24, 24, generator=generator), torch.randn(12, 8, 5, 5, generator=generator)
    w.requires_grad_()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.autocast("cpu", torch.bfloat16, enabled=fast):
        y = torch.nn.functional.conv2d(x, w, stride=2)
        flat = y.flatten(1)
        z = torch.log_softmax(flat @ flat.T, 1) + torch.sigmoid(flat[:, :4]) + torch.erf(flat[:, 4:8])
    y, z = y.float(), z.float()
    (z.square().mean() + y.to(torch.bfloat16).float().norm()).backward()
    torch.set_num_threads(threads)
    seen = b"".join(t.detach().numpy().tobytes() for t in (y, z, w.grad))
    return hashlib.sha256(seen + torch.__version__.encode()).hexdigest()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Where the plan is fast, as on the processor that the record is from; and few blocks for first weights."""
    monkeypatch.setattr(rate_distortion, "has_bfloat16", lambda device: True)
    monkeypatch.setattr(light, "SEEN", 1000)


@pytest.mark.parametrize("case", CASES)
def test_stopped_and_resumed_ends_at_the_weights_of_an_undisturbed_training(tmp_path, case):
    whole = digest(case, tmp_path / "whole")
    assert digest(case, tmp_path / "parts", 1, 4, 3) == whole
    if any(arithmetic(fast) != SAME_ARITHMETIC[fast] for fast in {False, case.endswith("fast")}):
        pytest.skip("equal, but this processor or torch rounds otherwise than where the weights were recorded")
    assert whole == ON_RECORD.get(case, whole)
