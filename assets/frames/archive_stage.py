"""`cityscapes_archive`: the package of frames, downloaded whole or the user's own in place, and what is in it."""

import json
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from assets.chain import Chain, Progress, Unit
from assets.frames.archive import OFFICIAL_COUNTS, CountReport, check_counts, locate
from assets.frames.sources import (
    ARCHIVE_STAGE,
    CITYSCAPES,
    cityscapes_listing,
    downloads,
    find_source,
    source_stamp,
)
from assets.home import Home, written_beside
from assets.store import UnitWriter, digest
from models.errors import FoveaError

ASKED = "asked.json"
LISTED = 200


class CityscapesArchive:
    """Where the frames lie (`path` of an archive or a tree), md5, size, and the official counts city by city."""

    name = ARCHIVE_STAGE

    def prepare(self, chain: Chain, partition: str, progress: Progress) -> None:
        """Download the archive under FOVEA_HOME/downloads, unless it or the user's own is there."""
        _only_cityscapes(partition)
        if find_source(chain) is None:
            chain.__dict__["_download"] = fetch(chain.home, progress)

    def unit(self, chain: Chain, partition: str) -> Unit:
        """Keyed by place, time and directory, not by md5: hashing 11 GB of the user's own archive would say no more."""
        _only_cityscapes(partition)
        source, listing = cityscapes_listing(chain)
        rows: list[list[Any]] = [
            [ref.member, ref.crc32, ref.size_bytes, ref.compressed_bytes] for ref in listing.frames
        ]
        size = (
            source.path.stat().st_size
            if source.kind == "archive"
            else sum(ref.size_bytes for ref in listing.frames)
        )
        return Unit(
            self.name,
            partition,
            {
                "kind": source.kind,
                "path": str(source.path),
                "size_bytes": size,
                "written": source_stamp(source),
                "content": digest([rows, listing.strangers]),
                "subset": chain.dataset(partition).subset,
            },
        )

    def make(self, chain: Chain, unit: Unit, writer: UnitWriter, progress: Progress) -> None:
        """A record of what is there; the frames stay where they are."""
        from assets.frames.cityscapes import find_finished

        source, listing = cityscapes_listing(chain)
        report = count_frames(chain)
        writer.meta["counts"] = {
            "ok": report.ok,
            "message": report.message(),
            "missing": report.missing[:LISTED],
            "extra": report.extra[:LISTED],
        }
        done = find_finished(downloads(chain.home))
        downloaded = done is not None and done.path == source.path
        received, seconds = chain.__dict__.pop("_download", (0, 0.0))
        writer.path("shown/cities.md").write_text(city_table(report))
        writer.meta["facts"] = {
            "kind": source.kind,
            "source": str(source.path),
            "downloaded": downloaded,
            "md5": done.checksum if done is not None and downloaded else "",
            "size_bytes": int(unit.inputs["size_bytes"]),
            "frames": len(listing.frames),
            **{f"frames_{split}": count for split, count in report.totals.items()},
            "missing": len(report.missing),
            "extra": len(report.extra),
            "bytes_received": received,
            "megabytes_per_s": round(received / seconds / 1e6, 2) if seconds else 0.0,
        }


def _only_cityscapes(partition: str) -> None:
    if partition != CITYSCAPES:
        raise FoveaError(
            f"{ARCHIVE_STAGE} is made for the dataset {CITYSCAPES!r} only, not for {partition!r}"
        )


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
        _note_answer(home, done.checksum)
    return done.received_bytes, time.monotonic() - began


def ask_site(home: Home, *, attempts: int = 3) -> str | None:
    """The site's md5 when it has another archive than the one downloaded, else None; the answer is noted for the check.

    Raises FoveaError: no credentials, no answer.
    """
    from assets.frames import cityscapes
    from models.network import Manner, Policy

    policy = Policy(attempts=attempts, backoff_max_s=5.0, read_timeout_s=15.0, connect_timeout_s=10.0)
    changed = cityscapes.find_change(downloads(home), Manner(policy))
    kept = cityscapes.find_finished(downloads(home))
    _note_answer(home, changed or (kept.checksum if kept else ""))
    return changed


def _note_answer(home: Home, md5: str) -> None:
    with written_beside(downloads(home) / ASKED) as beside:
        beside.write_text(json.dumps({"asked_s": time.time(), "md5": md5}))


def last_answer(home: Home) -> tuple[float, str] | None:
    """When the site was asked last (Unix time) and the md5 that it stated; None when never."""
    try:
        found = json.loads((downloads(home) / ASKED).read_text())
        return float(found["asked_s"]), str(found["md5"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def own_path(chain: Chain) -> Path | None:
    """The user's own archive or tree, which the site is not asked about; None when there is none."""
    own = locate(path=chain.dataset(CITYSCAPES).path)
    return own.path if own else None


def count_frames(chain: Chain) -> CountReport:
    """Counts and names against the official ones; whole cities may be absent when the dataset says `subset = true`."""
    _, listing = cityscapes_listing(chain)
    return check_counts(
        listing.frames, strangers=listing.strangers, allow_subset=chain.dataset(CITYSCAPES).subset
    )


def require_counts(chain: Chain) -> None:
    """Raise FoveaError unless the frames are the official ones, or whole cities of them in a declared subset."""
    report = count_frames(chain)
    if not report.ok:
        source, _ = cityscapes_listing(chain)
        raise FoveaError(
            f"{source.path}: {report.message()} (fovea.toml: [datasets.cityscapes] subset = true allows whole cities to "
            "be absent)"
        )


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
