import contextlib
import errno
import os
import shlex
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import dagster as dg
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from assets.stages import open_chain
from pipelines import launch, schedules
from pipelines.cli import main
from pipelines.commands import runs
from pipelines.plan import Outcome, Step


def test_a_run_with_nothing_to_do_sends_what_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = mock.Mock()
    monkeypatch.setattr("pipelines.plan.stale", lambda *_, **__: [])
    assert runs.make_stale(chain, "drawn.tiny", []) == 0
    chain.tracker.flush.assert_called_once_with()


@pytest.mark.parametrize(("left", "count"), [(9, 8), (3, 3), (1, 1)])
def test_a_training_s_share_of_the_cores_is_that_of_what_was_asked_for(
    left: int, count: int, installation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[dict[str, int]] = []

    class Counted(contextlib.nullcontext[Any]):
        def __init__(self, count: int, **asked: Any) -> None:
            super().__init__()
            self.count, self.make = count, None
            started.append({"count": count, "share": asked["share"]})

    def told(chain: Any, *_: object, threads: int, parallel: int, steps: int, **__: object) -> Outcome:
        instance: Any = None
        with launch.carriers(chain, instance, None, threads, parallel, "id", steps):
            return Outcome()

    monkeypatch.setattr("pipelines.plan.plan", lambda *_: [Step("trained_codec", str(i), "stale") for i in range(left)])
    monkeypatch.setattr("pipelines.instance.prepare_instance", lambda _: None)
    monkeypatch.setattr(launch, "Workers", Counted)
    monkeypatch.setattr(launch, "run_targets", told)
    chain = open_chain(threads=16)
    assert runs.make_stale(chain, "drawn.tiny", [], parallel=8) == 0 and started == [{"count": count, "share": 2}]


@pytest.mark.parametrize("problems", [(), ("resized_frames cityscapes: full",)])
def test_what_the_weekly_look_makes_is_told_at_once(
    problems: tuple[str, ...], installation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = mock.Mock()
    monkeypatch.setattr("pipelines.schedules.fetch", lambda *_, **__: None)
    monkeypatch.setattr("pipelines.schedules.tracked_chain", lambda home: chain)
    monkeypatch.setattr("pipelines.schedules.run_targets", lambda *_, **__: Outcome(messages=problems))
    ends = pytest.raises(dg.Failure, match="full") if problems else contextlib.nullcontext()
    with dg.DagsterInstance.ephemeral() as instance, ends:
        schedules.bring_change(dg.build_op_context(instance=instance))
    chain.tracker.flush.assert_called_once_with()


@pytest.fixture
def few_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """A base's made pictures need a map each."""
    for kind in ("PLAIN", "STARK"):
        monkeypatch.setattr(f"assets.training.bases.{kind}", 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("ui --port 3000 --mlflow-port 3000", "two servers need two ports"),
        ("run --device cuda", "--device cuda: torch sees no GPU here"),
        ("run --device gpu", "--device gpu: not a device"),
        ("benchmark --dataset sample --device cuda:9", "--device cuda:9: "),
        ("run --dataset sampel", "did you mean 'sample'"),
        ("run --dataset moon", "unknown dataset 'moon'"),
        ("run --sweep smok", "did you mean 'smoke'"),
        ("run --sweep everything", "unknown sweep 'everything'; known: smoke, shipped, maps, game, "),
        ("train nonsense", "no sweep has an experiment 'nonsense'"),
        ("train nonsense --device toaster", "--device toaster: not a device"),
        ("benchmark --codec ligt", "did you mean 'light'"),
        ("benchmark --peers jpg", "--peers jpg: sample is measured with jpeg"),
        ("datasets remove sampel", "unknown dataset 'sampel'"),
        ("datasets add void /nonexistent/folder", "/nonexistent/folder"),
        ("datasets add sample .", "sample"),
        ("decompress /nonexistent.fov -o x.png", "/nonexistent.fov"),
        ("decompress /nonexistent.fov -o x.jpg", "no such file: /nonexistent.fov"),
        ("decompress a.png -o x.jpg", "ends in .png"),
        ("compress /nonexistent.png -o x.fov", "/nonexistent.png"),
        ("compress /nonexistent.png -o x.fov --lmbda nan", "--lmbda"),
        ("compress a.png -o x.png", "ends in .fov"),
        ("compress a.png a.png -o two.fov", "two.fov has the name of a file: several results need a folder; name one"),
        ("compress . -o two.jpg", "a JPEG is made of one picture"),
        ("decompress a.png a.png -o two.png", "two.png has the name of a file"),
        ("decompress a.png --frames two.png", "two.png has the name of a file"),
        ("saliency a.png . -o two.png", "two.png has the name of a file"),
        ("curves export sample.smoke -o curves.json", "name a folder for them"),
        ("compress a.png -o a.fov --model ligt", "did you mean 'light'"),
        ("saliency a.png -o b.png --model sam_light", "did you mean 'sam_lite'"),
        ("evaluate a.pth b.pth --codec mbt2018 --dataset sample --quality 1", "2 checkpoints and 1 --quality"),
        ("evaluate a.pth --codec mbt2018 --dataset sample", "did you mean 'mbt2018_mean'"),
        ("base ligt --pictures . --steps 1 -o out", "did you mean 'light'"),
        ("base light --pictures . --begin ligt --steps 1 -o out", "did you mean 'light'"),
        ("base light --pictures . --device cuda --steps 1 -o out", "torch sees no GPU here"),
        ("benchmark --span 3", "--span goes with --cuts"),
        ("benchmark --cuts --peers webp", "--judge and --peers do not go with --cuts"),
        ("benchmark --cuts --judge vmaf", "--judge and --peers do not go with --cuts"),
        ("compress a.png -o b.jpg --effort 10", "of .fov files"),
        ("compress a.png -o b.jpg --progressive", "of .fov files"),
        ("compress a.png -o b.jpg --model mbt2018_mean", "of .fov files"),
        ("compress a.png a.png -o b.jpg", "b.jpg"),
        ("compress a.png -o b.txt", "or one .jpg"),
    ],
)
def test_what_cannot_be_is_refused_by_name_before_anything_is_made(
    installation: Path, monkeypatch: pytest.MonkeyPatch, words: str, said: str
) -> None:
    monkeypatch.chdir(installation)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save("a.png")
    done = CliRunner().invoke(main, words.split())
    assert said in done.output, done.output
    assert done.exit_code == 1 and len(done.output.splitlines()) <= 2, done.output
    assert not isinstance(done.exception, Exception), done.exception
    assert not (installation / "home" / "data").exists()
    assert {p.name for p in installation.iterdir() if p.is_file()} <= {"a.png", "fovea.toml.lock"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--nope", "no such option '--nope'; for help: fovea --help"),
        ("compres a.png", "no such command 'compres'. (Did you mean one of: 'compare', 'compress', 'decompress'?); for help: fovea --help"),
        ("compress -o a.fov", "missing argument 'IMAGES...'; for help: fovea compress --help"),
        ("compress a.png -o a.fov --effort -1", "invalid value for '--effort': -1 is not in the range x>=0; for help: fovea compress --help"),
        ("saliency-weights fetch", "missing argument '{sam_vgg|sam_resnet}'. Choose from: sam_vgg, sam_resnet; for help: fovea saliency-weights fetch --help"),
        ("study make --arms a,b --tolerance nan", "invalid value for '--tolerance': 'nan' is not a finite number; for help: fovea study make --help"),
        ("compress a.png -o a.fov --span nan", "invalid value for '--span': 'nan' is not a finite number; for help: fovea compress --help"),
        ("base light --pictures . --steps 1 -o out --lr inf", "invalid value for '--lr': 'inf' is not a finite number; for help: fovea base --help"),
        ("compress '' -o a.fov", "invalid value for 'IMAGES...': the name is empty; for help: fovea compress --help"),
        ("compress a.png -o ''", "invalid value for '-o' / '--output': the name is empty; for help: fovea compress --help"),
        ("evaluate", "missing argument 'CHECKPOINTS...'; for help: fovea evaluate --help"),
        ("ui --port 70000", "invalid value for '--port': 70000 is not in the range 1<=x<=65535; for help: fovea ui --help"),
    ],
)  # fmt: skip
def test_words_that_no_command_takes_are_told_in_a_line(installation: Path, words: str, said: str) -> None:
    done = CliRunner().invoke(main, shlex.split(words), prog_name="fovea")
    assert (done.exit_code, done.stderr) == (2, f"fovea: {said}\n")
    assert "[x<=None]" not in CliRunner().invoke(main, [words.split()[0], "--help"]).output


def test_a_full_disk_is_told_with_advice_that_fits(
    installation: Path, few_made: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    full = mock.Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(folder / "a.png")
    cases: list[tuple[str, str, list[str], str]] = [
        ("pathlib.Path.write_text", "set FOVEA_CONFIG to a larger disk", ["datasets", "add", "x", str(folder)], "fovea.toml"),
        ("pathlib.Path.write_bytes", "let -o name a larger disk",
         ["saliency", str(folder), "-o", str(tmp_path / "out"), "--model", "center_prior"], "a.png"),
        ("assets.training.bases.train_base", "write to a larger disk",
         ["base", "light", "--pictures", str(folder), "--steps", "1", "-o", str(tmp_path / "b")], "No space left"),
    ]  # fmt: skip
    for what, way, words, named in cases:
        with monkeypatch.context() as patched:
            patched.setattr(what, full)
            done = CliRunner().invoke(main, words)
        assert done.exit_code == 1 and way in done.output and named in done.output, done.output
    # a database says it in words of its own, behind those of the libraries that use it
    error = RuntimeError("(sqlite3.OperationalError) …")
    error.__cause__ = sqlite3.OperationalError("database or disk is full")
    monkeypatch.setattr("pipelines.commands.runs.make_stale", mock.Mock(side_effect=error))
    done = CliRunner().invoke(main, ["run", "--dataset", "sample", "--frames-only"])
    assert (
        done.exit_code == 1 and "a database of FOVEA_HOME cannot be used: database or disk is full. Is" in done.output
    )


@pytest.mark.parametrize("command", ["run", "status"])
def test_a_rate_that_a_trunk_does_not_know_is_refused_before_anything_is_made(installation: Path, command: str) -> None:
    words = 'codecs = ["bls2017"]\narms = ["uniform", "saliency_gain"]\npreset = "smoke"\nrates = [0.0016, 0.1]\n'
    sweep = f'[sweeps.mine]\nabout = "one more rate"\n{words}'
    (installation / "fovea.toml").write_text(f'{sweep}trunk = "shipped"\n')
    done = CliRunner().invoke(main, [command, "--sweep", "mine"])
    assert done.exit_code == 1 and not (installation / "home/data").exists()
    assert "bls2017 cannot have rate 0.1: the trunk shipped-bls2017" in done.output
    assert "was trained for 0.0008 … 0.0512" in done.output
    way = 'trunk = "none" and variable = true'
    assert way in done.output
    (installation / "fovea.toml").write_text(sweep + way.replace(" and ", "\n"))
    done = CliRunner().invoke(main, ["status", "--sweep", "mine", "--keys"])
    assert done.exit_code == 0 and len(done.output.splitlines()) == 2
    (installation / "fovea.toml").write_text(sweep)
    done = CliRunner().invoke(main, [command, "--sweep", "mine"])
    assert done.exit_code == 1 and "(variable = true in a sweep)" in done.output


@pytest.mark.parametrize("group", ["datasets", "curves", "claims", "study", "profile", "saliency-weights"])
def test_help_of_a_group_is_not_cut(group: str) -> None:
    said = CliRunner().invoke(main, [group, "--help"]).output
    assert "Commands:" in said and "..." not in said.partition("Commands:")[2]


def test_units_that_are_stale_for_one_reason_share_a_line(installation: Path) -> None:
    short, long = (CliRunner().invoke(main, ["status", *more]).output.splitlines() for more in ([], ["--all"]))
    assert short[-1] == long[-1] == f"sample.smoke: {len(long) - 1} of {len(long) - 1} units are stale"
    (line,) = [line for line in short if line.startswith("stale  rd_points ")]
    own = [line for line in long if line.startswith("stale  rd_points ")]
    first, _, why = own[0].partition(": ")
    assert line == f"{first} and {len(own) - 1} more: {why}" and len(own) == 15


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("words", [["--help"], ["datasets", "list"]])
def test_output_that_cannot_be_written_is_one_line(installation: Path, words: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "pipelines.cli", *words], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1 and done.stderr.startswith("fovea: ") and len(done.stderr.splitlines()) == 1
    command = shlex.join([sys.executable, "-m", "pipelines.cli", *words])
    closed = subprocess.run(["bash", "-c", f"{command} >&- 2>{installation}/said"])
    assert closed.returncode == 0 and (installation / "said").read_text() == ""


def test_a_saliency_model_without_eyes_is_refused_before_anything_is_made(installation: Path) -> None:
    for grey, split in enumerate(("train", "test")):
        (installation / "pictures" / split).mkdir(parents=True)
        Image.fromarray(np.full((32, 32, 3), grey, np.uint8)).save(installation / "pictures" / split / "a.png")
    x, street = (f'[datasets.{name}]\npath = "{installation}/pictures"\n' for name in ("x", "street"))
    (installation / "fovea.toml").write_text(f'{x}saliency = "y.sam_lite"\n{street}')
    for words, said in (
        ("run --dataset x", "saliency model y.sam_lite: unknown dataset 'y'"),
        ("slurm --dataset x --sweep tiny", "saliency model y.sam_lite: unknown dataset 'y'"),
        ("train street.sam_lite", "saliency model street.sam_lite: dataset 'street' has no fixation table"),
    ):
        done = CliRunner().invoke(main, words.split())
        assert done.exit_code == 1 and said in done.output and done.output.count("\n") == 1, done.output
        assert not (installation / "home" / "data").exists()
