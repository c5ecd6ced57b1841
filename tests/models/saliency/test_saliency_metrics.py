"""The metrics against slow implementations written from their definitions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.saliency import metrics

HEIGHT, WIDTH = 9, 12


def case(seed):
    rng = np.random.default_rng(seed)
    prediction = np.round(rng.random((HEIGHT, WIDTH)), 1) + 0.01  # coarse: ties
    points = np.stack([rng.integers(0, WIDTH, 7), rng.integers(0, HEIGHT, 7)], 1).astype(float)
    others = np.stack([rng.integers(0, WIDTH, 25), rng.integers(0, HEIGHT, 25)], 1).astype(float)
    density = rng.random((HEIGHT, WIDTH)) + 1e-3
    return prediction, points, others, density / density.sum()


def fixated(points):
    return {(int(y), int(x)) for x, y in points}


def brute_auc(positives, negatives):
    wins = sum(1.0 if p > n else 0.5 if p == n else 0.0 for p in positives for n in negatives)
    return wins / (len(positives) * len(negatives))


@pytest.mark.parametrize("seed", range(5))
def test_aucs_count_pairs(seed):
    prediction, points, others, _ = case(seed)
    spots = fixated(points)
    positives = [prediction[s] for s in spots]
    rest = [prediction[y, x] for y in range(HEIGHT) for x in range(WIDTH) if (y, x) not in spots]
    assert metrics.auc_judd(prediction, points) == pytest.approx(brute_auc(positives, rest), abs=1e-12)
    shuffled = [prediction[int(y), int(x)] for x, y in others]
    assert metrics.auc_shuffled(prediction, points, others) == pytest.approx(brute_auc(positives, shuffled), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_density_metrics_follow_their_definitions(seed):
    prediction, points, _, density = case(seed)
    flat_p, flat_y = list(prediction.ravel()), list(density.ravel())
    n = len(flat_p)
    mean_p, mean_y = sum(flat_p) / n, sum(flat_y) / n
    cov = sum((p - mean_p) * (y - mean_y) for p, y in zip(flat_p, flat_y, strict=True)) / n
    sd_p = math.sqrt(sum((p - mean_p) ** 2 for p in flat_p) / n)
    sd_y = math.sqrt(sum((y - mean_y) ** 2 for y in flat_y) / n)
    assert metrics.cc(prediction, density) == pytest.approx(cov / (sd_p * sd_y))
    sum_p = sum(flat_p)
    expected = sum(y * math.log(2.2204e-16 + y / (p / sum_p + 2.2204e-16)) for p, y in zip(flat_p, flat_y, strict=True))
    assert metrics.kl(prediction, density) == pytest.approx(expected)
    low_p, low_y = min(flat_p), min(flat_y)
    total_p, total_y = sum_p - n * low_p, sum(flat_y) - n * low_y
    overlap = sum(min((p - low_p) / total_p, (y - low_y) / total_y) for p, y in zip(flat_p, flat_y, strict=True))
    assert metrics.sim(prediction, density) == pytest.approx(overlap)
    spots = fixated(points)
    p, y = (0.99 * m / m.sum() + 0.01 / n for m in (prediction, density))
    gained = sum(math.log2(p[s] / y[s]) for s in spots) / len(spots)
    assert metrics.info_gain(prediction, points, density) == pytest.approx(gained)
    assert metrics.nss(prediction, points) == pytest.approx(
        sum((prediction[s] - mean_p) / sd_p for s in spots) / len(spots)
    )


@given(st.integers(0, 10_000), st.floats(0.01, 50.0))
@settings(max_examples=25)
def test_scale_does_not_matter(seed, scale):
    prediction, points, _, density = case(seed)
    for measure in (metrics.cc, metrics.sim, metrics.kl):
        assert measure(prediction * scale, density) == pytest.approx(measure(prediction, density), rel=1e-6)
    assert metrics.nss(prediction * scale, points) == pytest.approx(metrics.nss(prediction, points), rel=1e-6)
    assert metrics.auc_judd(prediction**3, points) == metrics.auc_judd(prediction, points)


def test_perfect_and_flat_maps():
    _, points, others, density = case(1)
    assert metrics.cc(density, density) == pytest.approx(1.0) and metrics.sim(density, density) == pytest.approx(1.0)
    assert metrics.kl(density, density) == pytest.approx(0.0, abs=1e-9)
    flat = np.ones((HEIGHT, WIDTH))
    assert metrics.cc(flat, density) == 0.0
    assert metrics.nss(flat, points) == metrics.info_gain(flat, points, flat) == 0.0
    assert metrics.auc_judd(flat, points) == metrics.auc_shuffled(flat, points, others) == 0.5
    hit = metrics.fixation_density(points, HEIGHT, WIDTH, 0.2)
    assert metrics.auc_judd(hit, points) == 1.0


def test_fixations_share_pixels_and_are_clamped():
    points = np.array([[2.2, 3.4], [1.8, 2.6], [-0.4, 0.0], [11.4, 8.4]])
    assert metrics.fixated_pixels(points, HEIGHT, WIDTH).tolist() == [0, 3 * WIDTH + 2, 8 * WIDTH + 11]


def test_fixation_density_is_a_gaussian_around_the_fixation():
    density = metrics.fixation_density(np.array([[40.0, 30.0]]), 61, 81, 5.0)
    assert density.sum() == pytest.approx(1.0) and np.unravel_index(density.argmax(), density.shape) == (30, 40)
    assert density[30, 45] / density[30, 40] == pytest.approx(math.exp(-0.5), rel=1e-3)
    assert density[20, 40] / density[30, 40] == pytest.approx(math.exp(-2.0), rel=1e-3)
