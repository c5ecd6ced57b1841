import hashlib
import json
import re
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from assets.home import Home
from assets.versions import code_version
from assets.world import World
from models.arms import CONTROLS
from models.card import cards, find_card
from models.codecs import catalogue
from models.codecs.catalogue import objective_of
from models.errors import FoveaError
from models.experiments import Experiment
from models.presets import find_preset
from models.sweeps import Grid, Sweep, sweep, sweep_names

TOY = Path(__file__).parents[1] / "e2e" / "toy"

EVERY = [
    e
    for name in sweep_names()
    for d in ("sample", "camvid", "kodak")
    for registered in ((), ("sample", "camvid", "kodak"))
    for e in sweep(name, d, registered).experiments
]


def test_key_and_record_are_one_to_one_over_all_sweeps() -> None:
    by_key: dict[str, Experiment] = {}
    for experiment in EVERY:
        assert by_key.setdefault(experiment.key, experiment) == experiment
    assert len(by_key) == len(set(EVERY))
    trunks = {t for name in sweep_names() for t in sweep(name, "sample").trunks}
    assert len({t.key for t in trunks}) == len(trunks)


def test_the_sweeps_of_faults_and_remedies_differ_from_their_base_in_one_thing() -> None:
    for name in ("gan-faults", "gan-remedies"):
        base, *others = sweep(name, "sample").experiments
        for other in others:
            changed = {k for k, v in other.resolved().items() if base.resolved()[k] != v}
            assert len(changed - {"fidelity"}) == 1, (other.key, changed)


def test_smoke_is_small_and_all_arms_of_a_codec_branch_from_one_trunk() -> None:
    smoke = sweep("smoke", "sample")
    trained = [e for e in smoke.experiments if not e.untrained]
    assert len(trained) <= 12 and len({e.rates for e in trained}) >= 4
    assert {t.key for t in smoke.trunks} == {f"shipped-{e.codec}" for e in smoke.experiments}


def test_a_sweep_with_an_experiment_twice_is_refused() -> None:
    one = Experiment(dataset="sample", codec="bls2017")
    with pytest.raises(FoveaError, match="twice"):
        Sweep("double", "sample", (one, one))


def test_paper_has_every_codec_and_arm_at_the_full_budget() -> None:
    paper = sweep("paper", "camvid")
    told = [n for n, found in cards().found.items() if "hyper" in found.card.mechanisms]
    codecs = [n for n, found in cards().found.items() if "sft" in found.card.mechanisms]
    labels = {(c, f"saliency_hyper{m}") for c in told for m in ("", *(f"@{x}" for x in CONTROLS))}
    assert {(e.codec, e.label) for e in paper.experiments} == labels | {
        (codec, e.label) for codec in codecs for e in sweep("seed", "camvid").experiments
    }
    assert {e.preset for e in paper.experiments} == {"paper"} and len(paper.trunks) == len(codecs)


def test_kodak_is_measured_where_it_is_registered() -> None:
    without, with_kodak = sweep("paper", "camvid"), sweep("paper", "camvid", ("sample", "camvid", "kodak"))
    for one, other in zip(without.experiments, with_kodak.experiments, strict=True):
        assert one.evaluate_on == ("camvid",) and other.evaluate_on == ("camvid", "kodak")
        assert one.key != other.key and one.resolved() == other.resolved()
    assert sweep("paper", "kodak", ("kodak",)) == sweep("paper", "kodak")
    assert sweep("smoke", "camvid", ("kodak",)) == sweep("smoke", "camvid")


def test_options_are_part_of_key_record_and_trunk() -> None:
    settings = ({}, {"options": {"dilation": 2}})
    grid = Grid(codecs=("bls2017",), rates=(0.0018, 0.0483), preset="base", trunk="own", settings=settings)
    both = Sweep("both", "sample", tuple(grid.experiments("sample", ())))
    plain = [e for e in both.experiments if not e.options]
    wide = [e for e in both.experiments if e.options == (("dilation", 2),)]
    assert len(plain) == len(wide) == 2 and len({t.key for t in both.trunks}) == 2
    assert all("dilation" not in e.resolved() for e in plain)
    assert all(e.resolved()["dilation"] == 2 and e.variant == "dilation=2" for e in wide)
    assert plain[0].but(options=(("dilation", 1),)) == plain[0]
    assert all(catalogue.config_for(e).options == e.options for e in (*plain, *wide))
    assert all(catalogue.config_for(t).options == t.options for t in both.trunks)


#: digests of keys and resolved records on `sample`: what stored results are found by
GOLDEN = {
    "smoke": "91080f79986a",
    "shipped": "6cc3197f23ad",
    "maps": "f8d9aa24f8b6",
    "tiny": "cc4c4d22fcf4",
    "game": "3f3eeb8fe91b",
    "arms": "4a97dc154949",
    "unsent": "9e110c7fdb64",
    "seed": "144aff66d949",
    "paper": "d7f697845770",
    "trials": "bc0e6a6ecaca",
    "source": "2ec9624b5c0a",
    "trade": "391a80a275b0",
    "gan": "f81119647d36",
    "gan-long": "116c99fd3fbe",
    "gan-saliency": "28a9cf76671f",
    "gan-faults": "0cb4e55d976f",
    "gan-memorisation": "19fb6844334d",
    "gan-remedies": "2e62d4674acf",
    "gan-tiny": "207ee6fb3e78",
    "recurrent": "e6d05cdee664",
    "recurrent-saliency": "c3cc6bccb339",
}


def records_digest(name: str) -> str:
    made = sweep(name, "sample")
    records = sorted([r.key, r.resolved()] for r in (*made.experiments, *made.trunks))
    return hashlib.sha256(json.dumps(records, sort_keys=True).encode()).hexdigest()[:12]


def test_shipped_sweeps_keep_their_keys_and_records() -> None:
    assert {name: records_digest(name) for name in sweep_names()} == GOLDEN


def test_a_codec_and_a_sweep_of_one_s_own_change_no_key_and_no_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = [(objective_of(c).partition(":")[0], found.module) for c, found in cards().found.items()]
    versions = [code_version(*pair) for pair in modules]
    monkeypatch.setenv("FOVEA_CONFIG", str(TOY))
    code_version.cache_clear()
    assert "toy" in cards().found and not cards().faults and {name: records_digest(name) for name in GOLDEN} == GOLDEN
    assert sweep_names() == [*GOLDEN, "toy"] and versions == [code_version(*pair) for pair in modules]
    toy = sweep("toy", "sample")
    assert {e.codec for e in toy.experiments} == {"toy"} and len(toy.experiments) > 1
    # wherever it lies, and by what it says
    other = tmp_path / "codecs" / "toy.py"
    other.parent.mkdir()
    shutil.copy(TOY / "codecs" / "toy.py", other)
    assert code_version(str(other)) == code_version(find_card("toy").module)
    other.write_text(other.read_text() + "\nX = 1\n")
    code_version.cache_clear()
    assert code_version(str(other)) != code_version(find_card("toy").module)


Own = Callable[[str], str]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Own:
    """Writes a fovea.toml, and gives how messages about it begin."""

    def write(text: str) -> str:
        (tmp_path / "fovea.toml").write_text(text)
        monkeypatch.setenv("FOVEA_CONFIG", str(tmp_path))
        return f"{tmp_path / 'fovea.toml'}: "

    return write


MINE = '[sweeps.mine]\ncodecs = ["bls2017"]\nrates = [0.01]\npreset = "tiny"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MINE + 'armz = ["uniform"]\n', "sweeps.mine: unknown field 'armz'; did you mean 'arms'?"),
        (MINE.replace("rates", "# "), "sweeps.mine.rates: missing"),
        (MINE.replace("[0.01]", "[]"), "sweeps.mine.rates: expected at least 1, got []"),
        (MINE + "arms = []\n", "sweeps.mine.arms: expected at least 1, got []"),
        (MINE + "grids = [{}, { settings = [] }]\n", "sweeps.mine.settings: expected at least 1, got []"),
        (MINE.replace("bls2017", "cheng2020_anchor") + 'trunk = "shipped"\n', "sweeps.mine: trunk = \"shipped\": no weights of 'cheng2020_anchor'"),
        (MINE + "seeds = 3\n", "sweeps.mine.seeds: expected a list, got 3"),
        (MINE + "trunk_option = { x = 1 }\n", "unknown field 'trunk_option'; did you mean 'trunk_options'?"),
        (MINE + 'trunk = "shiped"\n', "sweeps.mine.trunk: expected 'none', 'own' or 'shipped', got 'shiped'"),
        (MINE + "grids = []\n", "sweeps.mine.grids: expected one or more tables, got []"),
        (MINE + "grids = [{ arm = [] }]\n", "sweeps.mine: unknown field 'arm'; did you mean 'arms'?"),
        (MINE + 'grids = [{}, { also_on = ["osie"] }]\n', "sweeps.mine.grids: also_on is said of the whole sweep"),
        (MINE + 'grids = [{}, { about = "two" }]\n', "sweeps.mine.grids: about is said of the whole sweep"),
        (MINE.replace("mine", "smoke"), "sweeps.smoke: a sweep of this name ships with Fovea"),
        (MINE.replace("mine", '"A.b"'), "up to 40 small letters"),
        (MINE.replace("bls2017", "bls207"), "sweeps.mine: unknown codec 'bls207'"),
        (MINE.replace("tiny", "tinny"), "sweeps.mine: unknown preset 'tinny'; did you mean 'tiny'?"),
        (MINE + 'arms = ["saliency_hope"]\n', "sweeps.mine: unknown arm 'saliency_hope'"),
        (MINE + 'arms = ["unifrom"]\n', "unknown arm 'unifrom'; did you mean 'uniform'? arms: uniform, "),
        (MINE + 'arms = ["weighted"]\ncontrols = ["centre"]\n', "unknown arm 'weighted@centre'; did you mean 'weighted@center'?"),
        (MINE + 'variable = "yes"\n', "sweeps.mine.variable: expected a valid boolean, got 'yes'"),
        (MINE + "seeds = [0, -1]\n", "sweeps.mine.seeds.1: expected greater than or equal to 0, got -1"),
        (MINE + "seeds = [true]\n", "sweeps.mine.seeds.0: expected a valid integer, got True"),
        (MINE.replace("0.01", "1e300"), "lmbda needs one or more positive numbers below 1e+12"),
        (MINE + "settings = [{ seed = -1 }]\n", "sweeps.mine: seed: expected greater than or equal to 0, got -1"),
        (MINE + "settings = [{ normalised = 1 }]\n", "sweeps.mine: normalised: expected a valid boolean, got 1"),
        (MINE + "overrides = { lr = nan }\n", "sweeps.mine: overrides.lr: expected a finite number, got nan"),
        (MINE + "overrides = { lr = -1 }\n", "sweeps.mine: overrides.lr: expected greater than 0, got -1"),
        (MINE + "overrides = { steps = -1 }\n", "sweeps.mine: overrides.steps: expected greater than or equal to 0, got -1"),
        (MINE + "overrides = { steps = 0.5 }\n", "sweeps.mine: overrides.steps: expected a valid integer, got 0.5"),
        (MINE + 'trunk = "own"\ntrunk_overrides = { ema = 1 }\n', "sweeps.mine: trunk_overrides.ema: expected less than 1, got 1"),
        (MINE + "settings = [{ gama = 1.0 }]\n", "sweeps.mine: unknown field 'gama'; did you mean 'gamma'?"),
        (MINE + "overrides = { stepz = 5 }\n", "sweeps.mine: overrides: unknown field 'stepz'; did you mean 'steps'?"),
        ("sweeps = 3\n", "sweeps: expected tables [sweeps.NAME], got 3"),
        ("[sweep.mine]\n", "unknown key sweep; known are datasets, profiles, presets, sweeps"),
        ('[presets.mine]\nn = 8\nm = "x"\n', "presets.mine.m: expected a valid integer"),
        ("[presets.mine]\nn = 0\n", "presets.mine.n: expected greater than or equal to 1, got 0"),
        ("[presets.mine]\nn = 8\nm = 8\ntrunk_steps = 1\nsteps = 1\nbatch_size = 1\ncrop = 64\nlr = 0\n", "presets.mine.lr: expected greater than 0"),
        ("[presets.tiny]\nn = 8\nm = 8\ntrunk_steps = 1\nsteps = 1\nbatch_size = 1\ncrop = 64\n", "presets.tiny: a preset"),
    ],
)  # fmt: skip
def test_a_typo_is_one_line_that_names_file_table_and_field(own: Own, text: str, said: str) -> None:
    where = own(text)
    with pytest.raises(FoveaError) as raised:
        sweep_names()
        for name in tomllib.loads(text).get("sweeps", ()):
            sweep(name, "sample")
        for name in tomllib.loads(text).get("presets", ()):
            find_preset(name)
    assert str(raised.value).startswith(where) and said in str(raised.value) and "\n" not in str(raised.value)


def test_a_wrong_table_stops_only_what_names_it_and_takes_a_line_elsewhere(
    own: Own, caplog: pytest.LogCaptureFixture
) -> None:
    odd = MINE.replace("mine", "odd").replace("tiny", "own")
    wrong = "[presets.own]\nn = 'x'\n[profiles.own]\nstorag = 1\n"
    gone = "".join(MINE.replace("mine", name).replace("bls2017", "gmix") for name in ("gone", "lost"))
    where = own(MINE + "armz = []\n" + MINE.replace("mine", "good") + odd + gone + wrong)
    found = World(Home.from_environment()).sweeps
    assert set(found) == {f"{d}.{n}" for n in (*GOLDEN, "good") for d in ("sample", "cityscapes")}
    assert caplog.messages == ["left out: 4 sweeps that are wrong (fovea status --sweep mine says why)"]
    for name, said in (
        ("mine", f"{where}sweeps.mine: unknown field 'armz'; did you mean 'arms'?"),
        ("odd", f"{where}sweeps.odd: {where}presets.own.n: expected a valid integer"),
        ("lost", f"{where}sweeps.lost: unknown codec 'gmix'"),
    ):
        with pytest.raises(FoveaError, match=f"^{re.escape(said)}"):
            World(Home.from_environment()).sweep(f"sample.{name}")
    caplog.clear()
    own(MINE + "armz = []\n")
    assert World(Home.from_environment()).sweeps
    assert caplog.messages == ["left out: sweep mine, which is wrong (fovea status --sweep mine says why)"]


def test_arms_guided_by_people_are_left_out_where_nobody_looked(tmp_path: Path, own: Own) -> None:
    places = "".join(f'[datasets.{name}]\npath = "{tmp_path}"\n' for name in ("blind", "kodak", "eyes"))
    own(places + f'fixations = "{tmp_path}/fixations.csv"\n')
    found = World(Home.from_environment()).sweeps

    def arms(key: str) -> set[str]:
        return {e.label for e in found[key].experiments}

    assert arms("eyes.maps") - arms("blind.maps") == {"saliency_gain@oracle"}
    assert not any("@oracle" in label for label in arms("cityscapes.seed"))
    elsewhere = {e.evaluate_on for e in found["eyes.paper"].experiments if e.maps == "oracle"}
    assert elsewhere == {("eyes",)} != {e.evaluate_on for e in found["eyes.paper"].experiments}


def test_a_preset_of_one_s_own_trains(own: Own) -> None:
    budget = "[presets.mine]\nn = 8\nm = 8\ntrunk_steps = 1\nsteps = 7\nbatch_size = 1\ncrop = 64\n"
    own(budget + MINE.replace('"tiny"', '"mine"'))
    (record,) = sweep("mine", "sample").experiments
    assert record.resolved()["steps"] == 7 and record.preset == "mine" and catalogue.config_for(record).options == ()
    own(budget + "options = { cell = 2 }\n" + MINE.replace('"tiny"', '"mine"'))
    (record,) = sweep("mine", "sample").experiments
    assert catalogue.config_for(record.but(options={"cell": 2})) == catalogue.config_for(record)
    assert catalogue.config_for(record).options == (("cell", 2),)
    assert catalogue.config_for(record.but(options={"cell": 1})).options == ()


def test_an_unknown_sweep_lists_the_known_ones() -> None:
    with pytest.raises(FoveaError, match="known: smoke"):
        sweep("everything", "sample")
    with pytest.raises(FoveaError, match="did you mean 'smoke'"):
        sweep("smok", "sample")


@pytest.mark.parametrize("names", [*([name] for name in sorted(GOLDEN)), ["smoke", "shipped", "maps"]])
def test_keys_cut_in_the_middle_still_tell_rows_apart(names: list[str]) -> None:
    """As Dagster's list of partitions cuts them."""
    datasets = ("sample", "osie") if {"smoke", "shipped", "maps"}.issuperset(names) else ("sample",)
    keys = {e.key for dataset in datasets for name in names for e in sweep(name, dataset).experiments}
    assert len({(key[:17], key[-18:]) for key in keys}) == len(keys)
    # rates of learning of 0.0002 and 0.002 end alike in the rows of measurements
    rows = {(key[:17], f"{key}@sample"[-18:]) for key in keys}
    assert len(rows) == len(keys) - (names == ["gan-remedies"])
