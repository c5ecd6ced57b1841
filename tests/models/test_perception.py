import cv2
import numpy as np
import pytest

from models.bootstrap import resample_counts
from models.errors import FoveaError
from models.perception import RESAMPLES, Perception, kid


def brute(x, y):
    def k(a, b):
        return float(np.mean((a @ b.T / a.shape[1] + 1) ** 3))

    n = len(x)
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    return float(np.mean([k(x[i], x[j]) + k(y[i], y[j]) - k(x[i], y[j]) - k(x[j], y[i]) for i, j in pairs]))


def drawn(n, shift=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(shift, 1, (3, 5)) for _ in range(n)]


def test_kid_is_the_unbiased_estimate_written_out():
    x, y = drawn(5), drawn(5, 0.4, 1)
    assert kid(x, y).value == pytest.approx(brute(x, y), rel=1e-9)
    assert np.isnan(kid(x[:3], y[:3]).low), "too few for an interval"
    with pytest.raises(FoveaError, match="two or more"):
        kid(x[:1], y[:1])


def test_kid_of_equal_sets_is_zero_and_a_shift_shows():
    x = drawn(40)
    assert kid(x, x).value == pytest.approx(0, abs=1e-12)
    same = kid(x, drawn(40, seed=1))
    assert same.low < 0 < same.high
    other = kid(x, drawn(40, 1.0, 2))
    assert other.low > 0 and other.low < other.value < other.high
    values = [kid(drawn(12, seed=s), drawn(12, seed=100 + s)).value for s in range(60)]
    # unbiased: negative as often as not
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(60)


def test_neighbours_are_drawn_together():
    for n, block in ((48, 6), (10, 3), (5, 5), (7, 1)):
        counts = resample_counts(n, RESAMPLES, block=block)
        assert counts.shape == (RESAMPLES, n) and (counts.sum(axis=1) == n).all()
        # all pictures are drawn as often
        assert abs(counts.mean(axis=0) - 1).max() < 0.2
    # a sequence that changes slowly: drawn one by one its frames pass for so many pictures
    values = np.repeat(np.random.default_rng(0).normal(size=8), 6)
    spread = [np.std(resample_counts(48, RESAMPLES, block=b) @ values / 48) for b in (1, 6)]
    assert spread[1] > 1.7 * spread[0]
    x = [np.full((1, 4), v) + np.arange(4) / 9 for v in values]
    y = [f * 0.5 for f in x]
    one, together = kid(x, y), kid(x, y, block=6)
    assert one.value == together.value and together.high - together.low > one.high - one.low
    assert len(together.draws) == RESAMPLES


def test_blur_shows_in_distance_and_features():
    rng = np.random.default_rng(0)
    pictures = [
        cv2.resize(rng.integers(0, 256, (24, 40, 3), dtype=np.uint8), (160, 96), interpolation=cv2.INTER_CUBIC)
        for _ in range(4)
    ]
    eye = Perception()
    light, heavy = ([cv2.GaussianBlur(p, (0, 0), s) for p in pictures] for s in (1.0, 4.0))
    assert eye.distance(pictures[0], pictures[0]) < 1e-5
    assert 0 < eye.distance(pictures[0], light[0]) < eye.distance(pictures[0], heavy[0])
    features = [[eye.patch_features(p) for p in group] for group in (pictures, light, heavy)]
    assert features[0][0].shape == (2, 320)
    assert kid(features[0], features[1]).value < kid(features[0], features[2]).value
    with pytest.raises(FoveaError, match="64×64"):
        eye.patch_features(pictures[0][:40])
