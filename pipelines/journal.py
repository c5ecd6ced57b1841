"""What a run has said, on the local disk, before any server hears of it.

One run is one append-only file of JSON lines, named by a digest of the run's key, and a spool of copied artifacts. How
far each server has acknowledged the lines stands beside it, replaced atomically. Appending is one `write` of a whole
record, so that a process killed at any moment leaves whole records, and at worst one torn one that readers pass over.
"""

import hashlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from assets.home import explained, written_beside

Record = dict[str, Any]
_count = itertools.count()


@dataclass(frozen=True)
class Progress:
    """How far one server has taken a journal: `offset` bytes of it, as the run `run_id`."""

    run_id: str = ""
    experiment_id: str = ""
    offset: int = 0


class Journal:
    """The story of one run. Several processes and threads may append at once."""

    def __init__(self, folder: Path, name: str):
        self.folder, self.name = folder, name
        self.path = folder / f"{name}.jsonl"
        self.spool = folder / "spool" / name
        self._progress_path = folder / f"{name}.progress.json"
        self.lock = FileLock(folder / f"{name}.lock", thread_local=False)

    @classmethod
    def of(cls, folder: Path, key: str) -> "Journal":
        """The journal of the run with this key."""
        return cls(folder, hashlib.sha256(key.encode()).hexdigest()[:32])

    @classmethod
    def all(cls, folder: Path) -> Iterator["Journal"]:
        """Every journal in a folder."""
        for path in sorted(folder.glob("*.jsonl")):
            yield cls(folder, path.stem)

    def append(self, record: Record) -> None:
        """Add one record. Raises FoveaError when the disk is full or the folder cannot be written."""
        # A newline before and after: a torn record of a killed writer cannot swallow the next one.
        line = f"\n{json.dumps(record, separators=(',', ':'))}\n".encode()
        with explained(self.path):
            try:
                handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            except FileNotFoundError:
                self.folder.mkdir(parents=True, exist_ok=True)
                handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                written = os.write(handle, line)
                while written < len(line):  # a signal or a nearly full disk may cut a write short
                    written += os.write(handle, line[written:])
            finally:
                os.close(handle)

    def read(self, offset: int, limit: int = 1 << 20) -> tuple[list[Record], int]:
        """Whole records after `offset`, about `limit` bytes of them, and the offset behind the last."""
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                block = file.read(limit)
                while block and b"\n" not in block[1:] and (more := file.read(limit)):
                    block += more
        except FileNotFoundError:
            return [], offset
        end = block.rfind(b"\n") + 1
        records = []
        for line in block[:end].splitlines():
            try:
                record = json.loads(line) if line else None
            except ValueError:
                continue
            if isinstance(record, dict):
                records.append(record)
        return records, offset + end

    @property
    def size(self) -> int:
        """Bytes in the file."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def header(self) -> Record:
        """The first record: what the run is called. Empty where there is none."""
        offset = 0
        while True:
            records, end = self.read(offset, 1 << 16)
            if records or end == offset:
                return records[0] if records else {}
            offset = end

    def progress(self, server: str) -> Progress:
        """How far this server has come; a fresh one for a server that does not know the run."""
        return Progress(**known) if (known := self._all_progress().get(server)) else Progress()

    def known_to(self, server: str) -> bool:
        """Whether the run was opened for this server."""
        return server in self._all_progress()

    def save_progress(self, server: str, progress: Progress) -> None:
        """Only under the lock."""
        everything = {**self._all_progress(), server: asdict(progress)}
        with written_beside(self._progress_path) as beside:
            beside.write_text(json.dumps(everything, indent=1))

    def _all_progress(self) -> dict[str, Any]:
        try:
            raw = json.loads(self._progress_path.read_text())
        except (OSError, ValueError):
            return {}
        return raw if isinstance(raw, dict) else {}

    def keep(self, what: Path | bytes, meta: Mapping[str, Any], *, name: str = "") -> None:
        """Copy a file, a folder or bytes into the spool, with what is to be done with it."""
        place = f"{time.time_ns():020d}-{os.getpid()}-{next(_count)}"
        making = self.spool / f".{place}"
        with explained(making):
            making.mkdir(parents=True)
            try:
                content = making / "content"
                content.mkdir()
                if isinstance(what, bytes):
                    (content / name).write_bytes(what)
                elif what.is_dir():
                    shutil.copytree(what, content / (name or what.name))
                else:
                    shutil.copy2(what, content / (name or what.name))
                (making / "meta.json").write_text(json.dumps(dict(meta)))
                making.replace(self.spool / place)
            except BaseException:
                shutil.rmtree(making, ignore_errors=True)
                raise

    def kept(self) -> list[Path]:
        """The spool's items in order: folders with `meta.json` and `content/NAME`."""
        try:
            found = sorted(p.name for p in self.spool.iterdir() if not p.name.startswith("."))
        except FileNotFoundError:
            return []
        return [self.spool / name for name in found]

    def done(self, item: Path) -> None:
        """Remove an item that the server has."""
        shutil.rmtree(item, ignore_errors=True)

    def waits(self, server: str) -> bool:
        """Whether anything is still to be sent."""
        return self.progress(server).offset < self.size or bool(self.kept())

    def waiting(self, server: str) -> int:
        """How many values, params, tags and files are still to be sent."""
        offset, count = self.progress(server).offset, len(self.kept())
        while True:
            records, end = self.read(offset)
            if end == offset:
                return count
            offset = end
            for record in records:
                count += sum(len(values) for _, values in record.get("rows", ()))
                count += sum(len(record.get(k, ())) for k in ("params", "tags", "digests"))
