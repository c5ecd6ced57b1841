"""Files of an object store: read and written whole, retried while the server is away, kept on the local disk by use.

An object appears under its name with the request that completes it, so nobody sees half of one. What is wanted again
(shards that training maps, codecs, tables of a unit) lies in a cache with a limit in bytes.
"""

import contextlib
import errno
import hashlib
import os
import secrets
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from upath import UPath

from assets.log import lasting_logger
from models.errors import FoveaError

T = TypeVar("T")

#: seconds between two tries: from the first to the second number, doubling
PAUSE_S = (0.25, 8.0)
#: errors of the network's libraries, none of which is imported here
NETWORK_MODULES = ("aiohttp", "urllib3", "fsspec")
#: botocore's errors that say nothing about the request; its others (a region that is none, no credentials) stay as they are
PASSING = {
    "ConnectionError",
    "HTTPClientError",
    "IncompleteReadError",
    "ResponseParserError",
    "ChecksumError",
    "MetadataRetrievalError",
    "CredentialRetrievalError",
}
#: HTTP answers after which the same request may go well; others below 500, and "not implemented", are refusals
PASSING_STATUS = {408, 409, 425, 429}
NOT_IMPLEMENTED = 501
#: what the operating system says about this machine's own disk
LOCAL_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOTDIR, errno.EISDIR}

_log = lasting_logger("fovea.storage")


class StorageAway(FoveaError):
    """The object store did not answer for as long as it may take."""


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Remote:
    """The objects below one address. Names are relative, with slashes. Safe for threads."""

    def __init__(self, root: UPath, wait_s: float = 180.0):
        self.root, self.wait_s = root, wait_s

    def below(self, name: str) -> "Remote":
        """The objects below a folder of this one."""
        return Remote(self.root / name, self.wait_s)

    def at(self, name: str) -> str:
        """The address of an object as its file system writes it."""
        return f"{self.root.path.rstrip('/')}/{name}"

    def __str__(self) -> str:
        return str(self.root)

    def _fs(self) -> Any:
        try:
            return self.root.fs
        except ImportError as error:
            raise FoveaError(
                f"{self.root}: {error}; install the cluster extra (pip install 'fovea[cluster]')"
            ) from error

    def read(self, name: str) -> bytes:
        """An object's bytes. Raises FileNotFoundError, StorageAway, FoveaError."""
        return bytes(self.tried(lambda: self._fs().cat_file(self.at(name))))

    def read_many(self, names: Iterable[str]) -> dict[str, bytes]:
        """Bytes by name, several requests at once; an object that is not there is left out."""
        wanted = {self.at(name).lstrip("/"): name for name in names}
        if not wanted:
            return {}

        def ask() -> dict[str, bytes]:
            found: dict[str, Any] = self._fs().cat(list(map(self.at, wanted.values())), on_error="return")
            for value in found.values():
                if isinstance(value, Exception) and not isinstance(value, FileNotFoundError):
                    raise value
            return {wanted[at.lstrip("/")]: v for at, v in found.items() if not isinstance(v, Exception)}

        return self.tried(ask)

    def write(self, name: str, data: bytes) -> None:
        """Write an object in one request (in parts, completed at the end, above 100 MB)."""
        self.tried(lambda: self._fs().pipe_file(self.at(name), data), writes=True)

    def put(self, path: Path, name: str) -> None:
        """Send a file; parts of one that fails are given up."""
        self.tried(lambda: self._fs().put_file(str(path), self.at(name)), writes=True)

    def put_all(self, files: Iterable[tuple[Path, str]]) -> None:
        """Send several files, a few at a time. Raises what the first that failed raised."""
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(8) as pool:
            for done in [pool.submit(self.put, path, name) for path, name in files]:
                done.result()

    def fetch(self, name: str, path: Path) -> None:
        """Copy an object to a path."""
        self.tried(lambda: self._fs().get_file(self.at(name), str(path)))

    def listing(self, folder: str = "") -> dict[str, int]:
        """Name → bytes of everything below a folder; empty where there is nothing."""
        base = self.at(folder).rstrip("/")

        def ask() -> dict[str, int]:
            found = self._fs().find(base, detail=True)
            cut = len(self.at("").lstrip("/"))
            return {str(at).lstrip("/")[cut:]: int(info["size"] or 0) for at, info in found.items()}

        try:
            return self.tried(ask)
        except FileNotFoundError:
            return {}

    def delete(self, name: str) -> None:
        """Remove an object; one that is not there is fine."""
        with contextlib.suppress(FileNotFoundError):
            self.tried(lambda: self._fs().rm_file(self.at(name)))

    def tried(self, call: Callable[[], T], *, writes: bool = False) -> T:
        """What the call returns, tried again while the server does not answer.

        Raises FileNotFoundError for what is not there (on writing: FoveaError, the bucket is missing), FoveaError for
        what the server refuses, StorageAway after `wait_s` seconds without an answer.
        """
        from tenacity import RetryCallState, Retrying, retry_if_exception, wait_exponential, wait_random

        failed_s, told = 0.0, False

        def passing(error: BaseException) -> bool:
            # on writing, an upload in parts that a restarted server does not know
            if isinstance(error, FileNotFoundError):
                return writes and not error.filename and "upload" in str(error).lower()
            return may_pass(error)

        def waited_s(state: RetryCallState) -> float:
            # counted from the first failure: the call itself, a large upload say, may take longer than that
            nonlocal failed_s
            failed_s = failed_s or state.outcome_timestamp or 0.0
            return (state.outcome_timestamp or 0.0) - failed_s

        def tell(state: RetryCallState) -> None:
            nonlocal told
            if not told and waited_s(state) > 1.0 and state.outcome:
                told = True
                why = _reason(state.outcome.exception())
                _log.warning(
                    "%s does not answer (%s); trying again for up to %.0f s", self.root, why, self.wait_s
                )

        patient = Retrying(
            retry=retry_if_exception(passing),
            stop=lambda state: waited_s(state) > self.wait_s,
            wait=wait_exponential(PAUSE_S[0], PAUSE_S[1]) + wait_random(0, PAUSE_S[0]),
            before_sleep=tell,
            reraise=True,
        )
        try:
            answer = patient(call)
        except FoveaError:
            raise
        except Exception as error:
            if passing(error):
                raise StorageAway(
                    f"{self.root} has not answered for {time.monotonic() - failed_s:.0f} s ({_reason(error)}); what is "
                    "finished is kept: bring the server back and run the same command again, it goes on from here"
                ) from None
            if not isinstance(error, FileNotFoundError):
                raise self._refused(error) from error
            if not writes or error.filename:
                raise
            raise FoveaError(
                f"{self.root}: no such bucket; make it, or correct storage in fovea.toml"
            ) from error
        if told:
            _log.warning("%s answers again", self.root)
        return answer

    def _refused(self, error: Exception) -> Exception:
        if isinstance(error, OSError) and error.errno in LOCAL_ERRNOS:
            return error
        name = type(error).__name__
        if isinstance(error, PermissionError) or "Credentials" in name:
            return FoveaError(
                f"{self.root} refuses ({error}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of an account that may "
                "read and write there"
            )
        hint = (
            " (s3_region in fovea.toml, or AWS_DEFAULT_REGION)"
            if "region" in f"{name} {error}".lower()
            else ""
        )
        return FoveaError(f"{self.root}: {name}: {error}{hint}")


def _reason(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}"[:200]


def may_pass(error: BaseException) -> bool:
    """Whether waiting may help: the network or the server failed, rather than the request."""
    if isinstance(error, PermissionError):
        return False
    status = _http_status(error)
    if status:
        return status in PASSING_STATUS or (status >= 500 and status != NOT_IMPLEMENTED)
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    bases = [(base.__module__.split(".")[0], base.__name__) for base in type(error).__mro__]
    if any(module in ("botocore", "aiobotocore") for module, _ in bases):
        return any(name in PASSING for _, name in bases)
    if any(module in NETWORK_MODULES for module, _ in bases):
        return True
    if isinstance(error, OSError):
        return error.errno not in {*LOCAL_ERRNOS, errno.EINVAL, errno.EPERM, errno.ENOENT}
    return False


def _http_status(error: BaseException | None) -> int:
    """Status of the server's answer that an error, or what it was made from, stands for; 0 without an answer.

    An error inside an answer of status 200, as S3 gives for long requests, counts as none.
    """
    while error is not None:
        answer = getattr(error, "response", None)
        if isinstance(answer, dict):
            status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            return status if status >= 300 else 0
        error = error.__cause__
    return 0


class Cache:
    """A folder of copies with a limit in bytes: what was used longest ago goes first. Safe between processes.

    An entry is a file that is whole whenever it is there. `hold` keeps a unit's files as long as its holder lives; a
    mapped file may go at any time, since what is mapped stays readable. Held and mapped bytes can exceed the limit.
    """

    def __init__(self, folder: Path, limit_bytes: int):
        self.folder, self.limit_bytes = folder, limit_bytes
        self._pins: Path | None = None
        self._held: set[str] = set()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        import filelock  # 30 ms that commands without a remote storage need not pay

        self.folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(self.folder / ".lock"):
            yield

    def find(self, name: str, size: int) -> Path | None:
        """The entry, marked as used; None when it is not there or has another size."""
        path = self.folder / name
        try:
            seen = path.stat()
            if seen.st_size != size:
                return None
            if time.time() - seen.st_mtime > 30:
                os.utime(path)
        except OSError:
            return None
        return path

    def get(self, name: str, size: int, fetch: Callable[[Path], None], sha256: str = "") -> Path:
        """The entry's path; fetched, and checked by size and digest, when it is not there.

        Raises FoveaError for an object that is not what its manifest says.
        """
        path = self.find(name, size)
        if path is not None:
            return path
        path = self.folder / name
        self._make_room(size)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
        try:
            fetch(beside)
            found = beside.stat().st_size
            if found != size or (sha256 and sha256_of(beside) != sha256):
                raise FoveaError(
                    f"{name} in the storage is damaged ({found} of {size} bytes, or another content): delete that object and "
                    "its manifest and run again"
                )
            path.parent.mkdir(parents=True, exist_ok=True)  # eviction removes folders that it empties
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
        return path

    def add(self, path: Path, name: str) -> Path:
        """Move a file of this disk in."""
        self._make_room(path.stat().st_size)
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.utime(path)
        path.replace(target)
        return target

    def hold(self, prefix: str) -> None:
        """Keep all entries below this prefix until the cache object is gone."""
        if prefix in self._held:
            return
        self._held.add(prefix)
        with self._locked():
            if self._pins is None:
                self._pins = self.folder / ".pins" / f"{os.getpid()}-{secrets.token_hex(4)}"
                self._pins.parent.mkdir(exist_ok=True)
                weakref.finalize(self, self._pins.unlink, missing_ok=True)
            with self._pins.open("a") as file:
                file.write(f"{prefix}\n")

    def _entries(self) -> list[tuple[float, int, Path]]:
        found = []
        for base, folders, files in os.walk(self.folder):
            folders[:] = [f for f in folders if f != ".pins"]
            for name in files:
                if name in (".lock", ".bytes"):
                    continue
                path = Path(base) / name
                with contextlib.suppress(OSError):
                    seen = path.stat()
                    found.append((seen.st_mtime, seen.st_size, path))
        return sorted(found)

    def _make_room(self, size: int) -> None:
        """Reserve bytes, evicting what was used longest ago; a full walk only when the count says so."""
        with self._locked():
            count = self.folder / ".bytes"
            try:
                used = int(count.read_text())
            except (OSError, ValueError):
                used = self.limit_bytes  # unknown: walk
            if used + size > self.limit_bytes:
                used = self._evict(int(0.9 * self.limit_bytes) - size)
                if used + size > self.limit_bytes:
                    _log.warning(
                        "the cache %s needs more than its %.3g GiB for what is in use; raise cache_gib in fovea.toml",
                        self.folder,
                        self.limit_bytes / 2**30,
                    )
            count.write_text(str(used + size))

    def _evict(self, goal: int) -> int:
        held = self._all_held()
        entries = self._entries()
        used = sum(size for _, size, _ in entries)
        for _, size, path in entries:
            if used <= goal:
                break
            name = path.relative_to(self.folder).as_posix()
            being_written = path.name.startswith(".") and _alive(path.name.rsplit(".", 1)[1].split("-")[0])
            if being_written or any(name.startswith(f"{prefix}/") or name == prefix for prefix in held):
                continue
            path.unlink(missing_ok=True)
            used -= size
            with contextlib.suppress(OSError):
                path.parent.rmdir()
        return used

    def _all_held(self) -> set[str]:
        held: set[str] = set()
        pins = self.folder / ".pins"
        for path in pins.iterdir() if pins.is_dir() else ():
            if not _alive(path.name.split("-")[0]):
                path.unlink(missing_ok=True)
                continue
            with contextlib.suppress(OSError):
                held |= set(path.read_text().splitlines())
        return held


def _alive(pid: str) -> bool:
    return pid.isdigit() and (Path(f"/proc/{pid}").exists() or not Path("/proc/self").exists())
