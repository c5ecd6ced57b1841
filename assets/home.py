"""Where everything lies. `FOVEA_HOME` is state that the code can make again, `FOVEA_CONFIG` what a person typed."""

import contextlib
import errno
import functools
import hashlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from upath import UPath

from assets.remote import Remote, files_below, hidden
from assets.settings import Profile, find_profile
from models.config import config_folder, expanded, usual_place
from models.errors import FoveaError
from models.validation import printable

ROOT = Path(__file__).resolve().parent.parent
_IN_NO_ADDRESS = re.compile("[?]|%[0-9A-Fa-f]{2}")


@dataclass(frozen=True)
class Home:
    """All paths of one installation.

    `data` (units) may be an object store. What nodes share beside it (tables, reports, records of what was made last,
    checkpoints of unfinished training) lies under `shared`, too, where that is one; a folder as storage takes their place.
    The cache and the tracker's journal are always this machine's, and so are locks beside an object store: content
    addressing makes double work of two nodes harmless.
    """

    state: Path
    config: Path
    data: UPath
    profile: Profile = field(default_factory=Profile)

    @classmethod
    def from_environment(cls) -> "Home":
        """FOVEA_HOME (default `.fovea/` in `usual_place`), FOVEA_CONFIG (default `usual_place`), FOVEA_PROFILE (default
        `local`), FOVEA_DATA (default `data` in the profile's storage; any fsspec address)."""
        state = expanded(os.environ.get("FOVEA_HOME") or usual_place() / ".fovea", "FOVEA_HOME: ").resolve()
        with explained(state):
            if state.is_file():
                raise FoveaError(f"FOVEA_HOME: {state} is a file; name a folder")
        config = config_folder()
        profile = find_profile(config)
        data = os.environ.get("FOVEA_DATA")
        if data:
            options = profile.storage_options() if data.startswith("s3://") else {}
            try:
                return cls(state, config, UPath(data, **options), profile)
            except ValueError as error:
                raise FoveaError(f"FOVEA_DATA: {data}: {error}; name a folder, or s3://BUCKET/PREFIX") from None
        root = UPath(profile.storage or state, **profile.storage_options())
        return cls(state, config, root / "data", profile)

    @functools.cached_property
    def shared(self) -> Remote | None:
        """The object store that nodes share, or None."""
        if not self.profile.remote:
            return None
        root = UPath(self.profile.storage, **self.profile.storage_options())
        return Remote(root, self.profile.storage_wait_s)

    @property
    def common(self) -> "Folder | Remote":
        """What nodes share: the object store, or the folder that all of them see."""
        return self.shared or Folder(self._seen_by_all)

    @property
    def _seen_by_all(self) -> Path:
        """The folder of what nodes share; where that is an object store, of this machine's copies."""
        if self.profile.storage and not self.profile.remote:
            return Path(self.profile.storage)
        return self.state

    @functools.cached_property
    def addressed(self) -> Path:
        """`state` by a name that may stand in an address, as the databases of MLflow and Dagster are opened by: a link in the
        user's cache where its own has `?` or what reads as an escape. Raises FoveaError where that cannot be."""
        if not _IN_NO_ADDRESS.search(str(self.state)):
            return self.state
        cache = expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "XDG_CACHE_HOME: ").absolute()
        link = cache / "fovea" / hashlib.sha256(os.fsencode(self.state)).hexdigest()[:16]
        if _IN_NO_ADDRESS.search(str(link)):
            raise FoveaError(f"FOVEA_HOME: SQLite cannot open databases in {self.state}; name a folder without ? and %")
        with explained(self.state):
            self.state.mkdir(parents=True, exist_ok=True)
        with explained(link, "set XDG_CACHE_HOME to"):
            link.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                link.symlink_to(self.state)
            if Path(os.path.realpath(link)) != self.state:
                raise FoveaError(f"FOVEA_HOME: {link} leads elsewhere than to {self.state}: delete it")
        return link

    @property
    def dagster(self) -> Path:
        """Dagster's instance."""
        return self.addressed / "dagster"

    @property
    def mlflow(self) -> Path:
        """MLflow's embedded store and the tracker's journal."""
        return self.addressed / "mlflow"

    @property
    def tables(self) -> Path:
        """Parquet and CSV tables."""
        return self._seen_by_all / "tables"

    @property
    def reports(self) -> Path:
        """HTML reports, one a dataset and sweep."""
        return self._seen_by_all / "reports"

    @property
    def work(self) -> Path:
        """Checkpoints of unfinished training, one folder a unit. `assets.handover` shares them."""
        return self._seen_by_all / "work"

    @property
    def locks(self) -> Path:
        """Lock files."""
        return self._seen_by_all / "locks"

    @contextlib.contextmanager
    def locked(self, name: str, timeout: float = -1, taken: str = "") -> Iterator[None]:
        """An exclusive lock between processes. Raises FoveaError on a timeout, which says `taken`."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.locks / f"{name}.lock")
        try:
            with explained(self.locks):
                self.locks.mkdir(parents=True, exist_ok=True)
                lock.acquire(timeout=timeout)
        except Timeout as error:
            raise FoveaError(taken or f"{name} is held by another process of this FOVEA_HOME ({self.state})") from error
        try:
            yield
        finally:
            lock.release()


class Folder:
    """A folder of this disk, asked like `assets.remote.Remote`: names are relative, a file is whole whenever it is there."""

    def __init__(self, root: Path):
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def read(self, name: str) -> bytes:
        """A file's bytes. Raises FileNotFoundError."""
        return (self.root / name).read_bytes()

    def read_many(self, names: Iterable[str]) -> dict[str, bytes]:
        """Bytes by name; a file that is not there is left out."""
        found = {}
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                found[name] = self.read(name)
        return found

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole: beside, then renamed. Raises FoveaError when the disk is full."""
        write_whole(self.root / name, data)

    def listing(self, folder: str = "") -> dict[str, int]:
        """Name → bytes of every file below a folder; empty where there is nothing."""
        found = files_below(self.root / folder)
        return {f"{folder}/{name}": state.st_size for name, state in found if not hidden(name)}

    def delete(self, name: str) -> None:
        """Remove a file; one that is not there is fine."""
        (self.root / name).unlink(missing_ok=True)


@contextlib.contextmanager
def written_beside(path: Path, way: str = "set FOVEA_HOME to") -> Iterator[Path]:
    """A temporary path in the same folder, renamed onto `path` when the block ends well, removed when it does not. Raises
    FoveaError when the disk is full or the folder cannot be written (`explained`)."""
    # file systems end names at 255 bytes
    beside = path.with_name(f".{path.name[:32]}.{os.getpid()}-{secrets.token_hex(4)}")
    with explained(path, way):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield beside
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes | str, way: str = "set FOVEA_HOME to") -> None:
    """Write a file whole or not at all, text as UTF-8. Raises FoveaError as `written_beside` does."""
    with written_beside(path, way) as beside:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)


def write_output(path: Path, content: bytes | str) -> None:
    """`write_whole` for a file that a person named with -o."""
    write_whole(path, content, "let -o name")


def read_whole(path: Path) -> bytes:
    """A file that a person named. Raises FoveaError for one that can't be read, and for a pipe or device, which would wait for
    ever."""
    if "\0" in str(path):
        raise FoveaError(f"no file has such a name: {printable(path)}")
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise FoveaError(f"{path} is a pipe, socket or device: name a file")
        return path.read_bytes()
    except FileNotFoundError:
        raise FoveaError(f"no such file: {path}") from None
    except OSError as error:
        raise FoveaError(f"cannot read {path}: {error.strerror}") from error


def is_ours(path: Path, mark: bytes) -> bool:
    """Whether a file is there that has the pattern `mark` in its first KiB."""
    try:
        if not path.is_file():  # a pipe would wait for ever
            return False
        with path.open("rb") as file:
            return bool(re.search(mark, file.read(1024)))
    except OSError:
        return False


def check_ours(path: Path, mark: bytes) -> None:
    """Raises FoveaError where something lies at `path` that somebody else made (`is_ours`): it is not written over."""
    if os.path.lexists(path) and not is_ours(path, mark):
        raise FoveaError(f"{path} is there and was not made by this command: name another output, or move it away")


def _near(name: str, path: Path | UPath) -> bool:
    """Whether a file lies at `path`, below it or beside it, or is a folder above it."""
    folder, file = Path(str(path.parent)).absolute(), Path(name).absolute()
    return file.is_relative_to(folder) or folder.is_relative_to(file)


@contextlib.contextmanager
def explained(path: Path | UPath, way: str = "set FOVEA_HOME to") -> Iterator[None]:
    """Turns the operating system's refusals to write into errors that say what to do; `way` leads to another place. What it
    refuses of files elsewhere is left as it is."""
    try:
        yield
    except OSError as error:
        if error.filename and not _near(str(error.filename), path):
            raise
        if error.errno == errno.EFBIG:
            raise FoveaError(
                f"{path} would be larger than this disk or a limit (ulimit -f) allows a file to be: raise it, or {way} another disk"
            ) from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise FoveaError(
                f"no space left while writing {path}: free some space or {way} a larger disk, then run the same command again; "
                "what is finished is kept"
            ) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EEXIST):
            raise FoveaError(f"cannot write {path}: {error.strerror}; {way} a folder you can write") from error
        raise
