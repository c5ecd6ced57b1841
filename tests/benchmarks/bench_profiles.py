"""What the local profile costs: the same commands on another commit and on this tree, in turn, in one run.

python tests/benchmarks/bench_profiles.py [--before COMMIT] [--rounds N]

Times a `fovea run` that finds everything up to date, and the frames of 400 drawn pictures from the store (put in shards,
indexed, every array read). Prints medians and the ratio this tree / COMMIT. COMMIT defaults to HEAD: then the ratio is the
noise of this machine.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

NO_OP = """
import sys, time
began = time.process_time()
from pipelines.cli import main
try:
    main(["run", "--frames-only", "--dataset", "sample", "--threads", "1"])
except SystemExit as end:
    assert not end.code
print("seconds", time.process_time() - began)
"""
STORE = """
import sys, time, tempfile
from pathlib import Path
import numpy as np
from upath import UPath
from assets.store import Store
rng = np.random.default_rng(0)
frames = [(f"k{i}", rng.integers(0, 256, (256, 512, 3), np.uint8)) for i in range(400)]
with tempfile.TemporaryDirectory() as folder:
    began = time.process_time()
    store = Store(UPath(folder))
    for start in range(0, 400, 32):
        store.put_shard("frames", frames[start : start + 32])
    for k in range(20):
        with store.writing("stage", f"{k:032x}", {"k": k}) as writer:
            writer.path("file").write_bytes(b"x" * 1000)
    reader = Store(UPath(folder))
    total = sum(int(reader.array("frames", f"k{i}")[::16].sum()) for i in range(400))
    assert all(reader.has("stage", f"{k:032x}") for k in range(20))
    print("seconds", time.process_time() - began)
"""


def seconds(code: str, tree: Path, home: Path) -> float:
    """CPU seconds of one process that runs the code on a tree: the machine may be busy with other things."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(tree),
        "FOVEA_HOME": str(home),
        "FOVEA_CONFIG": str(home.parent),
        "PYTHONWARNINGS": "ignore",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    for name in ("DAGSTER_HOME", "FOVEA_PROFILE", "FOVEA_DATA"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tree, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return float(done.stdout.split("seconds ")[-1])


def main() -> None:
    """Print the medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", default="HEAD")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        before = base / "before"
        before.mkdir()
        packed = subprocess.run(["git", "-C", str(ROOT), "archive", asked.before], capture_output=True, check=True)
        subprocess.run(["tar", "-x", "-C", str(before)], input=packed.stdout, check=True)
        trees = {"before": before, "this tree": ROOT}
        homes = {label: base / label.replace(" ", "-") / "home" for label in trees}
        for label, home in homes.items():
            home.mkdir(parents=True)
            (home.parent / "fovea.toml").write_text("[datasets.sample]\ncounts = { train = 4, val = 1, test = 1 }\n")
            seconds(NO_OP, trees[label], home)  # makes the frames
        found: dict[str, dict[str, list[float]]] = {}
        for _ in range(asked.rounds):
            for what, code in (("run without work", NO_OP), ("400 frames in shards", STORE)):
                for label, tree in trees.items():
                    found.setdefault(what, {}).setdefault(label, []).append(seconds(code, tree, homes[label]))
    for what, times in found.items():
        old, new = (statistics.median(times[label]) for label in trees)
        print(f"{what}: {asked.before} {old:.2f} s, this tree {new:.2f} s CPU, ratio {new / old:.3f}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
