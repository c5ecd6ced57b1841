"""`fovea benchmark` on pictures that are there to be measured on alone."""

from pathlib import Path

import cv2
import pandas as pd
import pytest
from commands import environment, fovea
from scenes import scene


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    (tmp_path / "held").mkdir()
    for i in range(5):
        cv2.imwrite(str(tmp_path / f"held/{i}.png"), scene(96, 128, i))
    return tmp_path / "held"


def test_codecs_that_ship_are_measured_without_training(pictures: Path, tmp_path: Path) -> None:
    here = environment(tmp_path)
    (tmp_path / "config/fovea.toml").write_text(
        f"[datasets.held]\npath = {str(pictures)!r}\nclassical = ['jpeg']\nsplits = {{ test = ['*.png'] }}\n"
    )
    refused = fovea(here, "run", "--dataset", "held")
    assert refused.returncode == 1 and "fovea benchmark --dataset held" in refused.stderr

    done = fovea(here, "benchmark", "--dataset", "held", "--codec", "bls2017")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "saliency_gain vs jpeg" in done.stdout and "saliency_gain vs uniform" in done.stdout
    table = pd.read_parquet(tmp_path / "home/tables/benchmark.held.parquet")
    assert set(table.codec) == {"bls2017"} and set(table.n_images) == {5} and set(table.train_dataset) == {""}
    assert {*table.anchor_arm} == {"jpeg", "uniform"}
    page = (tmp_path / "home/reports/held.benchmark.html").read_text()
    assert "held.benchmark" in page and "saliency_gain" in page

    for words, names in (
        (["--codec", "bls2018"], "bls2017"),
        (["--codec", "bls2017", "--peers", "webp"], "is measured with jpeg"),
    ):
        wrong = fovea(here, "benchmark", "--dataset", "held", *words)
        assert wrong.returncode == 1 and names in wrong.stderr
