import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from assets.frames.decode import read_picture
from models.errors import FoveaError
from models.saliency import benchmark
from models.saliency.predict import load_model

RESULTS = Path(__file__).resolve().parents[3] / "results" / "saliency_osie.md"
OSIE = Path(os.environ.get("FOVEA_SHARED", Path(__file__).parents[4] / "shared")) / "data" / "osie"


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    pictures, rows = {}, []
    for i in range(6):
        height, width = (60, 80) if i % 2 else (48, 64)
        pictures[f"{i}.png"] = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        spot = rng.uniform(0.3, 0.7, 2) * (width, height)
        rows += [(f"{i}.png", s, *(spot + rng.normal(0, 3, 2))) for s in range(6) for _ in range(4)]
    return pictures.__getitem__, pd.DataFrame(rows, columns=["image", "subject", "x", "y"])


@pytest.fixture
def osie():
    """A picture by its name, the fixations, and the names."""
    table = pd.read_parquet(OSIE / "fixations.parquet")
    return lambda name: read_picture(OSIE / "stimuli" / name), table, sorted(table["image"].unique())


TRAIN, TEST = ["0.png", "1.png"], [f"{i}.png" for i in range(2, 6)]


def scored(data, labels, names=TEST, **words):
    models = {label: load_model(label.removesuffix("+flip"), threads=1) for label in labels}
    return benchmark.score_pictures(models, *data, names, **words)


def test_table(data):
    labels = ["center_prior", "spectral_residual", "sam_lite+flip"]
    scores = scored(data, labels, train=TRAIN, threads=2)
    summary = benchmark.summarise(scores)
    assert set(scores["image"]) == set(TEST) and len(scores) == 4 * 4 and len(summary) == 4 * len(benchmark.METRICS)
    assert (summary["ci_low"] <= summary["mean"]).all() and (summary["mean"] <= summary["ci_high"]).all()
    assert (summary["n_images"] == 4).all()
    cc = summary[summary["metric"] == "cc"].set_index("model")["mean"]
    assert cc["human"] > max(cc["center_prior"], cc["spectral_residual"])
    again = benchmark.summarise(scored(data, ["center_prior"], train=TRAIN))
    people = [found[found["model"] == "human"].reset_index(drop=True) for found in (again, summary)]
    pd.testing.assert_frame_equal(*people)
    printed = benchmark.format_table(summary)
    assert len(printed.splitlines()) == 6 and f"{cc['human']:.3f} [" in printed


def test_other_fixations_are_moved_to_the_pictures_size():
    points = {"a": np.array([[1.0, 1.0]]), "b": np.array([[0.0, 0.0], [9.5, 4.5]])}
    moved = benchmark._other_points("a", (10, 40), points, {"a": (10, 40), "b": (5, 10)})
    assert moved.tolist() == [[1.5, 0.5], [39.5, 9.5]]


def test_the_center_prior_is_fit_on_the_training_part(data):
    fitted, default = (scored(data, ["center_prior"], halves=0, train=part) for part in (TRAIN, []))
    assert not np.allclose(fitted["kl"], default["kl"])


def test_fixations_that_are_not_there(data):
    with pytest.raises(FoveaError, match="at least two"):
        scored(data, ["center_prior"], ["0.png"])
    with pytest.raises(FoveaError, match=r"9\.png .* no fixations"):
        scored(data, ["center_prior"], ["0.png", "9.png"])


@pytest.mark.data
@pytest.mark.skipif(not OSIE.is_dir(), reason=f"OSIE, pictures that no user's machine has, is not at {OSIE}")
def test_the_protocol_on_osie(osie):
    """Ten test pictures: the order that the benchmark of the whole part has."""
    picture, table, names = osie
    scores = scored((picture, table), ["center_prior", "spectral_residual", "sam_lite"], names[560::14], halves=1)
    means = scores.groupby("model")[list(benchmark.METRICS)].mean()
    order = ["center_prior", "spectral_residual", "sam_lite", "human"]
    for metric in ("cc", "sim", "nss", "auc_judd"):
        assert means.loc[order, metric].is_monotonic_increasing, metric
    assert means.loc["sam_lite", "cc"] > 0.7 and means.loc["sam_lite", "auc_shuffled"] > 0.8


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
@pytest.mark.skipif(not OSIE.is_dir(), reason=f"OSIE, pictures that no user's machine has, is not at {OSIE}")
def test_the_benchmark_gives_the_committed_numbers(osie):
    picture, table, names = osie
    models = ["center_prior", "sam_lite", "sam_lite+flip"]
    scores = scored((picture, table), models, names[560:], train=names[:500], halves=0)
    means = benchmark.summarise(scores).set_index(["model", "metric"])["mean"]
    for model in models:
        for metric, value in committed()[model].items():
            assert means[model, metric] == pytest.approx(value, abs=0.002), (model, metric)
