import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.arms import ARMS, CONTROLS, arm
from models.codecs.catalogue import config_for
from models.errors import FoveaError
from models.experiments import Experiment, Trunk, number
from models.presets import find_preset

#: arms of rate–distortion codecs; selective compression is for generative ones
ANY_CODEC = [name for name in sorted(ARMS) if name != "saliency_select"]
TRUNK = Trunk(dataset="sample", codec="bls2017")
SHIPPED = Trunk(codec="bls2017", shipped="bls2017")
LIGHT = {"codec": "light", "trunk": Trunk(codec="light", shipped="light"), **arm("uniform")}


def made(**fields: Any) -> Experiment:
    return Experiment(**{"dataset": "sample", "codec": "bls2017", **fields})


def generative(**fields: Any) -> Experiment:
    return made(**{"codec": "agustsson2019", "preset": "gan_tiny", "rates": (4.0,), **fields})


@given(
    st.sampled_from(ANY_CODEC),
    st.floats(1e-4, 1, allow_nan=False),
    st.integers(0, 3),
    st.sampled_from([0.25, 0.5, 1.0]),
    st.sampled_from([0.05, 0.1]),
    st.sampled_from([1e-4, 3e-4]),
    st.sampled_from([1.0, 3.0, 4.5]),
)
def test_every_field_that_differs_shows_in_the_key(
    name: str, lmbda: float, seed: int, gamma: float, alpha: float, lr: float, span: float
) -> None:
    trunk = Trunk(dataset="sample", codec="mbt2018_mean", seed=seed)
    base = made(codec="mbt2018_mean", trunk=trunk, rates=(lmbda,), seed=seed, **arm(name))
    one = base.but(overrides={"lr": lr}, gamma=gamma, alpha=alpha, span=span)
    other = one.but(rates=(lmbda * 1.5,))
    assert one.key != other.key and (one == base) == (one.key == base.key)
    assert (one.resolved() == base.resolved()) == (one.key == base.key)


def test_fields_that_the_mechanism_does_not_use_make_no_difference() -> None:
    assert made(alpha=0.5, gamma=2.0, span=9.0) == made()


@pytest.mark.parametrize(("name", "value", "shown"), [("lr", 7e-4, "0.0007"), ("fresh_lr_factor", 20.0, "20")])
def test_an_override_is_in_key_and_record_unless_it_says_what_is_so_anyway(name: str, value: float, shown: str) -> None:
    plain = made()
    changed = plain.but(overrides={name: value})
    assert changed.resolved() == {**plain.resolved(), name: value} and f"{name}={shown}" in changed.key
    assert changed.but(overrides={name: getattr(find_preset("smoke"), name)}) == plain
    # an older record has none
    assert "fresh_lr_factor" not in plain.resolved()


def test_evaluate_on_changes_the_key_but_not_what_training_uses() -> None:
    here = made()
    there = here.but(evaluate_on=("sample", "kodak"))
    assert here.key != there.key and here.resolved() == there.resolved()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"codek": "bls2017"}, "unknown field 'codek'; did you mean 'codec'"),
        ({"codec": "jpeg2000"}, "unknown codec 'jpeg2000'"),
        ({"preset": "huge"}, "unknown preset 'huge'"),
        ({"mechanism": "hope"}, "mechanism: expected 'none', .* got 'hope'"),
        ({"mechanism": "loss"}, "does not go with maps"),
        ({"mechanism": "none", "maps": "oracle"}, "does not go with maps"),
        ({"rates": ()}, "positive numbers"),
        ({"rates": (0.1, 0.01)}, "must rise"),
        ({"rates": (float("nan"),)}, "rates.0: expected a finite number"),
        ({"mechanism": "gain", "maps": "predicted"}, "needs a trunk"),
        ({"overrides": (("speed", 3.0),)}, "overrides: unknown field 'speed'; known: n, m"),
        ({"distortion": "taste"}, "distortion: expected 'mse'"),
        ({"mode": "turbo"}, "mode: expected 'deterministic' or 'fast', got 'turbo'"),
        ({"options": (("dilation", 0),)}, "it takes a whole number from 1"),
        ({"options": (("wings", 2),)}, "not for bls2017: it has dilation"),
        ({"options": (("dilation", 2),), "trunk": TRUNK}, "differ from those of the trunk"),
        # levels are told by hyperpriors alone
        ({"trunk": TRUNK, **arm("saliency_hyper")}, "bls2017 has no mechanism 'hyper': it has none, loss"),
        ({"codec": "mbt2018_mean", **arm("saliency_hyper")}, "'hyper' moves between rates"),
        # no steps leave a trunk as it is
        ({"overrides": {"steps": 0}}, "needs a trunk"),
        ({"trunk": SHIPPED, "overrides": {"steps": 0}, **arm("saliency_sft")}, "not 'sft'"),
        # a branch is as wide as its trunk
        (LIGHT | {"overrides": {"m": 64, "lr": 0.1}}, "a branch has its trunk's m: of the weights that ship"),
        ({"trunk": TRUNK, "overrides": {"m": 48}, **arm("uniform")}, "its trunk's m: trunk_overrides in a sweep"),
    ],
)
def test_a_bad_record_names_the_field(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(FoveaError, match=said):
        made(**fields)


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(FoveaError, match="saliency_gain"):
        arm("saliency_hope")
    with pytest.raises(FoveaError, match="@center"):
        arm("weighted@left")


def test_arm_names_come_back_from_records() -> None:
    trunk = Trunk(dataset="sample", codec="mbt2018_mean")
    for name in ANY_CODEC:
        for control in ("", *CONTROLS) if name != "uniform" else ("",):
            label = f"{name}@{control}" if control else name
            assert made(codec="mbt2018_mean", trunk=trunk, **arm(label)).label == label
    told = made(codec="mbt2018_mean", rates=(0.002, 0.02), span=2.0, **arm("saliency_hyper"))
    assert "span=2" in told.key and told.resolved()["span"] == 2.0


def test_a_generative_codec_s_options_are_in_key_and_record() -> None:
    plain = generative()
    assert plain.resolved()["m"] == 4 and plain.resolved()["fault"] == "" and plain.resolved()["blocks"] == 1
    planted = generative(options=(("noise", 2), ("fault", "relu")))
    assert "fault=relu-noise=2" in planted.key and planted.variant == "fault=relu,noise=2,scratch"
    assert planted.resolved()["fault"] == "relu" and planted.key != plain.key
    # what the preset says anyway makes no difference
    assert generative(options=(("fault", ""), ("blocks", 1))) == plain and "fidelity" not in made().resolved()
    assert generative(rates=(8.0,)).resolved()["m"] == 8
    trunk = Trunk(dataset="sample", codec="agustsson2019", preset="gan_tiny", rates=(4.0,))
    assert trunk.resolved()["m"] == 4 and trunk.resolved()["fidelity"] == 10.0
    assert generative(trunk=trunk, **arm("saliency_select")).label == "saliency_select"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"rates": (3.0,)}, "channels is one of 2, 4, 8, 16"),
        ({"rates": (4.0, 8.0)}, "one model has one number of channels"),
        ({"preset": "smoke"}, "for agustsson2019 there are gan_tiny"),
        ({"options": (("fault", "nose"),)}, "unknown fault 'nose'"),
        ({"options": (("fault", "scale+augment"),)}, "alphabetical order"),
        ({"options": (("fault", "scale+scale"),)}, "unknown fault 'scale.scale'"),
        ({"options": (("fault", "augment+"),)}, "unknown fault"),
        ({"options": (("fault", 1),)}, "unknown fault 1"),
        ({"options": (("colour", 1),)}, "option colour=1 is not for agustsson2019: it has centres"),
        ({"options": (("noise", -1),)}, "option noise=-1: it takes a whole number from 0"),
        ({"options": (("critic_scales", 0),)}, "a whole number from 1 to 8"),
        ({"options": (("critic_scales", 4),)}, "crops of at least 128 pixels"),
        ({"options": (("keep", math.nan),)}, "a number from 0 to 1"),
        ({"options": (("keep", 10**400),)}, "a number from 0 to 1"),
        ({"options": (("blocks", 2.0),)}, "option blocks=2.0: it takes a whole number"),
        ({"options": (("beta1", 1.5),)}, "option beta1=1.5: it takes a number from 0 to 0.999"),
        ({"options": (("keep", -1.0),)}, "a number from 0 to 1"),
        ({"options": (("start", 2),)}, "a number from 0 to 1"),
        ({"options": (("adversarial", -5.0),)}, "option adversarial"),
        ({"options": (("chroma", 0.0),)}, "a number above 0"),
        ({"options": (("patch", 3),)}, "one of 1, 2, 4"),
        ({"options": (("features", "resnet"),)}, "option features='resnet'"),
        ({"options": (("jitter", 2),)}, "crops of at least 64 pixels, and jitter - 1 more"),
        ({"mechanism": "sft", "maps": "predicted"}, "no mechanism 'sft'"),
        ({"overrides": {"crop": 32}}, "crops of at least 64"),
        ({"codec": "bls2017"}, "preset 'gan_tiny' is for adversarial training; for bls2017 there are tiny"),
        ({"codec": "bls2017", "preset": "smoke", "options": (("noise", 1),)}, "not for bls2017"),
        ({"codec": "bls2017", "preset": "smoke", **arm("saliency_select")}, "bls2017 has no mechanism 'select'"),
    ],
)
def test_what_a_generative_codec_cannot_be_is_said(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(FoveaError, match=said):
        generative(**fields)


@given(st.floats(min_value=1e-12, max_value=1e12, allow_nan=False))
def test_numbers_in_keys_read_back_as_the_same_float(value: float) -> None:
    assert float(number(value)) == value


def test_rates_of_equal_ratio_stand_shortly_in_the_key():
    keys = {
        made(**LIGHT, rates=rates, overrides={"steps": steps}).key
        for rates in ((0.001, 0.002, 0.004, 0.008), (0.001, 0.002, 0.0040001, 0.008), (0.001, 0.004, 0.008))
        for steps in (0, 7)
    }
    assert len(keys) == 6
    assert {"light-sample-4l0.001to0.008-smoke-as_shipped-uniform"} < keys, keys


def test_no_steps_leave_the_trunk_as_it_is():
    for name in ("uniform", "saliency_gain"):
        assert made(trunk=SHIPPED, rates=(0.002, 0.02), overrides={"steps": 0}, **arm(name)).untrained


def test_widths_are_those_of_the_weights_that_ship():
    trained, untrained = made(**LIGHT), made(**LIGHT, overrides={"steps": 0})
    assert not {"n", "m"} & trained.resolved().keys() and "lr" in trained.resolved()
    assert untrained.resolved()["steps"] == 0 and not {"n", "m", "lr", "batch_size"} & untrained.resolved().keys()
    narrow = made(trunk=Trunk(codec="bls2017", dataset="sample", overrides={"m": 48}), **arm("uniform"))
    assert not {"n", "m"} & narrow.resolved().keys() and config_for(narrow).m == 48
