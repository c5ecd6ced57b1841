"""Cityscapes frames as they lie on a disk: the site's zip archive, or the tree extracted from it.

Frames are read straight from the archive, by any thread or process, and nothing is extracted: each thread holds the
archive open by a `zipfile.ZipFile` of its own (one shares its place in the file with all who use it). Entries whose names
are no frame's are never opened, so links, paths out of the archive and the like come to nothing.
"""

import errno
import hashlib
import os
import re
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, Literal, NamedTuple

from models.config import expanded
from models.errors import FoveaError

ARCHIVE_NAME = "leftImg8bit_trainvaltest.zip"
FRAMES_FOLDER = "leftImg8bit"
ROOT_VARIABLE = "CITYSCAPES_ROOT"

# Official numbers of frames, city by city (2975 + 500 + 1525).
OFFICIAL_COUNTS: dict[str, dict[str, int]] = {
    "train": {
        "aachen": 174, "bochum": 96, "bremen": 316, "cologne": 154, "darmstadt": 85, "dusseldorf": 221, "erfurt": 109,
        "hamburg": 248, "hanover": 196, "jena": 119, "krefeld": 99, "monchengladbach": 94, "strasbourg": 365,
        "stuttgart": 196, "tubingen": 144, "ulm": 95, "weimar": 142, "zurich": 122,
    },
    "val": {"frankfurt": 267, "lindau": 59, "munster": 174},
    "test": {"berlin": 544, "bielefeld": 181, "bonn": 46, "leverkusen": 58, "mainz": 298, "munich": 398},
}  # fmt: skip

FRAME_NAME = re.compile(r"(?P<city>[a-z]+)_\d{6}_\d{6}_leftImg8bit\.png")

#: A frame's most bytes: a small entry may declare, and unpack to, many times its own.
MAX_FILE_BYTES: Final = 64 << 20

_LOCAL_HEADER_BYTES = 30
_END_BYTES = 512
#: What zipfile raises for an archive or entry that is damaged or of a kind that it does not read.
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, LookupError, ValueError, RuntimeError)
_held = threading.local()


class BrokenFrame(FoveaError):
    """One frame cannot be read, others can: quarantine it and go on."""


class Source(NamedTuple):
    """Where frames are: `path` is the zip file, or the folder that holds `leftImg8bit/`."""

    kind: Literal["archive", "tree"]
    path: Path


class FrameRef(NamedTuple):
    """One frame, found without decoding it. `image` is the member's path below `leftImg8bit/` without suffix. `crc32`,
    `offset` and `compressed_bytes` are those of the archive's directory (None in a tree)."""

    image: str
    split: str
    city: str
    member: str
    size_bytes: int
    crc32: int | None = None
    offset: int | None = None
    compressed_bytes: int | None = None


class Listing(NamedTuple):
    """Frames in order of their names, and PNG files that lie where no frame should."""

    frames: list[FrameRef]
    strangers: list[str]


# ---------------------------------------------------------------------------------------------- what is there


def locate(path: Path | None) -> Source | None:
    """The archive or tree that a person names, in place: by `CITYSCAPES_ROOT`, else by `path`; None where neither is given.

    What is named is the zip file, the folder that holds it, `leftImg8bit` itself or the folder above it. Raises FoveaError
    when it is none of them.
    """
    named = os.environ.get(ROOT_VARIABLE, "").strip()
    if not named and path is None:
        return None
    root = expanded(named or path or "", f"{ROOT_VARIABLE}: " if named else "")
    source = _source_at(root)
    if source is None:
        said = ROOT_VARIABLE if named else "fovea.toml: datasets.cityscapes.path"
        state = "holds neither" if root.is_dir() else "is no zip file" if root.exists() else "does not exist"
        raise FoveaError(
            f"{said}={root} {state}: it must name {ARCHIVE_NAME}, the folder with that file, or the "
            f"folder with {FRAMES_FOLDER}/train/CITY/*.png; unset it to download"
        )
    return source


def _source_at(path: Path) -> Source | None:
    if path.is_file():
        return Source("archive", path.absolute()) if zipfile.is_zipfile(path) else None
    for tree in (path, path.parent) if path.name == FRAMES_FOLDER else (path,):
        if any((tree / FRAMES_FOLDER / split).is_dir() for split in OFFICIAL_COUNTS):
            return Source("tree", tree.absolute())
    archive = path / ARCHIVE_NAME
    return Source("archive", archive.absolute()) if archive.is_file() else None


def scan(source: Source) -> Listing:
    """Frames and strangers of `source`. Other files than PNG, and what operating systems leave behind (`__MACOSX/`, `._*`),
    are passed over."""
    members = _archive_members(source.path) if source.kind == "archive" else _tree_members(source.path)
    frames, strangers = [], []
    for member, *about in members:
        path = PurePosixPath(member)
        if path.suffix.lower() != ".png" or path.parts[0] == "__MACOSX" or path.name.startswith("._"):
            continue
        if len(path.parts) == 4 and path.parts[0] == FRAMES_FOLDER and path.parts[1] in OFFICIAL_COUNTS:
            image = member.removeprefix(FRAMES_FOLDER + "/").removesuffix(".png")
            frames.append(FrameRef(image, path.parts[1], path.parts[2], member, *about))
        else:
            strangers.append(member)
    return Listing(sorted(frames), sorted(strangers))


def _archive_members(path: Path) -> Iterator[tuple[str, int, int, int, int]]:
    """The archive's directory; of several entries of one name the last, which is the one that is read."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {info.filename: info for info in archive.infolist()}
    except _DAMAGE as error:
        raise FoveaError(
            f"{path}: no whole zip archive ({error}); delete it and download again, or name another one"
        ) from None
    except OSError as error:
        raise FoveaError(f"{path}: {error.strerror or error}") from None
    for info in entries.values():
        if not info.is_dir():
            yield info.filename, info.file_size, info.CRC, info.header_offset, info.compress_size


def _tree_members(root: Path) -> Iterator[tuple[str, int]]:
    try:
        for entry in _walk(root / FRAMES_FOLDER, depth=3):
            yield Path(entry.path).relative_to(root).as_posix(), entry.stat().st_size
    except OSError as error:
        raise FoveaError(
            f"{error.filename or root}: {error.strerror}; the dataset folder {root} must stay in place while it is read"
        ) from None


def _walk(folder: str | Path, depth: int) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            # Links are followed (users link datasets together); the depth bounds any loop of them.
            if entry.is_dir():
                if depth:
                    yield from _walk(entry.path, depth - 1)
            else:
                yield entry


# ---------------------------------------------------------------------------------------------- one frame


def read_frame(source: Source, ref: FrameRef) -> bytes:
    """The PNG bytes of one frame, from any process or thread; CRC checked where they come from an archive. Raises
    BrokenFrame for what touches this frame alone, FoveaError when the source as a whole is gone or the process cannot read
    on."""
    try:
        if source.kind == "tree":
            return (source.path / ref.member).read_bytes()
        archive, info = _member(source, ref)
        with archive.open(info) as file:
            # never more than declared is unpacked
            data = file.read(ref.size_bytes + 1)
        if len(data) != ref.size_bytes:
            raise zipfile.BadZipFile(f"holds {len(data)} bytes, {ref.size_bytes} are declared")
        return data
    except _DAMAGE as error:
        raise _broken(ref, error) from None
    except OSError as error:
        place = source.path if source.kind == "archive" else (source.path / ref.member).parent
        if not place.exists():
            raise FoveaError(f"{place} disappeared while it was read: bring it back and run again") from None
        if error.errno in (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EIO, errno.EISDIR, errno.ELOOP):
            raise BrokenFrame(f"{ref.member} in {source.path}: {error.strerror}") from None
        raise FoveaError(f"{ref.member} in {source.path}: {error.strerror or error}") from None


def peek_frame(source: Source, ref: FrameRef) -> tuple[bytes, str]:
    """An archive's frame at a thousandth of its cost: its first 64 bytes, and what its content is known by.

    A zip's CRC-32 is not enough for PNG: a chunk holds its own CRC, and the CRC over both keeps about 16 bits of what is
    in it. The end of the packed data holds the pixels' Adler-32 and the last chunk's CRC, so both ends are hashed, too.
    Raises as `read_frame`; the CRC is not checked.
    """
    assert ref.compressed_bytes is not None and ref.crc32 is not None
    try:
        archive, info = _member(source, ref)
        with archive.open(info) as file:
            start = file.read(64)
        ends = hashlib.sha256(_packed_ends(archive, info)).hexdigest()[:16]
    except _DAMAGE as error:
        raise _broken(ref, error) from None
    except OSError as error:
        raise FoveaError(f"{source.path}: {error.strerror}; it must stay in place while it is read") from None
    return start, f"crc32:{ref.crc32:08x}-{ref.size_bytes}-{ref.compressed_bytes}-{ends}"


def _packed_ends(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """The first and the last bytes of an entry as it is packed."""
    file = archive.fp
    assert file is not None
    file.seek(info.header_offset + _LOCAL_HEADER_BYTES - 4)
    name_bytes, extra_bytes = struct.unpack("<2H", file.read(4))
    start = file.seek(name_bytes + extra_bytes, os.SEEK_CUR)
    head = file.read(min(_END_BYTES, info.compress_size))
    left = max(len(head), info.compress_size - _END_BYTES)
    file.seek(start + left)
    return head + file.read(info.compress_size - left)


def _member(source: Source, ref: FrameRef) -> tuple[zipfile.ZipFile, zipfile.ZipInfo]:
    """This thread's archive and the entry of `ref` in it. Raises KeyError or BadZipFile where it is not there."""
    about = source.path.stat()
    stamp = os.getpid(), source.path, about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns
    if getattr(_held, "stamp", None) != stamp:
        _held.stamp = None
        _held.archive = zipfile.ZipFile(source.path)
        _held.stamp = stamp
    archive: zipfile.ZipFile = _held.archive
    info = archive.getinfo(ref.member)
    if (info.CRC, info.header_offset, info.compress_size) != (ref.crc32, ref.offset, ref.compressed_bytes):
        raise zipfile.BadZipFile("another entry lies at its place; was the archive replaced?")
    if info.file_size > MAX_FILE_BYTES:
        raise zipfile.BadZipFile(f"declares {info.file_size} bytes, at most {MAX_FILE_BYTES} are taken")
    return archive, info


def _broken(ref: FrameRef, error: Exception) -> BrokenFrame:
    return BrokenFrame(f"{ref.member}: damaged ({error})")


# ---------------------------------------------------------------------------------------------- counts and names


def _shorten(items: Sequence[str]) -> str:
    return "; ".join(items[:30]) + (f" … and {len(items) - 30} more" if len(items) > 30 else "")


@dataclass(frozen=True)
class CountReport:
    """What differs from the official numbers and names; `ok` when nothing does that was not allowed. partial: of `missing`,
    cities of which there is a part."""

    counts: dict[str, dict[str, int]]
    missing: list[str]
    extra: list[str]
    partial: list[str]
    subset: bool
    ok: bool

    @property
    def totals(self) -> dict[str, int]:
        """Frames a split."""
        return {split: sum(cities.values()) for split, cities in self.counts.items()}

    def message(self) -> str:
        """One line a reader can act on."""
        totals = ", ".join(f"{split} {count}" for split, count in self.totals.items())
        if not self.missing and not self.extra:
            return f"complete: {totals}"
        parts = [f"found {totals}"]
        if self.missing:
            parts.append(f"missing {_shorten(self.missing)}")
        if self.extra:
            parts.append(f"extra {_shorten(self.extra)}")
        if not self.ok and not self.extra and not self.subset:
            parts.append("a part is fine when it is declared as one: [datasets.cityscapes] subset = true in fovea.toml")
        return "; ".join(parts)


def check_counts(
    frames: Sequence[FrameRef], *, strangers: Sequence[str] = (), allow_subset: bool = False
) -> CountReport:
    """Compare with the official 2975, 500 and 1525 frames, city by city, and check each name.

    With `allow_subset`, frames may be absent; cities of which only a part is there are named, because that is what an
    interrupted copy leaves, too.
    """
    counts: dict[str, dict[str, int]] = {split: {} for split in OFFICIAL_COUNTS}
    extra: list[str] = list(strangers)
    for ref in frames:
        match = FRAME_NAME.fullmatch(PurePosixPath(ref.member).name)
        if match is None or match["city"] != ref.city or ref.city not in OFFICIAL_COUNTS.get(ref.split, {}):
            extra.append(ref.member)
        else:
            counts[ref.split][ref.city] = counts[ref.split].get(ref.city, 0) + 1
    missing: list[str] = []
    partial: list[str] = []
    for split, cities in OFFICIAL_COUNTS.items():
        for city, official in cities.items():
            found = counts[split].get(city, 0)
            if found == 0:
                missing.append(f"{split}/{city}: all {official}")
            elif found < official:
                missing.append(f"{split}/{city}: {official - found} of {official}")
                partial.append(missing[-1])
            elif found > official:
                extra.append(f"{split}/{city}: {found - official} more than {official}")
    some = any(counts[split] for split in counts)
    ok = not extra and some and (allow_subset or not missing)
    return CountReport(counts, missing, extra, partial, allow_subset, ok)
