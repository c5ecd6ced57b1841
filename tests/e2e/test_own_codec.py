"""A codec of one's own, from two files in FOVEA_CONFIG to a report with its curve, without touching the package."""

import hashlib
import shutil
from pathlib import Path

import pandas as pd
import pytest
from commands import ROOT, environment, fovea

pytestmark = [pytest.mark.e2e]
TOY = Path(__file__).parent / "toy"
SMALL = """
[datasets.sample]
counts = { train = 4, val = 1, test = 2 }
size = "256x128"
classical = ["jpeg"]
"""


def package() -> dict[str, str]:
    files = (p for f in ("models", "assets", "pipelines") for p in (ROOT / f).rglob("*") if p.is_file())
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files if "__pycache__" not in p.parts}


def test_two_files_make_a_codec_with_a_curve_in_the_report(tmp_path: Path) -> None:
    before, here = package(), environment(tmp_path)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(TOY, tmp_path / "config", ignore=ignored, dirs_exist_ok=True)
    settings = tmp_path / "config" / "fovea.toml"
    settings.write_text(settings.read_text() + SMALL)

    done = fovea(here, "run", "--sweep", "toy")
    assert done.returncode == 0 and " 0 failed" in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]
    curves = pd.read_parquet(tmp_path / "home/tables/rd_curves.parquet")
    own = curves[curves.codec == "toy"]
    assert set(own.arm) == {"uniform", "saliency_gain"} and len(own) == 8
    assert (own.rate_name == "lmbda").all() and (own.bpp > 0).all() and own.psnr_db.notna().all()
    report = (tmp_path / "home/reports/sample.toy.html").read_text()
    assert "toy" in report and "saliency_gain" in report
    assert package() == before

    again = fovea(here, "run", "--sweep", "toy")
    assert "nothing to run" in again.stdout
    # a change of the file makes what it computed stale, a typo is one line that names file and field
    codec = tmp_path / "config" / "codecs" / "toy.py"
    codec.write_text(codec.read_text().replace("nn.ReLU()", "nn.LeakyReLU()"))
    stale = fovea(here, "status", "--sweep", "toy").stdout
    assert "stale  trunk_codec" in stale and "stale  resized_frames" not in stale
    codec.write_text(codec.read_text().replace("    paper=", "    papers="))
    wrong = fovea(here, "status", "--sweep", "toy")
    assert wrong.returncode == 1
    assert f"{codec}: CARD: unknown field 'papers'; did you mean 'paper'?" in wrong.stderr
    assert fovea(here, "status", "--sweep", "smoke").returncode in (0, 2)
