"""Measuring a learned codec on pictures: the bytes of a real file, and every metric of models/metrics.py."""

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
    """Rows for rd_points, and the reconstructions of the pictures that were asked for, by (image, lmbda or quality)."""

    rows: list[dict[str, Any]]
    kept: dict[tuple[str, float], Picture]


def measure_codec(
    codec: Any,
    subjects: Sequence[Subject],
    lambdas: Sequence[float],
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

    def one(subject: Subject) -> list[tuple[dict[str, Any], Picture]]:
        pixels = subject.picture.shape[0] * subject.picture.shape[1]
        found = []
        began = time.perf_counter()
        # the same for every rate, and so is its part of encode_s
        analysed = codec.analysed(subject.picture, subject.condition)
        analysis_s = time.perf_counter() - began
        for lmbda in lambdas:
            began = time.perf_counter()
            encoded = codec.encode_analysed(analysed, lmbda)
            middle = time.perf_counter()
            try:
                decoded = codec.decode_checked(encoded)
            except FoveaError as error:
                raise FoveaError(f"{subject.image}: {error}") from error
            ended = time.perf_counter()
            row = {
                **place_of(subject),
                "lmbda": lmbda,
                "bytes": len(encoded.data),
                "bpp": 8 * len(encoded.data) / pixels,
                "bpp_estimate": encoded.bits_estimate / pixels,
                **values_of(subject, decoded),
                "encode_s": analysis_s + middle - began,
                "decode_s": ended - middle,
            }
            found.append((row, decoded))
        return found

    work = [(s, lmbda) for s in subjects for lmbda in lambdas]
    measured = in_order(one, subjects, threads=max(1, threads))
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
    results: Iterable[tuple[dict[str, Any], Picture]],
    keep: frozenset[str],
    progress: Callable[[float, float, str], None],
) -> Measured:
    """Rows and kept pictures from the results of the work, in its order."""
    rows: list[dict[str, Any]] = []
    kept: dict[tuple[str, float], Picture] = {}
    for (subject, point), (row, decoded) in zip(work, results, strict=True):
        rows.append(row)
        if subject.image in keep:
            kept[subject.image, point] = decoded
        progress(len(rows), len(work), "files measured")
    return Measured(rows, kept)
