"""`source_frames` and `resized_frames`: from a dataset's files to uint8 arrays of its size."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets.frames.checks import RESIZED, SOURCE
from assets.frames.folder import with_ending
from assets.frames.sources import ARCHIVE_STAGE, CITYSCAPES, cityscapes_table, fault_stamp, reader, resize_rows
from assets.graph import Bench, Need, Part, Progress, Row, Stage, Task, View
from assets.store import digest
from assets.versions import code_version
from assets.world import World
from models.errors import FoveaError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

SHARD_FRAMES = 32
FRAMES = "frames.parquet"
_LOOKING = ("assets.frames.archive_stage", "assets.frames.checks", "assets.frames.contact")
KNOWN = ["image", "split", "sha256", "width", "height", "status"]


class SourceFrames(Stage):
    """The dataset's files as a validated manifest: image, split, size, SHA-256; what cannot be used is quarantined.

    `sample` draws its street scenes here; a folder is scanned (checksums are cached by size and time of change);
    Cityscapes is read from its archive's directory, and must be complete or declared a subset.
    """

    name, over = "source_frames", "registry"
    reads = (ARCHIVE_STAGE,)
    group, kinds, checks = "frames", frozenset({"python", "file"}), SOURCE

    def needs(self, world: World, partition: str) -> Sequence[Need]:
        return [Need(ARCHIVE_STAGE, partition, "frames")] if world.dataset(partition).kind == CITYSCAPES else []

    def inputs(self, view: View) -> Mapping[str, Any]:
        dataset = view.dataset(view.partition)
        if dataset.kind == "sample":
            return {"sample": {"seed": dataset.seed, "counts": dict(dataset.counts)}}
        rows = self._table(view)[KNOWN].astype(str).to_numpy().tolist()
        return {"files": digest(rows), "count": len(rows)}

    def apart(self, world: World, partition: str) -> Sequence[str]:
        drawn = world.dataset(partition).kind == "sample"
        return (*_LOOKING, "assets.frames.sources", *(() if drawn else ("assets.frames.sample",)))

    def part(self, view: View, name: str) -> Part:
        """`files`: one row a file (assets/frames/manifest.py)."""
        if name != "files":
            return super().part(view, name)
        table = self._table(view)
        return Part(table, digest(table[KNOWN].astype(str).to_numpy().tolist()))

    def _table(self, view: View) -> "pd.DataFrame":
        import pandas as pd

        from assets.frames.manifest import scan

        dataset = view.dataset(view.partition)
        if dataset.kind == "sample":
            return view.mine().table(FRAMES)
        tables: dict[str, pd.DataFrame] = view.world.__dict__.setdefault("_source_tables", {})
        if view.partition not in tables:
            cache = view.home.state / "cache"
            tables[view.partition] = (
                cityscapes_table(view.world) if dataset.kind == CITYSCAPES else scan(dataset, cache)
            )
        return tables[view.partition]

    def make(self, task: Task) -> None:
        dataset, writer = task.dataset(task.partition), task.writer
        official: dict[str, str] = {}
        if dataset.kind == "sample":
            from assets.frames.manifest import scan
            from assets.frames.sample import make_sample

            make_sample(
                writer.folder,
                seed=dataset.seed,
                counts=dict(dataset.counts),
                workers=task.threads,
                progress=task.progress,
            )
            table = scan(dataclasses.replace(dataset, path=writer.folder), None)
            table["path"] = [str(Path(p).relative_to(writer.folder)) for p in table.path]
        else:
            if dataset.kind == CITYSCAPES:
                from assets.frames.archive_stage import count_frames

                official["official_counts"] = count_frames(task.world, required=True).message()
            table = self._table(task)
        table.to_parquet(writer.path(FRAMES), index=False)
        broken = table[table.status != "ok"]
        writer.meta["facts"] = {
            "frames": len(table),
            **{f"frames_{s}": int((table.split == s).sum()) for s in ("train", "val", "test")},
            "quarantined": len(broken),
            "source_bytes": int(table.bytes.sum()),
            **official,
        }
        writer.meta["quarantined"] = _listed(broken)
        read = reader(task.world, task.partition, writer.folder if dataset.kind == "sample" else dataset.path)
        chosen = [dict(row) for _, row in some(table[table.status == "ok"]).iterrows()]
        decoded = resize_rows(chosen, read, dataset.size, workers=task.threads)
        show(task, [picture for picture in decoded if not isinstance(picture, FoveaError)])


def some(table: "pd.DataFrame") -> "pd.DataFrame":
    """Up to six rows from all over a table, for people."""
    return table.iloc[:: max(1, len(table) // 6)].head(6)


def _listed(broken: "pd.DataFrame") -> list[dict[str, str]]:
    """What the manifest keeps of pictures that cannot be used: the file's name below its folder, and why."""
    files = map(with_ending, broken.image, broken.path)
    return [{"image": name, "reason": reason} for name, reason in zip(files, broken.reason, strict=True)]


def show(task: Task, pictures: "Sequence[NDArray[np.uint8]]") -> None:
    """Leave pictures as the unit's `sample_frames`; none leave nothing."""
    from assets.frames.contact import contact_sheet

    if pictures:
        task.writer.path("shown/sample_frames.png").write_bytes(contact_sheet(pictures))


def _fault_key(key: str, stamp: str) -> str:
    """The key under which the shards keep a frame's fault."""
    return digest({"broken": key, "archive": stamp}) if stamp else key


def resize_chunk(bench: Bench, rows: Sequence[Row], progress: Progress) -> int:
    """Decode and resize frames of a dataset into shards; returns their bytes. A broken frame leaves its reason there."""
    dataset = bench.dataset(bench.partition)
    root = bench.given["source_frames"].folder if dataset.kind == "sample" else dataset.path
    read = reader(bench.world, bench.partition, root)
    stamp = fault_stamp(bench.world, bench.partition)
    waiting: list[tuple[str, NDArray[np.uint8]]] = []
    broken: list[tuple[str, str]] = []
    put_bytes = 0

    def put() -> None:
        bench.shelf().put_shard(waiting, broken)
        waiting.clear()
        broken.clear()

    try:
        arrays = resize_rows(rows, read, dataset.size, workers=bench.threads)
        for done, (row, array) in enumerate(zip(rows, arrays, strict=True), 1):
            if isinstance(array, FoveaError):
                broken.append((_fault_key(row["key"], stamp), str(array)))
            else:
                waiting.append((row["key"], array))
                put_bytes += array.nbytes
            if len(waiting) + len(broken) >= SHARD_FRAMES:
                put()
            progress(done, len(rows), "frames resized")
    finally:
        put()
    return put_bytes


class ResizedFrames(Stage):
    """Decoded, upright, area-resized frames as raw uint8 arrays in memory-mapped shards, one array a picture. Addressed by
    content: only pictures that changed are processed; nothing is ever upscaled."""

    name, over = "resized_frames", "registry"
    reads = ("source_frames",)
    group, kinds, checks = "frames", frozenset({"opencv", "numpy"}), RESIZED
    fanned_out, points_into = True, ("resized_frames",)
    onlookers = (*_LOOKING, "assets.frames.sample")

    def needs(self, world: World, partition: str) -> Sequence[Need]:
        drawn = world.dataset(partition).kind == "sample"  # its pictures lie in the artifact itself
        files = Need("source_frames", partition, "files")
        return [Need("source_frames", partition), files] if drawn else [files]

    def inputs(self, view: View) -> Mapping[str, Any]:
        table = view.own("keys")
        broken = self._broken(view, table)
        return {
            "count": len(table),
            "size": str(view.dataset(view.partition).size),
            **({"broken": digest(sorted(broken.items()))} if broken else {}),
        }

    def part(self, view: View, name: str) -> Part:
        """`keys`: usable source frames with the key of each one's array, in the manifest's order. `frames`: those that can
        be decoded, as far as that was tried."""
        if name == "keys":
            return Part(self._keys(view), "")
        if name == "frames":
            table = view.own("keys")
            table = table[~table.key.isin(self._broken(view, table))].reset_index(drop=True)
            return Part(table, digest(table[["image", "split", "key"]].to_numpy().tolist()))
        return super().part(view, name)

    def _keys(self, view: View) -> "pd.DataFrame":
        files = view.given["source_frames"].part("files")
        table: pd.DataFrame = files[files.status == "ok"].reset_index(drop=True)
        if table.empty:
            why = "".join(f": {row.image}, {row.reason}" for row in files.head(1).itertuples())
            more = f", and {len(files) - 1} more" if len(files) > 1 else ""
            raise FoveaError(f"dataset {view.partition!r} has no usable picture{why}{more}")
        dataset = view.dataset(view.partition)
        size = dataset.size if dataset.size == "native" else list(dataset.size)
        code = code_version("assets.frames.resize")
        known = {sha: digest({"source": sha, "size": size, "code": code}) for sha in dict.fromkeys(table.sha256)}
        return table.assign(key=[known[sha] for sha in table.sha256])

    def _broken(self, view: View, table: "pd.DataFrame") -> dict[str, str]:
        """Key → reason of the frames that turned out broken when they were decoded."""
        faults = {key: entry.reason for key, entry in view.shelf().index().items() if entry.reason}
        if not faults:
            return {}
        stamp = fault_stamp(view.world, view.partition)
        found = {key: faults.get(_fault_key(key, stamp), "") for key in table.key}
        return {key: reason for key, reason in found.items() if reason}

    def complete(self, view: View) -> bool:
        """Whether each frame has its array or its reason."""
        index = view.shelf().index()
        return all(key in index for key in view.own("frames").key)

    def make(self, task: Task) -> None:
        table = task.own("keys")
        index = task.shelf().index()
        known = {key for key, entry in index.items() if not entry.reason}
        todo = table[~table.key.isin(known | set(self._broken(task, table)))].drop_duplicates("key")
        began = time.monotonic()
        task.fan_out(task, todo.to_dict("records"), resize_chunk, task.progress)
        seconds = time.monotonic() - began
        index = task.shelf().index()
        reasons = self._broken(task, table)
        task.writer.key = task.rekeyed()
        why = [reasons.get(k, "") for k in table.key]
        table = table.assign(reason=why, status=["quarantined" if reason else "ok" for reason in why])
        shapes = [(0, 0, 3) if k in reasons else index[k].shape for k in table.key]
        table = table.assign(frame_height=[s[0] for s in shapes], frame_width=[s[1] for s in shapes])
        table.to_parquet(task.writer.path(FRAMES), index=False)
        bad = table[table.status != "ok"]
        if len(bad) == len(table):
            raise FoveaError(f"dataset {task.partition!r}: no frame could be decoded; the first: {bad.reason.iloc[0]}")
        task.writer.meta["quarantined"] = _listed(bad)
        task.writer.meta["facts"] = {
            "frames": int((table.status == "ok").sum()),
            "resized": len(todo),
            "reused": len(table) - int(table.key.isin(todo.key).sum()),
            "quarantined": len(bad),
            "frames_per_s": round(len(todo) / seconds, 1) if len(todo) else 0.0,
            "bytes_in": int(todo.bytes.sum()),
            "bytes_out": int(sum(a * b * 3 for a, b, *_ in shapes)),
        }
        show(task, [task.shelf().array(key) for key in some(table[table.status == "ok"]).key])
