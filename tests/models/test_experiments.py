import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.codecs import catalogue
from models.errors import FoveaError
from models.experiments import (
    ARMS,
    CODECS,
    CONTROLS,
    OPTIONS,
    PRESETS,
    SWEEPS,
    TOLD,
    Experiment,
    Sweep,
    Trunk,
    arm,
    number,
    override,
    sweep,
)

EVERY = [
    e
    for name in SWEEPS
    for d in ("sample", "camvid", "kodak")
    for registered in ((), ("sample", "camvid", "kodak"))
    for e in sweep(name, d, registered).experiments
]


def test_key_and_record_are_one_to_one_over_all_sweeps() -> None:
    by_key: dict[str, Experiment] = {}
    for experiment in EVERY:
        assert by_key.setdefault(experiment.key, experiment) == experiment
    assert len(by_key) == len(set(EVERY))
    trunks = {t for name in SWEEPS for t in sweep(name, "sample").trunks}
    assert len({t.key for t in trunks}) == len(trunks)


#: arms of rate–distortion codecs; selective compression is for generative ones
ANY_CODEC = [name for name in sorted(ARMS) if name != "saliency_select"]


@given(
    st.sampled_from(ANY_CODEC),
    st.floats(1e-4, 1, allow_nan=False),
    st.integers(0, 3),
    st.sampled_from([0.25, 0.5, 1.0]),
    st.sampled_from([0.05, 0.1]),
    st.sampled_from([1e-4, 3e-4]),
    st.sampled_from([1.0, 3.0, 4.5]),
)
@settings(deadline=None)
def test_every_field_that_differs_shows_in_the_key(
    name: str, lmbda: float, seed: int, gamma: float, alpha: float, lr: float, span: float
) -> None:
    trunk = Trunk(dataset="sample", codec="mbt2018_mean", seed=seed)
    fields = {**arm(name), "gamma": gamma, "alpha": alpha, "span": span}
    one = Experiment(
        dataset="sample",
        codec="mbt2018_mean",
        trunk=trunk,
        lmbda=(lmbda,),
        seed=seed,
        overrides=override("smoke", lr=lr),
        **fields,
    )
    other = dataclasses.replace(one, lmbda=(lmbda * 1.5,))
    assert one.key != other.key
    base = Experiment(
        dataset="sample", codec="mbt2018_mean", trunk=trunk, lmbda=(lmbda,), seed=seed, **arm(name)
    )
    assert (one == base) == (one.key == base.key)
    assert (one.resolved() == base.resolved()) == (one.key == base.key)


def test_fields_that_the_mechanism_does_not_use_make_no_difference() -> None:
    plain = Experiment(dataset="sample", codec="bls2017")
    assert (
        Experiment(dataset="sample", codec="bls2017", alpha=0.5, gamma=2.0, saliency="sam_vgg", span=9.0)
        == plain
    )
    center = Experiment(dataset="sample", codec="bls2017", mechanism="loss", maps="center")
    assert dataclasses.replace(center, saliency="sam_vgg") == center


def test_a_learning_rate_override_reaches_the_resolved_record() -> None:
    changed = Experiment(dataset="sample", codec="bls2017", overrides=override("smoke", lr=7e-4))
    assert changed.resolved()["lr"] == 7e-4
    assert "lr=0.0007" in changed.key
    assert override("smoke", lr=PRESETS["smoke"].lr) == ()


def test_evaluate_on_changes_the_key_but_not_what_training_uses() -> None:
    here = Experiment(dataset="sample", codec="bls2017")
    there = dataclasses.replace(here, evaluate_on=("sample", "kodak"))
    assert here.key != there.key
    assert here.resolved() == there.resolved()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"codec": "jpeg2000"}, "unknown codec 'jpeg2000'"),
        ({"preset": "huge"}, "unknown preset 'huge'"),
        ({"mechanism": "hope"}, "unknown mechanism"),
        ({"mechanism": "loss"}, "does not go with maps"),
        ({"mechanism": "none", "maps": "oracle"}, "does not go with maps"),
        ({"lmbda": ()}, "positive numbers"),
        ({"lmbda": (0.1, 0.01)}, "must rise"),
        ({"lmbda": (float("nan"),)}, "positive numbers"),
        ({"mechanism": "gain", "maps": "predicted"}, "needs a trunk"),
        ({"overrides": (("speed", 3.0),)}, "preset override 'speed'"),
        ({"distortion": "taste"}, "unknown distortion"),
        ({"mode": "turbo"}, "mode is"),
        ({"options": (("dilation", 0),)}, "whole numbers from 1"),
        ({"options": (("wings", 2),)}, "not for bls2017: it has dilation"),
        (
            {"options": (("dilation", 2),), "trunk": Trunk(dataset="sample", codec="bls2017")},
            "differ from those of the trunk",
        ),
        ({"target_bpp": (0.25,)}, "several values of lmbda"),
        ({"target_bpp": (0.5, 0.25), "lmbda": (0.01, 0.02)}, "target_bpp must rise"),
    ],
)
def test_a_bad_record_names_the_field(fields: dict[str, object], said: str) -> None:
    values: dict[str, object] = {"dataset": "sample", "codec": "bls2017", **fields}
    with pytest.raises(FoveaError, match=said):
        Experiment(**values)  # type: ignore[arg-type]


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(FoveaError, match="known: smoke"):
        sweep("everything", "sample")
    with pytest.raises(FoveaError, match="saliency_gain"):
        arm("saliency_hope")
    with pytest.raises(FoveaError, match="@center"):
        arm("weighted@left")


def test_arm_names_come_back_from_records() -> None:
    trunk = Trunk(dataset="sample", codec="mbt2018_mean")
    for name in ANY_CODEC:
        for control in ("", *CONTROLS) if name != "uniform" else ("",):
            label = f"{name}@{control}" if control else name
            assert (
                Experiment(dataset="sample", codec="mbt2018_mean", trunk=trunk, **arm(label)).label == label
            )


def test_levels_are_told_by_hyperpriors_alone() -> None:
    trunk = Trunk(dataset="sample", codec="bls2017")
    with pytest.raises(FoveaError, match=r"bls2017 has no mechanism 'hyper'.*mbt2018_mean"):
        Experiment(dataset="sample", codec="bls2017", trunk=trunk, **arm("saliency_hyper"))
    told = Experiment(
        dataset="sample", codec="mbt2018_mean", lmbda=(0.002, 0.02), span=2.0, **arm("saliency_hyper")
    )
    assert "span=2" in told.key and told.resolved()["span"] == 2.0
    with pytest.raises(FoveaError, match="'hyper' moves between rates"):
        Experiment(dataset="sample", codec="mbt2018_mean", **arm("saliency_hyper"))


def test_a_factor_of_one_for_fresh_layers_is_not_in_the_record() -> None:
    plain = Experiment(dataset="sample", codec="bls2017")
    assert "fresh_lr_factor" not in plain.resolved()
    faster = dataclasses.replace(plain, overrides=override("smoke", fresh_lr_factor=20.0))
    assert faster.resolved() == {**plain.resolved(), "fresh_lr_factor": 20.0}
    assert "fresh_lr_factor=20" in faster.key


def generative(**fields: object) -> Experiment:
    return Experiment(
        **{"dataset": "sample", "codec": "agustsson2019", "preset": "gan_tiny", "lmbda": (4.0,), **fields}  # type: ignore[arg-type]
    )


def test_a_generative_codec_s_options_are_in_key_and_record() -> None:
    plain = generative()
    assert plain.resolved()["m"] == 4 and plain.resolved()["fault"] == "" and plain.resolved()["blocks"] == 1
    planted = generative(options=(("noise", 2), ("fault", "relu")))
    assert "fault=relu-noise=2" in planted.key and planted.variant == "fault=relu,noise=2,scratch"
    assert planted.resolved()["fault"] == "relu" and planted.key != plain.key
    # what the preset says anyway makes no difference
    assert generative(options=(("fault", ""), ("blocks", 1))) == plain
    assert "fidelity" not in Experiment(dataset="sample", codec="bls2017").resolved()
    assert generative(lmbda=(8.0,)).resolved()["m"] == 8
    trunk = Trunk(dataset="sample", codec="agustsson2019", preset="gan_tiny", lmbda=(4.0,))
    assert trunk.resolved()["m"] == 4 and trunk.resolved()["fidelity"] == OPTIONS["fidelity"]
    assert generative(trunk=trunk, **arm("saliency_select")).label == "saliency_select"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"lmbda": (3.0,)}, "number of code channels"),
        ({"lmbda": (4.0, 8.0)}, "number of code channels"),
        ({"preset": "smoke"}, "gan_tiny"),
        ({"options": (("fault", "nose"),)}, "unknown fault 'nose'"),
        ({"options": (("fault", "scale+augment"),)}, "alphabetical order"),
        ({"options": (("fault", "scale+scale"),)}, "unknown fault 'scale.scale'"),
        ({"options": (("fault", "augment+"),)}, "unknown fault"),
        ({"options": (("fault", 1),)}, "unknown fault 1"),
        ({"options": (("colour", 1),)}, "unknown option 'colour'"),
        ({"options": (("noise", -1),)}, "option noise=-1: it takes a whole number from 0"),
        ({"options": (("critic_scales", 0),)}, "a whole number from 1"),
        ({"options": (("blocks", 2.0),)}, "option blocks=2.0: it takes a whole number"),
        ({"options": (("beta1", 1.5),)}, "option beta1=1.5: it takes a number from 0 to 0.999"),
        ({"options": (("keep", -1.0),)}, "a number from 0 to 1"),
        ({"options": (("start", 2),)}, "a number from 0 to 1"),
        ({"options": (("adversarial", -5.0),)}, "option adversarial"),
        ({"options": (("chroma", 0.0),)}, "a positive number"),
        ({"options": (("patch", 3),)}, "one of 1, 2, 4"),
        ({"options": (("features", "resnet"),)}, "option features='resnet'"),
        ({"options": (("jitter", 2),)}, "crops of at least 64 pixels, and jitter - 1 more"),
        ({"mechanism": "sft", "maps": "predicted"}, "no mechanism 'sft'"),
        ({"overrides": override("gan_tiny", crop=32)}, "crops of at least 64"),
        ({"codec": "bls2017"}, "preset 'gan_tiny' is for generative"),
        ({"codec": "bls2017", "preset": "smoke", "options": (("noise", 1),)}, "not for bls2017"),
        ({"codec": "bls2017", "preset": "smoke", **arm("saliency_select")}, "'select' is for generative"),
    ],
)
def test_what_a_generative_codec_cannot_be_is_said(fields: dict[str, object], said: str) -> None:
    with pytest.raises(FoveaError, match=said):
        generative(**fields)


def test_the_sweeps_of_faults_and_remedies_differ_from_their_base_in_one_thing() -> None:
    for name in ("gan-faults", "gan-remedies"):
        base, *others = sweep(name, "sample").experiments
        for other in others:
            changed = {k for k, v in other.resolved().items() if base.resolved()[k] != v}
            assert len(changed - {"fidelity"}) == 1, (other.key, changed)


def test_smoke_is_small_and_all_its_arms_branch_from_one_trunk() -> None:
    smoke = sweep("smoke", "sample")
    assert len(smoke.experiments) <= 12
    assert len(smoke.trunks) == 1
    assert len({e.lmbda for e in smoke.experiments}) >= 4


def test_a_sweep_with_an_experiment_twice_is_refused() -> None:
    one = Experiment(dataset="sample", codec="bls2017")
    with pytest.raises(FoveaError, match="twice"):
        Sweep("double", "sample", (one, one))


@given(st.floats(min_value=1e-12, max_value=1e12, allow_nan=False))
def test_numbers_in_keys_read_back_as_the_same_float(value: float) -> None:
    assert float(number(value)) == value


def test_seed_has_every_arm_and_control_at_every_rate_and_seed() -> None:
    seed = sweep("seed", "camvid")
    cells = {(e.label, e.lmbda, e.seed) for e in seed.experiments}
    labels = {label for label, _, _ in cells}
    conditioned = ("weighted", "saliency_concat", "saliency_sft", "saliency_gain")
    assert labels == {
        "uniform",
        "weighted_raw",
        *conditioned,
        *(f"{a}@{c}" for a in conditioned for c in CONTROLS),
    }
    assert len(cells) == len(seed.experiments) == len(labels) * 6 * 3
    assert {(t.codec, t.seed) for t in seed.trunks} == {("bls2017", s) for s in range(3)}


def test_paper_has_every_codec_and_arm_at_the_full_budget() -> None:
    paper = sweep("paper", "camvid")
    told = {(c, f"saliency_hyper{m}") for c in TOLD for m in ("", *(f"@{x}" for x in CONTROLS))}
    assert {(e.codec, e.label) for e in paper.experiments} == told | {
        (codec, e.label) for codec in CODECS for e in sweep("seed", "camvid").experiments
    }
    assert {e.preset for e in paper.experiments} == {"paper"} and len(paper.trunks) == len(CODECS)


def test_kodak_is_measured_where_it_is_registered() -> None:
    without, with_kodak = sweep("paper", "camvid"), sweep("paper", "camvid", ("sample", "camvid", "kodak"))
    assert without.datasets == ("camvid",) and with_kodak.datasets == ("camvid", "kodak")
    for one, other in zip(without.experiments, with_kodak.experiments, strict=True):
        assert one.evaluate_on == ("camvid",) and other.evaluate_on == ("camvid", "kodak")
        assert one.key != other.key and one.resolved() == other.resolved()
    assert sweep("paper", "kodak", ("kodak",)) == sweep("paper", "kodak")
    assert sweep("smoke", "camvid", ("kodak",)) == sweep("smoke", "camvid")


def test_target_rates_change_the_key_but_not_what_training_uses() -> None:
    plain = Experiment(dataset="sample", codec="bls2017", lmbda=(0.002, 0.02))
    asked = dataclasses.replace(plain, target_bpp=(0.25, 0.5))
    assert asked.key == plain.key.replace("-scratch", "-bpp=0.25_0.5-scratch")
    assert asked.resolved() == plain.resolved() and asked.variant != plain.variant


def test_options_are_part_of_key_record_and_trunk() -> None:
    both = sweep("dilated", "sample")
    plain = [e for e in both.experiments if not e.options]
    wide = [e for e in both.experiments if e.options == (("dilation", 2),)]
    assert len(plain) == len(wide) == 6 and len({t.key for t in both.trunks}) == 2
    assert all("dilation" not in e.resolved() for e in plain)
    assert all(e.resolved()["dilation"] == 2 and e.variant == "dilation=2" for e in wide)
    assert dataclasses.replace(plain[0], options=(("dilation", 1),)) == plain[0]
    assert all(catalogue.config_for(e).options == e.options for e in (*plain, *wide))
    assert all(catalogue.config_for(t).options == t.options for t in both.trunks)
