"""What a run has said, on the local disk, before any server hears of it.

One run is one append-only file of JSON lines, named by a digest of the run's key, and a spool of copied files that
some lines name. How far each server has been brought stands beside it, replaced atomically. Appending is one `write`
of a whole record, so that a process killed at any moment leaves whole records, and at worst one torn one that readers
pass over.
"""

import hashlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from assets.home import explained, write_whole

Record = dict[str, Any]
_count = itertools.count()


@dataclass(frozen=True)
class Progress:
    """How far one server has been brought: `offset` bytes of a journal, as the run `run_id`."""

    run_id: str = ""
    experiment_id: str = ""
    offset: int = 0


class Journal:
    """The story of one run. Several processes and threads may append at once; who sends it holds `lock`."""

    def __init__(self, folder: Path, name: str):
        self.folder, self.name = folder, name
        self.path = folder / f"{name}.jsonl"
        self.spool = folder / "spool" / name
        self._progress_path = folder / f"{name}.progress.json"
        self.lock = FileLock(folder / f"{name}.lock")

    @classmethod
    def of(cls, folder: Path, key: str) -> "Journal":
        """The journal of the run with this key."""
        return cls(folder, hashlib.sha256(key.encode()).hexdigest()[:32])

    @classmethod
    def all(cls, folder: Path) -> Iterator["Journal"]:
        """Every journal in a folder."""
        return (cls(folder, path.stem) for path in sorted(folder.glob("*.jsonl")))

    def append(self, record: Record) -> None:
        """Add one record. Raises FoveaError when the disk is full or the folder cannot be written."""
        # A newline before and after: a torn record of a killed writer cannot swallow the next one.
        line = f"\n{json.dumps(record, separators=(',', ':'), default=_plain)}\n".encode()
        with explained(self.path):
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                while line:  # a signal or a nearly full disk may cut a write short
                    line = line[os.write(handle, line) :]
            finally:
                os.close(handle)

    def keep(self, what: Path | bytes, name: str, record: Record) -> None:
        """Copy a file, a folder or bytes into the spool, then add the record with the copy's place as `file`."""
        place = self.spool / f"{time.time_ns():020d}-{os.getpid()}-{next(_count)}" / name
        with explained(place):
            place.parent.mkdir(parents=True)
            if isinstance(what, bytes):
                place.write_bytes(what)
            elif what.is_dir():
                shutil.copytree(what, place)
            else:
                shutil.copy2(what, place)
        self.append({**record, "file": place.relative_to(self.spool).as_posix()})

    def let_go(self, record: Record) -> None:
        """Remove the copy that a record names: the server has it."""
        shutil.rmtree((self.spool / record["file"]).parent, ignore_errors=True)

    def read(self, offset: int = 0, limit: int = 1 << 20) -> Iterator[tuple[list[Record], int]]:
        """Whole records after `offset`, in parts of about `limit` bytes, each with the offset behind its last."""
        while self.path.exists():
            with self.path.open("rb") as file:
                file.seek(offset)
                block = file.read(limit) + file.readline()
            block = block[: block.rfind(b"\n") + 1]
            if not block:
                return
            offset += len(block)
            yield [record for record in map(_parsed, block.splitlines()) if record], offset

    def header(self) -> Record:
        """The record that opens the run: what it is called. Empty where there is none, or a torn one."""
        records = (record for part, _ in self.read(limit=1 << 12) for record in part)
        return next((record for record in records if record.get("op") == "run"), {})

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self.path.stat().st_size if self.path.exists() else 0

    def progress(self, server: str) -> Progress | None:
        """How far this server has been brought; None when the run was never opened for it."""
        known = self._all_progress().get(server)
        return Progress(**known) if known else None

    def save_progress(self, server: str, progress: Progress) -> None:
        """Only under the lock."""
        write_whole(self._progress_path, json.dumps({**self._all_progress(), server: asdict(progress)}, indent=1))

    def _all_progress(self) -> Record:
        return _parsed(self._progress_path.read_bytes()) if self._progress_path.exists() else {}

    def waits(self, server: str) -> bool:
        """Whether something is still to be sent to this server, for which the run was opened."""
        progress = self.progress(server)
        return progress is not None and progress.offset < self.size

    def waiting(self, server: str) -> int:
        """How many values, params, tags and files are still to be sent."""
        offset = (self.progress(server) or Progress()).offset
        return sum(_values(record) for records, _ in self.read(offset) for record in records)


def _plain(value: Any) -> float | str:
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value)


def _parsed(line: bytes) -> Record:
    """The record of a line; {} for a torn one."""
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _values(record: Record) -> int:
    listed = sum(len(record.get(kind, ())) for kind in ("params", "tags", "digests", "now"))
    return listed + sum(len(values) for _, values in record.get("rows", ())) + ("file" in record)
