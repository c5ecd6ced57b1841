import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import fovea
from assets.evaluation.code_files import Guide
from assets.frames.decode import read_picture
from assets.stages import open_chain
from models.codecs import bitstream
from models.codecs.bitstream import Contents, pack
from pipelines.cli import main


def test_what_compress_is_told_about_maps_and_effort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = mock.Mock(return_value=[])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("assets.evaluation.code_files.compress_files", told)
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save("a.png")
    for words, guide, effort in (
        ([], Guide(False, None), 0),
        (["--uniform", "--effort", "20"], Guide(True, None), 20),
        (["--map", "map.png"], Guide(False, Path("map.png")), 0),
    ):
        done = CliRunner().invoke(main, ["compress", "a.png", "-o", "a.fov", *words])
        assert done.exit_code == 0, done.output
        assert (told.call_args.kwargs["guide"], told.call_args.kwargs["effort"]) == (guide, effort)


SCRIPT = """
import sys
from pipelines.cli import main
for words in sys.argv[1:]:
    try:
        main(words.split())
    except SystemExit as end:
        print(end.code, "torch" in sys.modules)
"""


def test_torch_is_loaded_neither_to_cut_nor_to_miss_a_file(tmp_path: Path) -> None:
    whole = pack(Contents("light", b"8 bytes.", 40, 30, 3, (b"", b"", b"z", b"", bytes(400)), total=400))
    (tmp_path / "a.fov").write_bytes(whole)
    missing = ("compress no.png -o a.fov", "decompress no.fov -o a.png", "cut no.fov --bytes 9 -o a.fov")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *missing, "cut a.fov --bytes 200 -o b.fov"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    codes = [line for line in done.stdout.splitlines() if line.endswith(("True", "False"))]
    assert codes == [*["1 False"] * 3, "0 False"], done.stderr
    assert done.stderr.count("no such file: no.") == 3 and 196 <= (tmp_path / "b.fov").stat().st_size <= 200


@pytest.mark.parametrize(
    "words",
    ["decompress pipe.fov -o b.png", "decompress pipe.fov --frames out", "cut pipe.fov --bytes 30 -o b.fov", "compress pipe.fov -o b.fov",
     "curves import pipe.csv --dataset sample", "curves import pipe.json --dataset sample", "study import pipe.json",
     "claims seal pipe.json", "datasets list"],
)  # fmt: skip
def test_a_pipe_in_the_place_of_a_file_is_refused(
    installation: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    """It would be waited for without end."""
    monkeypatch.chdir(installation)
    for name in ("pipe.fov", "pipe.csv", "pipe.json", *(["fovea.toml"] if words == "datasets list" else [])):
        os.mkfifo(name)
    done = CliRunner().invoke(main, words.split())
    assert done.exit_code == 1 and "pipe" in done.output and len(done.output.splitlines()) == 1, done.output


def test_names_of_files_cannot_steer_the_terminal(installation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(installation)
    name = os.fsdecode(b"a\x1b[31m\n\xe2\x80\xaecaf\xe9")
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(f"{name}.png")
    for words, shown in ((["saliency", f"{name}.png", "-o", f"{name}.map.png"], "map.png"), (["compress", "no" + name, "-o", "a.fov"], "")):  # fmt: skip
        done = CliRunner().invoke(main, words)
        assert (
            f"a\\x1b[31m{'' if not shown else chr(92) + 'x0a'}" in done.output and "\\u202ecaf\\xe9" in done.output
        ), done.output
        assert "\x1b" not in done.output and shown in done.output


def test_a_model_that_is_not_there_is_named_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FOVEA_HOME", "FOVEA_CONFIG"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save("a.png")
    keys = CliRunner().invoke(main, ["status", "--keys"]).output.split()
    for model, said in (
        ("lihgt", "give an experiment's key (fovea status --keys)"),
        (keys[0], f"{keys[0]} is not trained, or is stale: fovea train {keys[0]}"),
        ("models:/fovea", "models:/NAME/VERSION"),
    ):
        done = CliRunner().invoke(main, ["compress", "a.png", "-o", "a.fov", "--model", model])
        assert done.exit_code == 1 and said in done.output, done.output
        assert not Path("a.fov").exists()


def test_a_codec_that_the_doctor_found_unfit_is_used_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FOVEA_HOME", "FOVEA_CONFIG"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save("a.png")
    chain = open_chain()
    key = next(e.key for e in chain.world.sweeps["sample.smoke"].experiments if e.untrained)
    chain.make("trunk_codec", chain.world.experiment(key).trunk.key)
    unit = chain.make("trained_codec", key).folder
    command = ["compress", "a.png", "-o", "a.fov", "--uniform", "--model"]
    for passed, said in ((True, ""), (False, "is not fit to be used: codec doctor failed: rate\n")):
        (unit / "doctor.json").write_text(json.dumps([{"name": "rate", "passed": passed}]))
        for model in (key, str(unit), str(unit / "codec")):
            done = CliRunner().invoke(main, [*command, model])
            assert done.exit_code == 0 and Path("a.fov").exists()
            assert done.stderr == (f"{model} {said}" if said else ""), done.stderr
    with pytest.warns(UserWarning, match="codec doctor failed: rate"):
        fovea.load(unit)


def test_a_picture_too_large_for_a_file_is_read_and_refused_by_name_before_it_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("assets.evaluation.code_files.predicted_map", lambda: pytest.fail)
    Image.new("1", (8200, 8193)).save("large.png")
    assert read_picture(Path("large.png")).shape == (8193, 8200, 3)
    said = (
        "large.png: 8200×8193 is too large for a .fov file, which has at most 67108864 pixels and sides of 65536: "
        "make it smaller, or cut it in parts"
    )
    done = CliRunner().invoke(main, ["compress", "large.png", "-o", "a.fov"])
    assert done.exit_code == 1 and said in done.output, done.output
    for picture, name in (("large.png", "large.png"), (np.zeros((8193, 8200, 3), np.uint8), "the picture")):
        with pytest.raises(fovea.FoveaError, match=f"^{name}: 8200×8193 is too large"):
            fovea.compress(picture)


def test_damaged_and_broken_files_and_files_that_are_small_enough_are_cut_and_shown_as_far_as_they_are_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    picture = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    data = fovea.compress(picture, progressive=True, saliency=False)
    size, least = len(data), bitstream.first_part(data)
    piece = least + 2 * 514
    for name, held in (
        ("a", data),
        ("broken", data[: piece + 300]),
        ("damaged", data[: piece + 9] + bytes([data[piece + 9] ^ 1]) + data[piece + 10 :]),
    ):
        Path(f"{name}.fov").write_bytes(held)

    def said(*words: str, code: int = 0) -> str:
        done = CliRunner().invoke(main, words)
        assert done.exit_code == code, done.output
        return done.output.strip()

    for _ in range(2):  # the second time over what the first wrote
        assert said("cut", "a.fov", "--bpp", "99", "-o", "copy.fov").endswith(" bpp: a.fov as it is, which has no more")
        assert Path("copy.fov").read_bytes() == data
    said("cut", "broken.fov", "--bytes", "99999", "-o", "copy.fov", code=1)
    left_out = f"has {piece} bytes that are checked and right, what follows them is left out"
    for name in ("broken", "damaged"):
        assert f": {name}.fov {left_out}" in said("cut", f"{name}.fov", "--bytes", f"{piece + 200}", "-o", "right.fov")
        assert Path("right.fov").read_bytes() == bitstream.cut(data[: piece + 300], piece + 200)
    assert left_out not in said("cut", "damaged.fov", "--bytes", f"{piece - 90}", "-o", "right.fov")
    assert f"--bytes {piece}" in said("cut", "damaged.fov", "--bytes", "99999", "-o", "right.fov", code=1)

    assert f"--bytes {piece}" in said("decompress", "damaged.fov", "-o", "a.png", code=1)
    for name in ("a", "damaged"):
        assert f"from {piece} of {size} bytes" in said(
            "decompress", f"{name}.fov", "--bytes", str(piece), "-o", f"{name}.png"
        )
    assert Path("a.png").read_bytes() == Path("damaged.png").read_bytes()
    assert f"from {piece} of" in said("decompress", "damaged.fov", "--bytes", f"{piece + 90}", "-o", "a.png")
    assert "damaged file: changed among its bytes" in said("decompress", "damaged.fov", "--frames", "frames", code=1)
    said("decompress", "a.fov", "--frames", "all")
    right = {p.name[1:]: p.read_bytes() for p in Path("all").iterdir() if int(p.name.split(".")[1]) <= piece}
    frames = {p.name.removeprefix("damaged"): p.read_bytes() for p in Path("frames").iterdir()}
    assert len(right) > 1 and right.items() <= frames.items() and max(frames) <= f".{piece:07}.png"


def test_a_progressive_file_is_cut_and_shown_as_it_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)).save("a.png")

    def fovea(*words: str, code: int = 0) -> str:
        done = CliRunner().invoke(main, words)
        assert done.exit_code == code and (code == 0 or done.output.count("\n") == 1), done.output
        return done.output

    assert " dB where people look, " in fovea("compress", "a.png", "-o", "a.fov", "--progressive", "--uniform")
    size = Path("a.fov").stat().st_size
    assert fovea("decompress", "a.fov", "-o", "a.fov.png").strip().endswith("96×64")
    fovea("cut", "a.fov", "--bpp", "1.0", "-o", "small.fov")
    Path("whole.fov").write_bytes(Path("a.fov").read_bytes())
    assert "whole.fov is there and whole" in fovea("cut", "a.fov", "--bytes", "600", "-o", "whole.fov", code=1)
    assert Path("whole.fov").read_bytes() == Path("a.fov").read_bytes()
    Path("whole.fov").write_bytes(Path("a.fov").read_bytes()[:-1] + b"?")  # damaged: nothing is lost with it
    fovea("cut", "a.fov", "--bytes", "600", "-o", "whole.fov")
    assert 762 <= Path("small.fov").stat().st_size <= 768
    said = fovea("decompress", "small.fov", "-o", "small.png")
    parts = said.split()[-4:]
    assert int(parts[0]) == Path("small.fov").stat().st_size and int(parts[2]) == size
    assert f"from 600 of {size} bytes" in fovea("decompress", "a.fov", "--bytes", "600", "-o", "part.png")
    fovea("decompress", "a.fov", "--frames", "frames")
    frames = sorted(Path("frames").iterdir())
    assert len(frames) > 2 and frames[-1].name == f"a.{size:07}.png"
    assert frames[-1].read_bytes() == Path("a.fov.png").read_bytes()
    Path("in/below").mkdir(parents=True)
    for copy in ("in/a.fov", "in/below/a.fov"):
        Path(copy).write_bytes(Path("a.fov").read_bytes())
    assert "would both be written" in fovea("decompress", "in/a.fov", "in/below/a.fov", "--frames", "both", code=1)
    fovea("decompress", "in", "--frames", "both")
    assert len(list(Path("both").glob("*.png"))) == len(list(Path("both/below").iterdir())) == len(frames)
    Path("in/bad.fov").write_bytes(Path("a.fov").read_bytes()[:30])
    done = CliRunner().invoke(main, ["decompress", "in", "--frames", "again"])
    assert done.exit_code == 1 and "in/bad.fov: damaged file" in done.output
    assert len(list(Path("again").glob("*.png"))) == len(frames)
    Path("in/bad.fov").unlink()
    assert "in is a folder" in fovea("cut", "in", "--bytes", "600", "-o", "b.fov", code=1)
    assert "bpp 1e+308" in fovea("cut", "a.fov", "--bpp", "1e308", "-o", "b.fov", code=1)
    assert "begins with" in fovea("cut", "a.fov", "--bytes", "20", "-o", "b.fov", code=1)
    assert "either as --bytes or as --bpp" in fovea("cut", "a.fov", "-o", "b.fov", code=1)
    assert "--frames" in fovea("decompress", "a.fov", code=1)
    fovea("compress", "a.png", "-o", "plain.fov", "--uniform")
    for command in (["cut", "plain.fov", "-o", "b.fov"], ["decompress", "plain.fov", "-o", "b.png"]):
        assert "not a progressive file" in fovea(*command, "--bytes", "300", code=1)
    Path("a.fov").write_bytes(Path("a.fov").read_bytes().replace(b"FOV\2", b"FOV\2\x09", 1))
    assert "a.fov: damaged file" in fovea("decompress", "a.fov", "-o", "a.fov.png", code=1)
    Path("in/b.fov").write_bytes(Path("a.fov").read_bytes())
    done = CliRunner().invoke(main, ["decompress", "a.fov", "in/b.fov", "-o", "many"])
    assert done.exit_code == 1 and "2 of 2 files could not be done (above); nothing is written" in done.output
