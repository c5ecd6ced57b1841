"""Measuring a learned codec on pictures: the bytes of a real file, and every metric of models/metrics.py."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import FoveaError
from models.metrics import measure

Picture = NDArray[np.uint8]


def unseen(done: float, total: float, note: str) -> None:
    """A progress callback that shows nothing."""


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
    progress: Callable[[float, float, str], None] = unseen,
) -> Measured:
    """Encode each picture to a real file, decode the file, compare, measure.

    codec: models.codecs.base.Codec, ready to encode. One torch thread a picture and `threads` pictures at once, so a
    row never depends on the number of cores. encode_s and decode_s are seconds of one thread, as if each file were made
    alone. Raises FoveaError when a file does not decode to the encoder's own reconstruction.
    """
    from models.codecs.batch import in_order

    codec.name()  # known before threads ask for it at once

    def some(item: tuple[Subject, Sequence[float]]) -> list[tuple[dict[str, Any], Picture | None]]:
        subject, some_rates = item
        pixels = subject.picture.shape[0] * subject.picture.shape[1]
        found: list[tuple[dict[str, Any], Picture | None]] = []
        began = time.perf_counter()
        # the same for every rate, and so is its part of encode_s
        analysed = codec.analysed(subject.picture, subject.condition)
        analysis_s = time.perf_counter() - began
        for rate in some_rates:
            began = time.perf_counter()
            encoded = codec.encode_analysed(analysed, rate)
            middle = time.perf_counter()
            try:
                decoded = codec.decode_checked(encoded)
            except FoveaError as error:
                raise FoveaError(f"{subject.image}: {error}") from error
            ended = time.perf_counter()
            row = {
                **place_of(subject),
                "rate": rate,
                "bytes": len(encoded.data),
                "bpp": 8 * len(encoded.data) / pixels,
                "bpp_estimate": encoded.bits_estimate / pixels,
                **values_of(subject, decoded),
                "encode_s": analysis_s + middle - began,
                "decode_s": ended - middle,
            }
            found.append((row, decoded if subject.image in keep else None))
        return found

    work = [(s, rate) for s in subjects for rate in rates]
    threads = max(1, threads)
    # fewer pictures than threads: each is analysed more than once, so that all threads have something to do
    share = max(1, math.ceil(len(subjects) * len(rates) / max(threads, len(subjects), 1)))
    parts = [(s, rates[k : k + share]) for s in subjects for k in range(0, len(rates), share)]
    measured = in_order(some, parts, threads=threads)
    return collect(work, (row for rows in measured for row in rows), keep, progress)


def place_of(subject: Subject) -> dict[str, Any]:
    """Columns that name the picture."""
    return {"image": subject.image, "width": subject.picture.shape[1], "height": subject.picture.shape[0]}


def values_of(subject: Subject, decoded: Picture) -> dict[str, float]:
    """Every metric of a decoded picture."""
    return measure(
        subject.picture, decoded, saliency_map=subject.saliency_map, fixation_map=subject.fixation_map
    )


def collect(
    work: Sequence[tuple[Subject, float]],
    results: Iterable[tuple[dict[str, Any], Picture | None]],
    keep: frozenset[str],
    progress: Callable[[float, float, str], None],
) -> Measured:
    """Rows and kept pictures from the results of the work, in its order."""
    rows: list[dict[str, Any]] = []
    kept: dict[tuple[str, float], Picture] = {}
    for (subject, point), (row, picture) in zip(work, results, strict=True):
        rows.append(row)
        if picture is not None and subject.image in keep:
            kept[subject.image, point] = picture
        progress(len(rows), len(work), "files measured")
    return Measured(rows, kept)
