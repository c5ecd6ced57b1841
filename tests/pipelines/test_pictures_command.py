from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from pipelines.cli import main


@pytest.mark.parametrize(
    "words, saliency, maps",
    [
        ([], None, None),
        (["--saliency"], True, None),
        (["--no-saliency"], False, None),
        (["--map", "map.png"], None, "map.png"),
    ],
)
def test_what_compress_is_told_about_maps(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    saliency: bool | None,
    maps: str | None,
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
    assert told["use_saliency"] is saliency
    assert told["maps"] == (Path(maps) if maps else None)
