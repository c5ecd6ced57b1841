"""`fovea run` under a profile whose executor is Ray, on two nodes on loopback: the tables of the local profile, and nothing
lost or doubled when a node dies."""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

pytest.importorskip("ray", reason="the cluster extra is not installed")

from servers.ray_nodes import RayNodes

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(5400)]
#: seconds for one command on a machine that others use, too
LIMIT_S = 2400.0
#: columns that hold seconds, with their intervals
SECONDS = re.compile(r"_s(_low|_high)?$")


def pictures(folder: Path, train: int, size: tuple[int, int] = (96, 128)) -> None:
    from PIL import Image

    for split, count in (("train", train), ("val", 3), ("test", 3)):
        (folder / split).mkdir(parents=True)
        for k in range(count):
            rng = np.random.default_rng([len(split), k])
            y, x = np.mgrid[0 : size[0], 0 : size[1]] / 30.0
            base = 128 + 60 * np.sin(x * 2 + k) * np.cos(y * 3 + k / 2) + 40 * (x > 1.1 + k % 3)
            base = base + rng.normal(0, 3, x.shape)
            colours = np.stack([base, 0.8 * base + 10 * x, 255 - base], -1).clip(0, 255).astype(np.uint8)
            Image.fromarray(colours).save(folder / split / f"{k:04d}.png")


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[RayNodes]:
    with RayNodes(ROOT) as found:
        (tmp_path / "fovea.toml").write_text(
            f'[profiles.cluster]\nexecutor = "ray"\nray_address = "{found.address}"\nray_steps = 3\n'
        )
        yield found


class Installation:
    """FOVEA_HOME and FOVEA_CONFIG of a test, with the command line as a user types it."""

    def __init__(self, config: Path, home: str, profile: str = ""):
        self.home = config / home
        self.environment = {
            **os.environ,
            "FOVEA_HOME": str(self.home),
            "FOVEA_CONFIG": str(config),
            "PYTHONPATH": str(ROOT),
            "FOVEA_RETRIES": "3",
        }
        self.environment.pop("FOVEA_PROFILE", None)
        if profile:
            self.environment["FOVEA_PROFILE"] = profile

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "pipelines.cli", *words],
            env=self.environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def run(self, *words: str) -> str:
        return ended(self.start(*words))

    def events(self) -> Counter[str]:
        """Kinds of events in Dagster, over all runs."""
        import dagster as dg

        with dg.DagsterInstance.from_config(str(self.home / "dagster")) as instance:
            return Counter(
                str(record.dagster_event.event_type_value)
                for run in instance.get_runs()
                for record in instance.all_logs(run.run_id)
                if record.dagster_event is not None
            )


def ended(process: "subprocess.Popen[str]") -> str:
    try:
        said, _ = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        said, _ = process.communicate()
        pytest.fail(f"not done in time:\n{said}")
    assert process.returncode == 0, said
    return said


def table(home: Path, name: str) -> pd.DataFrame:
    found = pd.read_parquet(home / "tables" / f"{name}.parquet")
    clock = [c for c in found.columns if SECONDS.search(c) or "run_id" in c or "made" in c or c == "path"]
    found = found.drop(columns=clock)
    return found.sort_values(list(found.columns), key=lambda c: c.astype(str)).reset_index(drop=True)


def shard_entries(home: Path, stage: str) -> list[str]:
    """Keys of every array of a stage, as often as shards list it."""
    folder = home / "data" / stage / "shards"
    return [e[0] for f in folder.glob("[!.]*.json") for e in json.loads(f.read_text())["entries"]]


def test_profile_check_asks_every_node(tmp_path: Path, nodes: RayNodes) -> None:
    said = Installation(tmp_path, "cluster").run("profile", "check", "cluster")
    assert "failed" not in said
    # a head without CPUs, two nodes with one each
    assert re.search(r"ok +ray +.*: 3 nodes, 2 CPUs, 0 GPUs", said) and re.search(r"ok +versions", said), said


def test_tables_are_those_of_the_local_profile(tmp_path: Path, nodes: RayNodes) -> None:
    pictures(tmp_path / "pictures", 26)
    here, there = Installation(tmp_path, "local"), Installation(tmp_path, "cluster", "cluster")
    here.run("datasets", "add", "pictures", str(tmp_path / "pictures"))
    words = ("run", "--dataset", "pictures", "--sweep", "tiny", "--threads", "1", "--device", "cpu")
    there.run(*words)
    here.run(*words)
    for name in ("rd_points", "rd_curves", "bd_rates"):
        pd.testing.assert_frame_equal(table(there.home, name), table(here.home, name), check_exact=True)
    assert "up to date" in there.run(*words)
    assert sorted(shard_entries(there.home, "saliency_maps")) == sorted(shard_entries(here.home, "saliency_maps"))
    # what a step says on its node is in Dagster
    assert there.events()["STEP_SUCCESS"] == 25


def test_a_node_lost_while_frames_are_resized_costs_its_chunks_alone(tmp_path: Path, nodes: RayNodes) -> None:
    pictures(tmp_path / "pictures", 700, size=(600, 800))
    there = Installation(tmp_path, "cluster", "cluster")
    there.run("datasets", "add", "pictures", str(tmp_path / "pictures"), "--size", "128x96")
    process = there.start("run", "--dataset", "pictures", "--frames-only", "--threads", "1")
    shards = there.home / "data" / "resized_frames" / "shards"
    # of two chunks at once, four shards each, one has ended by then: a lost chunk is done again, but not that one
    wait_for(lambda: len(list(shards.glob("[!.]*.json"))) >= 9, process)
    finished = {f.name: f.stat().st_mtime_ns for f in shards.glob("[!.]*.json")}
    nodes.kill(1)
    nodes.add(1)
    ended(process)
    entries = shard_entries(there.home, "resized_frames")
    assert len(set(entries)) == 706
    again = [n for n, then in finished.items() if (shards / n).stat().st_mtime_ns != then]
    assert len(again) < len(finished)


def test_a_node_lost_in_a_training_costs_what_came_after_its_checkpoint(tmp_path: Path, nodes: RayNodes) -> None:
    pictures(tmp_path / "pictures", 26)
    there = Installation(tmp_path, "cluster", "cluster")
    here = Installation(tmp_path, "local")
    here.run("datasets", "add", "pictures", str(tmp_path / "pictures"))
    process = there.start("run", "--dataset", "pictures", "--sweep", "tiny", "--threads", "1", "--device", "cpu")
    work = there.home / "work"
    wait_for(lambda: any(p.is_file() for p in work.glob("*/**/step-*.ckpt")), process)
    # the trunk is the only training then: the node that has it is the one with a process at work
    nodes.kill(busy(nodes))
    nodes.add(1)
    ended(process)
    assert there.events()["STEP_UP_FOR_RETRY"] >= 1
    units = list((there.home / "data" / "trunk_codec").glob("*/*/manifest.json"))
    assert len(units) == 1
    here.run("run", "--dataset", "pictures", "--sweep", "tiny", "--threads", "1", "--device", "cpu")
    pd.testing.assert_frame_equal(table(there.home, "rd_points"), table(here.home, "rd_points"), check_exact=True)


def busy(nodes: RayNodes) -> int:
    """The number of the node on which a step's process runs."""
    for number in range(len(nodes.nodes)):
        for process in nodes.processes(number):
            with contextlib.suppress(psutil.NoSuchProcess):
                if "execute_step" in " ".join(process.cmdline()):
                    return number
    raise AssertionError("no step runs on a node")


def wait_for(seen: "object", process: "subprocess.Popen[str]") -> None:
    until = time.monotonic() + LIMIT_S
    while not seen():  # type: ignore[operator]
        if process.poll() is not None:
            pytest.fail(f"ended too early:\n{process.communicate()[0]}")
        assert time.monotonic() < until
        time.sleep(0.2)
