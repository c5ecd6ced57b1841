"""Progressive files cut at many places: what the order of their pieces is worth, and what it costs to be cut."""

import io
import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from assets.evaluation.bd_rate import compare_curves
from assets.evaluation.numerals import with_interval
from assets.evaluation.rate_distortion import curve_grid, records
from assets.graph import Progress, silent
from assets.saliency.fixations import frame_fixation_maps
from assets.saliency.pairs import Reader, open_pairs
from models.codecs import bitstream
from models.codecs.base import Analysed
from models.codecs.batch import in_order
from models.codecs.conditioned import ConditionedCodec
from models.errors import FoveaError
from models.experiments import check_span
from models.metrics import psnr_db
from models.threads import check_stopped

UNIFORM, JPEG = "uniform", "progressive JPEG"
SEPARATE, ALIKE = "separate files", "uniform, cut to their sizes"
"""A plain file for each rate, and one file cut to their sizes. Held against cuts at the same bpp of all pictures, which give
easy pictures more than one rate of all does, separate files would look better or worse than they are."""
JPEG_QUALITY = 75
SALIENCY = "saliency"
ORDERS = {SALIENCY: "predicted", "centre": "center", "another picture's": "shuffled", "people's": "oracle"}
"""By what the table calls it, the maps that say which places come first."""

BPP = (0.1, 0.4 / 3, 0.2, 0.8 / 3, 0.4, 1.6 / 3, 0.8)
"""Where files are cut for curves: at 400×300 pixels 1.5, 2, 3, 4, 6, 8 and 12 kB."""

PLACES, PICTURES = 50, 4
"""Where files are cut to see whether quality ever falls, and of how many pictures."""


class Shot(NamedTuple):
    """What a file's first `size` bytes show, and their quality by metric; of the whole file all that there are."""

    order: str
    size: int
    shown: NDArray[np.uint8]
    quality: dict[str, float]


class Shown(NamedTuple):
    """A picture for the page: looked is where people looked, or the predicted map, H×W."""

    image: str
    original: NDArray[np.uint8]
    looked: NDArray[Any]
    shots: list[Shot]


class Cuts(NamedTuple):
    """points: order (or SEPARATE, ALIKE, JPEG), image, rate (bpp asked for, or lambda), bpp, psnr_db and the metric that
    counts. rates: BD-rates of each order against uniform order, of that against separate files, and of that and saliency
    order against progressive JPEG. fall: the largest fall in dB from one of PLACES cuts to the next, by metric. metric:
    ew_psnr_db where eye movements are known, else sw_psnr_db. shown: the pictures whose falls were looked for. same: how many
    files there are, each of which shows as a whole what a plain one of its rate shows, bit for bit."""

    points: pd.DataFrame
    rates: pd.DataFrame
    fall: dict[str, float]
    metric: str
    shown: list[Shown]
    same: int


def check_cuttable(codec: Any) -> None:
    """Raises FoveaError for a codec whose progressive files cannot follow a map."""
    if not isinstance(codec, ConditionedCodec) or codec.config.mechanism != "gain" or not codec.top_level:
        raise FoveaError("--cuts needs a codec with levels and mechanism gain, such as light")


def measure_cuts(
    reader: Reader,
    dataset: str,
    codec: Any,
    *,
    spans: Sequence[float] = (),
    threads: int = 1,
    progress: Progress = silent,
) -> Cuts:
    """One file a picture and order, made at the second highest of the codec's rates and cut. Each cut file is decoded.

    spans: saliency order is measured with each of these, too, in place of the codec's.

    Raises FoveaError for a codec without levels, maps or progressive files, and for a file that shows as a whole another
    picture than a plain one, and Waiting where frames or maps are not made.
    """
    for span in spans:
        check_span(span)
    check_cuttable(codec)
    table, pictures, predicted = open_pairs(reader, dataset, "measured")
    arrays = [np.asarray(p) for p in pictures]
    eyes = frame_fixation_maps(reader.world.dataset(dataset), table, [p.shape[:2] for p in arrays])
    seen = [e for e in eyes if e is not None]
    metric = "ew_psnr_db" if len(seen) == len(eyes) else "sw_psnr_db"
    weights: Sequence[NDArray[Any]] = seen if len(seen) == len(eyes) else predicted or []
    orders: dict[str, Sequence[NDArray[np.uint8]]] = {
        UNIFORM: [np.full(p.shape[:2], 255, np.uint8) for p in arrays],
        **{
            name: open_pairs(reader, dataset, "measured", maps=kind).maps or []
            for name, kind in ORDERS.items()
            if kind != "oracle" or metric == "ew_psnr_db"
        },
    }
    at_span = {f"{SALIENCY}, span {span:g}": span for span in spans}
    orders |= dict.fromkeys(at_span, orders[SALIENCY])
    work = [(order, i) for i in range(len(arrays)) for order in orders]

    def quality(i: int, shown: NDArray[np.uint8]) -> dict[str, float]:
        check_stopped()
        return {"psnr_db": psnr_db(arrays[i], shown), metric: psnr_db(arrays[i], shown, weights[i])}

    def given_of(order: str, i: int) -> Analysed:
        analysed: Analysed = codec.analysed(arrays[i], np.asarray(orders[order][i]))
        return analysed._replace(span=at_span.get(order))

    def some(item: tuple[str, int]) -> list[dict[str, Any]]:
        order, i = item
        given = given_of(order, i)
        whole = codec.encode_analysed(given, codec.rates[-2], progressive=True)
        plain = codec.encode_analysed(given, codec.rates[-2])
        if not np.array_equal(codec.decode(whole.data), codec.decode(plain.data)):
            raise FoveaError(
                f"{table.image.iloc[i]}, {order} order: the whole file shows another picture than a plain one"
            )
        pixels = given.width * given.height
        found = []
        for bpp in BPP:
            data = bitstream.cut(whole.data, int(bpp * pixels / 8))
            found.append((order, bpp, len(data), quality(i, codec.decode(data))))
        if order == UNIFORM:
            jpeg = _progressive_jpeg(arrays[i])
            for bpp in BPP:
                data = jpeg[: int(bpp * pixels / 8)]
                found.append((JPEG, bpp, len(data), quality(i, _decode_jpeg(data, arrays[i]))))
            for rate in codec.rates[:-1]:
                plain = codec.encode_analysed(given, rate)
                found.append((SEPARATE, rate, len(plain.data), quality(i, codec.decode_checked(plain))))
                data = bitstream.cut(whole.data, len(plain.data))
                found.append((ALIKE, rate, len(data), quality(i, codec.decode(data))))
        return [
            {"order": o, "image": table.image.iloc[i], "rate": r, "bpp": 8 * size / pixels, "seed": 0, **q}
            for o, r, size, q in found
        ]

    def gallery(i: int) -> Shown:
        files = {
            order: codec.encode_analysed(given_of(order, i), codec.rates[-2], progressive=True).data
            for order in (UNIFORM, SALIENCY)
        }
        shots = []
        for (order, data), size in itertools.product(files.items(), _places(files.values())):
            picture = codec.decode(data[:size])
            shots.append(Shot(order, len(data[:size]), picture, quality(i, picture)))
        return Shown(str(table.image.iloc[i]), arrays[i], weights[i], shots)

    rows: list[dict[str, Any]] = []
    first = range(min(PICTURES, len(arrays)))
    total = len(work) + len(first)
    for number, some_rows in enumerate(in_order(some, work, threads=threads), 1):
        rows += some_rows
        progress(number, total, "files cut")
    shown: list[Shown] = []
    for one in in_order(gallery, first, threads=threads):
        shown.append(one)
        progress(len(work) + len(shown), total, "files cut")
    worst = {"psnr_db": 0.0, metric: 0.0}
    for one, order in itertools.product(shown, (UNIFORM, SALIENCY)):
        _see_falls([shot.quality for shot in one.shots if shot.order == order], worst)
    points = pd.DataFrame(rows)
    return Cuts(points, _rates(points, metric), worst, metric, shown, len(work))


def _progressive_jpeg(picture: NDArray[np.uint8]) -> bytes:
    target = io.BytesIO()
    Image.fromarray(picture).save(target, "JPEG", quality=JPEG_QUALITY, progressive=True, optimize=True)
    return target.getvalue()


def _decode_jpeg(beginning: bytes, like: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What libjpeg shows of a file whose end is missing; grey where that is nothing."""
    try:
        return np.asarray(imagecodecs.jpeg8_decode(beginning + b"\xff\xd9"), np.uint8)
    except imagecodecs.Jpeg8Error:
        return np.full_like(like, 128)


def _places(files: Collection[bytes]) -> list[int]:
    """Numbers of bytes at which all of a picture's files are shown, up to where the longest is whole."""
    least, most = max(map(bitstream.first_part, files)), max(map(len, files))
    places: list[int] = np.linspace(least, most, PLACES).astype(int).tolist()
    return places


def _see_falls(qualities: list[dict[str, float]], worst: dict[str, float]) -> None:
    for before, after in itertools.pairwise(qualities):
        for name, value in worst.items():
            worst[name] = max(value, before[name] - after[name])


def _rates(points: pd.DataFrame, metric: str) -> pd.DataFrame:
    grids = {order: curve_grid(rows, ("bpp", "psnr_db", metric)) for order, rows in points.groupby("order", sort=False)}
    compared = [(UNIFORM, order) for order in grids if order not in (UNIFORM, SEPARATE, ALIKE, JPEG)]
    return pd.DataFrame(
        {"order": test, "against": anchor, **row}
        for anchor, test in ((SEPARATE, ALIKE), *compared, (JPEG, UNIFORM), (JPEG, SALIENCY))
        for row in compare_curves(grids[anchor], grids[test], ("pchip",))
    )


def cut_lines(cuts: Cuts) -> str:
    """As text: quality at each bpp, BD-rates with intervals, the largest fall."""
    points = cuts.points[~cuts.points["order"].isin([SEPARATE, ALIKE])]
    means = (points.pivot_table(name, "order", "rate", sort=False) for name in ("psnr_db", cuts.metric))
    lines = [
        f"mean {name} at bpp\n"
        + wide.sort_index(axis=1).rename(columns="{:.3f}".format).to_markdown(tablefmt="simple", floatfmt=".2f")
        for name, wide in zip(("psnr_db", cuts.metric), means, strict=True)
    ]
    for (order, against), rows in cuts.rates.groupby(["order", "against"], sort=False):
        said = ", ".join(f"{r['metric']} {_said(r)}" for r in records(rows))
        lines.append(f"{order if order == ALIKE else f'{order} order'} against {against}: {said}")
    falls = ", ".join(f"{name} {value:.3f} dB" for name, value in cuts.fall.items())
    lines.append(
        f"the whole file shows what a plain one of its rate shows, bit for bit: {cuts.same} of {cuts.same} files"
    )
    lines.append(f"largest fall from one of {PLACES} cuts to the next, first {PICTURES} pictures: {falls}")
    return "\n".join(lines)


def _said(row: Mapping[str, Any]) -> str:
    if row["status"] == "refused":
        return f"refused: {row['reason']}"
    return with_interval(row) + (f" ({row['reason']})" if row["status"] == "no_interval" else "")
