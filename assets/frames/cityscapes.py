"""The Cityscapes site's client: log in, find a package, bring it home whole, whatever the network does.

    GET /login, POST /login          302 = in, 200 = bad credentials; the session is a cookie
    GET /downloads/?list             JSON: name, packageID, size as text
    GET /md5-sum/?packageID=N        "md5  name"
    GET /file-handling/?packageID=N  the file; Range is answered 206, or 200 with the whole file

A download lives in `NAME.part` (bytes in order, never with a gap) and `NAME.part.json` (what file they are of), and
becomes `NAME` by one rename after its md5 was right. Any process may be killed at any moment: the next goes on.

    python -m assets.frames.cityscapes --out DIR
"""

import argparse
import contextlib
import hashlib
import http.client
import json
import logging
import os
import random
import re
import ssl
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import requests
import urllib3
from filelock import FileLock, Timeout

from assets.frames.archive import (
    ARCHIVE_NAME,
    ROOT_VARIABLE,
    Source,
    check_counts,
    explain_os_error,
    extract,
    free_bytes,
    locate,
    scan,
    write_all,
)
from models.errors import FoveaError

logger = logging.getLogger(__name__)

OFFICIAL_URL = "https://www.cityscapes-dataset.com"
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_ZIP_START = b"PK\x03\x04"
_SMALL_REPLY_BYTES = 4 << 20
_USER_AGENT = "fovea"
_BAD_CERTIFICATE = "its certificate cannot be verified"


class LoginRefused(FoveaError):
    """The site does not take the credentials."""


class Secret:
    """A text that no log, message, repr, pickle or traceback shows."""

    __slots__ = ("__value",)

    def __init__(self, value: str):
        self.__value = value

    def reveal(self) -> str:
        """The text itself: hand it on, never keep it in a variable."""
        return self.__value

    def __repr__(self) -> str:
        return "Secret('********')"

    __str__ = __repr__

    def __bool__(self) -> bool:
        return bool(self.__value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is never written anywhere")


class Credentials(NamedTuple):
    """An account of the site."""

    username: str
    password: Secret


class Package(NamedTuple):
    """A file that the site offers; `size` is its text, such as "11GB"."""

    name: str
    package_id: int
    size: str


class Progress(NamedTuple):
    """`phase` is "download" or "verify"; `total_bytes` and `eta_s` are None where unknown."""

    phase: str
    done_bytes: int
    total_bytes: int | None
    rate_bytes_s: float
    eta_s: float | None

    def __str__(self) -> str:
        total = f" of {self.total_bytes / 1e6:.1f}" if self.total_bytes is not None else ""
        share = f" ({100 * self.done_bytes / self.total_bytes:.0f} %)" if self.total_bytes else ""
        eta = f", {format_seconds(self.eta_s)} left" if self.eta_s is not None else ""
        return f"{self.phase}: {self.done_bytes / 1e6:.1f}{total} MB{share}, {self.rate_bytes_s / 1e6:.1f} MB/s{eta}"


class Download(NamedTuple):
    """A finished archive: `received_bytes` came over the network in this call, 0 when it was there already."""

    path: Path
    md5: str
    size_bytes: int
    received_bytes: int


@dataclass(frozen=True)
class Policy:
    """How patient the client is.

    `attempts` failures in a row end a request or download; `progress_bytes` of new data start the count again. A
    connection that brings less than `min_rate_bytes_s` over `stall_window_s` counts as dropped.
    """

    attempts: int = 10
    backoff_s: float = 1.0
    backoff_max_s: float = 120.0
    connect_timeout_s: float = 20.0
    read_timeout_s: float = 60.0
    stall_window_s: float = 60.0
    min_rate_bytes_s: float = 512.0
    progress_bytes: int = 1 << 20
    chunk_bytes: int = 1 << 20
    report_every_s: float = 0.5
    spare_bytes: int = 64 << 20

    def delay_s(self, failure: int, asked_s: float | None) -> float:
        """Wait after the `failure`th failure in a row (from 1): doubled each time, half of it at random."""
        delay = min(self.backoff_max_s, self.backoff_s * 2.0 ** (failure - 1)) * random.uniform(0.5, 1.0)
        return max(delay, min(asked_s or 0.0, 10 * self.backoff_max_s))


DEFAULT_POLICY = Policy()
Report = Callable[[Progress], None]
Say = Callable[[str], None]


class _Transient(Exception):
    """Worth another try; `asked_s` is the server's Retry-After."""

    def __init__(self, reason: str, asked_s: float | None = None):
        super().__init__(reason)
        self.asked_s = asked_s


class _SessionExpired(Exception):
    """The answer is one for somebody who is not logged in."""


# ---------------------------------------------------------------------------------------------- settings


def read_credentials() -> Credentials:
    """From CITYSCAPES_USERNAME and CITYSCAPES_PASSWORD, or the file that CITYSCAPES_CREDENTIALS_FILE names.

    The file is JSON with `username` and `password`, or has a line `username = …` and one `password = …`. Raises
    FoveaError, which never quotes them.
    """
    if os.environ.get("CITYSCAPES_USERNAME") and os.environ.get("CITYSCAPES_PASSWORD"):
        return Credentials(os.environ["CITYSCAPES_USERNAME"], Secret(os.environ["CITYSCAPES_PASSWORD"]))
    named = os.environ.get("CITYSCAPES_CREDENTIALS_FILE", "").strip()
    if not named:
        raise FoveaError(
            "no Cityscapes account: set CITYSCAPES_USERNAME and CITYSCAPES_PASSWORD, or CITYSCAPES_CREDENTIALS_FILE "
            "to a file with both (accounts are free for research: https://www.cityscapes-dataset.com/register/), or "
            "CITYSCAPES_ROOT to an archive or tree that you have"
        )
    path = Path(named).expanduser()
    try:
        found = _parse_credentials(path)
        others_read = path.stat().st_mode & 0o077
    except OSError as error:
        raise FoveaError(f"CITYSCAPES_CREDENTIALS_FILE={path}: {error.strerror}") from None
    if found is None:
        raise FoveaError(
            f"CITYSCAPES_CREDENTIALS_FILE={path}: needs JSON with username and password, or a line "
            f"'username = …' and a line 'password = …'"
        )
    if others_read:
        logger.warning("%s can be read by other users: chmod 600 it", path)
    return found


def _parse_credentials(path: Path) -> Credentials | None:
    # Apart from the caller, whose exceptions then hold no frame in which the text is a variable.
    text = path.read_text("utf-8", "replace")
    try:
        fields = json.loads(text)
    except ValueError:
        pairs = (re.split(r"[=:]", line, maxsplit=1) for line in text.splitlines())
        fields = {pair[0].strip(): pair[1].strip().strip("\"'") for pair in pairs if len(pair) == 2}
    if not isinstance(fields, dict):
        return None
    named = {str(key).lower().removeprefix("cityscapes_"): value for key, value in fields.items()}
    username, password = named.get("username"), named.get("password")
    if not (isinstance(username, str) and username and isinstance(password, str) and password):
        return None
    return Credentials(username, Secret(password))


def read_base_url() -> str:
    """CITYSCAPES_URL, or the official site."""
    return os.environ.get("CITYSCAPES_URL", "").strip() or OFFICIAL_URL


def _check_url(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise FoveaError(
            "CITYSCAPES_URL: names an account; give it in CITYSCAPES_USERNAME and CITYSCAPES_PASSWORD"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise FoveaError(f"CITYSCAPES_URL={url}: no web address")
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise FoveaError(f"CITYSCAPES_URL={url}: the password would travel in clear, use https")
    return url.rstrip("/")


# ---------------------------------------------------------------------------------------------- the site


class Site:
    """A session with the site. Logs in by itself, follows no redirect, retries what may pass.

    Raises LoginRefused for bad credentials and FoveaError for everything else that does not pass.
    """

    def __init__(
        self,
        base_url: str,
        credentials: Credentials,
        *,
        policy: Policy = DEFAULT_POLICY,
        say: Say = logger.info,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self.base_url = _check_url(base_url)
        self.policy = policy
        self.say = say
        self.sleep = sleep
        self._credentials = credentials
        self._logged_in = False
        self._session = requests.Session()
        # A server on this machine is never behind a proxy.
        self._session.trust_env = urllib.parse.urlsplit(self.base_url).hostname not in _LOOPBACK
        # A no-op keeps requests from sending what a ~/.netrc holds for this host.
        self._session.auth = lambda request: request
        self._session.headers.update({"User-Agent": _USER_AGENT, "Accept-Encoding": "identity"})

    def close(self) -> None:
        """Drop the connection and the session's cookie."""
        self._session.close()
        self._session.cookies.clear()

    def login(self) -> None:
        """Start a session, from nothing."""
        self._logged_in = False
        self._session.cookies.clear()
        status, headers, _ = self._retry("the login page", lambda: self._get_small("/login"))
        if status != 200:
            raise FoveaError(self._unexpected("/login", status, headers))
        status, headers, _ = self._retry("the login", self._post_credentials)
        if status == 200:
            raise LoginRefused(
                f"{self.base_url} refuses the user name or password of CITYSCAPES_USERNAME / CITYSCAPES_PASSWORD (or "
                f"CITYSCAPES_CREDENTIALS_FILE): check them by logging in with a browser"
            )
        if status not in (302, 303):
            raise FoveaError(self._unexpected("/login", status, headers))
        self._logged_in = True

    def list_packages(self) -> list[Package]:
        """What the account may download."""
        path = "/downloads/?list"
        body = self._get_text(path)
        try:
            return [
                Package(str(item["name"]), int(item["packageID"]), str(item.get("size", "")))
                for item in json.loads(body)
            ]
        except (ValueError, TypeError, KeyError, AttributeError):
            raise FoveaError(
                f"{self.base_url}{path} sent no list of packages: did the site change?"
            ) from None

    def find_package(self, name: str) -> Package:
        """The package called `name`."""
        packages = self.list_packages()
        for package in packages:
            if package.name == name:
                return package
        names = ", ".join(package.name for package in packages) or "none"
        raise FoveaError(f"{self.base_url} offers this account no package {name!r}; it offers: {names}")

    def fetch_md5(self, package: Package) -> str:
        """The md5 that the site states, 32 hexadecimal digits in lower case."""
        path = f"/md5-sum/?packageID={package.package_id}"
        words = self._get_text(path).split()
        if (
            not words
            or not re.fullmatch(r"[0-9a-fA-F]{32}", words[0])
            or words[1:2] not in ([], [package.name])
        ):
            raise FoveaError(f"{self.base_url}{path} sent no md5 of {package.name}: did the site change?")
        return words[0].lower()

    def open_file(self, package: Package, offset: int, validator: str | None) -> requests.Response:
        """A streamed answer, 200, 206 or 416 only; the caller closes it. One try, never retried here.

        Raises _Transient, _SessionExpired or FoveaError.
        """
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        if offset and validator:
            headers["If-Range"] = validator
        path = f"/file-handling/?packageID={package.package_id}"
        response = self._send("GET", path, headers=headers)
        try:
            self._require_answer(path, response.status_code, response.headers)
            if response.status_code not in (200, 206, 416):
                raise FoveaError(self._unexpected(path, response.status_code, response.headers))
            if response.status_code == 206 or response.status_code == 200:
                self._require_bytes(response)
        except BaseException:
            response.close()
            raise
        return response

    def _require_bytes(self, response: requests.Response) -> None:
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind.startswith("text/") or kind in ("application/xhtml+xml", "application/json"):
            raise _SessionExpired(f"a page ({kind}) in place of the archive")
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise _Transient("the server packed the file again, which breaks ranges")

    def _require_answer(self, path: str, status: int, headers: Any) -> None:
        if status in (301, 302, 303, 307, 308, 401, 403):
            raise _SessionExpired(f"status {status}")
        if status in (408, 425, 429) or status >= 500:
            raise _Transient(f"status {status}", _retry_after_s(headers.get("Retry-After")))
        if status in (404, 410):
            raise FoveaError(f"{self.base_url}{path}: status {status}, the site has no such thing (any more)")

    def _get_text(self, path: str) -> str:
        for again in (False, True):
            if not self._logged_in or again:
                self.login()
            status, headers, body = self._retry(path, lambda: self._get_small(path))
            page = headers.get("Content-Type", "").startswith("text/html") or body.lstrip()[:1] == b"<"
            if status == 200 and not page:
                return body.decode("utf-8", "replace")
            if not (page or status in (301, 302, 303, 307, 308, 401, 403)):
                raise FoveaError(self._unexpected(path, status, headers))
        raise FoveaError(
            f"{self.base_url}{path}: the site shows another page although the login was taken: log in with a browser "
            f"and see whether it wants something (terms to accept, maintenance)"
        )

    def _get_small(self, path: str) -> tuple[int, Any, bytes]:
        return self._read_small(self._send("GET", path))

    def _post_credentials(self) -> tuple[int, Any, bytes]:
        status, headers, _ = self._read_small(self._send("POST", "/login", with_credentials=True))
        # A page that refuses may show what was typed: it goes no further.
        return status, headers, b""

    def _read_small(self, response: requests.Response) -> tuple[int, Any, bytes]:
        deadline = time.monotonic() + self.policy.stall_window_s
        body = b""
        with response:
            if response.status_code in (408, 425, 429) or response.status_code >= 500:
                raise _Transient(
                    f"status {response.status_code}", _retry_after_s(response.headers.get("Retry-After"))
                )
            for piece in read_pieces(response, 1 << 16):
                body += piece
                if len(body) > _SMALL_REPLY_BYTES:
                    break
                if time.monotonic() > deadline:
                    raise _Transient("the answer trickles")
        return response.status_code, response.headers, body

    def _send(
        self, method: str, path: str, *, headers: dict[str, str] | None = None, with_credentials: bool = False
    ) -> requests.Response:
        failure = None
        try:
            return self._session.request(
                method,
                self.base_url + path,
                data=self._login_form() if with_credentials else None,
                headers=headers,
                allow_redirects=False,
                stream=True,
                timeout=(self.policy.connect_timeout_s, self.policy.read_timeout_s),
            )
        except requests.RequestException as error:
            failure = _reason(error)
        # Raised out here: an exception raised in the handler would carry the request, and so the form, along.
        if failure == _BAD_CERTIFICATE:
            raise FoveaError(f"{self.base_url}: {failure}; nothing was sent")
        raise _Transient(failure)

    def _login_form(self) -> dict[str, str]:
        username, password = self._credentials
        return {"username": username, "password": password.reveal(), "submit": "Login"}

    def _retry(self, what: str, ask: Callable[[], tuple[int, Any, bytes]]) -> tuple[int, Any, bytes]:
        failure = 0
        while True:
            try:
                return ask()
            except _Transient as error:
                failure += 1
                reason, asked_s = str(error), error.asked_s
            if failure >= self.policy.attempts:
                raise FoveaError(f"{self.base_url}: {what} failed {failure} times, the last time: {reason}")
            self.pause(f"{what}: {reason}", failure, asked_s)

    def pause(self, reason: str, failure: int, asked_s: float | None = None) -> None:
        """Say why and wait before the next try."""
        delay = self.policy.delay_s(failure, asked_s)
        self.say(f"{reason}; try {failure + 1} of {self.policy.attempts} in {delay:.1f} s")
        self.sleep(delay)

    def _unexpected(self, path: str, status: int, headers: Any) -> str:
        target = urllib.parse.urlsplit(headers.get("Location", ""))
        if target.hostname:
            return (
                f"{self.base_url}{path}: the site sends us to {target.scheme}://{target.netloc.rpartition('@')[2]}; "
                f"redirects are not followed, set CITYSCAPES_URL if that is its new place"
            )
        return f"{self.base_url}{path}: unexpected answer, status {status}"


def read_pieces(response: requests.Response, most: int) -> Iterator[bytes]:
    """The body as it arrives, up to `most` bytes at a time, without waiting for a piece to be full.

    Raises _Transient when the connection drops, stalls or ends early.
    """
    failure = None
    while failure is None:
        try:
            piece = response.raw.read1(most, decode_content=False)
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
            failure = _reason(error)
            break
        if not piece:
            return
        yield piece
    raise _Transient(failure)


def _reason(error: BaseException) -> str:
    """Why a connection failed, in words that hold nothing of the request."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        inner = getattr(cause, "reason", None)
        cause = inner if isinstance(inner, BaseException) else cause.__cause__ or cause.__context__
    for link in chain:
        if isinstance(link, ssl.SSLCertVerificationError):
            return _BAD_CERTIFICATE
        if isinstance(link, OSError) and link.strerror and not isinstance(link, requests.RequestException):
            return link.strerror
    if any(
        isinstance(link, urllib3.exceptions.IncompleteRead | http.client.IncompleteRead) for link in chain
    ):
        return "the connection ended early"
    if any(isinstance(link, TimeoutError | requests.Timeout) for link in chain):
        return "no answer in time"
    return f"the connection failed ({type(error).__name__})"


def _retry_after_s(value: str | None) -> float | None:
    return float(value) if value and re.fullmatch(r"\d{1,6}", value.strip()) else None


# ---------------------------------------------------------------------------------------------- the file


@dataclass(frozen=True)
class _Notes:
    """What file the bytes in `NAME.part` are of."""

    base_url: str
    package_id: int
    md5: str
    size_bytes: int | None
    etag: str | None
    last_modified: str | None

    @property
    def validator(self) -> str | None:
        """For If-Range, which takes only a strong ETag."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.last_modified


class _PartFile:
    """The growing file, its notes and its running md5, always in step."""

    def __init__(self, final: Path):
        self.path = final.with_name(final.name + ".part")
        self.notes_path = final.with_name(final.name + ".part.json")
        self.notes: _Notes | None = None
        self.offset = 0
        self.received_bytes = 0
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)

    def close(self) -> None:
        os.close(self._descriptor)

    def resume(self, base_url: str, package: Package, md5: str, meter: "_Meter") -> None:
        """Take over what an earlier run left, if it is of this very file; else empty it."""
        notes = _read_notes(self.notes_path)
        size = os.fstat(self._descriptor).st_size
        mine = notes is not None and (notes.base_url, notes.package_id, notes.md5) == (
            base_url,
            package.package_id,
            md5,
        )
        if not mine or (notes and notes.size_bytes is not None and size > notes.size_bytes):
            self.truncate()
            return
        self.notes = notes
        meter.start("verify", 0, size)
        while self.offset < size:
            chunk = os.pread(self._descriptor, 1 << 20, self.offset)
            if not chunk:
                break
            self._md5.update(chunk)
            self.offset += len(chunk)
            meter.show(self.offset)
        os.lseek(self._descriptor, self.offset, os.SEEK_SET)

    def truncate(self) -> None:
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        self.offset = 0
        self.notes = None
        self._md5 = hashlib.md5(usedforsecurity=False)

    def restart(self, notes: _Notes) -> None:
        self.truncate()
        self.note(notes)

    def note(self, notes: _Notes) -> None:
        self.notes = notes
        _write_json(self.notes_path, asdict(notes))

    def append(self, chunk: bytes) -> None:
        write_all(self._descriptor, chunk)
        self._md5.update(chunk)
        self.offset += len(chunk)
        self.received_bytes += len(chunk)

    def allocated_bytes(self) -> int:
        return os.fstat(self._descriptor).st_size

    def require_in_place(self) -> None:
        """Raise FileNotFoundError when the file was removed while we hold it open."""
        about, held = self.path.stat(), os.fstat(self._descriptor)
        if (about.st_dev, about.st_ino) != (held.st_dev, held.st_ino):
            raise FileNotFoundError(2, "replaced", str(self.path))

    def hexdigest(self) -> str:
        return self._md5.hexdigest()


class _Meter:
    """Calls `report` at most every `every_s` seconds, with a rate smoothed over some seconds."""

    def __init__(self, report: Report | None, every_s: float):
        self._report = report
        self._every_s = every_s
        self.start("download", 0, None)

    def start(self, phase: str, done: int, total: int | None) -> None:
        self.phase, self.total = phase, total
        self._shown_s, self._shown_bytes, self._rate = time.monotonic(), done, 0.0

    def is_due(self) -> bool:
        return time.monotonic() - self._shown_s >= self._every_s

    def show(self, done: int, last: bool = False) -> None:
        now = time.monotonic()
        elapsed = now - self._shown_s
        if self._report is None or not (last or elapsed >= self._every_s):
            return
        if elapsed > 0:
            rate = (done - self._shown_bytes) / elapsed
            keep = 0.5 ** (elapsed / 5.0) if self._rate else 0.0
            self._rate = keep * self._rate + (1 - keep) * rate
        left = self.total - done if self.total is not None else None
        eta = left / self._rate if left is not None and self._rate > 0 else None
        self._shown_s, self._shown_bytes = now, done
        self._report(Progress(self.phase, done, self.total, self._rate, eta))


def download(
    out: Path,
    *,
    package: str = ARCHIVE_NAME,
    base_url: str | None = None,
    credentials: Credentials | None = None,
    policy: Policy = DEFAULT_POLICY,
    report: Report | None = None,
    say: Say = logger.info,
    sleep: Callable[[float], None] = time.sleep,
    look_for_change: bool = False,
    wait: bool = True,
) -> Download:
    """Bring `package` to the folder `out`, or find it there.

    A finished archive is taken without asking the site, unless `look_for_change`; a changed package then replaces
    it once the new one is whole. One download into `out` at a time: another one waits, or with `wait=False` raises.
    `report` gets `Progress` twice a second, `say` one line for each thing that went wrong and was survived.

    Raises LoginRefused or FoveaError. Whatever happens, `out/package` is absent or whole, and what has arrived is
    kept for the next call.
    """
    if package in ("", ".", "..") or Path(package).name != package or "\\" in package:
        raise FoveaError(f"{package!r} is no package name")
    final = out / package
    try:
        out.mkdir(parents=True, exist_ok=True)
        with _hold_alone(out / f".{package}.lock", say, wait):
            meter = _Meter(report, policy.report_every_s)
            kept = _find_finished(final, meter)
            if kept is not None and not look_for_change:
                return kept
            site = Site(
                base_url or read_base_url(),
                credentials or read_credentials(),
                policy=policy,
                say=say,
                sleep=sleep,
            )
            try:
                return _bring(site, final, kept, meter)
            finally:
                site.close()
    except requests.RequestException as error:
        raise FoveaError(f"{package}: {_reason(error)}") from None
    except OSError as error:
        raise FoveaError(explain_os_error(error, final, "run again to go on where it stopped")) from None


@contextlib.contextmanager
def _hold_alone(path: Path, say: Say, wait: bool) -> Iterator[None]:
    """Hold the lock file; the system lets go of it when a process is killed."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise FoveaError(f"{path}: another download into this folder is running") from None
        say("another download into this folder is running: waiting for it")
        lock.acquire(timeout=-1, poll_interval=0.2)
    try:
        yield
    finally:
        lock.release()


def _bring(site: Site, final: Path, kept: Download | None, meter: _Meter) -> Download:
    package = site.find_package(final.name)
    md5 = site.fetch_md5(package)
    if kept is not None and kept.md5 == md5:
        return kept
    if kept is None and final.exists():
        return _adopt(final, md5, meter)
    part = _PartFile(final)
    try:
        part.resume(site.base_url, package, md5, meter)
        for first in (True, False):
            _receive(site, package, md5, part, meter)
            found = part.hexdigest()
            if found == md5 or found == (md5 := site.fetch_md5(package)):
                break
            part.truncate()
            if first:
                site.say(f"{package.name}: md5 {found}, the site says {md5}: from the beginning once more")
        else:
            raise FoveaError(
                f"{package.name}: what arrives has md5 {found}, the site says {md5}, twice: try again later"
            )
        part.require_in_place()
        # In this order: a kill between the two leaves a right file with no or old notes, which is looked at again.
        part.path.replace(final)
        _write_finished(final, md5)
        part.notes_path.unlink(missing_ok=True)
        return Download(final, md5, part.offset, part.received_bytes)
    finally:
        part.close()


def _receive(site: Site, package: Package, md5: str, part: _PartFile, meter: _Meter) -> None:
    """Append until the file is whole, over as many connections as that takes."""
    policy = site.policy
    failure = logins = 0
    furthest = part.offset
    while not (part.notes and part.offset == part.notes.size_bytes):
        wait: _Transient | None = None
        try:
            if _receive_some(site, package, md5, part, meter):
                break
            wait = _Transient("the connection ended early")
        except _Transient as error:
            wait = error
        except _SessionExpired as error:
            expired = str(error)
        if part.offset >= furthest + policy.progress_bytes:
            failure = logins = 0
            furthest = part.offset
        if wait is not None:
            failure += 1
            if failure >= policy.attempts:
                raise FoveaError(
                    f"{package.name}: {failure} tries in a row brought nothing, the last one: {wait}; the "
                    f"{part.offset} bytes that are here are kept, run again to go on"
                )
            site.pause(f"{package.name}: {wait} at {part.offset} bytes", failure, wait.asked_s)
        else:
            logins += 1
            if logins > 2:
                raise FoveaError(
                    f"{site.base_url} sends {package.name} to nobody ({expired}) although the login was taken: log in "
                    f"with a browser and see whether the account may download it or the site is under maintenance"
                )
            site.say(f"{package.name}: {expired} at {part.offset} bytes, logging in again")
            site.login()
    meter.show(part.offset, last=True)


def _receive_some(site: Site, package: Package, md5: str, part: _PartFile, meter: _Meter) -> bool:
    """One connection. True when the file is whole, or ended where no size was stated."""
    offset = part.offset
    if part.notes is None and offset:
        part.truncate()
        offset = 0
    with site.open_file(package, offset, part.notes.validator if part.notes else None) as response:
        unit = re.fullmatch(
            r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", response.headers.get("Content-Range", "").strip()
        )
        start = int(unit[1]) if unit and unit[1] else None
        stated = int(unit[2]) if unit and unit[2] != "*" else None
        if response.status_code == 416:
            # Past the end: whole if the end is where we stand (the md5 decides), else not the same file.
            if offset and stated == offset:
                return True
            part.truncate()
            raise _Transient("asked past the end, starting over")
        length = response.headers.get("Content-Length", "")
        arriving = _Notes(
            base_url=site.base_url,
            package_id=package.package_id,
            md5=md5,
            size_bytes=stated if response.status_code == 206 else int(length) if length.isdigit() else None,
            etag=response.headers.get("ETag"),
            last_modified=response.headers.get("Last-Modified"),
        )
        pieces = read_pieces(response, site.policy.chunk_bytes)
        if response.status_code == 206:
            if start != offset or (part.notes and _differs(part.notes, arriving)):
                site.say(f"{package.name}: the file changed on the server, starting over")
                part.truncate()
                raise _Transient("the file changed on the server")
            _require_room(site, package, part, arriving, offset)
            if part.notes is None:
                part.note(arriving)
        else:
            head = b""
            while len(head) < len(_ZIP_START) and (piece := next(pieces, b"")):
                head += piece
            if not head.startswith(_ZIP_START):
                # Looked at before anything is given up: a page must not cost what has already arrived.
                raise _SessionExpired("something else in place of the archive")
            _require_room(site, package, part, arriving, 0)
            if offset:
                site.say(f"{package.name}: the server sends the whole file again, starting over")
            part.restart(arriving)
            part.append(head)
        total = part.notes.size_bytes if part.notes else None
        meter.start("download", part.offset, total)
        window_s, window_bytes = time.monotonic(), part.offset
        for piece in pieces:
            if total is not None and part.offset + len(piece) > total:
                part.truncate()
                raise _Transient("more arrives than was stated, starting over")
            part.append(piece)
            if meter.is_due():
                part.require_in_place()
                meter.show(part.offset)
            elapsed = time.monotonic() - window_s
            if elapsed >= site.policy.stall_window_s:
                if part.offset - window_bytes < site.policy.min_rate_bytes_s * elapsed:
                    raise _Transient(f"only {part.offset - window_bytes} bytes in {elapsed:.0f} s")
                window_s, window_bytes = time.monotonic(), part.offset
        return total is None or part.offset == total


def _differs(ours: _Notes, theirs: _Notes) -> bool:
    pairs = (
        (ours.size_bytes, theirs.size_bytes),
        (ours.etag, theirs.etag),
        (ours.last_modified, theirs.last_modified),
    )
    return any(a is not None and b is not None and a != b for a, b in pairs)


def _require_room(site: Site, package: Package, part: _PartFile, arriving: _Notes, offset: int) -> None:
    size = arriving.size_bytes if arriving.size_bytes is not None else parse_size(package.size)
    if size is None:
        return
    freed = part.allocated_bytes() if offset == 0 else 0
    needed, free = size - offset - freed + site.policy.spare_bytes, free_bytes(part.path.parent)
    if needed > free:
        raise FoveaError(
            f"{part.path.parent}: {package.name} needs {needed / 1e9:.2f} GB more, {free / 1e9:.2f} GB are free: "
            f"make room or choose another folder; what has arrived is kept"
        )


def parse_size(text: str) -> int | None:
    """Bytes in a text such as "11GB" or "6.6 GB"; None where it says nothing."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKMGT]?)i?B\s*", text)
    if match is None:
        return None
    return int(float(match[1]) * 1000 ** " kMGT".index(match[2].replace("K", "k") or " "))


# ---------------------------------------------------------------------------------------------- finished files


def _finished_notes(final: Path) -> Path:
    return final.with_name(final.name + ".json")


def _write_finished(final: Path, md5: str) -> None:
    about = final.stat()
    _write_json(
        _finished_notes(final), {"md5": md5, "size_bytes": about.st_size, "mtime_ns": about.st_mtime_ns}
    )


def find_finished(out: Path, package: str = ARCHIVE_NAME) -> Download | None:
    """The finished archive in `out`, told by its notes alone: nothing is read, hashed or asked."""
    final = out / package
    try:
        notes = json.loads(_finished_notes(final).read_text())
        about = final.stat()
        if (about.st_size, about.st_mtime_ns) == (notes["size_bytes"], notes["mtime_ns"]):
            return Download(final.absolute(), str(notes["md5"]), about.st_size, 0)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _find_finished(final: Path, meter: _Meter) -> Download | None:
    """The archive of an earlier download, whose md5 was right; read again only when its time stamp changed."""
    try:
        notes = json.loads(_finished_notes(final).read_text())
        md5, size, mtime_ns = str(notes["md5"]), notes["size_bytes"], notes["mtime_ns"]
        about = final.stat()
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    if about.st_size != size:
        return None
    if about.st_mtime_ns != mtime_ns:
        if _hash_file(final, meter) != md5:
            return None
        _write_finished(final, md5)
    return Download(final, md5, size, 0)


def _adopt(final: Path, md5: str, meter: _Meter) -> Download:
    """A file under the final name that no notes tell of: right, or none of ours to replace."""
    found = _hash_file(final, meter)
    if found != md5:
        raise FoveaError(
            f"{final} is there already and is not what the site offers (md5 {found}, the site's {md5}): "
            f"move it away, or set CITYSCAPES_ROOT={final} to use it as it is"
        )
    _write_finished(final, md5)
    return Download(final, md5, final.stat().st_size, 0)


def _hash_file(path: Path, meter: _Meter) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    done = 0
    meter.start("verify", 0, path.stat().st_size)
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            done += len(chunk)
            meter.show(done)
    return digest.hexdigest()


def _read_notes(path: Path) -> _Notes | None:
    try:
        return _Notes(**json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _write_json(path: Path, content: dict[str, Any]) -> None:
    beside = path.with_name(path.name + ".new")
    beside.write_text(json.dumps(content))
    beside.replace(path)


def find_change(
    out: Path,
    *,
    package: str = ARCHIVE_NAME,
    base_url: str | None = None,
    credentials: Credentials | None = None,
    policy: Policy = DEFAULT_POLICY,
    sleep: Callable[[float], None] = time.sleep,
) -> str | None:
    """The site's md5 of `package` when it differs from that of the archive in `out`, else None: three small requests."""
    site = Site(base_url or read_base_url(), credentials or read_credentials(), policy=policy, sleep=sleep)
    try:
        md5 = site.fetch_md5(site.find_package(package))
    finally:
        site.close()
    kept = _find_finished(out / package, _Meter(None, policy.report_every_s))
    return None if kept is not None and kept.md5 == md5 else md5


def obtain(out: Path, **settings: Any) -> Source:
    """What the user has (`CITYSCAPES_ROOT`), in place; else the archive in `out`, downloaded when missing.

    `settings` go to `download`.
    """
    source = locate() or locate(out)
    if source is not None and (source.kind == "tree" or os.environ.get(ROOT_VARIABLE, "").strip()):
        return source
    return Source("archive", download(out, **settings).path.absolute())


# ---------------------------------------------------------------------------------------------- terminal


def format_seconds(seconds: float) -> str:
    """Such as "42 s", "3 min 10 s", "1 h 05 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def log_progress(say: Say, every_s: float = 30.0) -> Report:
    """A `report` for a log (Dagster's, a file): one line every `every_s` seconds, and one at the end of a phase."""
    last_s = -every_s

    def report(progress: Progress) -> None:
        nonlocal last_s
        whole = progress.total_bytes is not None and progress.done_bytes >= progress.total_bytes
        now = time.monotonic()
        if now - last_s >= every_s or whole:
            last_s = now
            say(str(progress))

    return report


def show_progress() -> Report:
    """A `report` for the terminal: one line that renews itself; a line every ten seconds where there is no terminal."""
    if not sys.stderr.isatty():
        return log_progress(lambda line: print(line, file=sys.stderr, flush=True), 10.0)

    def report(progress: Progress) -> None:
        end = "\n" if progress.done_bytes == progress.total_bytes else ""
        print(f"\r\x1b[2K{progress}", end=end, file=sys.stderr, flush=True)

    return report


def _report_extraction(report: Report) -> Callable[[int, int], None]:
    meter = _Meter(report, DEFAULT_POLICY.report_every_s)

    def show(done: int, total: int) -> None:
        if meter.total is None:
            meter.start("extract", done, total)
        meter.show(done, last=done == total)

    return show


def main(arguments: Sequence[str] | None = None) -> int:
    """The command `python -m assets.frames.cityscapes`: exit code 0, 1 after an error, 130 when interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m assets.frames.cityscapes",
        description="Download the Cityscapes frames, resuming what is there, and check them. The account comes from "
        "CITYSCAPES_USERNAME and CITYSCAPES_PASSWORD or CITYSCAPES_CREDENTIALS_FILE; CITYSCAPES_ROOT names what you "
        "have already.",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the archive")
    parser.add_argument("--package", default=ARCHIVE_NAME, help="package on the site (default: %(default)s)")
    parser.add_argument(
        "--extract", type=Path, metavar="DIR", help="unpack into this folder (not needed by fovea)"
    )
    parser.add_argument(
        "--look-for-change", action="store_true", help="ask the site whether the package changed"
    )
    parser.add_argument("--subset", action="store_true", help="some cities may be missing")
    parser.add_argument("--no-wait", action="store_true", help="fail when another download is running")
    options = parser.parse_args(arguments)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    try:
        settings: dict[str, Any] = {
            "report": show_progress(),
            "say": say,
            "look_for_change": options.look_for_change,
            "wait": not options.no_wait,
        }
        if options.package != ARCHIVE_NAME:
            print(download(options.out, package=options.package, **settings).path)
            return 0
        source = obtain(options.out, **settings)
        if options.extract is not None and source.kind == "archive":
            source = extract(source.path, options.extract, progress=_report_extraction(settings["report"]))
        frames, strangers = scan(source)
        counts = check_counts(frames, strangers=strangers, allow_subset=options.subset)
        print(source.path)
        say(counts.message())
        return 0 if counts.ok else 1
    except FoveaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted: run again to go on where it stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
