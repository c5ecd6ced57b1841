"""Frames from archives and trees: what is listed, what is refused, what survives."""

import errno
import multiprocessing
import os
import random
import shutil
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers.made_cityscapes import FEW_COUNTS, make_members, write_archive, write_tree

from assets.frames import archive as archive_module
from assets.frames.archive import (
    ARCHIVE_NAME,
    OFFICIAL_COUNTS,
    BrokenFrame,
    FrameRef,
    Limits,
    Source,
    UnsafeArchive,
    check_counts,
    check_entries,
    extract,
    iterate_frames,
    list_frames,
    locate,
    read_frame,
    scan,
)
from models.errors import FoveaError

ROOT = Path(__file__).parents[3]
MEMBER = "leftImg8bit/val/lindau/lindau_000000_000019_leftImg8bit.png"


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return Source("archive", write_archive(tmp_path_factory.mktemp("full") / ARCHIVE_NAME))


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return Source("archive", write_archive(tmp_path_factory.mktemp("few") / ARCHIVE_NAME, counts=FEW_COUNTS))


@pytest.fixture(scope="module")
def val(tmp_path_factory: pytest.TempPathFactory) -> Source:
    path = tmp_path_factory.mktemp("val") / ARCHIVE_NAME
    return Source("archive", write_archive(path, counts={"val": OFFICIAL_COUNTS["val"]}))


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return write_archive(tmp_path / "made.zip", counts=FEW_COUNTS)


def contents(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


# ------------------------------------------------------------------------------------------ what is there


def test_official_counts_add_up() -> None:
    assert {split: (sum(cities.values()), len(cities)) for split, cities in OFFICIAL_COUNTS.items()} == {
        "train": (2975, 18),
        "val": (500, 3),
        "test": (1525, 6),
    }


def test_full_archive(full: Source) -> None:
    frames, strangers = scan(full)
    report = check_counts(frames, strangers=strangers)
    assert report.ok and report.counts == OFFICIAL_COUNTS
    assert report.totals == {"train": 2975, "val": 500, "test": 1525}
    assert report.message() == "complete: train 2975, val 500, test 1525"
    assert len({ref.image for ref in frames}) == 5000
    assert [ref.image for ref in frames] == sorted(ref.image for ref in frames)
    assert frames[0].image == "test/berlin/berlin_000000_000019_leftImg8bit"


def test_archive_and_tree_hold_the_same(few: Source, tmp_path: Path) -> None:
    tree = Source("tree", write_tree(tmp_path, counts=FEW_COUNTS))
    here, there = list_frames(few), list_frames(tree)
    assert [(ref.image, ref.split, ref.city, ref.size_bytes) for ref in here] == [
        (ref.image, ref.split, ref.city, ref.size_bytes) for ref in there
    ]
    expected = dict(make_members(counts=FEW_COUNTS))
    for source, refs in ((few, here), (tree, there)):
        assert {ref.member: read_frame(source, ref) for ref in refs} == expected


def test_frames_of_the_true_size(tmp_path: Path) -> None:
    source = Source("archive", write_archive(tmp_path / "a.zip", counts={"val": {"lindau": 2}}, large=1))
    shapes = []
    for _, data in iterate_frames(source, list_frames(source)):
        assert isinstance(data, bytes)
        assert len(data) > 500 or len(shapes) == 1
        shapes.append(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED).shape)
    assert shapes == [(1024, 2048, 3), (32, 64, 3)]


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_reading_from_many_processes(tmp_path: Path, compression: int) -> None:
    path = write_archive(tmp_path / "a.zip", counts=FEW_COUNTS, compression=compression)
    source = Source("archive", path)
    refs = list_frames(source)
    expected = [dict(make_members(counts=FEW_COUNTS))[ref.member] for ref in refs]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read_frame, [source] * 90, refs * 10)) == expected * 10
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("forkserver")) as processes:
        assert list(processes.map(read_frame, [source] * len(refs), refs, chunksize=3)) == expected


def test_archive_beyond_four_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "large.zip"
    with path.open("wb") as file:
        file.truncate((4 << 30) + 12345)  # a hole, as large archives have where other members are
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(MEMBER, b"picture")
    source = Source("archive", path)
    (ref,) = list_frames(source)
    assert ref.offset is not None and ref.offset > 1 << 32
    assert read_frame(source, ref) == b"picture"


def test_stream_written_archive(tmp_path: Path) -> None:
    # Sizes after the data, zip64 extra fields in the local header: as archives come from a pipe.
    class Pipe:
        def __init__(self, path: Path):
            self.file = path.open("wb")

        def write(self, data: bytes) -> int:
            return self.file.write(data)

        def flush(self) -> None:
            self.file.flush()

    path = tmp_path / "piped.zip"
    pipe = Pipe(path)
    with (
        zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(MEMBER, "w", force_zip64=True) as m,
    ):  # type: ignore[arg-type]
        m.write(b"picture" * 100)
    pipe.file.close()
    source = Source("archive", path)
    assert [read_frame(source, ref) for ref in list_frames(source)] == [b"picture" * 100]


def test_long_local_extra_field(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    info = zipfile.ZipInfo(MEMBER)
    info.extra = struct.pack("<HH", 0xCAFE, 5000) + bytes(5000)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, b"picture")
    source = Source("archive", path)
    assert [read_frame(source, ref) for ref in list_frames(source)] == [b"picture"]


def test_what_systems_leave_behind_is_passed_over(made: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(made, "a") as archive:
        archive.writestr("__MACOSX/leftImg8bit/val/lindau/._x.png", b"")
        archive.writestr("leftImg8bit/val/lindau/._lindau_000000_000019_leftImg8bit.png", b"")
        archive.writestr("leftImg8bit/val/.DS_Store", b"")
        archive.writestr("leftImg8bit/val/stray.png", b"")
        archive.writestr("leftImg8bit/val/lindau/deeper/x.png", b"")
    for source in (Source("archive", made), extract(made, tmp_path / "tree")):
        frames, strangers = scan(source)
        assert len(frames) == 9
        assert strangers == ["leftImg8bit/val/lindau/deeper/x.png", "leftImg8bit/val/stray.png"]


def test_linked_tree_is_followed(tmp_path: Path) -> None:
    write_tree(tmp_path / "elsewhere", counts=FEW_COUNTS)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "leftImg8bit").symlink_to(tmp_path / "elsewhere" / "leftImg8bit")
    (tmp_path / "elsewhere" / "leftImg8bit" / "loop").symlink_to(tmp_path / "elsewhere")
    source = Source("tree", tmp_path / "here")
    frames, strangers = scan(source)
    assert len(frames) == 9 and strangers == []
    assert len(read_frame(source, frames[0])) == frames[0].size_bytes


# ------------------------------------------------------------------------------------------ counts


def refs_of(counts: dict[str, dict[str, int]]) -> list[FrameRef]:
    return [
        FrameRef(
            f"{split}/{city}/{n}",
            split,
            city,
            f"leftImg8bit/{split}/{city}/{city}_{n:06d}_000019_leftImg8bit.png",
            1,
        )
        for split, cities in counts.items()
        for city, count in cities.items()
        for n in range(count)
    ]


def test_missing_and_extra_are_listed() -> None:
    counts = {split: dict(cities) for split, cities in OFFICIAL_COUNTS.items()}
    counts["train"]["aachen"] -= 4
    del counts["val"]["munster"]
    counts["test"]["bonn"] += 1
    counts["test"]["paris"] = 1
    refs = refs_of(counts)
    refs += [
        FrameRef("val/lindau/x", "val", "lindau", "leftImg8bit/val/lindau/lindau_1_2_leftImg8bit.png", 1)
    ]
    refs += [
        FrameRef(
            "val/lindau/y", "val", "lindau", "leftImg8bit/val/lindau/ulm_000000_000019_leftImg8bit.png", 1
        )
    ]
    report = check_counts(refs, strangers=["leftImg8bit/x.png"])
    assert not report.ok
    assert report.missing == ["train/aachen: 4 of 174", "val/munster: all 174"]
    assert report.extra == [
        "leftImg8bit/x.png",
        "leftImg8bit/test/paris/paris_000000_000019_leftImg8bit.png",
        "leftImg8bit/val/lindau/lindau_1_2_leftImg8bit.png",
        "leftImg8bit/val/lindau/ulm_000000_000019_leftImg8bit.png",
        "test/bonn: 1 more than 46",
    ]
    for item in report.missing + report.extra:
        assert item in report.message()


def test_subset_of_whole_cities_when_the_user_says_so() -> None:
    refs = refs_of({"val": {"lindau": 59}, "test": {"bonn": 46}})
    assert not check_counts(refs).ok
    assert "declared" in check_counts(refs).message()
    report = check_counts(refs, allow_subset=True)
    assert report.ok and len(report.missing) == 25
    assert not check_counts(refs[1:], allow_subset=True).ok  # half a city is an accident
    assert not check_counts([], allow_subset=True).ok
    assert not check_counts(refs, strangers=["leftImg8bit/x.png"], allow_subset=True).ok


# ------------------------------------------------------------------------------------------ locating


@pytest.mark.parametrize("named", ["", "leftImg8bit"])
def test_root_names_a_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    write_tree(tmp_path / "data", counts=FEW_COUNTS)
    monkeypatch.setenv("CITYSCAPES_ROOT", str(tmp_path / "data" / named))
    source = locate(tmp_path / "downloads")
    assert source == Source("tree", tmp_path / "data")
    assert len(list_frames(source)) == 9


@pytest.mark.parametrize("named", ["", ARCHIVE_NAME])
def test_root_names_an_archive(few: Source, monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    monkeypatch.setenv("CITYSCAPES_ROOT", str(few.path.parent / named))
    assert locate() == few


def test_root_that_holds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "leftImg8bit").mkdir()
    for named, reason in (
        ("absent", "does not exist"),
        ("notes.txt", "is no zip file"),
        ("leftImg8bit", "neither"),
    ):
        monkeypatch.setenv("CITYSCAPES_ROOT", str(tmp_path / named))
        with pytest.raises(FoveaError, match=rf"CITYSCAPES_ROOT=.*{reason}"):
            locate()


def test_without_root_downloads_count(few: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CITYSCAPES_ROOT", raising=False)
    assert locate() is None
    (tmp_path / (ARCHIVE_NAME + ".part")).write_bytes(few.path.read_bytes())
    assert locate(tmp_path) is None
    assert locate(few.path.parent) == few


# ------------------------------------------------------------------------------------------ refused archives


def add(path: Path, name: str, data: bytes = b"x", mode: int | None = None, **fields: object) -> None:
    info = zipfile.ZipInfo(name)
    if mode is not None:
        info.external_attr = mode << 16
    for field, value in fields.items():
        setattr(info, field, value)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(info, data)


def patch(path: Path, old: bytes, new: bytes) -> None:
    assert len(old) == len(new)
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))


def make_link(path: Path) -> None:
    add(path, "leftImg8bit/link", b"/etc", stat.S_IFLNK | 0o777)


def make_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb", bytes(5 << 20))


def make_encrypted(path: Path) -> None:
    add(path, "locked")
    data = bytearray(path.read_bytes())
    place = data.rindex(b"PK\x01\x02")
    data[place + 8] |= 1
    path.write_bytes(data)


def make_double(path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        add(path, MEMBER)


def make_overlap(path: Path) -> None:
    add(path, "aaaa", b"1" * 50)
    add(path, "bbbb", b"1" * 50)
    data = bytearray(path.read_bytes())
    second = data.rindex(b"PK\x01\x02")
    offset = struct.unpack_from("<I", data, second + 42)[0]
    struct.pack_into("<I", data, second + 42, offset - 30)
    path.write_bytes(data)


UNSAFE: list[tuple[str, Callable[[Path], None], str]] = [
    ("absolute", lambda path: add(path, "/etc/passwd"), "absolute"),
    ("parent", lambda path: add(path, "leftImg8bit/../../evil.png"), r"'\.\.'"),
    ("parent alone", lambda path: add(path, ".."), r"'\.\.'"),
    ("drive", lambda path: add(path, "C:/evil.png"), "drive"),
    ("drive without slash", lambda path: add(path, "c:evil.png"), "drive"),
    ("backslash", lambda path: (add(path, "x/..evil"), patch(path, b"x/..evil", b"..\\\\evil")), "backslash"),  # type: ignore[func-returns-value, list-item]
    ("nul", lambda path: (add(path, "a.png+exe"), patch(path, b"a.png+exe", b"a.png\0exe")), "control"),  # type: ignore[func-returns-value, list-item]
    ("nothing but nul", lambda path: (add(path, "+exe"), patch(path, b"+exe", b"\0exe")), "control"),  # type: ignore[func-returns-value, list-item]
    ("newline", lambda path: add(path, "a\nb"), "control"),
    ("empty part", lambda path: add(path, "a//b"), "empty"),
    ("overlong", lambda path: add(path, "a" * 256), "overlong"),
    ("link", make_link, "link"),
    ("device", lambda path: add(path, "dev", b"", stat.S_IFCHR | 0o666), "link or device"),
    ("pipe", lambda path: add(path, "pipe", b"", stat.S_IFIFO | 0o666), "link or device"),
    ("folder that is a file", lambda path: add(path, "x", b"", stat.S_IFDIR | 0o755), "link or device"),
    ("double", make_double, "doubles"),
    ("double by case", lambda path: add(path, MEMBER.upper()), "doubles"),
    ("double by Unicode form", lambda path: (add(path, "e\u0301"), add(path, "\u00e9")), "doubles"),  # type: ignore[func-returns-value, list-item]
    ("file within a file", lambda path: add(path, MEMBER + "/x"), "inside another file"),
    ("bomb", make_bomb, "bomb"),
    ("encrypted", make_encrypted, "encrypted"),
    ("overlap", make_overlap, "overlaps"),
    ("lzma", lambda path: add(path, "x", compress_type=zipfile.ZIP_LZMA), "compression method 14"),
]


@pytest.mark.parametrize(("spoil", "reason"), [row[1:] for row in UNSAFE], ids=[row[0] for row in UNSAFE])
def test_unsafe_archives_are_refused(
    made: Path, tmp_path: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    spoil(made)
    before = contents(tmp_path)
    for act in (lambda: extract(made, tmp_path / "tree"), lambda: scan(Source("archive", made))):
        with pytest.raises(UnsafeArchive, match=reason):
            act()
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(entries=5), "entries"),
        (Limits(file_bytes=200), "bytes, at most 200"),
        (Limits(total_bytes=1000), "bytes unpacked"),
    ],
)
def test_limits(made: Path, tmp_path: Path, limits: Limits, reason: str) -> None:
    with pytest.raises(UnsafeArchive, match=reason):
        extract(made, tmp_path / "tree", limits=limits)
    assert not (tmp_path / "tree").exists() and not (tmp_path / "tree.part").exists()


def test_entry_that_lies_about_its_size(tmp_path: Path) -> None:
    # Declares 100 bytes, unpacks to 50 million: no more than the declared size is ever unpacked.
    path = tmp_path / "liar.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MEMBER, bytes(50_000_000))
    data = bytearray(path.read_bytes())
    central = data.rindex(b"PK\x01\x02")
    for place in (22, central + 24):
        struct.pack_into("<I", data, place, 100)
    for place in (14, central + 16):
        struct.pack_into("<I", data, place, zlib.crc32(bytes(100)))
    path.write_bytes(data)
    source = Source("archive", path)
    (ref,) = list_frames(source)
    tracemalloc.start()
    with pytest.raises(BrokenFrame, match="another size than the 100 bytes"):
        read_frame(source, ref)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
    with pytest.raises(BrokenFrame, match="another size"):
        extract(path, tmp_path / "tree")
    assert not (tmp_path / "tree").exists()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_archives_never_give_wrong_bytes(few: Source, tmp_path: Path, data: st.DataObject) -> None:
    """Any byte changed, any end cut: each frame is right or BrokenFrame, or the archive is refused."""
    original = few.path.read_bytes()
    damaged = (
        bytearray(original[: data.draw(st.integers(0, len(original)))])
        if data.draw(st.booleans())
        else bytearray(original)
    )
    for _ in range(data.draw(st.integers(0, 4))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.zip"
    path.write_bytes(damaged)
    expected = dict(make_members(counts=FEW_COUNTS))
    right = {(len(png), zlib.crc32(png)) for png in expected.values()}
    source = Source("archive", path)
    try:
        for ref, found in iterate_frames(source, list_frames(source)):
            if isinstance(found, bytes):
                # A renamed member keeps its bytes; its bytes are always some frame's own.
                assert found in expected.values()
                assert (ref.size_bytes, ref.crc32) in right
    except FoveaError:
        pass


# ------------------------------------------------------------------------------------------ broken frames


def test_broken_frame_leaves_the_others(made: Path) -> None:
    source = Source("archive", made)
    refs = list_frames(source)
    victim = refs[3]
    assert victim.offset is not None and victim.compressed_bytes is not None
    data = bytearray(made.read_bytes())
    data[victim.offset + 30 + len(victim.member) + victim.compressed_bytes - 20] ^= 0xFF
    made.write_bytes(data)
    found = dict(iterate_frames(source, refs))
    broken = {ref.image: str(error) for ref, error in found.items() if isinstance(error, BrokenFrame)}
    assert list(broken) == [victim.image]
    assert victim.member in broken[victim.image]


def test_replaced_archive_is_noticed(made: Path, tmp_path: Path) -> None:
    source = Source("archive", made)
    refs = list_frames(source)
    made.unlink()
    write_archive(made, counts={"val": {"lindau": 3}}, seed=1)
    for ref in refs:
        with pytest.raises(BrokenFrame):
            read_frame(source, ref)


def test_other_entry_in_the_same_place_is_noticed(made: Path) -> None:
    source = Source("archive", made)
    refs = list_frames(source)
    patch(made, refs[0].member.encode(), refs[0].member.replace("bonn_0", "bonn_1").encode())
    with pytest.raises(BrokenFrame, match="another entry"):
        read_frame(source, refs[0])


def test_missing_file_breaks_one_frame_missing_folder_the_run(tmp_path: Path) -> None:
    source = Source("tree", write_tree(tmp_path / "data", counts=FEW_COUNTS))
    refs = list_frames(source)
    (source.path / refs[0].member).unlink()
    results = list(iterate_frames(source, refs))
    assert [isinstance(found, BrokenFrame) for _, found in results] == [True] + [False] * 8
    shutil.rmtree(source.path)
    with pytest.raises(FoveaError, match="disappeared") as caught:
        list(iterate_frames(source, refs[1:]))
    assert not isinstance(caught.value, BrokenFrame)
    with pytest.raises(FoveaError, match="must stay in place"):
        scan(source)


def test_missing_archive(made: Path) -> None:
    source = Source("archive", made)
    refs = list_frames(source)
    made.unlink()
    with pytest.raises(FoveaError, match="disappeared") as caught:
        read_frame(source, refs[0])
    assert not isinstance(caught.value, BrokenFrame)
    with pytest.raises(FoveaError, match="No such file"):
        scan(source)


def test_out_of_handles_is_no_broken_frame(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source("archive", made)
    refs = list_frames(source)

    def refuse(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(FoveaError, match="Too many open files") as caught:
        read_frame(source, refs[0])
    assert not isinstance(caught.value, BrokenFrame)


@pytest.mark.parametrize("cut", [0, 3, 1000, -1, -30])
def test_cut_archive(made: Path, cut: int) -> None:
    made.write_bytes(made.read_bytes()[:cut])
    with pytest.raises(FoveaError, match="no whole zip archive"):
        check_entries(made)


# ------------------------------------------------------------------------------------------ extraction


def test_extraction_is_whole(few: Source, tmp_path: Path) -> None:
    reports: list[tuple[int, int]] = []
    source = extract(few.path, tmp_path / "deep" / "tree", progress=lambda *report: reports.append(report))
    assert source == Source("tree", tmp_path / "deep" / "tree")
    with zipfile.ZipFile(few.path) as archive:
        assert contents(source.path) == {
            info.filename: archive.read(info) for info in archive.infolist() if not info.is_dir()
        }
    assert reports[-1][0] == reports[-1][1] == sum(len(data) for data in contents(source.path).values())
    assert not (tmp_path / "deep" / "tree.part").exists()


def test_extraction_again_touches_nothing(few: Source, tmp_path: Path) -> None:
    source = extract(few.path, tmp_path / "tree")
    before = [path.stat().st_mtime_ns for path in sorted(source.path.rglob("*"))]
    assert extract(few.path, tmp_path / "tree") == source
    assert [path.stat().st_mtime_ns for path in sorted(source.path.rglob("*"))] == before


def test_extraction_onto_something_else(few: Source, tmp_path: Path) -> None:
    source = extract(few.path, tmp_path / "tree")
    (source.path / MEMBER).write_bytes(b"mine")
    with pytest.raises(FoveaError, match="differs"):
        extract(few.path, tmp_path / "tree")
    assert (source.path / MEMBER).read_bytes() == b"mine"


def test_extraction_goes_on_and_repairs(few: Source, tmp_path: Path) -> None:
    whole = contents(extract(few.path, tmp_path / "whole").path)
    part = tmp_path / "tree.part"
    shutil.copytree(tmp_path / "whole", part)
    kept = part / sorted(whole)[0]
    stamp = kept.stat().st_ino
    (part / MEMBER).write_bytes(b"half")
    same_size = bytearray((part / sorted(whole)[2]).read_bytes())
    same_size[-1] ^= 1
    (part / sorted(whole)[2]).write_bytes(same_size)
    (part / sorted(whole)[3]).unlink()
    (part / "leftImg8bit" / f".{Path(MEMBER).name}.part").write_bytes(b"left by a kill")
    (part / "leftImg8bit" / "of_another_archive.png").write_bytes(b"x")
    source = extract(few.path, tmp_path / "tree")
    assert contents(source.path) == whole
    assert (source.path / sorted(whole)[0]).stat().st_ino == stamp


def test_links_in_the_part_folder_lead_nowhere(few: Source, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    part = tmp_path / "tree.part"
    (part / "leftImg8bit").mkdir(parents=True)
    (part / "leftImg8bit" / "val").symlink_to(outside)
    with pytest.raises(FoveaError, match="leads out"):
        extract(few.path, tmp_path / "tree")
    (part / "leftImg8bit" / "val").unlink()
    (part / "leftImg8bit" / "val" / "lindau").mkdir(parents=True)
    (outside / "victim").write_bytes(b"mine")
    (part / MEMBER).symlink_to(outside / "victim")
    (part / MEMBER).with_name(f".{Path(MEMBER).name}.part").symlink_to(outside / "victim")
    source = extract(few.path, tmp_path / "tree")
    assert contents(outside) == {"victim": b"mine"}
    assert not (source.path / MEMBER).is_symlink()
    shutil.rmtree(source.path)
    part.symlink_to(outside)
    with pytest.raises(FoveaError, match="is a link"):
        extract(few.path, tmp_path / "tree")
    assert contents(outside) == {"victim": b"mine"}


def test_too_little_space(few: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_module, "free_bytes", lambda folder: 100)
    with pytest.raises(FoveaError, match="make room"):
        extract(few.path, tmp_path / "tree")
    assert not (tmp_path / "tree").exists() and contents(tmp_path / "tree.part") == {}


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    mounted: list[Path] = []

    def mount_tmpfs(options: str) -> Path:
        place = tmp_path / f"mount{len(mounted)}"
        place.mkdir()
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True
        ).returncode:
            pytest.skip("needs the right to mount a tmpfs")
        mounted.append(place)
        return place

    yield mount_tmpfs
    for place in mounted:
        subprocess.run(["umount", "-l", place], check=True)


def test_full_disk(val: Source, mount: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    disk = mount("size=1m")
    monkeypatch.setattr(archive_module, "free_bytes", lambda folder: 1 << 40)  # somebody else fills it midway
    with pytest.raises(FoveaError, match=r"disk is full.*run again"):
        extract(val.path, disk / "tree")
    assert not (disk / "tree").exists()
    kept = contents(disk / "tree.part")
    assert kept
    refs = {ref.member: ref for ref in list_frames(val)}
    assert all(zlib.crc32(data) == refs[name].crc32 for name, data in kept.items() if name in refs)
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
    source = extract(val.path, disk / "tree")
    assert check_counts(list_frames(source), allow_subset=True).ok


def test_read_only_target(few: Source, mount: Callable[..., Path]) -> None:
    with pytest.raises(FoveaError, match="read-only"):
        extract(few.path, mount("size=4m,ro") / "tree")


def test_target_that_disappears(val: Source, tmp_path: Path) -> None:
    def remove(done: int, total: int) -> None:
        if done > total // 2:
            shutil.rmtree(tmp_path / "gone", ignore_errors=True)

    with pytest.raises(FoveaError, match="disappeared"):
        extract(val.path, tmp_path / "gone" / "tree", progress=remove)
    assert not (tmp_path / "gone" / "tree").exists()
    extract(val.path, tmp_path / "gone" / "tree")


def test_two_extractions_at_once(val: Source, tmp_path: Path) -> None:
    results: list[Source] = []
    threads = [
        threading.Thread(target=lambda: results.append(extract(val.path, tmp_path / "tree")))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [Source("tree", tmp_path / "tree")] * 3
    assert check_counts(list_frames(results[0]), allow_subset=True).ok


def test_killed_at_random_moments(full: Source, tmp_path: Path) -> None:
    target, part = tmp_path / "tree", tmp_path / "tree.part"
    script = f"from pathlib import Path; from assets.frames.archive import extract; extract(Path({str(full.path)!r}), Path({str(target)!r}))"
    chooser = random.Random(7)
    done = 0
    for threshold in sorted(chooser.randrange(4500) for _ in range(5)):
        process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
        while process.poll() is None and sum(len(files) for _, _, files in os.walk(part)) < threshold:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break  # it was faster than the watcher
        assert not target.exists()
        finished = [path for path in part.rglob("*.png") if not path.name.startswith(".")]
        assert len(finished) >= done
        done = len(finished)
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
    assert not part.exists()
    expected = {ref.member: ref.crc32 for ref in list_frames(full)}
    assert {name: zlib.crc32(data) for name, data in contents(target).items() if name in expected} == expected
    assert len(contents(target)) == len(expected) + 2
