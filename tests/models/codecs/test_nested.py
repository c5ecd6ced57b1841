"""Trees over the symbols of coding tables, the order of their nodes, and streams that any beginning of decodes."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.codecs import nested
from models.codecs.bitstream import BitstreamError
from models.codecs.hyperprior import gaussian_tables

SCALES = [0.11, 0.3, 1.0, 4.0, 30.0]
CHANNELS, HEIGHT, WIDTH = 5, 6, 7


@pytest.fixture(scope="module")
def forest():
    return nested.plant(gaussian_tables(SCALES), 0)


def walk(forest, rows=((16,),), ahead=((0,),)):
    gains = np.round(65536 * 2.0 ** (np.arange(33)[:, None] / 16 + 0.1 * np.arange(CHANNELS))).astype(np.int64)
    tables = np.repeat(np.arange(CHANNELS), HEIGHT * WIDTH)
    order = nested.Order(gains)
    return nested.Walk(forest, order, tables, np.array(rows), np.array(ahead), (CHANNELS, HEIGHT, WIDTH))


def drawn(seed=0, escapes=True):
    rng = np.random.default_rng(seed)
    symbols = np.rint(rng.normal(size=(CHANNELS, HEIGHT * WIDTH)) * np.array(SCALES)[:, None]).astype(np.int32)
    if escapes:
        symbols[0, 3], symbols[4, 5] = -9, 100_000
    return symbols.ravel()


@given(st.integers(1, 2**62 - 1))
def test_logarithms_are_rounded_down(value):
    got = int(nested.log2_fixed(np.array([value]))[0])
    assert got - 1 <= math.log2(value) * 65536 < got + 2
    assert int(nested.log2_fixed(np.array([1 << value.bit_length() - 1]))[0]) == (value.bit_length() - 1) << 16


def test_each_tree_has_the_symbols_of_its_table_as_leaves(forest):
    tables = gaussian_tables(SCALES)
    for table in range(len(SCALES)):
        leaves, waiting = [], [table]
        while waiting:
            node = waiting.pop()
            low, *middle, high = forest.bounds[node].tolist()
            if high - low == 1:
                assert forest.value[node] == nested.LEAF and forest.centre[node] == low
                leaves.append(low)
                continue
            cumulative = forest.cumulative[node]
            assert cumulative[0] == 0 and cumulative[4] == 1 << 16 and cumulative[5] == (1 << 16) + 1
            edges = np.array([low, *middle, high])
            there = np.diff(edges) > 0
            assert np.array_equal(np.diff(cumulative[:4]) > 0, there) and there.sum() >= 2
            assert (cumulative[4] > cumulative[3]) == (node < len(SCALES))  # a root's escape
            children = forest.first[node] + np.arange(there.sum())
            assert np.array_equal(forest.bounds[children][:, [0, 3]], np.stack((edges[:-1], edges[1:]), axis=1)[there])
            waiting += children.tolist()
        first = tables.offsets[table]
        assert sorted(leaves) == list(range(first, first + tables.lengths[table] - 1))


def test_a_root_costs_what_its_table_says(forest):
    """The path to a symbol takes as many bits as the table's entry, but for rounding to 2^-16."""
    tables = gaussian_tables(SCALES)
    for symbol in (-7, 0, 1, 5):
        node, bits = 3, 0.0
        while forest.value[node] != nested.LEAF:
            slot = int((symbol >= forest.bounds[node, 1:3]).sum())
            bits += forest.bits[node, slot]
            absent = slot == 2 and forest.bounds[node, 1] == forest.bounds[node, 2]
            node = forest.first[node] + slot - absent
        entry = tables.frequencies[tables.starts[3] + symbol - tables.offsets[3]]
        assert bits == pytest.approx(16 - math.log2(entry), abs=0.02)


@pytest.mark.parametrize("escapes", [False, True])
def test_symbols_come_back(forest, escapes):
    symbols = drawn(escapes=escapes)
    strings = nested.encode(walk(forest), symbols)
    assert bool(strings[0]) == escapes
    back = walk(forest)
    nested.decode(back, *strings, whole=True)
    assert np.array_equal(back.shown(), symbols)


@pytest.mark.parametrize("symbol", [0, 3, 50])
def test_a_single_symbol_comes_back(forest, symbol):
    order, none = nested.Order(np.full((1, 1), 65536)), np.zeros((1, 1), int)
    there, back = (nested.Walk(forest, order, np.array([1]), none, none, (1, 1, 1)) for _ in range(2))
    nested.decode(back, *nested.encode(there, np.array([symbol], np.int32)), whole=True)
    assert back.shown().tolist() == [symbol]


def test_every_beginning_tells_the_truth_and_each_word_more_of_it(forest):
    symbols = drawn()
    escapes, coded = nested.encode(walk(forest), symbols)
    before = -1
    for kept in (*range(0, len(coded), 3), len(coded)):
        back = walk(forest)
        nested.decode(back, escapes, coded[:kept], whole=False)
        low, high = forest.bounds[back.node][:, [0, 3]].T
        held = (low <= symbols) & (symbols < high) | (back.node < len(SCALES))
        assert held.all()
        known = np.count_nonzero(back.node >= len(SCALES)) + np.count_nonzero(back.wanted == -nested.LEAF)
        assert known >= before
        before = known
    assert np.array_equal(back.shown(), symbols)


def test_what_is_ahead_is_told_first(forest):
    symbols = drawn(escapes=False)
    ahead = np.zeros((HEIGHT, WIDTH), dtype=int)
    ahead[:, :3] = 24
    _, coded = nested.encode(walk(forest, ahead=ahead), symbols)
    back = walk(forest, ahead=ahead)
    nested.decode(back, b"", coded[: len(coded) // 3], whole=False)
    error = np.abs(back.shown() - symbols).reshape(CHANNELS, HEIGHT, WIDTH)[-1]
    assert error[:, :3].mean() < 0.5 * error[:, 3:].mean()


def test_a_finer_bin_waits_for_a_higher_level(forest):
    """The same node counts less where the gain is higher: by as many levels as the gain is."""
    coarse, fine = walk(forest), walk(forest, rows=((32,),))
    some = (coarse.wanted > -40) & (fine.wanted < 60)
    assert some.any() and np.abs(fine.wanted - coarse.wanted - 16)[some].max() <= 1


def test_what_cannot_be_is_refused(forest):
    symbols = drawn()
    escapes, coded = nested.encode(walk(forest), symbols)
    for wrong in ((escapes[:-1], coded), (escapes + b"\0", coded), (b"", coded), (escapes, coded[:8])):
        with pytest.raises(BitstreamError):
            nested.decode(walk(forest), *wrong, whole=True)
    huge = b"\xff\xff\xff\xff\x7f"
    with pytest.raises(BitstreamError, match="out of range"):
        nested.decode(walk(forest), huge + escapes, coded, whole=False)
