"""How much better maps are worth: no map, the centre, SAM-Lite, half of the people, all of them, each at several spans.

    python results/dose.py DATASET      (with fixations; its frames are made: fovea benchmark --dataset DATASET)

Quality where people looked is by the half of the people whose eyes made no map but that of all (a half is drawn for
each picture from its name). Files are real. Maps cost plain PSNR by how far they part the levels, so they are compared
at equal cost: of each picture and map, the gain where people looked is read off, over the spans, where plain PSNR has
lost COST.
"""

import sys
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from scipy.stats import page_trend_test

from assets.evaluation.bd_rate import Sides, compare_curves, delta
from assets.evaluation.numerals import with_interval
from assets.evaluation.rate_distortion import curve_grid
from assets.evaluation.tables import keep_table
from assets.saliency.fixations import frame_fixation_halves
from assets.saliency.pairs import open_pairs
from assets.stages import open_chain
from models.bootstrap import interval, resample_counts
from models.codecs.base import Codec, Picture
from models.codecs.catalogue import open_codec
from models.metrics import psnr_db
from models.saliency.maps import scale_to_uint8
from pipelines.terminal import script

MAPS = ("the centre", "SAM-Lite", "half of the people", "all people")
KINDS = {"the centre": "center", "SAM-Lite": "predicted", "all people": "oracle"}
SPANS = (1.0, 2.0, 4.0, 6.0)
COST = 0.15
"""dB of plain PSNR at equal bits (BD-PSNR)."""
QUALITIES = ("psnr_db", "ew_psnr_db")


def measured(codec: Codec, picture: Picture, maps: Mapping[str, Picture], eyes: np.ndarray) -> pd.DataFrame:
    """A row for each file: maps, span (0: no map), rate, bpp, psnr_db, ew_psnr_db by `eyes`, seed."""
    rows = []
    white = np.full(picture.shape[:2], 255, np.uint8)
    for name, span in [("none", 0.0), *((name, span) for name in maps for span in SPANS)]:
        given = codec.analysed(picture, maps.get(name, white))._replace(span=span)
        for rate in codec.rates[::2]:
            encoded = codec.encode_analysed(given, rate)
            shown = codec.decode_checked(encoded)
            bpp = 8 * len(encoded.data) / picture[..., 0].size
            rows.append((name, span, rate, bpp, psnr_db(picture, shown), psnr_db(picture, shown, eyes), 0))
    return pd.DataFrame(rows, columns=["maps", "span", "rate", "bpp", *QUALITIES, "seed"])


def at_equal_cost(points: pd.DataFrame) -> pd.DataFrame:
    """For each picture and map the gain in dB where people looked at COST of plain PSNR; NaN where curves can't be compared, or
    no span costs as much."""

    def curve(rows: pd.DataFrame) -> dict[str, np.ndarray]:
        return {name: rows.sort_values("rate")[name].to_numpy()[None] for name in ("bpp", *QUALITIES)}

    found = {}
    for image, rows in points.groupby("image"):
        anchor = curve(rows[rows["span"] == 0])
        for name in MAPS:
            costs, gains = [0.0], [0.0]
            for span in SPANS:
                test = curve(rows[(rows["maps"] == name) & (rows["span"] == span)])
                plain, looked = (
                    delta(Sides(anchor["bpp"], anchor[q], test["bpp"], test[q]), "pchip").bd_quality_db
                    for q in QUALITIES
                )
                costs.append(max(-plain, costs[-1]))
                gains.append(looked)
            enough = np.isfinite(gains).all() and costs[-1] >= COST
            found[image, name] = float(np.interp(COST, costs, gains)) if enough else np.nan
    return pd.Series(found).unstack()[list(MAPS)]


def lines(points: pd.DataFrame) -> str:
    """The dose row as BD-rates with intervals, and the gains at equal cost with Page's test of their order."""
    grids = {key: curve_grid(rows, ("bpp", *QUALITIES)) for key, rows in points.groupby(["maps", "span"], sort=False)}
    said = []
    for (name, span), grid in grids.items():
        if span:
            rows = {r["metric"]: r for r in compare_curves(grids["none", 0.0], grid, ("pchip",))}
            looked, plain = (with_interval(rows[q]) for q in reversed(QUALITIES))
            said.append(f"{name}, span {span:g}: where people looked {looked}, plain PSNR {plain}")
    table = at_equal_cost(points)
    whole = table.dropna()
    said.append(f"\ngain where people looked at {COST} dB of plain PSNR, {len(whole)} of {len(table)} pictures:")
    counts = resample_counts(len(whole), 2000, 0)
    for name in MAPS:
        values = whole[name].to_numpy()
        low, high = interval(counts @ values / len(values))
        said.append(f"{name}: {values.mean():+.2f} dB [{low:+.2f}, {high:+.2f}]")
    trend = page_trend_test(np.column_stack([np.zeros(len(whole)), whole.to_numpy()]))
    said.append(f"Page's trend over no map and these: L = {trend.statistic:g}, p = {trend.pvalue:.2g}")
    return "\n".join(said)


def main(dataset: str) -> None:
    """Measure all pictures of a dataset, and print."""
    chain, codec = open_chain(), open_codec("light")
    table, pictures, _ = open_pairs(chain, dataset, "measured")
    kinds = {name: open_pairs(chain, dataset, "measured", maps=m).maps or [] for name, m in KINDS.items()}
    halves = frame_fixation_halves(chain.world.dataset(dataset), table, [p.shape[:2] for p in pictures])
    found: list[pd.DataFrame] = []
    for i, name in enumerate(table.image):
        first, other = cast(tuple[Any, Any], halves[i])
        maps = {kind: np.asarray(some[i]) for kind, some in kinds.items()} | {MAPS[2]: scale_to_uint8(first)}
        found.append(measured(codec, np.asarray(pictures[i]), maps, other).assign(image=name))
        print(f"{i + 1}/{len(pictures)} {name}", file=sys.stderr)
    points = pd.concat(found)
    keep_table(chain.home.tables, f"dose.{dataset}", points)
    print(lines(points))


if __name__ == "__main__":
    torch.set_num_threads(1)
    script(main, __doc__)
