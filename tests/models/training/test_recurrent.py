import functools
import json

import numpy as np
import pytest
import torch
from recurrent import untrained_recurrent
from scenes import scene
from trainings import objective, train_here

from models.arms import arm
from models.codecs.base import picture_to_tensor
from models.codecs.bit_context import BitContext
from models.codecs.catalogue import config_for, load_codec
from models.experiments import Experiment, Trunk
from models.losses import SSIM_C1, SSIM_C2
from models.training.data import FrameSet
from models.training.loop import TrainingStopped
from models.training.recurrent import Recurrent, dissimilarity, error, middles, random_stops

RATES = (1.0, 2.0, 4.0)
FRAMES = FrameSet([scene(40 + i, 56, i) for i in range(5)])


def experiment(**fields):
    return Experiment(dataset="sample", codec="toderici2017", preset="recurrent_tiny", rates=RATES, **fields)


@pytest.fixture(autouse=True)
def short_fit(monkeypatch):
    """The context of bits, whose regressions take longer than these trainings, says something after a few steps."""
    monkeypatch.setattr(BitContext, "fit", functools.partialmethod(BitContext.fit, steps=20))


def trained(folder, record, **hooks):
    return train_here(objective(record, FRAMES, Recurrent), folder, **hooks)


def test_a_training_learns_and_its_file_codes_in_context(tmp_path):
    folder = trained(tmp_path, experiment(overrides={"steps": 60}, options={"loss": "l1_ssim"}))
    rows = [r for r in json.loads((folder / "history.json").read_text()) if "loss" in r]
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]
    codec = load_codec(folder)
    assert codec.context.weights.any() and codec.rates == (1.0, 2.0, 3.0, 4.0)
    assert all(torch.equal(p, p.half().float()) for p in codec.parameters())
    encoded = codec.encode(FRAMES.pictures[0], rate=4)
    assert np.array_equal(codec.decode_checked(encoded), encoded.reconstruction)


def test_stopped_and_resumed_ends_at_the_same_weights(tmp_path):
    record = experiment(overrides={"steps": 6})
    whole = trained(tmp_path / "a", record)
    asked = iter([False, False, True])
    with pytest.raises(TrainingStopped):
        trained(tmp_path / "b", record, should_stop=lambda: next(asked, True))
    parts = trained(tmp_path / "b", record)
    assert load_codec(whole).identity() == load_codec(parts).identity()


def test_random_stops_are_all_iterations_for_half_and_spread_for_the_others():
    torch.manual_seed(0)
    stops = random_stops(torch.zeros(400, 3, 64, 64), 16, 8)
    assert stops.shape == (400, 1, 4, 4) and stops.min() == 1 and stops.max() == 8
    even = (stops == 8).flatten(1).all(dim=1)
    assert 0.4 < float(even.float().mean()) < 0.65 and set(stops.unique().tolist()) == set(range(1, 9))
    assert float((stops.amax(dim=(2, 3)) - stops.amin(dim=(2, 3)))[~even].max()) <= 6


def test_errors_are_those_that_the_papers_weigh():
    a, b = (picture_to_tensor(scene(48, 64, seed), 16) for seed in (1, 2))
    assert float(error(a, b, "l1")) == pytest.approx(float((a - b).abs().mean()))
    assert float(error(a, b, "mse")) == pytest.approx(float((a - b).square().mean()))
    valid = torch.zeros(1, 1, 48, 64)
    valid[..., :16] = 1
    assert float(error(a, b, "l1", valid)) == pytest.approx(float((a - b).abs()[..., :16].mean()), rel=1e-5)
    # one window by hand, and a place that is alike counts less than one that is not
    apart = dissimilarity(a, b)
    x, y = a[0, 1, 20:27, 30:37].double(), b[0, 1, 20:27, 30:37].double()
    covariance = ((x - x.mean()) * (y - y.mean())).mean()
    ssim = (2 * x.mean() * y.mean() + SSIM_C1) * (2 * covariance + SSIM_C2)
    ssim /= (x.mean() ** 2 + y.mean() ** 2 + SSIM_C1) * (x.var(correction=0) + y.var(correction=0) + SSIM_C2)
    assert float(apart[0, 1, 23, 33]) == pytest.approx(float((1 - ssim) / 2), rel=1e-3)
    half = torch.cat((a[..., :32], b[..., 32:]), dim=3)
    assert float(error(half, a, "l1_ssim")) > float(error(half, a, "l1"))


def test_middles_are_cut_from_pictures_of_all_sizes():
    found = middles(FrameSet([scene(40, 300), scene(300, 40), scene(300, 300)]))
    assert [m.shape for m in found] == [(40, 256, 3), (192, 40, 3), (192, 256, 3)]


def test_every_part_of_the_network_is_trained():
    codec = untrained_recurrent().train()
    x = picture_to_tensor(scene(32, 32), 16)
    sum(error(v, x, "l1") for _, v in codec.unroll(x, torch.tensor(4), 4)).backward()
    assert [n for n, p in codec.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_an_arm_branches_from_a_trunk_as_it_is():
    trunk = Trunk(dataset="sample", codec="toderici2017", preset="recurrent_tiny", rates=RATES)
    branch = experiment(trunk=trunk, overrides={"steps": 0}, **arm("saliency_gain"))
    assert branch.untrained and config_for(trunk).options == config_for(experiment()).options
    assert dict(config_for(trunk).options)["unrolled"] == 4 and "loss" not in dict(config_for(trunk).options)
    assert branch.resolved()["iterations"] == [1.0, 2.0, 4.0] and "steps=0" in branch.key
