"""`fovea benchmark` on pictures that are there to be measured on alone."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import tomlkit
import torch
from click.testing import CliRunner
from commands import environment, inside, inside_of
from scenes import scene

from assets.evaluation.claims import inputs_of, read_claim
from assets.stages import open_chain
from assets.world import evaluation_key
from models.codecs import catalogue
from models.judges import Picture, Text
from models.legibility import Reader, cut_out
from models.seen import write_seen
from pipelines.cli import main

AS_SHIPPED = """[sweeps.asis]
codecs = ['bls2017']
arms = ['uniform', 'saliency_gain']
rates = [0.0008, 0.0032, 0.0128, 0.0512]
variable = true
preset = 'smoke'
trunk = 'shipped'
overrides = { steps = 0 }
"""
CLAIM = """says = "Guided by saliency, bls2017 needs fewer bits where saliency is."
sweep = "held.asis"
codec = "bls2017"
arm = "saliency_gain"
against = "uniform"
metric = "sw_psnr_db"
most = -1.0
"""


SETTINGS = "[datasets.held]\npath = {!r}\nclassical = ['jpeg']\nsplits = {{ test = ['*.png'] }}\n"


def settle(base: Path, more: str = "") -> dict[str, str]:
    """The pictures of `base`/held are registered."""
    here = environment(base)
    (base / "config/fovea.toml").write_text(SETTINGS.format(str(base / "held")) + more)
    return here


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, "subprocess.CompletedProcess[str]"]:
    """Five pictures and a home with a benchmark of bls2017 on them; what the command said."""
    base = tmp_path_factory.mktemp("made")
    (base / "held").mkdir()
    for i in range(5):
        cv2.imwrite(str(base / f"held/{i}.png"), scene(96, 128, i))
    return base, inside(settle(base), "benchmark", "--dataset", "held", "--codec", "bls2017")


@pytest.fixture
def pictures(made: tuple[Path, object], tmp_path: Path) -> Path:
    """A copy of the five pictures, with one of the home beside it: what a test asks for is made anew only where it differs."""
    for name in ("held", "home"):
        shutil.copytree(made[0] / name, tmp_path / name)
    return tmp_path / "held"


def test_codecs_that_ship_are_measured_without_training(made: tuple[Path, "subprocess.CompletedProcess[str]"]) -> None:
    base, done = made
    assert "bls2017 saliency_gain\n  against uniform " in done.stdout and "\n  against jpeg " in done.stdout
    assert done.stdout.count("as shipped") == 1 and "(common to all arms: as shipped)" in done.stdout
    assert "as_shipped" in done.stderr and "steps=0" not in done.stderr
    table = pd.read_parquet(base / "home/tables/benchmark.held.parquet")
    assert set(table.codec) == {"bls2017"} and set(table.n_images) == {5} and set(table.train_dataset) == {""}
    assert {*table.anchor_arm} == {"jpeg", "uniform"}
    page = (base / "home/reports/held.benchmark.html").read_text()
    assert "held.benchmark" in page and "saliency_gain" in page

    here = environment(base)
    refused = inside(here, "run", "--dataset", "held", check=False)
    assert refused.returncode == 1 and "fovea benchmark --dataset held" in refused.stderr
    without = inside(here, "benchmark", "--dataset", "held", "--codec", "bls2017", "--judge", "ocr")
    assert "ocr is left out: " in without.stdout
    for words, names in (
        (["--codec", "bls2017", "--judge", "orc"], "did you mean 'ocr'"),
        (["--codec", "bls2018"], "bls2017"),
        (["--codec", "bls2017", "--peers", "webp"], "is measured with jpeg"),
    ):
        wrong = inside(here, "benchmark", "--dataset", "held", *words, check=False)
        assert wrong.returncode == 1 and names in wrong.stderr


def test_judges_see_the_files_that_were_measured(
    pictures: Path, installation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a made reader: what an original shows counts, columns are those of tables and page, and nothing is judged twice."""
    words = [(f"{i}.png", text, x, 30, 40, 24) for i in range(5) for text, x in (("SEEN", 10), ("UNSEEN", 60))]
    table = pictures.parent / "words.parquet"
    pd.DataFrame(words, columns=["image", "text", "x", "y", "width", "height"]).to_parquet(table)
    added = ["datasets", "add", "held", str(pictures), "--test", "*.png", "--classical", "jpeg", "--texts", str(table)]
    done = CliRunner().invoke(main, added)
    assert done.exit_code == 0 and "texts: 10 on 5 pictures" in done.output, done.output
    boxes, shown = (
        [Text("", x, 30, 40, 24) for x in (10, 60)],
        [cv2.imread(str(pictures / f"{i}.png")) for i in range(5)],
    )
    known, asked = [cut_out(p[..., ::-1], boxes[0]).astype(float) for p in shown], []

    def reads(line: Picture) -> str:
        """Knows the left boxes, letter by letter, the better the more it sees."""
        asked.append(line.shape)
        error = min(((line - k) ** 2).mean() if line.shape == k.shape else 1e6 for k in known)
        return "SEEN" if error == 0 else "SEEN"[: int(np.clip(4 - np.log2(error / 4) / 2, 0, 4))]

    monkeypatch.setattr("models.judges.Judge.lacks", lambda judge: "")
    monkeypatch.setattr("models.legibility.opened", lambda name: Reader(reads, "made for a test"))
    ask = ["benchmark", "--dataset", "held", "--codec", "bls2017", "--judge", "ocr", "--threads", "1"]
    done = CliRunner().invoke(main, ask)
    assert done.exit_code == 0, done.output
    assert (
        "made for a test" in done.output and "5 of 10 texts count" in done.output and done.output.count("UNSEEN") == 5
    )
    points = pd.read_parquet(installation / "home/tables/benchmark.held.points.parquet")
    assert points.characters_read.between(0, 1).all() and set(points.arm) == {"uniform", "saliency_gain", "classical"}
    best, worst = (points[points.psnr_db == end(points.psnr_db)].characters_read.item() for end in (max, min))
    assert best > 0.5 > worst
    rates = pd.read_parquet(installation / "home/tables/benchmark.held.parquet")
    assert {"characters_read", "texts_read"} <= set(rates.metric)
    assert "characters read" in (installation / "home/reports/held.benchmark.html").read_text()

    seen = len(asked)
    again = CliRunner().invoke(main, ask)
    assert again.exit_code == 0 and len(asked) == seen + 10  # the originals alone, to say which texts count
    other = CliRunner().invoke(main, [*ask[:5], "--threads", "1", "--name", "plain"])
    assert other.exit_code == 0 and (installation / "home/reports/held.benchmark-plain.html").exists()
    assert "characters_read" not in pd.read_parquet(installation / "home/tables/benchmark-plain.held.points.parquet")
    assert points.equals(pd.read_parquet(installation / "home/tables/benchmark.held.points.parquet"))
    wrong = CliRunner().invoke(main, [*ask, "--name", "../x"])
    assert wrong.exit_code == 1 and "--name '../x': small letters" in wrong.output


def test_a_checkpoint_from_elsewhere_is_measured_beside_what_ships(pictures: Path, tmp_path: Path) -> None:
    from compressai.models import FactorizedPrior

    here = settle(tmp_path)
    files = [str(tmp_path / f"{name}.pth.tar") for name in ("factorized", "another")]
    for seed, file in enumerate(files):
        torch.manual_seed(seed)
        network = FactorizedPrior(16, 24)
        network.update()
        torch.save({"state_dict": network.state_dict()}, file)
    given = (
        "--codec",
        "bmshj2018_factorized",
        "--dataset",
        "held",
        "--quality",
        "3",
        "--quality",
        "5",
        "--threads",
        "1",
    )
    done = inside(here, "evaluate", *files, *given)
    assert " 0 failed" in done.stdout and "quality 3: sha256" in done.stdout and "quality 5: sha256" in done.stdout
    inside(here, "benchmark", "--dataset", "held", "--codec", "bls2017")
    points = pd.read_parquet(tmp_path / "home/tables/benchmark.held.points.parquet")
    own = points[points.arm == "external"]
    assert len(own) == 10 and set(own.codec) == {"bmshj2018_factorized"} and own.trained_on.isna().all()
    inside(here, "curves", "export", "held.benchmark", "-o", str(tmp_path / "curves.tex"))
    assert r"\addlegendentry{bmshj2018\_factorized" in (tmp_path / "curves.tex").read_text()


def test_what_a_codec_was_trained_on_shows_nothing(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(catalogue.SHIPPED, tmp_path / "shipped")
    known = [hashlib.sha256((pictures / f"{i}.png").read_bytes()).hexdigest() for i in (1, 3)]
    write_seen(tmp_path / "shipped/bls2017/weights.safetensors", known)
    monkeypatch.setattr(catalogue, "SHIPPED", tmp_path / "shipped")
    for stage in ("trunk_codec", "trained_codec", "rd_points"):
        shutil.rmtree(tmp_path / "home/data" / stage)  # no key has the list of a shipped codec
    here = settle(tmp_path, AS_SHIPPED)
    done = inside(here, "benchmark", "--dataset", "held", "--codec", "bls2017")
    said = "the codec was trained on 2 of these 5 pictures, so this is no test"
    assert f"Cannot be said: {said}" in done.stdout
    points = pd.read_parquet(tmp_path / "home/tables/benchmark.held.points.parquet")
    learned = points[points.codec == "bls2017"]
    assert set(learned.image[learned.trained_on]) == {"1", "3"} and not points.trained_on[points.codec == "jpeg"].any()
    assert said in (tmp_path / "home/reports/held.benchmark.html").read_text()
    with inside_of(here):
        chain = open_chain()
        made = chain.make("rd_points", evaluation_key(chain.world.sweep("held.shipped").experiments[0].key, "held"))
    assert {check.name: passed for check, (passed, _) in made.held}["measured_pictures_are_unseen"] is False

    claim = tmp_path / "config/claims/guided.toml"
    claim.parent.mkdir()
    claim.write_text(CLAIM)
    refused = inside(here, "claims", "seal", str(claim), check=False)
    assert refused.returncode == 1 and "the codec was trained on 2 of the 5 pictures" in refused.stderr
    assert claim.read_text() == CLAIM
    with inside_of(here):
        claim.write_text(
            tomlkit.dumps({**tomlkit.parse(CLAIM), "sealed": inputs_of(open_chain(), read_claim(claim).claim)})
        )
    refused = inside(here, "claims", "run", str(claim), check=False)
    assert refused.returncode == 1 and "the codec was trained on 2 of the 5 pictures" in refused.stderr
    assert not claim.with_suffix(".json").exists()


def test_a_claim_is_written_down_then_run_then_held_to(pictures: Path, tmp_path: Path) -> None:
    here = settle(tmp_path, AS_SHIPPED)

    def claims(*words: str) -> tuple[int, str]:
        done = inside(here, "claims", *words, check=False)
        return done.returncode, done.stdout + done.stderr

    claim = tmp_path / "config/claims/guided.toml"
    claim.parent.mkdir()
    for wrong, said in (
        (CLAIM.replace("most", "mist"), "did you mean 'most'"),
        (CLAIM.replace("most = -1.0", ""), "needs a bound"),
        (CLAIM.replace("sw_psnr_db", "psnr"), ".metric: unknown metric 'psnr'"),
        (CLAIM.replace("uniform", "unifrom"), "did you mean 'uniform'"),
        (CLAIM.replace("held.asis", "moon.asis"), "unknown dataset 'moon'"),
    ):
        claim.write_text(wrong)
        code, printed = claims("seal", str(claim))
        assert code == 1 and said in printed, printed
    claim.write_text(CLAIM)
    code, printed = claims("run", str(claim))
    assert code == 1 and "not sealed" in printed and not claim.with_suffix(".json").exists()

    code, printed = claims("seal", str(claim))
    assert code == 0, printed
    assert "code" in claim.read_text() and claim.read_text().startswith("says = ")
    code, printed = claims("check", str(claim))
    assert code == 0 and "guided: not run" in printed and claims("run", str(claim))[0] == 0
    (record,) = json.loads(claim.with_suffix(".json").read_text())
    rates = pd.read_parquet(tmp_path / "home/tables/bd_rates.parquet").query(
        "test_arm == 'saliency_gain' and anchor_arm == 'uniform' and metric == 'sw_psnr_db' and method == 'pchip'"
    )
    assert record["bd_rate_percent"] == pytest.approx(rates.bd_rate_percent.item(), abs=1e-3)
    assert record["held"] == (rates.ci_high.item() <= -1) and record["n_images"] == 5
    word = "held" if record["held"] else "did not hold"
    code, printed = claims("check", str(claim))
    assert code == 0 and f"guided: {word}: " in printed and f"| {word} |" in claims("table")[1]
    page = (tmp_path / "home/reports/held.asis.html").read_text()
    assert "Claims, written down before the run" in page and "bls2017 needs fewer bits" in page
    code, printed = claims("seal", str(claim))
    assert code == 1 and "--anew" in printed

    kept = claim.read_text()
    claim.write_text(kept.replace("most = -1.0", "most = -0.5"))
    code, printed = claims("check", str(claim))
    assert code == 1 and "edited after its run" in printed and claims("seal", "--anew", str(claim))[0] == 1
    claim.write_text(kept)
    cv2.imwrite(str(pictures / "0.png"), scene(96, 128, 77))
    with inside_of(here):
        chain = open_chain()
        for stage in ("source_frames", "resized_frames", "saliency_maps", "rgba_frames"):
            chain.make(stage, "held")
    code, printed = claims("check", str(claim))
    assert code == 1 and "changed" in printed and claims("seal", "--anew", str(claim))[0] == 0
    code, printed = claims("check", str(claim))
    assert code == 0 and "guided: not run" in printed and "most = -1.0" in claim.read_text()
