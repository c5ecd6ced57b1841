import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.codecs import codes
from models.codecs.bitstream import BitstreamError
from models.codecs.codes import bound_bits, decode_codes, decode_region, encode_codes, encode_region, packed_bytes


def made(seed, channels, height, width, levels, smooth):
    rng = np.random.default_rng(seed)
    half = levels // 2
    cells = rng.integers(-half, half + 1, (channels, height, width)).astype(np.int32)
    if smooth:
        cells = np.repeat(cells[:, :, :1], width, axis=2)
    return cells, rng.random((height, width)) < rng.random()


@settings(max_examples=60)
@given(
    seed=st.integers(0, 1 << 20),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 12)),
    levels=st.sampled_from([3, 5, 7]),
    smooth=st.booleans(),
    least=st.integers(0, 12),
)
def test_what_is_coded_comes_back_within_the_bound(seed, shape, levels, smooth, least):
    channels, height, width = shape
    cells, region = made(seed, *shape, levels, smooth)
    for kept in (None, region):
        data, bits = encode_codes(cells, levels, kept, least)
        inside = np.ones((height, width), dtype=bool) if kept is None else kept
        count = channels * int(inside.sum())
        assert np.array_equal(decode_codes(data, channels, levels, inside), cells * inside)
        assert len(data) <= max(least, math.ceil(bound_bits(count, levels) / 8))
        assert bits <= bound_bits(count, levels) + 8
    data, _ = encode_region(region)
    assert np.array_equal(decode_region(data, height, width), region)


def test_smooth_codes_cost_less_than_the_bound_and_noise_costs_the_bound():
    noise, _ = made(0, 4, 24, 32, 5, False)
    smooth, _ = made(0, 4, 24, 32, 5, True)
    bound = packed_bytes(noise.size, 5)
    assert len(encode_codes(noise, 5)[0]) == bound == math.ceil(noise.size * math.log2(5) / 8)
    data, bits = encode_codes(smooth, 5)
    assert len(data) < 0.7 * bound and abs(8 * len(data) - bits) < 24


def test_more_codes_than_are_packed_are_coded_adaptively(monkeypatch):
    cells, region = made(3, 2, 6, 6, 5, False)
    monkeypatch.setattr(codes, "MAX_PACKED", 10)
    data, _ = encode_codes(cells, 5)
    assert np.array_equal(decode_codes(data, 2, 5, np.ones_like(region)), cells)


def test_a_whole_region_is_the_empty_string_and_another_is_counted():
    assert encode_region(np.ones((5, 7), dtype=bool)) == (b"", 0.0)
    region = np.zeros((5, 7), dtype=bool)
    region[1:3, 2:5] = True
    data, bits = encode_region(region)
    assert data and abs(8 * len(data) - bits) < 24


def test_numbers_that_no_encoder_writes_are_refused():
    region = np.ones((1, 2), dtype=bool)
    with pytest.raises(BitstreamError, match="out of range"):
        decode_codes(b"\xff" * packed_bytes(4, 5), 2, 5, region)
    with pytest.raises(BitstreamError, match="out of range"):
        decode_codes(b"\0" * packed_bytes(4, 5) + b"\1", 2, 5, region)


@settings(max_examples=40)
@given(st.binary(max_size=40), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))
def test_any_bytes_give_codes_in_range_or_an_error(data, channels, height, width):
    try:
        cells = decode_codes(data, channels, 5, decode_region(data, height, width))
    except BitstreamError:
        return
    assert cells.shape == (channels, height, width) and np.abs(cells).max() <= 2
