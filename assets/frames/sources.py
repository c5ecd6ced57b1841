"""Where a dataset's pictures are read from: a folder, the drawn sample, Cityscapes' tree, or its archive as it is.

An archive is never extracted: its directory gives names, splits and checksums (so the manifest costs no reading of
pixels), and the resizing threads take each frame's bytes straight out of it.
"""

import contextlib
import dataclasses
import errno
import json
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from assets.datasets import Size
from assets.frames.archive import BrokenFrame, FrameRef, Listing, Source, locate, peek_frame, read_frame, scan
from assets.graph import Waiting
from assets.home import Home, write_whole, written_beside
from assets.store import digest
from assets.world import World
from models.errors import SHORTAGES, FoveaError

if TYPE_CHECKING:
    import pandas as pd

CITYSCAPES = "cityscapes"
ARCHIVE_STAGE = "cityscapes_archive"
ASKED = "asked.json"
#: Raise this when what `_look` accepts changes.
_TABLE_VERSION = 1

#: errors that say nothing about a picture: its folder is gone, too
NOT_THE_FILES = {errno.ENOENT, errno.ENOTDIR, *SHORTAGES}

#: gives the bytes of one row of a manifest
Reader = Callable[[Mapping[str, Any]], bytes]
Frame = NDArray[np.uint8]


def downloads(home: Home) -> Path:
    """Where downloaded archives lie: beside the store, since 11 GB are kept once and never copied."""
    return home.state / "downloads"


def note_answer(home: Home, md5: str) -> None:
    """Keep which md5 the site stated, and when."""
    write_whole(downloads(home) / ASKED, json.dumps({"asked_s": time.time(), "md5": md5}))


def last_answer(home: Home) -> tuple[float, str] | None:
    """When the site was asked last (Unix time) and the md5 that it stated; None when never."""
    try:
        found = json.loads((downloads(home) / ASKED).read_text())
        return float(found["asked_s"]), str(found["md5"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def find_source(world: World) -> Source | None:
    """The user's own archive or tree, in place; else the finished download; None when there is neither."""
    from assets.frames.cityscapes import find_finished

    own = locate(world.dataset(CITYSCAPES).path)
    if own is not None:
        return own
    found = find_finished(downloads(world.home))
    return Source("archive", found.path) if found else None


def source_stamp(source: Source) -> str:
    """Size and time of an archive: it is another file when they differ. "" for a tree."""
    if source.kind == "tree":
        return ""
    try:
        about = source.path.stat()
    except OSError as error:
        raise FoveaError(f"{source.path}: {error.strerror}; it must stay in place while it is read") from None
    return f"{about.st_size}-{about.st_mtime_ns}"


def fault_stamp(world: World, name: str) -> str:
    """What a frame's fault holds for: an archive as it is now, so that a repaired one is tried again; "" for files,
    whose content is their key."""
    source = find_source(world) if world.dataset(name).kind == CITYSCAPES else None
    return source_stamp(source) if source else ""


def cityscapes_listing(world: World) -> tuple[Source, Listing]:
    """Source and what is in it, without decoding. Raises Waiting when nothing is here yet."""
    source = find_source(world)
    if source is None:
        raise Waiting(ARCHIVE_STAGE, CITYSCAPES)
    cache: dict[tuple[Source, str], Listing] = world.__dict__.setdefault("_listings", {})
    key = (source, source_stamp(source))
    if source.kind == "tree" or key not in cache:
        cache[key] = scan(source)
    return source, cache[key]


def cityscapes_table(world: World) -> "pd.DataFrame":
    """The manifest of Cityscapes (assets/frames/manifest.py): splits and cities from the layout. Content is known by
    SHA-256 in a tree (read once, then by size and time of change), and by `peek_frame` in an archive."""
    import pandas as pd

    from assets.frames.manifest import scan as scan_folder

    source, listing = cityscapes_listing(world)
    if not listing.frames:
        raise FoveaError(f"{source.path} holds no frame leftImg8bit/SPLIT/CITY/*.png")
    cache = world.home.state / "cache"
    if source.kind == "tree":
        table = scan_folder(dataclasses.replace(world.dataset(CITYSCAPES), path=source.path), cache)
        names = {ref.image for ref in listing.frames}
        return table[table.image.isin(names)].reset_index(drop=True)
    name = f"archive-{digest(str(source.path))[:12]}-"
    kept = cache / f"{name}{digest([_TABLE_VERSION, source_stamp(source)])[:12]}.parquet"
    with contextlib.suppress(OSError, ValueError):
        return pd.read_parquet(kept)
    table = archive_table(source, listing.frames)
    with written_beside(kept) as beside:
        table.to_parquet(beside, index=False)
    for other in cache.glob(f"{name}*.parquet"):
        if other != kept:
            other.unlink(missing_ok=True)
    return table


def archive_table(source: Source, frames: Iterable[FrameRef]) -> "pd.DataFrame":
    """The manifest of an archive from its directory and each frame's first bytes."""
    import pandas as pd

    from assets.frames.manifest import COLUMNS, quarantine_copies

    rows = []
    for ref in frames:
        width, height, known_by, reason = _look(source, ref)
        status = "quarantined" if reason else "ok"
        place = str(source.path / ref.member)
        rows.append((ref.image, place, ref.split, ref.city, width, height, known_by, ref.size_bytes, status, reason))
    table = pd.DataFrame(rows, columns=list(COLUMNS)).sort_values("image", ignore_index=True)
    return quarantine_copies(table)


def _look(source: Source, ref: FrameRef) -> tuple[int, int, str, str]:
    try:
        start, known_by = peek_frame(source, ref)
    except BrokenFrame as error:
        return 0, 0, "", str(error)
    if len(start) < 24 or start[:8] != b"\x89PNG\r\n\x1a\n" or start[12:16] != b"IHDR":
        return 0, 0, known_by, "not a PNG"
    width, height = struct.unpack(">II", start[16:24])
    return width, height, known_by, ""


def reader(world: World, name: str, root: Path | None) -> Reader:
    """How the bytes of a dataset's rows are read, from any thread. The reader raises BrokenFrame or BrokenPicture for what
    touches one picture, FoveaError when the source is gone."""
    if world.dataset(name).kind == CITYSCAPES:
        source, listing = cityscapes_listing(world)
        if source.kind == "archive":
            refs = {ref.image: ref for ref in listing.frames}
            return lambda row: read_frame(source, refs[row["image"]])
    return lambda row: _read_file(Path(root or ".") / row["path"])


def _read_file(path: Path) -> bytes:
    from assets.frames.decode import BrokenPicture

    try:
        return path.read_bytes()
    except OSError as error:
        if error.errno in NOT_THE_FILES:
            raise FoveaError(
                f"{path}: {error.strerror}; it was there a moment ago: bring the folder back (or leave it alone while "
                "it is read) and run again, what is finished is kept"
            ) from None
        raise BrokenPicture(str(path), f"can't be read: {error.strerror or error}") from None


def resize_rows(
    rows: Iterable[Mapping[str, Any]], read: Reader, size: Size, *, workers: int
) -> Iterator[Frame | FoveaError]:
    """Read, decode and resize rows on all cores; yields uint8 H×W×3, or why it is broken, for each in order.

    At most 3 · `workers` pictures are under way or wait to be taken. Raises FoveaError: the source as a whole is gone.
    """
    from assets.frames.decode import BrokenPicture
    from assets.frames.resize import decode_and_resize
    from models.threads import in_order

    def one(row: Mapping[str, Any]) -> Frame | FoveaError:
        try:
            return decode_and_resize(read(row), str(row["path"]), size)
        except (BrokenFrame, BrokenPicture) as error:
            return error

    return in_order(one, rows, threads=workers, ahead=3)
