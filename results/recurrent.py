"""The recurrent codec by what its files hold: the numbers of results/recurrent_osie.md.

    python results/recurrent.py FOLDER/codec DATASET      (a dataset whose frames are made: fovea benchmark --dataset DATASET)

Each file is real. Of equal stops every number of iterations is measured, in context and raw; stop maps by saliency, by
its controls and by quality, JPEG, and the progressive files of `light` and `mbt2018_mean`, cut, are held against it.
"""

import dataclasses
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import cast

import numpy as np
import pandas as pd
import torch

from assets.evaluation.bd_rate import compare_curves
from assets.evaluation.cuts import ORDERS
from assets.evaluation.numerals import with_interval
from assets.evaluation.rate_distortion import curve_grid
from assets.evaluation.tables import keep_table
from assets.saliency.fixations import frame_fixation_maps
from assets.saliency.pairs import open_pairs
from assets.stages import open_chain
from models.codecs import bitstream, classical
from models.codecs.base import Codec, Picture, tensor_to_picture
from models.codecs.catalogue import build, load_codec, open_codec
from models.codecs.toderici2017 import Reader, Toderici2017
from models.errors import FoveaError
from models.metrics import psnr_db
from pipelines.terminal import script

UNIFORM, RAW = "uniform", "uniform, raw bits"
RATES = (1, 2, 4, 7)
CUT_BPP = (0.05, 0.07, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8)
QUALITIES = (3, 5, 10, 20, 35, 55, 75)
METRICS = ("psnr_db", "ew_psnr_db")
PEERS = ("light", "mbt2018_mean")

#: a file's length and what it shows
File = tuple[float, int, Picture]


def as_codec(codec: Toderici2017, mechanism: str = "none", **options: str) -> Toderici2017:
    """The same weights told otherwise where places stop, or how bits are coded."""
    kept = {k: v for k, v in codec.config.options if k not in ("stops", "context")} | options
    told = {"gamma": 0.5, "span": 4.0} if mechanism == "gain" else {}
    config = dataclasses.replace(codec.config, mechanism=mechanism, options=tuple(sorted(kept.items())), **told)
    other = cast(Toderici2017, build(config).eval())
    other.load_weights(codec.weights())
    return other


def prefixes(codec: Toderici2017, raw: Codec, picture: Picture) -> Iterator[tuple[File, File]]:
    """At each number of iterations the file in context and the raw one, which show the same: read, and shown once for all."""
    given = codec.analysed(picture)
    reader = Reader(codec, 1, *given.y.shape[2:])
    for t, bits in enumerate(given.z.split(codec.config.m, dim=1), 1):
        encoded, other = codec.encode_analysed(given, t), raw.encode_analysed(given, t)
        for one, by in ((encoded, codec), (other, raw)):
            if not torch.equal(by.entropy_decode(one.data).y_hat, given.z[:, : t * codec.config.m]):
                raise FoveaError(f"the file of {t} iterations holds other bits than were written")
        with torch.inference_mode():
            shown = tensor_to_picture(reader.take(bits), *picture.shape[:2])
        yield (t, len(encoded.data), shown), (t, len(other.data), shown)


def files(codec: Codec, picture: Picture, saliency_map: Picture | None, rates: Sequence[float]) -> Iterator[File]:
    """At each rate, by iterations."""
    given = codec.analysed(picture, saliency_map)
    for rate in rates:
        encoded = codec.encode_analysed(given, rate)
        yield rate, len(encoded.data), codec.decode_checked(encoded)


def jpegs(picture: Picture) -> Iterator[File]:
    """At each quality."""
    for quality in QUALITIES:
        data = classical.encode("jpeg", quality, picture)
        yield quality, len(data), classical.decode("jpeg", data)


def cuts(codec: Codec, picture: Picture, saliency_map: Picture) -> Iterator[File]:
    """One progressive file, cut."""
    whole = codec.encode_analysed(codec.analysed(picture, saliency_map), codec.rates[-2], progressive=True)
    for bpp in CUT_BPP:
        data = bitstream.cut(whole.data, int(bpp * picture[..., 0].size / 8))
        yield bpp, len(data), codec.decode(data)


def measured(
    codec: Toderici2017, peers: Mapping[str, Codec], picture: Picture, maps: Mapping[str, Picture], eyes: np.ndarray
) -> pd.DataFrame:
    """A row for each file of a picture: order, rate, bytes, bpp, psnr_db, ew_psnr_db. peers: codecs with progressive files.
    maps: by the keys of ORDERS."""
    plain, raw = as_codec(codec), as_codec(codec, context="none")
    coded, uncoded = zip(*prefixes(plain, raw, picture), strict=True)
    some = [t for t in RATES if t <= codec.rates[-1]]
    orders: dict[str, Iterable[File]] = {
        UNIFORM: coded,
        RAW: uncoded,
        **{order: files(as_codec(codec, "gain"), picture, one, some) for order, one in maps.items()},
        "quality": files(as_codec(codec, stops="quality"), picture, None, some),
        "jpeg": jpegs(picture),
        **{f"{name}, cut": cuts(peer, picture, np.full_like(maps["saliency"], 255)) for name, peer in peers.items()},
        "light by saliency, cut": cuts(peers["light"], picture, maps["saliency"]),
    }
    rows = [
        (order, rate, size, psnr_db(picture, shown), psnr_db(picture, shown, eyes))
        for order, made in orders.items()
        for rate, size, shown in made
    ]
    table = pd.DataFrame(rows, columns=["order", "rate", "bytes", *METRICS])
    return table.assign(bpp=8 * table["bytes"] / picture[..., 0].size, seed=0)


def lines(points: pd.DataFrame) -> str:
    """Means by iterations, then BD-rates with intervals."""
    by_order = dict(iter(points.groupby("order", sort=False)))
    means = by_order[UNIFORM].groupby("rate")[["bytes", "bpp", *METRICS]].mean()
    means["raw"] = by_order[RAW].groupby("rate")["bytes"].mean()
    means["saved_percent"] = 100 * (1 - means["bytes"] / means["raw"])
    grids = {order: curve_grid(rows, ("bpp", *METRICS)) for order, rows in by_order.items()}
    said = [means.round(3).to_string()]
    pairs = [*((UNIFORM, order) for order in (*ORDERS, "quality")), ("jpeg", UNIFORM)]
    pairs += [(f"{name}, cut", UNIFORM) for name in PEERS]
    for anchor, test in (*pairs, ("light by saliency, cut", "saliency")):
        for row in compare_curves(grids[anchor], grids[test], ("pchip",)):
            said.append(f"{test} against {anchor}, {row['metric']}: {with_interval(row)} {row['reason']}")
    return "\n".join(said)


def main(folder: str, dataset: str) -> None:
    """Measure all pictures of a dataset, and print."""
    chain, codec = open_chain(), cast(Toderici2017, load_codec(folder))
    peers = {name: open_codec(name) for name in PEERS}
    table, pictures, _ = open_pairs(chain, dataset, "measured")
    maps = {order: open_pairs(chain, dataset, "measured", maps=kind).maps for order, kind in ORDERS.items()}
    eyes = frame_fixation_maps(chain.world.dataset(dataset), table, [p.shape[:2] for p in pictures])
    rows = []
    for i, name in enumerate(table.image):
        some = {order: np.asarray(found[i]) for order, found in maps.items()}
        rows.append(measured(codec, peers, np.asarray(pictures[i]), some, eyes[i]).assign(image=name))
        print(f"{i + 1}/{len(pictures)} {name}", file=sys.stderr)
        points = pd.concat(rows)
        keep_table(chain.home.tables, f"recurrent.{dataset}", points)
    print(lines(points))


if __name__ == "__main__":
    script(main, __doc__)
