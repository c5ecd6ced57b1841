import itertools
import json
import math
import re
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import data_of
from servers.browser import Browser

from assets.chain import Chain
from assets.stages import open_chain
from assets.studies import study
from assets.studies.answers import catches_needed, counted_answers, import_answers, read_answers
from assets.studies.design import Design, Question, keep_design, match_pairs, read_design
from assets.studies.preferences import (
    cluster_bootstrap,
    preference,
    preferences,
    result_lines,
    study_result,
    tell,
    verdict,
    wilson,
    write_preferences,
)
from assets.studies.study import WINDOW, catch_trials, render_study, window_of
from models.errors import FoveaError

ARMS = ("uniform", "saliency_gain")


def points(images: int = 6, shift: float = 0.02, codecs: tuple[str, ...] = ("bls2017",)) -> pd.DataFrame:
    """rd_points of two arms at four rates; the second arm's files are larger by the share `shift`."""
    rows = []
    for codec in codecs:
        for image in range(images):
            for step, lmbda in enumerate((0.001, 0.004, 0.013, 0.04)):
                for arm, maps in (("uniform", "none"), ("saliency_gain", "predicted"), ("saliency_gain", "center")):
                    bpp = 0.1 * 2**step * (1 + 0.05 * image) * (1 + shift * (arm != "uniform"))
                    rows.append({"image": f"p{image}", "codec": codec, "arm": arm, "maps": maps, "variant": "", "train_dataset": "drawn",
                                 "seed": 0, "experiment": f"{codec}-{arm}@{maps}-{lmbda:g}", "rate_name": "lmbda", "rate": lmbda, "bpp": bpp})  # fmt: skip
    return pd.DataFrame(rows)


def test_pairs_are_matched_within_the_tolerance_and_use_no_file_twice() -> None:
    matches, refused = match_pairs(points(), ARMS, pairs=24, seed=3, tolerance=0.05)
    assert len(matches) == 24 and refused == {} and all(abs(m.difference) <= 0.05 for m in matches)
    assert [m.difference for m in matches] == pytest.approx([2 * 0.02 / 2.02] * 24)
    files = [(m.image, s.experiment) for m in matches for s in m.sides]
    assert len(files) == len(set(files)) and {tuple(s.arm for s in m.sides) for m in matches} == {ARMS}
    assert match_pairs(points(), ARMS, pairs=24, seed=3, tolerance=0.05)[0] == matches
    assert match_pairs(points(), ARMS, pairs=24, seed=4, tolerance=0.05)[0] != matches


@given(st.integers(1, 24), st.integers(0, 50))
@settings(max_examples=20)
def test_pairs_are_spread_evenly_over_pictures(pairs: int, seed: int) -> None:
    matches, _ = match_pairs(points(), ARMS, pairs=pairs, seed=seed, tolerance=0.05)
    counts = pd.Series([m.image for m in matches]).value_counts().reindex([f"p{i}" for i in range(6)], fill_value=0)
    assert counts.max() - counts.min() <= 1 and len(matches) == pairs


def test_what_cannot_be_matched_is_refused_with_the_reason() -> None:
    table = points()
    far = (table.image == "p2") & (table.arm == "saliency_gain")
    table.loc[far, "bpp"] *= 1.3
    matches, refused = match_pairs(table, ARMS, pairs=24, seed=0, tolerance=0.05)
    assert "p2" not in {m.image for m in matches}
    rates = r"its nearest rates are 0\.\d{4} and 0\.\d{4} bpp"
    assert re.fullmatch(rf"{rates}, 28\.0 % apart \(tolerance 5 %\)", refused["p2"])
    gone = table[~((table.image == "p1") & (table.arm == "uniform"))]
    assert match_pairs(gone, ARMS, pairs=24, seed=0, tolerance=0.05)[1]["p1"] == "not measured with uniform"
    with pytest.raises(FoveaError, match=r"no picture .* the nearest are 18\.2 % apart \(--tolerance\)"):
        match_pairs(points(shift=0.2), ARMS, pairs=4, seed=0, tolerance=0.05)


@pytest.mark.parametrize(
    ("arms", "codecs", "codec", "said"),
    [
        (("uniform", "sft"), ("bls2017",), None, r"no measured arm 'sft'; measured here: saliency_gain, saliency_gain@center, uniform"),
        (("uniform", "uniform"), ("bls2017",), None, "twice"),
        (ARMS, ("bls2017", "mbt2018_mean"), None, "was measured as 'bls2017', 'mbt2018_mean': name one of them with --codec"),
        (ARMS, ("bls2017",), "x", "neither arm was measured as --codec 'x'"),
    ],
)  # fmt: skip
def test_arms_that_are_not_clear(arms: Any, codecs: Any, codec: str | None, said: str) -> None:
    with pytest.raises(FoveaError, match=said):
        match_pairs(points(codecs=codecs), arms, pairs=4, seed=0, tolerance=0.05, codec=codec)


def test_a_variant_is_never_chosen_in_silence() -> None:
    table = pd.concat([points(), points().assign(variant="fault=gradient,scratch")], ignore_index=True)
    named = "name one of them with --variant"
    for measured, variant, said in (
        (table, None, f"measured as '', 'fault=gradient,scratch': {named}"),
        (table, "x", named),
        (points(), "x", "neither arm was measured as --variant 'x'"),
    ):
        with pytest.raises(FoveaError, match=said):
            match_pairs(measured, ARMS, pairs=4, seed=0, tolerance=0.05, variant=variant)
    # an arm that has the plain one only can be held against another's variant
    changed = table[~((table.arm == "uniform") & (table.variant != ""))]
    matches, _ = match_pairs(changed, ARMS, pairs=4, seed=0, tolerance=0.05, variant="fault=gradient,scratch")
    assert len(matches) == 4
    plain = match_pairs(table, ARMS, pairs=4, seed=0, tolerance=0.05, variant="")[0]
    assert plain == match_pairs(points(), ARMS, pairs=4, seed=0, tolerance=0.05)[0]


# ---- rates and intervals


@given(st.integers(0, 200), st.integers(1, 200))
def test_wilson(chosen: int, answers: int) -> None:
    chosen = min(chosen, answers)
    low, high = wilson(chosen, answers)
    share = chosen / answers
    assert 0 <= low <= share <= high <= 1
    # the ends solve (share − p)² = z²·p·(1 − p) / n
    for end in (low, high):
        if 0 < end < 1:
            assert (share - end) ** 2 == pytest.approx(1.959964**2 * end * (1 - end) / answers, abs=1e-6)
    assert wilson(answers - chosen, answers) == pytest.approx((1 - high, 1 - low))


def test_wilson_by_a_published_number() -> None:
    # Newcombe 1998, table I: 81 of 263, method 3
    low, high = wilson(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


def answered(second: np.ndarray) -> pd.DataFrame:
    """people × images answers."""
    who, what = (place.ravel().astype(str) for place in np.indices(second.shape))
    return pd.DataFrame({"participant": who, "image": what, "second": second.ravel(), "small": False})


def simulated(rng: np.random.Generator, people: int, images: int, truth: float, spread: float = 0.0) -> pd.DataFrame:
    """Answers of people who differ, as pictures do, by a normal step of the log-odds."""
    odds = np.log(truth / (1 - truth))
    own, shown = rng.normal(0, spread, people), rng.normal(0, spread, images)
    share = 1 / (1 + np.exp(-(odds + own[:, None] + shown[None, :])))
    return answered(rng.random((people, images)) < share)


@pytest.mark.parametrize(("people", "images"), [(1, 200), (10, 20)])
@pytest.mark.parametrize("truth", [0.5, 0.65, 0.9])
def test_two_hundred_answers_recover_the_preference(people: int, images: int, truth: float) -> None:
    rng = np.random.default_rng(int(100 * truth) + people)
    held = 0
    for _ in range(40):
        found = preference(simulated(rng, people, images, truth))
        assert found["n_answers"] == 200 and found["method"] == ("wilson" if people == 1 else "cluster bootstrap")
        held += found["ci_low"] <= truth <= found["ci_high"]
    # at 95 %, fewer than 33 of 40 happen once in 1000 times
    assert held >= 33


@pytest.mark.parametrize("people", [2, 3, 6])
def test_few_people_do_not_pass_for_everybody(people: int) -> None:
    """People differ (rates from Beta(2, 2), 50 % on average): a preference of people at large is found by chance only."""
    rng = np.random.default_rng(people)
    false = 0
    for _ in range(100):
        share = rng.beta(2, 2, people)
        answers = answered(rng.random((people, 24)) < share[:, None])
        row = preference(answers)
        assert 0 <= row["ci_low"] <= row["rate"] <= row["ci_high"] <= 1
        false += not row["ci_low"] <= 0.5 <= row["ci_high"]
    # at 5 %, more than 12 of 100 happen less than once in 600 times
    assert false <= 12
    alone = preference(answers[answers.participant == "0"].assign(second=True))
    said = {**alone, "first_arm": "a", "second_arm": "b"}
    assert alone["method"] == "wilson" and verdict(said).startswith("this one person prefers b;")


def test_people_who_differ_widen_the_interval() -> None:
    rng = np.random.default_rng(5)
    held = 0
    widths = []
    for _ in range(40):
        answers = simulated(rng, 10, 20, 0.5, spread=1.0)
        found = preference(answers)
        held += found["ci_low"] <= 0.5 <= found["ci_high"]
        alone = wilson(found["chose_second"], 200)
        assert found["ci_low"] <= alone[0] and found["ci_high"] >= alone[1]
        widths.append((found["ci_high"] - found["ci_low"]) / (alone[1] - alone[0]))
    assert held >= 33 and np.mean(widths) > 1.4


def test_the_bootstrap_follows_its_clusters() -> None:
    # one person says always yes, the other always no: either alone may be drawn
    said, many = np.repeat([False, True], 50), np.tile(np.arange(50), 2)
    alike = pd.DataFrame({"second": said, "participant": np.repeat([0, 1], 50), "image": many})
    assert cluster_bootstrap(alike) == (0.0, 1.0)
    low, high = cluster_bootstrap(alike.assign(participant=many, image=np.arange(100)))
    assert 0.35 < low < 0.45 < 0.55 < high < 0.65


# ---- answers


def made_design(pairs: int = 20) -> Design:
    matches, refused = match_pairs(points(), ARMS, pairs=pairs, seed=1, tolerance=0.05)
    catch = [Question(pair=f"c{i:03}", image=matches[i % len(matches)].image) for i in range(catch_trials(pairs))]
    return Design(study="0123456789", dataset="drawn", sweep="tiny", arms=ARMS, seed=1, tolerance=0.05, mean_difference=0.02,
                  refused=refused, pairs=tuple(matches), catch=tuple(catch))  # fmt: skip


@given(st.integers(0, 60))
def test_guessing_passes_one_time_in_sixteen_at_most(seen: int) -> None:
    needed = catches_needed(seen)
    passing = sum(math.comb(seen, k) for k in range(needed, seen + 1)) / 2**seen
    if seen >= 4:
        assert passing <= 1 / 16
        # one less would let more of them pass
        assert sum(math.comb(seen, k) for k in range(needed - 1, seen + 1)) / 2**seen > 1 / 16
    else:
        assert needed == seen


def answers_of(design: Design, who: str, seed: int, share: float, catches_right: float = 1.0) -> dict[str, Any]:
    """A participant who chooses the second arm with this probability."""
    rng = np.random.default_rng(seed)
    found = []
    asked = design.trials()
    for trial, place in enumerate(rng.permutation(len(asked)), start=1):
        kind, question, names = asked[place]
        flipped = bool(rng.random() < 0.5)
        left, right = names[::-1] if flipped else names
        chosen = names[int(rng.random() < (share if kind == "pair" else 1 - catches_right))]
        found.append({"trial": trial, "pair": question.pair, "kind": kind, "image": question.image, "left": left, "right": right,
                      "choice": "left" if chosen == left else "right", "chosen": chosen, "seconds": 1.5, "looks": 0,
                      "shown_pixels": 480, "picture_pixels": 480})  # fmt: skip
    head = {"format": "fovea-study-answers/1", "study": design.study, "participant": who, "screen": {}}
    return {**head, "answers": found}


def write(folder: Path, said: dict[str, Any], name: str = "a.json") -> Path:
    file = folder / name
    file.write_text(json.dumps(said))
    return file


@pytest.fixture
def chain(installation: Path) -> Chain:
    return open_chain()


@pytest.fixture
def design(chain: Chain) -> Design:
    """Twenty pairs and four catch trials, known here."""
    made = made_design()
    keep_design(chain.home.config, made)
    return made


def test_answers_become_a_rate_and_are_kept_once(chain: Chain, design: Design, tmp_path: Path) -> None:
    files = [write(tmp_path, answers_of(design, f"p-{i:04}", i, 0.7), f"a{i}.json") for i in range(10)]
    careless = write(tmp_path, answers_of(design, "p-careless", 99, 0.0, catches_right=0.0))
    assert import_answers(chain.home.config, [*files, careless]) == (["0123456789"], 11, 0)
    assert import_answers(chain.home.config, [files[0], files[0]]) == (["0123456789"], 0, 2)
    result = study_result(chain.home.config, "0123456789")
    table, dropped = result.table, result.dropped
    assert dropped == {"p-careless": "0 of 4 catch trials right"}
    whole = table.iloc[0]
    assert (whole.n_answers, whole.n_participants, whole.n_dropped, whole.scope) == (200, 10, 1, "all")
    assert whole.ci_low <= 0.7 <= whole.ci_high
    assert set(table[table.scope == "image"].image) == {p.image for p in design.pairs}
    assert table[table.scope == "image"].chose_second.sum() == whole.chose_second
    lines = result_lines(result)
    assert "dropped p-careless: 0 of 4 catch trials right" in lines
    assert f"saliency_gain chosen {whole.chose_second} of 200 times by 10 people on 6 pictures" in lines
    assert "people prefer saliency_gain" in lines
    # nothing of people lies in the state that may be deleted
    assert not list(chain.home.state.rglob("*p-0000*")) if chain.home.state.exists() else True
    assert write_preferences(chain)["0123456789"].dropped == dropped
    kept = pd.read_parquet(chain.home.tables / "study_preferences.parquet")
    pd.testing.assert_frame_equal(kept, table)
    assert len(pd.read_csv(chain.home.tables / "study_preferences.csv")) == len(table)
    chain.tracker = tracker = mock.Mock()
    tell(chain, result)
    told = tracker.run.return_value
    (((step, values),),) = told.log_metrics.call_args.args
    assert (step, values["study/rate"], values["study/dropped"]) == (11, whole.rate, 1)
    assert tracker.run.call_args.kwargs["key"] == "study 0123456789"
    assert told.log_params.call_args.args[0]["tolerance"] == 0.05
    json.dumps(list(told.log_table.call_args.args[0]))
    told.finish.assert_called_once_with()


@pytest.mark.parametrize(("seen", "counts"), [(0, False), (1, False), (3, False), (4, True)])
def test_one_catch_trial_is_not_enough(chain: Chain, design: Design, tmp_path: Path, seen: int, counts: bool) -> None:
    assert counted_answers(chain.home.config, design)[1] == {}
    said = answers_of(design, "p-early", 0, 0.5)
    catches = [a for a in said["answers"] if a["kind"] == "catch"]
    said["answers"] = [a for a in said["answers"] if a["kind"] == "pair"] + catches[:seen]
    import_answers(chain.home.config, [write(tmp_path, said)])
    rows, dropped = counted_answers(chain.home.config, design)
    assert bool(len(rows)) == counts
    why = f"saw {seen} of the 4 catch trials that it takes" if seen else "saw no catch trial"
    assert dropped == ({} if counts else {"p-early": why})
    if not counts:
        result = study_result(chain.home.config, design.study)
        assert "no answer is counted" in result_lines(result) and len(result.table) == 1


@pytest.mark.parametrize(("seen", "kept"), [(5, False), (7, True)])
def test_one_slip_in_seven_is_forgiven_one_in_five_is_not(chain: Chain, tmp_path: Path, seen: int, kept: bool) -> None:
    base = made_design()
    catch = tuple(Question(pair=f"c{i:03}", image=base.pairs[i].image) for i in range(seen))
    design = base.model_copy(update={"catch": catch})
    keep_design(chain.home.config, design)
    said = answers_of(design, f"p-{seen:04}", 0, 0.5)
    slip = next(a for a in said["answers"] if a["kind"] == "catch")
    other = "right" if slip["choice"] == "left" else "left"
    slip |= {"choice": other, "chosen": slip[other]}
    import_answers(chain.home.config, [write(tmp_path, said)])
    rows, dropped = counted_answers(chain.home.config, design)
    assert bool(len(rows)) == kept and bool(dropped) != kept


def test_sizes_and_looks_are_kept(chain: Chain, design: Design, tmp_path: Path) -> None:
    said = answers_of(design, "p-phone", 0, 0.7)
    said["screen"] = {"width": 320, "height": 568, "pixel_ratio": 2, "touch": True}
    for i, answer in enumerate(said["answers"]):
        answer |= {"looks": i % 3, "shown_pixels": 286 if i % 2 else 480, "picture_pixels": 480}
    import_answers(chain.home.config, [write(tmp_path, said)])
    kept = read_answers(chain.home.config / "studies" / design.study / "answers" / "p-phone.json")
    assert kept.screen == said["screen"] and [a.looks for a in kept.answers] == [a["looks"] for a in said["answers"]]
    result = study_result(chain.home.config, design.study)
    small = sum(a["kind"] == "pair" and a["shown_pixels"] == 286 for a in said["answers"])
    assert result.table.n_small[0] == small > 0
    assert f"{small} of 20 answers are on pictures shown smaller than they are" in result_lines(result)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"pairs": 3}, "pairs: .* valid array, got 3"),
        ({"pairs": [{"pair": "p000", "image": "a"}]}, "pairs.0.sides: missing"),
        ({"pairs": [{"pair": "p000", "image": "a", "sides": []}]}, "pairs.0.sides.0: missing"),
        ({"catch": "x"}, "catch: .* valid array, got 'x'"),
        ({"catch": [3]}, "catch.0: .* object, got 3"),
        ({"arms": ["uniform"]}, "arms.1: missing"),
        ({"dataset": None}, "dataset: .* valid string, got None"),
        ({"seed": "x"}, "seed: .* valid integer, got 'x'"),
        ({"study": "0000000000"}, "it is another study"),
        ({"format": "other"}, "format: .*fovea-study/1.*, got 'other'"),
        *(({name: ...}, f"{name}: missing") for name in ("study", "arms", "pairs", "catch")),
    ],
)
def test_a_damaged_design_is_named(chain: Chain, design: Design, broken: dict[str, Any], said: str) -> None:
    path = keep_design(chain.home.config, design)
    changed = {**design.model_dump(mode="json"), **broken}
    path.write_text(json.dumps({k: v for k, v in changed.items() if v is not ...}))
    with pytest.raises(FoveaError, match=rf"study\.json is damaged \({said}.*\)"):
        read_design(chain.home.config, design.study)


def test_verdicts() -> None:
    row = {"n_answers": 9, "n_participants": 5, "first_arm": "a", "second_arm": "b"}
    assert verdict({**row, "ci_low": 0.51, "ci_high": 0.9}) == "people prefer b"
    assert verdict({**row, "ci_low": 0.1, "ci_high": 0.49}) == "people prefer a"
    few = verdict({**row, "n_participants": 3, "ci_low": 0.51, "ci_high": 0.9})
    assert few == "these 3 people prefer b; that does not carry over to others"
    assert "no preference" in verdict({**row, "ci_low": 0.4, "ci_high": 0.6})
    nobody = pd.DataFrame(columns=["participant", "image", "second", "small"])
    assert preferences(made_design(), nobody, 0).n_answers.tolist() == [0]


def change(said: dict[str, Any], **values: Any) -> dict[str, Any]:
    said["answers"][2] |= values
    return said


BAD = {
    r"format: .*, got 'other'": lambda s: {**s, "format": "other"},
    r"participant: missing": lambda s: {k: v for k, v in s.items() if k != "participant"},
    r"participant: .*, got '\.\./x'": lambda s: {**s, "participant": "../x"},
    r"study: .*, got 'zz'": lambda s: {**s, "study": "zz"},
    r"study 00000000ff is not known here \(known: 0123456789\)": lambda s: {**s, "study": "00000000ff"},
    r"answers: .* valid array": lambda s: {**s, "answers": {}},
    r"answers: expected at least 1": lambda s: {**s, "answers": []},
    r"answers\.0: .* object, got 3": lambda s: {**s, "answers": [3]},
    r"answers\.2.seconds: .*, got None": lambda s: change(s, seconds=None),
    r"answers\.2.seconds: .*, got -1": lambda s: change(s, seconds=-1),
    r"answers\.2.seconds: .*, got nan": lambda s: change(s, seconds=float("nan")),
    r"answers\.2.seconds: .*less than 1000000000": lambda s: change(s, seconds=10**400),
    r"answers\.2.looks: .*greater than or equal to 0, got -1": lambda s: change(s, looks=-1),
    r"answers\.2.trial: .*, got '3'": lambda s: change(s, trial="3"),
    r"answers\.2.image: .*, got 3": lambda s: change(s, image=3),
    r"answers\.2.choice: .*, got 'up'": lambda s: change(s, choice="up"),
    r"answers\.2: chosen 'x' is not what was on the": lambda s: change(s, chosen="x"),
    r"answer 3: pair 'p999' is not in study": lambda s: change(s, pair="p999"),
    r"answer 3: trial 1 is answered twice": lambda s: change(s, trial=1),
    r"answer 3: image 'other', but": lambda s: change(s, image="other"),
    r"answer 3: left and right \['x', 'x'\], but": lambda s: change(s, left="x", right="x", chosen="x"),
}  # fmt: skip


@pytest.mark.parametrize("said", BAD)
def test_bad_files_are_named_by_field_and_keep_nothing(chain: Chain, design: Design, tmp_path: Path, said: str) -> None:
    good = write(tmp_path, answers_of(design, "p-good", 0, 0.5), "good.json")
    bad = write(tmp_path, BAD[said](answers_of(design, "p-bad0", 1, 0.5)), "bad.json")
    file = re.escape(str(bad)) if "known here" not in said else ""
    with pytest.raises(FoveaError, match=rf"(?s){file}.*{said}"):
        import_answers(chain.home.config, [good, bad])
    assert not list((chain.home.config / "studies").rglob("answers/*"))


def test_other_files_are_named(chain: Chain, tmp_path: Path) -> None:
    file = tmp_path / "other"
    with pytest.raises(FoveaError, match=f"cannot read {file}"):
        import_answers(chain.home.config, [file])
    for content, said in (
        (b"hello", "(give what the study's page saved)"),
        (b"{", "invalid JSON"),
        (b"\xff\xfe\x00\x80PNG", "not a text file (give what"),
        (b"x" * 5_000_001, "bytes are no study's answers"),
    ):
        file.write_bytes(content)
        with pytest.raises(FoveaError, match=rf"{file}: .*{re.escape(said)}"):
            import_answers(chain.home.config, [file])


def test_other_answers_of_the_same_person_are_refused(chain: Chain, design: Design, tmp_path: Path) -> None:
    first, second = (write(tmp_path, answers_of(design, "p-same", i, 0.5), f"{i}.json") for i in (1, 2))
    with pytest.raises(FoveaError, match=r"2\.json: participant p-same is there already with other answers \(.*1\.json\)"):  # fmt: skip
        import_answers(chain.home.config, [first, second])
    import_answers(chain.home.config, [first])
    with pytest.raises(FoveaError, match=r"2\.json: participant p-same is there already"):
        import_answers(chain.home.config, [second])


# ---- the page


@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(0, 9))
def test_the_window_lies_inside(height: int, width: int, seed: int) -> None:
    rows, columns = window_of((height, width, 3), np.random.default_rng(seed))
    assert 0 <= rows.start < rows.stop <= height and rows.stop - rows.start == min(height, WINDOW[1])
    assert columns.stop - columns.start == min(width, WINDOW[0]) and columns.stop <= width


def made_shown(design: Design) -> list[Any]:
    originals = {f"p{i}": np.random.default_rng(i).integers(0, 256, (64, 128, 3), dtype=np.uint8) for i in range(6)}
    whole = [originals[p.image] for p in design.pairs]
    return [(picture, picture // 2 + i, picture // 3 + i) for i, picture in enumerate(whole)]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    design = made_design(8)
    file = tmp_path_factory.mktemp("study") / "study.html"
    file.write_text(render_study(design, made_shown(design)))
    return file


def test_the_page_holds_the_design_and_fetches_nothing(page: Path) -> None:
    data = data_of(page.read_text())
    assert [t["kind"] for t in data["rounds"][0]["trials"]] == ["pair"] * 8 + ["catch"] * 4
    # each original once, two copies a pair, one bad copy for each picture of a catch trial
    assert len(data["pictures"]) == 6 + 16 + 4


def test_pictures_that_do_not_fit_without_loss_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "BUDGET_BYTES", 2000)
    design = made_design(8)
    with pytest.raises(FoveaError, match=r"the pictures of 8 pairs .* fewer --pairs"):
        render_study(design, made_shown(design))


RIGHT, LEFT, ENTER = "\ue014", "\ue012", "\ue007"


@pytest.mark.browser
def test_answered_by_keyboard_and_imported(browser: Browser, page: Path, chain: Chain) -> None:
    design = made_design(8)
    keep_design(chain.home.config, design)
    browser.open(page, 1280, 800)
    who = browser.run("return participant")
    while browser.run("return document.activeElement.id") != "play":
        browser.press("\t")
    browser.press(ENTER)
    trials = browser.run("return trials")
    assert len(trials) == 12
    for trial in trials:
        # takes the second arm wherever there is one, and the original in catch trials
        wanted = trial["names"][0 if trial["kind"] == "catch" else 1]
        names = trial["names"][::-1] if trial["flipped"] else trial["names"]
        shown = browser.run("return [...document.querySelectorAll('.pic img')].map(i => data.pictures.indexOf(i.src))")
        assert shown == (trial["pictures"][::-1] if trial["flipped"] else trial["pictures"]) and browser.fits()
        browser.press(LEFT if names[0] == wanted else RIGHT)
    assert browser.run("return document.body.dataset.screen") == "end"
    browser.run("document.querySelector('#json').focus()")
    browser.press(ENTER)
    saved = browser.downloaded(f"study-{design.study}-{who}.json")
    assert import_answers(chain.home.config, [saved]) == ([design.study], 1, 0)
    _, table, dropped = study_result(chain.home.config, design.study)
    assert dropped == {} and (table.iloc[0].rate, table.iloc[0].n_answers, table.iloc[0].method) == (1.0, 8, "wilson")
    assert browser.errors() == []


@pytest.mark.browser
@pytest.mark.parametrize(("width", "height"), [(390, 844), (360, 640)])
def test_answered_by_touch_on_a_phone(browser: Browser, page: Path, width: int, height: int) -> None:
    browser.open(page, width, height, touch=True, dark=height < 700)
    assert not browser.overflows()
    browser.tap("#play")
    for place in range(12):
        assert browser.fits() and not browser.overflows()
        if place == 3:
            browser.tap("#peek")
            assert browser.run("return [looks, peeking]") == [1, False]
        browser.tap(f".pic:nth-of-type({1 + place % 2})")
    said = browser.run("return [document.body.dataset.screen, answers.length, answers[3].looks]")
    assert said == ["end", 12, 1]
    browser.run("removeEventListener('beforeunload', unsaved)")
    assert browser.errors() == []


@pytest.mark.browser
def test_order_and_sides_are_drawn_from_the_name(browser: Browser, page: Path) -> None:
    orders = []
    for name in ("anna-1", "anna-1", "bert-2"):
        browser.driver.get("about:blank")
        browser.driver.get(f"{page.as_uri()}#participant={name}")
        assert browser.run("return participant") == name
        orders.append(browser.run("return trials.map(t => [t.pair, t.flipped, t.kind])"))
    assert orders[0] == orders[1] != orders[2]
    kinds = [k for _, _, k in orders[0]]
    assert kinds.count("catch") == 4 and all(pair != ("catch", "catch") for pair in itertools.pairwise(kinds))
    assert {f for _, f, _ in orders[0]} == {True, False}
