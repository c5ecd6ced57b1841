import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scenes import scene
from trainings import shortly_trained

from models.codecs import entropy
from models.codecs.base import CodecConfig, Output
from models.codecs.bls2017 import Bls2017
from models.errors import FoveaError
from models.training import doctor

CONFIG = CodecConfig(codec="bls2017", n=8, m=10, lmbda=(0.002, 0.02))


PICTURES = [scene(80, 96, i) for i in range(3)]
MAPS = [np.tile(np.linspace(0, 255, 96).astype(np.uint8), (80, 1))] * 3


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    """A codec's after a short training, without tables."""
    return shortly_trained(CONFIG, 120).weights()


def patient(weights: dict[str, torch.Tensor], kind: type[Bls2017] = Bls2017, **changes) -> Bls2017:
    codec = kind(dataclasses.replace(CONFIG, **changes))
    codec.load_trunk(weights)
    codec.update()
    return codec.eval()


def failed(findings: list[doctor.Finding]) -> dict[str, str]:
    return {f.name: f.detail for f in findings if not f.passed}


@pytest.mark.parametrize("mechanism", ["none", "concat", "sft", "gain"])
def test_a_healthy_codec_passes_and_is_left_alone(weights, mechanism):
    codec = patient(weights, mechanism=mechanism, span=0.5)
    before, state = codec.identity(), torch.random.get_rng_state()
    findings = doctor.examine(codec, PICTURES, maps=MAPS, held_out=[scene(80, 96, 9)], held_out_maps=MAPS[:1])
    assert failed(findings) == {}
    names = ["gradients", "reach", "rate", "reconstruction", "latents", "gap"]
    assert [f.name for f in findings] == names
    assert all(np.isfinite(v) for f in findings for v in f.numbers.values())
    assert codec.identity() == before and not codec.training
    assert torch.equal(torch.random.get_rng_state(), state)


def test_without_held_out_pictures_there_is_no_gap(weights):
    assert "gap" not in [f.name for f in doctor.examine(patient(weights), PICTURES[:1])]


class HardRounding(Bls2017):
    """The decoder sees rounded latents, whose gradient is zero; the likelihoods still reach the encoder."""

    def forward(self, x, **given) -> Output:
        out = super().forward(x, **given)
        y = self.analyse(x, None)
        return out._replace(x_hat=self.g_s(torch.round(y)))


def test_a_rounding_that_stops_the_gradient_is_named(weights):
    found = failed(doctor.examine(patient(weights, HardRounding), PICTURES))
    assert "g_a.0.weight" in found["gradients"] and "from the distortion" in found["gradients"]


class FrozenEncoder(Bls2017):
    """Nothing reaches the encoder at all, as in the public port of agustsson2019."""

    def analyse(self, x, saliency_map):
        return super().analyse(x, saliency_map).detach()


def test_a_frozen_encoder_is_named(weights):
    found = failed(doctor.examine(patient(weights, FrozenEncoder), PICTURES))
    assert "g_a.0.weight" in found["gradients"] and "from the loss" in found["gradients"]


class UnreadMap(Bls2017):
    """The fourth plane is there, and empty."""

    def given(self, saliency_map):
        return 0 * super().given(saliency_map)


def test_a_map_that_is_not_read_is_named(weights):
    found = failed(doctor.examine(patient(weights, UnreadMap, mechanism="concat"), PICTURES, maps=MAPS))
    assert "g_a.0.weight[:, 3]" in found["gradients"]


class Rectified(Bls2017):
    """A ReLU before the quantiser: no negative symbol can occur."""

    def analyse(self, x, saliency_map):
        return F.relu(super().analyse(x, saliency_map)) + self.entropy_bottleneck.medians()


class EvenSymbols(entropy.FactorizedPrior):
    """Steps of two: every odd level is out of reach."""

    def symbols(self, y, gain):
        return 2 * (super().symbols(y, gain) // 2)


class Even(Bls2017):
    """A codec with that quantiser."""

    def __init__(self, config):
        super().__init__(config)
        self.entropy_bottleneck = EvenSymbols(config.m)


@pytest.mark.parametrize(("kind", "words"), [(Rectified, "has no negative symbol"), (Even, "never has the symbol")])
def test_an_unreachable_level_is_named(weights, kind, words):
    with torch.no_grad():
        stronger = weights | {"g_a.4.weight": 4 * weights["g_a.4.weight"]}
    assert "reach" not in failed(doctor.examine(patient(stronger), PICTURES))
    assert words in failed(doctor.examine(patient(stronger, kind), PICTURES))["reach"]


def test_symbols_beyond_the_tables_are_named(weights, monkeypatch):
    monkeypatch.setattr(entropy, "MAX_REACH", 0)
    codec = patient(weights)
    found = failed(doctor.examine(codec, PICTURES))
    assert "beyond the tables" in found["reach"]
    assert "reconstruction" not in found


class DeafDecoder(Bls2017):
    """Shows the same whatever the latents say."""

    def synthesise(self, y_hat):
        return super().synthesise(0 * y_hat)


def test_a_decoder_that_ignores_the_latents_is_named(weights):
    found = failed(doctor.examine(patient(weights, DeafDecoder), PICTURES))
    assert "hardly uses the latents" in found["latents"]
    assert "reconstruction" not in found


class OtherDecoder(Bls2017):
    """Decodes to something else than was promised."""

    def decode(self, data):
        return super().decode(data) ^ 1


class Optimist(Bls2017):
    """Claims half of the bits."""

    def encode(self, picture, **given):
        encoded = super().encode(picture, **given)
        return dataclasses.replace(encoded, bits_estimate=encoded.bits_estimate / 8)


def test_another_reconstruction_and_a_wrong_rate_are_named(weights):
    found = failed(doctor.examine(patient(weights, OtherDecoder), PICTURES))
    assert set(found) == {"reconstruction"} and "6 of 6" in found["reconstruction"]
    big = [np.tile(p, (3, 3, 1)) for p in PICTURES]
    found = failed(doctor.examine(patient(weights, Optimist), big))
    assert set(found) == {"rate"} and "bytes where" in found["rate"]


def test_bad_arguments_are_named(weights):
    codec = patient(weights)
    with pytest.raises(FoveaError, match="at least one picture"):
        doctor.examine(codec, [])
    with pytest.raises(FoveaError, match="3 pictures but 1 saliency maps"):
        doctor.examine(codec, PICTURES, maps=MAPS[:1])
