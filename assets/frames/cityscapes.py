"""The Cityscapes site's client: log in, find a package, bring it home whole.

    GET /login, POST /login          302 = in, 200 = bad credentials; the session is a cookie
    GET /downloads/?list             JSON: name, packageID
    GET /md5-sum/?packageID=N        "md5  name"
    GET /file-handling/?packageID=N  the file; Range is answered 206, or 200 with the whole file

A finished archive has notes beside it (`NAME.json`: md5, size, time), so that nobody hashes or asks again.
"""

import json
import logging
import os
import re
import time
import urllib.parse
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

import requests
from requests.auth import AuthBase

from assets.frames.archive import ARCHIVE_NAME
from models.config import expanded
from models.download import Download, Meter, NotTheFile, Wanted, alone_at, fetch, hash_file, write_json
from models.errors import FoveaError
from models.network import PATIENT, Manner, Transient, read_pieces, send

logger = logging.getLogger(__name__)

OFFICIAL_URL: Final = "https://www.cityscapes-dataset.com"
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_ZIP_START = b"PK\x03\x04"
_SMALL_REPLY_BYTES = 4 << 20
_NOT_LOGGED_IN = {301, 302, 303, 307, 308, 401, 403}


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


class _LoginForm(AuthBase):
    """Fills in the form as the request leaves: the password is in no variable that a traceback shows."""

    def __init__(self, credentials: Credentials):
        self._credentials = credentials

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        username, password = self._credentials
        request.prepare_body({"username": username, "password": password.reveal(), "submit": "Login"}, None)
        return request


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
    path = expanded(named, "CITYSCAPES_CREDENTIALS_FILE: ")
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
    """CITYSCAPES_URL, or the official site. Raises FoveaError for what must not be sent a password."""
    url = os.environ.get("CITYSCAPES_URL", "").strip() or OFFICIAL_URL
    parts = urllib.parse.urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise FoveaError("CITYSCAPES_URL: names an account; give it in CITYSCAPES_USERNAME and CITYSCAPES_PASSWORD")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise FoveaError(f"CITYSCAPES_URL={url}: no web address")
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise FoveaError(f"CITYSCAPES_URL={url}: the password would travel in clear, use https")
    return url.rstrip("/")


# ---------------------------------------------------------------------------------------------- the site


class _Answer(NamedTuple):
    status: int
    headers: Any
    body: bytes


class Site:
    """A session with the site. Logs in by itself, follows no redirect, retries what may pass. Raises LoginRefused for bad
    credentials and FoveaError for everything else that does not pass."""

    def __init__(self, base_url: str, credentials: Credentials, manner: Manner):
        self.base_url = base_url
        self._manner = manner
        self._credentials = credentials
        self._logged_in = False
        self._session = requests.Session()
        # A server on this machine is never behind a proxy.
        self._session.trust_env = urllib.parse.urlsplit(base_url).hostname not in _LOOPBACK
        # A no-op keeps requests from sending what a ~/.netrc holds for this host.
        self._session.auth = lambda request: request
        self._session.headers.update({"User-Agent": "fovea", "Accept-Encoding": "identity"})

    def __enter__(self) -> "Site":
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()
        self._session.cookies.clear()

    def login(self) -> None:
        """Start a session, from nothing."""
        self._logged_in = False
        self._session.cookies.clear()
        page = self._ask("GET", "/login")
        if page.status != 200:
            raise self._unexpected("/login", page)
        answer = self._ask("POST", "/login", auth=_LoginForm(self._credentials))
        if answer.status == 200:
            raise LoginRefused(
                f"{self.base_url} refuses the user name or password of CITYSCAPES_USERNAME / CITYSCAPES_PASSWORD (or "
                f"CITYSCAPES_CREDENTIALS_FILE): check them by logging in with a browser"
            )
        if answer.status not in (302, 303):
            raise self._unexpected("/login", answer)
        self._logged_in = True

    def find_package(self, name: str) -> int:
        """The number of the package called `name`."""
        path = "/downloads/?list"
        body = self._get(path)
        try:
            packages = {str(item["name"]): int(item["packageID"]) for item in json.loads(body)}
        except (ValueError, TypeError, KeyError):
            raise FoveaError(f"{self.base_url}{path} sent no list of packages: did the site change?") from None
        if name not in packages:
            raise FoveaError(
                f"{self.base_url} offers this account no package {name!r}; it offers: {', '.join(packages) or 'none'}"
            )
        return packages[name]

    def fetch_md5(self, package: int) -> str:
        """The md5 that the site states, 32 hexadecimal digits in lower case."""
        path = f"/md5-sum/?packageID={package}"
        stated = re.match(r"\s*([0-9a-fA-F]{32})\b", self._get(path))
        if stated is None:
            raise FoveaError(f"{self.base_url}{path} sent no md5: did the site change?")
        return stated[1].lower()

    def open_package(self, package: int, headers: dict[str, str]) -> requests.Response:
        """A streamed answer, 200, 206 or 416 only; the caller closes it. One try. Raises Transient, NotTheFile or
        FoveaError."""
        path = f"/file-handling/?packageID={package}"
        response = self._send("GET", path, headers=headers)
        if response.status_code in (200, 206, 416):
            return response
        response.close()
        if response.status_code in _NOT_LOGGED_IN:
            raise NotTheFile(f"status {response.status_code}")
        raise self._unexpected(path, _Answer(response.status_code, response.headers, b""))

    def _get(self, path: str) -> str:
        for again in (False, True):
            if not self._logged_in or again:
                self.login()
            answer = self._ask("GET", path)
            page = answer.body.lstrip()[:1] == b"<"
            if answer.status == 200 and not page:
                return answer.body.decode("utf-8", "replace")
            if not page and answer.status not in _NOT_LOGGED_IN:
                raise self._unexpected(path, answer)
        raise FoveaError(
            f"{self.base_url}{path}: the site shows another page although the login was taken: log in with a browser "
            f"and see whether it wants something (terms to accept, maintenance)"
        )

    def _ask(self, method: str, path: str, auth: AuthBase | None = None) -> _Answer:
        """A small answer, after as many tries as it takes."""

        def read() -> _Answer:
            deadline = time.monotonic() + self._manner.policy.stall_window_s
            body = b""
            with self._send(method, path, auth=auth) as response:
                for piece in read_pieces(response, 1 << 16):
                    body += piece
                    if len(body) > _SMALL_REPLY_BYTES:
                        break
                    if time.monotonic() > deadline:
                        raise Transient("the answer trickles")
            # A page that refuses may show what was typed: it goes no further.
            return _Answer(response.status_code, response.headers, body if method == "GET" else b"")

        reason = ""
        try:
            return self._manner.retry(read, path)
        except Transient as error:
            reason = str(error)
        raise FoveaError(f"{self.base_url}{path} failed {self._manner.policy.attempts} times, the last time: {reason}")

    def _send(self, method: str, path: str, **options: Any) -> requests.Response:
        return send(self._session, method, self.base_url + path, self._manner.policy, allow_redirects=False, **options)

    def _unexpected(self, path: str, answer: _Answer) -> FoveaError:
        target = urllib.parse.urlsplit(answer.headers.get("Location", ""))
        if target.hostname:
            return FoveaError(
                f"{self.base_url}{path}: the site sends us to {target.scheme}://{target.netloc.rpartition('@')[2]}; "
                f"redirects are not followed, set CITYSCAPES_URL if that is its new place"
            )
        return FoveaError(f"{self.base_url}{path}: unexpected answer, status {answer.status}")


# ---------------------------------------------------------------------------------------------- the archive


def download(out: Path, manner: Manner = PATIENT, *, look_for_change: bool = False) -> Download:
    """Bring the archive of frames to the folder `out`, or find it there.

    A finished archive is taken without asking the site, unless `look_for_change`; a changed package then replaces
    it once the new one is whole. One download into `out` at a time: another one waits.

    Raises LoginRefused or FoveaError. Whatever happens, the archive is absent or whole, and what has arrived is
    kept for the next call.
    """
    final = out / ARCHIVE_NAME
    with alone_at(final, manner.say):
        meter = Meter(manner.report, manner.policy.report_every_s)
        kept = _find_kept(final, meter)
        if kept is not None and not look_for_change:
            return kept
        with Site(read_base_url(), read_credentials(), manner) as site:
            package = site.find_package(final.name)
            md5 = site.fetch_md5(package)
            if kept is not None and kept.checksum == md5:
                return kept
            if kept is None and final.exists():
                return _adopt(final, md5, meter)
            done = fetch(_wanted(site, package, md5), final, manner)
        _write_notes(done)
        return done


def _wanted(site: Site, package: int, md5: str) -> Wanted:
    def fault(found: str) -> str:
        # asked again: the package may have changed on the way
        return "" if found == md5 or found == (now := site.fetch_md5(package)) else f"md5 {found}, the site says {now}"

    def log_in_again(answer: NotTheFile, earlier: int) -> None:
        if earlier >= 2:
            raise FoveaError(
                f"{site.base_url} sends {ARCHIVE_NAME} to nobody ({answer}) although the login was taken: log in "
                f"with a browser and see whether the account may download it or the site is under maintenance"
            )
        site.login()

    return Wanted(
        name=ARCHIVE_NAME,
        key=f"{site.base_url} {package} {md5}",
        signature=_ZIP_START,
        open=lambda headers: site.open_package(package, headers),
        mend=log_in_again,
        fault=fault,
        algorithm="md5",
    )


def find_change(out: Path, manner: Manner = PATIENT) -> str | None:
    """The site's md5 when it has another archive than the one in `out`, else None: three small requests."""
    with Site(read_base_url(), read_credentials(), manner) as site:
        md5 = site.fetch_md5(site.find_package(ARCHIVE_NAME))
    kept = _find_kept(out / ARCHIVE_NAME, Meter(manner.report, manner.policy.report_every_s))
    return None if kept is not None and kept.checksum == md5 else md5


def find_finished(out: Path) -> Download | None:
    """The finished archive in `out`, told by its notes alone: nothing is read, hashed or asked."""
    final = (out / ARCHIVE_NAME).absolute()
    found = _read_notes(final)
    return found[0] if found and found[1] else None


def _notes_path(final: Path) -> Path:
    return final.with_name(final.name + ".json")


def _write_notes(done: Download) -> None:
    write_json(
        _notes_path(done.path),
        {"md5": done.checksum, "size_bytes": done.size_bytes, "mtime_ns": done.path.stat().st_mtime_ns},
    )


def _read_notes(final: Path) -> tuple[Download, bool] | None:
    """What the notes say of an archive of this size, and whether its time stamp is theirs, too."""
    try:
        notes = json.loads(_notes_path(final).read_text())
        about = final.stat()
        if about.st_size != notes["size_bytes"]:
            return None
        return Download(final, str(notes["md5"]), about.st_size, 0), about.st_mtime_ns == notes["mtime_ns"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _find_kept(final: Path, meter: Meter) -> Download | None:
    """The archive of an earlier download, whose md5 was right; read again only when its time stamp changed."""
    found = _read_notes(final)
    if found is None:
        return None
    kept, untouched = found
    if not untouched:
        if hash_file(final, "md5", meter) != kept.checksum:
            return None
        _write_notes(kept)
    return kept


def _adopt(final: Path, md5: str, meter: Meter) -> Download:
    """A file under the final name that no notes tell of: right, or none of ours to replace."""
    found = hash_file(final, "md5", meter)
    if found != md5:
        raise FoveaError(
            f"{final} is there already and is not what the site offers (md5 {found}, the site's {md5}): "
            f"move it away, or set CITYSCAPES_ROOT={final} to use it as it is"
        )
    adopted = Download(final, md5, final.stat().st_size, 0)
    _write_notes(adopted)
    return adopted
