"""Files of an object store: read and written whole, retried while the server is away.

An object appears under its name with the request that completes it, so nobody sees half of one.
"""

import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
    "ConnectionError", "HTTPClientError", "IncompleteReadError", "ResponseParserError", "ChecksumError",
    "MetadataRetrievalError", "CredentialRetrievalError",
}  # fmt: skip
#: HTTP answers after which the same request may go well; others below 500, and "not implemented", are refusals
PASSING_STATUS = {408, 409, 425, 429}
NOT_IMPLEMENTED = 501
#: requests under way where several objects are wanted
AT_ONCE = 8
#: what the operating system says about this machine's own disk
LOCAL_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOTDIR, errno.EISDIR}

_log = lasting_logger("fovea.storage")


class StorageAway(FoveaError):
    """The object store did not answer for as long as it may take."""


def files_below(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Relative name and state of every file below a folder; one that goes meanwhile is left out."""
    for base, _, files in os.walk(folder):
        for path in map(Path(base).joinpath, files):
            with contextlib.suppress(OSError):
                yield path.relative_to(folder).as_posix(), path.stat()


def hidden(name: str) -> bool:
    """Whether a relative name has a part that begins with a dot, as what is being written has."""
    return "/." in f"/{name}"


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

        def found(name: str) -> bytes | None:
            with contextlib.suppress(FileNotFoundError):
                return self.read(name)
            return None

        wanted = list(names)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            pairs = zip(wanted, pool.map(found, wanted), strict=True)
            return {name: data for name, data in pairs if data is not None}

    def write(self, name: str, data: bytes) -> None:
        """Write an object in one request (in parts, completed at the end, above 100 MB)."""
        self.tried(lambda: self._fs().pipe_file(self.at(name), data), writes=True)

    def put(self, path: Path, name: str) -> None:
        """Send a file; parts of one that fails are given up."""
        self.tried(lambda: self._fs().put_file(str(path), self.at(name)), writes=True)

    def fetch(self, name: str, path: Path) -> None:
        """Copy an object to a path."""
        self.tried(lambda: self._fs().get_file(self.at(name), str(path)))

    def listing(self, folder: str = "") -> dict[str, int]:
        """Name → bytes of everything below a folder; empty where there is nothing."""
        base, cut = self.at(folder).rstrip("/"), len(self.at("").lstrip("/"))
        try:
            found = self.tried(lambda: self._fs().find(base, detail=True))
        except FileNotFoundError:
            return {}
        return {str(at).lstrip("/")[cut:]: int(about["size"] or 0) for at, about in found.items()}

    def delete(self, name: str) -> None:
        """Remove an object; one that is not there is fine."""
        with contextlib.suppress(FileNotFoundError):
            self.tried(lambda: self._fs().rm_file(self.at(name)))

    def tried(self, call: Callable[[], T], *, writes: bool = False) -> T:
        """What the call returns, tried again while the server does not answer. Raises FileNotFoundError for what is not
        there, FoveaError for a missing bucket and for what the server refuses, StorageAway after `wait_s` seconds without an
        answer."""

        def passing(error: BaseException) -> bool:
            # on writing, an upload in parts that a restarted server does not know
            if isinstance(error, FileNotFoundError):
                return writes and not error.filename and "upload" in str(error).lower()
            return may_pass(error)

        try:
            return patiently(call, passing, self.wait_s, self.root)
        except FoveaError:
            raise
        except Exception as error:
            if passing(error):
                raise StorageAway(
                    f"{self.root} has not answered for {self.wait_s:.0f} s ({_reason(error)}); what is finished is kept: bring "
                    "the server back and run the same command again, it goes on from here"
                ) from None
            if not isinstance(error, FileNotFoundError):
                raise self._refused(error) from error
            said = getattr(error.__cause__, "response", {})  # botocore's
            if said.get("Error", {}).get("Code") != "NoSuchBucket" and (not writes or error.filename):
                raise
            raise FoveaError(f"{self.root}: no such bucket; make it, or correct storage in fovea.toml") from error

    def _refused(self, error: Exception) -> Exception:
        if isinstance(error, OSError) and error.errno in LOCAL_ERRNOS:
            return error
        name = type(error).__name__
        if isinstance(error, PermissionError) or "Credentials" in name:
            return FoveaError(
                f"{self.root} refuses ({error}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of an account that may "
                "read and write there"
            )
        hint = " (s3_region in fovea.toml, or AWS_DEFAULT_REGION)" if "region" in f"{name} {error}".lower() else ""
        return FoveaError(f"{self.root}: {name}: {error}{hint}")


def patiently(call: Callable[[], T], passing: Callable[[BaseException], bool], wait_s: float, server: object) -> T:
    """What the call returns, tried again while `passing` holds of what it raises, for `wait_s` seconds from the first failure
    on: the call itself, a large upload say, may take longer than that. The log hears of a server that does not answer for a
    second, and when it does again. Raises what was raised last."""
    from tenacity import RetryCallState, Retrying, retry_if_exception, wait_exponential, wait_random

    failed_s, told = 0.0, False

    def waited_s(state: RetryCallState) -> float:
        nonlocal failed_s
        failed_s = failed_s or state.outcome_timestamp or 0.0
        return (state.outcome_timestamp or 0.0) - failed_s

    def tell(state: RetryCallState) -> None:
        nonlocal told
        if not told and waited_s(state) > 1.0 and state.outcome:
            told = True
            why = _reason(state.outcome.exception())
            _log.warning("%s does not answer (%s); trying again for up to %.0f s", server, why, wait_s)

    answer = Retrying(
        retry=retry_if_exception(passing),
        stop=lambda state: waited_s(state) > wait_s,
        wait=wait_exponential(PAUSE_S[0], PAUSE_S[1]) + wait_random(0, PAUSE_S[0]),
        before_sleep=tell,
        reraise=True,
    )(call)
    if told:
        _log.warning("%s answers again", server)
    return answer


def _reason(error: BaseException | None) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


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
    """Status of the server's answer that an error, or what it was made from, stands for; 0 without an answer. An error
    inside an answer of status 200, as S3 gives for long requests, counts as none."""
    while error is not None:
        answer = getattr(error, "response", None)
        if isinstance(answer, dict):
            status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            return status if status >= 300 else 0
        error = error.__cause__
    return 0
