"""What a plan costs: units and frames, not units times frames."""

from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner

import assets.chain
import assets.frames.stages
import assets.graph
import assets.saliency.sources
import assets.saliency.stages
from assets.frames.stages import SourceFrames
from assets.stages import open_chain
from pipelines.cli import main

FRAMES = 5000


def made_table(view: Any) -> pd.DataFrame:
    """A manifest of frames that nobody has to draw."""
    splits = ["train"] * 3500 + ["val"] * 500 + ["test"] * 1000
    names = [f"picture{i:04}" for i in range(FRAMES)]
    table = pd.DataFrame({"image": names, "split": splits, "sha256": [f"{i:064x}" for i in range(FRAMES)]})
    return table.assign(path=names, width=64, height=48, bytes=1, status="ok", reason="")


def test_status_hashes_each_frame_once_for_array_map_and_png(
    installation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (installation / "fovea.toml").write_text('[datasets.made]\npath = "."\n')
    monkeypatch.setattr(SourceFrames, "_table", lambda self, view: made_table(view))
    calls: Counter[str] = Counter()
    plain = assets.graph.digest
    frames, saliency = assets.frames, assets.saliency
    modules = (assets.graph, assets.chain, frames.stages, saliency.sources, saliency.stages)

    def counting(name: str) -> Any:
        def digest(value: Any) -> str:
            kind = "frame" if isinstance(value, dict) and {"source", "frame"} & set(value) else "other"
            calls[f"{name} {kind}"] += 1
            return plain(value)

        return digest

    for module in modules:
        monkeypatch.setattr(module, "digest", counting(module.__name__))
    done = CliRunner().invoke(main, ["status", "--dataset", "made", "--sweep", "seed"])
    assert done.exit_code == 2, done.output
    units = len(open_chain().upstream(("report", "made.seed")))
    stale = any(f"{count} of {units} units are stale" in done.output for count in (units - 3, units))
    assert units > 50 and stale, done.output
    once = ("frames.stages", "saliency.sources", "saliency.stages")
    hashed = {k: n for k, n in calls.items() if k.endswith("frame")}
    assert hashed == {f"assets.{name} frame": FRAMES for name in once}
    assert sum(n for k, n in calls.items() if k.endswith("other")) < 10 * units
