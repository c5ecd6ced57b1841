"""Seconds of `fovea status` on a folder of made pictures and a sweep, of this commit and of an earlier one.

    python tests/benchmarks/bench_planning.py --before 486b130

The first look reads and hashes every file; what is timed is the second one, which finds their checksums.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[2]


def draw(folder: Path, frames: int) -> None:
    """16×16 pictures, each another one, seven of ten to train on."""
    for number in range(frames):
        split = ("train",) * 7 + ("val", "test", "test")
        path = folder / split[number % 10] / f"p{number:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)
        cv2.imwrite(str(path), picture)


def seconds(code: Path, place: Path, sweep: str) -> float:
    """The best of three looks, after one that fills the cache."""
    environment = os.environ | {
        "PYTHONPATH": str(code),
        "FOVEA_HOME": str(place / f"home-{code.name}"),
        "FOVEA_CONFIG": str(place),
    }
    taken = []
    for _ in range(4):
        began = time.perf_counter()
        command = [sys.executable, "-m", "pipelines.cli", "status", "--dataset", "made", "--sweep", sweep]
        done = subprocess.run(command, cwd=code, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 2, done.stderr[-2000:]
        taken.append(time.perf_counter() - began)
    return min(taken[1:])


def main() -> None:
    """Print seconds, and the ratio."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--before", metavar="REV", help="a commit to compare with")
    asked.add_argument("--frames", type=int, default=5000)
    asked.add_argument("--sweep", default="seed")
    given = asked.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        draw(place / "pictures", given.frames)
        (place / "fovea.toml").write_text('[datasets.made]\npath = "pictures"\n')
        now = seconds(ROOT, place, given.sweep)
        print(f"{given.frames} frames, {given.sweep}: {now:.2f} s")
        if given.before:
            old = place / "before"
            old.mkdir()
            archive = subprocess.run(["git", "-C", str(ROOT), "archive", given.before], capture_output=True, check=True)
            subprocess.run(["tar", "-x", "-C", str(old)], input=archive.stdout, check=True)
            before = seconds(old, place, given.sweep)
            print(f"{given.before}: {before:.2f} s, {before / now:.1f} times as long")


if __name__ == "__main__":
    main()
