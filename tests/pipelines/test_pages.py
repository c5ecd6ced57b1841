"""What Dagster's pages of assets show."""

import base64
import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import numpy as np
import pytest
from dagster._core.definitions.data_version import DATA_VERSION_TAG, CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest
from PIL import Image

from assets.chain import Chain
from assets.datasets import add_dataset
from assets.graph import Check, silent
from assets.stages import STAGES, open_chain
from pipelines import resources
from pipelines.assets import ASSETS
from pipelines.definitions import defs
from pipelines.launch import plan_run
from pipelines.partitions import offer
from pipelines.plan import Step
from pipelines.schedules import sweep
from pipelines.steps import RUN, made_here


def test_results_come_first_and_a_check_that_does_not_apply_says_nothing(installation: Path) -> None:
    chain = open_chain(threads=1)
    result = resources.materialized(chain, "trunk_codec", "shipped-bls2017", lambda *_: None, lambda _: None)
    names = list(result.metadata or {})
    assert names[0] == "shipped" and names[-2:] == ["in_FOVEA_HOME", "unit"]
    assert not result.check_results, "its weights were examined when they were made"


@pytest.mark.parametrize("applies", [(), ("crops_vary",)])
def test_the_ui_launches_what_has_checks_that_do_not_apply(
    launched: Callable[..., dg.ExecuteInProcessResult], monkeypatch: pytest.MonkeyPatch, applies: tuple[str, ...]
) -> None:
    def asked(check: Check) -> Check:
        return check._replace(holds=lambda _: (True, {}) if check.name in applies else None)

    stage = type(STAGES["trunk_codec"])
    monkeypatch.setattr(stage, "checks", tuple(map(asked, stage.checks)))
    done = launched("trunk_codec", "shipped-bls2017")
    assert done.success and len(done.get_asset_materialization_events()) == 1
    assert [e.check_name for e in done.get_asset_check_evaluations()] == list(applies)


def test_the_report_begins_with_headline_and_address(
    installation: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "shown").mkdir()
    (tmp_path / "shown/bd_rates.md").write_text("| arm |\n| --- |\n")
    facts = {"answers": "a, b", "bytes": 5, "headline": "saves bits", "psnr_db": 30.123456, "share": 0.123456789}
    made: Any = SimpleNamespace(
        unit=SimpleNamespace(stage="report", partition="sample.smoke", digest="d"),
        hit=False, held=(), facts=facts, folder=tmp_path, manifest={"made": "now", "meta": {"seconds": 1.23456}},
        shown=lambda: [tmp_path / "shown/bd_rates.md"],
    )  # fmt: skip
    address = "http://127.0.0.1:5000/#/experiments/1/runs/r?workflowType=machine_learning"
    monkeypatch.setattr(resources, "mlflow_link", lambda *_: address)
    found = dict(resources.result_of(made, open_chain()).metadata or {})
    plumbing = ["mlflow_run", "bytes", "cache_hit", "made", "seconds", "path", "unit"]
    assert list(found) == [
        "headline",
        "psnr_db",
        "report",
        "report_in_FOVEA_HOME",
        "bd_rates",
        "answers",
        "share",
        *plumbing,
    ]
    assert found["report"].value == f"[open it in MLflow]({address.replace('?', '/artifacts/report/report.html?')})"
    assert found["mlflow_run"].value == f"[open it in MLflow]({address})"
    assert found["report_in_FOVEA_HOME"].value == "reports/sample.smoke.html" and found["path"].value == str(tmp_path)
    assert found["share"] == 0.1235 and found["psnr_db"] == 30.12
    words = [word for value in found.values() for word in str(getattr(value, "value", value)).split("](")[0].split()]
    longest = max((word for word in words if word != str(tmp_path)), key=len)
    assert len(longest) < 60, "a longer word pushes Dagster's table off the page"


def test_the_files_of_a_dataset_are_shown_also_where_one_is_broken(installation: Path) -> None:
    (installation / "mine").mkdir()
    for seed, name in enumerate("abc"):
        pixels = np.random.default_rng(seed).integers(0, 255, (64, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(installation / f"mine/{name}.png")
    cut = (installation / "mine/b.png").read_bytes()
    (installation / "mine/b.png").write_bytes(cut[: len(cut) // 2])
    add_dataset(installation, "mine", installation / "mine", splits="1/1/1")
    result = resources.materialized(open_chain(threads=1), "source_frames", "mine", lambda *_: None, lambda _: None)
    found = dict(result.metadata or {})
    assert list(found)[:5] == ["frames", "frames_train", "frames_val", "frames_test", "sample_frames"]
    data = base64.b64decode(found["sample_frames"].value.partition("base64,")[2].rstrip(")"))
    assert Image.open(io.BytesIO(data)).size == (3 * 320, 213), "two pictures, and an empty place"


def test_a_codecs_page_begins_with_what_was_measured_of_it(
    installation: Path, monkeypatch: pytest.MonkeyPatch, instance: dg.DagsterInstance
) -> None:
    """The last materialization is all that the page shows; a measurement is told through the command line and from the UI."""
    chain = open_chain(threads=1)
    key = next(e.key for e in chain.world.sweeps["sample.smoke"].experiments if e.untrained)
    chain.make("trunk_codec", chain.world.experiment(key).trunk.key)
    trained = chain.make("trained_codec", key)
    facts = {"psnr_db": 29.10294785, "bpp": 0.59815979, "ms_ssim": "0.9 … 0.99", "pictures": 8}
    point: Any = SimpleNamespace(
        unit=SimpleNamespace(stage="rd_points", partition=f"{key}@sample", digest="d"),
        hit=True, held=(), facts=facts, folder=chain.home.data, manifest={"made": "now", "meta": {}}, shown=list,
    )  # fmt: skip
    make = Chain.make
    monkeypatch.setattr(
        Chain, "make", lambda self, stage, *more: point if stage == "rd_points" else make(self, stage, *more)
    )
    step = Step("rd_points", f"{key}@sample", "why")
    with plan_run(instance, sweep, {"sweeps": [], "units": []}, {}) as (run_id, _):
        assert not made_here(chain, instance, step, {RUN: run_id}, silent)
    offer(instance, [("rd_points", f"{key}@sample")])
    asked = [asset for asset in ASSETS if asset.key == dg.AssetKey("rd_points")]
    given = {"instance": instance, "resources": {"workshop": resources.FoveaWorkshop()}}
    assert dg.materialize(asked, partition_key=f"{key}@sample", **given).success
    assert not list(resources.measured(chain, f"{key}@mine", facts)), "its page tells of its own dataset"
    never = next(e.key for e in chain.world.sweeps["sample.smoke"].experiments if not e.untrained)
    assert not list(resources.measured(chain, f"{never}@sample", facts)), "what is gone has no page to tell of"
    told = instance.fetch_materializations(dg.AssetKey("trained_codec"), limit=5).records
    assert len(told) == 2
    # Dagster shows of a materialization the checks of its own run
    for check in chain.stages["trained_codec"].checks:
        name = dg.AssetCheckKey(dg.AssetKey("trained_codec"), check.name)
        history = instance.event_log_storage.get_asset_check_execution_history(name, limit=5)
        assert [r.run_id for r in history] == [r.run_id for r in told] if check.holds(trained) else not history
    for record in told:
        seen = record.asset_materialization
        assert seen is not None and seen.partition == key
        values = {name: value.value for name, value in seen.metadata.items()}
        assert list(values)[:5] == ["test_bpp", "test_psnr_db", "test_ms_ssim", "measured_on", "trained"]
        assert list(values.values())[:4] == [0.5982, 29.1, "0.9 … 0.99", "sample"] and "cache_hit" not in values
        assert values["in_FOVEA_HOME"] == f"data/trained_codec/{trained.unit.digest[:2]}/{trained.unit.digest}"
        assert seen.tags is not None and seen.tags["dagster/data_version"] == trained.unit.digest


def test_a_codec_is_not_out_of_date_once_another_dataset_is_registered(
    launched: Callable[..., dg.ExecuteInProcessResult], instance: dg.DagsterInstance
) -> None:
    """Told by the UI and by the command line: Dagster takes every partition of another asset for an input."""
    chain = open_chain(threads=1)
    first, second = [e for e in chain.world.sweeps["sample.smoke"].experiments if e.untrained][:2]
    assert first.trunk
    assert launched("trunk_codec", first.trunk.key).success and launched("trained_codec", first.key).success
    with plan_run(instance, sweep, {"sweeps": [], "units": []}, {}) as (run_id, _):
        assert not made_here(chain, instance, Step("trained_codec", second.key, "why"), {RUN: run_id}, silent)
    offer(instance, [("trained_codec", second.key), ("rgba_frames", "new"), ("trunk_codec", "new")])
    for stage in ("rgba_frames", "trunk_codec"):
        instance.report_runless_asset_event(
            dg.AssetMaterialization(stage, partition="new", tags={DATA_VERSION_TAG: "1"})
        )
    graph = defs.resolve_asset_graph()
    for key in (first.key, second.key):
        looked = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
        causes = looked.get_stale_causes(dg.AssetKey("trained_codec"), key)
        assert looked.get_status(dg.AssetKey("trained_codec"), key).value == "FRESH", causes
