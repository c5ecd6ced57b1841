"""What Dagster's pages of assets show."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from assets.graph import Check
from assets.stages import STAGES, open_chain
from pipelines import resources


def test_results_come_first_and_a_check_that_does_not_apply_says_nothing(installation: Path) -> None:
    chain = open_chain(threads=1)
    result = resources.materialized(chain, "trunk_codec", "shipped-bls2017", lambda *_: None, lambda _: None)
    names = list(result.metadata or {})
    assert names[0] == "shipped" and names[-2:] == ["path", "unit"]
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
    facts = {"bytes": 5, "headline": "saves bits", "threads": 4, "share": 0.123456789}
    made: Any = SimpleNamespace(
        unit=SimpleNamespace(stage="report", partition="sample.smoke", digest="d"),
        hit=False, held=(), facts=facts, folder=tmp_path, manifest={"made": "now", "meta": {"seconds": 1.23456}},
        shown=lambda: [tmp_path / "shown/bd_rates.md"],
    )  # fmt: skip
    address = "http://127.0.0.1:5000/#/experiments/1/runs/r?workflowType=machine_learning"
    monkeypatch.setattr(resources, "mlflow_link", lambda *_: address)
    found = dict(resources.result_of(made, open_chain()).metadata or {})
    assert list(found)[:5] == ["headline", "report", "report_file", "bd_rates", "share"]
    assert found["report"].value.endswith("/runs/r/artifacts/report/report.html?workflowType=machine_learning")
    assert found["share"] == 0.1235
    assert list(found).index("mlflow_run") < list(found).index("cache_hit")


def test_a_codec_shows_what_was_measured_of_it(installation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"bpp": 0.59815979, "psnr_db": 29.10294785, "ms_ssim": "0.9 … 0.99", "pictures": 8}
    chain, seen = open_chain(), list[dg.AssetObservation]()
    monkeypatch.setattr(chain, "make", lambda *_: SimpleNamespace(facts=facts))
    monkeypatch.setattr(resources, "result_of", lambda *_: dg.MaterializeResult())
    resources.materialized(chain, "rd_points", "key@kodak", lambda *_: None, seen.append)
    (told,) = seen
    figures = {name: value.value for name, value in told.metadata.items()}
    assert (told.asset_key.path, told.partition) == (["trained_codec"], "key")
    assert figures == {"test_bpp": 0.5982, "test_psnr_db": 29.1, "test_ms_ssim": "0.9 … 0.99", "measured_on": "kodak"}
