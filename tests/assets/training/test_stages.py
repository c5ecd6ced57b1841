"""What a training's digest covers of its dataset."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from assets.datasets import add_dataset
from assets.home import Home
from assets.stages import open_chain

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


def test_of_val_only_the_pictures_that_probes_and_doctor_see_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = tmp_path / "pictures"
    put(pictures, "train/a.png", "train/b.png", *(f"val/{i}.png" for i in range(6)))
    add_dataset(tmp_path, "street", pictures)
    with (tmp_path / "fovea.toml").open("a") as file:
        file.write(SWEEP)
    monkeypatch.setenv("FOVEA_CONFIG", str(tmp_path))
    monkeypatch.setenv("FOVEA_HOME", str(tmp_path / "home"))

    def digest() -> str:
        chain = open_chain(Home.from_environment())
        (experiment,) = chain.sweeps["street.mine"].experiments
        return chain.unit("trained_codec", experiment.key).digest

    before = digest()
    put(pictures, "val/5.png", value=99)
    assert digest() == before
    put(pictures, "val/3.png", value=100)
    assert digest() != before
    put(pictures, "val/3.png", value=5)
    assert digest() == before
