"""The committed table of results/saliency_osie.md is what the benchmark gives."""

import os
import re
from pathlib import Path

import pandas as pd
import pytest

from assets.frames.decode import read_picture
from models.saliency import benchmark
from models.saliency.predict import load_model

RESULTS = Path(__file__).resolve().parents[3] / "results" / "saliency_osie.md"
OSIE = Path(os.environ.get("FOVEA_SHARED", Path(__file__).parents[4] / "shared")) / "data" / "osie"


def committed() -> dict[str, dict[str, float]]:
    """Model → metric → mean, from the first table of the file."""
    lines = [line for line in RESULTS.read_text().splitlines() if line.startswith("| ")]
    names = [c.strip() for c in lines[0].strip("|").split("|")][1:]
    found = {}
    for line in lines[1:]:
        model, *cells = (c.strip() for c in line.strip("|").split("|"))
        if len(cells) == len(names):
            found[model] = {n: float(re.match(r"-?[\d.]+", c)[0]) for n, c in zip(names, cells, strict=True)}
    return found


def test_the_table_has_every_model_and_metric():
    table = committed()
    assert {"center_prior", "spectral_residual", "sam_lite", "sam_lite+flip", "human"} <= set(table)
    assert all(set(row) == set(benchmark.METRICS) for row in table.values())
    lite, flip = table["sam_lite"], table["sam_lite+flip"]
    # the targets of the specification, single pass and with --flip
    assert lite["cc"] >= 0.795 and lite["nss"] >= 3.17 and lite["auc_shuffled"] >= 0.860 and lite["kl"] <= 0.425
    assert flip["cc"] >= 0.81 and flip["nss"] >= 3.25 and flip["auc_shuffled"] >= 0.865 and flip["kl"] <= 0.41


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.skipif(not OSIE.is_dir(), reason=f"OSIE is not at {OSIE}")
def test_the_benchmark_gives_the_committed_numbers():
    table = pd.read_parquet(OSIE / "fixations.parquet")
    names = sorted(table["image"].unique())
    models = ["center_prior", "sam_lite", "sam_lite+flip"]
    loaded = {label: load_model(label.removesuffix("+flip"), threads=1) for label in models}
    stimuli = OSIE / "stimuli"
    scores = benchmark.score_pictures(
        loaded, lambda name: read_picture(stimuli / name), table, names[560:], train=names[:500], halves=0
    )
    means = benchmark.summarise(scores).set_index(["model", "metric"])["mean"]
    for model in models:
        for metric, value in committed()[model].items():
            assert means[model, metric] == pytest.approx(value, abs=0.002), (model, metric)
