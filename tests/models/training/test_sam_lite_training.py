"""Training on made pictures: targets, splits, resume, folds, what is never opened."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from eyes import looked_at
from trainings import train_here

from models.errors import FoveaError
from models.saliency.records import fold_of
from models.saliency.sam_lite import load_sam_lite
from models.training import sam_lite
from models.training.loop import TrainingStopped
from models.training.sam_lite import SamLiteConfig, SamLiteTraining

TINY = SamLiteConfig(rows=64, batch_size=4, head_epochs=2, epochs=1, warmup_steps=2, average=0.1)


@pytest.fixture(scope="module")
def data():
    """Eight pictures with a bright spot that everybody looks at; a test picture that does not exist."""
    pictures, table = looked_at()
    table.loc[len(table)] = ("8.png", 0, 3.0, 3.0)
    parts = {n: "train" if n < "6.png" else "val" if n < "8.png" else "test" for n in table["image"]}
    return pictures.__getitem__, table, parts


def trained(folder, data, config, **options):
    return train_here(SamLiteTraining(*data, config), folder, **options) / "sam_lite.safetensors"


@pytest.fixture(scope="module")
def full(data, tmp_path_factory):
    return trained(tmp_path_factory.mktemp("full"), data, TINY)


def test_a_stop_waits_for_the_end_of_an_epoch(data, tmp_path):
    with pytest.raises(TrainingStopped, match="step 2 of 6"):
        trained(tmp_path, data, TINY, should_stop=lambda: True)
    with pytest.raises(FoveaError, match="another training"):
        trained(tmp_path, data, dataclasses.replace(TINY, seed=1))


def test_what_is_written(full):
    described = json.loads(full.with_suffix(".json").read_text())
    assert described["config"] == dataclasses.asdict(TINY)
    assert described["train"]["count"] == 6 and described["validation"]["first"] == "6.png"
    assert described["inference"]["rows"] in (48, 64, 80)
    assert [row["epoch"] for row in described["history"]] == [0, 1, 2] and "val_score" in described["history"][0]
    history = json.loads((full.parent / "history.json").read_text())
    assert [row["step"] for row in history] == [0, 1, 2]


def test_head_stage_leaves_the_backbone_alone(data, full, tmp_path):
    head_only = dataclasses.replace(TINY, head_epochs=1, epochs=0)
    network = load_sam_lite(trained(tmp_path, data, head_only))
    for name, tensor in sam_lite.imagenet_weights().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(network.backbone.state_dict()[name], tensor.half().float()), name
    assert not torch.equal(load_sam_lite(full).backbone.stem.weight, network.backbone.stem.weight)


def test_folds_partition_the_training_pictures(data):
    names = [f"{i}.png" for i in range(200)]
    assert {fold_of(n, 3) for n in names} == {0, 1, 2} and fold_of("1001.jpg", 5) == 1
    config = dataclasses.replace(TINY, folds=2, fold=1)
    kept = [n for n in sorted(data[2]) if data[2][n] == "train" and fold_of(n, 2) != 1]
    assert SamLiteTraining(*data, config).train.names == kept and 0 < len(kept) < 6


def test_targets_lie_where_the_fixations_are():
    points = np.array([[49.5, 29.5], [49.5, 29.5], [0.0, 0.0], [99.0, 59.0]])
    counts, density = sam_lite.targets(points, (0, 0, 100, 60), (30, 50), 1.5)
    assert counts.sum() == 4 and counts[15, 25] == 2 and counts[0, 0] == 1 and counts[29, 49] == 1
    assert density.sum() == pytest.approx(1.0, abs=1e-5)
    assert np.unravel_index(density.argmax(), density.shape) in [(15, 25), (0, 0), (29, 49)]
    counts, _ = sam_lite.targets(points, (40, 20, 20, 20), (10, 10), 1.0)
    assert counts.sum() == 2 and counts[5, 5] == 2


def test_augmented_targets_follow_the_picture(data):
    source, table, _ = data
    pictures = sam_lite.FixationPictures(source, table, ["0.png", "1.png"])
    config = dataclasses.replace(TINY, photometric=0.0)
    seen = set()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        picture, counts, density = sam_lite.make_sample(pictures, "0.png", (64, 80), config, rng)
        assert picture.shape == (64, 80, 3) and counts.shape == density.shape == (16, 20)
        yellow = picture[..., 0].astype(float) - picture[..., 2]
        y, x = (np.average(i, weights=np.maximum(yellow - 100, 0)) for i in np.indices((64, 80)))
        dy, dx = (np.average(i, weights=density) for i in np.indices((16, 20)))
        assert abs(dy * 4 + 1.5 - y) < 5 and abs(dx * 4 + 1.5 - x) < 5
        seen.add(round(x))
    assert len(seen) > 3


def test_colour_jitter_keeps_type_and_can_be_off():
    picture = np.random.default_rng(0).integers(0, 256, (8, 9, 3)).astype(np.uint8)
    rng = np.random.default_rng(1)
    assert sam_lite.jitter_colours(picture, 0.0, rng) is picture
    jittered = sam_lite.jitter_colours(picture, 1.0, rng)
    assert jittered.dtype == np.uint8 and jittered.shape == picture.shape and not np.array_equal(jittered, picture)


def test_splits_that_cannot_work(data):
    source, table, split = data
    with pytest.raises(FoveaError, match="training and validation"):
        SamLiteTraining(source, table, {"0.png": "train"}, TINY)
    with pytest.raises(FoveaError, match=r"9\.png and 0 more pictures have no fixations"):
        SamLiteTraining(source, table, split | {"9.png": "train"}, TINY)


@pytest.mark.parametrize(
    ("scores", "patience", "stop"),
    [
        ([9.0, 9.0, 1.0], 1, False),  # the head's epochs do not count
        ([9.0, 9.0, 1.0, 2.0, 1.9], 1, True),
        ([9.0, 9.0, 1.0, 2.0, 1.9], 2, False),
        ([9.0, 9.0, 1.0, 2.0, 1.9, 2.0], 2, True),
        ([9.0, 9.0, 1.0, 2.0, 1.9, 2.1], 2, False),
        ([9.0, 9.0, 2.0, 1.0, 0.0, 0.0], 0, False),
    ],
)
def test_patience(data, scores, patience, stop):
    objective = SamLiteTraining(*data, dataclasses.replace(TINY, patience=patience))
    objective.history = [{"val_score": score} for score in scores]
    assert objective.out_of_patience() is stop


def test_training_ends_when_validation_does_not_improve(data, tmp_path, monkeypatch):
    scores = iter([0.0, 1.0, 3.0, 2.0])
    monkeypatch.setattr(sam_lite, "validate", lambda *_: {"kl": 0.0, "cc": 0.0, "nss": 0.0, "score": next(scores)})
    path = trained(tmp_path, data, dataclasses.replace(TINY, epochs=5))
    described = json.loads(path.with_suffix(".json").read_text())
    assert len(described["history"]) == 4 and described["chosen_epoch"] == 2
