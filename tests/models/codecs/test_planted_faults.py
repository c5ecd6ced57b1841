"""Faults planted in every codec on conditioned.py, each found by the doctor's examination; bls2017's are in test_doctor.py."""

import copy

import pytest
import torch
from scenes import scene

from models.training import doctor

NAMES = ("bmshj2018_factorized", "bmshj2018_hyperprior", "mbt2018_mean", "cheng2020_anchor")


PICTURES = [scene(64, 128), scene(64, 128, 1)]


def planted(codec, **methods):
    """A copy whose class has these methods instead; each gets the codec's own as its first argument."""
    patient = copy.deepcopy(codec)
    own = type(patient)

    def replaced(name, fault):
        return lambda self, *given: fault(getattr(own, name), self, *given)

    replacing = {name: replaced(name, fault) for name, fault in methods.items()}
    patient.__class__ = type(f"Faulty{own.__name__}", (own,), replacing)
    return patient


@pytest.mark.parametrize("name", NAMES)
def test_a_rounding_that_stops_the_gradient(trained_codec, name):
    codec = trained_codec(name)
    assert doctor.gradients(codec, PICTURES).passed
    patient = planted(codec, show=lambda own, self, y_hat, *given: own(self, torch.round(y_hat), *given))
    found = doctor.gradients(patient, PICTURES)
    assert not found.passed and "from the distortion" in found.detail and "g_a." in found.detail


@pytest.mark.parametrize("name", NAMES)
def test_an_unreachable_level(trained_codec, name):
    codec = trained_codec(name)
    assert doctor.reach(codec, PICTURES).passed

    def positive(own, self, *given):
        latents = own(self, *given)
        return latents._replace(symbols=latents.symbols.abs())

    found = doctor.reach(planted(codec, quantise=positive), PICTURES)
    assert not found.passed and "has no negative symbol" in found.detail


@pytest.mark.parametrize("name", NAMES)
def test_a_decoder_that_ignores_the_latents(trained_codec, name):
    codec = trained_codec(name)
    assert doctor.latents_matter(codec, PICTURES).passed
    patient = planted(codec, show=lambda own, self, y_hat, *given: own(self, 0 * y_hat, *given))
    found = doctor.latents_matter(patient, PICTURES)
    assert not found.passed and "hardly uses the latents" in found.detail
