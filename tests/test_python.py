"""`import fovea`: what docs/python.md shows, and what it refuses."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scenes import scene
from trainings import driven

import fovea
from models.codecs import conditioning, levelmap
from models.mechanisms import MAX_SPAN

ROOT = Path(__file__).parents[1]


@pytest.fixture
def here(tmp_path, monkeypatch):
    for name in ("FOVEA_HOME", "FOVEA_CONFIG"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    Image.fromarray(scene(96, 128, 0)).save("photo.png")
    return tmp_path


def test_the_examples_of_the_page_run(here, capsys):
    code = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.S)
    assert len(code) == 2
    exec("\n".join(code), {})
    said = {
        name: tuple(map(float, numbers))
        for name, *numbers in re.findall(r"(\w+): ([\d.]+) bpp, MSE ([\d.]+)", capsys.readouterr().out)
    }
    assert set(said) == {"left", "people", "even"} and said["left"][1] < said["even"][1]
    assert all(fovea.decompress(f"{name}.fov").shape == (96, 128, 3) for name in said)


def test_no_bit_depends_on_how_many_threads_torch_has(here):
    picture, before, files = scene(192, 256), torch.get_num_threads(), set()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            files.add(fovea.compress(picture, lmbda=0.2, saliency=False))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert len(files) == 1


def test_rates_maps_and_models_that_can_not_be_are_named(here):
    picture = np.asarray(Image.open("photo.png"))
    size = 8 * len(fovea.compress(picture, bpp=0.3, saliency=False)) / (96 * 128)
    assert 0.25 < size < 0.35
    for given, said in (
        ({"saliency": "photo.png"}, "photo.png has colours"),
        ({"saliency": "nothing.png"}, "nothing.png"),
        ({"model": "lihgt"}, "'lihgt'; did you mean 'light'"),
        ({"lmbda": 1e9}, "1e+09"),
        ({"lmbda": -1.0}, "lmbda -1: a positive number"),
        ({"bpp": float("nan"), "progressive": True}, "bpp nan: a positive number"),
        ({"bpp": 1e308, "progressive": True}, "bpp 1e+308: a positive number"),
        ({"bpp": 0.5, "lmbda": 0.01}, "either lmbda or bpp"),
        ({"span": float("nan")}, "span nan: a number from 0 to 32"),
        ({"effort": -1}, "effort -1"),
        ({"bpp": "0.5"}, "bpp '0.5': a number is needed"),
        ({"span": "far"}, "span 'far': a number is needed"),
        ({"effort": 1.5}, "effort 1.5: a whole number is needed"),
        ({"saliency": False, "span": 3}, "either a span"),
        ({"saliency": None}, "saliency is an array, uint8 H×W, a path, True or False; got NoneType"),
        ({"saliency": np.zeros((5, 5), np.uint8)}, "map of a 128×96 picture is uint8 of shape (96, 128); got uint8"),
        ({"saliency": np.zeros((96, 128))}, "got float64"),
        ({"effort": True}, "effort True: a whole number is needed"),
        ({"bpp": True}, "bpp True: a number is needed"),
        ({"progressive": "no"}, "progressive 'no': True or False is needed"),
        ({"model": None}, "model: a name or a path is needed; got NoneType"),
        ({"model": here / "none"}, f"unknown codec '{here / 'none'}'"),
    ):
        with pytest.raises(fovea.FoveaError, match=re.escape(said)):
            fovea.compress(picture, **given)
    for given, said in (
        (None, "H×W×3, or a path; got NoneType"),
        (Image.fromarray(picture), "or a path; got Image"),
        (picture.tolist(), "got list"),
        (picture / 255, "got float64 of shape (96, 128, 3)"),
        (picture[..., 0], "got uint8 of shape (96, 128)"),
        (picture[:0], "got uint8 of shape (0, 128, 3)"),
    ):
        for refuses in (fovea.compress, fovea.saliency):
            with pytest.raises(fovea.FoveaError, match=re.escape(said)):
                refuses(given)
    for refuses in (fovea.decompress, lambda data: fovea.cut(data, bytes=300)):
        with pytest.raises(fovea.FoveaError, match="not a Fovea file"):
            refuses(b"something else")
        with pytest.raises(fovea.FoveaError, match="as its bytes or its path; got NoneType"):
            refuses(None)
    for given, said in (
        ("no", "unknown codec 'no'"),
        ([fovea.load()], "codecs: a name or a path is needed; got Light"),
        (fovea.load(), "got Light"),
    ):
        with pytest.raises(fovea.FoveaError, match=said):
            fovea.benchmark("sample", given)
    for refuses in (fovea.compress, fovea.saliency, fovea.decompress):
        with pytest.raises(fovea.FoveaError, match=r"no file has such a name|a\\x00b"):
            refuses("a\0b")
    with pytest.raises(fovea.FoveaError, match="no such file"):
        fovea.decompress("nothing.fov")
    with pytest.raises(fovea.FoveaError, match=r"cannot read .*: Is a directory"):
        fovea.decompress(here)


def test_a_file_is_cut_and_shown_from_any_kind_of_bytes(here):
    codec, picture = fovea.load(), np.asarray(Image.open("photo.png"))
    data = fovea.compress(picture, lmbda=0.1, saliency=False, progressive=True, model=codec)
    small = fovea.cut(data, bytes=400)
    assert 395 < len(small) <= 400 and fovea.cut(memoryview(data), bpp=8 * 400 / (96 * 128)) == small
    shown = fovea.decompress(small, codec)
    for same in (bytearray(small), memoryview(small), np.frombuffer(small, np.uint8)):
        assert np.array_equal(fovea.decompress(same, codec), shown)
    with pytest.MonkeyPatch.context() as patched, pytest.raises(fovea.FoveaError, match="key with model="):
        patched.setattr("models.codecs.catalogue.shipped", list)
        fovea.decompress(small)
    for size, said in (
        ({}, "either as bytes or as bpp"),
        ({"bytes": 400, "bpp": 0.2}, "either as bytes or as bpp"),
        ({"bytes": 0}, "0 bytes are too few"),
        ({"bytes": 399.5}, "bytes 399.5: a whole number is needed"),
        ({"bytes": True}, "bytes True: a whole number is needed"),
        ({"bpp": float("nan")}, "bpp nan: a positive number"),
    ):
        with pytest.raises(fovea.FoveaError, match=said):
            fovea.cut(data, **size)
    assert fovea.cut(small, bytes=10**6) == fovea.cut(small, bpp=1e11) == small


def test_the_smallest_pictures_come_back(here):
    codec = fovea.load()
    for height, width in ((1, 1), (3, 40), (16, 16)):
        picture = np.full((height, width, 3), 90, np.uint8)
        again = fovea.decompress(fovea.compress(picture, model=codec), codec)
        assert again.shape == picture.shape and np.abs(again.astype(int) - picture).max() < 40


def test_a_span_says_how_far_bits_follow_the_map(here):
    assert MAX_SPAN == levelmap.MAX_STEPS * conditioning.STEP
    codec, picture = fovea.load(), np.asarray(Image.open("photo.png"))
    left = np.zeros((96, 128), np.uint8)
    left[:, :64] = 255
    files = [fovea.compress(picture, lmbda=0.01, saliency=left, span=span, model=codec) for span in (0, 4, 8)]
    assert files[0] == fovea.compress(picture, lmbda=0.01, saliency=False, model=codec)
    assert files[1] == fovea.compress(picture, lmbda=0.01, saliency=left, model=codec)
    errors = [((fovea.decompress(f, codec)[:, :64].astype(float) - picture[:, :64]) ** 2).mean() for f in files]
    assert errors[0] > errors[1] > errors[2]
    corner = np.zeros((96, 128), np.uint8)
    corner[:16, :16] = 255
    for guide in (corner, 255 - corner):  # as far from the mean as a place can be
        for progressive in (False, True):
            data = fovea.compress(picture, saliency=guide, span=MAX_SPAN, progressive=progressive, model=codec)
            assert fovea.decompress(data, codec).shape == picture.shape
    with pytest.raises(fovea.FoveaError, match="from 0 to 32"):
        fovea.compress(picture, saliency=corner, span=MAX_SPAN + 1, model=codec)
    with pytest.raises(fovea.FoveaError, match="span is for a codec with mechanism gain, not none"):
        fovea.compress(picture, model="mbt2018_mean", saliency=False, span=4)


def test_another_package_named_models_is_named_and_no_trouble_for_python_m(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").touch()
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; import fovea"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert f"another package named models hides Fovea's: {tmp_path}" in done.stderr
    done = subprocess.run(
        [sys.executable, "-m", "fovea", "--version"], capture_output=True, text=True, check=False, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.split()[-1] == fovea.__version__


def test_python_m_is_the_command_line():
    assert driven("-m", "fovea", "--version").split()[-1] == fovea.__version__
    assert dir(fovea) == fovea.__all__ == sorted(fovea.__all__)
