"""`fovea benchmark` on pictures that are there to be measured on alone."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from pipelines.cli import main


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FOVEA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FOVEA_CONFIG", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    (tmp_path / "held").mkdir()
    for i in range(5):
        y, x = np.mgrid[0:96, 0:128] / 30.0
        base = 128 + 60 * np.sin((2 + i) * x) * np.cos(3 * y) + 20 * (x > 1)
        noise = rng.normal(0, 3, (96, 128, 3))
        picture = (np.stack([base, 0.7 * base, 255 - base], axis=-1) + noise).clip(0, 255)
        cv2.imwrite(str(tmp_path / f"held/{i}.png"), picture.astype(np.uint8))
    return tmp_path / "held"


def fovea(*words: str) -> str:
    done = CliRunner().invoke(main, list(words))
    assert done.exit_code == 0, done.output
    return done.output


def test_codecs_that_ship_are_measured_without_training(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/fovea.toml").write_text(
        f"[datasets.held]\npath = {str(pictures)!r}\nclassical = ['jpeg']\nsplits = {{ test = ['*.png'] }}\n"
    )
    refused = CliRunner().invoke(main, ["run", "--dataset", "held"])
    assert refused.exit_code == 1 and "fovea benchmark --dataset held" in refused.output

    said = fovea("benchmark", "--dataset", "held", "--codec", "bls2017")
    assert "saliency_gain vs jpeg" in said and "saliency_gain vs uniform" in said
    table = pd.read_parquet(tmp_path / "home/tables/benchmark.held.parquet")
    assert set(table.codec) == {"bls2017"} and set(table.n_images) == {5}
    assert {*table.anchor_arm} == {"jpeg", "uniform"}
    page = (tmp_path / "home/reports/held.benchmark.html").read_text()
    assert "held.benchmark" in page and "saliency_gain" in page

    for words, names in (
        (["--codec", "bls2018"], "bls2017"),
        (["--codec", "bls2017", "--peers", "webp"], "was measured with jpeg"),
    ):
        wrong = CliRunner().invoke(main, ["benchmark", "--dataset", "held", *words])
        assert wrong.exit_code == 1 and names in wrong.output
