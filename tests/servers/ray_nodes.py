"""A Ray cluster on loopback: a head without CPUs of its own, and nodes that can be killed like machines.

with RayNodes(root, cpus=(1, 1)) as ray_nodes: ...  # ray_nodes.address, ray_nodes.kill(0), ray_nodes.add(1)
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from servers.ports import free_port

HEAD = "127.0.0.2"  # 127.0.0.1 is rewritten to the machine's own address
BINARY = Path(sys.executable).with_name("ray")
#: Ray gives a node half a minute to start, which a busy machine may need more than once
TRIES = 4


class RayNodes:
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
        self.nodes: list[list[int]] = []
        self._own: set[int] = set()
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

    def _start(self, *options: str) -> list[int]:
        environment = {
            **os.environ,
            **self.environment,
            "PYTHONPATH": str(self.root),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_gcs_server_request_timeout_seconds": "120",
            "RAY_health_check_period_ms": "2000",
        }
        for attempt in range(1, TRIES + 1):
            before = _pids(str(self.port)) | _pids(str(self.folder))
            done = subprocess.run(
                [str(BINARY), "start", "--object-store-memory=80000000", *options],
                env=environment, cwd=self.root, capture_output=True, text=True, check=False,
            )  # fmt: skip
            started = (_pids(str(self.port)) | _pids(str(self.folder))) - before
            self._own |= started
            if done.returncode == 0 and "Ray runtime started" in done.stdout:
                return sorted(started)
            _kill(started)
            if attempt == TRIES:
                raise TimeoutError(f"Ray did not start: {done.stdout[-1500:]}{done.stderr[-1500:]}")
        raise AssertionError

    def add(self, cpus: int) -> int:
        """Another node; returns its number."""
        address = f"127.0.0.{3 + len(self.nodes)}"
        pids = self._start(f"--address={HEAD}:{self.port}", f"--node-ip-address={address}", f"--num-cpus={cpus}")
        self.nodes.append(pids)
        return len(self.nodes) - 1

    def kill(self, number: int) -> None:
        """A node dies as a machine does: everything on it at once, without a word."""
        found = set(self.nodes[number])
        while True:
            children = _children(found) - found
            if not children:
                break
            found |= children
        _kill(found)

    def close(self) -> None:
        found = set(self._own)
        while children := _children(found) - found:
            found |= children
        _kill(found)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _commands() -> dict[int, tuple[int, str]]:
    """Parent and command line of every process."""
    listed = subprocess.run(["ps", "-eww", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True)
    found = {}
    for line in listed.stdout.splitlines():
        if match := re.match(r"\s*(\d+)\s+(\d+)\s+(.*)", line):
            found[int(match[1])] = (int(match[2]), match[3])
    return found


def _pids(text: str) -> set[int]:
    """Ray's processes whose command line names the text."""
    return {pid for pid, (_, line) in _commands().items() if text in line and "/ray/" in line and pid != os.getpid()}


def _children(parents: set[int]) -> set[int]:
    return {pid for pid, (parent, _) in _commands().items() if parent in parents}


def _kill(pids: set[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    for _ in range(100):
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return
        time.sleep(0.1)
