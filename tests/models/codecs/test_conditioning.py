import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.codecs import conditioning
from models.codecs.gain import Gain

LAMBDAS = (0.001, 0.004, 0.032)


def test_gains_start_at_the_root_of_lambda():
    gain, inverse = Gain(5, LAMBDAS)(torch.tensor([0.0, 1.0, 2.0]).reshape(3, 1, 1, 1))
    middle = math.sqrt(0.001 * 0.032)
    expected = [math.sqrt(v / middle) for v in LAMBDAS]
    assert gain[:, 0, 0, 0].tolist() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(gain * inverse, torch.ones_like(gain))
    assert not list(Gain(4, (0.01,)).parameters()), "one level has nothing to learn"


def test_gains_between_levels_are_geometric_means():
    unit = Gain(2, LAMBDAS)
    with torch.no_grad():
        unit.log_gain.add_(torch.randn(3, 2))
    at = [unit(torch.full((1, 1, 1, 1), v))[0].flatten() for v in (0.0, 0.25, 1.0)]
    torch.testing.assert_close(at[1], at[0] ** 0.75 * at[2] ** 0.25)
    # continuous at a level, from either side
    low, high = (unit(torch.full((1, 1, 1, 1), v))[0] for v in (1 - 1e-6, 1 + 1e-6))
    torch.testing.assert_close(low, high, rtol=1e-4, atol=1e-6)


def test_gains_differ_from_place_to_place():
    unit = Gain(3, LAMBDAS)
    level = torch.tensor([[0.0, 0.5], [1.5, 2.0]])[None, None]
    gain = unit(level)[0]
    assert gain.shape == (1, 3, 2, 2)
    for i in range(2):
        for j in range(2):
            alone = unit(level[:, :, i : i + 1, j : j + 1])[0]
            assert torch.equal(gain[:, :, i : i + 1, j : j + 1], alone)


@given(st.integers(0, 255), st.sampled_from([0.3, 0.5, 1.0, 2.0]), st.integers(1, 70), st.integers(1, 70))
@settings(max_examples=50)
def test_a_constant_map_moves_nothing(value, gamma, height, width):
    s = torch.full((1, 1, height, width), value / 255)
    assert not conditioning.level_steps(s, gamma, 6.0, 16, None).any()


@given(st.integers(0, 2**32), st.sampled_from([0.5, 1.0]), st.sampled_from([1.0, 3.0, 5.0]))
@settings(max_examples=30)
def test_levels_follow_the_map_around_their_mean(seed, gamma, span):
    s = torch.rand(1, 1, 64, 96, generator=torch.Generator().manual_seed(seed))
    s[..., :32, :32] = 1.0
    steps = conditioning.level_steps(s, gamma, span, 16, None)
    p = conditioning.pool(s, 16).pow(gamma)
    wanted = span * (p - p.mean())
    assert float((conditioning.STEP * steps - wanted).abs().max()) <= conditioning.STEP / 2 + 1e-5
    assert abs(float((conditioning.STEP * steps).double().mean())) <= conditioning.STEP / 2
    assert steps[0, 0, 0, 0] == steps.max()


def test_a_crop_with_the_whole_picture_s_centre_gets_the_picture_s_levels():
    s = torch.rand(2, 1, 64, 96, generator=torch.Generator().manual_seed(0))
    whole = conditioning.level_steps(s, 0.5, 3.0, 16, None)
    middle = conditioning.centre(s, 0.5, 16)
    crop = conditioning.level_steps(s[..., 16:48, 32:96], 0.5, 3.0, 16, middle)
    assert torch.equal(crop, whole[..., 1:3, 2:6])
    flat = torch.full((1, 1, 20, 30), 0.2)
    assert conditioning.centre(torch.cat([flat, 0 * flat]), 1.0, 16).tolist() == pytest.approx([0.2, 0.0])


def test_cells_spread_over_positions():
    cells = torch.arange(6).reshape(1, 1, 2, 3)
    places = conditioning.spread(cells, 3, 5, 2)[0, 0]
    assert places.tolist() == [[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 4, 4, 5]]


def test_a_fresh_feature_transform_does_nothing_but_can_learn():
    transform = conditioning.FeatureTransform(4)
    x, s = torch.randn(2, 4, 8, 12), torch.rand(2, 1, 32, 48)
    assert torch.equal(transform(x, s), x)
    transform(x, s).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in transform.condition[2].parameters())
