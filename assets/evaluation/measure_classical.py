"""Measuring the classical codecs, in the same way as the learned ones."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from assets.evaluation.measure import Picture, Subject, row_of
from models.codecs import classical


def measure_classical(name: str, subject: Subject, threads: int = 1) -> list[tuple[dict[str, Any], Picture]]:
    """A classical codec at each quality of its grid: rows for rd_points, and what the files decode to."""

    def one(quality: float) -> tuple[dict[str, Any], Picture]:
        began = time.perf_counter()
        data = classical.encode(name, quality, subject.picture, subject.saliency_map)
        middle = time.perf_counter()
        decoded = classical.decode(name, data)
        ended = time.perf_counter()
        row = row_of(subject, quality, data, decoded, middle - began, ended - middle)
        return {**row, "rate_name": "quality"}, decoded

    with ThreadPoolExecutor(max(1, threads)) as pool:
        return list(pool.map(one, map(float, classical.CLASSICAL[name].qualities)))
