"""Cityscapes frames as they lie on a disk: the site's zip archive, or the tree extracted from it.

Frames are read straight from the archive: a `FrameRef` holds where a member's bytes begin, so a frame is one
`pread`, one inflate and one CRC, from any process, with no shared handle and nothing extracted first.
"""

import errno
import hashlib
import os
import re
import shutil
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from filelock import FileLock

from models.errors import FoveaError

ARCHIVE_NAME = "leftImg8bit_trainvaltest.zip"
FRAMES_FOLDER = "leftImg8bit"
ROOT_VARIABLE = "CITYSCAPES_ROOT"

# Official numbers of frames, city by city (2975 + 500 + 1525).
OFFICIAL_COUNTS: dict[str, dict[str, int]] = {
    "train": {
        "aachen": 174,
        "bochum": 96,
        "bremen": 316,
        "cologne": 154,
        "darmstadt": 85,
        "dusseldorf": 221,
        "erfurt": 109,
        "hamburg": 248,
        "hanover": 196,
        "jena": 119,
        "krefeld": 99,
        "monchengladbach": 94,
        "strasbourg": 365,
        "stuttgart": 196,
        "tubingen": 144,
        "ulm": 95,
        "weimar": 142,
        "zurich": 122,
    },
    "val": {"frankfurt": 267, "lindau": 59, "munster": 174},
    "test": {"berlin": 544, "bielefeld": 181, "bonn": 46, "leverkusen": 58, "mainz": 298, "munich": 398},
}

FRAME_NAME = re.compile(r"(?P<city>[a-z]+)_\d{6}_\d{6}_leftImg8bit\.png")
_DRIVE = re.compile(r"^[A-Za-z]:")
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_PART = ".part"


class BrokenFrame(FoveaError):
    """One frame cannot be read, others can: quarantine it and go on."""


class UnsafeArchive(FoveaError):
    """An archive holds entries that a dataset never has; nothing of it is used."""


class Source(NamedTuple):
    """Where frames are: `path` is the zip file, or the folder that holds `leftImg8bit/`."""

    kind: Literal["archive", "tree"]
    path: Path


class FrameRef(NamedTuple):
    """One frame, found without decoding it.

    `image` is the member's path below `leftImg8bit/` without suffix. `crc32`, `offset`, `compressed_bytes` and
    `method` are those of the archive's directory (None in a tree); `mtime_ns` is the file's (None in an archive).
    """

    image: str
    split: str
    city: str
    member: str
    size_bytes: int
    crc32: int | None = None
    offset: int | None = None
    compressed_bytes: int | None = None
    method: int | None = None
    mtime_ns: int | None = None


class Listing(NamedTuple):
    """Frames in order of their names, and PNG files that lie where no frame should."""

    frames: list[FrameRef]
    strangers: list[str]


@dataclass(frozen=True)
class Limits:
    """What a dataset archive may declare at most; the ratio holds for entries above a mebibyte."""

    entries: int = 100_000
    file_bytes: int = 64 << 20
    total_bytes: int = 64 << 30
    ratio: int = 200


DEFAULT_LIMITS = Limits()


# ---------------------------------------------------------------------------------------------- where frames are


def locate(downloads: Path | None = None, path: Path | None = None) -> Source | None:
    """The archive or tree to use, in place: `CITYSCAPES_ROOT`, else `path`, else what lies in `downloads`.

    `CITYSCAPES_ROOT` names the zip file, the folder that holds it, `leftImg8bit` itself or the folder above it.
    None when neither is given and `downloads` holds no archive. Raises FoveaError when what is named holds neither.
    """
    named = os.environ.get(ROOT_VARIABLE, "").strip()
    if named or path is not None:
        root = Path(named or path or "").expanduser()
        said = ROOT_VARIABLE if named else "fovea.toml: datasets.cityscapes.path"
        source = _source_at(root)
        if source is None:
            state = (
                "holds neither" if root.is_dir() else "is no zip file" if root.exists() else "does not exist"
            )
            raise FoveaError(
                f"{said}={root} {state}: it must name {ARCHIVE_NAME}, the folder with that file, or the "
                f"folder with {FRAMES_FOLDER}/train/CITY/*.png; unset it to download"
            )
        return source
    return _source_at(downloads) if downloads is not None else None


def _source_at(path: Path) -> Source | None:
    if path.is_file():
        return Source("archive", path.absolute()) if zipfile.is_zipfile(path) else None
    for tree in (path, path.parent) if path.name == FRAMES_FOLDER else (path,):
        if any((tree / FRAMES_FOLDER / split).is_dir() for split in OFFICIAL_COUNTS):
            return Source("tree", tree.absolute())
    archive = path / ARCHIVE_NAME
    return Source("archive", archive.absolute()) if archive.is_file() else None


# ---------------------------------------------------------------------------------------------- what is there


def list_frames(source: Source) -> list[FrameRef]:
    """All frames of `source` in order of their names; raises FoveaError where it cannot be read."""
    return scan(source).frames


def scan(source: Source, limits: Limits = DEFAULT_LIMITS) -> Listing:
    """Frames and strangers of `source`.

    An archive's whole directory is checked first (UnsafeArchive). Other files than PNG, and what operating systems
    leave behind (`__MACOSX/`, `._*`), are passed over.
    """
    return _scan_archive(source.path, limits) if source.kind == "archive" else _scan_tree(source.path)


def _place(member: str) -> tuple[str, str] | None:
    parts = PurePosixPath(member).parts
    if len(parts) == 4 and parts[0] == FRAMES_FOLDER and parts[1] in OFFICIAL_COUNTS:
        return parts[1], parts[2]
    return None


def _image(member: str) -> str:
    return member.removeprefix(FRAMES_FOLDER + "/").removesuffix(".png")


def _is_picture(member: str) -> bool:
    path = PurePosixPath(member)
    return path.suffix.lower() == ".png" and path.parts[0] != "__MACOSX" and not path.name.startswith("._")


def _scan_archive(path: Path, limits: Limits) -> Listing:
    frames, strangers = [], []
    for info in check_entries(path, limits):
        if info.is_dir() or not _is_picture(info.filename):
            continue
        place = _place(info.filename)
        if place is None:
            strangers.append(info.filename)
            continue
        frames.append(
            FrameRef(
                image=_image(info.filename),
                split=place[0],
                city=place[1],
                member=info.filename,
                size_bytes=info.file_size,
                crc32=info.CRC,
                offset=info.header_offset,
                compressed_bytes=info.compress_size,
                method=info.compress_type,
            )
        )
    return Listing(sorted(frames), sorted(strangers))


def _scan_tree(root: Path) -> Listing:
    frames, strangers = [], []
    top = root / FRAMES_FOLDER
    try:
        for entry in _walk(top, depth=3):
            member = PurePosixPath(FRAMES_FOLDER, Path(entry.path).relative_to(top).as_posix()).as_posix()
            if not _is_picture(member):
                continue
            place = _place(member)
            if place is None:
                strangers.append(member)
                continue
            about = entry.stat()
            frames.append(FrameRef(_image(member), *place, member, about.st_size, mtime_ns=about.st_mtime_ns))
    except OSError as error:
        raise FoveaError(
            f"{error.filename or top}: {error.strerror}; the dataset folder {root} must stay in place while it is read"
        ) from None
    return Listing(sorted(frames), sorted(strangers))


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
    """The PNG bytes of one frame, from any process or thread; CRC checked where they come from an archive.

    Raises BrokenFrame for what touches this frame alone, FoveaError when the source as a whole is gone or the
    process cannot read on.
    """
    try:
        if source.kind == "tree":
            return (source.path / ref.member).read_bytes()
        descriptor = os.open(source.path, os.O_RDONLY)
        try:
            return _read_member(descriptor, ref)
        finally:
            os.close(descriptor)
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
    assert ref.offset is not None and ref.compressed_bytes is not None and ref.crc32 is not None
    try:
        descriptor = os.open(source.path, os.O_RDONLY)
        try:
            block = _pread(descriptor, _LOCAL_HEADER.size + len(ref.member.encode()) + 1024, ref.offset)
            start = _data_start(ref, block)
            head = block[start : start + min(512, ref.compressed_bytes)]
            left = max(len(head), ref.compressed_bytes - 512)
            tail = _pread(descriptor, ref.compressed_bytes - left, ref.offset + start + left)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise FoveaError(f"{source.path}: {error.strerror}; it must stay in place while it is read") from None
    ends = hashlib.sha256(head + tail).hexdigest()[:16]
    known_by = f"crc32:{ref.crc32:08x}-{ref.size_bytes}-{ref.compressed_bytes}-{ends}"
    if ref.method == zipfile.ZIP_STORED:
        return head[:64], known_by
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(head, 64), known_by
    except zlib.error as error:
        raise BrokenFrame(f"{ref.member}: cannot be unpacked ({error})") from None


def _data_start(ref: FrameRef, block: bytes) -> int:
    if len(block) < _LOCAL_HEADER.size or block[:4] != b"PK\x03\x04":
        raise BrokenFrame(
            f"{ref.member}: no entry at its place in the archive; was the archive replaced or cut?"
        )
    flags, name_bytes, extra_bytes = (_LOCAL_HEADER.unpack_from(block)[field] for field in (2, -2, -1))
    name = block[_LOCAL_HEADER.size :][:name_bytes].decode("utf-8" if flags & 0x800 else "cp437", "replace")
    if name != ref.member:
        raise BrokenFrame(f"{ref.member}: another entry lies at its place; was the archive replaced?")
    return int(_LOCAL_HEADER.size + name_bytes + extra_bytes)


def iterate_frames(
    source: Source, refs: Iterable[FrameRef]
) -> Iterator[tuple[FrameRef, bytes | BrokenFrame]]:
    """Frames one after another; a broken one is yielded as its exception, anything worse is raised."""
    for ref in refs:
        try:
            yield ref, read_frame(source, ref)
        except BrokenFrame as error:
            yield ref, error


def _read_member(descriptor: int, ref: FrameRef) -> bytes:
    assert ref.offset is not None and ref.compressed_bytes is not None
    # The local header alone knows how long its extra field is: guess enough to need one read.
    want = _LOCAL_HEADER.size + len(ref.member.encode()) + 256 + ref.compressed_bytes
    block = _pread(descriptor, want, ref.offset)
    start = _data_start(ref, block)
    if start + ref.compressed_bytes > len(block):
        block += _pread(descriptor, start + ref.compressed_bytes - len(block), ref.offset + len(block))
    packed = memoryview(block)[start : start + ref.compressed_bytes]
    if len(packed) != ref.compressed_bytes:
        raise BrokenFrame(f"{ref.member}: the archive ends within it")
    data = _unpack(ref, packed)
    if len(data) != ref.size_bytes:
        raise BrokenFrame(f"{ref.member}: unpacks to another size than the {ref.size_bytes} bytes declared")
    if zlib.crc32(data) != ref.crc32:
        raise BrokenFrame(f"{ref.member}: CRC does not match, its bytes are damaged")
    return data


def _unpack(ref: FrameRef, packed: memoryview) -> bytes:
    if ref.method == zipfile.ZIP_STORED:
        return bytes(packed)
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        # One byte more than declared shows a member that would unpack to more, without unpacking it.
        return inflate.decompress(packed, ref.size_bytes + 1)
    except zlib.error as error:
        raise BrokenFrame(f"{ref.member}: cannot be unpacked ({error})") from None


def _pread(descriptor: int, count: int, offset: int) -> bytes:
    pieces = []
    while count > 0:
        piece = os.pread(descriptor, count, offset)
        if not piece:
            break
        pieces.append(piece)
        count -= len(piece)
        offset += len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


# ---------------------------------------------------------------------------------------------- safety


def check_entries(path: Path, limits: Limits = DEFAULT_LIMITS) -> list[zipfile.ZipInfo]:
    """The archive's directory, once every entry in it is known to be harmless.

    Raises UnsafeArchive for absolute names, `..`, drive letters, backslashes, links and devices, doubled names,
    encrypted or exotic entries, entries that overlap, and declared sizes beyond `limits`; FoveaError for a file
    that is no whole zip. Sizes are declared ones: readers count the actual bytes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            end = archive.start_dir
    except (
        zipfile.BadZipFile,
        struct.error,
        ValueError,
        LookupError,
        EOFError,
        NotImplementedError,
    ) as error:
        raise FoveaError(
            f"{path}: no whole zip archive ({error}); delete it and download again, or name another one"
        ) from None
    except OSError as error:
        raise FoveaError(f"{path}: {error.strerror or error}") from None
    if len(infos) > limits.entries:
        raise UnsafeArchive(f"{path}: {len(infos)} entries, at most {limits.entries} are taken")
    faults = [f"{info.filename!r}: {fault}" for info in infos if (fault := _entry_fault(info, limits))]
    faults = faults or _collisions(infos) + _overlaps(infos, end)
    total = sum(info.file_size for info in infos)
    if total > limits.total_bytes:
        faults.append(f"{total} bytes unpacked, at most {limits.total_bytes} are taken")
    if faults:
        raise UnsafeArchive(f"{path}: refused, nothing was read from it: {_shorten(faults)}")
    return infos


def _entry_fault(info: zipfile.ZipInfo, limits: Limits) -> str | None:
    name = info.orig_filename
    parts = name.removesuffix("/").split("/")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if not name or "\0" in name or any(ord(letter) < 32 for letter in name):
        return "control characters in its name"
    if name.startswith("/"):
        return "an absolute name"
    if _DRIVE.match(name):
        return "a drive letter"
    if "\\" in name:
        return "a backslash in its name"
    if ".." in parts:
        return "'..' in its name"
    if "" in parts or "." in parts or any(len(part.encode()) > 255 for part in parts):
        return "an empty, '.' or overlong part in its name"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or ((kind == stat.S_IFDIR) != info.is_dir() and kind):
        return "a link or device, not a file"
    if info.flag_bits & 0x1:
        return "encrypted"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"compression method {info.compress_type}, only stored and deflate are taken"
    if info.file_size > limits.file_bytes:
        return f"{info.file_size} bytes, at most {limits.file_bytes} are taken"
    if info.file_size > 1 << 20 and info.file_size > limits.ratio * max(info.compress_size, 1):
        return f"packed more than {limits.ratio} times: a zip bomb"
    if info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
        return "stored with two different sizes"
    return None


def _collisions(infos: Sequence[zipfile.ZipInfo]) -> list[str]:
    faults: list[str] = []
    seen: dict[str, str] = {}
    files: set[str] = set()
    for info in infos:
        # Case and Unicode form: two names that are one file on some file systems.
        name = unicodedata.normalize("NFC", info.filename.removesuffix("/")).casefold()
        if name in seen:
            faults.append(f"{info.filename!r}: doubles {seen[name]!r}")
        seen[name] = info.filename
        if not info.is_dir():
            files.add(name)
    for name in seen:
        if any(str(parent) in files for parent in PurePosixPath(name).parents):
            faults.append(f"{seen[name]!r}: lies inside another file")
    return faults


def _overlaps(infos: Sequence[zipfile.ZipInfo], end: int) -> list[str]:
    faults = []
    ordered = sorted(infos, key=lambda info: info.header_offset)
    nexts = [info.header_offset for info in ordered[1:]] + [end]
    for info, following in zip(ordered, nexts, strict=True):
        least = _LOCAL_HEADER.size + len(info.orig_filename) + info.compress_size
        if info.header_offset + least > following:
            faults.append(f"{info.filename!r}: overlaps the entry after it")
    return faults


def _shorten(items: Sequence[str], most: int = 10) -> str:
    more = f" … and {len(items) - most} more" if len(items) > most else ""
    return "; ".join(items[:most]) + more


# ---------------------------------------------------------------------------------------------- extraction


def extract(
    archive: Path,
    target: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Source:
    """Unpack `archive` so that `target` appears at once and whole, or not at all.

    Files gather in `target` + ".part", each written under a temporary name and renamed once its CRC is right; a
    rerun keeps those whose CRC is right and goes on. `progress(done_bytes, total_bytes)` is called for each file.
    A `target` that is there already is compared with the archive and left as it is. Raises FoveaError (no space,
    read-only, `target` differs) or UnsafeArchive; never writes outside `target` + ".part".
    """
    infos = check_entries(archive, limits)
    source = Source("archive", archive)
    files = [_whole_member(info) for info in infos if not info.is_dir()]
    if target.exists() or target.is_symlink():
        wrong = [ref.member for ref in files if not _is_done(target / ref.member, ref)]
        if wrong:
            raise FoveaError(
                f"{target} is there already and differs from {archive} in {len(wrong)} files ({_shorten(wrong)}): "
                f"move it away or name another folder"
            )
        return Source("tree", target)
    part = target.with_name(target.name + _PART)
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            if not target.exists():
                _unpack_into(part, source, files, progress)
                part.replace(target)
    except OSError as error:
        raise FoveaError(explain_os_error(error, target, "run again to go on where it stopped")) from None
    return Source("tree", target)


def _unpack_into(
    part: Path, source: Source, files: Sequence[FrameRef], progress: Callable[[int, int], None] | None
) -> None:
    part.mkdir(exist_ok=True)
    if part.is_symlink():
        raise FoveaError(f"{part} is a link: delete it and run again")
    total = sum(ref.size_bytes for ref in files)
    missing = [ref for ref in files if not _is_done(part / ref.member, ref)]
    done = total - sum(ref.size_bytes for ref in missing)
    require_space(part, total - done, f"unpacking {source.path.name}")
    for folder in sorted({(part / ref.member).parent for ref in files}):
        folder.mkdir(parents=True, exist_ok=True)
        if not folder.resolve().is_relative_to(part.resolve()):
            raise FoveaError(f"{folder} leads out of {part}: delete {part} and run again")
    for ref in missing:
        _write_whole(part / ref.member, read_frame(source, ref))
        done += ref.size_bytes
        if progress is not None:
            progress(done, total)
    # What an earlier, different archive or a killed run left must not become part of the tree.
    wanted = {part / ref.member for ref in files}
    for folder_name, _, names in os.walk(part):
        for name in names:
            if (left := Path(folder_name, name)) not in wanted:
                left.unlink()


def _whole_member(info: zipfile.ZipInfo) -> FrameRef:
    return FrameRef(
        image=_image(info.filename),
        split="",
        city="",
        member=info.filename,
        size_bytes=info.file_size,
        crc32=info.CRC,
        offset=info.header_offset,
        compressed_bytes=info.compress_size,
        method=info.compress_type,
    )


def _is_done(path: Path, ref: FrameRef) -> bool:
    try:
        about = path.lstat()
        if not stat.S_ISREG(about.st_mode) or about.st_size != ref.size_bytes:
            return False
        return zlib.crc32(path.read_bytes()) == ref.crc32
    except FileNotFoundError:
        return False


def _write_whole(path: Path, data: bytes) -> None:
    """Write beside, then rename; the temporary name is fixed, so a killed run leaves nothing that piles up."""
    beside = path.with_name(f".{path.name}{_PART}")
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            write_all(file.fileno(), data)
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """`os.write` until all of `data` is written: near a full disk it takes part of it without an error."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def require_space(folder: Path, needed: int, purpose: str) -> None:
    """Raise FoveaError unless `needed` bytes are free in `folder`; `purpose` opens the message."""
    free = free_bytes(folder)
    if needed > free:
        raise FoveaError(
            f"{folder}: {purpose} needs {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free: make room or choose "
            f"another folder"
        )


def free_bytes(folder: Path) -> int:
    """Bytes that this user may still write in `folder`."""
    return shutil.disk_usage(folder).free


def explain_os_error(error: OSError, place: Path, kept: str) -> str:
    """One line for the user: what the file system refused at `place`, and that nothing is lost."""
    reasons = {
        errno.ENOSPC: "the disk is full: make room",
        errno.EDQUOT: "the disk quota is used up: make room",
        errno.EFBIG: "the file system or a limit of this process refuses a file of this size",
        errno.EROFS: "the file system is read-only: choose another folder",
        errno.EACCES: "no permission to write there: choose another folder",
        errno.EPERM: "no permission to write there: choose another folder",
        errno.ENOENT: "the folder disappeared: bring it back",
        errno.ESTALE: "the folder disappeared: bring it back",
        errno.EEXIST: "a file lies where a folder must be: choose another folder",
        errno.ENOTDIR: "a file lies where a folder must be: choose another folder",
    }
    code = error.errno if error.errno is not None else 0
    return f"{place}: {reasons.get(code, error.strerror or str(error))}; {kept}"


# ---------------------------------------------------------------------------------------------- counts and names


@dataclass(frozen=True)
class CountReport:
    """What differs from the official numbers and names; `ok` when nothing does that was not allowed."""

    counts: dict[str, dict[str, int]]
    missing: list[str]
    extra: list[str]
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
            parts.append(f"missing {_shorten(self.missing, 30)}")
        if self.extra:
            parts.append(f"extra {_shorten(self.extra, 30)}")
        if not self.ok and not self.extra and not self.subset:
            parts.append("a subset of whole cities is fine when the dataset is declared as one")
        return "; ".join(parts)


def check_counts(
    frames: Sequence[FrameRef], *, strangers: Sequence[str] = (), allow_subset: bool = False
) -> CountReport:
    """Compare with the official 2975, 500 and 1525 frames, city by city, and check each name.

    With `allow_subset`, whole cities may be absent; a city that is there must still be complete, because half a city
    is what an interrupted copy leaves.
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
    incomplete = False
    for split, cities in OFFICIAL_COUNTS.items():
        for city, official in cities.items():
            found = counts[split].get(city, 0)
            if found == 0:
                missing.append(f"{split}/{city}: all {official}")
            elif found < official:
                missing.append(f"{split}/{city}: {official - found} of {official}")
                incomplete = True
            elif found > official:
                extra.append(f"{split}/{city}: {found - official} more than {official}")
    some = any(counts[split] for split in counts)
    ok = not extra and some and not incomplete and (allow_subset or not missing)
    return CountReport(counts, missing, extra, allow_subset, ok)
