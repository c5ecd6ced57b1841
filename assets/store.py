"""The content store: what an asset makes for one unit of work lies under a key hashed from its inputs.

Two shapes, one rule (objects first, the manifest that names them last, so nothing is ever seen half-written):

    STAGE/KK/KEY/…objects…, manifest.json     a unit: one dataset's index, one trained codec, one evaluation
    STAGE/shards/ID.bin, ID.json              many small arrays in one file; ID.json lists key, offset, shape

Works on any fsspec file system through UPath; on a local disk arrays are memory-mapped.
"""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from assets.home import explained
from models.errors import FoveaError

MANIFEST = "manifest.json"


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


def sweep_dead(parent: Path, key: str) -> None:
    """Remove what makers of this unit left half-written when they were killed."""
    for left in parent.glob(f".{key}.*-*"):
        owner = left.name.rsplit(".", 1)[1].split("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists() and Path("/proc/self").exists():
            shutil.rmtree(left, ignore_errors=True)


class Store:
    """Units and shards under one root. `cache` is a local folder for what comes from a remote root."""

    def __init__(self, root: UPath, cache: Path | None = None):
        self.root = root
        self.local = root.protocol in ("", "file", "local")
        self.cache = cache or Path(tempfile.gettempdir()) / "fovea-cache"
        self._index: dict[str, dict[str, Entry]] = {}
        self._seen: dict[str, set[str]] = {}
        self._maps: dict[str, NDArray[np.uint8]] = {}

    def _unit(self, stage: str, key: str) -> UPath:
        return self.root / stage / key[:2] / key

    def has(self, stage: str, key: str) -> bool:
        """Whether the unit is there; on a disk, where anybody may delete, also whether each of its objects is."""
        folder = self._unit(stage, key)
        if not self.local:
            return bool((folder / MANIFEST).exists())
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
            return dict(json.loads(path.read_text()))
        except FileNotFoundError as error:
            raise FoveaError(f"{stage} {key} is not in the store at {self.root}") from error
        except ValueError as error:
            raise FoveaError(f"{path} is damaged ({error}); delete its folder and run again") from error

    @contextlib.contextmanager
    def writing(self, stage: str, key: str, meta: Mapping[str, Any] | None = None) -> Iterator[UnitWriter]:
        """Fill a unit. It appears whole when the block ends; an exception leaves no trace of it."""
        final = self._unit(stage, key)
        parent = Path(str(final.parent)) if self.local else self.cache / "writing"
        with explained(final):
            parent.mkdir(parents=True, exist_ok=True)
            sweep_dead(parent, key)
            folder = parent / f".{key}.{os.getpid()}-{secrets.token_hex(4)}"
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
                text = json.dumps(manifest, indent=1, sort_keys=True)
                if self.local:
                    (folder / MANIFEST).write_text(text)
                    with contextlib.suppress(OSError):
                        # somebody may have finished the same unit: then theirs stays, it is equal
                        folder.rename(Path(str(final)))
                    if not self.has(stage, key):
                        shutil.rmtree(Path(str(final)), ignore_errors=True)
                        folder.rename(Path(str(final)))
                else:
                    for path in files:
                        target = final / path.relative_to(folder).as_posix()
                        target.write_bytes(path.read_bytes())
                    (final / MANIFEST).write_text(text)
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def path(self, stage: str, key: str, name: str) -> Path:
        """A local path of one of the unit's objects; fetched into the cache from a remote store."""
        source = self._unit(stage, key) / name
        if self.local:
            return Path(str(source))
        return self._fetch(source, f"{stage}/{key}/{name}")

    def folder(self, stage: str, key: str) -> Path:
        """A local folder with all of the unit's objects."""
        names = self.manifest(stage, key)["objects"]
        paths = [self.path(stage, key, n) for n in names]
        return (
            Path(str(self._unit(stage, key)))
            if self.local
            else self.cache / stage / key
            if paths
            else self.cache
        )

    def _fetch(self, source: UPath, name: str) -> Path:
        target = self.cache / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            beside = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}")
            with explained(target):
                try:
                    with source.open("rb") as remote, beside.open("wb") as local:
                        shutil.copyfileobj(remote, local, 1 << 22)
                    beside.replace(target)
                finally:
                    beside.unlink(missing_ok=True)
        return target

    # ---- single objects: a picture that people look at

    def object_path(self, stage: str, key: str, suffix: str) -> UPath:
        """Where the single object of this key lies; it is complete whenever it is there."""
        return self.root / stage / key[:2] / f"{key}{suffix}"

    def put_object(self, stage: str, key: str, suffix: str, data: bytes) -> None:
        """Write one object whole: beside and renamed on a local disk, one request on an object store."""
        target = self.object_path(stage, key, suffix)
        with explained(target):
            if not self.local:
                target.write_bytes(data)
                return
            path = Path(str(target))
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
            try:
                beside.write_bytes(data)
                beside.replace(path)
            finally:
                beside.unlink(missing_ok=True)

    def object_keys(self, stage: str) -> set[str]:
        """Keys of all single objects of a stage."""
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
        base = self.root / stage / "shards"
        if base.exists():
            for path in sorted(base.iterdir(), key=lambda p: p.name):
                if path.suffix != ".json" or path.name in seen or path.name[0] == ".":
                    continue
                listing = json.loads(path.read_text())
                if self.local and not self._whole(Path(str(base / f"{path.stem}.bin")), listing["bytes"]):
                    continue
                for key, offset, shape, reason in listing["entries"]:
                    known[key] = Entry(path.stem, offset, tuple(shape), reason)
                seen.add(path.name)
        return known

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
        name = digest([e[0] for e in entries])[:24]
        base = self.root / stage / "shards"
        manifest = json.dumps({"bytes": offset, "entries": entries}, separators=(",", ":"))
        with explained(base):
            if self.local:
                folder = Path(str(base))
                folder.mkdir(parents=True, exist_ok=True)
                mark = f"{os.getpid()}-{secrets.token_hex(4)}"
                data, listing = folder / f".{name}.bin.{mark}", folder / f".{name}.json.{mark}"
                try:
                    with data.open("wb") as file:
                        for _, array in arrays:
                            file.write(np.ascontiguousarray(array).data)
                    listing.write_text(manifest)
                    data.replace(folder / f"{name}.bin")
                    listing.replace(folder / f"{name}.json")
                finally:
                    data.unlink(missing_ok=True)
                    listing.unlink(missing_ok=True)
            else:
                with (base / f"{name}.bin").open("wb") as file:
                    for _, array in arrays:
                        file.write(np.ascontiguousarray(array).tobytes())
                (base / f"{name}.json").write_text(manifest)

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
            source = self.root / stage / "shards" / f"{entry.shard}.bin"
            path = Path(str(source)) if self.local else self._fetch(source, f"{name}.bin")
            self._maps[name] = (
                np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
            )
        size = int(np.prod(entry.shape))
        whole = self._maps[name]
        if entry.offset + size > whole.size:
            raise FoveaError(
                f"shard {entry.shard} of {stage} is shorter than its manifest says; delete both its files and run again"
            )
        return whole[entry.offset : entry.offset + size].reshape(entry.shape)
