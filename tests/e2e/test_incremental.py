"""One real run of a tiny sweep on drawn pictures, then every kind of change: what is stale, what is found again.

The code runs from a copy of the repository, so that the tests can change it.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import filelock
import pandas as pd
import pytest
from commands import ROOT, environment, fovea, python

from assets.datasets import CLASSICAL
from assets.frames.sample import make_sample

pytestmark = [pytest.mark.e2e]
COUNTS = {"train": 4, "val": 1, "test": 2}


@dataclass
class Place:
    """A copy of the code, a home, and a folder of pictures."""

    code: Path
    home: Path
    pictures: Path

    @property
    def environment(self) -> dict[str, str]:
        return environment(self.home.parent, PYTHONPATH=str(self.code))

    def fovea(self, *words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        return fovea(self.environment, *words, check=check)

    def stale(self) -> dict[str, list[str]]:
        """Stage → partitions that `fovea status` calls stale, with reasons as it prints them."""
        done = self.fovea("status", "--dataset", "drawn", "--sweep", "tiny", check=False)
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
    place.fovea("datasets", "add", "drawn", str(place.pictures))
    first = place.fovea("run", "--dataset", "drawn", "--sweep", "tiny")
    assert " 0 failed" in first.stdout, first.stdout + first.stderr
    # what was found, in a sentence; conventional codecs' numbers only when asked for
    assert re.search(r"^On drawn.* (against|and) uniform.*\.$", first.stdout, flags=re.M), first.stdout
    assert "jpegxl" not in first.stdout and "with --peers" in first.stdout
    yield place


LOCAL = """
import sys
from pipelines.cli import main
try:
    main(["run", "--dataset", "drawn", "--sweep", "tiny"])
except SystemExit as end:
    print("code", end.code, sorted(m for m in ("ray", "s3fs", "botocore", "dagster_postgres", "psycopg2") if m in sys.modules))
"""


def test_a_local_run_imports_nothing_of_a_cluster(place: Place) -> None:
    shutil.rmtree(place.home / "data" / "report")
    done = python(place.environment, "-c", LOCAL)
    assert "1 made" in done.stdout
    assert "code 0 []" in done.stdout, done.stdout + done.stderr


TRAINING = {"trunk_codec", "trained_codec"}
TABLES = {"rd_curves", "bd_rates", "report"}
FRAMES = {"source_frames", "resized_frames", "saliency_maps", "rgba_frames"}


def test_tables_report_and_links(place: Place) -> None:
    points = pd.read_parquet(place.home / "tables/rd_points.parquet")
    assert set(points.codec) == {"bls2017", *CLASSICAL}
    learned = points[points.codec == "bls2017"]
    assert len(learned) == 2 * 4 * COUNTS["test"]
    assert (learned.mlflow_run_id != "").all()
    assert (points.bpp == 8 * points.bytes / (points.width * points.height)).all()
    assert (place.home / "tables/bd_rates.csv").exists()
    report = (place.home / "reports/drawn.tiny.html").read_text()
    assert "saliency_gain" in report
    rates = pd.read_parquet(place.home / "tables/bd_rates.parquet")
    refused = rates[rates.status == "refused"]
    assert (refused.reason != "").all()
    assert len(rates) > 0
    out = place.home.parent / "curves"
    place.fovea("curves", "export", "drawn.tiny", "-o", str(out))
    assert {"uniform.json", "saliency_gain.json", "WebP.json"} <= {p.name for p in out.iterdir()}
    theirs = out / "theirs.tex"
    theirs.write_text("my own notes")
    refused_ = place.fovea("curves", "export", "drawn.tiny", "-o", str(theirs), check=False)
    assert "not made by this command" in refused_.stderr and theirs.read_text() == "my own notes"


def test_a_game_and_a_study_from_what_was_run(place: Place, tmp_path: Path) -> None:
    page = tmp_path / "game.html"
    said = place.fovea("game", "--dataset", "drawn", "-o", str(page)).stdout
    assert "at steps 0, 3, 5, 8, 13, 21, 35, 56, 92, 150 (drawn-bls2017-tiny-trunk)" in said
    assert page.stat().st_size > 100_000
    made = place.fovea("study", "make", "--dataset", "drawn", "--sweep", "tiny", "--arms", "uniform,saliency_gain", "--pairs", "4", "--tolerance", "0.2", "-o", str(tmp_path / "study.html"))  # fmt: skip
    (study,) = re.findall(r"^study ([0-9a-f]{10}): 4 pairs", made.stdout, flags=re.M)
    design = json.loads((place.home.parent / "config" / "studies" / study / "study.json").read_text())
    assert all(abs(p["sides"][0]["bpp"] / p["sides"][1]["bpp"] - 1) < 0.25 for p in design["pairs"])
    answers = [
        (p["pair"], "pair", p["image"], "uniform", "saliency_gain", "right", "saliency_gain") for p in design["pairs"]
    ]
    answers += [
        (c["pair"], "catch", c["image"], "original", "heavily compressed", "left", "original") for c in design["catch"]
    ]
    names = ("pair", "kind", "image", "left", "right", "choice", "chosen")
    said_by = [
        {
            "trial": i + 1,
            **dict(zip(names, a, strict=True)),
            "seconds": 2.0,
            "looks": 0,
            "shown_pixels": 480,
            "picture_pixels": 480,
        }
        for i, a in enumerate(answers)
    ]
    file = tmp_path / "answers.json"
    file.write_text(
        json.dumps({"format": "fovea-study-answers/1", "study": study, "participant": "p-test", "answers": said_by})
    )
    first = place.fovea("study", "import", str(file)).stdout
    assert "1 taken in, 0 already there" in first
    assert "saliency_gain chosen 4 of 4 times by 1 person" in first
    assert "100.0 %, 95 % interval [51.0, 100.0] (wilson)" in first
    again = place.fovea("study", "import", str(file)).stdout
    assert "0 taken in, 1 already there" in again
    table = pd.read_parquet(place.home / "tables/study_preferences.parquet")
    assert table[table.scope == "all"].n_answers.tolist() == [4]
    assert not list(place.home.rglob("*p-test*"))


def test_the_second_run_executes_nothing(place: Place) -> None:
    again = place.fovea("run", "--dataset", "drawn", "--sweep", "tiny")
    assert "everything is up to date, nothing to run" in again.stdout
    assert place.stale() == {}


def test_a_comment_and_a_docstring_make_nothing_stale(place: Place) -> None:
    back = place.edit("models/losses.py", lambda s: "# a remark\n" + s.replace('"""', '"""Well: ', 1))
    try:
        assert place.stale() == {}
    finally:
        back()


def test_a_constant_in_the_losses_makes_training_stale_and_no_frame(place: Place) -> None:
    back = place.edit("models/losses.py", lambda s: s + "\nEXTRA = 1.5\n")
    try:
        stale = place.stale()
        assert set(stale) == TRAINING | {"rd_points"} | TABLES
        assert len(stale["trained_codec"]) == 8
        assert "code changed" in stale["trunk_codec"][0]
    finally:
        back()


def test_a_constant_in_the_metrics_makes_evaluation_stale_and_no_training(place: Place) -> None:
    back = place.edit("models/metrics.py", lambda s: s + "\nEXTRA = 1.5\n")
    try:
        assert set(place.stale()) == {"classical_rd_points", "rd_points"} | TABLES
    finally:
        back()


def test_how_fixation_maps_are_drawn_makes_measuring_stale(place: Place) -> None:
    back = place.edit("assets/saliency/fixations.py", lambda s: s + "\nEXTRA = 1.5\n")
    try:
        stale = set(place.stale())
        assert {"classical_rd_points", "rd_points"} <= stale
        assert not stale & (FRAMES | {"trunk_codec"})
    finally:
        back()


def test_the_same_pictures_under_another_name_get_results_of_their_own(place: Place) -> None:
    place.fovea("datasets", "add", "twin", str(place.pictures))
    try:
        done = place.fovea("status", "--dataset", "twin", "--sweep", "tiny", check=False)
        stale = set(re.findall(r"^stale  (\S+) ", done.stdout, flags=re.M))
        assert stale == {"classical_rd_points", "rd_points"} | TABLES, "frames, maps and training are the same work"
    finally:
        place.fovea("datasets", "remove", "twin")


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
    assert "nothing to run" in place.fovea("run", "--dataset", "drawn", "--sweep", "tiny").stdout
    assert (place.home / "reports/drawn.tiny.html").exists()
    assert (place.home / "tables/rd_points.parquet").exists()


def test_a_learning_rate_names_its_experiments_and_going_back_finds_them(place: Place) -> None:
    back = place.edit(
        "models/presets.toml",
        lambda s: re.sub(r"(\[presets.tiny\].*?\nlr = )[0-9.e-]+", r"\g<1>2.5e-3", s, count=1, flags=re.S),
    )
    try:
        stale = place.stale()
        assert set(stale) == TRAINING | {"rd_points"} | TABLES
        assert "lr " in stale["trained_codec"][0]
        assert "→ 0.0025" in stale["trained_codec"][0]
    finally:
        back()
    assert place.stale() == {}


def test_one_more_lambda_runs_only_its_experiments(place: Place) -> None:
    def add(source: str) -> str:
        return re.sub(r"(\[sweeps.tiny\].*?0\.036)", r"\1, 0.05", source, count=1, flags=re.S)

    back = place.edit("models/sweeps.toml", add)
    try:
        stale = place.stale()
        assert set(stale) == {"trained_codec", "rd_points"} | TABLES
        assert len(stale["trained_codec"]) == 2
        assert all("l0.05" in s for s in stale["trained_codec"])
    finally:
        back()


def test_one_more_picture_is_the_only_one_processed(place: Place) -> None:
    new = make_sample(place.home.parent / "more", seed=9, counts={"train": 0, "val": 0, "test": 1}, size=(256, 128))[0]
    target = place.pictures / "test" / new.parent.name / "added_000000_000019_leftImg8bit.png"
    target.parent.mkdir(exist_ok=True)
    shutil.copy(new, target)
    try:
        stale = place.stale()
        assert not TRAINING & set(stale), "the training pictures are the same"
        assert set(stale) >= FRAMES
        code = """
import sys
from assets.stages import open_chain
from assets.home import Home
chain = open_chain()
import json
print(json.dumps({s: chain.make(s, "drawn").facts for s in ("source_frames", "resized_frames", "saliency_maps", "rgba_frames")}))
"""
        done = python(place.environment, "-c", code)
        assert done.returncode == 0, done.stderr
        facts = json.loads(done.stdout.splitlines()[-1])
        total = sum(COUNTS.values()) + 1
        assert facts["resized_frames"]["resized"] == 1
        assert facts["resized_frames"]["reused"] == total - 1
        assert facts["saliency_maps"]["predicted"] == 1
        assert facts["rgba_frames"]["packed"] == 1
    finally:
        target.unlink()
    assert not FRAMES & set(place.stale()), "without the picture, the earlier result is found"


def test_a_vanished_folder_is_named_and_its_results_stay(place: Place) -> None:
    away = place.pictures.with_name("away")
    place.pictures.rename(away)
    try:
        done = place.fovea("run", "--dataset", "drawn", "--sweep", "tiny", check=False)
        assert done.returncode == 1
        assert str(place.pictures) in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
    finally:
        away.rename(place.pictures)
    assert (place.home / "tables/rd_points.parquet").exists()
    assert place.stale() == {}


def test_training_one_experiment_without_dagster_finds_it(place: Place) -> None:
    keys = place.fovea("status", "--dataset", "drawn", "--sweep", "tiny", "--keys").stdout.split()
    assert len(keys) == 8
    done = place.fovea("train", keys[0], "--no-tracking")
    assert done.stdout.startswith(f"found {keys[0]}")


def test_a_second_fresh_home_gives_the_same_bits(place: Place) -> None:
    key = place.fovea("status", "--dataset", "drawn", "--sweep", "tiny", "--keys").stdout.split()[-1]
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


def test_two_runs_at_once_are_refused_with_the_way_out(place: Place) -> None:
    (place.home / "locks").mkdir(exist_ok=True)
    with filelock.FileLock(place.home / "locks" / "run.lock"):
        done = place.fovea("run", "--dataset", "sample", "--sweep", "tiny", check=False)
    assert done.returncode == 1
    assert "another `fovea run` works on" in done.stderr


def test_bad_input_is_one_clear_line(place: Place) -> None:
    """Through a process of its own; test_runs_command.py has the lines."""
    done = place.fovea("datasets", "add", "drawn", str(place.pictures), check=False)
    assert done.returncode == 1
    assert "drawn" in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2
