"""The doctor finds nothing in sound codecs on conditioned.py, and each planted fault by its name."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from scenes import scene, spot

from models.card import cards
from models.codecs import catalogue, entropy
from models.codecs.config import CodecConfig
from models.errors import FoveaError
from models.training import doctor

NAMES = ("bls2017", "bmshj2018_factorized", "bmshj2018_hyperprior", "mbt2018_mean", "cheng2020_anchor")
SOUND = [(name, mechanism) for name in (*NAMES, "light") for mechanism in ("none", "gain")]
SOUND += [(name, "hyper") for name, found in cards().found.items() if "hyper" in found.card.mechanisms]
SOUND += [("bls2017", "concat"), ("bls2017", "sft")]
PICTURES, MAPS = [scene(64, 128), scene(64, 128, 1)], [spot(64, 128)] * 2


def planted(codec, **methods):
    """A copy whose class has these methods instead; each gets the codec's own as its first argument."""
    patient = copy.deepcopy(codec)
    own = type(patient)

    def replaced(name, fault):
        return lambda self, *given, **words: fault(getattr(own, name), self, *given, **words)

    replacing = {name: replaced(name, fault) for name, fault in methods.items()}
    patient.__class__ = type(f"Faulty{own.__name__}", (own,), replacing)
    return patient


def failed(findings: list[doctor.Finding]) -> dict[str, str]:
    return {f.name: f.detail for f in findings if not f.passed}


@pytest.mark.parametrize(("name", "mechanism"), SOUND)
def test_a_healthy_codec_passes_and_is_left_alone(trained_codec, name, mechanism):
    codec = trained_codec(name, mechanism)
    before, state = codec.identity(), torch.random.get_rng_state()
    pictures, maps = [scene(50, 90, seed) for seed in range(2)], [spot(50, 90)] * 2
    findings = doctor.examine(codec, pictures, maps=maps, held_out=pictures[:1], held_out_maps=maps[:1])
    assert failed(findings) == {}
    assert [f.name for f in findings] == ["gradients", "reach", "rate", "reconstruction", "latents", "gap"]
    assert all(np.isfinite(v) for f in findings for v in f.numbers.values())
    assert codec.identity() == before and not codec.training and torch.equal(torch.random.get_rng_state(), state)


def test_a_codec_with_a_context_model_is_healthy(in_context):
    assert failed(doctor.examine(in_context, PICTURES, maps=MAPS)) == {}


def test_what_was_asleep_in_the_trunk_is_no_fault_of_a_branch(trained_codec):
    trunk = copy.deepcopy(trained_codec("light", "gain"))
    with torch.no_grad():
        trunk.g_a[0][0][2].body[2].bias -= 1e3
    trunk.update()
    branch = copy.deepcopy(trunk)
    assert "g_a.0.0.2.body" in failed(doctor.examine(branch, PICTURES, maps=MAPS))["gradients"]
    findings = doctor.examine(branch, PICTURES, maps=MAPS, trunk=trunk)
    assert failed(findings) == {} and "but for 5 that have none in the trunk" in findings[0].detail
    plain = catalogue.build(dataclasses.replace(trunk.config, mechanism="none", gamma=1.0, span=0.0))
    plain.load_weights(trunk.weights())
    assert failed(doctor.examine(plain.eval(), PICTURES, trunk=trunk)) == {}
    with torch.no_grad():
        branch.g_a[0][0][3].body[2].bias -= 1e3
    branch.update()
    found = failed(doctor.examine(branch, PICTURES, maps=MAPS, trunk=trunk))["gradients"]
    assert "g_a.0.0.3.body" in found and "g_a.0.0.2.body" not in found


@pytest.mark.parametrize(("name", "mechanism"), SOUND)
def test_no_forward_changes_a_codec_whose_tables_are_built(trained_codec, name, mechanism):
    """Its name is that of its weights, and files hold it."""
    codec = copy.deepcopy(trained_codec(name, mechanism))
    for parameter in codec.parameters():  # as an optimiser leaves them, which knows no masks
        parameter.data += 1e-3
    codec.update()
    before = codec.identity()
    s = torch.rand(1, 1, 64, 64)
    codec(torch.rand(1, 3, 64, 64), saliency_map=None if mechanism == "none" else s)
    assert codec.identity() == before


def positive(own, self, *given):
    latents = own(self, *given)
    return latents._replace(symbols=latents.symbols.abs())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("examination", "words", "methods"),
    [
        # the likelihoods still reach the encoder
        ("gradients", "g_a.0.* from the distortion", {"show": lambda own, self, y, *g: own(self, torch.round(y), *g)}),
        ("reach", "has no negative symbol", {"quantise": positive}),
        ("latents_matter", "hardly uses the latents", {"show": lambda own, self, y, *g: own(self, 0 * y, *g)}),
    ],
)
def test_a_fault_that_any_codec_may_have_is_named(trained_codec, name, examination, words, methods):
    found = getattr(doctor, examination)(planted(trained_codec(name), **methods), PICTURES)
    assert not found.passed and all(word in found.detail for word in words.split("*"))


def half_the_bits(own, self, picture, **given):
    encoded = own(self, picture, **given)
    return dataclasses.replace(encoded, bits_estimate=encoded.bits_estimate / 8)


KEPT = {}


def keeping(keep, kept):
    """An encoder that keeps y_hat, and a decoder that shows it in place of what the file says."""

    def write(own, self, *given):
        strings, y_hat, bits = own(self, *given)
        keep(self, y_hat)
        return strings, y_hat, bits

    return {"write": write, "read": lambda own, self, *given: kept(self)}


@pytest.mark.parametrize(
    ("mechanism", "finding", "words", "methods"),
    [
        # as in the public port of agustsson2019
        ("none", "gradients", "g_a.0.weight* from the loss", {"analyse": lambda own, *given: own(*given).detach()}),
        # the fourth plane is there, and empty
        ("concat", "gradients", "g_a.0.weight[:, 3]", {"given": lambda own, *given: 0 * own(*given)}),
        ("none", "reconstruction", "6 of 6", {"decode": lambda own, *given: own(*given) ^ 1}),
        (
            "none",
            "reconstruction",
            "6 of 6 *AttributeError in models/codecs/conditioned.py, line *no attribute 'kept'",
            keeping(lambda self, y_hat: setattr(self, "kept", y_hat), lambda self: self.kept),
        ),
        (
            "none",
            "reconstruction",
            "5 of 6",
            keeping(lambda self, y_hat: KEPT.update(y_hat=y_hat), lambda self: KEPT["y_hat"]),
        ),
        ("none", "rate", "checksums*bytes where* more, * beyond what is allowed", {"encode": half_the_bits}),
    ],
)
def test_a_fault_is_named_and_nothing_else(trained_codec, mechanism, finding, words, methods):
    big = [np.tile(p, (3, 2, 1)) for p in PICTURES]
    found = failed(
        doctor.examine(planted(trained_codec("bls2017", mechanism), **methods), big, maps=[spot(192, 256)] * 2)
    )
    assert found.keys() == {finding} and all(word in found[finding] for word in words.split("*"))


def test_steps_of_two_leave_every_odd_level_out_of_reach(trained_codec):
    stronger = copy.deepcopy(trained_codec("bls2017"))
    with torch.no_grad():
        stronger.g_a[4].weight.mul_(4)
    stronger.update()
    assert doctor.reach(stronger, PICTURES).passed
    stronger.entropy_bottleneck = planted(
        stronger.entropy_bottleneck, symbols=lambda own, self, y, gain: 2 * (own(self, y, gain) // 2)
    )
    assert "never has the symbol" in doctor.reach(stronger, PICTURES).detail


def test_symbols_beyond_the_tables_are_named(trained_codec, monkeypatch):
    monkeypatch.setattr(entropy, "MAX_REACH", 0)
    codec = copy.deepcopy(trained_codec("bls2017"))
    codec.update()
    found = failed(doctor.examine(codec, PICTURES))
    assert "beyond the tables" in found["reach"] and "reconstruction" not in found


def test_of_a_codec_that_has_learnt_nothing_the_likelier_cause_is_told():
    torch.manual_seed(0)
    codec = catalogue.build(CodecConfig(codec="bls2017", n=8, m=8, lmbda=(0.01,)))
    codec.update()
    found = failed(doctor.examine(planted(codec, quantise=positive), PICTURES))
    assert "has no negative symbol" in found["reach"] and "train longer" in found["reach"]


def test_bad_arguments_are_named_and_without_held_out_pictures_there_is_no_gap(trained_codec):
    codec = trained_codec("bls2017")
    with pytest.raises(FoveaError, match="at least one picture"):
        doctor.examine(codec, [])
    with pytest.raises(FoveaError, match="2 pictures but 1 saliency maps"):
        doctor.examine(codec, PICTURES, maps=MAPS[:1])
    assert "gap" not in [f.name for f in doctor.examine(codec, PICTURES[:1])]
