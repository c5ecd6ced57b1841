"""What `fovea compress --effort` saves, and how long it takes: BD-rates of refined files against files without effort.

    python results/effort.py DATASET      (its frames are made: fovea run --dataset DATASET --frames-only)

Files of `light` are real, without a map and with SAM-Lite's, whose error counts as the map says. Where eye movements are known,
quality is measured where people looked, too.
"""

import itertools
import sys
import time
from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch

from assets.evaluation.bd_rate import compare_curves
from assets.evaluation.numerals import with_interval
from assets.evaluation.rate_distortion import curve_grid
from assets.saliency.fixations import frame_fixation_maps
from assets.saliency.pairs import open_pairs
from assets.stages import open_chain
from models.codecs.base import Codec, Picture
from models.codecs.catalogue import open_codec
from models.codecs.effort import Refinement
from models.metrics import psnr_db
from pipelines.terminal import script

EFFORTS = (0, 10, 30, 100)
METRICS = ("psnr_db", "ew_psnr_db")


def refined(codec: Codec, picture: Picture, saliency_map: Picture, rate: float) -> Iterator[tuple[int, float, bytes]]:
    """Each effort, its seconds of encoding, and its file: all of one descent."""
    begun = time.perf_counter()
    descent = Refinement(codec, picture, codec.analysed(picture, saliency_map), rate)
    with torch.enable_grad():
        steps = descent.steps(EFFORTS[-1])
        for before, effort in itertools.pairwise((0, *EFFORTS)):
            for _ in itertools.islice(steps, effort - before):
                pass
            yield effort, time.perf_counter() - begun, codec.encode_analysed(descent.best, rate).data


def measured(dataset: str) -> pd.DataFrame:
    """A row for each file: arm, effort, image, rate, seed, bpp, seconds, psnr_db, ew_psnr_db (NaN without fixations)."""
    chain, codec, rows = open_chain(), open_codec("light"), []
    table, pictures, _ = open_pairs(chain, dataset, "measured")
    maps = open_pairs(chain, dataset, "measured", maps="predicted").maps or []
    eyes = frame_fixation_maps(chain.world.dataset(dataset), table, [p.shape[:2] for p in pictures])
    for i, image in enumerate(table.image):
        picture = np.asarray(pictures[i])
        for arm, guide in {"uniform": np.full_like(maps[i], 255), "guided": np.asarray(maps[i])}.items():
            for rate in codec.rates[::2]:
                for effort, seconds, data in refined(codec, picture, guide, rate):
                    shown, bpp = codec.decode(data), 8 * len(data) / picture[..., 0].size
                    looked = np.nan if eyes[i] is None else psnr_db(picture, shown, eyes[i])
                    rows.append((arm, effort, image, rate, 0, bpp, seconds, psnr_db(picture, shown), looked))
        print(f"{i + 1}/{len(table)} {image}", file=sys.stderr)
    names = ["arm", "effort", "image", "rate", "seed", "bpp", "seconds", *METRICS]
    return pd.DataFrame(rows, columns=names)


def lines(points: pd.DataFrame) -> str:
    """For each arm and effort BD-rates against no effort with intervals, and the median time of a file."""
    metrics = [name for name in METRICS if points[name].notna().all()]
    said = []
    for arm, rows in points.groupby("arm", sort=False):
        curves = {effort: curve_grid(part, ("bpp", *metrics)) for effort, part in rows.groupby("effort")}
        for effort, curve in curves.items():
            found = compare_curves(curves[0], curve, ("pchip",)) if effort else []
            rates = ", ".join(f"{r['metric']} {with_interval(r)}" for r in found) or "—"
            said.append(f"{arm}, effort {effort}: {rates}, {rows[rows.effort == effort].seconds.median():.1f} s")
    return "\n".join(said)


def main(dataset: str) -> None:
    """Print what was found on a dataset."""
    torch.set_num_threads(1)
    print(lines(measured(dataset)))


if __name__ == "__main__":
    script(main, __doc__)
