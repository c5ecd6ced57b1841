"""The content store: what an asset makes for one unit of work lies under a key hashed from its inputs.

Two shapes, one rule (objects first, the manifest that names them last, so nothing is ever seen half-written):

    STAGE/KK/KEY/…objects…, manifest.json     a unit: one dataset's index, one trained codec, one evaluation
    STAGE/shards/ID.bin, ID.json              many small arrays in one file; ID.json lists key, offset, shape

`Store` is a folder of this disk, whose arrays are memory-mapped; `assets.mirror` makes one of an object store.
"""

import contextlib
import functools
import hashlib
import json
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from assets.home import Folder, explained
from assets.remote import Remote
from models.errors import FoveaError
from models.weights import sha256_of

MANIFEST = "manifest.json"
Array = NDArray[np.uint8]


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


def alive(mark: str) -> bool:
    """Whether the process that a mark of this machine begins with still runs."""
    process = mark.partition("-")[0]
    return process.isdigit() and (Path(f"/proc/{process}").exists() or not Path("/proc/self").exists())


@functools.cache
def node() -> str:
    """Four hexadecimal digits for this machine: on a shared folder, other machines' processes are not ours to judge."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:4]


def sweep_dead(parent: Path, key: str) -> None:
    """Remove what makers of this unit on this machine left half-written when they were killed."""
    for left in parent.glob(f".{key}.*-*"):
        made = left.name.rsplit(".", 1)[1]
        if made.partition("-")[2].startswith(node()) and made[0].isdigit() and not alive(made):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Name what a folder holds, last."""
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True))


def _place(stage: str, key: str) -> str:
    """Where a unit lies below the root, and its copies below the cache."""
    return f"{stage}/{key[:2]}/{key}"


class Store:
    """Units and shards below a folder of this disk."""

    def __init__(self, root: UPath):
        self.root, self.disk = root, Path(str(root))
        self.files: Folder | Remote = Folder(self.disk)
        self._shelves: dict[str, Shelf] = {}

    # ---- how a folder does it; a mirror does it otherwise

    def _making(self, place: str) -> Path:
        """The folder in which what will lie at a place is made."""
        return (self.disk / place).parent

    def _manifest(self, place: str) -> dict[str, Any]:
        """The manifest of a unit. Raises FileNotFoundError, and for what is no JSON ValueError."""
        return dict(json.loads(self.files.read(f"{place}/{MANIFEST}")))

    def _whole(self, place: str) -> bool:
        """Whether the unit is there with each of its objects: on a disk anybody may delete."""
        try:
            objects = self._manifest(place)["objects"]
            return all((self.disk / place / n).stat().st_size == size for n, size in objects.items())
        except (OSError, ValueError, KeyError):
            return False

    def _publish(self, filled: Path, place: str, manifest: dict[str, Any]) -> None:
        """Let a filled folder be the unit. One that somebody else finished meanwhile stays: it is equal."""
        write_manifest(filled, manifest)
        final = self.disk / place
        final.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):
            filled.rename(final)
        if not self._whole(place):
            shutil.rmtree(final, ignore_errors=True)
            filled.rename(final)

    def _take(self, path: Path, name: str) -> None:
        """Let a file of this disk be an object."""
        path.replace(self.disk / name)

    def _here(self, name: str, size: int, sha256: str, manifest: str) -> Path:
        """An object on this disk. size, sha256, manifest: what its manifest says, and where that lies."""
        return self.disk / name

    def _lists(self, names: Iterable[str]) -> dict[str, bytes]:
        """The lists of shards, by name."""
        return self.files.read_many(names)

    # ---- units

    def has(self, stage: str, key: str) -> bool:
        """Whether the unit is there. One that an earlier command made and could not send to a remote root is sent first."""
        return self._whole(_place(stage, key))

    def manifest(self, stage: str, key: str) -> dict[str, Any]:
        """The unit's manifest: meta, objects with their sizes, when it was made. Raises FoveaError when missing."""
        try:
            return self._manifest(_place(stage, key))
        except FileNotFoundError as error:
            raise FoveaError(f"{stage} {key} is not in the store at {self.root}") from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            path = self.root / _place(stage, key) / MANIFEST
            raise FoveaError(f"{path} is damaged ({error}); delete its folder and run again") from error

    @contextlib.contextmanager
    def writing(self, stage: str, key: str) -> Iterator[UnitWriter]:
        """Fill a unit. It appears whole when the block ends; an exception in it leaves no trace of it. Raises FoveaError
        when a remote root is away for too long; what was made then waits on this disk."""
        parent = self._making(_place(stage, key))
        with explained(parent / key):
            parent.mkdir(parents=True, exist_ok=True)
            sweep_dead(parent, key)
            folder = parent / f".{key}.{mark()}"
            folder.mkdir()
            try:
                writer = UnitWriter(folder, {}, key)
                yield writer
                files = sorted(p for p in folder.rglob("*") if p.is_file())
                manifest = {
                    "stage": stage,
                    "key": writer.key,
                    "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                    "objects": {p.relative_to(folder).as_posix(): p.stat().st_size for p in files},
                    "meta": writer.meta,
                }
                self._publish(folder, _place(stage, writer.key), manifest)
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def path(self, stage: str, key: str, name: str) -> Path:
        """A local path of one of the unit's objects; fetched into the cache from a remote root."""
        return self._fetched(stage, key, name) / name

    def folder(self, stage: str, key: str) -> Path:
        """A local folder with all of the unit's objects."""
        return self._fetched(stage, key)

    def _fetched(self, stage: str, key: str, *names: str) -> Path:
        manifest, place = self.manifest(stage, key), _place(stage, key)
        at = f"{place}/{manifest['at']}" if "at" in manifest else place
        for name in names or manifest["objects"]:
            if name not in manifest["objects"]:
                raise FoveaError(f"{stage} {key} has no object {name}")
            sha256 = manifest.get("sha256", {}).get(name, "")
            self._here(f"{at}/{name}", manifest["objects"][name], sha256, f"{place}/{MANIFEST}")
        return self.disk / at

    # ---- arrays and single objects

    def shelf(self, name: str) -> "Shelf":
        """A stage's own place beside its units."""
        return self._shelves.setdefault(name, Shelf(self, name))

    def release(self) -> None:
        """Let go of the shards that are mapped: who streams through thousands of arrays keeps memory flat so."""
        for shelf in self._shelves.values():
            shelf.maps.clear()


class Shelf:
    """A stage's own place in a store, beside its units: many arrays in one file, a shard, and single objects."""

    def __init__(self, store: Store, name: str):
        self.store, self.name = store, name
        self.maps: dict[str, Array] = {}
        self._index: dict[str, Entry] = {}
        self._seen: set[str] = set()
        self._shards: dict[str, tuple[int, str]] = {}

    def object_path(self, key: str, suffix: str) -> str:
        """Where the single object of this key lies; it is complete whenever it is there."""
        return str(self.store.root / f"{_place(self.name, key)}{suffix}")

    def put_object(self, key: str, suffix: str, data: bytes) -> None:
        """Write one object whole: beside and renamed on a local disk, one request on an object store."""
        self.store.files.write(f"{_place(self.name, key)}{suffix}", data)

    def get_object(self, key: str, suffix: str) -> bytes:
        """The bytes of a single object. Raises FileNotFoundError."""
        return self.store.files.read(f"{_place(self.name, key)}{suffix}")

    def object_keys(self) -> set[str]:
        """Keys of all single objects."""
        names = (n.split("/") for n in self.store.files.listing(self.name))
        return {n[2].split(".")[0] for n in names if len(n) == 3}

    def index(self) -> dict[str, Entry]:
        """Every array by its key. Reads only lists that it has not seen."""
        sizes = self.store.files.listing(f"{self.name}/shards")
        lists = self.store._lists(sorted(n for n in sizes if n.endswith(".json") and n not in self._seen))
        for name, text in lists.items():
            shard, content = name.removesuffix(".json"), json.loads(text)
            if sizes.get(f"{shard}.bin", 0) != content["bytes"]:
                continue  # cut short, or deleted by somebody: its arrays are made again
            self._seen.add(name)
            self._shards[shard] = int(content["bytes"]), content.get("sha256", "")
            for key, offset, shape, reason in content["entries"]:
                # the first that this process saw stays: an array never changes while it is used
                self._index.setdefault(key, Entry(shard, offset, tuple(shape), reason))
        return self._index

    def put_shard(self, arrays: Sequence[tuple[str, Array]], broken: Iterable[tuple[str, str]] = ()) -> None:
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
        place, content = f"{self.name}/shards", {"bytes": offset, "entries": entries}
        with explained(self.store.root / place):
            folder = self.store._making(f"{place}/ID")
            folder.mkdir(parents=True, exist_ok=True)
            sweep_dead(folder, "shard")
            data = folder / f".shard.{mark()}"
            try:
                with data.open("wb") as file:
                    for _, array in arrays:
                        file.write(np.ascontiguousarray(array).data)
                content["sha256"] = sha256_of(data)
                # named by content, too: two devices may round a map differently, and never mix
                name = f"{place}/{digest([content['sha256'], [e[0] for e in entries]])[:24]}"
                if offset:
                    self.store._take(data, f"{name}.bin")
                self.store.files.write(f"{name}.json", json.dumps(content, separators=(",", ":")).encode())
            finally:
                data.unlink(missing_ok=True)

    def array(self, key: str) -> Array:
        """One array, read-only, memory-mapped. Raises FoveaError when it is missing or was broken."""
        entry = self._index.get(key) or self.index().get(key)
        if entry is None:
            raise FoveaError(f"{self.name} has no array {key}; run the stage again")
        if entry.reason:
            raise FoveaError(f"{self.name} {key}: {entry.reason}")
        if entry.shard not in self.maps:
            self.maps[entry.shard] = self._mapped(entry.shard)
        size = int(np.prod(entry.shape))
        whole = self.maps[entry.shard]
        if entry.offset + size > whole.size:
            raise FoveaError(f"shard {entry.shard} is shorter than its list says; delete both its files and run again")
        return whole[entry.offset : entry.offset + size].reshape(entry.shape)

    def _mapped(self, shard: str) -> Array:
        """A shard's bytes, memory-mapped; what is mapped stays readable when the cache lets its file go."""
        size, sha256 = self._shards[shard]
        for _ in range(3 if size else 0):
            with contextlib.suppress(FileNotFoundError):
                return np.memmap(self.store._here(f"{shard}.bin", size, sha256, f"{shard}.json"), np.uint8, "r")
        if size:
            raise FoveaError(f"shard {shard} of {self.store.root} is gone; run the stage again")
        return np.zeros(0, np.uint8)
