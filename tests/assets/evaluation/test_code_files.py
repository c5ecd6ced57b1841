import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trainings import untrained

from assets.evaluation.code_files import COMPRESS, Guide, compress_files, compress_jpeg, decompress_files, predicted_map
from assets.frames.decode import read_picture
from assets.frames.encode import encode_png
from assets.frames.folder import find_pictures as pictures_in
from assets.frames.targets import files_in, signed, targets_of
from assets.saliency.own_maps import find_maps
from models.codecs.base import Codec, CodecConfig
from models.errors import FoveaError
from models.metrics import psnr_db


def marked(columns: int, size: tuple[int, int] = (64, 64)) -> bytes:
    """A map of its left columns."""
    labels = np.zeros((*size, 3), np.uint8)
    labels[:, :columns] = 255
    return encode_png(labels)


def noise(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


GREY = encode_png(np.full((40, 24, 3), 90, np.uint8))


def plain() -> Codec:
    return untrained(CodecConfig(codec="bls2017", n=8, m=12))


def selective(**options: float) -> Codec:
    named = tuple(sorted({"blocks": 1, "norm": "none", "patch": 2, **options}.items()))
    return untrained(CodecConfig(codec="agustsson2019", n=16, m=4, lmbda=(4.0,), mechanism="select", options=named))


def test_a_folder_goes_to_files_and_back_as_its_pictures_one_by_one(tmp_path: Path) -> None:
    codec, shown = plain(), {}
    (tmp_path / "in/deep").mkdir(parents=True)
    for seed, name in enumerate(("a.png", "deep/b.png", "deep/c.png")):
        (tmp_path / "in" / name).write_bytes(encode_png(noise(seed, 40, 24)))
        shown[name] = codec.encode(noise(seed, 40, 24))
    work = targets_of([tmp_path / "in"], tmp_path / "fov", ".fov", pictures_in, "test")
    for said, (_, target) in zip(compress_files(work, codec), work, strict=True):
        assert said.path == target and target.stat().st_size == said.size
        assert said.bpp == 8 * said.size / (40 * 24) and said.seconds > 0 and said.looked_at_db > 0
    for name, encoded in shown.items():
        assert (tmp_path / "fov" / name).with_suffix(".fov").read_bytes() == encoded.data
    back = targets_of([tmp_path / "fov"], tmp_path / "out", ".png", files_in, "test")
    assert [said[1:3] for said in decompress_files(back, lambda _: codec)] == [(24, 40)] * 3
    for name, encoded in shown.items():
        np.testing.assert_array_equal(read_picture(tmp_path / "out" / name), encoded.reconstruction)
    (tmp_path / "fov" / "a.fov").write_bytes(b"FOV")
    with pytest.raises(FoveaError, match=r"a\.fov: damaged file"):
        list(decompress_files(back, lambda _: codec))


def test_selective_compression_is_given_its_map(tmp_path: Path) -> None:
    codec, picture = selective(), noise(0, 40, 24)
    (tmp_path / "a.png").write_bytes(encode_png(picture))
    work = targets_of([tmp_path / "a.png"], tmp_path / "a.fov", ".fov", pictures_in, "test")
    for uniform in (False, True):
        (said,) = compress_files(work, codec, guide=Guide(uniform))
        shown = codec.decode((tmp_path / "a.fov").read_bytes())
        # told of files without a map, too
        assert said.looked_at_db == psnr_db(picture, shown, predicted_map()(picture))
        everywhere = codec.encode(picture, saliency_map=np.full((40, 24), 255, np.uint8))
        assert uniform == ((tmp_path / "a.fov").read_bytes() == everywhere.data)


def test_a_map_of_one_s_own_says_what_is_kept(tmp_path: Path) -> None:
    codec = selective(keep=0.0)
    for folder in ("in", "maps"):
        (tmp_path / folder).mkdir()
    for name, columns in (("a", 16), ("b", 64)):
        (tmp_path / f"in/{name}.png").write_bytes(encode_png(noise(columns, 64, 64)))
        (tmp_path / f"maps/{name}.png").write_bytes(marked(columns))
    work = targets_of([tmp_path / "in"], tmp_path / "fov", ".fov", pictures_in, "test")
    sizes = [said.size for said in compress_files(work, codec, guide=Guide(maps=tmp_path / "maps"))]
    assert sizes[0] < sizes[1] - 10

    one = [(tmp_path / "in/a.png", tmp_path / "a.fov")]
    assert next(compress_files(one, codec, guide=Guide(maps=tmp_path / "maps/a.png"))).size == sizes[0]
    for pairs, maps, uniform, said in (
        (one, "none.png", False, r"no such file: .*none\.png"),
        (work, "maps/a.png", False, "need a folder"),
        (one, "maps", True, "not both"),
        (one, "in", False, "has colours: .* without --overlay"),
    ):
        with pytest.raises(FoveaError, match=said):
            next(compress_files(pairs, codec, guide=Guide(uniform, tmp_path / maps)))
    (tmp_path / "maps/a.png").write_bytes(marked(16, (64, 60)))
    with pytest.raises(FoveaError, match=r"a\.png has 60×64 pixels, .*a\.png has 64×64"):
        next(compress_files(one, codec, guide=Guide(maps=tmp_path / "maps")))
    (tmp_path / "maps/a.png").unlink()
    failed: list[str] = []
    assert len(list(compress_files(work, codec, guide=Guide(maps=tmp_path / "maps"), failed=failed))) == 1
    assert len(failed) == 1 and "no map for a.png" in failed[0]
    with pytest.raises(FoveaError, match="does not take a saliency map"):
        next(compress_files(one, plain(), guide=Guide(maps=tmp_path / "maps")))


def test_maps_lie_in_the_folders_of_their_pictures_or_beside_each_other(tmp_path: Path) -> None:
    codec = selective(keep=0.0)
    (tmp_path / "flat").mkdir()
    for folder, columns in (("a", 16), ("b", 64)):
        for top in ("in", "maps"):
            (tmp_path / top / folder).mkdir(parents=True)
        for name in (f"in/{folder}/1.png", f"in/{folder}/{folder}.png"):
            (tmp_path / name).write_bytes(encode_png(noise(columns, 64, 64)))
        for name in (f"maps/{folder}/1.png", f"maps/{folder}.png", f"flat/{folder}.png", "flat/1.png"):
            (tmp_path / name).write_bytes(marked(columns))
    work = targets_of([tmp_path / "in"], tmp_path / "fov", ".fov", pictures_in, "test")
    made = {said.path: said.size for said in compress_files(work, codec, guide=Guide(maps=tmp_path / "maps"))}
    narrow, wide = (made[tmp_path / f"fov/{name}.fov"] for name in ("a/1", "b/1"))
    assert narrow < wide - 10 and [made[tmp_path / f"fov/{n}.fov"] for n in ("a/a", "b/b")] == [narrow, wide]
    failed: list[str] = []
    done = list(compress_files(work, codec, guide=Guide(maps=tmp_path / "flat"), failed=failed))
    assert [said.path.stem for said in done] == ["a", "b"]
    assert len(failed) == 2 and all("flat/1.png would be the map of 2 pictures" in line for line in failed)


def test_two_pictures_that_differ_in_their_suffix_have_the_maps_that_fovea_saliency_makes(tmp_path: Path) -> None:
    for name in ("1.png.png", "1.jpg.png", "2.png"):
        (tmp_path / name).touch()
    sources = [Path("in/1.png"), Path("in/1.jpg"), Path("in/2.jpg")]
    assert list(find_maps(tmp_path, sources).values()) == [tmp_path / n for n in ("1.png.png", "1.jpg.png", "2.png")]


def test_bad_files_do_not_stop_the_others(tmp_path: Path) -> None:
    codec = plain()
    (tmp_path / "in").mkdir()
    for name in "acd":
        (tmp_path / f"in/{name}.png").write_bytes(GREY)
    (tmp_path / "in/b.png").write_bytes(b"no picture")
    work = targets_of([tmp_path / "in"], tmp_path / "fov", ".fov", pictures_in, "test")
    failed: list[str] = []
    done = [said.path.name for said in compress_files(work, codec, failed=failed)]
    assert done == ["a.fov", "c.fov", "d.fov"] and len(failed) == 1 and "b.png" in failed[0]
    with pytest.raises(FoveaError, match=r"b\.png"):
        list(compress_files(work, codec))
    whole = (tmp_path / "fov/c.fov").read_bytes()
    (tmp_path / "fov/c.fov").write_bytes(whole[: len(whole) // 2])
    back = targets_of([tmp_path / "fov"], tmp_path / "out", ".png", files_in, "test")
    failed = []
    shown = [said.path.name for said in decompress_files(back, lambda _: codec, failed=failed)]
    assert shown == ["a.png", "d.png"] and len(failed) == 1 and "c.fov" in failed[0]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.png", "d.png"]


def test_nothing_is_written_over_but_what_the_command_made(tmp_path: Path) -> None:
    """Also through links, other spellings of a path, and where one source would take another's place."""
    folder, photo = tmp_path / "x", GREY
    folder.mkdir()
    for name in ("a.png", "b.jpg"):
        (folder / name).write_bytes(photo)
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "hard.png").hardlink_to(folder / "a.png")
    one = folder / "a.png"
    for sources, output, said in (
        ([one], one, "is read in this call"),
        ([one], folder / ".." / "x" / "a.png", "is read in this call"),
        ([one], tmp_path / "hard.png", "is read in this call"),
        ([folder], tmp_path / "link", "is read in this call"),
        ([folder / "b.jpg"], one, "was not made by this command"),
        ([folder], tmp_path, "was not made by this command"),
    ):
        (tmp_path / "b.png").write_bytes(signed(photo, "fovea other"))
        with pytest.raises(FoveaError, match=said):
            targets_of(sources, output, ".png", pictures_in, "fovea test")
    (tmp_path / "b.png").write_bytes(signed(photo, "fovea test"))
    (tmp_path / "hard.png").unlink()
    assert targets_of([folder / "b.jpg"], tmp_path / "b.png", ".png", pictures_in, "fovea test")
    # what an earlier call put below the folder is no source of the next
    (folder / "out").mkdir()
    (folder / "out/a.png").write_bytes(signed(photo, "fovea test"))
    work = targets_of([folder], folder / "out", ".png", pictures_in, "fovea test")
    assert [source.name for source, _ in work] == ["a.png", "b.jpg"]
    (folder / "out/b.jpg").write_bytes(photo)
    for _ in range(2):
        work = targets_of([folder / "out"], folder / "out", ".png", pictures_in, "fovea test")
        assert work == [(folder / "out/b.jpg", folder / "out/b.png")]
        (folder / "out/b.png").write_bytes(signed(photo, "fovea test"))
    shutil.rmtree(folder / "out")
    # of .fov files the format itself says so
    (tmp_path / "a.fov").write_bytes(b"field of view: FOV 60")
    with pytest.raises(FoveaError, match=r"a\.fov is there and was not made"):
        targets_of([one], tmp_path / "a.fov", ".fov", pictures_in, "fovea test")
    for name in ("c.png", "c.jpg"):
        (folder / name).write_bytes(photo)
    work = targets_of([folder], tmp_path / "out", ".fov", pictures_in, "fovea test")
    assert [target.name for _, target in work] == ["a.fov", "b.fov", "c.jpg.fov", "c.png.fov"]


def test_where_results_go(tmp_path: Path) -> None:
    for name in ("x/a.png", "y/a.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"")
    one, other, out = tmp_path / "x/a.png", tmp_path / "y/a.png", tmp_path / "out"
    assert targets_of([one], out, ".fov", pictures_in, "test") == [(one, out)]
    for sources, output, said in (
        ([one], tmp_path, "is a folder: name the file"),
        ([one, other], out, "would both be written to"),
        ([one, tmp_path / "none"], out, "no such file"),
        ([tmp_path / "none"], out, "no such file"),
        ([tmp_path / "x", other], one, "is a file: several results need a folder; name one"),
        ([one, other], tmp_path / "two.fov", "has the name of a file: several results need a folder; name one"),
        ([tmp_path / "x"], tmp_path / "x.PNG", "has the name of a file"),
    ):
        with pytest.raises(FoveaError, match=said):
            targets_of(sources, output, ".fov", lambda folder: [p.name for p in folder.iterdir()], "test")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FoveaError, match="nothing to do"):
        targets_of([tmp_path / "empty"], out, ".fov", files_in, "test")


def test_a_jpeg_follows_the_map(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    picture = np.cumsum(rng.integers(-9, 10, (64, 96, 3)), axis=1).astype(np.uint8)
    (tmp_path / "a.png").write_bytes(encode_png(picture))
    (tmp_path / "map.png").write_bytes(marked(48, (64, 96)))
    target = tmp_path / "a.jpg"
    errors = []
    for guide in (Guide(uniform=True), Guide(maps=tmp_path / "map.png")):
        said = compress_jpeg(tmp_path / "a.png", target, bpp=1.5, guide=guide)
        assert said.size == target.stat().st_size and 1.0 < said.bpp <= 1.5 and said.looked_at_db > 0
        shown = np.asarray(Image.open(target).convert("RGB")).astype(float)
        errors.append([np.square(shown - picture)[:, part].mean() for part in (slice(48), slice(48, None))])
    assert errors[1][0] < errors[0][0] and errors[1][1] > errors[0][1]
    with pytest.raises(FoveaError, match=r": 0\.01 bpp is out of reach: .* at least") as caught:
        compress_jpeg(tmp_path / "a.png", target, bpp=0.01, guide=Guide(uniform=True))
    least = float(str(caught.value).split()[-1])
    assert compress_jpeg(tmp_path / "a.png", target, bpp=least + 1e-4, guide=Guide(uniform=True)).bpp <= least + 1e-4
    assert compress_jpeg(tmp_path / "a.png", target).size == target.stat().st_size
    assert targets_of([tmp_path / "a.png"], target, ".jpg", pictures_in, COMPRESS)  # made again
