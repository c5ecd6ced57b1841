"""One real run of a tiny sweep on drawn pictures, then every kind of change: what is stale, what is found again; and a codec
of one's own, from two files in FOVEA_CONFIG to a report with its curve.

The code runs from a copy of the repository, so that the tests can change it.
"""

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from commands import ROOT, environment, fovea, inside, inside_of, python

from assets.frames.sample import make_sample
from assets.home import Home
from assets.stages import open_chain
from models.seen import read_seen
from pipelines.mlflow_tracking import MlflowTracker

pytestmark = [pytest.mark.e2e]
COUNTS = {"train": 4, "val": 1, "test": 2}
TOY = Path(__file__).parent / "toy"
TINY = ("--dataset", "drawn", "--sweep", "tiny")


@dataclass
class Place:
    """A copy of the code, a home, a folder of pictures, and what the first run printed."""

    code: Path
    home: Path
    pictures: Path
    first: str = ""

    @property
    def environment(self) -> dict[str, str]:
        return environment(self.home.parent, PYTHONPATH=str(self.code))

    def fovea(self, *words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """By the copy of the code."""
        return fovea(self.environment, *words, check=check)

    def unchanged(self, *words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """By the code of this process, which the copy is equal to where no test has changed it."""
        return inside(self.environment, *words, check=check)

    def stale(self) -> dict[str, list[str]]:
        """Stage → partitions that `fovea status` calls stale, with reasons as it prints them."""
        done = self.fovea("status", *TINY, "--all", check=False)
        assert done.returncode in (0, 2), done.stderr
        found: dict[str, list[str]] = {}
        for stage, rest in re.findall(r"^stale  (\S+) (.*)$", done.stdout, flags=re.M):
            found.setdefault(stage, []).append(rest)
        return found

    def edit(self, module: str, change: Callable[[str], str]) -> Callable[[], None]:
        """Change a file of the copy; returns what puts it back."""
        path = self.code / module
        before = path.read_text()
        after = change(before)
        assert after != before, module
        path.write_text(after)
        return lambda: (path.write_text(before), None)[1]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    base = tmp_path_factory.mktemp("incremental")
    code = base / "code"
    for folder in ("models", "assets", "pipelines"):
        shutil.copytree(ROOT / folder, code / folder, ignore=shutil.ignore_patterns("__pycache__"))
    drawn = base / "drawn"
    make_sample(drawn, seed=3, counts=COUNTS, size=(256, 128), workers=2)
    place = Place(code, base / "home", drawn / "leftImg8bit")
    place.unchanged("datasets", "add", "drawn", str(place.pictures), "--classical", "jpeg", "--classical", "webp")
    done = python(place.environment, "-c", LOCAL, "run", *TINY)
    assert " 0 failed" in done.stdout, done.stdout + done.stderr
    place.first = done.stdout
    yield place


LOCAL = """
import sys
from pipelines.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    print("code", end.code, sorted(m for m in ("ray", "s3fs", "botocore", "dagster_postgres", "psycopg2") if m in sys.modules))
"""


def test_a_local_run_says_what_it_found_and_imports_nothing_of_a_cluster(place: Place) -> None:
    assert "code 0 []" in place.first
    # what was found, in a sentence; of conventional codecs what guided arms need against them, all only when asked for
    assert re.search(r"^On drawn.* (against|and) uniform.*\.$", place.first, flags=re.M), place.first
    assert place.first.count("against webp") == 1 and "with --peers" in place.first
    assert not re.search(r"^webp ", place.first, flags=re.M)


def test_a_codec_knows_what_it_was_trained_on(place: Place) -> None:
    files = pd.read_parquet(place.home / "tables/rd_points.parquet")
    assert not files.trained_on.any()
    train = [hashlib.sha256(f.read_bytes()).hexdigest() for f in (place.pictures / "train").rglob("*.png")]
    lists = list(place.home.glob("data/*_codec/*/*/codec/weights.pictures.json"))
    assert len(lists) > 1 and len(train) == COUNTS["train"]
    for path in lists:
        seen = read_seen(path.with_name("weights.safetensors"))
        assert all(seen.trained_on(train)) and len(seen.train) == len(train)


TRAINING = {"trunk_codec", "trained_codec"}
TABLES = {"rd_curves", "bd_rates", "report"}
FRAMES_IN_ORDER = ("source_frames", "resized_frames", "saliency_maps", "rgba_frames")
FRAMES = set(FRAMES_IN_ORDER)


def test_tables_report_and_links(place: Place) -> None:
    points = pd.read_parquet(place.home / "tables/rd_points.parquet")
    assert set(points.codec) == {"bls2017", "jpeg", "webp"}
    learned = points[points.codec == "bls2017"]
    assert len(learned) == 2 * 4 * COUNTS["test"] and (learned.mlflow_run_id != "").all()
    assert (points.bpp == 8 * points.bytes / (points.width * points.height)).all()
    assert (place.home / "tables/bd_rates.csv").exists()
    report = (place.home / "reports/drawn.tiny.html").read_text()
    assert "saliency_gain" in report
    rates = pd.read_parquet(place.home / "tables/bd_rates.parquet")
    refused = rates[rates.status == "refused"]
    assert (refused.reason != "").all() and len(rates) > 0
    out = place.home.parent / "curves"
    place.unchanged("curves", "export", "drawn.tiny", "-o", str(out))
    assert {"bls2017-uniform.json", "bls2017-saliency_gain.json", "WebP.json"} <= {p.name for p in out.iterdir()}
    theirs = out / "theirs.tex"
    theirs.write_text("my own notes")
    refused_ = place.unchanged("curves", "export", "drawn.tiny", "-o", str(theirs), check=False)
    assert "not made by this command" in refused_.stderr and theirs.read_text() == "my own notes"
    place.unchanged("curves", "export", "drawn.tiny", "-o", str(out))
    own = out / "WebP.json"
    own.write_text('{"name": "mine", "description": "mine", "results": {"bpp": [0.1], "psnr-rgb": [20]}}')
    refused_ = place.unchanged("curves", "export", "drawn.tiny", "-o", str(out), check=False)
    assert "WebP.json is there and was not made by this command" in refused_.stderr and '"mine"' in own.read_text()


def test_a_game_and_a_study_from_what_was_run(place: Place, tmp_path: Path) -> None:
    page = tmp_path / "game.html"
    said = place.unchanged("game", "--dataset", "drawn", "-o", str(page)).stdout
    assert "at steps 0, 3, 5, 8, 13, 21, 35, 56, 92, 150 (drawn-bls2017-tiny-trunk)" in said
    assert page.stat().st_size > 100_000
    made = place.unchanged("study", "make", *TINY, "--arms", "uniform,saliency_gain", "--pairs", "4", "--tolerance", "0.2", "-o", str(tmp_path / "study.html"))  # fmt: skip
    (study,) = re.findall(r"^study ([0-9a-f]{10}): 4 pairs", made.stdout, flags=re.M)
    design = json.loads((place.home.parent / "config" / "studies" / study / "study.json").read_text())
    assert all(abs(p["sides"][0]["bpp"] / p["sides"][1]["bpp"] - 1) < 0.25 for p in design["pairs"])
    pairs = {"kind": "pair", "left": "uniform", "right": "saliency_gain", "choice": "right", "chosen": "saliency_gain"}
    catch = {"kind": "catch", "left": "original", "right": "heavily compressed", "choice": "left", "chosen": "original"}
    answers = [
        {"trial": i, "pair": one["pair"], "image": one["image"], **said, "seconds": 2.0, "looks": 0,
         "shown_pixels": 480, "picture_pixels": 480}
        for i, (one, said) in enumerate([(p, pairs) for p in design["pairs"]] + [(c, catch) for c in design["catch"]], 1)
    ]  # fmt: skip
    file = tmp_path / "answers.json"
    head = {"format": "fovea-study-answers/1", "study": study, "participant": "p-test"}
    file.write_text(json.dumps({**head, "answers": answers}))
    first = place.unchanged("study", "import", str(file)).stdout
    assert "1 taken in, 0 already there" in first and "saliency_gain chosen 4 of 4 times by 1 person" in first
    assert "100.0 %, 95 % interval [51.0, 100.0] (wilson)" in first
    assert "0 taken in, 1 already there" in place.unchanged("study", "import", str(file)).stdout
    table = pd.read_parquet(place.home / "tables/study_preferences.parquet")
    assert table[table.scope == "all"].n_answers.tolist() == [4] and not list(place.home.rglob("*p-test*"))


def constant(source: str) -> str:
    return source + "\nEXTRA = 1.5\n"


def words_only(source: str) -> str:
    return "# a remark\n" + source.replace('"""', '"""Well: ', 1)


def another_rate(source: str) -> str:
    return re.sub(r"(\[presets.tiny\].*?\nlr = )[0-9.e-]+", r"\g<1>2.5e-3", source, count=1, flags=re.S)


def another_lambda(source: str) -> str:
    return re.sub(r"(\[sweeps.tiny\].*?0\.036)", r"\1, 0.05", source, count=1, flags=re.S)


MEASURED = {"classical_rd_points", "rd_points"} | TABLES


@pytest.mark.parametrize(
    ("module", "change", "stages", "trainings"),
    [
        ("models/losses.py", words_only, set(), ()),
        ("models/losses.py", constant, TRAINING | {"rd_points"} | TABLES, (8, "code changed")),
        ("models/metrics.py", constant, MEASURED, ()),
        ("assets/saliency/fixations.py", constant, MEASURED | {"trained_codec"}, ()),
        ("models/presets.toml", another_rate, TRAINING | {"rd_points"} | TABLES, (8, "lr ", "→ 0.0025")),
        ("models/sweeps.toml", another_lambda, {"trained_codec", "rd_points"} | TABLES, (2, "l0.05")),
    ],
)
def test_an_edit_makes_stale_what_it_changes_and_nothing_else(
    place: Place, module: str, change: Callable[[str], str], stages: set[str], trainings: tuple[Any, ...]
) -> None:
    back = place.edit(module, change)
    try:
        stale = place.stale()
    finally:
        back()
    assert set(stale) == stages
    if trainings:
        count, *words = trainings
        assert len(stale["trained_codec"]) == count
        assert all(word in line for word in words for line in stale["trained_codec"]), stale


def test_the_same_pictures_under_another_name_get_results_of_their_own(place: Place) -> None:
    place.unchanged("datasets", "add", "twin", str(place.pictures))
    try:
        done = place.unchanged("status", "--dataset", "twin", "--sweep", "tiny", check=False)
        stale = set(re.findall(r"^stale  (\S+) ", done.stdout, flags=re.M))
        assert stale == MEASURED, "frames, maps and training are the same work"
    finally:
        place.unchanged("datasets", "remove", "twin")


def test_what_was_deleted_is_noticed_and_what_people_open_is_written_again(place: Place) -> None:
    weights = sorted(place.home.glob("data/trained_codec/*/*/codec/weights.safetensors"))[0]
    away = weights.rename(weights.with_name("away"))
    frames = next(place.home.glob("data/resized_frames/shards/*.bin"))
    hidden = frames.rename(frames.with_name("hidden"))
    png = next(place.home.glob("data/rgba_frames/*/*.png"))
    gone = png.rename(png.with_name("gone"))
    try:
        assert {"trained_codec", "resized_frames", "rgba_frames"} <= set(place.stale())
    finally:
        away.rename(weights)
        hidden.rename(frames)
        gone.rename(png)
    shutil.rmtree(place.home / "reports")
    shutil.rmtree(place.home / "tables")
    assert "nothing to run" in place.fovea("run", *TINY).stdout and (place.home / "reports/drawn.tiny.html").exists()
    assert (place.home / "tables/rd_points.parquet").exists()


def test_one_more_picture_is_the_only_one_processed(place: Place) -> None:
    new = make_sample(place.home.parent / "more", seed=9, counts={"train": 0, "val": 0, "test": 1}, size=(256, 128))[0]
    target = place.pictures / "test" / new.parent.name / "added_000000_000019_leftImg8bit.png"
    target.parent.mkdir(exist_ok=True)
    shutil.copy(new, target)
    try:
        stale = place.stale()
        assert not TRAINING & set(stale), "the training pictures are the same"
        assert set(stale) >= FRAMES
        with inside_of(place.environment):
            chain = open_chain(Home.from_environment())
            facts = {stage: chain.make(stage, "drawn").facts for stage in FRAMES_IN_ORDER}
        total = sum(COUNTS.values()) + 1
        assert facts["resized_frames"]["resized"] == 1 and facts["resized_frames"]["reused"] == total - 1
        assert facts["saliency_maps"]["predicted"] == 1 and facts["rgba_frames"]["packed"] == 1
    finally:
        target.unlink()
    assert not FRAMES & set(place.stale()), "without the picture, the earlier result is found"


def test_a_vanished_folder_is_named_and_its_results_stay(place: Place) -> None:
    away = place.pictures.with_name("away")
    place.pictures.rename(away)
    try:
        done = place.unchanged("run", *TINY, check=False)
        assert done.returncode == 1 and str(place.pictures) in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
    finally:
        away.rename(place.pictures)
    assert (place.home / "tables/rd_points.parquet").exists() and place.stale() == {}


def told_to_mlflow(place: Place) -> None:
    """The sweep `own`, all of whose trainings another made, has them in its table; what a person reads first is a result."""
    client = MlflowTracker(place.home / "mlflow", "").store.connect()
    experiment = client.get_experiment_by_name("fovea-drawn")
    assert experiment is not None
    view = json.loads(experiment.tags["mlflow.sharedViewState.drawn.own"])
    found = client.search_runs([experiment.experiment_id], view["searchFilter"], order_by=[f"{view['orderByKey']} ASC"])
    assert {run.data.tags["fovea.sweep"] for run in found} == {"drawn.tiny"}
    names = [f"{rate:g} {arm} bls2017" for rate in (0.0016, 0.0045, 0.013, 0.036) for arm in ("gain", "uniform")]
    assert [run.info.run_name for run in found] == names
    assert len({(run.data.params["arm"], run.data.tags["mlflow.runColor"]) for run in found}) == 2
    for run in found:
        uniform = run.data.params["arm"] == "uniform"
        assert run.data.params["gamma"] == ("unused" if uniform else "0.5"), "a chart would make a number up"
        note = run.data.tags["mlflow.note.content"]
        assert note.startswith(f"**{run.data.metrics['bpp']:.3f} bpp, ") and "/assets/trained_codec?" in note
        assert "](#/experiments/" in note and "viewStateShareKey=drawn.own" in note
        assert all(value == float(f"{value:.6g}") for value in run.data.metrics.values())
    (parent,) = client.search_runs([experiment.experiment_id], "tags.`fovea.key` = 'sweep drawn.own'")
    assert f"/runs/{parent.info.run_id}/artifacts/report/report.html?" in parent.data.tags["mlflow.note.content"]
    assert all(name.startswith("bd/saliency_gain_vs_uniform/") for name in parent.data.metrics)
    model = client.get_registered_model("fovea-drawn-own")
    assert "2 pictures are too few for an interval" in str(model.description)


def test_a_sweep_that_is_changed_back_has_its_tables_and_page_back(place: Place) -> None:
    settings = place.home.parent / "config" / "fovea.toml"
    before = settings.read_text()
    own, rates = ("--dataset", "drawn", "--sweep", "own"), [0.0016, 0.0045, 0.013, 0.036]
    text = '\n[sweeps.own]\ncodecs = ["bls2017"]\narms = ["uniform", "saliency_gain"]\npreset = "tiny"\ntrunk = "own"\nrates = {}\n'
    seen = []
    try:
        for some in (rates, rates[1:], rates, rates):
            settings.write_text(before + text.format(some))
            why = place.unchanged("status", *own, check=False).stdout
            assert not seen or some == rates or re.search(r"rd_curves drawn.own: .*measurements \d+ → \d+", why), why
            done = place.unchanged("run", *own)
            table = pd.read_parquet(place.home / "tables/bd_rates.parquet").query("sweep == 'own'")
            curves = pd.read_parquet(place.home / "tables/rd_curves.parquet")
            page = (place.home / "reports/drawn.own.html").read_text()
            seen.append((done.stdout, table.bd_rate_percent.fillna(0).tolist(), sorted(set(curves.rate)), page))
        status = place.unchanged("status", *own).stdout
        told_to_mlflow(place)
    finally:
        settings.write_text(before)
    (_, *first), (_, *other), (found, *back), (nothing, *_) = seen
    assert first == back and first[0] != other[0]
    assert found.startswith("0 made, ") and "nothing to run" in nothing and status == "drawn.own: up to date\n"


def test_training_one_experiment_without_dagster_finds_it(place: Place) -> None:
    keys = place.unchanged("status", *TINY, "--keys").stdout.split()
    assert len(keys) == 8
    done = place.unchanged("train", keys[0], "--no-tracking")
    assert done.stdout.startswith(f"found {keys[0]}")


def test_a_second_fresh_home_gives_the_same_bits(place: Place) -> None:
    key = place.unchanged("status", *TINY, "--keys").stdout.split()[-1]
    other = Place(place.code, place.home.parent / "second" / "home", place.pictures)
    shutil.copytree(place.home.parent / "config", other.home.parent / "config")
    done = other.fovea("train", key, "--no-tracking")
    assert done.stdout.startswith(f"trained {key}")

    def digests(home: Path) -> dict[str, str]:
        found = {}
        for manifest in home.glob("data/trained_codec/*/*/manifest.json"):
            meta = json.loads(manifest.read_text())["meta"]
            found[meta["partition"]] = meta["facts"]["weights_sha256"]
        return found

    assert digests(other.home)[key] == digests(place.home)[key]


def test_two_files_make_a_codec_with_a_curve_in_the_report(place: Place) -> None:
    config = place.home.parent / "config"
    shutil.copytree(TOY / "codecs", config / "codecs", ignore=shutil.ignore_patterns("__pycache__"))
    with (config / "fovea.toml").open("a") as settings:
        settings.write((TOY / "fovea.toml").read_text())
    toy = ("--dataset", "drawn", "--sweep", "toy")
    assert " 0 failed" in place.fovea("run", *toy).stdout
    curves = pd.read_parquet(place.home / "tables/rd_curves.parquet")
    own = curves[curves.codec == "toy"]
    assert set(own.arm) == {"uniform", "saliency_gain"} and len(own) == 8
    assert (own.rate_name == "lmbda").all() and (own.bpp > 0).all() and own.psnr_db.notna().all()
    report = (place.home / "reports/drawn.toy.html").read_text()
    assert "toy" in report and "saliency_gain" in report
    assert place.stale() == {}, "nothing of what is there has changed"
    # a change of the file makes what it computed stale, a typo is one line that names file and field
    codec = config / "codecs" / "toy.py"
    codec.write_text(codec.read_text().replace("nn.ReLU()", "nn.LeakyReLU()"))
    stale = place.fovea("status", *toy, check=False).stdout
    assert "stale  trunk_codec" in stale and "stale  resized_frames" not in stale
    codec.write_text(codec.read_text().replace("    paper=", "    papers="))
    wrong = place.fovea("status", *toy, check=False)
    assert wrong.returncode == 1 and f"{codec}: CARD: unknown field 'papers'; did you mean 'paper'?" in wrong.stderr
    assert place.stale() == {}, "others are planned all the same"
