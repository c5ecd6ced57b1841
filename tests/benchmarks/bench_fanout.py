"""What the choice of where frames are worked on costs where it is not used: the frame stages of this tree against those of an
earlier commit, in turns, as CPU time.

    python tests/benchmarks/bench_fanout.py [--before COMMIT] [--pictures 120] [--rounds 3]

Without a commit: this tree against itself, which shows the noise.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
CHILD = """
import time
from assets.home import Home
try:
    from assets.stages import open_chain
except ModuleNotFoundError:  # before 15eeb22
    from assets.chain import Chain as open_chain
home = Home.from_environment()
chain = open_chain(home, threads=2, device="cpu")
chain.make("source_frames", "pictures")
began = time.process_time()
chain.make("resized_frames", "pictures")
chain.make("saliency_maps", "pictures")
chain.make("rgba_frames", "pictures")
print(time.process_time() - began)
"""


def seconds(tree: Path, config: Path) -> float:
    """CPU seconds of the three stages on a fresh state, imports included."""
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "PYTHONPATH": str(tree), "FOVEA_HOME": home, "FOVEA_CONFIG": str(config)}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", CHILD],
            env=environment, cwd=tree, capture_output=True, text=True, check=True,
        )  # fmt: skip
    return float(done.stdout.split()[-1])


def main() -> None:
    """Measure in turns and print the ratio of the least times."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--before", default="")
    options.add_argument("--pictures", type=int, default=120)
    options.add_argument("--rounds", type=int, default=3)
    given = options.parse_args()
    from PIL import Image

    with tempfile.TemporaryDirectory() as place:
        config, earlier = Path(place), ROOT
        for split, count in (("train", given.pictures), ("val", 2), ("test", 2)):
            (config / "pictures" / split).mkdir(parents=True)
            for k in range(count):
                rng = np.random.default_rng([len(split), k])
                pixels = rng.normal(128, 20, (64, 128, 3)).clip(0, 255).astype(np.uint8)
                large = Image.fromarray(pixels).resize((1024, 512))
                large.save(config / "pictures" / split / f"{k}.png")
        (config / "fovea.toml").write_text(f'[datasets.pictures]\npath = "{config}/pictures"\nsize = "256x128"\n')
        if given.before:
            earlier = config / "before"
            git = ["git", "-C", str(ROOT), "worktree"]
            subprocess.run([*git, "add", "-q", "--detach", str(earlier), given.before], check=True)
        try:
            seconds(ROOT, config)  # files and byte code into the cache
            times = [(seconds(earlier, config), seconds(ROOT, config)) for _ in range(given.rounds)]
        finally:
            if given.before:
                subprocess.run([*git, "remove", "--force", str(earlier)], check=True)
    before, after = (min(column) for column in zip(*times, strict=True))
    middle = statistics.median(b / a for a, b in times)
    name = given.before or "itself"
    print(f"frame stages, CPU: {after:.2f} s against {before:.2f} s of {name}: ratio {after / before:.3f}")
    print(f"median of the rounds' ratios {middle:.3f} ({given.rounds} rounds, {given.pictures} pictures)")


if __name__ == "__main__":
    main()
