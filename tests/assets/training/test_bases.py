import functools
import hashlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from assets.training import bases
from models.codecs.base import LEVEL_STEPS
from models.codecs.bit_context import BitContext
from models.codecs.bitstream import cut
from models.codecs.catalogue import load_codec
from models.codecs.conditioned import Setting
from models.codecs.nested import REACH
from models.errors import FoveaError
from models.seen import read_seen, write_seen

TINY = {"batch_size": 2, "crop": 64, "warmup_steps": 1}


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(bases, "WIDTHS", {"light": (8, 32), "bls2017": (8, 16), "toderici2017": (16, 4)})
    # regressions that take longer than these trainings
    monkeypatch.setattr(BitContext, "fit", functools.partialmethod(BitContext.fit, steps=20))


@pytest.fixture(autouse=True, scope="module")
def few_plain():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(bases, "PLAIN", 2)
        patched.setattr(bases, "STARK", 3)
        yield


@pytest.fixture(scope="module")
def frames(few_plain, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(4):
        picture = np.cumsum(rng.integers(-9, 10, (160, 200, 3)), axis=1).astype(np.uint8)
        cv2.imwrite(str(folder / f"{i}.{'jpg' if i == 3 else 'png'}"), picture)
    (folder / "notes.txt").write_text("no picture")
    return bases.frames_of([f"{folder}:2", str(folder)], threads=1)


def test_sources_are_counted_and_jpegs_shrunk(frames):
    assert list(frames.names[:-5]) == [
        *("0.png@1", "1.png@1", "0.png@1", "1.png@1", "2.png@1", "3.jpg@0.45", "3.jpg@0.5", "3.jpg@0.625")
    ]
    assert frames.pictures[7].shape == (100, 125, 3) and frames.maps[7].shape == (100, 125)
    assert max(m.max() for m in frames.maps) == 255


def test_half_of_the_plain_pictures_have_one_colour():
    pictures = bases.plain_pictures(48)
    steps = [int(np.abs(np.diff(p.astype(int), axis=1)).max()) for p in pictures]
    assert [step == 0 for step in steps] == [k % 2 == 0 for k in range(48)] and max(steps) <= 2
    assert {int(p.min()) for p in pictures[::4] if p.min() == p.max()} > {0, 255}


def test_stark_pictures_are_of_three_kinds():
    photograph = np.full((160, 200, 3), 90, np.uint8)
    pictures = bases.stark_pictures(36, [photograph])
    assert all((p == 90).any() and (p != 90).any() and p.shape == photograph.shape for p in pictures[2::3])
    assert all(len(np.unique(p.reshape(-1, 3), axis=0)) <= 2 for k, p in enumerate(pictures) if k % 3 < 2)
    assert {0, 255} == {int(v) for p in pictures[::6] for v in np.unique(p)}, "every second is at the ends"


@pytest.mark.parametrize(("name", "rate"), [("light", 0.01), ("bls2017", 0.01), ("toderici2017", 3)])
def test_a_base_is_the_same_each_time_and_goes_on(small, frames, tmp_path, name, rate):
    made = [bases.train_base(name, frames, tmp_path / f"{name}{i}", steps=3, changes=TINY, threads=1) for i in (0, 1)]
    weights = [load_file(folder / "weights.safetensors") for folder in made]
    assert all((weights[0][k] == weights[1][k]).all() for k in weights[0])
    kept = {str(v.dtype) for k, v in weights[0].items() if k.endswith((".weight", ".bias"))}
    assert kept == {"torch.float16"}
    codec = load_codec(made[0])
    picture = frames.pictures[0]
    for given in (frames.maps[0], np.full(picture.shape[:2], 255, np.uint8)):
        encoded = codec.encode(picture, saliency_map=given, rate=rate)
        assert np.array_equal(codec.decode(encoded.data), encoded.reconstruction)
    said = json.loads((made[0] / "training.json").read_text())["record"]
    assert said["data"] == {"pictures": 13, "sha256": frames.digest()} and "begin" not in said

    files = [tmp_path / f"{k}.png" for k in range(2)]
    for k, file in enumerate(files):
        file.write_bytes(bytes([k]))
    write_seen(made[0] / "weights.safetensors", ["b" * 64])
    later = bases.train_base(
        name, frames, tmp_path / "later", steps=2, changes=TINY, begin=str(made[0]), files=files, threads=1
    )
    contents = [hashlib.sha256(bytes([k])).hexdigest() for k in range(2)]
    assert all(read_seen(later / "weights.safetensors").trained_on([*contents, "b" * 64]))
    files[0].unlink()
    with pytest.raises(FileNotFoundError):
        bases.train_base(name, frames, tmp_path / "gone", steps=2, changes=TINY, files=files, threads=1)
    assert not (tmp_path / "gone").exists(), "what cannot be listed is not trained on"
    said = json.loads((later / "training.json").read_text())["record"]
    assert said["begin"] == codec.identity().hex() and load_codec(later).identity() != codec.identity()


def test_a_transform_for_cut_files_leaves_all_else_as_it_was(small, frames, tmp_path):
    begin = bases.train_base("light", frames, tmp_path / "base", steps=2, changes=TINY, threads=1)
    made = [
        bases.train_base(
            "light", frames, tmp_path / f"cuts{i}", steps=3, changes=TINY, begin=str(begin), part="cuts", threads=1
        )
        for i in (0, 1)
    ]
    for name in ("weights.safetensors", "codec.json"):
        assert {(folder / name).read_bytes() for folder in made} == {(begin / name).read_bytes()}
    assert len({(folder / "cuts.safetensors").read_bytes() for folder in made}) == 1
    codec = load_codec(made[0])
    assert any((v != codec.g_s.state_dict()[k]).any() for k, v in codec.additions()["cuts"].weights.items())
    assert json.loads((made[0] / "training.json").read_text())["record"]["kind"] == "cuts"
    for name in ("toderici2017", "bls2017"):
        with pytest.raises(FoveaError, match=f"{name} with mechanism none: .* a hyperprior, levels and mechanism gain"):
            bases.train_base(name, frames, tmp_path / "none", steps=1, part="cuts", changes=TINY)
    with pytest.raises(FoveaError, match="light is a codec light: bls2017 goes on from one of its own name"):
        bases.train_base("bls2017", frames, tmp_path / "none", steps=1, begin="light", changes=TINY)


def test_a_context_model_leaves_all_else_as_it_was_and_saves_bits(small, frames, tmp_path):
    begin = bases.train_base("light", frames, tmp_path / "base", steps=2, changes=TINY, threads=1)
    given = {"begin": str(begin), "part": "context", "changes": TINY | {"lr": 0.003, "ema": 0.8}, "threads": 1}
    made = [bases.train_base("light", frames, tmp_path / f"{i}", steps=30, **given) for i in (0, 1)]
    for name in ("weights.safetensors", "codec.json"):
        assert {(folder / name).read_bytes() for folder in made} == {(begin / name).read_bytes()}
    assert len({(folder / "context.safetensors").read_bytes() for folder in made}) == 1
    plain, codec = load_codec(begin), load_codec(made[0])
    saved = 0
    for picture, saliency_map in zip(frames.pictures, frames.maps, strict=True):
        own, before = (c.encode(picture, saliency_map=saliency_map) for c in (codec, plain))
        assert np.array_equal(codec.decode(own.data), plain.decode(before.data))
        saved += len(before.data) - len(own.data)
    assert saved > 0
    further = bases.train_base("light", frames, tmp_path / "on", steps=3, **given | {"begin": str(made[0])})
    assert not np.array_equal(
        (further / "context.safetensors").read_bytes(), (made[0] / "context.safetensors").read_bytes()
    )
    assert torch.equal(load_codec(further).context.model.order, codec.context.model.order)


def test_the_beginning_of_a_file_is_what_training_shows(small, frames, tmp_path):
    codec = load_codec(bases.train_base("light", frames, tmp_path / "base", steps=2, changes=TINY, threads=1))
    given = codec.analysed(frames.pictures[0], frames.maps[0])
    whole = codec.encode_analysed(given, codec.rates[-2], progressive=True)
    base = codec.base_level(given.y, torch.tensor([codec.top_level - 1.0]))
    level, steps = codec.places(base, given.y, given.saliency_map)
    at, ahead = Setting(None, base, level), codec.ahead(steps, *given.y.shape[2:])
    assert torch.equal(codec.beginning(given.y, at, ahead, 1000), whole.sent.y_hat)
    shown = codec.entropy_decode(cut(whole.data, len(whole.data) * 3 // 4)).y_hat
    ends = [codec.beginning(given.y, at, ahead, last) for last in range(-REACH, 8 * LEVEL_STEPS)]
    between = [bool(((shown == a) | (shown == b)).all()) for a, b in itertools.pairwise(ends)]
    assert any(between) and not all(between)


def test_what_cannot_be_trained_is_named(frames, tmp_path):
    with pytest.raises(FoveaError, match="unknown base 'cheng2020_anchor'; known: light, bls2017, toderici2017"):
        bases.train_base("cheng2020_anchor", frames, tmp_path, steps=1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "pictures").mkdir()
    for i in range(4):
        cv2.imwrite(str(tmp_path / f"pictures/{i}.png"), np.zeros((16, 16, 3), np.uint8))
    for source, said in (
        ("nothing", "no folder .*nothing"),
        ("empty", "empty: no picture in it"),
        ("pictures:0", "pictures:0: in FOLDER:COUNT, COUNT is a whole number from 1 on"),
        ("pictures:x", "pictures:x: in FOLDER:COUNT"),
        ("pictures:500", "pictures:500: the folder has only 4"),
    ):
        with pytest.raises(FoveaError, match=said):
            bases.frames_of([str(tmp_path / source)])


SESSION = Path(__file__).parents[2] / "benchmarks" / "gpu_session.py"
BARE = f"""
import runpy, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("dagster", "mlflow", "imagecodecs", "requests", "urllib3"):
            raise ImportError(name + " is not here")

def offline(event, given):
    assert event != "socket.connect" or not isinstance(given[1], tuple), given

sys.meta_path.insert(0, Missing())
sys.addaudithook(offline)
sys.path.insert(0, {str(SESSION.parent)!r})
for given in sys.argv[1:]:
    sys.argv = ["gpu_session", *given.split()]
    try:
        runpy.run_path({str(SESSION)!r}, run_name="__main__")
    except SystemExit as end:
        code = end.code
sys.exit(code)
"""


@pytest.mark.e2e
def test_a_gpu_session_needs_no_pipeline_and_loses_nothing_to_a_part_that_fails(tmp_path):
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(0)
    whole = np.cumsum(rng.integers(-9, 10, (200, 210, 3)), axis=1).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "in" / "a.png"), whole)
    cv2.imwrite(str(tmp_path / "in" / "b.jpg"), whole)
    pack = f"--pack {tmp_path}/in -o {tmp_path}/frames.npz"
    run = f"--pictures {tmp_path}/frames.npz --out {tmp_path}/out --device cpu --toy --threads 1"
    done = subprocess.run(
        [sys.executable, "-c", BARE, pack, f"{run} --begin bls2017={tmp_path}/missing"],
        cwd=SESSION.parents[2], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    found = json.loads((tmp_path / "out" / "session.json").read_text())
    failed = {name for name, said in found.items() if "failed" in said}
    assert failed == {"train bls2017", "decode bls2017"}, found
    assert all(name in done.stdout for name in found) and "missing" in found["train bls2017"]["failed"]
    assert found["train light"]["steps"] == 3 and load_codec(tmp_path / "out" / "light" / "final").config.n == 8
    assert found["decode light"]["files"] == found["decode light"]["equal_symbols"] == 6
    assert found["loop light fast"]["ratio"] > 0 and found["small trainings"]["count"] == 2
    with np.load(tmp_path / "frames.npz") as packed:
        kept = {Path(name).suffix: packed[name] for name in packed.files}
    assert kept[".jpg"].tobytes() == (tmp_path / "in" / "b.jpg").read_bytes()
    crop = cv2.imdecode(kept[".png"], cv2.IMREAD_COLOR)
    places = [(top, left) for top in range(9) for left in range(19)]
    assert any(np.array_equal(whole[y : y + 192, x : x + 192], crop) for y, x in places)
