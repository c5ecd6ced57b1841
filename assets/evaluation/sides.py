"""What `fovea compare` is given on each side: a sweep as it is measured, an earlier make of it, or a table on disk."""

import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from assets.chain import Chain
from assets.evaluation.pieces import POINTS, pieces_of
from assets.evaluation.rate_distortion import concat_points
from models.errors import FoveaError


@dataclass(frozen=True)
class Side:
    """about: where the points come from. whole: False for a table that may hold other sweeps."""

    about: str
    points: pd.DataFrame
    whole: bool = True


def read_side(chain: Chain, text: str) -> Side:
    """DATASET.SWEEP, DATASET.SWEEP~1 (the make of its tables before the current one, ~2 the one before that, …), or a
    table of points (.parquet). Raises FoveaError that says what there is."""
    if text.endswith(".parquet"):
        return _table(Path(text))
    name, _, back = text.partition("~")
    try:
        chain.world.sweep(name)
    except FoveaError as error:
        raise FoveaError(f"{text!r} is neither DATASET.SWEEP nor a table of points (.parquet): {error}") from error
    if back:
        return _earlier(chain, text, name, back)
    found, missing = pieces_of(chain.view("rd_curves", name).given)
    if not any(m.stage == "rd_points" for m in found):
        dataset, _, sweep = name.rpartition(".")
        said = "what was measured is stale" if chain.latest("rd_curves", name) else f"nothing of {name} is measured"
        raise FoveaError(f"{name}: {said}: fovea run --dataset {dataset} --sweep {sweep}")
    about = f"{text}, {len(found)} pieces" + (f", {len(missing)} not measured yet" if missing else "")
    return Side(about, concat_points([m.table(POINTS) for m in found]))


def _earlier(chain: Chain, text: str, name: str, back: str) -> Side:
    if not re.fullmatch(r"[1-9]\d{0,3}", back):
        raise FoveaError(f"{text!r}: write {name}~1 for the make before the current one, ~2 for the one before that")
    earlier = (chain.latest("rd_curves", name) or {}).get("earlier", ())
    makes = (chain.store.manifest("rd_curves", key) for key in earlier if chain.store.has("rd_curves", key))
    # makes without a record of their pieces cannot be read back
    older = [make for make in makes if make["meta"].get("pieces")]
    if int(back) > len(older):
        have = f"the store holds {len(older)} earlier" if older else "the store holds no earlier make of it"
        raise FoveaError(f"{text!r}: {have}; a table of points that you kept (.parquet) will do, too")
    chosen = older[int(back) - 1]
    frames = []
    for stage, key in chosen["meta"]["pieces"]:
        if not chain.store.has(stage, key):
            raise FoveaError(f"{text!r}: a piece of that make is no longer in the store ({stage} {key})")
        frames.append(pd.read_parquet(chain.store.path(stage, key, POINTS)))
    return Side(f"{text}, made {chosen['made']}", concat_points(frames))


def _table(path: Path) -> Side:
    try:
        return Side(str(path), concat_points([pd.read_parquet(path)]), whole=False)
    except FileNotFoundError:
        raise FoveaError(f"{path}: no such file") from None
    except (OSError, ValueError, FoveaError) as error:
        raise FoveaError(f"{path}: not a table of points as FOVEA_HOME/tables/rd_points has it: {error}") from error
