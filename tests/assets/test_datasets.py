"""The registry: what `fovea.toml` may say, and how it is edited."""

import threading
from pathlib import Path

import pytest
from upath import UPath

from assets.datasets import (
    CITYSCAPES_NEEDS,
    Splits,
    add_dataset,
    format_size,
    load_registry,
    parse_size,
    remove_dataset,
)
from assets.home import Home
from assets.world import World
from models.errors import FoveaError


@pytest.fixture(autouse=True)
def no_cityscapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CITYSCAPES_ROOT", raising=False)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a.PNG").write_bytes(b"looked at later")
    return folder


def registry(tmp_path: Path, text: str) -> Path:
    (tmp_path / "fovea.toml").write_text(text, encoding="utf-8")
    return tmp_path


def test_two_datasets_are_always_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = load_registry(tmp_path)
    assert list(known) == ["sample", "cityscapes"] and known["sample"].size == known["cityscapes"].size == (512, 256)
    assert dict(known["sample"].counts) == {"train": 24, "val": 6, "test": 8}
    with pytest.raises(FoveaError) as caught:
        known["cityscapes"].root()
    assert str(caught.value) == CITYSCAPES_NEEDS
    for word in ("CITYSCAPES_USERNAME", "CITYSCAPES_PASSWORD", "CITYSCAPES_ROOT"):
        assert word in CITYSCAPES_NEEDS
    monkeypatch.setenv("CITYSCAPES_ROOT", str(tmp_path))
    assert load_registry(tmp_path)["cityscapes"].root() == tmp_path
    for name, said in (("sample", "can't be removed"), ("ghost", "unknown dataset 'ghost'")):
        with pytest.raises(FoveaError, match=said):
            remove_dataset(tmp_path, name)


def test_other_classical_codecs(tmp_path: Path) -> None:
    known = load_registry(registry(tmp_path, '[datasets.sample]\nclassical = ["webp", "jpeg"]\n'))
    assert known["sample"].classical == ("jpeg", "webp")
    assert known["cityscapes"].classical == ("jpeg", "jpeg_guided", "webp", "avif", "jpegxl", "bicubic")
    for wrong in ("[]", '["jpg"]', '"jpeg"'):
        with pytest.raises(FoveaError, match=r"datasets\.sample\.classical.*: (expected|list should)"):
            load_registry(registry(tmp_path, f"[datasets.sample]\nclassical = {wrong}\n"))


def test_settings_of_the_sample(tmp_path: Path) -> None:
    known = load_registry(registry(tmp_path, '[datasets.sample]\nseed = 7\ncounts = { val = 2 }\nsize = "256x128"\n'))
    sample = known["sample"]
    assert (sample.seed, dict(sample.counts), sample.size) == (7, {"train": 24, "val": 2, "test": 8}, (256, 128))


def test_what_is_added_is_loaded_again(tmp_path: Path, pictures: Path) -> None:
    table = tmp_path / "fixations.csv"
    table.write_text("image,subject,x,y\n")
    added = [
        add_dataset(tmp_path, "plain", pictures),
        add_dataset(tmp_path, "globbed", pictures, splits={"train": "a*", "test": ["b*", "c*"]}, size="640x480"),
        add_dataset(tmp_path, "counted", pictures, splits="500/60/140", fixations=table, texts=table, size="native"),
        add_dataset(tmp_path, "peers", pictures, classical=("webp", "jpeg_trellis")),
    ]
    known = load_registry(tmp_path)
    assert list(known) == ["sample", "cityscapes", "plain", "globbed", "counted", "peers"]
    assert known["peers"].classical == ("jpeg_trellis", "webp") and [known[d.name] for d in added] == added
    assert known["globbed"].splits == Splits("globs", globs=(("train", ("a*",)), ("test", ("b*", "c*"))))
    assert known["globbed"].size == (640, 480) and known["counted"].splits.counts == (500, 60, 140)
    assert known["counted"].fixations == known["counted"].texts == table and isinstance(hash(known["globbed"]), int)


def test_options_change_for_the_same_folder_however_its_path_is_written(tmp_path: Path, pictures: Path) -> None:
    registry(tmp_path, f'[datasets.street]\npath = "{pictures.relative_to(tmp_path)}"\n')
    assert load_registry(tmp_path)["street"].root() == pictures, "from the file on"
    assert add_dataset(tmp_path, "street", pictures, size="512x256").size == (512, 256)
    with pytest.raises(FoveaError, match="there is a dataset 'street' already"):
        add_dataset(tmp_path, "street", pictures.parent, size="640x480")


def test_comments_and_other_settings_stay(tmp_path: Path, pictures: Path) -> None:
    text = "# my datasets\n[profiles.x]\nparallel = 1 # one\n\n[datasets.sample] # few\nseed = 2\n"
    add_dataset(registry(tmp_path, text), "mine", pictures)
    now = (tmp_path / "fovea.toml").read_text()
    assert now.startswith(text)
    remove_dataset(tmp_path, "mine")
    assert (tmp_path / "fovea.toml").read_text().strip() == text.strip()


def test_a_link_to_dotfiles_stays_one_and_a_byte_order_mark_is_passed_over(tmp_path: Path, pictures: Path) -> None:
    (tmp_path / "dotfiles").mkdir()
    real = tmp_path / "dotfiles" / "fovea.toml"
    real.write_text("[datasets.sample]\nseed = 2\n", encoding="utf-8-sig")
    (tmp_path / "fovea.toml").symlink_to(real)
    add_dataset(tmp_path, "mine", pictures)
    assert (tmp_path / "fovea.toml").is_symlink() and "mine" in real.read_text()
    known = load_registry(tmp_path)
    assert known["sample"].seed == 2 and known["mine"].root() == pictures
    remove_dataset(tmp_path, "mine")
    assert (tmp_path / "fovea.toml").is_symlink() and "mine" not in real.read_text()
    real.write_text("[datasets.sample]\n", encoding="utf-16")
    with pytest.raises(FoveaError, match="save it as UTF-8"):
        load_registry(tmp_path)


def test_a_wrong_table_stops_only_what_names_it(tmp_path: Path, pictures: Path) -> None:
    config = registry(tmp_path, f'[datasets.bad]\npath = "{pictures}"\nsplitz = 3\n')
    world = World(Home(tmp_path / "home", config, UPath(tmp_path / "home/data")))
    assert world.dataset("sample").kind == "sample" and "bad" not in world.registry
    with pytest.raises(FoveaError, match=r"datasets\.bad: unknown field 'splitz'; did you mean 'splits'"):
        world.dataset("bad")
    with pytest.raises(FoveaError, match="unknown dataset 'sampel'; did you mean 'sample'"):
        world.dataset("sampel")
    add_dataset(config, "mine", pictures)
    remove_dataset(config, "bad")
    assert set(load_registry(config)) == {"sample", "cityscapes", "mine"}


def test_many_adding_at_once_lose_nothing(tmp_path: Path, pictures: Path) -> None:
    threads = [threading.Thread(target=add_dataset, args=(tmp_path, f"d{k}", pictures)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(load_registry(tmp_path)) == {"sample", "cityscapes", *(f"d{k}" for k in range(8))}
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".fovea")) == []


def test_a_vanished_folder_stops_only_its_own_dataset(tmp_path: Path, pictures: Path) -> None:
    add_dataset(tmp_path, "mine", pictures)
    pictures.rename(tmp_path / "elsewhere")
    known = load_registry(tmp_path)
    with pytest.raises(FoveaError, match=r"'mine': the folder .*pictures is gone.*fovea datasets remove mine"):
        known["mine"].root()


def test_adding_refuses(tmp_path: Path, pictures: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("x")
    add_dataset(tmp_path, "mine", pictures)
    before = (tmp_path / "fovea.toml").read_text()
    for name, path, options, reason in [
        ("mine", pictures, {}, "there is a dataset 'mine' already.*datasets remove mine"),
        ("sample", pictures, {}, "'sample' is always there"),
        ("Mine!", pictures, {}, "'Mine!' is no name"),
        ("", pictures, {}, "'' is no name"),
        ("s2-street", pictures, {}, "'s2-street' begins like the part of a key that says which seed"),
        ("gone", tmp_path / "gone", {}, f"no folder {tmp_path / 'gone'}"),
        ("file", pictures / "deep" / "a.PNG", {}, r"a\.PNG is not a folder"),
        ("empty", tmp_path / "empty", {}, "empty: no picture in it or below"),
        ("size", pictures, {"size": "512"}, "size: '512' is no size"),
        ("size", pictures, {"size": "8x512"}, "outside 16"),
        ("splits", pictures, {"splits": "half"}, "splits: 'half' is no splits rule"),
        ("splits", pictures, {"splits": "none.csv"}, r"splits: no file .*none\.csv"),
        ("splits", pictures, {"splits": {"trian": "*"}}, "'trian' is no split"),
        ("eyes", pictures, {"fixations": tmp_path / "eyes.parquet"}, r"no fixation table .*eyes\.parquet"),
        ("words", pictures, {"texts": tmp_path / "words.csv"}, r"no table of texts .*words\.csv"),
    ]:
        with pytest.raises(FoveaError, match=reason):
            add_dataset(tmp_path, name, path, **options)  # type: ignore[arg-type]
    assert (tmp_path / "fovea.toml").read_text() == before


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[datasets.mine", "fovea.toml"),
        ('[datasets.mine]\npath = "a"\n[datasets.mine]\npath = "b"\n', "two tables of one name"),
        ("speed = 3\n", "unknown key speed"),
        ("datasets = 3\n", "datasets: expected tables"),
        ("[datasets]\nmine = 3\n", "datasets.mine: expected a table"),
        ('[datasets.mine]\npath = "a"\nsise = "1x1"\n', "datasets.mine: unknown field 'sise'; did you mean 'size'"),
        ('[datasets.mine]\nsize = "native"\n', "datasets.mine.path: missing"),
        ("[datasets.mine]\npath = 3\n", "datasets.mine.path"),
        ('[datasets.mine]\npath = "a"\nsize = "big"\n', "datasets.mine.size: 'big' is no size"),
        ('[datasets.mine]\npath = "a"\nsplits = { train = 3 }\n', "datasets.mine.splits: train: expected a glob"),
        ('[datasets.mine]\npath = "a"\nsplits = "0/0/0"\n', "takes no picture"),
        ('[datasets."My Pictures"]\npath = "a"\n', "'My Pictures' is no name"),
        ("[datasets.sample]\nseed = -1\n", "datasets.sample.seed"),
        ("[datasets.sample]\ncounts = { tets = 1 }\n", "sample.counts: unknown field 'tets'; did you mean 'test'"),
        ("[datasets.sample]\ncounts = { test = 1.5 }\n", "counts.test: expected a valid integer, got 1.5"),
        ("[datasets.sample]\ncounts = { train = 0, val = 0, test = 0 }\n", "no picture in any split"),
        ('[datasets.sample]\npath = "a"\n', "datasets.sample: unknown field 'path'"),
    ],
)
def test_a_bad_file_is_refused_with_its_name_and_key(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(FoveaError, match=reason) as caught:
        load_registry(registry(tmp_path, text))
    assert str(tmp_path / "fovea.toml") in str(caught.value)


def test_sizes() -> None:
    assert parse_size("512x256") == parse_size(" 512 × 256 ") == (512, 256) and parse_size("native") == "native"
    assert format_size((512, 256)) == "512x256" and format_size("native") == "native"
    for bad in ("512", "512x", "x256", "-5x20", "0x256", "512x256x3", "99999x256", "", None, 512):
        with pytest.raises(FoveaError, match=r"size|side"):
            parse_size(bad)
