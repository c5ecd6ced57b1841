"""Where `fovea ui` shows a home's pages. Terminals, reports and descriptions name the ports, so a home keeps them."""

import contextlib
import json
import socket
from pathlib import Path
from typing import NamedTuple

from assets.home import write_whole

LOOPBACK = "127.0.0.1"
#: the page of Dagster at `fovea ui` that leads to MLflow
MLFLOW_PAGE = "/mlflow"


class Ports(NamedTuple):
    """On loopback, 1 to 65535 each."""

    dagster: int = 3000
    mlflow: int = 5000


def address(port: int) -> str:
    """Of a page on loopback."""
    return f"http://{LOOPBACK}:{port}"


def free(port: int) -> bool:
    """Whether nobody listens on this loopback port."""
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) != 0


class Note(NamedTuple):
    """What a home keeps of its ports. own: whether this folder wrote it, and is no copy of the one that did. served: whether
    `fovea ui` has shown pages there."""

    ports: Ports
    own: bool
    served: bool


def noted(state: Path) -> Note | None:
    """A home's note; None without one that can be read. state: `Home.state`."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, ArithmeticError):
        found = json.loads((state / "ports.json").read_text())
        ports = Ports(*map(int, found["ports"]))
        if all(0 < port < 65536 for port in ports):
            return Note(ports, found["folder"] == _folder(state), bool(found["served"]))
    return None


def first_free() -> Ports:
    """The first free ports from 3000 and from 5000 on."""
    return Ports(*(next((p for p in range(first, first + 100) if free(p)), first) for first in Ports()))


def ports_of(state: Path) -> Ports:
    """The home's ports: those that it noted, else the first free ones, which it notes."""
    last = noted(state)
    if last and last.own:
        return last.ports
    note(state, chosen := first_free())
    return chosen


def note(state: Path, ports: Ports, *, served: bool = False) -> None:
    """Keep these ports for the home; as in Note."""
    state.mkdir(parents=True, exist_ok=True)
    kept = {"ports": ports, "folder": _folder(state), "served": served}
    write_whole(state / "ports.json", json.dumps(kept))


def _folder(state: Path) -> list[int]:
    """The same by whatever path a folder is reached, and another one for a copy."""
    found = state.stat()
    return [found.st_dev, found.st_ino]
