"""`cityscapes_archive`: the package of frames, downloaded whole or the user's own in place, and what is in it."""

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from assets.frames.archive import OFFICIAL_COUNTS, CountReport, check_counts, locate
from assets.frames.checks import ARCHIVE
from assets.frames.sources import (
    ARCHIVE_STAGE,
    CITYSCAPES,
    cityscapes_listing,
    downloads,
    find_source,
    note_answer,
    source_stamp,
)
from assets.graph import Need, Part, Progress, Stage, Task, View
from assets.home import Home
from assets.store import digest
from assets.world import World
from models.errors import FoveaError

LISTED = 200


class CityscapesArchive(Stage):
    """The package of Cityscapes frames: downloaded (resumable, md5 checked), or the user's own, used in place.

    `CITYSCAPES_ROOT` names an archive or an extracted tree; without it the account of `CITYSCAPES_USERNAME` and
    `CITYSCAPES_PASSWORD` downloads it under FOVEA_HOME/downloads. Nothing is extracted.
    """

    name = ARCHIVE_STAGE
    group, kinds, checks = "frames", frozenset({"python", "zip"}), ARCHIVE

    def partitions(self, world: World) -> list[str]:
        return [CITYSCAPES]

    def needs(self, world: World, partition: str) -> Sequence[Need]:
        if partition != CITYSCAPES:
            raise FoveaError(f"{ARCHIVE_STAGE} is made for the dataset {CITYSCAPES!r} only, not for {partition!r}")
        return ()

    def prepare(self, world: World, partition: str, progress: Progress) -> None:
        """Download the archive under FOVEA_HOME/downloads, unless it or the user's own is there."""
        self.needs(world, partition)
        if find_source(world) is None:
            world.__dict__["_download"] = fetch(world.home, progress)

    def inputs(self, view: View) -> Mapping[str, Any]:
        """Place, time and directory, not md5: hashing 11 GB of the user's own archive would say no more."""
        source, listing = cityscapes_listing(view.world)
        size = source.path.stat().st_size if source.kind == "archive" else sum(ref.size_bytes for ref in listing.frames)
        return {
            "kind": source.kind,
            "path": str(source.path),
            "size_bytes": size,
            "written": source_stamp(source),
            "content": self.part(view, "frames").version,
            "subset": view.dataset(view.partition).subset,
        }

    def part(self, view: View, name: str) -> Part:
        """`frames`: what is in it, wherever it lies."""
        if name != "frames":
            return super().part(view, name)
        _, listing = cityscapes_listing(view.world)
        rows = [[ref.member, ref.crc32, ref.size_bytes, ref.compressed_bytes] for ref in listing.frames]
        return Part(None, digest([rows, listing.strangers]))

    def make(self, task: Task) -> None:
        """A record of what is there; the frames stay where they are."""
        from assets.frames.cityscapes import find_finished

        source, listing = cityscapes_listing(task.world)
        report = count_frames(task.world)
        listed = {name: getattr(report, name)[:LISTED] for name in ("missing", "extra", "partial")}
        task.writer.meta["counts"] = {"ok": report.ok, "message": report.message(), **listed}
        done = find_finished(downloads(task.home))
        downloaded = done is not None and done.path == source.path
        received, seconds = task.world.__dict__.pop("_download", (0, 0.0))
        task.writer.path("shown/cities.md").write_text(city_table(report))
        task.writer.meta["facts"] = {
            "kind": source.kind,
            "source": str(source.path),
            "downloaded": downloaded,
            "md5": done.checksum if done is not None and downloaded else "",
            "size_bytes": int(task.unit.inputs["size_bytes"]),
            "frames": len(listing.frames),
            **{f"frames_{split}": count for split, count in report.totals.items()},
            "missing": len(report.missing),
            "extra": len(report.extra),
            "bytes_received": received,
            "megabytes_per_s": round(received / seconds / 1e6, 2) if seconds else 0.0,
        }


def fetch(home: Home, progress: Progress, *, look_for_change: bool = False) -> tuple[int, float]:
    """Download the archive or find it; returns the bytes received and the seconds. Raises FoveaError."""
    from assets.frames import cityscapes
    from models import network

    last = (0.0, 1.0)

    def report(state: network.Progress) -> None:
        nonlocal last
        done = round(state.done_bytes / 1e6, 1)
        total = round(state.total_bytes / 1e6, 1) if state.total_bytes is not None else done + 1.0
        last = (done, total)
        verb = {"download": "downloaded", "verify": "checked"}.get(state.phase, state.phase)
        left = f", {timedelta(seconds=round(state.eta_s))} left" if state.eta_s is not None else ""
        progress(done, total, f"MB {verb}, {state.rate_bytes_s / 1e6:.1f} MB/s{left}")

    def say(line: str) -> None:
        cityscapes.logger.warning(line)
        progress(*last, line)

    began = time.monotonic()
    manner = network.Manner(report=report, say=say)
    done = cityscapes.download(downloads(home), manner, look_for_change=look_for_change)
    if done.received_bytes:
        note_answer(home, done.checksum)
    return done.received_bytes, time.monotonic() - began


def ask_site(home: Home) -> str | None:
    """The site's md5 when it has another archive than the one downloaded, else None; the answer is noted for the check.
    Raises FoveaError: no credentials, no answer."""
    from assets.frames import cityscapes
    from models.network import Manner, Policy

    policy = Policy(attempts=3, backoff_max_s=5.0, read_timeout_s=15.0, connect_timeout_s=10.0)
    changed = cityscapes.find_change(downloads(home), Manner(policy))
    kept = cityscapes.find_finished(downloads(home))
    note_answer(home, changed or (kept.checksum if kept else ""))
    return changed


def own_path(world: World) -> Path | None:
    """The user's own archive or tree, which the site is not asked about; None when there is none."""
    own = locate(world.dataset(CITYSCAPES).path)
    return own.path if own else None


def count_frames(world: World, *, required: bool = False) -> CountReport:
    """Counts and names against the official ones; frames may be absent when the dataset says `subset = true`. required:
    raises FoveaError for others."""
    source, listing = cityscapes_listing(world)
    subset = world.dataset(CITYSCAPES).subset
    report = check_counts(listing.frames, strangers=listing.strangers, allow_subset=subset)
    if required and not report.ok:
        raise FoveaError(f"{source.path}: {report.message()}")
    return report


def city_table(report: CountReport) -> str:
    """Markdown: frames found and official, city by city."""
    lines = ["| split | city | frames | official |", "| --- | --- | ---: | ---: |"]
    for split, cities in OFFICIAL_COUNTS.items():
        for city, official in cities.items():
            found = report.counts[split].get(city, 0)
            lines.append(f"| {split} | {city} | {found}{'' if found == official else ' ⚠'} | {official} |")
    for line in report.extra[:20]:
        lines.append(f"| extra | {line} | | |")
    return "\n".join(lines) + "\n"
