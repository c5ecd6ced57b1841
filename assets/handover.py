"""Work in hand that another node can go on with: checkpoints of an unfinished training, copied to the shared storage.

A thread looks at the unit's work folder and sends what changed, files by their SHA-256 first, then a list that names
them. A node that starts the same unit takes over the list's files when they are newer than its own.
"""

import contextlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from assets.log import lasting_logger
from assets.remote import Remote, files_below, hidden
from models.errors import FoveaError
from models.weights import sha256_of

LIST = "files.json"
#: seconds between two looks at the work folder
LOOK_S = 2.0
#: seconds that a unit that ends with an error may wait for the storage
LAST_WAIT_S = 10.0

_log = lasting_logger("fovea.storage")
Snapshot = dict[str, tuple[int, int]]


@contextlib.contextmanager
def shared_work(shared: Remote | None, folder: Path, key: str, look_s: float = LOOK_S) -> Iterator[None]:
    """Take over what another node left of the unit, and share this folder's checkpoints while the block runs.

    When the block ends well the shared copy is dropped. Does nothing where `shared` is None. Raises FoveaError when the
    storage is away at the start; while the block runs, an absent storage costs it nothing.
    """
    if shared is None:
        yield
        return
    place = shared.below(f"work/{key}")
    taken = take_over(place, folder)
    sender, stopped, went_well = _Sender(place, folder), threading.Event(), False

    def work() -> None:
        while not stopped.wait(look_s):
            sender.send()

    thread = threading.Thread(target=work, name="fovea-handover", daemon=True)
    thread.start()
    try:
        yield
        went_well = True
    finally:
        stopped.set()
        thread.join(LAST_WAIT_S)
        if not went_well:
            place.wait_s = LAST_WAIT_S
            sender.send()
        elif taken or sender.sent:
            with contextlib.suppress(FoveaError):
                for name in (LIST, *place.listing()):  # the list first
                    place.delete(name)


def take_over(place: Remote, folder: Path) -> bool:
    """Replace the folder's files by the shared ones when those are newer. Whether there are shared ones."""
    try:
        listed = json.loads(place.read(LIST))
    except FileNotFoundError:
        return False
    own = max((time for _, time in snapshot(folder).values()), default=0)
    if own >= max((file["time"] for file in listed.values()), default=0):
        return True
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as beside:
        try:
            for name, file in listed.items():
                path = Path(beside, "taken", name)
                path.parent.mkdir(parents=True, exist_ok=True)
                place.fetch(file["sha256"], path)
                if sha256_of(path) != file["sha256"]:
                    raise FoveaError(f"{place}/{file['sha256']} is damaged; delete {place} and run again")
                os.utime(path, ns=(file["time"], file["time"]))
            shutil.rmtree(folder, ignore_errors=True)
            Path(beside, "taken").replace(folder)
        except FileNotFoundError:
            _log.warning("%s is not whole: this unit starts from what is here", place)
    return True


def snapshot(folder: Path) -> Snapshot:
    """Relative name → bytes and time of change of each finished file."""
    return {name: (s.st_size, s.st_mtime_ns) for name, s in files_below(folder) if not hidden(name)}


class _Sender:
    def __init__(self, place: Remote, folder: Path):
        self.place, self.folder = place, folder
        self.last: Snapshot = snapshot(folder)
        self.sent: set[str] = set()

    def send(self) -> None:
        """Share the folder as it is; one that changes meanwhile is shared at the next look."""
        there = snapshot(self.folder)
        if not there or there == self.last:
            return
        try:
            listed: dict[str, dict[str, Any]] = {}
            for name, (_, time) in sorted(there.items()):
                path = self.folder / name
                sha256 = sha256_of(path)
                if sha256 not in self.sent:
                    self.place.put(path, sha256)
                    self.sent.add(sha256)
                listed[name] = {"sha256": sha256, "time": time}
            if snapshot(self.folder) != there:
                return
            self.place.write(LIST, json.dumps(listed).encode())
            self.last = there
            wanted = {str(file["sha256"]) for file in listed.values()}
            for old in self.sent - wanted:
                self.place.delete(old)
            self.sent &= wanted
        except FileNotFoundError:
            return  # a checkpoint made room for the next
        except FoveaError as error:
            _log.warning("the checkpoint is on this machine only: %s", error)
