"""`source_frames` and `resized_frames`: from a dataset's files to uint8 arrays of its size."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from assets.chain import Chain, Progress, Row, Unit, Waiting
from assets.datasets import Dataset
from assets.frames.sources import cityscapes_table, find_source, reader, resize_rows, source_stamp
from assets.store import UnitWriter, digest
from assets.versions import code_version
from models.errors import FoveaError

SHARD_FRAMES = 32
FRAMES = "frames.parquet"


def files_of(chain: Chain, dataset: Dataset) -> Dataset:
    """The dataset with the folder that its files lie in. Raises Waiting when they have to be made or downloaded."""
    if dataset.kind == "sample":
        unit = chain.unit("source_frames", dataset.name)
        if not chain.store.has("source_frames", unit.key):
            raise Waiting("source_frames", dataset.name)
        return dataclasses.replace(dataset, path=chain.store.folder("source_frames", unit.key))
    return dataset


def source_table(chain: Chain, name: str) -> pd.DataFrame:
    """The manifest of a dataset: one row a file (assets/frames/manifest.py). Read once a chain."""
    from assets.frames.manifest import scan

    cache: dict[str, pd.DataFrame] = chain.__dict__.setdefault("_source_tables", {})
    if name not in cache:
        dataset = chain.dataset(name)
        if dataset.kind == "sample":
            unit = chain.unit("source_frames", name)
            if not chain.store.has("source_frames", unit.key):
                raise Waiting("source_frames", name)
            cache[name] = pd.read_parquet(chain.store.path("source_frames", unit.key, FRAMES))
        elif dataset.kind == "cityscapes":
            cache[name] = cityscapes_table(chain)
        else:
            cache[name] = scan(dataset, chain.home.state / "cache" / "checksums.sqlite")
    return cache[name]


def usable(table: pd.DataFrame) -> pd.DataFrame:
    """Rows that are not quarantined."""
    return table[table.status == "ok"]


class SourceFrames:
    """A validated manifest: path, split, size, checksum. For `sample` the pictures themselves, drawn by code."""

    name = "source_frames"

    def unit(self, chain: Chain, partition: str) -> Unit:
        dataset = chain.dataset(partition)
        if dataset.kind == "sample":
            drawn = {
                "seed": dataset.seed,
                "counts": dict(dataset.counts),
                "code": code_version("assets.frames.sample"),
            }
            return Unit(self.name, partition, {"sample": drawn})
        table = source_table(chain, partition)
        rows = (
            table[["image", "split", "sha256", "width", "height", "status"]].astype(str).to_numpy().tolist()
        )
        return Unit(self.name, partition, {"files": digest(rows), "count": len(rows)})

    def make(self, chain: Chain, unit: Unit, writer: UnitWriter, progress: Progress) -> None:
        dataset = chain.dataset(unit.partition)
        if dataset.kind == "sample":
            from assets.frames.manifest import scan
            from assets.frames.sample import make_sample

            make_sample(
                writer.folder,
                seed=dataset.seed,
                counts=dict(dataset.counts),
                workers=chain.threads,
                progress=progress,
            )
            table = scan(dataclasses.replace(dataset, path=writer.folder), None)
            table["path"] = [str(Path(p).relative_to(writer.folder)) for p in table.path]
        else:
            if dataset.kind == "cityscapes":
                from assets.frames.archive_stage import require_counts

                require_counts(chain)
            table = source_table(chain, unit.partition)
        table.to_parquet(writer.path(FRAMES), index=False)
        broken = table[table.status != "ok"]
        writer.meta["facts"] = {
            "frames": len(table),
            **{f"frames_{s}": int((table.split == s).sum()) for s in ("train", "val", "test")},
            "quarantined": len(broken),
            "source_bytes": int(table.bytes.sum()),
        }
        writer.meta["quarantined"] = broken[["image", "reason"]].to_dict("records")


def frame_keys(chain: Chain, name: str) -> pd.DataFrame:
    """Usable source frames with the key of each one's resized array, in the manifest's order."""
    table = usable(source_table(chain, name)).reset_index(drop=True)
    if table.empty:
        raise FoveaError(
            f"dataset {name!r} has no usable picture; `fovea datasets show {name}` lists what was wrong with each"
        )
    dataset = chain.dataset(name)
    size = dataset.size if dataset.size == "native" else list(dataset.size)
    code = code_version("assets.frames.resize")
    known: dict[str, str] = {}
    keys = [
        known.setdefault(sha, digest({"source": sha, "size": size, "code": code})) for sha in table.sha256
    ]
    return table.assign(key=keys)


def fault_stamp(chain: Chain, name: str) -> str:
    """What a frame's fault holds for: an archive as it is now, so that a repaired one is tried again; "" for files,
    whose content is their key."""
    source = find_source(chain) if chain.dataset(name).kind == "cityscapes" else None
    return source_stamp(source) if source else ""


def fault_key(key: str, stamp: str) -> str:
    """The key under which the shards keep a frame's fault."""
    return digest({"broken": key, "archive": stamp}) if stamp else key


def broken_frames(chain: Chain, name: str, table: pd.DataFrame) -> dict[str, str]:
    """Key → reason of the frames that turned out broken when they were decoded."""
    index = chain.store.index("resized_frames")
    faults = {key: entry.reason for key, entry in index.items() if entry.reason}
    if not faults:
        return {}
    stamp = fault_stamp(chain, name)
    found = {key: faults.get(fault_key(key, stamp), "") for key in table.key}
    return {key: reason for key, reason in found.items() if reason}


def resized_table(chain: Chain, name: str) -> pd.DataFrame:
    """frame_keys without the frames that turned out broken when they were decoded."""
    table = frame_keys(chain, name)
    broken = broken_frames(chain, name, table)
    return table[~table.key.isin(broken)].reset_index(drop=True)


def resize_chunk(chain: Chain, name: str, rows: Sequence[Row], progress: Progress) -> int:
    """Decode and resize frames of a dataset into shards; returns their bytes. A broken frame leaves its reason there."""
    dataset = chain.dataset(name)
    read = reader(chain, name, files_of(chain, dataset).path)
    stamp = fault_stamp(chain, name)
    waiting: list[tuple[str, NDArray[np.uint8]]] = []
    broken: list[tuple[str, str]] = []
    put_bytes = 0

    def put() -> None:
        chain.store.put_shard("resized_frames", waiting, broken)
        waiting.clear()
        broken.clear()

    try:
        items = ((str(row["key"]), row) for row in rows)
        for done, (key, array) in enumerate(resize_rows(items, read, dataset.size, workers=chain.threads), 1):
            if isinstance(array, FoveaError):
                broken.append((fault_key(key, stamp), str(array)))
            else:
                waiting.append((key, array))
                put_bytes += array.nbytes
            if len(waiting) + len(broken) >= SHARD_FRAMES:
                put()
            progress(done, len(rows), "frames resized")
    finally:
        put()
    return put_bytes


class ResizedFrames:
    """Decoded, oriented, area-resized: raw uint8 arrays in memory-mapped shards. A broken frame is quarantined."""

    name = "resized_frames"

    def unit(self, chain: Chain, partition: str) -> Unit:
        table = frame_keys(chain, partition)
        rows = table[["image", "split", "key"]].to_numpy().tolist()
        broken = broken_frames(chain, partition, table)
        return Unit(
            self.name,
            partition,
            {
                "frames": digest(rows),
                "count": len(rows),
                "size": str(chain.dataset(partition).size),
                "code": code_version("assets.frames.resize"),
                **({"broken": digest(sorted(broken.items()))} if broken else {}),
            },
        )

    def complete(self, chain: Chain, unit: Unit) -> bool:
        """Whether each frame has its array or its reason."""
        index = chain.store.index(self.name)
        return all(key in index for key in resized_table(chain, unit.partition).key)

    def make(self, chain: Chain, unit: Unit, writer: UnitWriter, progress: Progress) -> None:
        name = unit.partition
        table = frame_keys(chain, name)
        index = chain.store.index(self.name)
        known = {key for key, entry in index.items() if not entry.reason}
        todo = table[~table.key.isin(known | set(broken_frames(chain, name, table)))].drop_duplicates("key")
        began = time.monotonic()
        rows: list[Row] = todo.to_dict("records")  # type: ignore[assignment]
        chain.fan_out(chain, self.name, name, rows, resize_chunk, progress)
        seconds = time.monotonic() - began
        index = chain.store.index(self.name)
        reasons = broken_frames(chain, name, table)
        writer.key = self.unit(chain, name).key
        table["reason"] = [reasons.get(k, "") for k in table.key]
        table["status"] = ["quarantined" if r else "ok" for r in table.reason]
        shapes = [(0, 0, 3) if k in reasons else index[k].shape for k in table.key]
        table["frame_height"], table["frame_width"] = [s[0] for s in shapes], [s[1] for s in shapes]
        table.to_parquet(writer.path(FRAMES), index=False)
        bad = table[table.status != "ok"]
        if len(bad) == len(table):
            raise FoveaError(f"dataset {name!r}: no frame could be decoded; the first: {bad.reason.iloc[0]}")
        writer.meta["quarantined"] = bad[["image", "reason"]].to_dict("records")
        writer.meta["facts"] = {
            "frames": int((table.status == "ok").sum()),
            "resized": len(todo),
            "reused": len(table) - int(table.key.isin(todo.key).sum()),
            "quarantined": len(bad),
            "frames_per_s": round(len(todo) / seconds, 1) if len(todo) else 0.0,
            "bytes_in": int(todo.bytes.sum()),
            "bytes_out": int(sum(a * b * 3 for a, b, *_ in shapes)),
        }
        self._show(chain, table[table.status == "ok"], writer)

    def _show(self, chain: Chain, table: pd.DataFrame, writer: UnitWriter) -> None:
        from assets.frames.contact import contact_sheet

        chosen = table.iloc[:: max(1, len(table) // 6)].head(6)
        pictures = [chain.store.array(self.name, k) for k in chosen.key]
        if pictures:
            writer.path("shown/sample_frames.png").write_bytes(contact_sheet(pictures))
