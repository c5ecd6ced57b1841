"""The tables that people open: each the concatenation of the current pieces in the store, Parquet and CSV."""

import hashlib
from pathlib import Path

import pandas as pd

from assets.chain import Chain
from assets.home import written_beside

#: table → (stage whose current pieces make it, file in the piece)
TABLES = {
    "rd_points": (
        ("classical_rd_points", "points.parquet"),
        ("rd_points", "points.parquet"),
        ("external_rd_points", "points.parquet"),
    ),
    "rd_curves": (("rd_curves", "rd_curves.parquet"),),
    "bd_rates": (("bd_rates", "bd_rates.parquet"),),
    "ideal": (("bd_rates", "ideal.parquet"),),
    "saliency_benchmark": (("saliency_benchmark", "saliency_benchmark.parquet"),),
}


def keep_table(folder: Path, name: str, table: pd.DataFrame) -> None:
    """Write a table as Parquet and as CSV, each beside and renamed."""
    with written_beside(folder / f"{name}.parquet") as beside:
        table.to_parquet(beside, index=False)
    with written_beside(folder / f"{name}.csv") as beside:
        table.to_csv(beside, index=False)


def write_tables(chain: Chain) -> None:
    """Write every table whose pieces changed; one writer at a time, beside and renamed."""
    with chain.locked("tables"):
        for name, sources in TABLES.items():
            pieces = [
                (stage, str(record["partition"]), str(record["key"]), file)
                for stage, file in sources
                for record in chain.all_latest(stage)
                if chain.store.has(stage, str(record["key"]))
                # a piece of an earlier version may lack what this one writes
                and file in chain.store.manifest(stage, str(record["key"]))["objects"]
            ]
            if not pieces:
                continue
            mark = hashlib.sha256(repr(sorted(pieces)).encode()).hexdigest()[:32]
            note = chain.home.tables / f".{name}.made-from"
            target = chain.home.tables / f"{name}.parquet"
            if not (note.exists() and note.read_text() == mark and target.exists()):
                frames = [
                    pd.read_parquet(chain.store.path(stage, key, file))
                    for stage, _, key, file in sorted(pieces)
                ]
                frames = [f for f in frames if len(f)]
                if not frames:
                    continue
                keep_table(chain.home.tables, name, pd.concat(frames, ignore_index=True))
                with written_beside(note) as beside:
                    beside.write_text(mark)
            share_table(chain, name, mark)


def share_table(chain: Chain, name: str, mark: str) -> None:
    """Copy a table to the storage that nodes share, unless it has this one. Two nodes at once: the last one's stays."""
    shared = chain.home.shared
    if shared is None:
        return
    note = f"tables/.{name}.made-from"
    try:
        if shared.read(note).decode() == mark:
            return
    except FileNotFoundError:
        pass
    for suffix in ("parquet", "csv"):
        shared.put(chain.home.tables / f"{name}.{suffix}", f"tables/{name}.{suffix}")
    shared.write(note, mark.encode())
