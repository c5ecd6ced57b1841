from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from points import make_points

from assets.evaluation.bd_rate import bd_rates
from assets.evaluation.export import compressai_results
from assets.evaluation.palette import cast_of, look
from assets.evaluation.plots import rd_plot
from assets.evaluation.rate_distortion import concat_points, rd_curves, records
from assets.evaluation.report_tables import bd_markdown
from assets.evaluation.summary import bd_lines, curve_lines, shortened
from pipelines.addresses import Ports, note
from pipelines.commands import runs


def made_points(*variants: str) -> pd.DataFrame:
    """`uniform` and `saliency_gain` of each variant."""
    plain = {"codec": "light", "noise": 0.0, "n": 6}
    arms = [make_points(**plain), make_points("saliency_gain", "predicted", rate=0.8, **plain)]
    return concat_points([arm.assign(variant=variant) for variant in variants for arm in arms])


def test_points_of_variants_are_told_apart_and_stand_together() -> None:
    lines = curve_lines(rd_curves(made_points("", "gamma=1"), resamples=10)).splitlines()[2:]
    arms = [line.split("λ")[0].split(maxsplit=1)[1].strip() for line in lines]
    each = ("saliency_gain", "saliency_gain gamma=1", "uniform", "uniform gamma=1")
    assert arms == [arm for arm in each for _ in range(4)]


@pytest.mark.parametrize("column", ["preset", "train_dataset"])
def test_curves_of_several_presets_and_trainings_keep_their_rows(column: str) -> None:
    one, other = made_points(""), made_points("")
    other[column] = "other"
    other.loc[other["arm"] == "saliency_gain", ["bytes", "bpp"]] *= 2
    points = concat_points([one, other])
    curves, rates, _ = shortened(rd_curves(points, resamples=10), bd_rates(points, resamples=50))
    kept = {value: f"{column}={value}" for value in (one[column].iloc[0], "other")}
    lines = bd_lines(rates).splitlines()
    said = {name: lines[lines.index(f"light saliency_gain {name}") + 1] for name in kept.values()}
    assert "−20.0\u202f%" in said[kept[one[column].iloc[0]]] and "+60.0\u202f%" in said[kept["other"]]
    assert all(bd_markdown(rates).count(name) == 1 for name in kept.values())
    assert len({look(r, cast_of(curves)).label for r in records(curves)}) == 4
    files = compressai_results(rd_curves(points, resamples=10))
    assert len(files) == 4 and rd_plot(curves).startswith(b"\x89PNG")


def test_nothing_to_compare_is_said() -> None:
    points = made_points("")
    alone = points[points["arm"] == "uniform"]
    assert bd_lines(bd_rates(alone, resamples=10)).startswith("nothing to compare: ")


def test_a_run_says_once_what_all_arms_share(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    points = made_points("as shipped")
    tables = {"rd_curves": rd_curves(points, resamples=10), "bd_rates": bd_rates(points, resamples=50)}

    def made(_: Any, stage: str, __: str) -> Any:
        return SimpleNamespace(table=lambda name: tables[stage]) if stage in tables else None

    monkeypatch.setattr(runs, "_made", made)
    note(tmp_path, Ports(3044, 5044))
    home = SimpleNamespace(reports=tmp_path, tables=tmp_path, state=tmp_path)
    chain: Any = SimpleNamespace(home=home, tracker=SimpleNamespace(run_id=str, table_url=lambda *_: ""))
    runs._summary(chain, "made.smoke", peers=False)
    said = capsys.readouterr().out
    assert "Dagster at http://127.0.0.1:3044" in said
    assert said.count("as shipped") == 1 and "(common to all arms: as shipped)" in said
    only = concat_points([make_points("classical", codec="jpeg", variant="")])
    tables |= {"rd_curves": rd_curves(only, resamples=10), "bd_rates": bd_rates(only, resamples=10)}
    runs._summary(chain, "made.smoke", peers=False)
    none = capsys.readouterr().out
    assert none.startswith("report  "), "nothing of the sweep's own: its failures stay on the screen"
    assert "light saliency_gain\n  against uniform" in said and "saliency_gain of light against uniform" in said
