"""What `fovea compress --effort` saves, and how long it takes: BD-rates of refined files against files without effort, and
against AVIF and WebP.

    python results/effort.py DATASET [MOST]      (its frames are made: fovea benchmark --dataset DATASET)

MOST: the highest effort that is tried; default: 100. Files of `light` are real, without a map and with SAM-Lite's, at the span
that it was trained for and at 6; their error counts as the map says. Where eye movements are known, quality is measured where
people looked, too.
"""

import itertools
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from assets.evaluation.bd_rate import compare_curves
from assets.evaluation.numerals import with_interval
from assets.evaluation.pieces import POINTS, subjects_of
from assets.evaluation.rate_distortion import Grid, curve_grid
from assets.evaluation.tables import keep_table
from assets.stages import open_chain
from models.codecs.base import Codec, Picture
from models.codecs.catalogue import open_codec
from models.codecs.effort import Refinement
from models.errors import FoveaError
from models.metrics import psnr_db
from pipelines.terminal import script

EFFORTS = (0, 10, 30, 100)
METRICS = ("psnr_db", "ew_psnr_db")
ARMS = {"uniform": 0.0, "guided": None, "guided, span 6": 6.0}
"""Spans; None: as the codec was trained."""
PEERS = ("avif", "webp")


def refined(
    codec: Codec,
    picture: Picture,
    saliency_map: Picture,
    rate: float,
    efforts: Sequence[int] = EFFORTS,
    span: float | None = None,
) -> Iterator[tuple[int, float, bytes]]:
    """Each effort, its seconds of encoding, and its file: all of one descent."""
    begun = time.perf_counter()
    descent = Refinement(codec, picture, codec.analysed(picture, saliency_map)._replace(span=span), rate)
    with torch.enable_grad():
        steps = descent.steps(efforts[-1])
        for before, effort in itertools.pairwise((0, *efforts)):
            for _ in itertools.islice(steps, effort - before):
                pass
            yield effort, time.perf_counter() - begun, codec.encode_analysed(descent.best, rate).data


def measured(dataset: str, efforts: Sequence[int]) -> pd.DataFrame:
    """A row for each file: arm, effort, image, rate, seed, bpp, seconds, psnr_db, ew_psnr_db (NaN without fixations)."""
    codec, rows = open_codec("light"), []
    subjects = subjects_of(open_chain(), dataset, "none")
    for number, seen in enumerate(subjects, 1):
        picture, eyes = seen.picture, seen.fixation_map
        for (arm, span), rate in itertools.product(ARMS.items(), codec.rates[::2]):
            for effort, seconds, data in refined(codec, picture, seen.saliency_map, rate, efforts, span):
                shown, bpp = codec.decode(data), 8 * len(data) / picture[..., 0].size
                looked = np.nan if eyes is None else psnr_db(picture, shown, eyes)
                rows.append((arm, effort, seen.image, rate, 0, bpp, seconds, psnr_db(picture, shown), looked))
        print(f"{number}/{len(subjects)} {seen.image}", file=sys.stderr)
    names = ["arm", "effort", "image", "rate", "seed", "bpp", "seconds", *METRICS]
    return pd.DataFrame(rows, columns=names)


def peers(dataset: str) -> dict[str, Grid]:
    """The curves of PEERS on the dataset's pictures, as they were measured."""
    rows = open_chain().given["classical_rd_points", dataset].table(POINTS)
    return {name: curve_grid(part, ("bpp", *METRICS)) for name, part in rows.groupby("codec") if name in PEERS}


def lines(points: pd.DataFrame, others: Mapping[str, Grid] = {}) -> str:
    """For each arm and effort BD-rates with intervals against no effort and against the others, and the median time of a file."""
    metrics = [name for name in METRICS if points[name].notna().all()]
    said = []
    for arm, rows in points.groupby("arm", sort=False):
        curves = {effort: curve_grid(part, ("bpp", *metrics)) for effort, part in rows.groupby("effort")}
        for effort, curve in curves.items():
            line = [f"{arm}, effort {effort}: {rows[rows.effort == effort].seconds.median():.1f} s"]
            for name, anchor in {**({"no effort": curves[0]} if effort else {}), **others}.items():
                found = compare_curves(anchor, curve, ("pchip",))
                line.append(f"against {name}: " + ", ".join(f"{r['metric']} {with_interval(r)}" for r in found))
            said.append("; ".join(line))
    return "\n".join(said)


def main(dataset: str, most: str = "100") -> None:
    """Print what was found on a dataset."""
    torch.set_num_threads(1)
    if most not in map(str, EFFORTS[1:]):
        raise FoveaError(f"MOST {most!r}: one of {', '.join(map(str, EFFORTS[1:]))}")
    points = measured(dataset, [effort for effort in EFFORTS if effort <= int(most)])
    keep_table(open_chain().home.tables, f"effort.{dataset}", points)
    print(lines(points, peers(dataset)))


if __name__ == "__main__":
    script(main, __doc__)
