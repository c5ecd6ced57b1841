"""Fixations, models of them, their maps and their benchmark: whole stages on small drawn pictures."""

import dataclasses
import json
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import pandas as pd
import pytest
from upath import UPath

from assets.chain import Chain
from assets.datasets import add_dataset, load_registry
from assets.evaluation.tables import write_tables
from assets.graph import Waiting, edges
from assets.home import Home
from assets.saliency.names import chosen_model, trainings
from assets.saliency.pairs import open_pairs
from assets.saliency.sources import map_sources
from assets.stages import STAGES, open_chain
from assets.story import maps_by
from models import tracking
from models.errors import FoveaError
from models.seen import read_seen

SPLITS = {"train": 6, "val": 2, "test": 3}


class Tracker(tracking.Tracker):
    """Hands out listeners by the run's name."""

    def __init__(self) -> None:
        self.runs: dict[str, mock.Mock] = defaultdict(lambda: mock.Mock(tracking.Run(), run_id=""))

    def run(
        self, *, experiment: str, name: str, key: str, parent_key: str = "", tags: Mapping[str, str] | None = None
    ) -> Any:
        return self.runs[name]

    def told(self, name: str) -> tuple[dict[str, Any], dict[str, float]]:
        """Parameters and the last metrics of a run."""
        params = {k: v for call in self.runs[name].log_params.call_args_list for k, v in call.args[0].items()}
        rows = [row for call in self.runs[name].log_metrics.call_args_list for _, row in call.args[0]]
        return params, {k: v for row in rows for k, v in row.items()}


def draw(folder: Path, splits: dict[str, int] = SPLITS, seed: int = 0) -> None:
    """64×48 pictures with a bright spot that everybody looks at, in folders by split, and fixations.csv."""
    rng = np.random.default_rng(seed)
    rows = []
    for split, count in splits.items():
        (folder / "pictures" / split).mkdir(parents=True)
        for i in range(count):
            picture = rng.integers(60, 120, (48, 64, 3)).astype(np.uint8)
            x, y = int(rng.integers(14, 50)), int(rng.integers(12, 36))
            cv2.circle(picture, (x, y), 6, (40, 220, 250), -1)
            cv2.imwrite(str(folder / "pictures" / split / f"{split}{i}.png"), picture)
            for person in range(4):
                rows += [(f"{split}{i}.png", person, x + rng.normal(1, 2), y + rng.normal(1, 2)) for _ in range(4)]
    pd.DataFrame(rows, columns=["image", "subject", "x", "y"]).to_csv(folder / "fixations.csv", index=False)


def with_eyes(root: Path, data: UPath | None = None) -> Home:
    """A home whose dataset `eyes` is drawn."""
    draw(root)
    add_dataset(root, "eyes", root / "pictures", fixations=root / "fixations.csv")
    return Home(root / "state", root, data or UPath(root / "state" / "data"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A dataset `eyes` with fixations, and one without."""
    home = with_eyes(tmp_path_factory.mktemp("saliency"))
    add_dataset(home.config, "plain", home.config / "pictures" / "test")
    return home


def look(home: Home) -> Chain:
    return open_chain(home, tracker=Tracker(), threads=1, device="cpu")


def map_keys(chain: Chain, dataset: str) -> pd.DataFrame:
    table: pd.DataFrame = chain.given["saliency_maps", dataset].part("maps")
    return table


def out_of_fold(made: Any) -> tuple[bool, dict[str, Any]]:
    found = {check.name: check for check in STAGES["saliency_maps"].checks}
    return found["maps_are_out_of_fold"].holds(made)


def prepare(chain: Chain, *stages: str, dataset: str = "eyes") -> Any:
    made = None
    for stage in ("source_frames", "resized_frames", *stages):
        made = chain.make(stage, dataset)
    return made


KEY = "eyes.sam_lite-tiny"


@pytest.fixture(scope="module")
def trained(home: Home) -> Tracker:
    """The tiny SAM-Lite, trained on `eyes`."""
    chain = look(home)
    prepare(chain, "fixation_maps")
    chain.make("saliency_model", KEY)
    assert isinstance(chain.tracker, Tracker)
    return chain.tracker


def test_fixations_are_moved_to_the_frames(home: Home) -> None:
    chain = look(home)
    made = prepare(chain, "fixation_maps")
    assert (made.facts["pictures"], made.facts["people"], made.facts["fixations"]) == (11, 4, 176)
    assert (made.facts["pictures_train"], made.facts["pictures_val"], made.facts["pictures_test"]) == (6, 2, 3)
    pictures = pd.read_parquet(made.folder / "pictures.parquet")
    assert set(pictures.people) == {4}
    raw = pd.read_csv(home.config / "fixations.csv")
    eyes = pd.read_parquet(made.folder / "fixations.parquet")
    assert np.allclose(np.sort(eyes.x), np.sort(raw.x))  # native size: nothing moves
    assert [p.name for p in made.shown()] == ["mean_map.png", "people.png"] and chain.make("fixation_maps", "eyes").hit


def test_a_fixation_table_that_is_gone_is_named(home: Home, tmp_path: Path) -> None:
    table = tmp_path / "fixations.csv"
    shutil.copyfile(home.config / "fixations.csv", table)
    add_dataset(tmp_path, "eyes", home.config / "pictures", fixations=table)
    table.unlink()
    said = r"fixations\.csv: .*; dataset eyes has its fixations there: bring the table back"
    with pytest.raises(FoveaError, match=said):
        look(dataclasses.replace(home, config=tmp_path)).unit("fixation_maps", "eyes")


def test_a_dataset_without_fixations_says_how_to_give_it_some(home: Home) -> None:
    chain = look(home)
    with pytest.raises(FoveaError, match=r"'plain' has no fixation table.*--fixations"):
        chain.unit("fixation_maps", "plain")
    assert not any(key.startswith("plain.") for key in trainings(chain.world))
    assert "eyes.sam_lite-fold2of3" in trainings(chain.world)


def test_a_model_waits_for_the_fixations_and_a_benchmark_too(tmp_path: Path) -> None:
    chain = open_chain(with_eyes(tmp_path))
    for stage, partition in (("saliency_model", KEY), ("saliency_benchmark", "eyes")):
        with pytest.raises(Waiting, match="fixation_maps of eyes"):
            chain.unit(stage, partition)


def test_training_is_tracked_and_lists_the_pictures_it_saw(home: Home, trained: Tracker) -> None:
    chain = look(home)
    made = chain.made("saliency_model", KEY)
    params, metrics = trained.told(KEY)
    assert params["variant"] == "sam_lite" and params["threads"] == 1
    assert {"val_cc", "val_nss", "val_kl", "train_kl"} <= set(metrics)
    run = trained.runs[KEY]
    assert run.finish.call_args == mock.call()
    artifacts = {call.args[0].name for call in run.log_artifact.call_args_list}
    assert {"sam_lite.safetensors", "sam_lite.json"} <= artifacts
    assert made.facts["pictures_train"] == 6 and made.facts["epochs"] == 2
    assert [p.name for p in made.shown()] == ["training.png", "validation.png"]
    seen = read_seen(made.folder / "weights/sam_lite.safetensors")
    assert (len(seen.train), len(seen.validation)) == (6, 2) and not (home.work / made.unit.digest).exists()
    assert chain.make("saliency_model", KEY).hit


def test_training_goes_on_where_it_was_stopped(home: Home, trained: Tracker, monkeypatch: Any) -> None:
    """Another seed, so another unit: stopped after its first epoch, it does not train that one again."""
    from models.training.loop import Training
    from models.training.sam_lite import SamLiteTraining

    chain, key = look(home), "eyes.sam_lite-tiny-s3"
    save, begin = Training._save, mock.Mock(wraps=SamLiteTraining._begin)

    def save_and_stop(self: Any) -> None:
        save(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(SamLiteTraining, "_begin", lambda *given: begin(*given))
    monkeypatch.setattr(Training, "_save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        chain.make("saliency_model", key)
    assert isinstance(chain.tracker, Tracker) and chain.tracker.runs[key].finish.call_args == mock.call("FAILED")
    assert not chain.ready("saliency_model", key)
    monkeypatch.setattr(Training, "_save", save)
    chain.make("saliency_model", key)
    assert [call.args[1] for call in begin.call_args_list] == [0, 1]


def test_another_test_picture_leaves_the_model_fresh_another_fixation_in_training_does_not(
    home: Home, trained: Tracker, tmp_path: Path
) -> None:
    copy, root = with_eyes(tmp_path, UPath(home.data)), tmp_path

    def key() -> str:
        chain = look(copy)
        prepare(chain, "fixation_maps")
        return chain.unit("saliency_model", KEY).digest

    first = look(home).unit("saliency_model", KEY).digest
    assert key() == first
    table = pd.read_csv(root / "fixations.csv")
    table[~((table.image == "test0.png") & (table.subject == 1))].to_csv(root / "fixations.csv", index=False)
    assert key() == first
    table[~((table.image == "train0.png") & (table.subject == 1))].to_csv(root / "fixations.csv", index=False)
    assert key() != first


@pytest.fixture
def choosing(home: Home) -> Iterator[Any]:
    """Writes `saliency = …` of the dataset `eyes`, and takes it back."""
    file = home.config / "fovea.toml"
    before = file.read_text()

    def choose(name: str) -> Chain:
        file.write_text(before.replace("[datasets.eyes]", f'[datasets.eyes]\nsaliency = "{name}"'))
        return look(home)

    yield choose
    file.write_text(before)


def test_maps_come_from_the_model_that_the_registry_names(home: Home, trained: Tracker, choosing: Any) -> None:
    usual = map_keys(look(home), "eyes")
    assert not usual.map_seen.any()
    chain = choosing(KEY)
    assert chosen_model(chain.world, "eyes") == KEY and chosen_model(chain.world, "plain") == "sam_lite"
    table = map_keys(chain, "eyes")
    assert not set(table.map_key) & set(usual.map_key)
    assert map_keys(chain, "plain").map_key.tolist() == map_keys(look(home), "plain").map_key.tolist()
    made = chain.make("saliency_maps", "eyes")
    assert made.facts["model"] == KEY and made.facts["predicted"] == 11
    assert (made.facts["trained_on_train"], made.facts["trained_on_test"]) == (6, 0)
    passed, said = out_of_fold(made)
    assert not passed and "6 train of these 11" in said["detail"]
    chain.make("source_frames", "plain")
    chain.make("resized_frames", "plain")
    assert all(c.holds(chain.make("saliency_maps", "plain"))[0] for c in STAGES["saliency_maps"].checks)


def test_training_pictures_get_maps_of_the_model_that_left_them_out(
    home: Home, trained: Tracker, choosing: Any
) -> None:
    name = "eyes.sam_lite-tiny+2folds"
    chain = choosing(name)
    with pytest.raises(Waiting):
        chain.unit("saliency_maps", "eyes")
    wanted = chain.upstream(("saliency_maps", "eyes"))[:-1]
    assert wanted[:3] == [(s, "eyes") for s in ("source_frames", "resized_frames", "fixation_maps")]
    assert [p for s, p in wanted if s == "saliency_model"] == [KEY, f"{KEY}-fold0of2", f"{KEY}-fold1of2"]
    for stage, partition in wanted:
        chain.make(stage, partition)
    chain.forget()
    sources = map_sources(chain.world, chain.given, name)
    one, two = sources[1].seen.train, sources[2].seen.train
    assert one and two and not one & two and one | two == sources[0].seen.train
    table = map_keys(chain, "eyes")
    assert not table.map_seen.any() and set(table.map_source[table.split == "train"]) == {1, 2}
    assert set(table.map_source[table.split != "train"]) == {0}
    made = chain.make("saliency_maps", "eyes")
    assert made.facts["out_of_fold_frames"] == 6 and out_of_fold(made)[0]


def test_the_benchmark_ranks_models_and_fills_table_plot_and_tracker(home: Home, trained: Tracker) -> None:
    chain = look(home)
    made = chain.make("saliency_benchmark", "eyes")
    table = pd.read_parquet(made.folder / "saliency_benchmark.parquet")
    models = {"center_prior", "spectral_residual", "sam_lite", "sam_lite+flip", KEY, "human"}
    assert models <= set(table.model) and not any("fold" in m for m in table.model)
    assert set(table.metric) == {"cc", "sim", "kl", "nss", "auc_judd", "auc_shuffled", "info_gain"}
    assert (table.ci_low <= table["mean"]).all() and (table["mean"] <= table.ci_high).all()
    assert set(table.n_images) == {3} and set(table.split) == {"test"} and set(table.trained_on) == {0}
    nss = table[table.metric == "nss"].set_index("model")["mean"]
    assert min(nss["human"], nss["sam_lite"]) > nss["center_prior"] > 0
    assert [p.name for p in made.shown()] == ["benchmark.md", "benchmark.png"]
    assert "| sam_lite+flip " in (made.folder / "shown/benchmark.md").read_text()
    assert isinstance(chain.tracker, Tracker)
    _, metrics = chain.tracker.told("saliency@eyes")
    assert metrics["sam_lite_flip/nss"] == pytest.approx(nss["sam_lite+flip"])
    chain.tracker.runs["saliency@eyes"].finish.assert_called_once_with()
    assert look(home).make("saliency_benchmark", "eyes").hit
    write_tables(chain)
    assert len(pd.read_parquet(home.tables / "saliency_benchmark.parquet")) == len(table)


def test_a_name_that_is_no_model_is_refused_in_the_registry(home: Home, tmp_path: Path) -> None:
    (tmp_path / "fovea.toml").write_text('[datasets.sample]\nsaliency = "sam_light"\n')
    with pytest.raises(FoveaError, match=r"datasets\.sample\.saliency: unknown saliency model 'sam_light'"):
        load_registry(tmp_path)
    (tmp_path / "fovea.toml").write_text('[datasets.sample]\nsaliency = "spectral_residual"\n')
    assert load_registry(tmp_path)["sample"].saliency == "spectral_residual"


def test_partitions_connect_what_the_registry_names(home: Home, choosing: Any) -> None:
    world = choosing("eyes.sam_lite-tiny+2folds").world
    assert STAGES["fixation_maps"].partitions(world) == ["eyes"]
    keys = STAGES["saliency_model"].partitions(world)
    assert {"eyes.sam_lite", "eyes.sam_lite-fold2of3", f"{KEY}-fold1of2"} <= set(keys)
    needed = [(n.partition, p) for n, p in edges(STAGES["saliency_maps"], world) if n.stage == "saliency_model"]
    assert needed == [(KEY, "eyes"), (f"{KEY}-fold0of2", "eyes"), (f"{KEY}-fold1of2", "eyes")]
    # a model of a dataset that is not registered stops only its own dataset
    chain = choosing("gone.sam_lite")
    assert not any(k.startswith("gone.") for k in STAGES["saliency_model"].partitions(chain.world))
    with pytest.raises(FoveaError, match="unknown dataset 'gone'"):
        chain.unit("saliency_maps", "eyes")


def test_a_training_run_names_the_model_behind_its_maps(home: Home, trained: Tracker, choosing: Any) -> None:
    chain: Any
    for opened, name in ((lambda: look(home), "sam_lite"), (lambda: choosing(KEY), KEY)):
        chain = opened()
        for stage in ("source_frames", "resized_frames", "saliency_maps", "rgba_frames"):
            chain.make(stage, "eyes")
        assert maps_by(chain, "eyes", "predicted")["fovea.maps_by"].startswith(f"{name} sam_lite-")
        assert maps_by(chain, "eyes", "center") == {}


def test_maps_by_another_model_leave_pictures_of_the_uniform_arm(home: Home, trained: Tracker, choosing: Any) -> None:
    before = look(home)
    assert not before.world.registry["eyes"].saliency
    after = choosing(KEY)
    for part, same in (("train pictures", True), ("val pictures", True), ("train pairs", False)):
        versions = {c.given["rgba_frames", "eyes"].version(part) for c in (before, after)}
        assert (len(versions) == 1) is same, part


def test_pictures_that_the_default_was_trained_on_are_known(home: Home, tmp_path: Path, monkeypatch: Any) -> None:
    from models.saliency import catalogue
    from models.seen import write_seen

    chain = look(home)
    prepare(chain)
    contents = map_keys(chain, "eyes").query("split == 'train'").sha256.tolist()
    weights = tmp_path / "sam_lite_osie.safetensors"
    weights.write_bytes(b"default")
    weights.with_suffix(".json").write_text(json.dumps({"sha256": "default"}))
    write_seen(weights, contents[:4], [])
    monkeypatch.setattr(catalogue, "SHIPPED", tmp_path)
    table = map_keys(look(home), "eyes").set_index("sha256").loc[contents]
    assert table.map_seen.tolist() == [True] * 4 + [False] * 2


def test_maps_of_ones_own_take_the_models_place_cut_and_resized_as_the_pictures_are(tmp_path: Path) -> None:
    """A label map a picture in a folder beside: only a map that changed is read again; a missing one is named."""
    draw(tmp_path)
    for file in (tmp_path / "pictures").rglob("*.png"):
        mine = np.zeros((48, 64), np.uint8)
        mine[:24, :32] = 200
        target = tmp_path / "maps" / file.parent.name / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target), mine)
    add_dataset(tmp_path, "mine", tmp_path / "pictures", maps=tmp_path / "maps", size="24x24")
    assert load_registry(tmp_path)["mine"].saliency == "own maps"
    home = Home(tmp_path / "state", tmp_path, UPath(tmp_path / "state/data"))
    chain = look(home)
    made = prepare(chain, "saliency_maps", "rgba_frames", dataset="mine")
    assert made.facts["maps_by"].startswith("own maps ")
    pairs = open_pairs(chain, "mine", "test")
    assert pairs.maps is not None and len(pairs.maps) == 3
    # 48×48 of 64×48 are kept, from column 8 on: 24 of the map's 32 columns, a half of 24×24
    want = np.zeros((24, 24), np.uint8)
    want[:12, :12] = 255
    for found in pairs.maps:
        np.testing.assert_array_equal(found, want)

    cv2.imwrite(str(tmp_path / "maps/val/val0.png"), np.zeros((48, 64), np.uint8))
    chain = look(home)
    made = prepare(chain, "saliency_maps", "rgba_frames", dataset="mine")
    assert (chain.made("saliency_maps", "mine").facts["predicted"], made.facts["packed"]) == (1, 1)
    everywhere = open_pairs(chain, "mine", "val").maps
    assert everywhere is not None and (everywhere[0] == 255).all()

    (tmp_path / "maps/test/test1.png").unlink()
    with pytest.raises(FoveaError, match=r"not every picture has a map of its own: .*maps has no map for test1\.png"):
        look(home).unit("saliency_maps", "mine")
    cv2.imwrite(str(tmp_path / "maps/test/test1.png"), np.zeros((20, 20), np.uint8))
    with pytest.raises(FoveaError, match=r"test1\.png has 20×20 pixels, .*test1\.png has 64×48"):
        prepare(look(home), "saliency_maps", dataset="mine")


def test_maps_are_a_models_or_ones_own(tmp_path: Path) -> None:
    draw(tmp_path, {"test": 1})
    settings = tmp_path / "fovea.toml"
    for said, refused in (
        ('saliency = "own maps"', 'write maps = "FOLDER"'),
        ('saliency = "center_prior"\nmaps = "maps"', "give either maps of your own, or saliency = 'center_prior'"),
    ):
        settings.write_text(f'[datasets.mine]\npath = "pictures"\n{said}\n')
        with pytest.raises(FoveaError, match=refused):
            load_registry(tmp_path)
    settings.unlink()
    with pytest.raises(FoveaError, match="nowhere is no folder of maps"):
        add_dataset(tmp_path, "mine", tmp_path / "pictures", maps=tmp_path / "nowhere")
    with pytest.raises(FoveaError, match="would be taken for pictures: move them out of"):
        add_dataset(tmp_path, "mine", tmp_path / "pictures", maps=tmp_path / "pictures/test")
