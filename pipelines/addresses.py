"""Where `fovea ui` shows a home's pages. What is stored of a run links there, so a home keeps its ports."""

import contextlib
import json
import socket
from pathlib import Path
from typing import NamedTuple

from assets.home import write_whole

LOOPBACK = "127.0.0.1"


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


def noted(state: Path) -> tuple[Ports, Path] | None:
    """The ports in a home's note, and the home that wrote it: another one where the folder was copied or moved. None
    without a note. state: `Home.state`."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads((state / "ports.json").read_text())
        return Ports(int(found["dagster"]), int(found["mlflow"])), Path(found["home"])
    return None


def ports_of(state: Path) -> Ports:
    """The home's ports: those that it noted, else the first free ones from 3000 and from 5000 on, which it notes."""
    last = noted(state)
    if last and last[1] == state:
        return last[0]
    chosen = Ports(*(next((p for p in range(first, first + 100) if free(p)), first) for first in Ports()))
    note(state, chosen)
    return chosen


def note(state: Path, ports: Ports) -> None:
    """Keep these ports for the home."""
    write_whole(state / "ports.json", json.dumps({**ports._asdict(), "home": str(state)}))
