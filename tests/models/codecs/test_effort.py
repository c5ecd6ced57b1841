"""Refined latents: cheaper, never dearer, and files like any other."""

import numpy as np
import pytest
from scenes import checkerboard, scene, spot

from models.codecs.batch import in_order
from models.codecs.catalogue import open_codec
from models.codecs.effort import Refinement, refine
from models.errors import FoveaError


@pytest.mark.parametrize(
    ("name", "mechanism"),
    [("bls2017", "none"), ("mbt2018_mean", "none"), ("bmshj2018_hyperprior", "gain"), ("light", "gain")],
)
def test_more_effort_costs_less_and_never_more(trained_codec, name, mechanism):
    codec = trained_codec(name, mechanism)
    picture = scene(64, 80)
    given = codec.analysed(picture, spot(64, 80))
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
    assert found.cost_of(refinement.best.y) == pytest.approx(costs[-1])
    assert refine(codec, picture, given, 0.0064, 0) is given


@pytest.mark.parametrize(("name", "mechanism"), [("cheng2020_anchor", "none"), ("mbt2018_mean", "hyper")])
def test_what_cannot_be_refined_is_named(trained_codec, name, mechanism):
    codec = trained_codec(name, mechanism)
    picture = scene(32, 32)
    given = codec.analysed(picture, spot(32, 32))
    with pytest.raises(FoveaError, match=f"effort is not for {name} with mechanism {mechanism}"):
        refine(codec, picture, given, 0.0064, 10)


def test_refinement_ends_at_its_next_step_when_nobody_waits_for_it(trained_codec):
    codec, picture, done = trained_codec("bls2017", "none"), scene(32, 32), list[float]()

    def work(_: int) -> None:
        done.extend(Refinement(codec, picture, codec.analysed(picture), 0.0064).steps(1500))

    def items():
        yield 0
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(in_order(work, items()))
    assert len(done) < 1500


def test_a_pattern_that_no_training_had_is_refined_too() -> None:
    codec, picture = open_codec("light"), scene(64, 128)
    picture[:, 64:] = checkerboard(64, 64, 4)
    refinement = Refinement(codec, picture, codec.analysed(picture, np.full((64, 128), 255, np.uint8)), 0.0512)
    before = refinement.cost
    assert min(refinement.steps(10)) < 0.95 * before
