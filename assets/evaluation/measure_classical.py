"""Measuring the classical codecs, in the same way as the learned ones."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from assets.evaluation.measure import Measured, Picture, Subject, collect, place_of, unseen, values_of
from models.codecs import classical
from models.errors import FoveaError


def measure_classical(
    name: str,
    subjects: Sequence[Subject],
    *,
    keep: frozenset[str] = frozenset(),
    threads: int = 1,
    progress: Callable[[float, float, str], None] = unseen,
) -> Measured:
    """A classical codec at each quality of its grid. Raises FoveaError for an unknown name."""
    if name not in classical.CLASSICAL:
        raise FoveaError(f"unknown classical codec {name!r}; known: {', '.join(classical.CLASSICAL)}")
    work = [(s, float(q)) for s in subjects for q in classical.CLASSICAL[name].qualities]

    def one(item: tuple[Subject, float]) -> tuple[dict[str, Any], Picture]:
        subject, quality = item
        began = time.perf_counter()
        data = classical.encode(name, quality, subject.picture)
        middle = time.perf_counter()
        decoded = classical.decode(name, data)
        ended = time.perf_counter()
        pixels = subject.picture.shape[0] * subject.picture.shape[1]
        row = {
            **place_of(subject),
            "rate_name": "quality",
            "rate": quality,
            "bytes": len(data),
            "bpp": 8 * len(data) / pixels,
            **values_of(subject, decoded),
            "encode_s": middle - began,
            "decode_s": ended - middle,
        }
        return row, decoded

    with ThreadPoolExecutor(max(1, threads)) as pool:
        return collect(work, pool.map(one, work), keep, progress)
