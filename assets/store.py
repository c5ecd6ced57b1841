"""The content store: what an asset makes for one unit of work lies under a key hashed from its inputs.

Two shapes, one rule (objects first, the manifest that names them last, so nothing is ever seen half-written):

    STAGE/KK/KEY/…objects…, manifest.json     a unit: one dataset's index, one trained codec, one evaluation
    STAGE/shards/ID.bin, ID.json              many small arrays in one file; ID.json lists key, offset, shape

Works on any fsspec file system through UPath; on a local disk arrays are memory-mapped.

On an object store the objects of a unit lie below a digest of their content, and its manifest names that digest: two
nodes that make the same unit at once never mix their objects, one of the two manifests stays and is whole. So nodes need
no locks between them; double work is harmless. What is read comes through a cache on the local disk, checked by size and
SHA-256. A unit that could not be sent is kept and sent by the next command that asks for it.
"""

import contextlib
import functools
import hashlib
import json
import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from assets.home import explained, written_beside
from assets.remote import Cache, Remote, sha256_of
from models.errors import FoveaError

MANIFEST = "manifest.json"
CACHE_BYTES = 20 << 30
#: what JSON that is none raises; FoveaError is a ValueError, too
DAMAGED = (json.JSONDecodeError, UnicodeDecodeError)


def digest(value: Any) -> str:
    """32 hexadecimal digits over a JSON-ready value: mappings by sorted key, floats by their shortest decimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Entry(NamedTuple):
    """Where one array lies, or why there is none."""

    shard: str
    offset: int
    shape: tuple[int, ...]
    reason: str


@dataclass
class UnitWriter:
    """A folder to fill; `meta` is kept in the manifest. `key` may be set while writing, before the block ends."""

    folder: Path
    meta: dict[str, Any]
    key: str = ""

    def path(self, name: str) -> Path:
        """Where to write the object of this name."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def mark() -> str:
    """Ends the name of what this process is writing: process, and a token that begins with this machine's."""
    return f"{os.getpid()}-{node()}{secrets.token_hex(4)}"


@functools.cache
def node() -> str:
    """Four hexadecimal digits for this machine: on a shared folder, other machines' processes are not ours to judge."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:4]


def sweep_dead(parent: Path, key: str) -> None:
    """Remove what makers of this unit on this machine left half-written when they were killed."""
    for left in parent.glob(f".{key}.*-*"):
        owner, _, token = left.name.rsplit(".", 1)[1].partition("-")
        mine = owner.isdigit() and token.startswith(node())
        if mine and not Path(f"/proc/{owner}").exists() and Path("/proc/self").exists():
            shutil.rmtree(left, ignore_errors=True)


def _place(stage: str, key: str) -> str:
    """Where a unit lies below the root, and its copies below the cache."""
    return f"{stage}/{key[:2]}/{key}"


class Store:
    """Units and shards under one root. `cache` is a local folder for what comes from, and waits for, a remote root."""

    def __init__(
        self,
        root: UPath,
        cache: Path | None = None,
        *,
        cache_bytes: int = CACHE_BYTES,
        wait_s: float = 180.0,
    ):
        self.root = root
        self.local = root.protocol in ("", "file", "local")
        self.cache = cache or Path(tempfile.gettempdir()) / "fovea-cache"
        self._index: dict[str, dict[str, Entry]] = {}
        self._seen: dict[str, set[str]] = {}
        self._maps: dict[str, NDArray[np.uint8]] = {}
        self._shards: dict[tuple[str, str], tuple[int, str]] = {}
        self._manifests: dict[tuple[str, str], dict[str, Any]] = {}
        if not self.local:
            self.remote = Remote(root, wait_s)
            place = self.cache / hashlib.sha256(str(root).encode()).hexdigest()[:12]
            self.copies = Cache(place / "objects", cache_bytes)
            self._writing, self._unsent = place / "writing", place / "unsent"

    def _unit(self, stage: str, key: str) -> UPath:
        return self.root / _place(stage, key)

    def has(self, stage: str, key: str) -> bool:
        """Whether the unit is there; on a disk, where anybody may delete, also whether each of its objects is.

        A unit that an earlier command made and could not send is sent first. Raises FoveaError when a storage is away.
        """
        folder = self._unit(stage, key)
        if not self.local:
            try:
                self._remote_manifest(stage, key)
            except FileNotFoundError:
                return self._send(stage, key)
            except DAMAGED:
                return False
            return True
        place = Path(str(folder))
        try:
            objects = json.loads((place / MANIFEST).read_text())["objects"]
            return all((place / name).stat().st_size == size for name, size in objects.items())
        except (OSError, ValueError, KeyError):
            return False

    def manifest(self, stage: str, key: str) -> dict[str, Any]:
        """The unit's manifest: meta, objects with their sizes, when it was made. Raises FoveaError when missing."""
        path = self._unit(stage, key) / MANIFEST
        try:
            if not self.local:
                return self._remote_manifest(stage, key)
            return dict(json.loads(path.read_text()))
        except FileNotFoundError as error:
            raise FoveaError(f"{stage} {key} is not in the store at {self.root}") from error
        except DAMAGED as error:
            raise FoveaError(f"{path} is damaged ({error}); delete its folder and run again") from error

    def _remote_manifest(self, stage: str, key: str) -> dict[str, Any]:
        known = self._manifests.get((stage, key))
        if known is None:
            known = dict(json.loads(self.remote.read(f"{_place(stage, key)}/{MANIFEST}")))
            self._manifests[stage, key] = known
        return known

    @contextlib.contextmanager
    def writing(self, stage: str, key: str, meta: Mapping[str, Any] | None = None) -> Iterator[UnitWriter]:
        """Fill a unit. It appears whole when the block ends; an exception in it leaves no trace of it.

        Raises FoveaError when a storage is away for too long; what was made then waits on this disk.
        """
        final = self._unit(stage, key)
        parent = Path(str(final.parent)) if self.local else self._writing
        with explained(final):
            parent.mkdir(parents=True, exist_ok=True)
            sweep_dead(parent, key)
            folder = parent / f".{key}.{mark()}"
            folder.mkdir()
            try:
                writer = UnitWriter(folder, dict(meta or {}), key)
                yield writer
                key, final = writer.key, self._unit(stage, writer.key)
                if self.local:
                    Path(str(final.parent)).mkdir(parents=True, exist_ok=True)
                files = sorted(p for p in folder.rglob("*") if p.is_file())
                manifest = {
                    "stage": stage,
                    "key": key,
                    "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                    "objects": {p.relative_to(folder).as_posix(): p.stat().st_size for p in files},
                    "meta": writer.meta,
                }
                if not self.local:
                    sums = {p.relative_to(folder).as_posix(): sha256_of(p) for p in files}
                    manifest |= {"sha256": sums, "at": digest(sums)}
                (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True))
                if self.local:
                    with contextlib.suppress(OSError):
                        # somebody may have finished the same unit: then theirs stays, it is equal
                        folder.rename(Path(str(final)))
                    if not self.has(stage, key):
                        shutil.rmtree(Path(str(final)), ignore_errors=True)
                        folder.rename(Path(str(final)))
                else:
                    waiting = self._unsent / stage / key
                    waiting.parent.mkdir(parents=True, exist_ok=True)
                    with contextlib.suppress(OSError):
                        folder.rename(waiting)
                    self._send(stage, key)
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def _send(self, stage: str, key: str) -> bool:
        """Send a unit that waits on this disk, objects first; False when none waits. Its files go into the cache."""
        waiting = self._unsent / stage / key
        try:
            manifest = json.loads((waiting / MANIFEST).read_text())
            if any((waiting / n).stat().st_size != size for n, size in manifest["objects"].items()):
                raise ValueError
        except FileNotFoundError:
            return False
        except ValueError:
            shutil.rmtree(waiting, ignore_errors=True)
            return False
        base = _place(stage, key)
        names = {waiting / n: f"{base}/{manifest['at']}/{n}" for n in manifest["objects"]}
        self.remote.put_all(names.items())
        self.remote.write(f"{base}/{MANIFEST}", (waiting / MANIFEST).read_bytes())
        for path, name in names.items():
            with contextlib.suppress(FileNotFoundError):  # another process sent it, too
                self.copies.add(path, name)
        shutil.rmtree(waiting, ignore_errors=True)
        return True

    def path(self, stage: str, key: str, name: str) -> Path:
        """A local path of one of the unit's objects; fetched into the cache from a remote store."""
        if self.local:
            return Path(str(self._unit(stage, key) / name))
        manifest = self.manifest(stage, key)
        if name not in manifest["objects"]:
            raise FoveaError(f"{stage} {key} has no object {name}")
        self.copies.hold(_place(stage, key))
        at = f"{_place(stage, key)}/{manifest['at']}/{name}"
        return self._copy(at, manifest["objects"][name], manifest["sha256"][name])

    def folder(self, stage: str, key: str) -> Path:
        """A local folder with all of the unit's objects."""
        if self.local:
            return Path(str(self._unit(stage, key)))
        manifest = self.manifest(stage, key)
        for name in manifest["objects"]:
            self.path(stage, key, name)
        folder = self.copies.folder / _place(stage, key) / str(manifest["at"])
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _copy(self, at: str, size: int, sha256: str) -> Path:
        """The cached copy of an object. Raises FoveaError when it is gone or is not what its manifest says."""
        with explained(self.cache):
            try:
                return self.copies.get(at, size, lambda path: self.remote.fetch(at, path), sha256)
            except FileNotFoundError as error:
                manifest = (
                    f"{at.rsplit('.', 1)[0]}.json" if "/shards/" in at else f"{at.split('/')[2]}/{MANIFEST}"
                )
                raise FoveaError(
                    f"{self.root}/{at} is gone, though its manifest names it; delete {manifest} there and run again"
                ) from error

    # ---- single objects: a picture that people look at

    def object_path(self, stage: str, key: str, suffix: str) -> UPath:
        """Where the single object of this key lies; it is complete whenever it is there."""
        return self.root / f"{_place(stage, key)}{suffix}"

    def put_object(self, stage: str, key: str, suffix: str, data: bytes) -> None:
        """Write one object whole: beside and renamed on a local disk, one request on an object store."""
        target = self.object_path(stage, key, suffix)
        if self.local:
            with written_beside(Path(str(target))) as beside:
                beside.write_bytes(data)
        else:
            self.remote.write(f"{_place(stage, key)}{suffix}", data)

    def get_object(self, stage: str, key: str, suffix: str) -> bytes:
        """The bytes of a single object. Raises FileNotFoundError."""
        if self.local:
            return Path(str(self.object_path(stage, key, suffix))).read_bytes()
        return self.remote.read(f"{_place(stage, key)}{suffix}")

    def unit_keys(self, stage: str) -> set[str]:
        """Keys of all units of a stage."""
        if not self.local:
            names = (n.split("/") for n in self.remote.listing(stage))
            return {n[2] for n in names if len(n) == 4 and n[3] == MANIFEST}
        base = Path(str(self.root / stage))
        return {p.parent.name for p in base.glob(f"??/*/{MANIFEST}") if p.parent.name[0] != "."}

    def object_keys(self, stage: str) -> set[str]:
        """Keys of all single objects of a stage."""
        if not self.local:
            return {n.rsplit("/", 1)[1].split(".")[0] for n in self.remote.listing(stage)}
        base = self.root / stage
        if not base.exists():
            return set()
        return {
            p.name.split(".")[0] for folder in base.iterdir() for p in folder.iterdir() if p.name[0] != "."
        }

    # ---- shards: many arrays in one file

    def index(self, stage: str) -> dict[str, Entry]:
        """Every array of a stage by its key. Reads only manifests that it has not seen."""
        known = self._index.setdefault(stage, {})
        seen = self._seen.setdefault(stage, set())
        if not self.local:
            self._remote_index(stage, known, seen)
            return known
        base = self.root / stage / "shards"
        if base.exists():
            for path in sorted(base.iterdir(), key=lambda p: p.name):
                if path.suffix != ".json" or path.name in seen or path.name[0] == ".":
                    continue
                listing = json.loads(path.read_text())
                if not self._whole(Path(str(base / f"{path.stem}.bin")), listing["bytes"]):
                    continue
                for key, offset, shape, reason in listing["entries"]:
                    known[key] = Entry(path.stem, offset, tuple(shape), reason)
                seen.add(path.name)
        return known

    def _remote_index(self, stage: str, known: dict[str, Entry], seen: set[str]) -> None:
        place = self.copies.folder / stage / "shards"
        there = self.remote.listing(f"{stage}/shards")
        names = sorted(n for n in there if n.endswith(".json") and n not in seen)
        local = {n: place / n.rsplit("/", 1)[1] for n in names}
        missing = [n for n, path in local.items() if not path.exists()]
        for name, data in self.remote.read_many(missing).items():
            with written_beside(local[name]) as beside:
                beside.write_bytes(data)
        for name in names:
            try:
                listing = json.loads(local[name].read_bytes())
            except FileNotFoundError:
                continue
            if name.removesuffix(".json") + ".bin" not in there and listing["bytes"]:
                continue  # deleted by somebody: its arrays are made again
            seen.add(name)
            shard = local[name].stem
            self._shards[stage, shard] = (int(listing["bytes"]), str(listing["sha256"]))
            for key, offset, shape, reason in listing["entries"]:
                # the first that this process saw stays: an array never changes while it is used
                known.setdefault(key, Entry(shard, offset, tuple(shape), reason))

    @staticmethod
    def _whole(path: Path, size: int) -> bool:
        with contextlib.suppress(OSError):
            return path.stat().st_size == size
        return False

    def put_shard(
        self,
        stage: str,
        arrays: Sequence[tuple[str, NDArray[np.uint8]]],
        broken: Iterable[tuple[str, str]] = (),
    ) -> None:
        """Write uint8 arrays, and the keys of which there is none with the reason, as one shard."""
        entries: list[tuple[str, int, list[int], str]] = []
        offset = 0
        for key, array in arrays:
            if array.dtype != np.uint8:
                raise TypeError(f"shards hold uint8, not {array.dtype}")
            entries.append((key, offset, list(array.shape), ""))
            offset += array.nbytes
        entries += [(key, 0, [], reason) for key, reason in broken]
        if not entries:
            return
        base = self.root / stage / "shards"
        content = {"bytes": offset, "entries": entries}
        with explained(base):
            folder = Path(str(base)) if self.local else self._writing
            folder.mkdir(parents=True, exist_ok=True)
            name, made = digest([e[0] for e in entries])[:24], mark()
            data, listing = folder / f".{name}.bin.{made}", folder / f".{name}.json.{made}"
            try:
                with data.open("wb") as file:
                    for _, array in arrays:
                        file.write(np.ascontiguousarray(array).data)
                if self.local:
                    listing.write_text(json.dumps(content, separators=(",", ":")))
                    data.replace(folder / f"{name}.bin")
                    listing.replace(folder / f"{name}.json")
                    return
                # named by content, too: two devices may round a map differently, and never mix
                content["sha256"] = sha256_of(data)
                name = digest([content["sha256"], [e[0] for e in entries]])[:24]
                at = f"{stage}/shards/{name}"
                if offset:
                    self.remote.put(data, f"{at}.bin")
                self.remote.write(f"{at}.json", json.dumps(content, separators=(",", ":")).encode())
                if offset:
                    self.copies.add(data, f"{at}.bin")
            finally:
                data.unlink(missing_ok=True)
                listing.unlink(missing_ok=True)

    def release(self) -> None:
        """Let go of the shards that are mapped: who streams through thousands of arrays keeps memory flat so."""
        self._maps.clear()

    def array(self, stage: str, key: str) -> NDArray[np.uint8]:
        """One array, read-only, memory-mapped. Raises FoveaError when it is missing or was broken."""
        entry = self._index.get(stage, {}).get(key) or self.index(stage).get(key)
        if entry is None:
            raise FoveaError(f"{stage} has no array {key}; run the stage again")
        if entry.reason:
            raise FoveaError(f"{stage} {key}: {entry.reason}")
        name = f"{stage}/{entry.shard}"
        if name not in self._maps:
            self._maps[name] = self._mapped(stage, entry.shard)
        size = int(np.prod(entry.shape))
        whole = self._maps[name]
        if entry.offset + size > whole.size:
            raise FoveaError(
                f"shard {entry.shard} of {stage} is shorter than its manifest says; delete both its files and run again"
            )
        return whole[entry.offset : entry.offset + size].reshape(entry.shape)

    def _mapped(self, stage: str, shard: str) -> NDArray[np.uint8]:
        """A shard's bytes, memory-mapped; what is mapped stays readable when the cache lets its file go."""
        for attempt in range(3):
            if self.local:
                path = Path(str(self.root / stage / "shards" / f"{shard}.bin"))
            else:
                size, sha256 = self._shards[stage, shard]
                if not size:
                    return np.zeros(0, np.uint8)
                at = f"{stage}/shards/{shard}.bin"
                path = self._copy(at, size, sha256)
            try:
                return np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
            except FileNotFoundError:
                if self.local or attempt == 2:
                    raise
        raise AssertionError
