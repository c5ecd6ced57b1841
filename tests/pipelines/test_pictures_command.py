import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from pipelines.cli import main


@pytest.mark.parametrize(
    "words, guide, effort",
    [
        ([], (False, None), 0),
        (["--uniform", "--effort", "20"], (True, None), 20),
        (["--map", "map.png"], (False, Path("map.png")), 0),
    ],
)
def test_what_compress_is_told_about_maps_and_effort(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    guide: tuple[bool, Path | None],
    effort: int,
) -> None:
    told: dict[str, Any] = {}

    def compress_files(work: Any, codec: Any, **rest: Any) -> list[Any]:
        told.update(rest)
        return []

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("assets.evaluation.code_files.compress_files", compress_files)
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save("a.png")
    done = CliRunner().invoke(main, ["compress", "a.png", "-o", "a.fov", *words])
    assert done.exit_code == 0, done.output
    assert told["guide"] == guide and told["effort"] == effort


@pytest.mark.parametrize(
    "command", [["compress", "no.png", "-o", "a.fov"], ["decompress", "no.fov", "-o", "a.png"]]
)
def test_a_missing_file_is_refused_before_torch_is_loaded(tmp_path: Path, command: list[str]) -> None:
    script = (
        "import sys\nfrom pipelines.cli import main\n"
        f"try:\n    main({command!r})\nexcept SystemExit as end:\n    print(end.code, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.stdout.split() == ["1", "False"] and "no such file: no." in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a.png", "-o", "b.jpg", "--effort", "10"], "of .fov files"),
        (["a.png", "a.png", "-o", "b.jpg"], "b.jpg"),
        (["a.png", "-o", "b.txt"], "or one .jpg"),
    ],
)
def test_a_jpeg_is_made_of_one_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save("a.png")
    done = CliRunner().invoke(main, ["compress", *words])
    assert done.exit_code == 1 and said in done.output and not Path("b.jpg").exists()


def test_a_model_that_is_not_there_is_named_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
