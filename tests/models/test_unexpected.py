from pathlib import Path

import pytest
import torch

from models.errors import FoveaError
from models.losses import ms_ssim
from models.unexpected import described


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("\nundefined_thing", "NameError in codecs/mine.py, line 2: name 'undefined_thing' is not defined"),
        ("raise RuntimeError('two\\nlines')", "RuntimeError in codecs/mine.py, line 1: two lines"),
        ("assert False", "AssertionError in codecs/mine.py, line 1"),
        ("ms_ssim(x, x[..., :99])", "RuntimeError in models/losses.py, line "),
        ("raise FoveaError('rate: too high')", "rate: too high"),
    ],
)
def test_an_error_is_told_in_a_line_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, said: str
) -> None:
    monkeypatch.setenv("FOVEA_CONFIG", str(tmp_path))
    names = {"FoveaError": FoveaError, "ms_ssim": ms_ssim, "x": torch.zeros(1, 3, 200, 200)}
    with pytest.raises((NameError, RuntimeError, AssertionError, ValueError)) as caught:
        exec(compile(code, str(tmp_path / "codecs" / "mine.py"), "exec"), names)
    found = described(caught.value)
    assert found.startswith(said) and "\n" not in found
