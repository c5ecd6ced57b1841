import json

import cv2
import numpy as np
import pytest
from safetensors.torch import load_file

from assets.training import bases
from models.codecs.catalogue import load_codec
from models.errors import FoveaError

TINY = {"batch_size": 2, "crop": 64, "warmup_steps": 1}


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(bases, "WIDTHS", {"light": (8, 32), "bls2017": (8, 16)})


@pytest.fixture
def frames(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(4):
        picture = np.cumsum(rng.integers(-9, 10, (160, 200, 3)), axis=1).astype(np.uint8)
        cv2.imwrite(str(folder / f"{i}.{'jpg' if i == 3 else 'png'}"), picture)
    (folder / "notes.txt").write_text("no picture")
    return bases.frames_of([f"{folder}:2", str(folder)], threads=1)


def test_sources_are_counted_and_jpegs_shrunk(frames):
    assert list(frames.names) == [
        *("0.png@1", "1.png@1", "0.png@1", "1.png@1", "2.png@1", "3.jpg@0.4", "3.jpg@0.5", "3.jpg@0.625")
    ]
    assert frames.pictures[-1].shape == (100, 125, 3) and frames.maps[-1].shape == (100, 125)
    assert max(m.max() for m in frames.maps) == 255


@pytest.mark.parametrize("name", ["light", "bls2017"])
def test_a_base_is_the_same_each_time_and_goes_on(small, frames, tmp_path, name):
    made = [
        bases.train_base(name, frames, tmp_path / f"{name}{i}", steps=3, changes=TINY, threads=1)
        for i in (0, 1)
    ]
    weights = [load_file(folder / "weights.safetensors") for folder in made]
    assert all((weights[0][k] == weights[1][k]).all() for k in weights[0])
    kept = {str(v.dtype) for k, v in weights[0].items() if k.endswith((".weight", ".bias"))}
    assert kept == {"torch.float16"}
    codec = load_codec(made[0])
    picture = frames.pictures[0]
    for given in (frames.maps[0], np.full(picture.shape[:2], 255, np.uint8)):
        encoded = codec.encode(picture, saliency_map=given, rate=0.01)
        assert np.array_equal(codec.decode(encoded.data), encoded.reconstruction)
    said = json.loads((made[0] / "training.json").read_text())["record"]
    assert said["data"] == {"pictures": 8, "sha256": frames.digest()} and "begin" not in said

    later = bases.train_base(
        name, frames, tmp_path / "later", steps=2, changes=TINY, begin=str(made[0]), threads=1
    )
    said = json.loads((later / "training.json").read_text())["record"]
    assert said["begin"] == codec.identity().hex() and load_codec(later).identity() != codec.identity()


def test_what_cannot_be_trained_is_named(frames, tmp_path):
    with pytest.raises(FoveaError, match="unknown base 'cheng2020_anchor'; known: light, bls2017"):
        bases.train_base("cheng2020_anchor", frames, tmp_path, steps=1)
    with pytest.raises(FoveaError, match="nothing: no picture in it"):
        bases.frames_of([str(tmp_path / "nothing")])
