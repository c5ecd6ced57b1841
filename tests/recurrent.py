"""Very small recurrent codecs."""

import functools

import numpy as np
import pytest
import torch
from scenes import scene

from models.codecs import catalogue
from models.codecs.base import CodecConfig
from models.codecs.bit_context import BitContext
from models.codecs.toderici2017 import Toderici2017
from models.training.recurrent import random_stops

M, T = 8, 4


def untrained_recurrent(mechanism: str = "none", seed: int = 0, bits: float = 30, **options: object) -> Toderici2017:
    """With random weights that move what is shown by a fair bit. bits: how much larger than usual the codes are."""
    torch.manual_seed(seed)
    chosen = tuple(sorted({"unrolled": T, "reconstruction": "additive", **options}.items()))
    span = 3.0 if mechanism == "gain" else 0.0
    config = CodecConfig(codec="toderici2017", n=16, m=M, mechanism=mechanism, lmbda=(), span=span, options=chosen)
    codec = catalogue.build(config).eval()
    with torch.no_grad():
        codec.decoder.last.weight.mul_(8)
        codec.encoder.last[0].weight.mul_(bits)
    return codec


def recurrent_weights(steps: int = 100) -> dict[str, torch.Tensor]:
    """After seconds of training on crops: enough for bits that say something, not for the last iterations."""
    codec = untrained_recurrent(bits=1).train()
    pictures = np.stack([scene(112, 112, seed) for seed in range(16)])
    crops = np.concatenate([pictures[:, i : i + 32, j : j + 32] for i in (0, 40, 80) for j in (0, 40, 80)])
    x = torch.from_numpy(crops).permute(0, 3, 1, 2) / 255.0
    optimiser = torch.optim.Adam(codec.parameters(), lr=1e-2)
    torch.manual_seed(1)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 1e-2 * (1 - step / steps)
        some = x[torch.randint(len(x), (16,))]
        shown = codec.unroll(some, random_stops(some, 16, T), T)
        loss = torch.stack([(v - some).abs().mean() for _, v in shown]).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
        optimiser.step()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(BitContext, "fit", functools.partialmethod(BitContext.fit, steps=100))
        codec.eval().fit([scene(80, 112, seed) for seed in range(10)])
    return codec.weights()
