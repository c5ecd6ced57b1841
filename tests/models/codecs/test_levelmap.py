import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.codecs import levelmap
from models.codecs.bitstream import BitstreamError

SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9))


@given(arrays(np.int64, SHAPES, elements=st.integers(-levelmap.MAX_STEPS, levelmap.MAX_STEPS)))
def test_round_trip(steps):
    assert np.array_equal(levelmap.decode_levels(levelmap.encode_levels(steps), *steps.shape), steps)


@given(st.integers(0, 2**32), st.sampled_from([0.3, 1.0, 4.0]))
@settings(max_examples=30)
def test_round_trip_of_maps_that_look_like_maps(seed, roughness):
    noise = np.random.default_rng(seed).normal(0, roughness, (16, 32))
    steps = np.cumsum(noise, axis=1).round().astype(np.int64).clip(-64, 64)
    assert np.array_equal(levelmap.decode_levels(levelmap.encode_levels(steps), 16, 32), steps)


@given(st.binary(max_size=50), SHAPES)
def test_any_bytes_give_levels_or_an_error(data, shape):
    try:
        steps = levelmap.decode_levels(data, *shape)
    except BitstreamError:
        return
    assert steps.shape == shape and np.abs(steps).max() <= levelmap.MAX_STEPS


def test_zeros_take_no_byte_and_a_level_out_of_range_is_refused():
    assert levelmap.encode_levels(np.zeros((16, 32), dtype=np.int64)) == b""
    assert not levelmap.decode_levels(b"", 16, 32).any()
    far = np.full((1, 1), levelmap.MAX_STEPS + 9)
    with pytest.raises(BitstreamError, match="level"):
        levelmap.decode_levels(levelmap.encode_levels(far), 1, 1)


def bump(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    spot = np.exp(-(((y - height / 3) / 5) ** 2) - ((x - width / 3) / 7) ** 2)
    return np.round(6 * spot**0.5 - 2).astype(np.int64)


def test_a_smooth_map_takes_few_bytes_always_the_same():
    data = levelmap.encode_levels(bump(16, 32))
    assert len(data) < 60
    # the bytes are part of the format
    assert data.hex() == GOLDEN


GOLDEN = "f710d7778f97e351615e50ed434bb3ffa9bb849dc3005200d0ad1cfde5f2050e271e3e42d942d55c1db4a12fc0ce7de69d504a87e4f5"


def test_estimate_is_near_the_bytes():
    steps = bump(16, 32)
    estimate = levelmap.estimate_bits(torch.from_numpy(steps)[None, None])
    assert estimate.shape == (1,) and 0.5 < float(estimate) / (8 * len(levelmap.encode_levels(steps))) < 2
    assert levelmap.estimate_bits(torch.zeros(3, 1, 16, 32, dtype=torch.int64)).tolist() == [0, 0, 0]
