"""What a training's digest covers of its dataset."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import cv2
import numpy as np
import pytest
import torch

from assets.datasets import add_dataset
from assets.home import Home
from assets.stages import open_chain
from assets.story import record_of, short_name
from assets.training.run import Prefixed, _keep_context
from models.arms import arm
from models.codecs.catalogue import load_codec, open_codec, save_codec
from models.experiments import Experiment, Trunk

SWEEP = """
[sweeps.mine]
codecs = ["bls2017"]
rates = [0.01]
preset = "tiny"
"""


def put(folder: Path, *names: str, value: int = 0) -> None:
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), np.full((70, 70, 3), value + i, np.uint8))


def test_of_val_only_pictures_that_probes_and_doctor_see_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = tmp_path / "pictures"
    put(pictures, "train/a.png", "train/b.png", *(f"val/{i}.png" for i in range(6)))
    add_dataset(tmp_path, "street", pictures)
    with (tmp_path / "fovea.toml").open("a") as file:
        file.write(SWEEP)
    monkeypatch.setenv("FOVEA_CONFIG", str(tmp_path))
    monkeypatch.setenv("FOVEA_HOME", str(tmp_path / "home"))

    def digest() -> str:
        chain = open_chain(Home.from_environment())
        (experiment,) = chain.world.sweeps["street.mine"].experiments
        return chain.unit("trained_codec", experiment.key).digest

    before = digest()
    put(pictures, "val/5.png", value=99)
    assert digest() == before
    put(pictures, "val/3.png", value=100)
    assert digest() != before
    put(pictures, "val/3.png", value=5)
    assert digest() == before


def test_a_branch_keeps_its_trunk_s_context_model(tmp_path: Path) -> None:
    trunk, branch = open_codec("light"), open_codec("light")
    with torch.no_grad():
        next(branch.parameters()).add_(0.01)
    branch.update()
    branch.add("context", {k: v.clone() for k, v in trunk.additions()["context"].weights.items()})
    before = branch.additions()["context"].name
    branch.context = branch.for_cuts = None
    save_codec(branch, tmp_path)
    _keep_context(trunk, tmp_path)
    kept = load_codec(tmp_path)
    assert kept.additions()["context"].name == before != trunk.additions()["context"].name
    _keep_context(open_codec("mbt2018_mean"), tmp_path)
    assert load_codec(tmp_path).additions().keys() == {"context"}


def test_the_plain_names_of_metrics_are_left_to_the_test_pictures() -> None:
    heard = mock.Mock()
    row = {"loss": 1.0, "bpp": 2.0, "probe/val_psnr_db": 3.0, "probe/train_psnr_db": 4.0, "probe/gap_db": 5.0}
    Prefixed(heard).log_metrics([(7, row)])
    names = ("train/loss", "train/bpp_estimate", "val/psnr_db", "train/pictures_psnr_db", "val/gap_db")
    heard.log_metrics.assert_called_once_with([(7, dict(zip(names, row.values(), strict=True)))])


def test_a_training_has_a_short_name_and_its_rate_as_a_number() -> None:
    one = Experiment(dataset="sample", codec="bls2017", preset="smoke", rates=(0.013,), seed=2)
    assert short_name(one) == "0.013 uniform bls2017 scratch seed 2"
    steps = Experiment(dataset="sample", codec="toderici2017", preset="recurrent_small", rates=(2,))
    assert short_name(steps) < short_name(steps.but(rates=(10,))), "of names that are sorted as text"
    world: Any = SimpleNamespace(dataset=lambda name: SimpleNamespace(saliency={"sample": "sam_vgg"}.get(name, "")))
    told = record_of(one, world)
    assert told["rate"] == 0.013 and "lmbda" not in told and told["saliency"] == ""
    guided = one.but(**arm("weighted"))
    assert record_of(guided, world)["saliency"] == "sam_vgg"
    assert record_of(guided.but(dataset="other"), world)["saliency"] == "sam_lite"
    assert (told["n"], told["m"]) == (64, 96)
    assert (told["cell"], told["dilation"]) == (1, 1), "options at their defaults, too"
    assert record_of(one.but(options={"dilation": 2}), world)["dilation"] == 2
    assert not {"alpha", "gamma", "normalised", "scale", "span"} & told.keys(), "it is told no map"
    by_levels = record_of(one.but(**arm("saliency_gain"), trunk=Trunk(codec="bls2017", shipped="bls2017")), world)
    assert {"gamma", "span"} < by_levels.keys() and not {"alpha", "normalised", "scale"} & by_levels.keys()
    light = Trunk(codec="light", shipped="light")
    shipped = Experiment(dataset="sample", codec="light", trunk=light, overrides={"steps": 0})
    assert shipped.as_shipped and not {"preset", "seed", "dataset", "lr"} & record_of(shipped, world).keys()
    branch = one.but(trunk=Trunk(codec="bls2017", shipped="bls2017"))
    assert (record_of(branch, world)["n"], record_of(branch, world)["m"]) == (64, 192), "those of the weights that ship"
