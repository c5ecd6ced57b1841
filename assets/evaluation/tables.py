"""The tables that people open: each the concatenation of the current pieces in the store, Parquet and CSV."""

import contextlib
import hashlib
import re
from pathlib import Path

import pandas as pd

from assets.chain import Chain
from assets.evaluation.pieces import PIECES, POINTS
from assets.evaluation.rate_distortion import CURVE_KEYS, concat_points, rd_curves
from assets.home import write_whole, written_beside
from models.errors import FoveaError

#: table → stages whose current pieces make it, and the file in each piece
TABLES = {
    "rd_points": (PIECES, POINTS),
    "rd_curves": (("rd_curves",), "rd_curves.parquet"),
    "bd_rates": (("bd_rates",), "bd_rates.parquet"),
    "ideal": (("bd_rates",), "ideal.parquet"),
    "saliency_benchmark": (("saliency_benchmark",), "saliency_benchmark.parquet"),
}


def keep_table(folder: Path, name: str, table: pd.DataFrame) -> None:
    """Write a table as Parquet and as CSV, each beside and renamed."""
    with written_beside(folder / f"{name}.parquet") as beside:
        table.to_parquet(beside, index=False)
    write_whole(folder / f"{name}.csv", table.to_csv(index=False))


def latest_table(chain: Chain, stage: str, partition: str) -> pd.DataFrame:
    """The table that `rd_curves` or `bd_rates` last made of a sweep. Raises FoveaError for an unknown one, and where it made none."""
    sweep = chain.world.sweep(partition)
    record = chain.latest(stage, partition)
    if record is None:
        raise FoveaError(f"no curves of {partition} are here: fovea run --dataset {sweep.dataset} --sweep {sweep.name}")
    return pd.read_parquet(chain.store.path(stage, str(record["key"]), TABLES[stage][1]))


def curves_and_rates(chain: Chain, name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`rd_curves` and `bd_rates` of DATASET.SWEEP, or of DATASET.benchmark (DATASET.benchmark-NAME) as `fovea benchmark` last wrote
    them, whose curves have no intervals. Raises FoveaError as `latest_table`."""
    dataset, _, sweep = name.partition(".")
    if not re.fullmatch(r"benchmark(-.+)?", sweep) or name in chain.world.sweeps:
        return latest_table(chain, "rd_curves", name), latest_table(chain, "bd_rates", name)
    points, rates = (chain.home.tables / f"{sweep}.{dataset}{part}.parquet" for part in (".points", ""))
    if not points.exists():
        raise FoveaError(f"no {name} is here: fovea benchmark --dataset {chain.world.dataset(dataset).name}")
    return rd_curves(concat_points([pd.read_parquet(points)]), resamples=2), pd.read_parquet(rates)


def write_tables(chain: Chain) -> None:
    """Write every table whose pieces changed; one writer at a time, beside and renamed."""
    runs: dict[str, str] = {}
    with chain.home.locked("tables"):
        for name, (stages, file) in TABLES.items():
            pieces = sorted(
                (stage, str(record["partition"]), str(record["key"]), file)
                for stage in stages
                for record in chain.all_latest(stage)
                if _holds(chain, stage, str(record["key"]), file)
            )
            for stage, _, key, _ in pieces:
                meta = chain.store.manifest(stage, key)["meta"]
                # made while the tracker's server was away: its run may have got an id since
                if meta.get("mlflow_key") and not meta.get("mlflow_run_id"):
                    runs[key] = chain.tracker.run_id(str(meta["mlflow_key"]))
            runs = {key: run_id for key, run_id in runs.items() if run_id}
            made_from = repr(pieces) + (repr(sorted(runs.items())) if runs else "")
            mark = hashlib.sha256(made_from.encode()).hexdigest()[:32]
            note = chain.home.tables / f".{name}.made-from"
            target = chain.home.tables / f"{name}.parquet"
            if not (note.exists() and note.read_text() == mark and target.exists()):
                frames = [
                    with_run(pd.read_parquet(chain.store.path(stage, key, file)), runs.get(key, ""))
                    for stage, _, key, _ in pieces
                ]
                frames = [f for f in frames if len(f)]
                if not frames:
                    continue
                whole = pd.concat(frames, ignore_index=True)
                if name == "rd_curves" and runs:
                    points = pd.read_parquet(chain.home.tables / "rd_points.parquet")
                    whole = with_runs_of_points(whole, points)
                keep_table(chain.home.tables, name, whole)
                write_whole(note, mark)
            share_table(chain, name, mark)


def _holds(chain: Chain, stage: str, key: str, file: str) -> bool:
    """Whether a unit is there, fit to be used, and has the file: one of an earlier version may lack it."""
    has = chain.store.has(stage, key) and not chain.failed(stage, key)
    return has and file in chain.store.manifest(stage, key)["objects"]


def with_run(piece: pd.DataFrame, run_id: str) -> pd.DataFrame:
    """A piece with the id of the run that told of it, where it lacks that."""
    return piece.assign(mlflow_run_id=run_id) if run_id and "mlflow_run_id" in piece else piece


def with_runs_of_points(curves: pd.DataFrame, points: pd.DataFrame) -> pd.DataFrame:
    """Curves that lack the runs of their points with those that the points have."""
    keys = [*CURVE_KEYS, "rate"]
    told = points[points.mlflow_run_id != ""].groupby(keys, as_index=False).mlflow_run_id
    found = curves[keys].merge(told.agg(lambda ids: " ".join(sorted(set(ids)))), on=keys, how="left")
    return curves.assign(
        mlflow_run_ids=curves.mlflow_run_ids.where(curves.mlflow_run_ids != "", found.mlflow_run_id.fillna(""))
    )


def share_table(chain: Chain, name: str, mark: str) -> None:
    """Copy a table to the storage that nodes share, unless it has this one. Two nodes at once: the last one's stays."""
    shared = chain.home.shared
    if shared is None:
        return
    note = f"tables/.{name}.made-from"
    with contextlib.suppress(FileNotFoundError):
        if shared.read(note).decode() == mark:
            return
    for suffix in ("parquet", "csv"):
        shared.put(chain.home.tables / f"{name}.{suffix}", f"tables/{name}.{suffix}")
    shared.write(note, mark.encode())
