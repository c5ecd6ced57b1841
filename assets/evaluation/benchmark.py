"""`fovea benchmark`: codecs that are trained already, held against each other and against classical ones."""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from assets.chain import Chain
from assets.evaluation.bd_rate import bd_rates
from assets.evaluation.checkpoints import externals
from assets.evaluation.judged import judged, seats
from assets.evaluation.rate_distortion import CLASSICAL_ARM, concat_points, rd_curves
from assets.evaluation.report import render_report
from assets.graph import Progress, silent
from assets.world import World, evaluation_key
from models.codecs.catalogue import shipped
from models.errors import FoveaError
from models.judges import JUDGES
from models.validation import unknown

SWEEP = "shipped"
"""The sweep of the codecs that ship, as they are."""


class Benchmark(NamedTuple):
    """Tables as `rd_points`, `rd_curves` and `bd_rates` give them, the page, and a line on each judge."""

    points: pd.DataFrame
    curves: pd.DataFrame
    rates: pd.DataFrame
    page: str
    lines: list[str]


def chosen(
    world: World, dataset: str, codecs: Sequence[str], peers: Sequence[str] = (), judges: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """Stage and partition of what is measured: of shipped codecs each arm, of an experiment's key the experiment, classical
    codecs and checkpoints from elsewhere. codecs: empty for all that ship. Raises FoveaError for a dataset, a codec or a
    judge that is not known, and for a peer that the dataset is not measured with."""
    measured = world.dataset(dataset).classical
    if missing := [p for p in peers if p not in measured]:
        raise FoveaError(f"--peers {missing[0]}: {dataset} is measured with {', '.join(measured)}")
    if strange := [j for j in judges if j not in JUDGES]:
        raise FoveaError(f"--judge: {unknown('judge', strange[0], JUDGES)}")
    ships = world.sweeps[f"{dataset}.{SWEEP}"].experiments
    known = sorted({e.codec for e in ships})
    found = [e for e in ships if not codecs or e.codec in codecs]
    for name in codecs:
        if name in world.experiments:
            found.append(world.experiments[name])
        elif name not in known:
            hint = " (shipped, but not in the sweep)" if name in shipped() else ""
            raise FoveaError(
                f"{unknown('codec', name, known)}{hint}; or give an experiment's key (fovea status --keys)"
            )
    return [
        *(("rd_points", evaluation_key(e.key, dataset)) for e in found),
        ("classical_rd_points", dataset),
        *(("external_rd_points", e.partition) for e in externals(world.home.config, dataset)),
    ]


def benchmark_of(
    chain: Chain,
    dataset: str,
    pieces: Sequence[tuple[str, str]],
    peers: Sequence[str] = (),
    judges: Sequence[str] = (),
    progress: Progress = silent,
) -> Benchmark:
    """Curves, BD-rates and page of pieces that are made. peers: the classical codecs to show, empty for all. judges: of
    models/judges.py, left out with a line where they cannot judge."""
    jury, lines = seats(chain, dataset, judges) if judges else ([], [])
    points = concat_points(judged(chain, piece, jury, peers, progress) for piece in pieces)
    classical = points["arm"] == CLASSICAL_ARM
    if peers:
        points = points[~classical | points["codec"].isin(peers)]
    curves, rates = rd_curves(points), bd_rates(points, sweep="benchmark")
    said = {
        "sweep": f"{dataset}.benchmark",
        "pictures": int(points["image"].nunique()),
        "codecs": ", ".join(sorted(set(points["codec"]))),
        "training": "none: codecs as they ship, or as their experiments left them",
        "judges": "; ".join(lines),
    }
    return Benchmark(points, curves, rates, render_report(curves=curves, rates=rates, provenance=said), lines)
