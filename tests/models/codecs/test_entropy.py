import numpy as np
import pytest
import torch
from compressai.entropy_models import EntropyBottleneck
from hypothesis import given, settings
from hypothesis import strategies as st

from models.codecs.bitstream import BitstreamError
from models.codecs.entropy import FactorizedPrior, Tables, bits
from models.errors import FoveaError

CHANNELS = 6


def prior(seed: int = 0) -> FactorizedPrior:
    """A density that is no initial one: other widths, centres and skews for each channel."""
    torch.manual_seed(seed)
    model = FactorizedPrior(CHANNELS)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name != "quantiles":
                p.add_(0.3 * torch.randn_like(p))
    model.solve_quantiles()
    return model


@pytest.fixture(scope="module")
def model() -> FactorizedPrior:
    return prior()


@pytest.fixture(scope="module")
def other(model: FactorizedPrior) -> EntropyBottleneck:
    """CompressAI's, with the same weights, and its tables."""
    other = EntropyBottleneck(CHANNELS)
    other.load_state_dict(model.state_dict())
    other.update(force=True)
    return other


def latents(seed: int = 1, spread: float = 8.0) -> torch.Tensor:
    return spread * torch.randn(2, CHANNELS, 5, 7, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("training", [False, True])
def test_at_gain_one_it_is_compressai(model, other, training):
    y = latents()
    torch.manual_seed(3)
    y_hat, likelihoods = model(y, training=training)
    torch.manual_seed(3)
    expected = other(y, training=training)
    assert torch.equal(y_hat, expected[0]) and torch.equal(likelihoods, expected[1])


def test_the_gained_path_agrees_at_gain_one(model):
    y = latents()
    one = torch.ones(1, CHANNELS, 1, 1)
    y_hat, likelihoods = model(y, (one, one), training=False)
    expected = model(y, training=False)
    torch.testing.assert_close(y_hat, expected[0])
    torch.testing.assert_close(likelihoods, expected[1], rtol=1e-4, atol=1e-6)


def test_tables_and_bytes_at_gain_one_are_those_of_compressai(model, other):
    tables = model.tables([None])
    for c in range(CHANNELS):
        length = int(other._cdf_length[c])
        assert tables.cdf(c)[:length] == other._quantized_cdf[c, :length].tolist()
        assert tables.offsets[c] == other._offset[c]
    y = latents(spread=2.0)[:1]
    symbols = model.symbols(y, None)
    indexes = np.repeat(np.arange(CHANNELS, dtype=np.int32), 35)
    coded, escapes = tables.encode(symbols.numpy().ravel(), indexes, np.arange(CHANNELS, dtype=np.int32))
    assert escapes == b"" and coded == other.compress(y)[0]
    assert torch.equal(model.dequantized(symbols, None), other.decompress([coded], (5, 7)))


def test_bins_of_any_width_tile_the_density(model):
    """The likelihoods of all symbols sum to 1 at any gain, which a density of the scaled latents would not know."""
    for g in (0.3, 1.7, 5.0):
        gain = torch.full((1, CHANNELS, 1, 1), g)
        # all symbols, placed one a pixel
        reach = 4000
        q = torch.arange(-reach, reach + 1, dtype=torch.float32).expand(1, CHANNELS, 1, -1)
        y = q / gain + model.medians()
        likelihoods = model(y, (gain, 1 / gain), training=False)[1]
        torch.testing.assert_close(likelihoods.sum(dim=3), torch.ones(1, CHANNELS, 1), atol=2e-3, rtol=0)


def test_wider_bins_hold_what_their_parts_hold(model):
    """P(q) at gain g is the sum of the bins at gain 3g that lie within it."""
    coarse, fine = torch.full((1, CHANNELS, 1, 1), 0.5), torch.full((1, CHANNELS, 1, 1), 1.5)
    q = torch.arange(-4.0, 5.0).expand(1, CHANNELS, 1, -1)
    whole = model(q / coarse + model.medians(), (coarse, 1 / coarse), training=False)[1]
    parts = [model((3 * q + k) / fine + model.medians(), (fine, 1 / fine), training=False)[1] for k in (-1, 0, 1)]
    torch.testing.assert_close(whole, sum(parts), rtol=1e-3, atol=1e-6)


def test_file_size_follows_the_likelihoods_at_each_gain(model):
    gains = [torch.full((CHANNELS,), g) for g in (0.5, 1.0, 3.0)]
    tables = model.tables(gains)
    # latents as the density itself has them: inverse transform by bisection
    u = torch.rand(CHANNELS, 1, 4000, generator=torch.Generator().manual_seed(0)).clamp(1e-4, 1 - 1e-4)
    target = torch.logit(u)
    low, high = torch.full_like(u, -1e3), torch.full_like(u, 1e3)
    for _ in range(40):
        mid = (low + high) / 2
        below = model._logits_cumulative(mid, stop_gradient=True) < target
        low, high = torch.where(below, mid, low), torch.where(below, high, mid)
    y = low.transpose(0, 1)[..., None]
    for i, g in enumerate(gains):
        gain = (g[None, :, None, None], 1 / g[None, :, None, None])
        symbols = model.symbols(y, gain).numpy().ravel()
        indexes = np.repeat(np.arange(CHANNELS, dtype=np.int32), 4000)
        numbers = np.arange(CHANNELS, dtype=np.int32) + i * CHANNELS
        coded, escapes = tables.encode(symbols, indexes, numbers)
        estimate = bits({"y": model(y, gain, training=False)[1]}, escapes)
        assert 8 * len(coded + escapes) == pytest.approx(estimate, rel=0.01)
        assert np.array_equal(tables.decode(coded, escapes, indexes, numbers), symbols)


@given(st.lists(st.integers(-(2**19), 2**19), min_size=1, max_size=40), st.data())
@settings(max_examples=40)
def test_symbols_far_outside_the_tables_survive(symbols, data):
    tables = TABLES
    indexes = np.array(data.draw(st.lists(st.integers(0, 2), min_size=len(symbols), max_size=len(symbols))))
    numbers = np.array([1, 4, 5])
    coded, escapes = tables.encode(np.array(symbols, dtype=np.int32), indexes, numbers)
    assert tables.decode(coded, escapes, indexes, numbers).tolist() == symbols


TABLES = prior(5).tables([None])


@given(st.binary(min_size=0, max_size=64), st.binary(max_size=8), st.integers(1, 600))
@settings(max_examples=150)
def test_decoding_garbage_gives_symbols_or_an_error(coded, escapes, count):
    indexes, numbers = np.arange(count) % CHANNELS, np.arange(CHANNELS)
    try:
        symbols = TABLES.decode(coded, escapes, indexes, numbers)
    except BitstreamError:
        return
    assert symbols.shape == (count,)


def test_a_string_too_short_for_its_symbols_is_refused():
    with pytest.raises(BitstreamError, match="cannot hold"):
        TABLES.decode(b"\0" * 16, b"", np.zeros(100_000, dtype=np.int32), np.arange(1))


def test_tables_survive_a_file_and_damage_is_noticed():
    tensors = TABLES.tensors()
    again = Tables.from_tensors(tensors)
    assert again is not None and all(
        torch.equal(a, b) for a, b in zip(again.tensors().values(), tensors.values(), strict=True)
    )
    assert Tables.from_tensors({}) is None
    with pytest.raises(FoveaError, match="missing"):
        Tables.from_tensors({k: v for k, v in tensors.items() if "offsets" not in k})
    wrong = TABLES.frequencies.copy()
    wrong[0] += 1
    with pytest.raises(FoveaError, match="add up"):
        Tables.from_tensors(tensors | {"tables.frequencies": torch.from_numpy(wrong)})
    with pytest.raises(FoveaError, match="fit together"):
        Tables(TABLES.frequencies[1:], TABLES.lengths, TABLES.offsets)
    with pytest.raises(FoveaError, match="out of range"):
        Tables(TABLES.frequencies, TABLES.lengths, TABLES.offsets - (1 << 25))
