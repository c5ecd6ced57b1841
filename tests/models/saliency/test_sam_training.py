"""Training of SAM: data layouts, resuming, freezing. The real code at a fraction of its width."""

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from scipy.io import savemat

from models.errors import FoveaError
from models.saliency import sam, sam_predictor, sam_training
from models.saliency.sam_training import Item, SAMConfig, make_sample, salicon_items, table_items, train

SMALL = SAMConfig(size=(48, 64), epochs=2)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small convolutions on several threads mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """SAM with 16 features instead of 512."""
    monkeypatch.setattr(sam, "FEATURES", 16)
    monkeypatch.setattr(sam.DilatedVGG, "stages", ((4, 2), (4, 2), (8, 3), (16, 3), (16, 3)))
    # As wide as the features, so that nothing else in the network depends on the width.
    monkeypatch.setattr(sam.DilatedResNet, "stages", ((2, "ab", 4, 8, 1, 1), (3, "ab", 4, 2048, 2, 2)))


@pytest.fixture
def salicon(tmp_path: Path) -> Path:
    """Pictures with one bright blob each, its map and its fixations, in SALICON's layout."""
    root = tmp_path / "salicon"
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:60, :90]
    for split, count in (("train", 3), ("val", 2)):
        for kind in ("images", "maps", "fixations"):
            (root / kind / split).mkdir(parents=True)
        for k in range(count):
            y, x = rng.integers(15, 45), rng.integers(20, 70)
            blob = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 50)
            picture = np.clip(200 * blob[:, :, None] + rng.integers(0, 50, (60, 90, 3)), 0, 255).astype(
                np.uint8
            )
            cv2.imwrite(str(root / f"images/{split}/p{k}.png"), picture)
            cv2.imwrite(str(root / f"maps/{split}/p{k}.png"), np.rint(255 * blob).astype(np.uint8))
            fixations = np.zeros((60, 90), np.uint8)
            fixations[y, x] = fixations[y + 2, x - 3] = 1
            savemat(root / f"fixations/{split}/p{k}.mat", {"I": fixations})
    return root


# --- Data ---


def test_salicon_layout(salicon: Path) -> None:
    items = salicon_items(salicon, "train")
    assert [item.name for item in items] == ["p0", "p1", "p2"]
    picture, density, fixations = make_sample(items[0], SMALL)
    assert picture.shape == (60, 90, 3) and picture.dtype == np.uint8
    assert density.shape == fixations.shape == (96, 128)
    assert density.max() == pytest.approx(1, abs=0.05) and fixations.sum() == 2
    # 90×60 fits as 128×85, 5 rows below the top: the map's peak and the fixation meet.
    peak = np.unravel_index(density.argmax(), density.shape)
    assert np.abs(np.argwhere(fixations) - peak).sum(1).min() <= 3
    assert not density[:5].any() and not fixations[:5].any() and not density[90:].any()


def test_gaze_of_the_original_files(tmp_path: Path) -> None:
    dtype = [("location", "O"), ("timestamp", "O"), ("fixations", "O")]
    gaze = np.empty((2, 1), dtype)
    for k, points in enumerate(([[1, 1], [90, 60]], [[31, 11]])):
        gaze[k, 0] = (np.zeros((1, 2)), np.zeros((1, 1)), np.array(points, np.uint16))
    savemat(tmp_path / "g.mat", {"image": "p", "resolution": np.array([[60, 90]]), "gaze": gaze})
    found = sam_training.read_fixation_map(tmp_path / "g.mat")
    assert found.shape == (60, 90) and np.argwhere(found).tolist() == [[0, 0], [10, 30], [59, 89]]
    savemat(tmp_path / "other.mat", {"x": np.zeros(3)})
    with pytest.raises(FoveaError, match=r'neither the fixation map "I"'):
        sam_training.read_fixation_map(tmp_path / "other.mat")
    (tmp_path / "broken.mat").write_bytes(b"nothing")
    with pytest.raises(FoveaError, match="cannot be read"):
        sam_training.read_fixation_map(tmp_path / "broken.mat")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_table_is_one_based(salicon: Path, tmp_path: Path, suffix: str) -> None:
    rows = [("p0.png", 0, 1.0, 1.0), ("p0.png", 1, 90.4, 60.4), ("p1", 0, 46.0, 31.0)]
    frame = pd.DataFrame(rows, columns=["image", "subject", "x", "y"])
    table = tmp_path / f"t.{suffix}"
    frame.to_csv(table) if suffix == "csv" else frame.to_parquet(table)
    items = table_items(salicon / "images/train", table)
    assert [item.name for item in items] == ["p0.png", "p1"]
    _, density, fixations = make_sample(items[0], SMALL)
    assert np.argwhere(fixations).tolist() == [[5, 0], [5 + 84, 127]]  # the corners: 0-based 0, 0 and 59, 89
    _, density, fixations = make_sample(items[1], SMALL)
    assert np.argwhere(fixations).tolist() == [[5 + 42, 64]]  # 30·85/60 = 42.5 rounds to even, 45·128/90 = 64
    centre = np.array(np.unravel_index(density.argmax(), density.shape))
    assert np.abs(centre - (47, 64)).max() <= 1 and density.max() > 0.95
    spread = np.sqrt((density.sum(0) / density.sum() * (np.arange(128) - centre[1]) ** 2).sum())
    assert spread == pytest.approx(0.03 * 128, rel=0.1)


def test_broken_data_is_named(salicon: Path, tmp_path: Path) -> None:
    with pytest.raises(FoveaError, match=r"images.test: no such folder"):
        salicon_items(salicon, "test")
    (salicon / "maps/val/p1.png").unlink()
    with pytest.raises(FoveaError, match=r"maps.val: nothing for picture p1.png"):
        salicon_items(salicon, "val")
    table = tmp_path / "t.csv"
    for text, message in (
        ("image,x,y\np0,1,1\n", "column subject is missing"),
        ("image,subject,x,y\np0,0,1,left\n", "must be numbers"),
        ("image,subject,x,y\nabsent,0,1,1\n", "picture absent isn't in"),
        ("image,subject,x,y\n", "no rows"),
    ):
        table.write_text(text)
        with pytest.raises(FoveaError, match=message):
            table_items(salicon / "images/train", table)
    with pytest.raises(FoveaError, match="no training or no validation"):
        sam_training.split_items([Item("a", tmp_path)], 0.5)


@pytest.mark.parametrize("field", [{"freeze": "all"}, {"size": (50, 64)}, {"batch_size": 0}, {"lr": 0.0}])
def test_recipes_that_cannot_work_are_refused(field: dict) -> None:
    with pytest.raises(FoveaError):
        SAMConfig(**field)


# --- Training ---


def test_initial_values_are_the_published_ones(narrow: None) -> None:
    network = sam_training.initialise("sam_vgg", 3)
    recurrent = network.recurrent
    assert (recurrent.v_a.weight == 0).all()
    assert recurrent.w.weight.std().item() == pytest.approx(0.05, rel=0.05)
    gate = recurrent.u.weight[:16].flatten(1)
    assert torch.allclose(gate @ gate.T, torch.eye(16), atol=1e-5)
    prior = network.prior1.weight.view(4, 16)
    assert prior[:2].min() >= 0.3 and prior[:2].max() <= 0.7
    assert prior[2:].min() >= 0.05 and prior[2:].max() <= 0.3
    again = sam_training.initialise("sam_vgg", 3)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))
    assert not any(p.is_meta for p in [*network.parameters(), *network.buffers()])


@pytest.mark.parametrize("name", ["sam_vgg", "sam_resnet"])
def test_stopped_training_ends_like_uninterrupted(
    narrow: None, salicon: Path, tmp_path: Path, name: str
) -> None:
    items = [salicon_items(salicon, split) for split in ("train", "val")]
    whole = train(name, *items, tmp_path / "whole", SMALL)
    assert whole is not None
    for stop in (1, 4):
        assert train(name, *items, tmp_path / "parts", SMALL, max_steps=stop) is None
    resumed = train(name, *items, tmp_path / "parts", SMALL)
    assert resumed is not None and resumed.read_bytes() == whole.read_bytes()
    described = [json.loads(path.with_suffix(".json").read_text()) for path in (whole, resumed)]
    assert described[0] == described[1] and described[0]["config"]["lr"] == 1e-4
    # The weights are ready to predict with.
    predictor = sam_predictor.load_predictor(name, tmp_path / "whole")
    assert predictor.size == (48, 64)
    assert predictor.predict([np.zeros((20, 30, 3), np.uint8)])[0].shape == (20, 30)


def test_training_learns(narrow: None, salicon: Path, tmp_path: Path) -> None:
    items = salicon_items(salicon, "train")
    config = SAMConfig(size=(48, 64), epochs=8, patience=8, lr=1e-3, batch_size=3)
    train("sam_vgg", items, items, tmp_path / "out", config)
    history = json.loads((tmp_path / "out/checkpoint/progress.json").read_text())["progress"]["history"]
    assert len(history) == 8
    assert history[-1]["val/loss"] < history[0]["val/loss"] - 1
    assert {"train/kl", "val/cc", "val/nss", "val/dead"} <= set(history[0])


@pytest.mark.parametrize(
    ("freeze", "still", "moving"),
    [
        ("none", (), ("backbone.", "recurrent.", "mix1.")),
        ("batch_norm", ("bn_",), ("branch2a.", "recurrent.", "mix1.")),
        ("backbone", ("backbone.",), ("reduce.", "recurrent.", "mix1.")),
        ("features", ("backbone.", "reduce.", "recurrent."), ("prior1.", "mix1.", "readout.")),
    ],
)
def test_freezing(
    narrow: None, salicon: Path, tmp_path: Path, freeze: str, still: tuple[str, ...], moving: tuple[str, ...]
) -> None:
    items = salicon_items(salicon, "train")
    config = SAMConfig(size=(48, 64), epochs=1, freeze=freeze)
    before = sam_training.weights_of(sam_training.initialise("sam_resnet", 0))
    train("sam_resnet", items, items, tmp_path / "out", config, max_steps=2)
    after = load_file(tmp_path / "out/checkpoint/weights.safetensors")
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert not [key for key in changed if any(part in key for part in still)]
    for part in moving:
        assert [key for key in changed if part in key], part
    if freeze == "none":
        assert any(key.endswith("running_var") for key in changed)


def test_start_and_strangers_checkpoint(narrow: None, salicon: Path, tmp_path: Path) -> None:
    items = [salicon_items(salicon, split) for split in ("train", "val")]
    first = train("sam_vgg", *items, tmp_path / "first", SAMConfig(size=(48, 64), epochs=1))
    assert first is not None
    with pytest.raises(FoveaError, match="belongs to another training"):
        train("sam_vgg", *items, tmp_path / "first", SAMConfig(size=(48, 64), epochs=1, lr=1e-5))
    config = SAMConfig(size=(48, 64), epochs=1, lr=1e-12)
    second = train("sam_vgg", *items, tmp_path / "second", config, start=first)
    assert second is not None
    a, b = load_file(first), load_file(second)
    assert all(torch.allclose(a[key], b[key], atol=1e-6) for key in a)


def test_command_line(
    narrow: None, salicon: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "out"), "--size", "48", "64", "--epochs", "1", "--device", "cpu"]
    assert sam_training.main(["sam_vgg", *out]) == 1
    assert "give --salicon ROOT" in capsys.readouterr().err
    assert sam_training.main(["sam_vgg", "--salicon", str(salicon), *out]) == 0
    printed = capsys.readouterr().out
    assert "epoch 0: train/loss" in printed and str(tmp_path / "out/sam_vgg.safetensors") in printed


@pytest.mark.slow
def test_two_steps_at_full_width(salicon: Path, tmp_path: Path) -> None:
    items = salicon_items(salicon, "train")
    assert train("sam_vgg", items, items, tmp_path / "out", SMALL, max_steps=1) is None
    assert train("sam_vgg", items, items, tmp_path / "out", SMALL, max_steps=1) is None
    progress = json.loads((tmp_path / "out/checkpoint/progress.json").read_text())["progress"]
    assert progress["step"] == 2 and np.isfinite(progress["sums"]["loss"])
