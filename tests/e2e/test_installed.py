"""Fovea as an installed package, outside a clone."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """What `pip install .` puts into site-packages."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name in ("fovea", "assets", "models", "pipelines"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    words = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target", str(target), str(source)]
    if shutil.which("uv", path=str(Path(sys.executable).parent)):
        command = [str(Path(sys.executable).parent / "uv"), "pip", "install", "--python", sys.executable, *words]
    else:
        command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return target


BOTH_WAYS = """
import fovea
from pipelines.cli import main
try:
    main(["compress", "photos #1/0 100%?.png", "-o", "0.fov"])
except SystemExit as end:
    assert end.code == 0
fovea.decompress("0.fov")
print(fovea.__file__)
"""
WORKSPACE = """
from assets.home import Home
from pipelines.addresses import Ports
from pipelines.ui import commands
print(*commands(Home.from_environment(), Ports(1, 2), "http://127.0.0.1:2")["dagster"])
"""


def test_state_and_settings_lie_in_the_working_directory(package, tmp_path):
    before = {p for p in package.rglob("*") if "__pycache__" not in p.parts}
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FOVEA_", "DAGSTER_", "PYTHONDONTWRITE"))}

    def python(*words):
        done = subprocess.run(
            [sys.executable, *words], capture_output=True, text=True, check=False, cwd=tmp_path,
            env=kept | {"PYTHONPATH": str(package)},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-1500:]
        return done.stdout

    for k in range(3):
        picture = np.random.default_rng(k).integers(0, 256, (4, 6, 3), np.uint8)
        (tmp_path / "photos #1").mkdir(exist_ok=True)
        Image.fromarray(picture).resize((96, 64)).save(tmp_path / "photos #1" / f"{k} 100%?.png")
    assert str(package) in python("-c", BOTH_WAYS)
    python("-m", "fovea", "datasets", "add", "photos", "photos #1")
    assert "photos" in python("-m", "fovea", "datasets", "list") and (tmp_path / "fovea.toml").is_file()
    assert "4 made" in python("-m", "fovea", "run", "--dataset", "photos", "--frames-only")
    assert (tmp_path / ".fovea" / "data").is_dir()
    # what `fovea ui` gives Dagster's servers finds the definitions
    served = python("-c", WORKSPACE).split()
    assert str(tmp_path / ".fovea") in served[served.index("-w") + 1]
    python("-m", "dagster", "definitions", "validate", "-w", served[served.index("-w") + 1])
    assert {p for p in package.rglob("*") if "__pycache__" not in p.parts} == before
