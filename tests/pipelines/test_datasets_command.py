import os
import sqlite3
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from pipelines.cli import main


@pytest.fixture
def pictures(installation: Path) -> Path:
    folder = installation / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for k in range(4):
        Image.fromarray(rng.integers(0, 256, (64, 80, 3), dtype=np.uint8)).save(folder / f"{k}.png")
    rows = [f"{k}.png,0,{x},30" for k in range(4) for x in (10, 40)]
    (installation / "eyes.csv").write_text("image,subject,x,y\n" + "\n".join(rows) + "\n")
    return folder


def added(pictures: Path, *more: str) -> tuple[int, str]:
    eyes = str(pictures.parent / "eyes.csv")
    done = CliRunner().invoke(main, ["datasets", "add", "some", str(pictures), "--fixations", eyes, *more])
    return done.exit_code, done.output + str(done.exception or "")


def test_fixations_on_pictures_that_the_splits_leave_out_are_counted(pictures: Path) -> None:
    code, said = added(pictures, "--splits", "2/1/0")
    assert code == 0, said
    assert "some: 3 pictures (2 train, 1 val, 0 test; 1 more in no split)" in said
    assert "--splits COUNTS`, or --train, --val and --test GLOB" in said
    assert "fixations: 6 of 1 people on 3 pictures; left out: 2 on pictures that are not in the dataset" in said
    shown = CliRunner().invoke(main, ["datasets", "show", "some"])
    assert shown.exit_code == 0 and "2 on pictures that are not in the dataset" in shown.output


def test_own_maps_are_looked_for_before_anything_is_registered(pictures: Path) -> None:
    maps = pictures.parent / "maps"
    maps.mkdir()
    for k in range(3):
        (maps / f"{k}.png").write_bytes((pictures / f"{k}.png").read_bytes())
    code, said = added(pictures, "--maps", str(maps))
    assert code == 1 and "not every picture has a map of its own" in said and "no map for 3.png" in said
    assert "some" not in CliRunner().invoke(main, ["datasets", "list"]).output
    code, said = added(pictures, "--maps", str(maps), "--splits", "2/1/0")
    assert code == 0 and f"maps: one for each picture, in {maps}" in said


def test_the_same_folder_again_changes_the_given_options(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert added(pictures, "--size", "64x64")[0] == 0
    code, said = added(pictures, "--splits", "1/1/2")
    assert code == 0 and "some: 4 pictures (1 train, 1 val, 2 test)" in said, said
    settings = pictures.parent / "fovea.toml"
    before = settings.read_text()
    assert 'size = "64x64"' in before and 'splits = "1/1/2"' in before and "eyes.csv" in before
    with monkeypatch.context() as patched:
        patched.setattr("assets.registration.look", lambda *_: 0)
        code, said = added(pictures, "--splits", "4/0/0")
    assert code == 1 and "none of its pictures" in said and settings.read_text() == before
    assert added(pictures / ".." / pictures.name, "--size", "native")[0] == 0 and "size" not in settings.read_text()


def test_each_glob_changes_by_itself_and_the_advice_leads_to_an_end(pictures: Path) -> None:
    code, said = added(pictures, "--test", "3*")
    assert code == 0 and "(0 train, 0 val, 1 test; 3 more in no split)" in said, said
    run = CliRunner().invoke(main, ["run", "--dataset", "some"])
    assert f"`fovea datasets add some {pictures} --train GLOB` (other globs stay)" in run.output
    code, said = added(pictures, "--train", "[01]*")
    assert code == 0 and "(2 train, 0 val, 1 test; 1 more in no split)" in said and "no val picture" in said
    code, said = added(pictures, "--val", "2*")
    assert code == 0 and "4 pictures (2 train, 1 val, 1 test)" in said and "no val picture" not in said


def test_what_cannot_be_used_is_in_no_count(pictures: Path) -> None:
    seen = np.full((64, 80, 4), 255, np.uint8)
    seen[..., :3] = np.random.default_rng(1).integers(0, 256, (64, 80, 3))
    Image.fromarray(seen).save(pictures / "4 opaque.png")
    Image.fromarray(seen).save(pictures / "5 opaque.webp", lossless=True)
    seen[0, 0, 3] = 0
    for name in ("0 clear.png", "1 clear.webp"):
        Image.fromarray(seen).save(pictures / name, lossless=True)
    Image.fromarray(seen).quantize().save(pictures / "2 clear.png")
    (pictures / "0 broken.jpg").write_bytes(b"no picture")
    (pictures / "1 copy.png").write_bytes((pictures / "0.png").read_bytes())
    Path(os.fsdecode(os.fsencode(pictures) + b"/0 caf\xe9.png")).write_bytes((pictures / "0.png").read_bytes())
    code, said = added(pictures, "--splits", "2/1/2")
    assert code == 0 and "some: 5 pictures (2 train, 1 val, 2 test" in said, said
    for name in ("0 clear.png", "1 clear.webp", "2 clear.png"):
        assert f"quarantined {name}: has transparent pixels" in said
    assert r"quarantined 0 caf\xe9.png: its name is not UTF-8" in said
    assert "quarantined 0 broken.jpg: not a PNG" in said and "quarantined 1 copy.png: the same content as 0" in said
    code, said = added(pictures, "--splits", "2/1/4")
    assert code == 0 and "some: 6 pictures (2 train, 1 val, 3 test)" in said and "some has 3 test pictures" in said
    assert "fewer pictures that can be used than its splits, 2/1/4, ask for" in said
    (pictures / "9 broken.png").write_bytes(b"no picture")
    assert "quarantined 9 broken.png: not a" in added(pictures, "--splits", "2/1/4")[1]
    assert "9 broken" not in added(pictures, "--splits", "2/1/3")[1]


def test_pictures_that_frames_left_out_are_not_counted(pictures: Path) -> None:
    flat = Image.new("RGB", (80, 64))
    flat.save(pictures / "9.tiff")
    whole = (pictures / "9.tiff").read_bytes()
    (pictures / "9.tiff").write_bytes(whole[:-4000])
    said = added(pictures, "--splits", "2/1/2")[1]
    assert "5 pictures (2 train, 1 val, 2 test)" in said
    assert CliRunner().invoke(main, ["run", "--frames-only", "--dataset", "some"]).exit_code == 0
    said = CliRunner().invoke(main, ["datasets", "show", "some"]).output
    assert "4 pictures (2 train, 1 val, 1 test)" in said and "quarantined 9.tiff: " in said


def test_jpeg_files_at_their_own_size_are_said_to_favour_jpeg(pictures: Path) -> None:
    assert "JPEG" not in added(pictures)[1]
    Image.new("RGB", (80, 64)).save(pictures / "photo.JPG")
    said = CliRunner().invoke(main, ["datasets", "show", "some"]).output
    assert "1 of 5 pictures of some are JPEG files at their own size" in said
    assert "JPEG" not in added(pictures, "--size", "32x32")[1]
    said = added(pictures, "--size", "9000x9000")[1]
    assert "smaller than 9000x9000, so cut to its aspect and not enlarged: 5 of 5 pictures of some" in said
    assert "1 of 5 pictures of some are JPEG" in said


def test_after_any_error_nothing_stays_registered(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assets.frames.manifest.scan", mock.Mock(side_effect=RuntimeError("a fault of ours")))
    code, said = added(pictures)
    assert code == 1 and "a fault of ours" in said
    assert "some" not in CliRunner().invoke(main, ["datasets", "list"]).output


def test_lists_have_heads_or_say_that_there_is_nothing(pictures: Path) -> None:
    code, said = added(pictures, "--splits", "3/1/0")
    few = "1 val picture (with fewer than 5 no comparison has an interval)"
    assert (
        code == 0 and f"some has no test picture (codecs are measured on val); {few}: `fovea datasets add some" in said
    )
    lines = CliRunner().invoke(main, ["datasets", "list"]).output.splitlines()
    assert lines[0].split() == ["name", "kind", "size", "where"] and lines[-1].split()[0] == "some"
    assert "no published curve is here" in CliRunner().invoke(main, ["curves", "list"]).output


def test_a_config_that_cannot_be_used_is_said_first(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (pictures.parent / "fovea.toml").write_text("[datasets.some\n")
    listed = CliRunner().invoke(main, ["datasets", "list"])
    assert listed.exit_code == 1 and listed.stdout == "" and "fovea.toml" in listed.stderr
    (pictures.parent / "fovea.toml").unlink()
    denied = mock.Mock(side_effect=PermissionError(13, "Permission denied"))
    monkeypatch.setattr("filelock.FileLock.acquire", denied)
    code, said = added(pictures)
    assert code == 1 and "fovea.toml: Permission denied; set FOVEA_CONFIG to a folder you can write" in said


def test_a_dataset_is_registered_though_dagsters_database_cannot_be_written(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = pictures.parent / "home/dagster/dagster.yaml"
    database.parent.mkdir(parents=True)
    database.touch()

    def shown(home: object) -> str:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr("pipelines.partitions.shown", shown)
    code, said = added(pictures)
    assert code == 0 and "not now: a database of FOVEA_HOME cannot be used: disk I/O error." in said, said
    assert "registered some" in said
    assert CliRunner().invoke(main, ["datasets", "remove", "some"]).exit_code == 0
