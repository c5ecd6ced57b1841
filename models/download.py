"""One file from a server, whole, whatever the network, the disk or a kill does on the way.

    NAME.part         bytes in order, never with a gap
    NAME.part.json    which file they are of
    NAME              by one rename, once its checksum was right

Any process may be killed at any moment: the next one goes on.
"""

import contextlib
import errno
import hashlib
import itertools
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import requests
from filelock import FileLock, Timeout

from models.errors import FoveaError
from models.network import Manner, Progress, Transient, read_pieces

_HEAD_BYTES = 512
_REFUSALS = {
    errno.ENOSPC: "the disk is full: make room",
    errno.EDQUOT: "the disk quota is used up: make room",
    errno.EFBIG: "the file system or a limit of this process refuses a file of this size",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.EACCES: "no permission to write there: choose another folder",
    errno.EPERM: "no permission to write there: choose another folder",
    errno.ENOENT: "the folder disappeared: bring it back",
    errno.ESTALE: "the folder disappeared: bring it back",
    errno.EEXIST: "a file lies where a folder must be: choose another folder",
    errno.ENOTDIR: "a file lies where a folder must be: choose another folder",
}


class ChecksumError(FoveaError):
    """A file is whole but not the expected one."""


class NotTheFile(Exception):
    """The server answers with something else than the file; `head` is how that begins, where it was looked at."""

    def __init__(self, reason: str, head: bytes = b""):
        super().__init__(reason)
        self.head = head


class Download(NamedTuple):
    """A finished file; `received_bytes` came over the network in this call, 0 when it was there already."""

    path: Path
    checksum: str
    size_bytes: int
    received_bytes: int


@dataclass(frozen=True)
class Wanted:
    """A file on a server, called `name` in messages; `key` tells it from every other file.

    `open` asks for it with these headers and returns an answer of status 200, 206 or 416, or raises Transient,
    NotTheFile or FoveaError. `mend` is told of an answer that is not the file, and how many there were before it: it does
    something about it (a login), or raises FoveaError. `fault` says what is wrong with a checksum, "" where nothing is.
    """

    name: str
    key: str
    signature: bytes
    open: Callable[[dict[str, str]], requests.Response]
    mend: Callable[[NotTheFile, int], None]
    fault: Callable[[str], str]
    algorithm: str = "sha256"


class Meter:
    """Calls `report` at most every `every_s` seconds, with the mean rate of a phase."""

    def __init__(self, report: Callable[[Progress], None], every_s: float):
        self._report = report
        self._every_s = every_s
        self.start("download", 0, None)

    def start(self, phase: str, done: int, total: int | None) -> None:
        """Begin a phase at `done` bytes."""
        self.phase, self.total = phase, total
        self._began_s = self._shown_s = time.monotonic()
        self._began_bytes = done

    def show(self, done: int, last: bool = False) -> bool:
        """Report `done` bytes, if it is time to or the `last` time; whether it was."""
        now = time.monotonic()
        if not last and now - self._shown_s < self._every_s:
            return False
        self._shown_s = now
        rate = (done - self._began_bytes) / max(now - self._began_s, 1e-9)
        eta = (self.total - done) / rate if self.total is not None and rate else None
        self._report(Progress(self.phase, done, self.total, rate, eta))
        return True


def hash_file(path: Path, algorithm: str, meter: Meter) -> str:
    """Checksum of a file in hexadecimal digits."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    done, size = 0, path.stat().st_size
    meter.start("verify", 0, size)
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            done += len(chunk)
            meter.show(done, last=done == size)
    return digest.hexdigest()


@contextlib.contextmanager
def alone_at(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """The only process that brings `path`, whose folder is made; another one waits. OSErrors become FoveaErrors. The system
    lets go of the lock when a process is killed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{path.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say("another download into this folder is running: waiting for it")
            lock.acquire(timeout=-1, poll_interval=0.2)
        try:
            yield
        finally:
            lock.release()
    except OSError as error:
        refusal = _REFUSALS.get(error.errno or 0, error.strerror or str(error))
        raise FoveaError(f"{path}: {refusal}; run again to go on where it stopped") from None


def free_bytes(folder: Path) -> int:
    """Bytes that this user may still write in `folder`."""
    return shutil.disk_usage(folder).free


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Written beside, then renamed."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(json.dumps(content, indent=2) + "\n")
    beside.replace(path)


def fetch(wanted: Wanted, path: Path, manner: Manner) -> Download:
    """Bring a file to `path`, within `alone_at(path)`, going on with what an earlier call left.

    What has a wrong checksum is fetched once more from the beginning. Whatever happens, `path` is absent, as before or
    whole, and what has arrived is kept for the next call.

    Raises:
        ChecksumError: it was wrong twice; nothing is kept.
        FoveaError: no answer, not the file, too little space.
        OSError: the disk refuses.
    """
    meter = Meter(manner.report, manner.policy.report_every_s)
    transfer = _Transfer(wanted, path.with_name(path.name + ".part"), manner, meter)
    try:
        for left in (1, 0):
            transfer.run()
            checksum = hash_file(transfer.part, wanted.algorithm, meter)
            fault = wanted.fault(checksum)
            if not fault:
                break
            transfer.truncate()
            if not left:
                raise ChecksumError(
                    f"{wanted.name}: {fault}, twice: the download is thrown away; try again later, or check the address "
                    "and the expected checksum"
                )
            manner.say(f"{wanted.name}: {fault}: from the beginning once more")
        transfer.part.replace(path)
        transfer.notes_path.unlink(missing_ok=True)
        return Download(path, checksum, transfer.offset, transfer.received_bytes)
    finally:
        if not transfer.offset:  # a part without a byte is not kept
            transfer.part.unlink(missing_ok=True)
            transfer.notes_path.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Notes:
    """What file the bytes in `NAME.part` are of."""

    key: str
    size_bytes: int | None
    etag: str | None
    last_modified: str | None

    @property
    def validator(self) -> str | None:
        """For If-Range, which takes only a strong ETag."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.last_modified

    def contradict(self, other: "_Notes") -> bool:
        """Whether something that both state differs."""
        pairs = zip(asdict(self).values(), asdict(other).values(), strict=True)
        return any(a is not None and b is not None and a != b for a, b in pairs)


class _Transfer:
    """Appends to `part` until the file is whole, over as many connections as that takes."""

    def __init__(self, wanted: Wanted, part: Path, manner: Manner, meter: Meter):
        self.wanted, self.part, self.manner, self.meter = wanted, part, manner, meter
        self.notes_path = part.with_name(part.name + ".json")
        self.notes: _Notes | None = None
        self.offset = self.received_bytes = self._furthest = 0
        with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
            found = _Notes(**json.loads(self.notes_path.read_text()))
            size = part.stat().st_size
            if found.key == wanted.key and (found.size_bytes is None or size <= found.size_bytes):
                self.notes, self.offset = found, size
        if self.notes is None:
            self.truncate()

    def truncate(self) -> None:
        """Give up what has arrived."""
        self.part.write_bytes(b"")
        self.offset, self.notes = 0, None

    def run(self) -> None:
        """Until the file is whole. Raises FoveaError; what has arrived is kept."""
        self._furthest = self.offset
        reason = ""
        try:
            self.manner.retry(self._connect_or_mend, self.wanted.name, self._progressed)
        except Transient as error:
            reason = str(error)
        if reason:
            raise FoveaError(
                f"{self.wanted.name}: {self.manner.policy.attempts} tries in a row brought nothing, the last one: "
                f"{reason}; the {self.offset} bytes that are here are kept, run again to go on"
            )
        self.meter.show(self.offset, last=True)

    def _progressed(self) -> bool:
        if self.offset < self._furthest + self.manner.policy.progress_bytes:
            return False
        self._furthest = self.offset
        return True

    def _connect_or_mend(self) -> None:
        for earlier in itertools.count():
            try:
                return self._connect()
            except NotTheFile as error:
                answer = error
            self.manner.say(f"{self.wanted.name}: {answer} at {self.offset} bytes")
            self.wanted.mend(answer, earlier)

    def _connect(self) -> None:
        """One connection; returns when the file is whole, or has ended where no size was stated."""
        if self.notes and self.offset == self.notes.size_bytes:
            return
        headers = {"Range": f"bytes={self.offset}-"} if self.offset else {}
        if self.offset and self.notes and self.notes.validator:
            headers["If-Range"] = self.notes.validator
        with self.wanted.open(headers) as response:
            start, stated = _content_range(response)
            if response.status_code == 416:
                # Past the end: whole if the end is where we stand (the checksum decides), else not the same file.
                if self.offset and stated == self.offset:
                    return
                self.truncate()
                raise Transient("asked past the end, starting over")
            pieces = read_pieces(response, self.manner.policy.chunk_bytes)
            if response.status_code == 206:
                self._go_on(start, self._notes_of(response, stated))
            else:
                length = response.headers.get("Content-Length", "")
                self._start_over(pieces, self._notes_of(response, int(length) if length.isdigit() else None))
            self._append(pieces)

    def _notes_of(self, response: requests.Response, size_bytes: int | None) -> _Notes:
        headers = response.headers
        return _Notes(self.wanted.key, size_bytes, headers.get("ETag"), headers.get("Last-Modified"))

    def _go_on(self, start: int | None, arriving: _Notes) -> None:
        """What comes before the bytes of a 206."""
        if start != self.offset or self.notes is None or self.notes.contradict(arriving):
            self.truncate()
            raise Transient("the file changed on the server, starting over")
        self._require_room(arriving.size_bytes)

    def _start_over(self, pieces: Iterator[bytes], arriving: _Notes) -> None:
        """What comes before the bytes of a 200, and their first ones."""
        head = b""
        while len(head) < _HEAD_BYTES and (piece := next(pieces, b"")):
            head += piece
        if not head.startswith(self.wanted.signature):
            # Looked at before anything is given up: a page must not cost what has already arrived.
            raise NotTheFile("something else in place of the file", head[:_HEAD_BYTES])
        self._require_room(arriving.size_bytes)
        if self.offset:
            self.manner.say(f"{self.wanted.name}: the server sends the whole file again, starting over")
        self.truncate()
        self.notes = arriving
        write_json(self.notes_path, asdict(arriving))
        with self.part.open("ab", buffering=0) as file:
            self._write(file, head)

    def _append(self, pieces: Iterator[bytes]) -> None:
        policy = self.manner.policy
        total = self.notes.size_bytes if self.notes else None
        self.meter.start("download", self.offset, total)
        window_s, window_bytes = time.monotonic(), self.offset
        with self.part.open("ab", buffering=0) as file:
            for piece in pieces:
                self._write(file, piece)
                if self.meter.show(self.offset):
                    self.part.stat()  # somebody may have removed it
                elapsed = time.monotonic() - window_s
                if elapsed >= policy.stall_window_s:
                    if self.offset - window_bytes < policy.min_rate_bytes_s * elapsed:
                        raise Transient(f"only {self.offset - window_bytes} bytes in {elapsed:.0f} s")
                    window_s, window_bytes = time.monotonic(), self.offset
        if total is not None and self.offset != total:
            raise Transient("the connection ended early")

    def _write(self, file: Any, data: bytes) -> None:
        """All of `data`: near a full disk a write takes part of it without an error."""
        view = memoryview(data)
        while view:
            taken = file.write(view)
            self.offset += taken
            self.received_bytes += taken
            view = view[taken:]

    def _require_room(self, size: int | None) -> None:
        folder, room = self.part.parent, free_bytes(self.part.parent) - self.manner.policy.spare_bytes
        if size is not None and size - self.offset > room:
            raise FoveaError(
                f"{folder}: {self.wanted.name} needs {(size - self.offset) / 1e9:.2f} GB more, {room / 1e9:.2f} GB are "
                "free: make room or choose another folder; what has arrived is kept"
            )


def _content_range(response: requests.Response) -> tuple[int | None, int | None]:
    """Where the bytes of a 206 begin, and the file's size (also of a 416); None where not stated."""
    stated = response.headers.get("Content-Range", "").strip()
    found = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", stated)
    start, size = found.groups() if found else (None, None)
    return int(start) if start else None, int(size) if size and size != "*" else None
