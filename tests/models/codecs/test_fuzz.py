import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models.codecs import catalogue

ROOT = Path(__file__).parents[3]


def attack(codec, folder: Path, count: int, seed: int, *, progressive: bool = False) -> dict[str, int]:
    """Decode `count` mutated files in a process of its own, so that a crash is a failure and not the end."""
    catalogue.save_codec(codec, folder / "model")
    files = []
    rng = np.random.default_rng(0)
    for i, (height, width) in enumerate(((40, 56), (17, 90), (1, 1))):
        picture = np.cumsum(rng.integers(-9, 10, (height, width, 3)), axis=1).astype(np.uint8)
        saliency_map = np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1))
        files.append(folder / f"{i}.fov")
        given = codec.analysed(picture, saliency_map)
        files[-1].write_bytes(codec.encode_analysed(given, progressive=progressive).data)
    script = Path(__file__).with_name("fuzz_streams.py")
    done = subprocess.run(
        [sys.executable, str(script), str(folder / "model"), str(count), str(seed), *map(str, files)],
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result: dict[str, int] = json.loads(done.stdout)
    assert result["pictures"] + result["errors"] == count
    assert result["pictures"] > count // 20, "the mutations never reach the coder"
    assert result["after_kb"] < 2 * result["before_kb"]
    return result


def test_mutated_files_give_a_picture_or_an_error(tmp_path, gained):
    attack(gained, tmp_path, 2000, seed=1)


def test_mutated_progressive_files_give_a_picture_or_an_error(tmp_path, trained_codec):
    attack(trained_codec("light", "gain"), tmp_path, 1000, seed=3, progressive=True)


def test_mutated_recurrent_files_give_a_picture_or_an_error(tmp_path, trained_recurrent):
    attack(trained_recurrent("gain"), tmp_path, 400, seed=5, progressive=True)


@pytest.mark.slow
def test_many_mutated_recurrent_files_give_a_picture_or_an_error(tmp_path, trained_recurrent):
    attack(trained_recurrent("gain"), tmp_path, 10_000, seed=6, progressive=True)


@pytest.mark.slow
def test_many_mutated_progressive_files_give_a_picture_or_an_error(tmp_path, trained_codec):
    attack(trained_codec("mbt2018_mean", "hyper"), tmp_path, 10_000, seed=4, progressive=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mechanism"), [("bls2017", "none"), ("bls2017", "gain"), ("mbt2018_mean", "hyper"), ("light", "gain")]
)
def test_many_mutated_files_give_a_picture_or_an_error(tmp_path, trained_codec, name, mechanism):
    attack(trained_codec(name, mechanism), tmp_path, 10_000, seed=2)
