"""Integrals of many piecewise cubic interpolants at once: scipy's PCHIP and Akima, for curves that each have their own x."""

import numpy as np

from models.bootstrap import Floats
from models.errors import FoveaError

METHODS = ("pchip", "akima")


def _pchip_slopes(x: Floats, y: Floats) -> Floats:
    h, m = np.diff(x), np.diff(y) / np.diff(x)
    before, after, h_before, h_after = m[:, :-1], m[:, 1:], h[:, :-1], h[:, 1:]
    w1, w2 = 2 * h_after + h_before, h_after + 2 * h_before
    with np.errstate(divide="ignore", invalid="ignore"):
        inner = (w1 + w2) / (w1 / before + w2 / after)
    slopes = np.zeros_like(y)
    slopes[:, 1:-1] = np.where(before * after > 0, inner, 0.0)
    for end, h0, h1, m0, m1 in ((0, h[:, 0], h[:, 1], m[:, 0], m[:, 1]), (-1, h[:, -1], h[:, -2], m[:, -1], m[:, -2])):
        # one-sided three-point estimate that keeps the shape (Moler, Numerical Computing with MATLAB, 3.6)
        slope = ((2 * h0 + h1) * m0 - h0 * m1) / (h0 + h1)
        slope = np.where(np.sign(slope) != np.sign(m0), 0.0, slope)
        steep = (np.sign(m0) != np.sign(m1)) & (np.abs(slope) > 3 * np.abs(m0))
        slopes[:, end] = np.where(steep, 3 * m0, slope)
    return slopes


def _akima_slopes(x: Floats, y: Floats) -> Floats:
    inner = np.diff(y) / np.diff(x)
    m = np.empty((len(x), x.shape[1] + 3))
    m[:, 2:-2] = inner
    m[:, 1] = 2 * m[:, 2] - m[:, 3]
    m[:, 0] = 2 * m[:, 1] - m[:, 2]
    m[:, -2] = 2 * m[:, -3] - m[:, -4]
    m[:, -1] = 2 * m[:, -2] - m[:, -3]
    change = np.abs(np.diff(m))
    after, before = change[:, 2:], change[:, :-2]
    total = after + before
    # where all neighbouring slopes agree in pairs, the weights are 0/0: the mean of the outer slopes stands in
    undefined = total <= 1e-9 * total.max(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = m[:, 1:-2] + before / total * (m[:, 2:-1] - m[:, 1:-2])
    return np.where(undefined, 0.5 * (m[:, 3:] + m[:, :-3]), slopes)


def integrate(x: Floats, y: Floats, low: Floats, high: Floats, method: str) -> Floats:
    """Integrals of many piecewise cubic interpolants, each from its low to its high. x, y: curves × points, x rising along
    each row, at least 3 points. low, high: one a curve, inside x's range. Raises FoveaError for an unknown method."""
    if method not in METHODS:
        raise FoveaError(f"unknown interpolation {method!r}; known: {', '.join(METHODS)}")
    slopes = _pchip_slopes(x, y) if method == "pchip" else _akima_slopes(x, y)
    h = np.diff(x)
    y0, y1, d0, d1 = y[:, :-1], y[:, 1:], h * slopes[:, :-1], h * slopes[:, 1:]

    def antiderivative(t: Floats) -> Floats:
        # of the cubic Hermite basis on [0, 1]
        t2, t3, t4 = t * t, t**3, t**4
        return (
            y0 * (t4 / 2 - t3 + t) + d0 * (t4 / 4 - 2 * t3 / 3 + t2 / 2) + y1 * (t3 - t4 / 2) + d1 * (t4 / 4 - t3 / 3)
        )

    start = np.clip((low[:, None] - x[:, :-1]) / h, 0.0, 1.0)
    end = np.clip((high[:, None] - x[:, :-1]) / h, 0.0, 1.0)
    integrals: Floats = (h * (antiderivative(end) - antiderivative(start))).sum(axis=1)
    return integrals
