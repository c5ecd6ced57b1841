"""Measuring a learned codec on pictures: the bytes of a real file, and every metric of models/metrics.py."""

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assets.graph import Progress, silent
from models.errors import FoveaError
from models.metrics import measure
from models.threads import check_stopped

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Subject:
    """One picture to measure on. condition: the map that the encoder is given; the others are what metrics weigh with."""

    image: str
    picture: Picture
    condition: Picture | None
    saliency_map: Picture
    fixation_map: NDArray[np.float32] | None


@dataclass(frozen=True)
class Measured:
    """Rows for rd_points, and the reconstructions of the pictures that were asked for, by (image, rate)."""

    rows: list[dict[str, Any]]
    kept: dict[tuple[str, float], Picture]


def measure_codec(
    codec: Any,
    subjects: Sequence[Subject],
    rates: Sequence[float],
    *,
    keep: frozenset[str] = frozenset(),
    threads: int = 1,
    progress: Progress = silent,
) -> Measured:
    """Encode each picture to a real file, decode the file, compare, measure.

    codec: models.codecs.base.Codec, ready to encode. One torch thread a picture and `threads` pictures at once, so a
    row never depends on the number of cores. encode_s and decode_s are seconds of one thread, as if each file were made
    alone. Raises FoveaError, naming the picture, when it is too large for a file, or when one does not decode to the
    encoder's own reconstruction.
    """
    from models.codecs.batch import in_order

    codec.name()  # known before threads ask for it at once

    def some(item: tuple[Subject, Sequence[float]]) -> list[tuple[dict[str, Any], Picture | None]]:
        try:
            return files_of(*item)
        except FoveaError as error:
            raise FoveaError(f"{item[0].image}: {error}") from error

    def files_of(subject: Subject, some_rates: Sequence[float]) -> list[tuple[dict[str, Any], Picture | None]]:
        found: list[tuple[dict[str, Any], Picture | None]] = []
        began = time.perf_counter()
        # the same for every rate, and so is its part of encode_s
        analysed = codec.analysed(subject.picture, subject.condition)
        analysis_s = time.perf_counter() - began
        for rate in some_rates:
            check_stopped()
            began = time.perf_counter()
            encoded = codec.encode_analysed(analysed, rate)
            middle = time.perf_counter()
            decoded = codec.decode_checked(encoded)
            ended = time.perf_counter()
            row = row_of(subject, rate, encoded.data, decoded, analysis_s + middle - began, ended - middle)
            row["bpp_estimate"] = encoded.bits_estimate / (row["width"] * row["height"])
            found.append((row, decoded if subject.image in keep else None))
        return found

    threads = max(1, threads)
    # fewer pictures than threads: each is analysed more than once, so that all threads have something to do
    total = len(subjects) * len(rates)
    share = max(1, math.ceil(total / max(threads, len(subjects), 1)))
    parts = [(s, rates[k : k + share]) for s in subjects for k in range(0, len(rates), share)]
    rows: list[dict[str, Any]] = []
    kept: dict[tuple[str, float], Picture] = {}
    for row, picture in itertools.chain.from_iterable(in_order(some, parts, threads=threads)):
        rows.append(row)
        if picture is not None:
            kept[row["image"], row["rate"]] = picture
        progress(len(rows), total, "files measured")
    return Measured(rows, kept)


def row_of(
    subject: Subject, rate: float, data: bytes, decoded: Picture, encode_s: float, decode_s: float
) -> dict[str, Any]:
    """What is known of one file: the columns of rd_points from image to decode_s."""
    height, width = subject.picture.shape[:2]
    maps: dict[str, Any] = {"saliency_map": subject.saliency_map, "fixation_map": subject.fixation_map}
    return {
        "image": subject.image,
        "width": width,
        "height": height,
        "rate": rate,
        "bytes": len(data),
        "bpp": 8 * len(data) / (height * width),
        **measure(subject.picture, decoded, **maps),
        "encode_s": encode_s,
        "decode_s": decode_s,
    }
