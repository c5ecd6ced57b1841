import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.codecs.bit_context import FAR, FINE, PHASES, SETS, UNIT, BitContext, around_of

M = 5


def planes_of(rng, iterations, h, w, stops):
    """Bits that neighbours tell something about, 0 where a place has stopped."""
    waves = np.sin(np.arange(h)[:, None] / 2 + np.arange(w) / 3 + np.arange(M)[:, None, None])
    drawn = np.where(waves + rng.normal(0, 0.7, (iterations, M, h, w)) > 0, 1, -1).astype(np.int8)
    return drawn * (stops > np.arange(iterations)[:, None, None, None]).astype(np.int8)


def random_context(rng):
    context = BitContext(M)
    context.weights.copy_(context.weights.new_tensor(rng.integers(-300, 301, context.weights.shape)))
    return context


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), iterations=st.integers(1, 6), h=st.integers(1, 7), w=st.integers(1, 7))
def test_what_is_written_is_read(seed, iterations, h, w):
    rng = np.random.default_rng(seed)
    stops = rng.integers(1, iterations + 1, (h, w))
    planes = planes_of(rng, iterations, h, w, stops)
    context = random_context(rng)
    data, bits = context.write(planes, stops, 0)
    assert bits - 8 <= 8 * len(data.rstrip(b"\0")) + 40 and len(data) <= bits / 8 + 5
    read = np.zeros_like(planes)
    assert context.read(data, read, stops, 0, whole=True) == iterations and np.array_equal(read, planes)


def test_of_cut_data_the_iterations_told_completely_are_read():
    rng = np.random.default_rng(0)
    stops = rng.integers(2, 6, (6, 9))
    planes = planes_of(rng, 5, 6, 9, stops)
    context = random_context(rng)
    data, _ = context.write(planes, stops, 1)
    before, seen = 1, set()
    for size in range(len(data) + 1):
        read = np.concatenate((planes[:1], np.zeros_like(planes[1:])))
        there = context.read(data[:size], read, stops, 1, whole=size == len(data))
        assert before <= there and np.array_equal(read[:there], planes[:there]) and not read[there:].any()
        before = there
        seen.add(there)
    assert seen == {1, 2, 3, 4, 5}


def test_without_weights_a_bit_takes_a_bit():
    rng = np.random.default_rng(1)
    stops = np.full((8, 12), 3)
    data, bits = BitContext(M).write(planes_of(rng, 3, 8, 12, stops), stops, 0)
    assert bits == 3 * M * 8 * 12 and 0 <= 8 * len(data) - bits < 40


def test_the_weights_found_save_bits_on_other_pictures():
    rng = np.random.default_rng(2)
    stops = np.full((12, 16), 4)
    context = BitContext(M)
    context.fit([planes_of(rng, 4, 12, 16, stops) for _ in range(30)], steps=80)
    data, bits = context.write(other := planes_of(rng, 4, 12, 16, stops), stops, 0)
    raw, _ = BitContext(M).write(other, stops, 0)
    assert len(data) < 0.85 * len(raw) and bits / 8 == pytest.approx(len(data), abs=5)


def test_every_sum_is_of_integers_and_exact():
    rng = np.random.default_rng(3)
    context = random_context(rng)
    planes = planes_of(rng, 2, 7, 8, np.full((7, 8), 2))
    places = tuple(v.ravel() for v in np.mgrid[0:7, 0:8])
    around = around_of(planes[1], planes[0], places)
    for t, number in ((0, 0), (1, 2), (9, 3)):
        weights = context.weights[min(t, SETS - 1), number].numpy().astype(object)
        expected = around.astype(int).astype(object) @ weights[:, : 18 * M].T + weights[:, -1]
        assert (context._around(number, t, planes[1], planes[0], places) == expected.astype(float)).all()


def test_probabilities_are_never_certain():
    table = BitContext(M).table
    assert len(table) == 2 * FAR + 1 and table[FAR] == 1 << 15
    assert int(table.min()) > 0 and int(table.max()) < 1 << 16 and (table.diff() < 0).all()
    assert UNIT % FINE == 0 and len(set(PHASES)) == 4
