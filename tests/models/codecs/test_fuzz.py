import json
from pathlib import Path

import numpy as np
import pytest
from trainings import driven

from models.codecs import catalogue

EVERY_GAIN = ("bls2017", "bmshj2018_factorized", "bmshj2018_hyperprior", "mbt2018_mean", "cheng2020_anchor", "light")


def files_of(codec, folder: Path, progressive: bool) -> list[str]:
    files = []
    rng = np.random.default_rng(0)
    for i, (height, width) in enumerate(((40, 56), (17, 90), (1, 1))):
        picture = np.cumsum(rng.integers(-9, 10, (height, width, 3)), axis=1).astype(np.uint8)
        saliency_map = np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1))
        files.append(folder / f"{i}.fov")
        given = codec.analysed(picture, saliency_map)
        files[-1].write_bytes(codec.encode_analysed(given, progressive=progressive).data)
    return [str(f) for f in files]


def attack(folder: Path, *attacks) -> None:
    """Decode mutated files in a process of its own, so that a crash is a failure and not the end. attacks: codec, how many
    files, a seed, and whether they are progressive."""
    asked = []
    for codec, count, seed, progressive in attacks:
        own = folder / str(len(asked))
        catalogue.save_codec(codec, own / "model")
        asked.append([str(own / "model"), count, seed, files_of(codec, own, progressive)])
    found = map(json.loads, driven(Path(__file__).with_name("fuzz_streams.py"), json.dumps(asked)).splitlines())
    for (_, count, _, _), result in zip(attacks, found, strict=True):
        assert result["pictures"] + result["errors"] == count
        assert result["pictures"] > count // 20, "the mutations never reach the coder"
        assert result["after_kb"] < 2 * result["before_kb"]


def test_mutated_files_give_a_picture_or_an_error(tmp_path, gained, trained_codec, trained_recurrent, in_context):
    levelled = [*((name, "gain") for name in EVERY_GAIN[1:]), ("mbt2018_mean", "hyper")]
    others = [(trained_codec(*each), 300, 3, False) for each in levelled]
    progressive = (trained_codec("light", "gain"), 1000, 3, True), (trained_recurrent("gain"), 400, 5, True)
    attack(tmp_path, (gained, 2000, 1, False), (in_context, 600, 4, False), *progressive, *others)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mechanism", "progressive"),
    [
        *((name, "gain", False) for name in EVERY_GAIN),
        ("bls2017", "none", False),
        *(("mbt2018_mean", "hyper", kind) for kind in (False, True)),
        ("light", "gain", True),
        ("light", "context", False),
        ("toderici2017", "gain", True),
    ],
)
def test_many_mutated_files_give_a_picture_or_an_error(tmp_path, request, name, mechanism, progressive):
    if name == "toderici2017":
        codec = request.getfixturevalue("trained_recurrent")(mechanism)
    elif mechanism == "context":
        codec = request.getfixturevalue("in_context")
    else:
        codec = request.getfixturevalue("trained_codec")(name, mechanism)
    attack(tmp_path, (codec, 10_000, 2, progressive))
