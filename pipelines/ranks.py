"""Several processes of one `fovea train` on this machine, as torchrun starts them."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

import psutil

POLL_S = 0.2
PATIENCE_S = 10.0


def launch_ranks(arguments: Sequence[str], processes: int) -> int:
    """Run the command line `processes` times, as the ranks of one training; gives the exit code. When one fails the others
    are ended. They are this process's children in its own process group, so that a Ctrl-C reaches all."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
    }
    children = [
        psutil.Popen(
            [sys.executable, "-m", "pipelines.cli", *arguments],
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            # one story on the terminal; what another rank dies of is still seen
            stdout=None if rank == 0 else subprocess.DEVNULL,
        )
        for rank in range(processes)
    ]
    try:
        while True:
            codes = [child.poll() for child in children]
            failed = next((code for code in codes if code), None)
            if failed is not None:
                return failed if failed > 0 else 1
            if all(code == 0 for code in codes):
                return 0
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        psutil.wait_procs(children, PATIENCE_S)
        return 130
    finally:
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.terminate()
        for child in psutil.wait_procs(children, PATIENCE_S)[1]:
            child.kill()
            child.wait()
