"""The shared pictures through registry, manifest, resizing and fixation maps."""

import os
from pathlib import Path

import numpy as np
import pytest

from assets.datasets import add_dataset, load_registry
from assets.frames.decode import read_picture
from assets.frames.manifest import scan
from assets.frames.resize import resize
from assets.saliency.fixations import frame_fixation_maps, read_fixations

DATA = Path(os.environ.get("FOVEA_SHARED", Path(__file__).parents[4] / "shared")) / "data"
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no shared pictures in {DATA} (FOVEA_SHARED)"),
]


def test_camvid_has_its_folders_as_splits_and_is_measured_on_val(tmp_path: Path) -> None:
    add_dataset(tmp_path, "camvid", DATA / "camvid")
    dataset = load_registry(tmp_path)["camvid"]
    table = scan(dataset, tmp_path / "cache")
    assert (table["status"] == "ok").all() and dict(table["split"].value_counts()) == {"train": 367, "val": 101}
    assert dataset.evaluation_split(table) == "val"
    for path in table["path"][::60]:
        assert resize(read_picture(path), dataset.size).shape == (360, 480, 3)


def test_osie_with_its_fixations(tmp_path: Path) -> None:
    add_dataset(
        tmp_path, "osie", DATA / "osie" / "stimuli",
        splits="500/60/140", fixations=DATA / "osie" / "fixations.parquet", size="512x256",
    )  # fmt: skip
    dataset = load_registry(tmp_path)["osie"]
    table = scan(dataset)
    assert dict(table["split"].value_counts()) == {"train": 500, "val": 60, "test": 140}
    assert dataset.fixations is not None
    read = read_fixations(dataset.fixations, table)
    assert (len(read.table), read.why()) == (98321, "")
    test = table[table["split"] == dataset.evaluation_split(table)]
    maps = frame_fixation_maps(dataset, test.iloc[:10], [(256, 512)] * 10)
    for density in maps:
        assert density is not None
        # People look at the middle of photographs more than at their borders.
        assert density[64:192, 128:384].sum() > 0.25 and np.isclose(density.sum(), 1, atol=1e-4)
