"""`make ui`: Dagster's webserver and daemon and MLflow's UI as children of one process, on loopback."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from assets.evaluation.report_stage import lead
from assets.home import ROOT, Home, write_whole
from models.errors import FoveaError
from pipelines.addresses import LOOPBACK, Ports, address, first_free, free, note, noted, ports_of
from pipelines.instance import prepare_instance
from pipelines.mlflow_store import MlflowStore, lead_descriptions, redacted
from pipelines.mlflow_tracking import MlflowTracker
from pipelines.mlflow_view import TABLE
from pipelines.partitions import shown

STOP_AFTER_S = 15.0
WORKSPACE = """load_from:
  - python_module:
      module_name: pipelines.definitions
      location_name: fovea
"""
#: what the announced addresses open: the graph with its groups open, the experiments as runs
FIRST_PAGE = {
    "dagster": "/asset-groups?expanded="
    + ",".join(f"global@global:{g}" for g in ("frames", "saliency", "training", "evaluation")),
    "mlflow": f"/#/experiments?{TABLE}",
}


def _open_already(home: Home) -> bool:
    """Whether a `fovea ui` of this home runs."""
    try:
        with home.locked("ui", timeout=0):
            return False
    except FoveaError:
        return True


def commands(home: Home, ports: Ports, mlflow: str) -> dict[str, list[str]]:
    """Name → command line of each child. mlflow: the address of its pages."""
    python = [sys.executable, "-m"]
    workspace = ROOT / "workspace.yaml"
    if not workspace.is_file():
        # an installed package; links and runs of the command line name the location
        workspace = home.dagster / "workspace.yaml"
        write_whole(workspace, WORKSPACE)
    return {
        "dagster": [*python, "pipelines.dagster_pages", mlflow, "-w", str(workspace), "-h", LOOPBACK, "-p", str(ports.dagster), "--code-server-log-level", "warning"],
        "mlflow": [
            *python, "mlflow", "server", "--host", LOOPBACK, "--port", str(ports.mlflow), "--workers", "1",
            "--artifacts-destination", str(home.mlflow / "artifacts"),
        ],
    }  # fmt: skip


def serve(port: int | None = None, mlflow_port: int | None = None) -> None:
    """Start all, say where they are, and stop all on Ctrl-C or when one ends. port, mlflow_port: None for those of last time.
    Raises FoveaError for a taken port."""
    home = Home.from_environment()
    before = noted(home.state)
    last, served = ports_of(home.state), bool(before and before.own and before.served)
    usual = last if served or all(map(free, last)) else first_free()
    ports = Ports(usual.dagster if port is None else port, usual.mlflow if mlflow_port is None else mlflow_port)
    if ports.dagster == ports.mlflow:
        raise FoveaError(f"--port and --mlflow-port are both {ports.dagster}: two servers need two ports")
    for name, wanted in zip(("--port", "--mlflow-port"), ports, strict=True):
        if not free(wanted):
            open_ = (
                f"this home is shown already, at {address(last.dagster)} and {address(last.mlflow)}; else "
                * _open_already(home)
            )
            raise FoveaError(f"port {wanted} is taken: {open_}stop what listens there, or choose another with {name}")
    prepare_instance(home)
    shown(home)
    home.mlflow.mkdir(parents=True, exist_ok=True)
    remote = home.profile.tracking_uri()
    here = redacted(remote) if remote.startswith("http") else address(ports.mlflow)
    mlflow = (os.environ.get("FOVEA_MLFLOW_UI") or here).rstrip("/")
    if not remote:
        MlflowStore(home.mlflow, "").connect()  # makes the embedded store, safely beside other processes
    if not served or ports == last or free(last.dagster):  # else it is shown at its own ports, too, which outlast these
        note(home.state, ports, served=True)
        for page in (*home.reports.glob("*.html"), *home.mlflow.glob("artifacts/*/*/artifacts/report/report.html")):
            lead(page, mlflow)
        if not remote:
            lead_descriptions(home.mlflow)
    environment = {
        **os.environ,
        "PYTHONWARNINGS": "ignore",
        # else a dozen processes for features that Fovea does not use
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # no argument: everybody on the machine could read a password in it
        "MLFLOW_BACKEND_STORE_URI": remote or f"sqlite:///{home.mlflow / 'mlflow.db'}",
    }
    # also where Ctrl-C would be ignored (a background job of a script), and when a terminal closes
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, signal.default_int_handler)
    children: dict[str, psutil.Popen] = {}
    held = contextlib.ExitStack()
    with contextlib.suppress(FoveaError):  # another one shows this home at other ports
        held.enter_context(home.locked("ui", timeout=0))
    try:
        for name, command in commands(home, ports, mlflow).items():
            if name == "mlflow" and remote.startswith("http"):
                continue
            log = home.state / "logs" / f"{name}.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            children[name] = _start(command, environment, log)
        _announce(home, ports, children, remote)
        while all(child.poll() is None for child in children.values()):
            time.sleep(0.5)
        ended = [name for name, child in children.items() if child.poll() is not None]
        raise FoveaError(f"{', '.join(ended)} ended; its log is in {home.state / 'logs'}")
    except KeyboardInterrupt:
        print("\nstopping …", file=sys.stderr)
    finally:
        stop(children)
        held.close()


def _start(command: list[str], environment: dict[str, str], log: Path) -> psutil.Popen:
    with log.open("ab") as file:
        return psutil.Popen(
            command, env=environment, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )


def _announce(home: Home, ports: Ports, children: dict[str, psutil.Popen], remote: str) -> None:
    waiting = {k: v for k, v in ports._asdict().items() if k in children}
    print(f"starting (logs in {home.state / 'logs'}) …", file=sys.stderr, flush=True)
    deadline = time.monotonic() + 180
    while waiting and time.monotonic() < deadline and all(c.poll() is None for c in children.values()):
        for name, wanted in list(waiting.items()):
            if not free(wanted):
                _say(name, address(wanted), home, remote)
                del waiting[name]
        time.sleep(0.3)
    if remote.startswith("http"):
        _say("mlflow", redacted(remote).rstrip("/"), home, remote)
    for report in sorted(home.reports.glob("*.html")):
        print(f"report   {report}", flush=True)
    if home.shared is not None:
        print(f"reports  {home.shared}/reports, tables {home.shared}/tables", flush=True)
    print("Ctrl-C stops all", flush=True)


def _say(name: str, base: str, home: Home, remote: str) -> None:
    """Where to look: in MLflow the run table of each sweep, since its list opens an experiment as traces."""
    tables = MlflowTracker(home.mlflow, remote).tables() if name == "mlflow" else {}
    for of, page in tables.items() or [("", base + FIRST_PAGE[name])]:
        print(f"{name:8} {page}  {of}".rstrip(), flush=True)


def stop(children: dict[str, psutil.Popen]) -> None:
    """End every child with what it started: ask, wait, insist."""
    for sign, wait_s in ((signal.SIGINT, STOP_AFTER_S), (signal.SIGTERM, STOP_AFTER_S), (signal.SIGKILL, 2)):
        for child in children.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, sign)
        if not psutil.wait_procs(children.values(), wait_s)[1]:
            return
