"""Training of SAM: targets, recipes, initial values. The real code at a fraction of its width."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from models.errors import FoveaError
from models.saliency import sam as network_of
from models.saliency.sam_predictor import load_predictor
from models.saliency.sam_weights import load_network
from models.tracking import NullRun
from models.training import sam
from models.training.loop import TrainingStopped, train
from models.training.sam import Item, SAMConfig, SamTraining, make_sample

SMALL = SAMConfig(size=(48, 64), epochs=2)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """SAM with 16 features instead of 512."""
    monkeypatch.setattr(network_of, "FEATURES", 16)
    monkeypatch.setattr(network_of.DilatedVGG, "stages", ((4, 2), (4, 2), (8, 3), (16, 3), (16, 3)))
    # As wide as the features, so that nothing else in the network depends on the width.
    stages = ((2, "ab", 4, 8, 1, 1), (3, "ab", 4, 2048, 2, 2))
    monkeypatch.setattr(network_of.DilatedResNet, "stages", stages)


def looked_at(count: int, seed: int = 0) -> list[Item]:
    """Pictures with one bright blob each, and two fixations on it."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:60, :90]
    items = []
    for k in range(count):
        y, x = rng.integers(15, 45), rng.integers(20, 70)
        blob = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 50)
        picture = np.clip(200 * blob[:, :, None] + rng.integers(0, 50, (60, 90, 3)), 0, 255).astype(np.uint8)
        items.append(Item(f"p{k}", picture, ((x + 1.0, y + 1.0), (x - 2.0, y + 3.0))))
    return items


def trained(folder: Path, objective: SamTraining, **options) -> Path:
    return train(objective, workdir=folder, tracker_run=NullRun(), threads=1, **options)


def test_points_are_one_based_and_blurred() -> None:
    corners, middle = (
        Item("p", np.zeros((60, 90, 3), np.uint8), points) for points in (((1.0, 1.0), (90.4, 60.4)), ((46.0, 31.0),))
    )
    picture, density, fixations = make_sample(corners, SMALL)
    assert picture.shape == (60, 90, 3) and density.shape == fixations.shape == (96, 128)
    # 90×60 fits as 128×85, 5 rows below the top
    assert np.argwhere(fixations).tolist() == [[5, 0], [5 + 84, 127]]  # the corners: 0-based 0, 0 and 59, 89
    assert not density[:5].any() and not density[90:].any()
    _, density, fixations = make_sample(middle, SMALL)
    assert np.argwhere(fixations).tolist() == [[5 + 42, 64]]  # 30·85/60 = 42.5 rounds to even, 45·128/90 = 64
    centre = np.array(np.unravel_index(density.argmax(), density.shape))
    assert np.abs(centre - (47, 64)).max() <= 1 and density.max() > 0.95
    spread = np.sqrt((density.sum(0) / density.sum() * (np.arange(128) - centre[1]) ** 2).sum())
    assert spread == pytest.approx(0.03 * 128, rel=0.1)


@pytest.mark.parametrize("field", [{"size": (50, 64)}, {"batch_size": 0}, {"lr": 0.0}])
def test_recipes_that_cannot_work_are_refused(field: dict) -> None:
    with pytest.raises(FoveaError):
        SAMConfig(**field)


def test_initial_values_are_the_published_ones(narrow: None) -> None:
    network = sam.initialise("sam_vgg", 3)
    recurrent = network.recurrent
    assert (recurrent.v_a.weight == 0).all()
    assert recurrent.w.weight.std().item() == pytest.approx(0.05, rel=0.05)
    gate = recurrent.u.weight[:16].flatten(1)
    assert torch.allclose(gate @ gate.T, torch.eye(16), atol=1e-5)
    prior = network.prior1.weight.view(4, 16)
    assert prior[:2].min() >= 0.3 and prior[:2].max() <= 0.7
    assert prior[2:].min() >= 0.05 and prior[2:].max() <= 0.3
    again = sam.initialise("sam_vgg", 3)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))
    assert not any(p.is_meta for p in [*network.parameters(), *network.buffers()])


def test_training_learns_and_its_weights_predict(narrow: None, tmp_path: Path) -> None:
    items = looked_at(3)
    config = SAMConfig(size=(48, 64), epochs=8, patience=8, lr=1e-3, batch_size=3)
    folder = trained(tmp_path, SamTraining("sam_vgg", items, items, config))
    history = json.loads((folder / "history.json").read_text())
    assert [row["step"] for row in history] == list(range(8))
    assert history[-1]["val/loss"] < history[0]["val/loss"] - 1
    assert {"train/kl", "val/cc", "val/nss", "val/dead"} <= set(history[0])
    described = json.loads((folder / "sam_vgg.json").read_text())
    assert described["config"]["lr"] == 1e-3 and described["val"]["val/loss"] == min(row["val/loss"] for row in history)
    predictor = load_predictor("sam_vgg", folder)
    assert predictor.size == (48, 64)
    assert predictor.predict([np.zeros((20, 30, 3), np.uint8)])[0].shape == (20, 30)


def test_training_ends_after_more_than_patience_epochs_without_a_better_one(
    narrow: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([3.0, 1.0, 2.0, 1.0, 5.0])
    monkeypatch.setattr(sam, "validate", lambda *_: dict.fromkeys(sam.NUMBERS, next(losses)))
    objective = SamTraining("sam_vgg", looked_at(1), looked_at(1), SAMConfig(size=(48, 64), patience=1))
    folder = trained(tmp_path, objective)
    assert len(json.loads((folder / "history.json").read_text())) == 4
    assert json.loads((folder / "sam_vgg.json").read_text())["epoch"] == 1


def test_a_loss_that_is_no_number_is_an_error_that_names_the_picture(narrow: None, tmp_path: Path) -> None:
    objective = SamTraining("sam_vgg", looked_at(1), looked_at(1), SAMConfig(size=(48, 64), lr=1e30))
    with pytest.raises(FoveaError, match=r"not finite for 1 steps.*p0|validation loss is"):
        trained(tmp_path, objective)


def test_start_and_strangers_checkpoint(narrow: None, tmp_path: Path) -> None:
    items = looked_at(2)
    config = SAMConfig(size=(48, 64), epochs=1)
    first = trained(tmp_path / "first", SamTraining("sam_vgg", items, items, config)) / "sam_vgg.safetensors"
    slow = SAMConfig(size=(48, 64), epochs=1, lr=1e-12)
    objective = SamTraining("sam_vgg", items, items, slow, start=first)
    before = sam.weights_of(load_network("sam_vgg", first))
    trained(tmp_path / "second", objective)
    after = sam.weights_of(objective.network)
    assert all(torch.allclose(before[key], after[key], atol=1e-6) for key in before)
    with pytest.raises(TrainingStopped):
        trained(tmp_path / "third", SamTraining("sam_vgg", items, items, config), should_stop=lambda: True)
    with pytest.raises(FoveaError, match="another training"):
        trained(tmp_path / "third", SamTraining("sam_vgg", items, items, slow))


@pytest.mark.slow
def test_two_steps_at_full_width(tmp_path: Path) -> None:
    for step in (1, 2):
        objective = SamTraining("sam_vgg", looked_at(3), looked_at(1), SMALL)
        with pytest.raises(TrainingStopped, match=f"step {step} of 6"):
            trained(tmp_path, objective, should_stop=lambda: True)
    assert all(torch.isfinite(p).all() for p in objective.network.parameters())
