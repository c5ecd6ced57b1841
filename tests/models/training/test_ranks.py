import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from trainings import driven

from models.errors import FoveaError
from models.training.exact import SeededNoise
from models.training.ranks import Ranks, join

#: how far the weights of K processes may be from those of one, a tenth of one Adam step of 1e-3: sums in another order
TOLERANCE = 1e-4
#: an instance norm takes what these add away again: their gradient is rounding alone, which Adam makes whole steps of
WITHOUT_EFFECT = re.compile(r"scales\.\d\.blocks\.[12]\.0\.bias")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    driven(Path(__file__).with_name("rank_driver.py"), folder)
    return folder


def difference(a: Path, b: Path) -> float:
    """The largest difference of a weight; the coding tables are built from them."""
    one, other = (
        {k: v for file in sorted(f.glob("*.safetensors")) for k, v in load_file(file).items()} for f in (a, b)
    )
    assert one.keys() == other.keys()
    names = [k for k in one if not k.startswith("tables.") and not WITHOUT_EFFECT.fullmatch(k)]
    names = [k for k in names if one[k].is_floating_point()]
    return max(float((one[k] - other[k]).abs().max()) for k in names if one[k].numel())


def history(folder: Path) -> list[dict]:
    return json.loads((folder / "history.json").read_text())


@pytest.mark.parametrize("case", ["bls2017-gain", "mbt2018_mean-loss", "mbt2018_mean-hyper", "agustsson2019-select"])
def test_two_processes_train_as_one(folder, case):
    one, two = (folder / f"{name}-{case}" / "final" for name in ("one", "two"))
    counts = [json.loads((f / "training.json").read_text())["processes"] for f in (one, two)]
    assert counts == [1, 2] and difference(one, two) < TOLERANCE
    for a, b in zip(history(one), history(two), strict=True):
        for name in {"loss", "bpp", "mse", "perceptual", "discriminator"} & set(a):
            assert a[name] == pytest.approx(b[name], rel=1e-4)
        # the adversarial terms have absolute differences, whose gradients jump at 0
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-2 if "discriminator" in a else 1e-4)


def test_a_stopped_training_goes_on_with_another_number_of_processes(folder):
    whole, parts = folder / "one-bls2017-gain" / "final", folder / "parts" / "final"
    assert difference(whole, parts) < TOLERANCE
    assert [row["step"] for row in history(parts)] == [row["step"] for row in history(whole)]


def test_killed_and_started_again_is_identical(folder):
    whole, again = (folder / name / "final/weights.safetensors" for name in ("two-bls2017-gain", "killed"))
    assert again.read_bytes() == whole.read_bytes()


def uniform(shape):
    return torch.empty(shape).uniform_(-0.5, 0.5)


@pytest.mark.parametrize(
    ("draw", "shape"), [(uniform, (5, 3, 4, 2)), (uniform, (3, 1, 5 * 8)), (torch.randn, (5, 2, 3, 3))]
)
def test_a_share_of_the_noise_is_the_whole_batch_s(draw, shape):
    whole = SeededNoise(torch.device("cpu"))
    whole.seed(1, 2)
    with whole:
        all_of_it = draw(shape)
    axis = 2 if len(shape) == 3 else 0
    parts = []
    for share in (Ranks(0, 2).share(5), Ranks(1, 2).share(5)):
        own = list(shape)
        own[axis] = shape[axis] * (share.stop - share.start) // 5
        noise = SeededNoise(torch.device("cpu"), 5, share)
        noise.seed(1, 2)
        with noise:
            parts.append(draw(own))
    assert torch.equal(torch.cat(parts, dim=axis), all_of_it)


@pytest.mark.parametrize("draw", [lambda: torch.randn(4, 2), lambda: uniform((7, 2))])
def test_noise_without_the_batch_s_axis_cannot_be_shared(draw):
    with SeededNoise(torch.device("cpu"), 5, slice(0, 3)) as noise:
        noise.seed(1, 2)
        with pytest.raises(FoveaError, match="--processes 1"):
            draw()


def test_shares_are_the_whole_batch():
    for size in (1, 2, 3, 7):
        shares = [Ranks(rank, size).share(7) for rank in range(size)]
        assert [i for s in shares for i in range(7)[s]] == list(range(7))
    with pytest.raises(FoveaError, match="batch of 2 cannot be shared by 3"):
        Ranks(0, 3).share(2)


def test_an_incomplete_launcher_is_named(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(FoveaError, match="did not set WORLD_SIZE"), join():
        pass
