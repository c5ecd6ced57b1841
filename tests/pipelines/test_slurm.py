import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from upath import UPath

from assets.chain import Chain
from assets.home import Home
from assets.stages import open_chain
from models.errors import FoveaError
from models.sweeps import sweep
from pipelines import slurm
from pipelines.slurm import Resources, script

#: stands in for SLURM's command: records its arguments, one call a line, and prints the next number
RECORDER = """#!/bin/bash
echo "$*" >> "$CALLS"
wc -l < "$CALLS"
"""
#: stands in for Python: records what would be run
ECHO = """#!/bin/bash
echo "$*"
"""


@pytest.fixture
def chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Chain]:
    for name in slurm.PASSED_ON:
        monkeypatch.delenv(name, raising=False)
    for name, text in (("sbatch", RECORDER), ("python", ECHO)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    yield open_chain(Home(tmp_path / "a home", tmp_path, UPath(tmp_path / "a home/data")))


def written(chain: Chain, asked: Resources, name: str = "tiny") -> Path:
    path = chain.home.config / "it.sbatch"
    text = script(chain, sweep(name, "sample"), asked, python=str(chain.home.config / "python"))
    path.write_text(text)
    return path


def bash(path: Path, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    given = os.environ | environment
    return subprocess.run(["bash", str(path), *words], env=given, capture_output=True, text=True, check=False)


def test_phases_wait_for_each_other(chain: Chain) -> None:
    path = written(chain, Resources(gpus=1, at_once=3, partition="gpu", time="1:00:00"))
    done = subprocess.run(["bash", path.name], cwd=path.parent, capture_output=True, text=True, check=True)
    calls = (chain.home.config / "calls").read_text().splitlines()
    assert calls == [
        f"--parsable {path} frames",
        f"--parsable --dependency=afterok:1 --kill-on-invalid-dep=yes --gpus=1 --array=0-0%3 {path} trunk 0",
        f"--parsable --dependency=afterok:2 --kill-on-invalid-dep=yes --gpus=1 --array=0-7%3 {path} experiment 0",
    ]
    assert re.search(r"experiments +3 \(8 tasks\)", done.stdout) and (chain.home.state / "slurm").is_dir()
    header = [line for line in path.read_text().splitlines() if line.startswith("#SBATCH")]
    assert "#SBATCH --partition=gpu" in header
    assert "#SBATCH --time=1:00:00" in header
    assert not [line for line in header if "account" in line]


def test_large_sweeps_become_several_arrays(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "ARRAY_SIZE", 3)
    assert bash(written(chain, Resources())).returncode == 0
    calls = [c.split() for c in (chain.home.config / "calls").read_text().splitlines()]
    assert [c[-1] for c in calls[2:]] == ["0", "3", "6"]
    arrays = [next(w for w in c if w.startswith("--array=")).removeprefix("--array=") for c in calls[2:]]
    assert arrays == ["0-2", "0-2", "0-1"] and all("afterok:2" in " ".join(c) for c in calls[2:])


@pytest.mark.parametrize(("offset", "place"), [(0, 0), (0, 5), (6, 1)])
def test_each_task_trains_its_own_key(chain: Chain, offset: int, place: int) -> None:
    path, task = written(chain, Resources(cpus=3, device="cuda")), {"SLURM_ARRAY_TASK_ID": str(place)}
    done = bash(path, "experiment", str(offset), SLURM_CPUS_PER_TASK="3", **task)
    key = sweep("tiny", "sample").experiments[offset + place].key
    assert done.stdout.split() == [*("-m", "pipelines.cli", "train", key), *("--threads", "3", "--device", "cuda")]


@pytest.mark.parametrize("refused", ["trunk", "experiment"])
def test_nothing_is_submitted_after_a_refusal(chain: Chain, refused: str) -> None:
    path = written(chain, Resources())
    (chain.home.config / "sbatch").write_text(f'#!/bin/bash\n[[ "$*" != *{refused}* ]] || exit 1\n' + RECORDER)
    done = bash(path)
    assert done.returncode != 0
    calls = (chain.home.config / "calls").read_text()
    assert "experiment" not in calls and f"{refused}s " not in done.stdout


@pytest.mark.parametrize(("gpus", "cpus", "threads"), [(0, 5, "5"), (1, 5, "5"), (2, 4, "2"), (2, 5, "2"), (4, 2, "1")])
def test_a_training_and_the_task_s_cpus_are_shared_by_its_gpus(
    chain: Chain, gpus: int, cpus: int, threads: str
) -> None:
    path = written(chain, Resources(gpus=gpus, cpus=cpus))
    assert f"#SBATCH --cpus-per-task={cpus}" in path.read_text()
    given = {"SLURM_ARRAY_TASK_ID": "0", "SLURM_CPUS_PER_TASK": str(cpus)}
    for phase in ("trunk", "experiment"):
        words = bash(path, phase, **given).stdout.split()
        shared = ["--processes", str(gpus)] if gpus > 1 else []
        assert words[4:] == ["--threads", threads, "--device", "auto", *shared]
    assert f"--threads {cpus} " in bash(path, "frames", **given).stdout, "frames are made by one process"


def test_names_in_the_header_are_one_word_each(chain: Chain) -> None:
    header = written(chain, Resources(account="my project #2", partition="a,b")).read_text().splitlines()
    assert "#SBATCH --account='my project #2'" in header and "#SBATCH --partition=a,b" in header
    for wrong in ("a'b", 'a"b', "a\\b", "a\n#SBATCH --time=1"):
        with pytest.raises(FoveaError, match=r"--account .*expected a name"):
            Resources(account=wrong)


@pytest.mark.parametrize(
    ("time", "memory", "said"),
    [("a day", "", "--time"), ("1:2:3:4", "", "--time"), ("90", "16 GB", "--memory"), ("90", "lots", "--memory")],
)
def test_what_sbatch_would_refuse_is_refused_here(time: str, memory: str, said: str) -> None:
    with pytest.raises(FoveaError, match=f"{said} .*expected"):
        Resources(time=time, memory=memory)
    for taken in ("90", "30:00", "24:00:00", "2-12", "1-06:30", "unlimited", ""):
        assert Resources(time=taken, memory="").time == taken


def test_a_failing_command_fails_its_task(chain: Chain) -> None:
    path = written(chain, Resources())
    (chain.home.config / "python").write_text("#!/bin/bash\nexit 3\n")
    assert [bash(path, phase).returncode for phase in ("frames", "nonsense")] == [3, 2]


def test_what_is_trained_is_left_out(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "ready", lambda stage, key: stage == "trunk_codec" or "gain" in key)
    text = script(chain, sweep("tiny", "sample"), Resources())
    assert "trunks=(\n\n)" in text and text.count("saliency_gain") == 0
    assert len(re.findall(r"^  l[\d.]+-bls2017-sample-tiny-\S+-uniform$", text, flags=re.M)) == 4
    monkeypatch.setattr(chain, "ready", lambda stage, key: True)
    with pytest.raises(FoveaError, match="everything is trained"):
        script(chain, sweep("tiny", "sample"), Resources())


def test_the_command_writes_a_script_that_bash_reads(installation: Path) -> None:
    from pipelines.cli import main

    path = installation / "x.sbatch"
    done = CliRunner().invoke(main, ["slurm", "--sweep", "tiny", "-o", str(path), "--gpus", "2"])
    assert done.exit_code == 0, done.output
    assert f"submit: bash {path}" in done.output and sys.executable in path.read_text()
    subprocess.run(["bash", "-n", str(path)], check=True)


# ---------------------------------------------------------------------------------------------- real SLURM

CONFIG = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={port}
SlurmdPort={second}
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/d.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/ctld.log
SlurmdLogFile={folder}/d.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2
MpiDefault=none
ReturnToService=2
JobRequeue=1
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
MISSING = [name for name in PROGRAMS if not shutil.which(name, path="/usr/sbin:/usr/bin")]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """SLURM of one node on loopback, with a key and folders of its own."""
    import getpass
    import secrets
    import socket
    import time

    if MISSING:
        pytest.skip(f"no {', '.join(MISSING)} here: apt-get install slurmctld slurmd slurm-client munge")
    folder = Path(subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True).stdout.strip())
    folder.chmod(0o755)
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(64))
    key.chmod(0o600)
    ports = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    host = socket.gethostname().split(".")[0]
    cpus = os.cpu_count() or 1
    config = folder / "slurm.conf"
    named = {"host": host, "folder": folder, "user": getpass.getuser(), "cpus": cpus}
    config.write_text(CONFIG.format(port=ports[0], second=ports[1], **named))
    monkeypatch.setenv("SLURM_CONF", str(config))
    munged = [
        "/usr/sbin/munged", "--force", "--foreground", f"--key-file={key}", f"--socket={folder}/munge.socket",
        f"--pid-file={folder}/munge.pid", f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed",
    ]  # fmt: skip
    commands = [munged, ["/usr/sbin/slurmctld", "-D"], ["/usr/sbin/slurmd", "-D", "-N", host]]
    processes = []
    try:
        for command in commands:
            with (folder / f"{Path(command[0]).name}.out").open("wb") as log:
                processes.append(subprocess.Popen(command, stdout=log, stderr=log))
            time.sleep(1)
        for _ in range(60):
            seen = subprocess.run(["sinfo", "-h", "-o", "%t"], capture_output=True, text=True, check=False)
            if seen.stdout.strip() == "idle":
                break
            time.sleep(0.5)
        else:
            logs = "\n".join(p.read_text()[-1500:] for p in sorted(folder.glob("*.log")) if p.exists())
            pytest.fail(f"SLURM did not start: {seen.stdout}{seen.stderr}\n{logs}")
        yield folder
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(20)
        shutil.rmtree(folder, ignore_errors=True)


def ran_on(cluster: Path, chain: Chain, then: str) -> list[list[str]]:
    """Submit to SLURM, wait for its queue to be empty, and give the command lines. then: what a command does after
    it is written down."""
    import time

    ran, real = cluster / "ran", os.environ["PATH"].split(":", 1)[1]
    (chain.home.config / "python").write_text(f'#!/bin/bash\necho "$*" >> {ran}\n{then}\n')
    path = written(chain, Resources(cpus=1, memory="10M", time="00:05:00"))
    done = bash(path, PATH=real)
    assert done.returncode == 0, done.stderr
    began, asked = time.monotonic(), ["squeue", "-h", "-o", "%i %T %r"]
    while queue := subprocess.run(asked, capture_output=True, text=True, check=True).stdout:
        assert time.monotonic() - began < 120, queue
        time.sleep(0.5)
    return [line.split() for line in ran.read_text().splitlines()]


@pytest.mark.cluster
def test_slurm_runs_the_phases_in_order(cluster: Path, chain: Chain) -> None:
    lines = ran_on(cluster, chain, "sleep 0.2")
    tiny = sweep("tiny", "sample")
    assert [line[2] for line in lines] == ["run", *["train"] * 9] and lines[1][3] == tiny.trunks[0].key
    assert sorted(line[3] for line in lines[2:]) == sorted(e.key for e in tiny.experiments)


@pytest.mark.cluster
def test_slurm_never_starts_what_follows_a_failure(cluster: Path, chain: Chain) -> None:
    assert len(ran_on(cluster, chain, '[[ "$*" != *trunk\\ * ]]')) == 2
