import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models.errors import FoveaError
from models.saliency.weighting import augment_maps, center_map, derangement, random_map, weight_map, weight_means

MAPS = hnp.arrays(np.uint8, st.tuples(st.integers(1, 24), st.integers(1, 24)))


@given(MAPS, st.floats(0.01, 2), st.floats(0.2, 3))
@settings(max_examples=50)
def test_mean_is_one_for_each_picture_of_a_batch(stored, alpha, gamma):
    s = torch.from_numpy(stored.astype(np.float32) / 255)
    w = weight_map(s, alpha=alpha, gamma=gamma)
    assert w.dtype == torch.float32 and w.double().mean().item() == pytest.approx(1, abs=1e-6)
    both = weight_map(torch.stack((s, s.flip(0)))[:, None], alpha=alpha, gamma=gamma)
    torch.testing.assert_close(both, torch.stack((w, w.flip(0)))[:, None], rtol=1e-6, atol=0)


def test_the_formula_on_numbers():
    s = torch.tensor([[0.0, 1.0], [0.25, 0.25]])
    raw = np.array([[0.1, 1.1], [0.6, 0.6]])
    np.testing.assert_allclose(weight_map(s, alpha=0.1, gamma=0.5), raw / 0.6, rtol=1e-6)
    np.testing.assert_allclose(weight_map(s, alpha=0.1, gamma=0.5, normalised=False, scale=3), 3 * raw, rtol=1e-6)


@given(st.integers(0, 255), st.floats(0, 2), st.floats(0.2, 3), st.integers(1, 40))
@settings(max_examples=50)
def test_a_constant_map_weighs_exactly_one(value, alpha, gamma, side):
    s = torch.full((side, side + 1), value / 255)
    assert (weight_map(s, alpha=alpha, gamma=gamma) == 1).all()


@given(MAPS)
@settings(max_examples=30)
def test_the_mean_of_a_stored_map_is_what_its_weights_are_divided_by(stored):
    s = torch.from_numpy(stored) / 255
    whole, raw = (weight_map(s, alpha=0.1, gamma=0.5, normalised=n) for n in (True, False))
    np.testing.assert_allclose(raw / weight_means([stored], alpha=0.1, gamma=0.5)[0], whole, rtol=1e-6)


def test_center_map():
    bump = center_map(601, 801)
    assert bump.dtype == np.float32 and bump.max() == 1 and bump[300, 400] == 1
    # one standard deviation to the right and down: 172 of 800 and 116 of 600 pixels, scaled with the picture
    at = 400 + 172 / 800 * 801
    assert np.interp(at, np.arange(801), bump[300]) == pytest.approx(np.exp(-0.5), abs=1e-3)
    at = 300 + 116 / 600 * 601
    assert np.interp(at, np.arange(601), bump[:, 400]) == pytest.approx(np.exp(-0.5), abs=1e-3)
    np.testing.assert_array_equal(bump, bump[::-1, ::-1])
    assert center_map(1, 1)[0, 0] == 1


@given(st.integers(2, 60), st.integers(0, 5), st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_derangement(count, seed, random):
    names = [f"city/{i}" for i in range(count)]
    others = derangement(names, seed)
    assert sorted(others) == list(range(count)) and all(i != other for i, other in enumerate(others))
    shuffled = list(names)
    random.shuffle(shuffled)
    again = derangement(shuffled, seed)
    assert {n: shuffled[o] for n, o in zip(shuffled, again, strict=True)} == {
        n: names[o] for n, o in zip(names, others, strict=True)
    }


def test_derangement_depends_on_the_seed():
    names = [str(i) for i in range(30)]
    assert derangement(names, 0) != derangement(names, 1)


@pytest.mark.parametrize(("names", "said"), [([], "at least two"), (["a"], "at least two"), (["a", "a"], "unique")])
def test_names_that_cannot_change_places_are_refused(names, said):
    with pytest.raises(FoveaError, match=said):
        derangement(names)


def test_random_maps_stay_in_range_and_vary_in_kind():
    rng = np.random.default_rng(0)
    maps = [random_map(20, 31, rng) for _ in range(200)]
    assert all(m.shape == (20, 31) and m.dtype == np.float32 and m.min() >= 0 and m.max() <= 1 for m in maps)
    uniform = sum(float(np.ptp(m)) == 0 for m in maps)
    peaked = sum(m.max() == 1 for m in maps)
    assert 25 < uniform < 80 and 60 < peaked < 140


def test_augmentation_is_a_function_of_seed_and_step():
    s = torch.rand(16, 1, 32, 32)
    a, changed = augment_maps(s, seed=1, step=7, share=0.5)
    b, _ = augment_maps(s, seed=1, step=7, share=0.5)
    c, _ = augment_maps(s, seed=1, step=8, share=0.5)
    assert torch.equal(a, b) and not torch.equal(a, c) and 0 < changed.sum() < 16
    assert torch.equal(a[~changed], s[~changed]) and a.min() >= 0 and a.max() <= 1
