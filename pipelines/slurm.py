"""A sweep on a SLURM cluster without Dagster or Ray: one shell script that submits itself three times.

Frames first, then an array over the trunks, then an array over the experiments, each after the one before
(`--dependency=afterok`). Each array task is one `fovea train KEY`. `fovea run` on any machine that sees the same state
finds what was trained, and makes measurements, tables and report.
"""

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from assets.chain import Chain
from assets.home import ROOT
from assets.settings import passed_on
from models.errors import FoveaError
from models.sweeps import Sweep

#: SLURM's own default of MaxArraySize is 1001: indices 0 … 1000
ARRAY_SIZE = 1000
TRAINED = ("trunk_codec", "trained_codec")
#: what tells processes where state lies; secrets are left to the cluster's own environment
PASSED_ON = (
    "FOVEA_HOME", "FOVEA_CONFIG", "FOVEA_DATA", "FOVEA_PROFILE", "CITYSCAPES_ROOT", "MLFLOW_TRACKING_URI",
)  # fmt: skip


#: what sbatch takes as --time: minutes, M:S, H:M:S, D-H, D-H:M, D-H:M:S
TIME = re.compile(r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}|UNLIMITED|INFINITE")
MEMORY = re.compile(r"\d+[KMGT]?")
#: what stands in the header as it is between quotes
NAME = re.compile(r"[^'\"\\\x00-\x1f]*")
#: the script, its blanks written @name@
SCRIPT = Path(__file__).with_suffix(".sh")


@dataclass(frozen=True)
class Resources:
    """What each task asks for. Empty: the cluster's default. `at_once` bounds tasks of an array that run together.

    Raises FoveaError for a time or an amount of memory that sbatch would refuse, and for a name that its header cannot hold.
    """

    time: str = "24:00:00"
    partition: str = ""
    account: str = ""
    gpus: int = 0
    cpus: int = 4
    memory: str = "16G"
    at_once: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.time and not TIME.fullmatch(self.time.upper()):
            raise FoveaError(f"--time {self.time!r}: expected 24:00:00, 2-12 (days and hours) or minutes")
        if self.memory and not MEMORY.fullmatch(self.memory.upper()):
            raise FoveaError(f"--memory {self.memory!r}: expected a whole number and K, M, G or T, such as 16G")
        for option in ("partition", "account"):
            if not NAME.fullmatch(name := getattr(self, option)):
                raise FoveaError(f"--{option} {name!r}: expected a name without quotes, backslashes and line breaks")


def missing(chain: Chain, sweep: Sweep) -> tuple[list[str], list[str]]:
    """Keys of the sweep's trunks and experiments that the store does not have."""
    lacking = [n for n in chain.upstream(("report", sweep.key)) if n[0] in TRAINED and not chain.ready(*n)]
    trunks = [p for stage, p in lacking if stage == "trunk_codec" and not chain.world.trunks[p].shipped]
    return trunks, [p for stage, p in lacking if stage == "trained_codec"]


def script(chain: Chain, sweep: Sweep, asked: Resources, *, python: str = sys.executable) -> str:
    """The text of the script. Raises FoveaError when nothing has to be trained."""
    trunks, experiments = missing(chain, sweep)
    if not trunks and not experiments:
        raise FoveaError(
            f"{sweep.key}: everything is trained; fovea run --sweep {sweep.name} --dataset {sweep.dataset} does the rest"
        )
    folder = str(chain.home.state / "slurm")
    wanted = chain.upstream(*(("trained_codec", key) for key in experiments), *(("trunk_codec", k) for k in trunks))
    datasets = sorted(partition for stage, partition in wanted if stage == "rgba_frames")
    header = {
        "job-name": f"fovea-{sweep.key}",
        "time": asked.time,
        "partition": shlex.quote(asked.partition) if asked.partition else "",
        "account": shlex.quote(asked.account) if asked.account else "",
        "nodes": "1",
        "ntasks": "1",
        "cpus-per-task": str(asked.cpus),
        "mem": asked.memory,
        "output": f'"{folder}/%x-%A_%a.log"',
        "open-mode": "append",
    }
    lines = [f"#SBATCH --{name}={value}" for name, value in header.items() if value]
    state = passed_on(PASSED_ON)
    state.setdefault("FOVEA_HOME", str(chain.home.state))
    exports = "\n".join(f"export {name}={shlex.quote(value)}" for name, value in sorted(state.items()))
    values = {
        "about": f"{sweep.key}: {len(trunks)} trunks and {len(experiments)} experiments to train",
        "collect": f"fovea run --sweep {sweep.name} --dataset {sweep.dataset}",
        "header": "\n".join(lines),
        "exports": exports,
        "root": shlex.quote(str(ROOT)),
        "fovea": f"{shlex.quote(python)} -m pipelines.cli",
        "datasets": _array(datasets),
        "trunks": _array(trunks),
        "experiments": _array(experiments),
        "gpus": f"--gpus={asked.gpus}" if asked.gpus else "",
        "at_once": f"%{asked.at_once}" if asked.at_once else "",
        "device": shlex.quote(asked.device),
        "processes": f" --processes {asked.gpus}" if asked.gpus > 1 else "",
        "ranks": max(1, asked.gpus),
        "size": ARRAY_SIZE,
        "folder": shlex.quote(folder),
    }
    return re.sub(r"@(\w+)@", lambda name: str(values[name[1]]), SCRIPT.read_text())


def _array(words: Sequence[str]) -> str:
    return "\n".join(f"  {shlex.quote(word)}" for word in words)
