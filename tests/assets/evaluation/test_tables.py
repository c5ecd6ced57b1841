"""Tables are the concatenation of the current pieces in the store."""

from pathlib import Path
from unittest import mock

import pandas as pd
from upath import UPath

from assets.chain import Chain
from assets.evaluation.rate_distortion import concat_points, rd_curves
from assets.evaluation.tables import write_tables
from assets.graph import Unit
from assets.home import Home
from assets.stages import open_chain
from pipelines.mlflow_store import MlflowStore, Unreachable
from pipelines.mlflow_tracking import MlflowTracker


def keep(chain: Chain, partition: str, files: dict[str, pd.DataFrame], stage: str = "bd_rates", **meta: str) -> None:
    unit = Unit(stage, partition, {"partition": partition})
    with chain.store.writing(unit.stage, unit.digest) as writer:
        writer.meta.update(meta)
        for name, table in files.items():
            table.to_parquet(writer.path(name), index=False)
    with mock.patch.object(chain, "_modules", return_value={}):  # of partitions that no sweep has
        chain._remember(unit)


def test_a_piece_without_a_later_versions_file_is_left_out(tmp_path: Path) -> None:
    chain = open_chain(Home(tmp_path / "home", tmp_path, UPath(tmp_path / "data")))
    rates = pd.DataFrame({"dataset": ["a"], "bd_rate_percent": [-3.0]})
    keep(chain, "a.one", {"bd_rates.parquet": rates})
    keep(chain, "b.two", {"bd_rates.parquet": rates, "ideal.parquet": rates.assign(dataset="b")})
    write_tables(chain)
    assert len(pd.read_parquet(chain.home.tables / "bd_rates.parquet")) == 2
    assert list(pd.read_parquet(chain.home.tables / "ideal.parquet").dataset) == ["b"]
    assert not (chain.home.tables / "rd_curves.parquet").exists()
    chain.note_failed(Unit("bd_rates", "a.one", {"partition": "a.one"}), "check values_in_range failed")
    write_tables(chain)
    assert len(pd.read_parquet(chain.home.tables / "bd_rates.parquet")) == 1


def test_runs_that_mlflow_heard_of_later_are_in_the_tables(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", tmp_path, UPath(tmp_path / "data"))
    chain = open_chain(home, tracker=MlflowTracker(home.mlflow, ""))

    def measured(key: str) -> pd.DataFrame:
        run = chain.tracker.run(experiment="fovea-sample", name=key, key=key)
        run.finish()
        about = {"dataset": "sample", "split": "test", "image": "a", "arm": "uniform", "maps": "none"}
        row = {"codec": key, "bytes": 9, "width": 8, "height": 8, "rate": 1.0, "mlflow_run_id": run.run_id}
        table = concat_points([pd.DataFrame([about | row])])
        meta = {"mlflow_key": key, "mlflow_run_id": run.run_id}
        keep(chain, f"{key}@sample", {"points.parquet": table}, "rd_points", **meta)
        return table

    def read(name: str, column: str) -> dict[str, str]:
        write_tables(chain)
        table = pd.read_parquet(home.tables / f"{name}.parquet")
        assert table.to_csv(index=False) == (home.tables / f"{name}.csv").read_text()
        return dict(zip(table.codec, table[column], strict=True))

    known = measured("early")
    with mock.patch.object(MlflowStore, "connect", side_effect=Unreachable("Connection refused")):
        points = pd.concat([known, measured("late")])
        keep(chain, "sample.tiny", {"rd_curves.parquet": rd_curves(points, resamples=2)}, "rd_curves")
        assert read("rd_points", "mlflow_run_id")["late"] == read("rd_curves", "mlflow_run_ids")["late"] == ""
    chain.tracker.flush()
    ids = {key: chain.tracker.run_id(key) for key in ("early", "late")}
    assert all(ids.values()) and len(set(ids.values())) == 2
    assert read("rd_points", "mlflow_run_id") == read("rd_curves", "mlflow_run_ids") == ids
