"""The manifest of a dataset: every picture with its split, size and checksum, and what is wrong with the broken ones.

One row a picture file, sorted by image:

| column | |
|---|---|
| image | id, unique in the dataset: relative path without suffix, or with it where two files differ in nothing else |
| path | absolute path |
| split | train, val, test |
| group | city or sub-folder, "" at the top |
| width, height | pixels, after EXIF orientation; 0 where quarantined before that was known |
| sha256 | of the file's bytes, "" where it can't be read; in an archive `crc32:…` (archive.peek_frame) |
| bytes | file size, 0 where that is not known |
| status | ok, or quarantined |
| reason | why quarantined, "" else |

Pictures that a splits rule leaves out (no glob fits, not in the CSV, beyond the counts) are no rows.

Two files of the same content: the one in the most protected split stays (test before val before train, then the first by
path), the others are quarantined by name, so that no picture is trained on and measured on.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

import pandas as pd

from assets.datasets import PICTURE_SUFFIXES, Dataset, Splits
from assets.frames.decode import BrokenPicture, read_file, read_header, read_picture
from assets.frames.folder import assign_splits, find_pictures, group_of, image_ids
from assets.home import write_whole
from models.errors import FoveaError
from models.validation import printable

COLUMNS: Final = (
    "image", "path", "split", "group", "width", "height", "sha256", "bytes", "status", "reason"
)  # fmt: skip
#: Raise this when what `inspect` accepts changes: cached verdicts of another version are not used.
_CACHE_VERSION: Final = 6


class Inspected(NamedTuple):
    """What was learnt from reading one file's bytes once."""

    sha256: str
    width: int
    height: int
    reason: str


def scan(dataset: Dataset, cache: Path | None = None) -> pd.DataFrame:
    """Look at every picture of a dataset and return its manifest.

    Files whose path, size and time of change (ns) an earlier look kept in the folder `cache` are not read again. For
    `sample` and `cityscapes`, give the dataset its folder as `path`; the pictures are those below `leftImg8bit`
    where there is such a folder.

    Raises FoveaError: the folder is missing or has no picture, or the splits rule doesn't fit it.
    """
    root = dataset.root()
    splits = dataset.splits
    if dataset.kind != "folder":
        splits = Splits("folders")
        if (root / "leftImg8bit").is_dir():
            root = root / "leftImg8bit"
    files = {printable(path): path for path in find_pictures(root)}
    paths = sorted(files)
    if not paths:
        raise FoveaError(f"dataset {dataset.name!r}: no picture in {root} or below")
    ids = image_ids(paths)
    odd = Inspected("", 0, 0, "its name is not UTF-8 or has control characters: rename it")
    by_folder = splits.rule in ("auto", "folders")
    if splits.rule == "order":
        split_of, inspected, sizes = _by_counts(files, splits, root, cache)
    else:
        split_of = assign_splits(paths, splits, root)
        sound = [path for path in paths if path in split_of and files[path] == path]
        inspected, sizes = inspect_all(root, sound, cache)
    chosen = [path for path in paths if path in split_of]
    rows = []
    for path in chosen:
        found = inspected.get(path, odd)
        rows.append(
            (ids[path], str(root / path), split_of[path], group_of(path, by_folder), found.width, found.height,
             found.sha256, sizes.get(path, 0), "quarantined" if found.reason else "ok", found.reason)
        )  # fmt: skip
    manifest = pd.DataFrame(rows, columns=list(COLUMNS)).sort_values("image", ignore_index=True)
    return quarantine_copies(manifest)


def _by_counts(
    files: Mapping[str, str], splits: Splits, root: Path, cache: Path | None
) -> tuple[dict[str, str], dict[str, Inspected], dict[str, int]]:
    """The split of each path where counts say it, and what `inspect_all` says of as many paths as had to be looked at.

    Counts are of pictures that can be used, equal ones once; the last counts fall short where there are too few. A file
    that cannot be used has the split of the next picture that counts, so that it is named; a copy its original's.
    """
    paths = sorted(files)
    places = list(assign_splits(paths, splits, root).values())
    reach = len(places)
    while True:
        inspected, sizes = inspect_all(root, [path for path in paths[:reach] if files[path] == path], cache)
        first: dict[str, str] = {}
        for path in sorted(inspected):
            if not inspected[path].reason:
                first.setdefault(inspected[path].sha256, path)
        if len(first) >= len(places) or reach >= len(paths):
            break
        reach *= 2
    taken = dict(zip(first.values(), places, strict=False))
    split_of: dict[str, str] = {}
    split = places[-1] if len(taken) < len(places) else ""
    for path in reversed(paths[:reach]):
        split = taken.get(path, split)
        if split:
            original = first.get(inspected[path].sha256, path) if path in inspected else path
            split_of[path] = taken.get(original, split)
    return split_of, inspected, sizes


def inspect(path: Path) -> Inspected:
    """Read one file once: checksum, size, and what is wrong with it; pixels are decoded only of what may be transparent."""
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        reason = f"{path.suffix.lower()} files are not read: convert it to PNG, JPEG, WebP or TIFF"
        return Inspected("", 0, 0, reason)
    try:
        data = read_file(path)
    except BrokenPicture as error:
        return Inspected("", 0, 0, error.reason)
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        header = read_header(data, path.name)
        if _may_be_transparent(data):
            read_picture(data, path.name)
    except BrokenPicture as error:
        return Inspected(sha256, 0, 0, error.reason)
    return Inspected(sha256, header.width, header.height, "")


def _may_be_transparent(data: bytes) -> bool:
    """Whether a PNG or WebP has alpha or a transparent colour; only its pixels tell whether one is transparent."""
    if data.startswith(b"\x89PNG"):
        return data[25] in (4, 6) or b"tRNS" in data[: data.find(b"IDAT")]
    flags = {b"WEBPVP8X": 20, b"WEBPVP8L": 24}.get(data[8:16])
    return flags is not None and bool(data[flags] & 16)


def inspect_all(root: Path, paths: list[str], cache: Path | None) -> tuple[dict[str, Inspected], dict[str, int]]:
    """What `inspect` says of each of these paths below `root`, and their sizes in bytes. Files whose path, size and time of
    change an earlier look kept in the folder `cache` are not read again."""
    stamps: dict[str, tuple[int, int]] = {}
    for path in paths:
        try:
            stat = os.stat(f"{root}/{path}")  # noqa: PTH116 (three times as quick as Path for thousands)
            stamps[path] = (stat.st_size, stat.st_ctime_ns)  # mtime is set back by those who copy times along
        except OSError:
            stamps[path] = (0, -1)  # vanished or a broken link: inspect() says so
    kept = cache / f"checksums-{hashlib.sha256(str(root).encode()).hexdigest()[:12]}.json" if cache else None
    known = _read_cache(kept) if kept else {}
    inspected = {path: known[path][1] for path in paths if path in known and known[path][0] == stamps[path]}
    todo = [path for path in paths if path not in inspected]
    if todo:
        # Hashing and checksums release the interpreter's lock; more threads than cores hide a slow disk.
        with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as pool:
            inspected |= zip(todo, pool.map(lambda path: inspect(root / path), todo), strict=True)
        if kept:
            _write_cache(kept, stamps, inspected)
    return inspected, {path: stamp[0] for path, stamp in stamps.items()}


def _read_cache(file: Path) -> dict[str, tuple[tuple[int, int], Inspected]]:
    # one that is damaged or another program's: everything is read again
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        kept = json.loads(file.read_text())
        if kept["version"] == _CACHE_VERSION:
            return {path: ((size, at), Inspected(*rest)) for path, (size, at, *rest) in kept["seen"].items()}
    return {}


def _write_cache(file: Path, stamps: Mapping[str, tuple[int, int]], inspected: Mapping[str, Inspected]) -> None:
    """Keep what can be trusted for ever: a file that couldn't be read may be readable next time."""
    seen = {p: (*stamps[p], *found) for p, found in inspected.items() if found.sha256}
    with contextlib.suppress(OSError, FoveaError):  # a full disk, say: it is only a cache
        write_whole(file, json.dumps({"version": _CACHE_VERSION, "seen": seen}))


def quarantine_copies(manifest: pd.DataFrame) -> pd.DataFrame:
    """Mark all but one of the pictures with equal content (`sha256`): the one in the most protected split stays."""
    sound = manifest[manifest["status"] == "ok"]
    copies = sound[sound.duplicated("sha256", keep=False)]
    if copies.empty:
        return manifest
    rank = copies["split"].map({"test": 0, "val": 1, "train": 2})
    ordered = copies.assign(rank=rank).sort_values(["rank", "path"])
    first = ordered.groupby("sha256")["image"].transform("first")
    others = first[first != ordered["image"]]
    manifest.loc[others.index, "status"] = "quarantined"
    manifest.loc[others.index, "reason"] = "the same content as " + others
    return manifest
