import copy
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import scene
from trainings import context_weights

from models.codecs import catalogue, context
from models.codecs.bitstream import BitstreamError
from models.codecs.context import PARTS, ContextModel, sharp_tables
from models.errors import FoveaError

GOLDEN = Path(__file__).parents[2] / "golden" / "light"


def drawn(codec, height, width, seed, far=0.0):
    """Symbols of Gaussians, M×h×w, and the numbers of their scales; a share of them far outside their tables."""
    rng = np.random.default_rng(seed)
    m = codec.config.m
    numbers = rng.integers(0, 90, (m, 1, 1)) + rng.integers(-9, 10, (m, height, width))
    numbers = numbers.clip(0, len(codec.coding_scales) - 1)
    values = rng.normal(0, codec.coding_scales.numpy()[numbers])
    values[rng.random(values.shape) < far] *= 1e5
    return np.round(values).clip(-(1 << 19), 1 << 19).astype(np.int32), numbers


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 6), width=st.integers(1, 6), seed=st.integers(0, 999), far=st.sampled_from([0.0, 0.01, 0.5])
)
def test_symbols_come_back(in_context, height, width, seed, far):
    symbols, numbers = drawn(in_context, height, width, seed, far)
    coded, escapes, _ = in_context.context.encode(symbols, numbers)
    assert np.array_equal(in_context.context.decode(coded, escapes, numbers), symbols)
    if escapes:
        with pytest.raises(BitstreamError, match="left over"):
            in_context.context.decode(coded, escapes + b"\1", numbers)
        with pytest.raises(BitstreamError, match="ends within"):
            in_context.context.decode(coded, b"", numbers)


def test_a_large_picture_is_coded_in_parts_to_the_same_bytes(in_context, monkeypatch):
    symbols, numbers = drawn(in_context, 7, 9, 1)
    whole = in_context.context.encode(symbols, numbers)
    monkeypatch.setattr(context, "AT_ONCE", 5)
    assert in_context.context.encode(symbols, numbers) == whole
    assert np.array_equal(in_context.context.decode(*whole[:2], numbers), symbols)


def test_bits_are_what_files_take_and_what_training_sees(in_context):
    symbols, numbers = drawn(in_context, 12, 18, 0)
    coded, _, bits = in_context.context.encode(symbols, numbers)
    assert 8 * len(coded) == pytest.approx(bits, rel=0.01)
    given = torch.from_numpy(symbols)[None].float(), torch.from_numpy(numbers)[None].float()
    with torch.no_grad():
        trained, without = in_context.context.model.estimate(*given, in_context.coding_scales.float())
        nothing, same = ContextModel(in_context.config.m).estimate(*given, in_context.coding_scales.float())
    assert float(trained) == pytest.approx(bits, rel=0.01)
    assert torch.equal(nothing, same) and float(same) == pytest.approx(float(without), rel=1e-5)


@pytest.mark.parametrize("scale", [0.11, 0.4, 1.9])
def test_tables_lie_where_their_middles_are(scale):
    tables = sharp_tables([scale])
    assert len(tables) == PARTS
    for part in range(PARTS):
        own = tables.after(part)
        shares = own.frequencies[: own.lengths[0] - 1] / (1 << 16)
        symbols = np.arange(len(shares)) + own.offsets[0]
        middle = part / PARTS - 0.5
        density = np.diff([0.5 * (1 + torch.erf(torch.tensor((e - middle) / scale / 2**0.5)).item()) for e in (*(symbols - 0.5), symbols[-1] + 0.5)])  # fmt: skip
        assert np.abs(shares - density).max() < 1e-3


def test_files_show_the_same_picture_and_earlier_ones_too(in_context, trained_codec, tmp_path):
    plain, picture = trained_codec("light", "gain"), scene(96, 128, 3)
    saliency_map = np.tile(np.arange(128, dtype=np.uint8), (96, 1))
    own, before = (c.encode(picture, saliency_map=saliency_map, rate=0.01) for c in (in_context, plain))
    assert own.data != before.data and np.array_equal(own.reconstruction, before.reconstruction)
    assert np.array_equal(in_context.decode_checked(own), in_context.decode(before.data))
    with pytest.raises(BitstreamError, match="made by another model"):
        plain.decode(own.data)
    catalogue.save_codec(in_context, tmp_path / "model")
    read = catalogue.load_codec(tmp_path / "model")
    assert read.identity() == plain.identity() and read.additions()["context"].name not in (b"", plain.identity())
    assert read.encode(picture, saliency_map=saliency_map, rate=0.01).data == own.data
    other = copy.deepcopy(plain)
    other.add("context", context_weights(plain, 1))
    with pytest.raises(BitstreamError, match="made by another model"):
        other.decode(own.data)
    file = tmp_path / "model" / catalogue.ADDED["context"]
    content = file.read_bytes()
    catalogue.save_codec(trained_codec("light", "none"), tmp_path / "model")
    assert not file.exists()
    file.write_bytes(content)
    with pytest.raises(FoveaError, match=r"context\.safetensors goes with another weights"):
        catalogue.load_codec(tmp_path / "model")
    file.write_bytes(content[:-9])
    with pytest.raises(FoveaError, match=r"context\.safetensors is damaged"):
        catalogue.load_codec(tmp_path / "model")


def test_a_context_model_of_another_codec_is_refused(trained_codec):
    codec = copy.deepcopy(trained_codec("light", "gain"))
    weights = context_weights(codec)
    for damaged, said in (
        ({k: v for k, v in weights.items() if k != "tables.lengths"}, "incomplete coding tables"),
        ({k: v for k, v in weights.items() if not k.startswith("tables")}, "incomplete"),
        (weights | {"order": torch.zeros_like(weights["order"])}, "incomplete"),
        (weights | {"order": weights["order"][:4]}, "for another codec"),
        (weights | {"networks.0.0.weight": weights["networks.0.0.weight"] * float("inf")}, "diverged"),
    ):
        with pytest.raises(FoveaError, match=said):
            codec.add("context", damaged)
    assert not codec.additions()
    for name in ("bls2017", "cheng2020_anchor"):
        with pytest.raises(FoveaError, match=f"{name} takes no context"):
            trained_codec(name, "gain").add("context", weights)


@pytest.mark.parametrize("kind", ["context", "plain", "progressive"])
def test_files_that_are_on_disks_hold_the_symbols_that_they_held(kind, monkeypatch):
    """One picture with the weights that ship: new weights need new files, nothing else does."""
    codec, seen = catalogue.open_codec("light"), []
    own = codec.dequantized
    monkeypatch.setattr(codec, "dequantized", lambda symbols, *given: (seen.append(symbols), own(symbols, *given))[1])
    codec.decode((GOLDEN / f"{kind}.fov").read_bytes())
    assert hashlib.sha256(seen[0].numpy().astype("<f4").tobytes()).hexdigest()[:16] == "1674668bb4cf3946"
