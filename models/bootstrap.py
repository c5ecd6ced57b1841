"""The percentile bootstrap: how often each thing is drawn in each resample, and the interval of what the draws give."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
TAIL = (1 - CONFIDENCE) / 2


@lru_cache(maxsize=64)
def resample_counts(n: int, resamples: int, seed: int = 0, *, block: int = 1) -> Floats:
    """How often each of n things is drawn in each resample: resamples × n, rows sum to n. Read-only.

    block: runs of so many neighbours are drawn together, around the end (circular block bootstrap, Politis and Romano
    1992): neighbours in a video are nearly the same picture, and drawn one by one they would pass for so many more.
    """
    rng = np.random.default_rng(seed)
    if block == 1:
        counts = rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)
    else:
        starts = rng.integers(n, size=(resamples, -(-n // block)))
        places = (starts[:, :, None] + np.arange(block)).reshape(resamples, -1)[:, :n] % n
        counts = np.zeros((resamples, n))
        np.add.at(counts, (np.arange(resamples)[:, None], places), 1.0)
    counts.setflags(write=False)
    return counts


def interval(draws: Floats) -> tuple[float, float]:
    """The 95 % percentile interval of draws, without those that are NaN; NaN where no other is there."""
    known = draws[~np.isnan(draws)]
    low, high = np.quantile(known, (TAIL, 1 - TAIL)) if len(known) else (np.nan, np.nan)
    return float(low), float(high)
