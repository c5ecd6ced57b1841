from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from pipelines.cli import main


@pytest.fixture
def pictures(installation: Path) -> Path:
    folder = installation / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for k in range(4):
        Image.fromarray(rng.integers(0, 256, (64, 80, 3), dtype=np.uint8)).save(folder / f"{k}.png")
    rows = [f"{k}.png,0,{x},30" for k in range(4) for x in (10, 40)]
    (installation / "eyes.csv").write_text("image,subject,x,y\n" + "\n".join(rows) + "\n")
    return folder


def added(pictures: Path, *more: str) -> tuple[int, str]:
    eyes = str(pictures.parent / "eyes.csv")
    done = CliRunner().invoke(main, ["datasets", "add", "some", str(pictures), "--fixations", eyes, *more])
    return done.exit_code, done.output + str(done.exception or "")


def test_fixations_on_pictures_that_the_splits_leave_out_are_counted(pictures: Path) -> None:
    code, said = added(pictures, "--splits", "2/1/0")
    assert code == 0, said
    assert "fixations: 6 of 1 people on 3 pictures; 2 on pictures that are not in the dataset" in said
    shown = CliRunner().invoke(main, ["datasets", "show", "some"])
    assert shown.exit_code == 0 and "2 on pictures that are not in the dataset" in shown.output


def test_fixations_on_unknown_pictures_are_refused(pictures: Path) -> None:
    with (pictures.parent / "eyes.csv").open("a") as file:
        file.write("elsewhere.png,0,5,5\n")
    code, said = added(pictures, "--splits", "2/1/1")
    assert code != 0 and "elsewhere.png" in said
