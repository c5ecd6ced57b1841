import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from upath import UPath

from assets.chain import Chain
from assets.home import Home
from assets.settings import Profile
from assets.stages import STAGES, open_chain
from models.presets import shipped_presets
from models.sweeps import sweep
from pipelines.executors import GPU_SHARES, asked_of, chunk_demand, cluster_of, demand, gpu_share
from pipelines.resources import chosen_executor
from pipelines.schedules import sweep as nightly

ROOT = Path(__file__).resolve().parent.parent.parent
CPU = Profile(name="c", executor="ray", ray_threads=2)
GPU = asked_of(CPU, device="cuda")


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return open_chain(Home(tmp_path / "home", tmp_path, UPath(tmp_path / "home/data")))


PRESETS = shipped_presets()


def test_shares_of_a_gpu_rise_with_the_width_and_never_leave_it() -> None:
    by_width = {p.n * p.m: gpu_share(p.n, p.m) for p in PRESETS.values()}
    shares = [by_width[width] for width in sorted(by_width)]
    assert shares == sorted(shares) and set(shares) <= set(GPU_SHARES)
    assert gpu_share(PRESETS["tiny"].n, PRESETS["tiny"].m) == GPU_SHARES[0]
    assert gpu_share(PRESETS["smoke"].n, PRESETS["smoke"].m) == 0.25
    assert gpu_share(PRESETS["paper"].n, PRESETS["paper"].m) == 1.0 and gpu_share(1024, 1024) == 1.0


def test_a_step_asks_for_what_its_partition_needs(chain: Chain) -> None:
    tiny, seed = sweep("tiny", "sample").experiments[0], sweep("seed", "sample").experiments[0]
    assert demand(chain, "trained_codec", tiny.key, CPU)[:2] == (2.0, 0.0)
    assert demand(chain, "trained_codec", tiny.key, GPU)[:2] == (2.0, 0.125)
    assert demand(chain, "trained_codec", seed.key, GPU).gpus == 1.0
    assert demand(chain, "rd_points", f"{tiny.key}@sample", GPU).gpus == 0.125
    assert demand(chain, "trunk_codec", "shipped-bls2017", GPU).gpus == 0.0
    assert demand(chain, "report", "sample.tiny", GPU)[:2] == (2.0, 0.0)
    asked = asked_of(CPU, threads=5, device="cuda:1")
    assert (asked.ray_threads, asked.device, asked.ray_address) == (5, "cuda:1", "auto") and asked_of(CPU) == CPU


@pytest.mark.parametrize("stage", [s.name for s in STAGES.values() if s.fanned_out])
def test_a_stage_that_waits_for_its_chunks_leaves_them_the_cpu(stage: str, chain: Chain) -> None:
    asked = demand(chain, stage, "sample", GPU)
    assert (asked.cpus, asked.gpus) == (0.0, 0.0)
    assert asked.memory_bytes > 0  # else Ray would run it on the head
    assert chunk_demand(stage, CPU)[:2] == (2.0, 0.0)
    assert chunk_demand(stage, GPU).gpus == (0.25 if stage == "saliency_maps" else 0.0)


def test_steps_stay_here_unless_the_profile_names_a_cluster(tmp_path: Path, chain: Chain) -> None:
    assert cluster_of(chain.home) is None
    assert chosen_executor(chain.home) is nightly.executor_def is dg.in_process_executor
    profile = Profile(name="c", executor="ray", ray_address="http://head:8265", ray_steps=3, device="cuda")
    there = Home(tmp_path, tmp_path, UPath(tmp_path), profile)
    assert cluster_of(there) == profile


def test_the_executor_of_a_profile_that_names_ray_is_rays(installation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own: Ray starts threads. That others do not import it is seen in test_incremental.py."""
    (installation / "fovea.toml").write_text('[profiles.it]\nexecutor = "ray"\n')
    monkeypatch.setenv("FOVEA_PROFILE", "it")
    code = "from assets.home import Home; from pipelines.resources import chosen_executor; print(chosen_executor(Home.from_environment()).name)"
    asked = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(asked, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "ray"
