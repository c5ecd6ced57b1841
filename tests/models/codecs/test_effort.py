"""Refined latents: cheaper, never dearer, and files like any other."""

import numpy as np
import pytest

from models.codecs.effort import Refinement, refine
from models.errors import FoveaError


def picture_and_map(height=64, width=80):
    y, x = np.mgrid[0:height, 0:width] / 30.0
    base = 128 + 70 * np.sin(2 * x) * np.cos(3 * y) + 20 * (x > 1)
    noise = np.random.default_rng(0).normal(0, 3, (height, width, 3))
    picture = (np.stack([base, 0.7 * base, 255 - base], axis=-1) + noise).clip(0, 255).astype(np.uint8)
    return picture, np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1))


@pytest.mark.parametrize(
    ("name", "mechanism"),
    [("bls2017", "none"), ("mbt2018_mean", "none"), ("bmshj2018_hyperprior", "gain"), ("light", "gain")],
)
def test_more_effort_costs_less_and_never_more(trained_codec, name, mechanism):
    codec = trained_codec(name, mechanism)
    picture, saliency_map = picture_and_map()
    given = codec.analysed(picture, saliency_map)
    refinement = Refinement(codec, picture, given, 0.0064)
    plain = refinement.cost
    costs = [plain, *refinement.steps(40)]
    assert (np.diff(costs) <= 0).all() and costs[-1] < plain
    # a shorter descent is the beginning of a longer one
    shorter = Refinement(codec, picture, given, 0.0064)
    assert list(shorter.steps(20)) == costs[1:21]

    encoded = codec.encode_analysed(refinement.best, 0.0064)
    assert np.array_equal(codec.decode(encoded.data), encoded.reconstruction)
    found = Refinement(codec, picture, refinement.best, 0.0064)
    latents = [v for v in (refinement.best.y, refinement.best.z) if v is not None]
    assert found.cost_of(latents) == pytest.approx(costs[-1])
    assert refine(codec, picture, given, 0.0064, 0) is given


@pytest.mark.parametrize(("name", "mechanism"), [("cheng2020_anchor", "none"), ("mbt2018_mean", "hyper")])
def test_what_cannot_be_refined_is_named(trained_codec, name, mechanism):
    codec = trained_codec(name, mechanism)
    picture, saliency_map = picture_and_map(32, 32)
    given = codec.analysed(picture, saliency_map)
    with pytest.raises(FoveaError, match=f"effort is not for {name} with mechanism {mechanism}"):
        refine(codec, picture, given, 0.0064, 10)
