"""Frames from archives and trees: what is listed, what is refused, what survives."""

import errno
import multiprocessing
import os
import shutil
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

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
    Source,
    check_counts,
    locate,
    peek_frame,
    read_frame,
    scan,
)
from models.errors import FoveaError

MEMBER = "leftImg8bit/val/lindau/lindau_000000_000019_leftImg8bit.png"


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return Source("archive", write_archive(tmp_path_factory.mktemp("full") / ARCHIVE_NAME))


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return Source("archive", write_archive(tmp_path_factory.mktemp("few") / ARCHIVE_NAME, counts=FEW_COUNTS))


def frames_of(source: Source) -> list[FrameRef]:
    return scan(source).frames


def each(source: Source, refs: list[FrameRef]) -> dict[FrameRef, bytes | BrokenFrame]:
    """Frames, or why one of them is broken; anything worse is raised."""
    found: dict[FrameRef, bytes | BrokenFrame] = {}
    for ref in refs:
        try:
            found[ref] = read_frame(source, ref)
        except BrokenFrame as error:
            found[ref] = error
    return found


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return write_archive(tmp_path / "made.zip", counts=FEW_COUNTS)


EXPECTED = dict(make_members(counts=FEW_COUNTS))


# ------------------------------------------------------------------------------------------ what is there


def test_full_archive(full: Source) -> None:
    frames, strangers = scan(full)
    report = check_counts(frames, strangers=strangers)
    assert [len(cities) for cities in OFFICIAL_COUNTS.values()] == [18, 3, 6]
    assert report.ok and report.counts == OFFICIAL_COUNTS
    assert report.totals == {"train": 2975, "val": 500, "test": 1525}
    assert report.message() == "complete: train 2975, val 500, test 1525"
    assert len({ref.image for ref in frames}) == 5000
    assert [ref.image for ref in frames] == sorted(ref.image for ref in frames)
    assert frames[0].image == "test/berlin/berlin_000000_000019_leftImg8bit"


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_reading_from_many_processes(tmp_path: Path, compression: int) -> None:
    path = write_archive(tmp_path / "a.zip", counts=FEW_COUNTS, compression=compression)
    source = Source("archive", path)
    refs = frames_of(source)
    expected = [EXPECTED[ref.member] for ref in refs]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read_frame, [source] * 90, refs * 10)) == expected * 10
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("forkserver")) as processes:
        assert list(processes.map(read_frame, [source] * len(refs), refs, chunksize=3)) == expected


def write_beyond_four_gigabytes(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate((4 << 30) + 12345)  # a hole, as large archives have where other members are
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(MEMBER, b"picture")


def write_stream(path: Path) -> None:
    """As archives come from a pipe: sizes after the data."""
    with (
        path.open("wb", buffering=0) as file,
        zipfile.ZipFile(SimpleNamespace(write=file.write, flush=file.flush), "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(MEMBER, "w", force_zip64=True) as member,
    ):  # type: ignore[call-overload]
        member.write(b"picture")


def write_long_extra_field(path: Path) -> None:
    info = zipfile.ZipInfo(MEMBER)
    info.extra = struct.pack("<HH", 0xCAFE, 5000) + bytes(5000)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, b"picture")


@pytest.mark.parametrize("write", [write_beyond_four_gigabytes, write_stream, write_long_extra_field])
def test_unusual_archives(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path / "a.zip")
    source = Source("archive", tmp_path / "a.zip")
    (ref,) = frames_of(source)
    assert read_frame(source, ref) == b"picture" and peek_frame(source, ref)[0] == b"picture"
    if write is write_beyond_four_gigabytes:
        assert ref.offset is not None and ref.offset > 1 << 32


def test_what_systems_leave_behind_is_passed_over(made: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(made, "a") as archive:
        archive.writestr("__MACOSX/leftImg8bit/val/lindau/._x.png", b"")
        archive.writestr("leftImg8bit/val/lindau/._lindau_000000_000019_leftImg8bit.png", b"")
        archive.writestr("leftImg8bit/val/.DS_Store", b"")
        archive.writestr("leftImg8bit/val/stray.png", b"")
        archive.writestr("leftImg8bit/val/lindau/deeper/x.png", b"")
    zipfile.ZipFile(made).extractall(tmp_path)
    for source in (Source("archive", made), Source("tree", tmp_path)):
        frames, strangers = scan(source)
        assert len(frames) == 9 and strangers == ["leftImg8bit/val/lindau/deeper/x.png", "leftImg8bit/val/stray.png"]


def test_linked_tree_is_followed(tmp_path: Path) -> None:
    write_tree(tmp_path / "elsewhere", counts=FEW_COUNTS)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "leftImg8bit").symlink_to(tmp_path / "elsewhere" / "leftImg8bit")
    (tmp_path / "elsewhere" / "leftImg8bit" / "loop").symlink_to(tmp_path / "elsewhere")
    source = Source("tree", tmp_path / "here")
    frames, strangers = scan(source)
    assert len(frames) == 9 and strangers == [] and len(read_frame(source, frames[0])) == frames[0].size_bytes


# ------------------------------------------------------------------------------------------ counts


def ref_of(split: str, city: str, name: str) -> FrameRef:
    return FrameRef(f"{split}/{city}/{name}", split, city, f"leftImg8bit/{split}/{city}/{name}.png", 1)


def refs_of(counts: dict[str, dict[str, int]]) -> list[FrameRef]:
    return [
        ref_of(split, city, f"{city}_{n:06d}_000019_leftImg8bit")
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
    refs += [ref_of("val", "lindau", name) for name in ("lindau_1_2_leftImg8bit", "ulm_000000_000019_leftImg8bit")]
    report = check_counts(refs, strangers=["leftImg8bit/x.png"])
    assert not report.ok and report.missing == ["train/aachen: 4 of 174", "val/munster: all 174"]
    assert report.extra == [
        "leftImg8bit/x.png",
        "leftImg8bit/test/paris/paris_000000_000019_leftImg8bit.png",
        "leftImg8bit/val/lindau/lindau_1_2_leftImg8bit.png",
        "leftImg8bit/val/lindau/ulm_000000_000019_leftImg8bit.png",
        "test/bonn: 1 more than 46",
    ]
    for item in report.missing + report.extra:
        assert item in report.message()


def test_a_part_when_the_user_says_so() -> None:
    refs = refs_of({"val": {"lindau": 59}, "test": {"bonn": 46}})
    assert not check_counts(refs).ok and "declared" in check_counts(refs).message()
    report = check_counts(refs, allow_subset=True)
    assert report.ok and len(report.missing) == 25 and not report.partial
    half = check_counts(refs[1:], allow_subset=True)
    assert half.ok and half.partial == [m for m in half.missing if "1 of " in m] and len(half.partial) == 1
    assert not check_counts([], allow_subset=True).ok
    assert not check_counts(refs, strangers=["leftImg8bit/x.png"], allow_subset=True).ok


# ------------------------------------------------------------------------------------------ locating


def test_root_names_an_archive_or_a_tree(few: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(tmp_path / "data", counts=FEW_COUNTS)
    tree = Source("tree", tmp_path / "data")
    ways = {tree.path: tree, tree.path / "leftImg8bit": tree, few.path: few, few.path.parent: few}
    for named, source in ways.items():
        monkeypatch.setenv("CITYSCAPES_ROOT", str(named))
        assert locate(None) == source
        assert locate(tmp_path / "elsewhere") == source, "the environment wins"


def test_root_that_holds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "leftImg8bit").mkdir()
    for named, reason in (("absent", "does not exist"), ("notes.txt", "is no zip file"), ("leftImg8bit", "neither")):
        monkeypatch.setenv("CITYSCAPES_ROOT", str(tmp_path / named))
        with pytest.raises(FoveaError, match=rf"CITYSCAPES_ROOT=.*{reason}"):
            locate(None)


def test_without_root_the_path_counts(few: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CITYSCAPES_ROOT", raising=False)
    assert locate(None) is None
    (tmp_path / (ARCHIVE_NAME + ".part")).write_bytes(few.path.read_bytes())
    with pytest.raises(FoveaError, match="holds neither"):
        locate(tmp_path)
    assert locate(few.path.parent) == few


# ------------------------------------------------------------------------------------------ archives with a design on us


def add(path: Path, name: str, data: bytes = b"x") -> None:
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo(name), data)


def patch(path: Path, old: bytes, new: bytes) -> None:
    assert len(old) == len(new)
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))


@pytest.mark.parametrize(
    "name", [b"/etc/passwd.png", b"leftImg8bit/../../evil.png", b"leftImg8bit/val/../a.png", b"a\nb.png"]
)
def test_names_that_lead_elsewhere_are_no_frames(made: Path, name: bytes) -> None:
    stand_in = b"#" * len(name)  # zipfile would mend some of these names while writing
    add(made, stand_in.decode())
    patch(made, stand_in, name)
    frames, strangers = scan(Source("archive", made))
    report = check_counts(frames, strangers=strangers, allow_subset=True)
    assert not report.ok and report.extra == [name.decode()]


def test_of_entries_with_one_name_the_last_is_the_frame(made: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        add(made, MEMBER, b"other")
    source = Source("archive", made)
    refs = frames_of(source)
    assert len(refs) == 9 and [read_frame(source, ref) for ref in refs if ref.member == MEMBER] == [b"other"]


def make_encrypted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)


def make_large(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = max(ref.size_bytes for ref in frames_of(Source("archive", path)))
    monkeypatch.setattr(archive_module, "MAX_FILE_BYTES", size - 1)


@pytest.mark.parametrize(("spoil", "reason"), [(make_encrypted, "encrypted"), (make_large, "at most")])
def test_a_frame_that_is_not_taken_leaves_the_others(
    made: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path, pytest.MonkeyPatch], None], reason: str
) -> None:
    spoil(made, monkeypatch)
    source = Source("archive", made)
    found = each(source, frames_of(source))
    broken = [str(error) for error in found.values() if isinstance(error, BrokenFrame)]
    assert broken and len(broken) < len(found) and all(reason in text for text in broken)


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
    (ref,) = frames_of(source)
    tracemalloc.start()
    assert read_frame(source, ref) == bytes(100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_archives_never_give_wrong_bytes(few: Source, tmp_path: Path, data: st.DataObject) -> None:
    """Any byte changed, any end cut: each frame is right or BrokenFrame, or the archive can't be read."""
    original = few.path.read_bytes()
    end = data.draw(st.just(len(original)) | st.integers(0, len(original)))
    damaged = bytearray(original[:end])
    for _ in range(data.draw(st.integers(0, 4))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.zip"
    path.write_bytes(damaged)
    right = {(len(png), zlib.crc32(png)) for png in EXPECTED.values()}
    source = Source("archive", path)
    try:
        for ref, found in each(source, frames_of(source)).items():
            if isinstance(found, bytes):
                # A renamed member keeps its bytes; its bytes are always some frame's own.
                assert found in EXPECTED.values() and (ref.size_bytes, ref.crc32) in right
    except FoveaError:
        pass


# ------------------------------------------------------------------------------------------ broken frames


def test_replaced_archive_is_noticed(made: Path) -> None:
    source = Source("archive", made)
    refs = frames_of(source)
    made.unlink()
    write_archive(made, counts={"val": {"lindau": 3}}, seed=1)
    for ref in refs:
        with pytest.raises(BrokenFrame):
            read_frame(source, ref)


def test_other_entry_in_the_same_place_is_noticed(made: Path) -> None:
    source = Source("archive", made)
    refs = frames_of(source)
    patch(made, refs[0].member.encode(), refs[0].member.replace("bonn_0", "bonn_1").encode())
    with pytest.raises(BrokenFrame, match=refs[0].member):
        read_frame(source, refs[0])


def test_missing_file_breaks_one_frame_missing_folder_the_run(tmp_path: Path) -> None:
    source = Source("tree", write_tree(tmp_path / "data", counts=FEW_COUNTS))
    refs = frames_of(source)
    (source.path / refs[0].member).unlink()
    assert [isinstance(found, BrokenFrame) for found in each(source, refs).values()] == [True] + [False] * 8
    shutil.rmtree(source.path)
    with pytest.raises(FoveaError, match="disappeared") as caught:
        each(source, refs[1:])
    assert not isinstance(caught.value, BrokenFrame)
    with pytest.raises(FoveaError, match="must stay in place"):
        scan(source)


def test_missing_archive(made: Path) -> None:
    source = Source("archive", made)
    refs = frames_of(source)
    made.unlink()
    with pytest.raises(FoveaError, match="disappeared") as caught:
        read_frame(source, refs[0])
    assert not isinstance(caught.value, BrokenFrame)
    with pytest.raises(FoveaError, match="No such file"):
        scan(source)


def test_out_of_handles_is_no_broken_frame(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source("archive", made)
    refs = frames_of(source)
    monkeypatch.setattr(zipfile, "ZipFile", mock.Mock(side_effect=OSError(errno.EMFILE, os.strerror(errno.EMFILE))))
    with pytest.raises(FoveaError, match="Too many open files") as caught:
        read_frame(source, refs[0])
    assert not isinstance(caught.value, BrokenFrame)


@pytest.mark.parametrize("cut", [0, 3, 1000, -1, -30])
def test_cut_archive(made: Path, cut: int) -> None:
    made.write_bytes(made.read_bytes()[:cut])
    with pytest.raises(FoveaError, match="no whole zip archive"):
        scan(Source("archive", made))
