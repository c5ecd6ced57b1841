import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from commands import environment, fovea
from servers.worker_bodies import answer

from pipelines import workers as module
from pipelines.plan import Step
from pipelines.workers import Asked, Workers, gpus, watch

ROOT = Path(__file__).parents[2]


def notes(seen: mock.Mock) -> list[str]:
    """What a step said by its progress."""
    return [call.args[2] for call in seen.call_args_list]


def step(partition: str) -> Step:
    return Step("trained_codec", partition, "never made")


def test_two_steps_are_made_at_once_each_with_a_gpu_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0, GPU-8f")
    seen = mock.Mock(), mock.Mock(), mock.Mock()
    with Workers(3, share=2, body=answer) as workers, ThreadPoolExecutor(2) as pool:
        made = [pool.submit(workers.make, step(f"meet:{tmp_path}"), {}, s) for s in seen[:2]]
        assert [m.result() for m in made] == ["", ""] and workers.make(step("fine"), {}, seen[2]) == ""
    told = [notes(s)[0].split() for s in seen]
    assert {(gpu, share) for _, gpu, share in told} == {("0", "2"), ("GPU-8f", "2")}
    assert [gpu for _, gpu, _ in told].count("0") == 2 and all(not p.is_alive() for p in workers._alive.values())


@pytest.mark.parametrize(("cluster", "said"), [(False, "made it died"), (True, "watched it died")])
def test_a_dead_worker_fails_its_step_alone(cluster: bool, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PRELOADED", [])
    with Workers(1, device="cpu", body=answer, cluster=cluster) as workers:
        first, second = mock.Mock(), mock.Mock()
        assert f"{said} (exit code 3)" in workers.make(step("crash"), {}, first)
        assert workers.make(step("fail"), {}, second) == "diverged" and workers.make(step("fine"), {}, second) == ""
    pids = {note.split()[0] for note in notes(second)}
    assert len(pids) == 1 and notes(first)[0].split()[0] not in pids


def test_an_interrupt_ends_the_workers_first() -> None:
    began, before = time.monotonic(), signal.getsignal(signal.SIGINT)
    with (
        pytest.raises(KeyboardInterrupt),
        Workers(2, device="cpu", body=answer) as workers,
        ThreadPoolExecutor(2) as pool,
    ):
        seen = mock.Mock()
        made = pool.submit(workers.make, step("sleep"), {}, seen)
        while not seen.called:
            time.sleep(0.01)
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        time.sleep(20)
    assert made.result() == "stopped" and time.monotonic() - began < 20 and signal.getsignal(signal.SIGINT) is before


def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    code = (
        "import os, signal; from servers.worker_bodies import linger; from pipelines.workers import Workers\n"
        "if __name__ == '__main__':\n"
        "    w = Workers(1, device='cpu', body=linger).__enter__()\n"
        "    print(w._alive[0].pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    script = tmp_path / "parent.py"
    script.write_text(code)
    given = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    pid = int(subprocess.run([sys.executable, str(script)], env=given, capture_output=True, timeout=60).stdout)
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline, "the worker outlives its parent"
        time.sleep(0.05)


def test_what_dagster_raises_ends_a_watched_step_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines import steps

    monkeypatch.setattr(steps, "made_on_cluster", mock.Mock(side_effect=[RuntimeError("no such executor"), ""]))
    own, other = multiprocessing.Pipe()
    for given in ((step("bad"), {}), (step("good"), {}), None):
        own.send(given)
    watch(other, Asked("cpu", "", 1, 1))
    bad, good = own.recv(), own.recv()
    assert re.fullmatch(r"RuntimeError in pipelines/workers.py, line \d+: no such executor", bad) and good == ""


def test_gpus_are_those_that_the_process_may_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert gpus() == ["2", "3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert all(name.isdigit() for name in gpus())


@pytest.mark.slow
@pytest.mark.e2e
def test_the_tiny_sweep_in_two_workers_gives_the_bits_of_one(tmp_path: Path) -> None:
    """Beside each other and one after the other, with as many threads each: the same codecs, every step carried out."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config/fovea.toml").write_text("[datasets.sample]\ncounts = { train = 4, val = 1, test = 2 }\n")

    def made(home: str, *options: str) -> dict[str, Any]:
        state = tmp_path / home
        given = environment(tmp_path, FOVEA_HOME=str(state))
        fovea(given, "run", "--sweep", "tiny", "--threads", "1", *options, check=True)
        codecs = [json.loads(p.read_text()) for p in state.rglob("trained_codec/**/training.json")]
        return {json.dumps(c["record"], sort_keys=True): c["weights_sha256"] for c in codecs}

    two = made("two", "--parallel", "2")
    assert len(two) == 8 and two == made("one", "--parallel", "1")
