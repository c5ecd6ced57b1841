"""`fovea benchmark` on pictures that are there to be measured on alone."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "held").mkdir()
    for i in range(5):
        y, x = np.mgrid[0:96, 0:128] / 30.0
        base = 128 + 60 * np.sin((2 + i) * x) * np.cos(3 * y) + 20 * (x > 1)
        noise = rng.normal(0, 3, (96, 128, 3))
        picture = (np.stack([base, 0.7 * base, 255 - base], axis=-1) + noise).clip(0, 255)
        cv2.imwrite(str(tmp_path / f"held/{i}.png"), picture.astype(np.uint8))
    return tmp_path / "held"


def fovea(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    # a process of its own: Dagster's partitions are read once a process
    home = {"FOVEA_HOME": str(place / "home"), "FOVEA_CONFIG": str(place / "config"), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "pipelines.cli", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=place,
        env=os.environ | home,
    )


def test_codecs_that_ship_are_measured_without_training(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/fovea.toml").write_text(
        f"[datasets.held]\npath = {str(pictures)!r}\nclassical = ['jpeg']\nsplits = {{ test = ['*.png'] }}\n"
    )
    refused = fovea(tmp_path, "run", "--dataset", "held")
    assert refused.returncode == 1 and "fovea benchmark --dataset held" in refused.stderr

    done = fovea(tmp_path, "benchmark", "--dataset", "held", "--codec", "bls2017")
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
        wrong = fovea(tmp_path, "benchmark", "--dataset", "held", *words)
        assert wrong.returncode == 1 and names in wrong.stderr
