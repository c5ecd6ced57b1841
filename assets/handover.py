"""Work in hand that another node can go on with: checkpoints of an unfinished training, copied to the shared storage.

A thread looks at the unit's work folder and sends what changed, files by their SHA-256 first, then a list that names
them. A node that starts the same unit takes over the list's files when they are newer than its own.
"""

import contextlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from assets.log import lasting_logger
from assets.remote import Remote, sha256_of
from models.errors import FoveaError

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
    sender = _Sender(place, folder, look_s)
    sender.start()
    try:
        yield
    except BaseException:
        sender.stop()
        place.wait_s = LAST_WAIT_S
        sender.send()
        raise
    sender.stop()
    if taken or sender.sent:
        with contextlib.suppress(FoveaError):
            drop(place)


def take_over(place: Remote, folder: Path) -> bool:
    """Replace the folder's files by the shared ones when those are newer. Whether there are shared ones."""
    try:
        listed = json.loads(place.read(LIST))
    except FileNotFoundError:
        return False
    own = snapshot(folder)
    if max((t for _, t in own.values()), default=0) >= max((f["time"] for f in listed.values()), default=0):
        return True
    beside = folder.with_name(f".{folder.name}.taking-{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        for name, about in listed.items():
            path = beside / name
            path.parent.mkdir(parents=True, exist_ok=True)
            place.fetch(about["sha256"], path)
            if sha256_of(path) != about["sha256"]:
                raise FoveaError(f"{place}/{about['sha256']} is damaged; delete {place} and run again")
            os.utime(path, ns=(about["time"], about["time"]))
        shutil.rmtree(folder, ignore_errors=True)
        beside.replace(folder)
    except FileNotFoundError:
        _log.warning("%s is not whole: this unit starts from what is here", place)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return True


def drop(place: Remote) -> None:
    """Delete the shared copy, its list first."""
    place.delete(LIST)
    for name in place.listing():
        place.delete(name)


def snapshot(folder: Path) -> Snapshot:
    """Relative name → bytes and time of change of each finished file."""
    found: Snapshot = {}
    for base, folders, files in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith(".")]
        for name in files:
            if name.startswith("."):
                continue
            path = Path(base) / name
            with contextlib.suppress(OSError):
                seen = path.stat()
                found[path.relative_to(folder).as_posix()] = (seen.st_size, seen.st_mtime_ns)
    return found


class _Sender:
    def __init__(self, place: Remote, folder: Path, look_s: float):
        self.place, self.folder, self.look_s = place, folder, look_s
        self.last: Snapshot = snapshot(folder)
        self.sent: set[str] = set()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="fovea-handover", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Let the thread finish what it sends, but not longer than the last wait."""
        self._stopped.set()
        self._thread.join(LAST_WAIT_S)

    def _work(self) -> None:
        while not self._stopped.wait(self.look_s):
            self.send()

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
            wanted = {str(f["sha256"]) for f in listed.values()}
            for old in self.sent - wanted:
                self.place.delete(old)
            self.sent &= wanted
        except FileNotFoundError:
            return  # a checkpoint made room for the next
        except FoveaError as error:
            _log.warning("the checkpoint is on this machine only: %s", error)
