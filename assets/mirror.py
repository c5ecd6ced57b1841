"""A store whose root is an object store: what is made is sent there, what is read comes through copies on this disk.

The objects of a unit lie below a digest of their content, and its manifest names that digest: two nodes that make the
same unit at once never mix their objects, one of the two manifests stays and is whole. So nodes need no locks between
them; double work is harmless. Copies are checked by size and SHA-256. A unit that could not be sent waits on this disk
and is sent by the next command that asks for it.
"""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import time
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from filelock import FileLock
from upath import UPath

from assets.home import Folder, explained, write_whole, written_beside
from assets.log import lasting_logger
from assets.remote import AT_ONCE, Remote, files_below, hidden
from assets.settings import Profile
from assets.store import MANIFEST, Store, alive, digest, write_manifest
from models.errors import FoveaError
from models.weights import sha256_of

_log = lasting_logger("fovea.storage")


def open_store(root: UPath, cache: Path, profile: Profile) -> Store:
    """The store at a root. `cache` is a folder of this disk for what comes from, and waits for, a remote root."""
    if root.protocol in ("", "file", "local"):
        return Store(root)
    return Mirror(root, cache, cache_bytes=int(profile.cache_gib * 2**30), wait_s=profile.storage_wait_s)


class Mirror(Store):
    """Units, shards and single objects of an object store. Raises StorageAway where that is away for too long."""

    def __init__(self, root: UPath, cache: Path, *, cache_bytes: int = 20 << 30, wait_s: float = 180.0):
        super().__init__(root)
        self.files = self.remote = Remote(root, wait_s)
        place = cache / hashlib.sha256(str(root).encode()).hexdigest()[:12]
        self.disk = place / "objects"
        self.copies = Cache(self.disk, cache_bytes)
        self.making, self.unsent = place / "writing", place / "unsent"
        self._manifests: dict[str, dict[str, Any]] = {}

    def _making(self, place: str) -> Path:
        return self.making

    def _manifest(self, place: str) -> dict[str, Any]:
        if place not in self._manifests:
            self._manifests[place] = super()._manifest(place)
        return self._manifests[place]

    def _whole(self, place: str) -> bool:
        """Whether the unit is there; one that waits on this disk is sent first."""
        try:
            self._manifest(place)
        except FileNotFoundError:
            return self._send(place)
        except (json.JSONDecodeError, UnicodeDecodeError):
            return False
        return True

    def _publish(self, filled: Path, place: str, manifest: dict[str, Any]) -> None:
        sums = {name: sha256_of(filled / name) for name in manifest["objects"]}
        write_manifest(filled, {**manifest, "sha256": sums, "at": digest(sums)})
        waiting = self.unsent / place
        waiting.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):  # another process made it, too
            filled.rename(waiting)
        self._send(place)

    def _send(self, place: str) -> bool:
        """Send a unit that waits on this disk, objects first; False when none waits. Its files become copies."""
        waiting = self.unsent / place
        try:
            manifest = json.loads((waiting / MANIFEST).read_text())
        except FileNotFoundError:
            return False
        except ValueError:
            shutil.rmtree(waiting, ignore_errors=True)
            return False
        files = {waiting / n: f"{place}/{manifest['at']}/{n}" for n in manifest["objects"]}
        try:
            if any((waiting / n).stat().st_size != size for n, size in manifest["objects"].items()):
                shutil.rmtree(waiting, ignore_errors=True)
                return False
            with ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(self.remote.put, files, files.values()))
            self.remote.write(f"{place}/{MANIFEST}", (waiting / MANIFEST).read_bytes())
        except FileNotFoundError:  # another process sent it meanwhile, and took the files after that
            with contextlib.suppress(FileNotFoundError, ValueError):
                return bool(self._manifest(place))
            return False
        self._manifests[place] = manifest
        for path, name in files.items():
            with contextlib.suppress(FileNotFoundError):  # another process sent it, too
                self.copies.add(path, name)
        shutil.rmtree(waiting, ignore_errors=True)
        return True

    def _take(self, path: Path, name: str) -> None:
        self.remote.put(path, name)
        self.copies.add(path, name)

    def _here(self, name: str, size: int, sha256: str, manifest: str) -> Path:
        """The copy of an object, a unit's kept for this process. Raises FoveaError when the object is gone or damaged."""
        if manifest.endswith(MANIFEST):
            self.copies.hold(manifest.removesuffix(f"/{MANIFEST}"))
        with explained(self.disk):
            try:
                return self.copies.get(name, size, lambda path: self.remote.fetch(name, path), sha256)
            except FileNotFoundError as error:
                raise FoveaError(
                    f"{self.root}/{name} is gone, though its manifest names it; delete {manifest} there and run again"
                ) from error

    def _lists(self, names: Iterable[str]) -> dict[str, bytes]:
        """The lists of shards, which never change: each is asked for once and then kept here."""
        kept = {name: self.disk / name for name in names}
        lacking = [name for name, path in kept.items() if not path.exists()]
        for name, data in self.remote.read_many(lacking).items():
            write_whole(kept[name], data)
        return Folder(self.disk).read_many(kept)


class Cache:
    """A folder of copies with a limit in bytes: what was used longest ago goes first. Safe between processes.

    An entry is a file that is whole whenever it is there. `hold` keeps a unit's files as long as its holder lives; a
    mapped file may go at any time, since what is mapped stays readable. Held and mapped bytes can exceed the limit.
    """

    def __init__(self, folder: Path, limit_bytes: int):
        self.folder, self.limit_bytes = folder, limit_bytes
        self._lock = FileLock(folder / ".lock")
        self._pins: Path | None = None
        self._held: set[str] = set()

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
        """The entry's path; fetched, and checked by size and digest, when it is not there. Raises FoveaError for an object
        that is not what its manifest says."""
        if path := self.find(name, size):
            return path
        self._make_room(size)
        path = self.folder / name
        with written_beside(path) as beside:
            fetch(beside)
            found = beside.stat().st_size
            if found != size or (sha256 and sha256_of(beside) != sha256):
                raise FoveaError(
                    f"{name} in the storage is damaged ({found} of {size} bytes, or another content): delete that object and "
                    "its manifest and run again"
                )
        return path

    def add(self, path: Path, name: str) -> None:
        """Move a file of this disk in."""
        self._make_room(path.stat().st_size)
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.utime(path)
        path.replace(target)

    def hold(self, prefix: str) -> None:
        """Keep all entries below this prefix until the cache object is gone."""
        if prefix in self._held:
            return
        self._held.add(prefix)
        with self._lock:
            if self._pins is None:
                self._pins = self.folder / ".pins" / f"{os.getpid()}-{secrets.token_hex(4)}"
                self._pins.parent.mkdir(exist_ok=True)
                weakref.finalize(self, self._pins.unlink, missing_ok=True)
            with self._pins.open("a") as file:
                file.write(f"{prefix}\n")

    def _make_room(self, size: int) -> None:
        """Reserve bytes, evicting what was used longest ago; a full walk only when the count says so."""
        with self._lock:
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
        """Let entries go until they have `goal` bytes; the bytes that are left."""
        held = tuple(f"{prefix}/" for prefix in self._all_held())
        entries = {n: s for n, s in files_below(self.folder) if not n.startswith((".pins/", ".lock", ".bytes"))}
        used = sum(state.st_size for state in entries.values())
        for name in sorted(entries, key=lambda n: entries[n].st_mtime):
            if used <= goal:
                break
            path = self.folder / name
            being_written = hidden(name) and alive(name.rsplit(".", 1)[1])
            if not being_written and not name.startswith(held):
                path.unlink(missing_ok=True)
                used -= entries[name].st_size
                with contextlib.suppress(OSError):
                    path.parent.rmdir()
        return used

    def _all_held(self) -> set[str]:
        held: set[str] = set()
        for path in (self.folder / ".pins").glob("*"):
            with contextlib.suppress(OSError):
                if alive(path.name):
                    held |= set(path.read_text().splitlines())
                else:
                    path.unlink()
        return held
