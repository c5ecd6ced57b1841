"""A Ray cluster on loopback: a head without CPUs of its own, and nodes that can be killed like machines.

with RayNodes(root, cpus=(1, 1)) as ray_nodes: ...  # ray_nodes.address, ray_nodes.kill(0), ray_nodes.add(1)
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import psutil
from servers.ports import Server, free_port

HEAD = "127.0.0.2"  # 127.0.0.1 is rewritten to the machine's own address
BINARY = Path(sys.executable).with_name("ray")
#: Ray gives a node half a minute to start, which a busy machine may need more than once
TRIES = 4


class RayNodes(Server):
    """environment: what the nodes' own environment holds beside that of this process, such as secrets."""

    def __init__(
        self, root: Path, cpus: tuple[int, ...] = (1, 1), environment: Mapping[str, str] | None = None
    ) -> None:
        self.root = root
        self.environment = dict(environment or {})
        # sockets lie below it, whose names are short by law
        self.folder = Path(tempfile.mkdtemp(prefix="ry", dir="/tmp"))
        self.port, dashboard = free_port(), free_port()
        self.address = f"http://{HEAD}:{dashboard}"
        self.nodes: list[set[psutil.Process]] = []
        self._own: set[psutil.Process] = set()
        try:
            self._start(
                "--head", f"--port={self.port}", f"--node-ip-address={HEAD}", "--num-cpus=0",
                f"--dashboard-host={HEAD}", f"--dashboard-port={dashboard}", f"--temp-dir={self.folder}",
            )  # fmt: skip
            for count in cpus:
                self.add(count)
        except BaseException:
            self.close()
            raise

    def _start(self, *options: str) -> set[psutil.Process]:
        environment = {
            **os.environ,
            **self.environment,
            "PYTHONPATH": str(self.root),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_gcs_server_request_timeout_seconds": "120",
            "RAY_health_check_period_ms": "2000",
        }
        for attempt in range(1, TRIES + 1):
            before = self._named()
            done = subprocess.run(
                [str(BINARY), "start", "--object-store-memory=80000000", *options],
                env=environment, cwd=self.root, capture_output=True, text=True, check=False,
            )  # fmt: skip
            started = self._named() - before
            self._own |= started
            if done.returncode == 0 and "Ray runtime started" in done.stdout:
                return started
            _kill(started)
            if attempt == TRIES:
                raise TimeoutError(f"Ray did not start: {done.stdout[-1500:]}{done.stderr[-1500:]}")
        raise AssertionError

    def _named(self) -> set[psutil.Process]:
        """Ray's processes whose command line names the port or the folder."""
        listed = {p: " ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"])}
        ours = (str(self.port), str(self.folder))
        return {p for p, line in listed.items() if "/ray/" in line and any(name in line for name in ours)}

    def add(self, cpus: int) -> int:
        """Another node; returns its number."""
        address = f"127.0.0.{3 + len(self.nodes)}"
        self.nodes.append(
            self._start(f"--address={HEAD}:{self.port}", f"--node-ip-address={address}", f"--num-cpus={cpus}")
        )
        return len(self.nodes) - 1

    def processes(self, number: int) -> set[psutil.Process]:
        """A node's, and those that they started."""
        return _with_children(self.nodes[number])

    def kill(self, number: int) -> None:
        """A node dies as a machine does: everything on it at once, without a word."""
        _kill(self.processes(number))

    def close(self) -> None:
        _kill(_with_children(self._own))
        shutil.rmtree(self.folder, ignore_errors=True)


def _with_children(processes: set[psutil.Process]) -> set[psutil.Process]:
    found = set(processes)
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            found |= {*process.children(recursive=True)}
    return found


def _kill(processes: set[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=10)
