"""The manifest: which pictures a folder holds, their splits, and what is wrong with the broken ones."""

import dataclasses
import hashlib
import os
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from assets.datasets import Dataset, Splits, parse_splits
from assets.frames import manifest as manifest_module
from assets.frames.decode import BrokenPicture, read_picture
from assets.frames.encode import encode_png
from assets.frames.folder import Names, assign_splits, find_pictures, hash_split, image_ids
from assets.frames.manifest import COLUMNS, scan
from assets.frames.targets import files_in
from models.errors import FoveaError


def picture(seed: int, height: int = 24, width: int = 32) -> bytes:
    return encode_png(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def put(root: Path, *paths: str) -> None:
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(int(hashlib.sha256(path.encode()).hexdigest()[:8], 16)))


def folder(root: Path, **changes: object) -> Dataset:
    return dataclasses.replace(Dataset("mine", "folder", root), **changes)  # type: ignore[arg-type]


def splits_of(table: pd.DataFrame) -> dict[str, str]:
    return dict(zip(table["image"], table["split"], strict=True))


# ---- files, names


def test_rows_say_what_the_files_are(tmp_path: Path) -> None:
    put(tmp_path, "train/a.png", "val/film 1/b.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "train" / "turned.jpg", exif=exif)
    table = scan(folder(tmp_path))
    assert list(table.columns) == list(COLUMNS) and list(table["image"]) == ["train/a", "train/turned", "val/film 1/b"]
    first, turned, last = (table.iloc[k] for k in range(3))
    data = (tmp_path / "train" / "a.png").read_bytes()
    assert (first.path, first.bytes) == (str(tmp_path / "train/a.png"), len(data))
    assert first.sha256 == hashlib.sha256(data).hexdigest()
    assert (first.width, first.height, first.status, first.reason) == (32, 24, "ok", "")
    assert (turned.width, turned.height) == (20, 30) and (last.split, last.group) == ("val", "film 1")


def test_hidden_and_other_files_are_passed_over_and_a_loop_of_links_is_walked_once(tmp_path: Path) -> None:
    put(tmp_path, "a.png", ".hidden.png", ".git/b.png", "sub/.DS_Store.png", "sub/C.PNG")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    assert find_pictures(tmp_path) == ["a.png", "sub/C.PNG"]


def test_ambiguous_names_keep_their_suffix() -> None:
    ids = image_ids(["a.jpg", "a.png", "b.png", "b.old.png", "c", "c.png"])
    assert list(ids.values()) == ["a.jpg", "a.png", "b", "b.old", "c", "c.png"]


@given(st.lists(st.from_regex(r"[ab]{1,2}(/[ab])?(\.[jp])?(\.[jp])", fullmatch=True), unique=True))
def test_image_ids_are_unique(paths: list[str]) -> None:
    ids = image_ids(paths)
    assert set(ids) == set(paths) and len(set(ids.values())) == len(paths)


def test_a_picture_is_found_by_any_clear_name() -> None:
    known = ["train/a", "val/a", "val/b", "val/caf\u00e9"]
    names = Names(known, [f"/d/{name}.png" for name in known])
    ways = {
        "train/a": ["train/a", "train/a.png", "./train/a.png", r"Train\A.PNG", r"C:\pictures\train\a.png", "/else/train/a"],
        "val/b": ["b", "b.png", "val/b", "B.PNG", r"val\b.png"],
        "val/caf\u00e9": ["cafe\u0301", "CAFE\u0301.png"],
    }  # fmt: skip
    for image, given_names in ways.items():
        assert names.resolve(given_names)[0] == dict.fromkeys(given_names, image)
    # an absolute path that ends in another folder is another picture
    found, unknown, ambiguous = names.resolve(["a", "A.png", "c", "/else/test/b.png", ""])
    assert (found, unknown, ambiguous) == ({}, ["c", "/else/test/b.png", ""], ["a", "A.png"])


def test_a_name_that_is_no_text_is_one_quarantined_picture(tmp_path: Path) -> None:
    long = "\u00e9" * 120 + ".png"
    put(tmp_path, "NA.png", "null.png", "\u00fc.png", "u\u0308.png", "a" * 251 + ".png", long)
    for name in (b"caf\xe9.png", b"two\nlines.png"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(picture(7))
    table = scan(folder(tmp_path)).set_index("image")
    good = table.index[table["status"] == "ok"]
    assert sorted(good) == sorted(["NA", "null", "\u00fc", "u\u0308", "a" * 251, long[:-4]])
    bad = table[table["status"] != "ok"]
    assert list(bad.index) == [r"caf\xe9", r"two\x0alines"] and bad["reason"].str.contains("rename it").all()
    table.to_parquet(tmp_path / "t.parquet")  # each text can be written


# ---- splits


def test_split_folders_in_any_spelling(tmp_path: Path) -> None:
    put(tmp_path, "Train/a.png", "validation/b.png", "test/c.png", "extra/d.png")
    table = scan(folder(tmp_path))
    assert splits_of(table) == {"Train/a": "train", "validation/b": "val", "test/c": "test"}
    with pytest.raises(FoveaError, match="no folder train, val or test"):
        scan(folder(tmp_path / "extra", splits=Splits("folders")))


def test_what_is_measured_on_is_test_else_val_else_an_error_with_the_way_out(tmp_path: Path) -> None:
    dataset = folder(tmp_path)
    put(tmp_path, "train/a.png")
    with pytest.raises(FoveaError, match=r"'mine' has no picture in test or val.*--test"):
        dataset.evaluation_split(scan(dataset))
    put(tmp_path, "val/b.png")
    assert dataset.evaluation_split(scan(dataset)) == "val"
    put(tmp_path, "test/c.png")
    assert dataset.evaluation_split(scan(dataset)) == "test"


def test_hash_splits_are_80_10_10_and_never_move() -> None:
    named = {name: hash_split(name) for name in ("a", "f", "films/x_0001", "8")}
    assert named == {"a": "train", "f": "val", "films/x_0001": "train", "8": "test"}  # golden
    counts = Counter(hash_split(str(k)) for k in range(20_000))
    assert counts["train"] == pytest.approx(16_000, abs=300) and counts["val"] == pytest.approx(2_000, abs=200)
    assert counts["test"] == pytest.approx(2_000, abs=200)


@given(st.lists(st.from_regex(r"[a-f]{1,6}\.png", fullmatch=True), unique=True, min_size=1), st.data())
def test_a_pictures_hash_split_does_not_depend_on_its_neighbours(names: list[str], data: st.DataObject) -> None:
    some = data.draw(st.lists(st.sampled_from(names), unique=True))
    whole, part = (assign_splits(n, Splits("hash"), Path("/x")) for n in (names, some))
    assert part == {name: whole[name] for name in some}


def test_globs(tmp_path: Path) -> None:
    put(tmp_path, "1001.png", "1002.png", "1101.png", "day/1102.png", "z.png")
    rule = parse_splits({"train": "10??.png", "test": ["11*", "day/*"]}, tmp_path)
    table = scan(folder(tmp_path, splits=rule))
    assert splits_of(table) == {"1001": "train", "1002": "train", "1101": "test", "day/1102": "test"}
    with pytest.raises(FoveaError, match=r"glob '2\*' for val fits none"):
        scan(folder(tmp_path, splits=parse_splits({"train": "1*", "val": "2*"}, tmp_path)))
    with pytest.raises(FoveaError, match=r"1001\.png fits the globs of two splits, train and test"):
        scan(folder(tmp_path, splits=parse_splits({"train": "1*", "test": "1001.png"}, tmp_path)))


def test_counts_by_sorted_name(tmp_path: Path) -> None:
    put(tmp_path, *(f"{k}.png" for k in range(8)))
    table = scan(folder(tmp_path, splits=parse_splits("4/1/2", tmp_path)))
    assert list(table["split"]) == ["train"] * 4 + ["val"] + ["test"] * 2
    with pytest.raises(FoveaError, match="more than the 8 pictures"):
        scan(folder(tmp_path, splits=parse_splits("8/1/2", tmp_path)))


@pytest.mark.parametrize(
    "data",
    [
        b"sep=;\r\nImage;Split;note\na;TRAIN;x\n;;\nsub\\b.png;Validation;\nc.png;test",
        "image, split\r\na, train\r\nsub/b, val\r\nc, test\r\n".encode("utf-16"),
        "IMAGE\tSPLIT\n\na\ttrain\nC:\\data\\sub\\b.png\tval\n/mnt/c.png\ttest\n".encode("utf-16-le"),
        "\ufeffimage,split\r\nA.PNG,train\r\nb,val\r\nc,test\r\n".encode(),
        b"image,split,note\na,train,x\nsub/b.png,Validation,\n./c.png,test,\n",
    ],
)
def test_splits_as_spreadsheets_save_them(tmp_path: Path, data: bytes) -> None:
    put(tmp_path, "a.png", "sub/b.png", "c.png", "d.png")
    (tmp_path / "splits.csv").write_bytes(data)
    table = scan(folder(tmp_path, splits=parse_splits("splits.csv", tmp_path)))
    assert splits_of(table) == {"a": "train", "sub/b": "val", "c": "test"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("image,part\na,train\n", r"no column split; needed are image, split \(found image, part\)"),
        ("image,split\na\n", "line 2: a has no split .is the row cut short"),
        ("image,split\na,train,,b\n", "line 2: 4 cells, the header has 2"),
        ('image,split\na,"train\n', "splits.csv, from line 2 on: unexpected end of data .a quote that does not end"),
        ("PK\3\4\x14", "splits.csv: an Excel workbook, whatever it is called: save the table as CSV"),
        ("\x01" * 9, "splits.csv: not a text file: save the table as CSV"),
        ("a" * 200_000, "line 1: field larger than field limit .*: not a table"),
        ("image,split\na,trian\n", r"splits\.csv, line 2: 'trian' is no split"),
        ("image,split\nghost,train\na,val\n", r"splits\.csv names 1 picture \(ghost\) that .* doesn't hold"),
        ("image,split\na,train\na.png,val\n", "line 3: a.png stands in two splits, train and val"),
        ("image,split\n", "no picture in it"),
        ("", "the table is empty"),
    ],
)
def test_a_bad_csv_is_named_with_the_reason(tmp_path: Path, text: str, reason: str) -> None:
    put(tmp_path, "a.png")
    (tmp_path / "splits.csv").write_text(text)
    with pytest.raises(FoveaError, match=reason) as caught:
        scan(folder(tmp_path, splits=parse_splits("splits.csv", tmp_path)))
    assert "splits.csv" in str(caught.value)


def test_cityscapes_layout(tmp_path: Path) -> None:
    name = "train/ulm/ulm_000000_000019"
    put(tmp_path, f"leftImg8bit/{name}_leftImg8bit.png", f"gtFine/{name}_color.png")
    table = scan(Dataset("cityscapes", "cityscapes", tmp_path))
    assert splits_of(table) == {f"{name}_leftImg8bit": "train"} and list(table["group"]) == ["ulm"]


# ---- what is wrong with a file or a folder


def test_broken_files_are_quarantined_by_name_and_the_rest_kept(tmp_path: Path) -> None:
    put(tmp_path, "good.png")
    whole = picture(5, 200, 200)
    bad = {
        "cut.png": (whole[:5000], "cut short"),
        "notes.png": (b"my notes\n", "not a PNG"),
        "dot.png": (picture(6, 1, 1), "1×1 is smaller than 16×16"),
        "empty.jpg": (b"", "empty"),
        "flipped.png": (whole[:9000] + bytes([whole[9000] ^ 1]) + whole[9001:], "checksum"),
        "old.gif": (b"GIF89a", r"\.gif files are not read"),
    }
    for name, (data, _) in bad.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "gone")
    table = scan(folder(tmp_path, splits=Splits("hash"))).set_index("image")
    assert table.loc["good", "status"] == "ok" and (table.drop("good")["status"] == "quarantined").all()
    assert len(table) == len(bad) + 2
    for name, (_, reason) in bad.items():
        assert pd.Series([table.loc[name.rsplit(".", 1)[0], "reason"]]).str.contains(reason).all()
    assert "can't be read" in table.loc["nowhere", "reason"]


def test_a_pipe_and_a_folder_that_cannot_be_listed_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "a.png", "locked/b.png")
    os.mkfifo(tmp_path / "pipe.png")
    table = scan(folder(tmp_path)).set_index("image")
    assert "is a pipe" in table.loc["pipe", "reason"] and table.loc["a", "status"] == "ok"
    with pytest.raises(BrokenPicture, match=r"pipe\.png: is a pipe"):
        read_picture(tmp_path / "pipe.png")
    listed = os.scandir

    def refused(place: object) -> object:
        if str(place).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(place))
        return listed(place)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", refused)
    for reads in (lambda: scan(folder(tmp_path)), lambda: files_in(tmp_path)):
        with pytest.raises(FoveaError, match="locked: the folder can't be listed: Permission denied"):
            reads()


def test_copies_are_quarantined_and_never_leak_into_test(tmp_path: Path) -> None:
    put(tmp_path, "train/a.png", "train/b.png", "test/c.png", "val/d.png")
    same = (tmp_path / "test/c.png").read_bytes()
    for copy in ("train/b.png", "train/z.png", "val/d.png"):
        (tmp_path / copy).write_bytes(same)
    table = scan(folder(tmp_path)).set_index("image")
    assert list(table.index[table["status"] == "ok"]) == ["test/c", "train/a"]
    assert set(table.loc[table["status"] != "ok", "reason"]) == {"the same content as test/c"}


def test_empty_and_wrong_folders(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(FoveaError, match="file is not a folder"):
        scan(folder(tmp_path / "file"))
    with pytest.raises(FoveaError, match=f"no picture in {tmp_path}"):
        scan(folder(tmp_path))
    with pytest.raises(FoveaError, match=r"CITYSCAPES_USERNAME.*CITYSCAPES_ROOT"):
        scan(Dataset("cityscapes", "cityscapes"))


# ---- the cache


def test_unchanged_files_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, cache = tmp_path / "pictures", tmp_path / "cache"
    put(root, "a.png", "b.png", "c.png")
    (root / "bad.png").write_bytes(b"text")
    read: list[str] = []
    honest = manifest_module.inspect
    monkeypatch.setattr(manifest_module, "inspect", lambda path: (read.append(path.name), honest(path))[1])
    first = scan(folder(root), cache)
    assert len(read) == 4
    read.clear()
    pd.testing.assert_frame_equal(scan(folder(root), cache), first)
    assert read == []
    # A change that keeps name, size and time of modification, and a new file: only these two are read.
    data, before = bytearray((root / "b.png").read_bytes()), (root / "b.png").stat()
    time.sleep(0.02)  # a file system's clock has ticks
    (root / "b.png").write_bytes(bytes(data[:-30]) + bytes(30))
    os.utime(root / "b.png", ns=(before.st_atime_ns, before.st_mtime_ns))
    put(root, "d.png")
    second = scan(folder(root), cache).set_index("image")
    assert sorted(read) == ["b.png", "d.png"] and second.loc["b", "status"] == "quarantined"
    assert second.loc["a", "sha256"] == first.set_index("image").loc["a", "sha256"]


def test_a_damaged_cache_costs_time_only(tmp_path: Path) -> None:
    root, cache = tmp_path / "pictures", tmp_path / "cache"
    put(root, "a.png")
    first = scan(folder(root), cache)
    (kept,) = cache.iterdir()
    kept.write_bytes(b"this is no database, and long enough to be looked at as one" * 40)
    for _ in range(2):
        pd.testing.assert_frame_equal(scan(folder(root), cache), first)
