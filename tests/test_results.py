"""The scripts in results/, each on a small state of its own."""

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from models.codecs.base import CodecConfig
from models.codecs.catalogue import build
from models.sweeps import sweep

RESULTS = Path(__file__).parents[1] / "results"


def rates() -> pd.DataFrame:
    rows = [
        {"dataset": "sample", "sweep": "trade", "codec": e.codec, "test_arm": e.arm, "maps": e.maps, "variant": e.variant,
         "anchor_arm": "uniform", "method": "pchip", "metric": metric, "bd_rate_percent": -5 * e.span, "ci_low": -21.0, "ci_high": -9.0}
        for e in sweep("trade", "sample").experiments[1:] for metric in ("ew_psnr_db", "psnr_db")
    ]  # fmt: skip
    return pd.DataFrame(rows)


def curves(mean: float) -> pd.DataFrame:
    """`uniform` on a curve of its own, `weighted_raw` at λ·mean on the same one."""
    lmbda = np.array([0.002, 0.004, 0.008, 0.016, 0.032])
    pieces = []
    for arm, factor in (("uniform", 1.0), ("weighted_raw", mean)):
        bpp = 6 * (lmbda * factor) ** 0.6
        pieces.append(
            pd.DataFrame({"arm": arm, "rate_name": "lmbda", "rate": lmbda, "bpp": bpp, "psnr_db": 30 + 5 * np.log(bpp)})
        )
    return pd.concat(pieces).assign(dataset="sample", sweep="source")


def test_each_script_prints_and_draws_what_its_tables_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FOVEA_HOME", str(tmp_path))
    monkeypatch.setenv("FOVEA_CONFIG", str(tmp_path))
    monkeypatch.setenv("MPLBACKEND", "agg")
    (tmp_path / "tables").mkdir()
    rates().to_parquet(tmp_path / "tables/bd_rates.parquet")
    curves(0.25).to_parquet(tmp_path / "tables/rd_curves.parquet")
    scripts: dict[str, dict[str, Any]] = {p.stem: runpy.run_path(str(p)) for p in RESULTS.glob("*.py")}
    assert set(scripts) == {"checkerboard", "raw_weights", "trade"}

    scripts["trade"]["main"]("sample.trade", str(tmp_path / "trade.png"))
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 + 6 and "-20.0 % [-21.0, -9.0]" in said[-1]

    raw = scripts["raw_weights"]["main"]
    monkeypatch.setitem(raw.__globals__, "mean_weight", lambda chain, key: 0.25)
    raw("sample.source", str(tmp_path / "raw.png"))
    assert "0.0080" in (said := capsys.readouterr().out) and f"{100 * (0.25**0.6 - 1):.4f}" in said
    for name in ("trade", "raw"):
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"

    torch.manual_seed(0)
    codec = build(CodecConfig(codec="bls2017", n=4, m=6, lmbda=(0.002, 0.02))).eval()
    codec.update()
    measure = scripts["checkerboard"]["checkerboard"]
    assert 0 < measure(codec) < 255
    with torch.no_grad():
        for p in codec.g_s[-1].parameters():
            p.zero_()
    assert measure(codec) == 0
