"""BD-rate and BD-quality with paired bootstrap intervals, refused with a reason where they would mean nothing.

BD-rate (Bjøntegaard, VCEG-M33, 2001): the mean difference of log-rate between two curves over the qualities that both
reach, as a percentage of rate: −10 means a tenth fewer bits for the same quality. The curves are interpolated piecewise,
log-rate over quality, by PCHIP (Fritsch and Carlson 1980) or Akima (1970), as `scipy` does it. BD-quality is the mean
difference in dB over the rates that both reach. MS-SSIM enters as −10·log10(1 − x), x the mean over the images.

A comparison is refused when a curve has fewer than 4 points, is not strictly monotone (more bits, more quality), or the
interval that the curves share is less than a third of the shorter one's.

Intervals are 95 % percentile intervals of a paired bootstrap: images are drawn with replacement, the same ones for both
curves and all rates, and seeds likewise where there are several. Each resample goes through everything above; over 5 % of
refused resamples, or fewer than 5 images, mean no interval. A draw depends on nothing but the number of images and
seeds, so that a row does not change with what else is in the table.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from assets.evaluation.rate_distortion import (
    CLASSICAL_ARM,
    CONFIDENCE,
    CURVE_KEYS,
    EXTERNAL_ARM,
    MIN_IMAGES,
    RESAMPLES,
    Floats,
    Grid,
    curve_grid,
    label_arm,
    resample_counts,
    resampled_means,
)
from models.errors import FoveaError
from models.metrics import METRICS

METHODS = ("pchip", "akima")
BD_METRICS = ("psnr_db", "ms_ssim", "sw_psnr_db", "ew_psnr_db", "ew_ms_ssim")
MIN_POINTS = 4
MIN_OVERLAP = 1 / 3
MAX_REFUSED = 0.05
BASELINE = "uniform"
UNSEEDED = (CLASSICAL_ARM, EXTERNAL_ARM)
"""Arms that were not trained here: no seed of theirs pairs with ours."""

BD_RATE_COLUMNS: Mapping[str, str] = {
    "dataset": "str",
    "sweep": "str",
    "split": "str",
    "train_dataset": "str",
    "codec": "str",
    "preset": "str",
    "variant": "str",
    "anchor_arm": "str",  # an arm's label such as `uniform` or `saliency_gain@center`, or a classical codec's name
    "test_arm": "str",
    "maps": "str",  # the test arm's
    "metric": "str",
    "method": "str",
    "bd_rate_percent": "float64",
    "ci_low": "float64",
    "ci_high": "float64",
    "bd_quality_db": "float64",
    "bd_quality_ci_low": "float64",
    "bd_quality_ci_high": "float64",
    "overlap": "float64",  # shared quality interval over the shorter curve's, 0 to 1
    "n_images": "int64",
    "n_seeds": "int64",
    "refused_resamples": "float64",  # share, 0 to 1
    "status": "str",  # ok, no_interval, refused
    "reason": "str",
}
"""Columns of `bd_rates` and their dtypes, in order."""


class Comparison(NamedTuple):
    """Two curves by their values of `CURVE_KEYS`, and what the anchor is called in the table."""

    anchor: tuple[str, ...]
    test: tuple[str, ...]
    anchor_arm: str


class Delta(NamedTuple):
    """BD values of one pair of curves. Refused values are NaN, with the reason; overlap is a share, 0 to 1."""

    bd_rate_percent: float
    bd_quality_db: float
    overlap: float
    reason: str


def to_decibel(metric: str, values: Floats) -> Floats:
    """The scale on which curves of a metric are compared: itself for dB, −10·log10(1 − x) for a similarity."""
    if not METRICS[metric].decibel:
        return values
    return -10 * np.log10(np.maximum(1 - values, 1e-10))


def _pchip_slopes(x: Floats, y: Floats) -> Floats:
    h, m = np.diff(x), np.diff(y) / np.diff(x)
    before, after, h_before, h_after = m[:, :-1], m[:, 1:], h[:, :-1], h[:, 1:]
    w1, w2 = 2 * h_after + h_before, h_after + 2 * h_before
    with np.errstate(divide="ignore", invalid="ignore"):
        inner = (w1 + w2) / (w1 / before + w2 / after)
    slopes = np.zeros_like(y)
    slopes[:, 1:-1] = np.where(before * after > 0, inner, 0.0)
    for end, h0, h1, m0, m1 in (
        (0, h[:, 0], h[:, 1], m[:, 0], m[:, 1]),
        (-1, h[:, -1], h[:, -2], m[:, -1], m[:, -2]),
    ):
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
    """Integrals of many piecewise cubic interpolants, each from its low to its high.

    x, y: curves × points, x rising along each row, at least 3 points. low, high: one a curve, inside x's range.
    Raises FoveaError for an unknown method.
    """
    if method not in METHODS:
        raise FoveaError(f"unknown interpolation {method!r}; known: {', '.join(METHODS)}")
    slopes = _pchip_slopes(x, y) if method == "pchip" else _akima_slopes(x, y)
    h = np.diff(x)
    y0, y1, d0, d1 = y[:, :-1], y[:, 1:], h * slopes[:, :-1], h * slopes[:, 1:]

    def antiderivative(t: Floats) -> Floats:
        # of the cubic Hermite basis on [0, 1]
        t2, t3, t4 = t * t, t**3, t**4
        return (
            y0 * (t4 / 2 - t3 + t)
            + d0 * (t4 / 4 - 2 * t3 / 3 + t2 / 2)
            + y1 * (t3 - t4 / 2)
            + d1 * (t4 / 4 - t3 / 3)
        )

    start = np.clip((low[:, None] - x[:, :-1]) / h, 0.0, 1.0)
    end = np.clip((high[:, None] - x[:, :-1]) / h, 0.0, 1.0)
    integrals: Floats = (h * (antiderivative(end) - antiderivative(start))).sum(axis=1)
    return integrals


class _Deltas(NamedTuple):
    """`Delta` for many pairs at once; `why` indexes `_REASONS`."""

    rate: Floats
    quality: Floats
    overlap: Floats
    why: Floats


_REASONS = (
    "",
    "a value is missing or not finite",
    "the anchor's curve is not monotone",
    "the test's curve is not monotone",
    "the curves share no interval of quality",
    "the curves share {overlap:.0%} of the shorter one's interval of quality, less than a third",
)


def _mean_difference(
    x_anchor: Floats, y_anchor: Floats, x_test: Floats, y_test: Floats, method: str
) -> tuple[Floats, Floats]:
    """Mean of test − anchor over the shared interval of x, and that interval's share of the shorter curve's."""
    low = np.maximum(x_anchor[:, 0], x_test[:, 0])
    high = np.minimum(x_anchor[:, -1], x_test[:, -1])
    shorter = np.minimum(x_anchor[:, -1] - x_anchor[:, 0], x_test[:, -1] - x_test[:, 0])
    width = high - low
    difference = integrate(x_test, y_test, low, high, method) - integrate(
        x_anchor, y_anchor, low, high, method
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        return difference / width, np.maximum(width, 0) / shorter


def _deltas(
    anchor_bpp: Floats, anchor_quality: Floats, test_bpp: Floats, test_quality: Floats, method: str
) -> _Deltas:
    """BD values of many pairs of curves, pairs × points (in any order of points); at least 3 points each."""
    n = len(anchor_bpp)
    result = _Deltas(np.full(n, np.nan), np.full(n, np.nan), np.full(n, np.nan), np.zeros(n))
    finite = np.ones(n, bool)
    curves = []
    for bpp, quality in ((anchor_bpp, anchor_quality), (test_bpp, test_quality)):
        finite &= (np.isfinite(bpp) & (bpp > 0) & np.isfinite(quality)).all(axis=1)
        order = np.argsort(bpp, axis=1)
        curves.append((np.take_along_axis(bpp, order, 1), np.take_along_axis(quality, order, 1)))
    rising = [(np.diff(b) > 0).all(axis=1) & (np.diff(q) > 0).all(axis=1) for b, q in curves]
    result.why[:] = np.select([~finite, ~rising[0], ~rising[1]], [1, 2, 3], 0)
    usable = np.flatnonzero(result.why == 0)
    if not len(usable):
        return result
    (rate_a, quality_a), (rate_t, quality_t) = ((np.log(b[usable]), q[usable]) for b, q in curves)
    log_ratio, overlap = _mean_difference(quality_a, rate_a, quality_t, rate_t, method)
    gain, rate_overlap = _mean_difference(rate_a, quality_a, rate_t, quality_t, method)
    result.overlap[usable] = overlap
    result.why[usable] = np.select([overlap <= 0, overlap < MIN_OVERLAP], [4, 5], 0)
    result.rate[usable] = np.where(overlap >= MIN_OVERLAP, 100 * np.expm1(log_ratio), np.nan)
    result.quality[usable] = np.where((overlap >= MIN_OVERLAP) & (rate_overlap >= MIN_OVERLAP), gain, np.nan)
    return result


def bd_delta(
    anchor_bpp: Sequence[float] | Floats,
    anchor_quality: Sequence[float] | Floats,
    test_bpp: Sequence[float] | Floats,
    test_quality: Sequence[float] | Floats,
    method: str = "pchip",
) -> Delta:
    """BD-rate in per cent and BD-quality in dB of one curve against another, points in any order.

    Raises FoveaError for an unknown method; a pair that can't be compared comes back with its reason.
    """
    arrays = [np.asarray(a, np.float64)[None] for a in (anchor_bpp, anchor_quality, test_bpp, test_quality)]
    refusal = _too_few(arrays[0].shape[1], arrays[2].shape[1])
    if refusal:
        return Delta(float("nan"), float("nan"), float("nan"), refusal)
    deltas = _deltas(arrays[0], arrays[1], arrays[2], arrays[3], method)
    return Delta(
        float(deltas.rate[0]), float(deltas.quality[0]), float(deltas.overlap[0]), _reason(deltas, 0)
    )


def _reason(deltas: _Deltas, index: int) -> str:
    return _REASONS[int(deltas.why[index])].format(overlap=deltas.overlap[index])


def _too_few(anchor_points: int, test_points: int) -> str:
    for who, count in (("anchor", anchor_points), ("test", test_points)):
        if count < MIN_POINTS:
            return f"the {who}'s curve has {count} points, fewer than {MIN_POINTS}"
    return ""


class _Pair(NamedTuple):
    """Two curves over the same images and seeds, rates × seeds × images, and what had to be left out."""

    anchor_bpp: Floats
    anchor_quality: Floats
    test_bpp: Floats
    test_quality: Floats
    note: str


def _align(anchor: Grid, test: Grid, metric: str, *, seeds_pair: bool) -> _Pair:
    """Images and seeds that both curves have at every rate. A classical anchor has no seeds: it meets each of test's."""
    chosen = []
    if seeds_pair:
        complete = [
            {s for i, s in enumerate(g.seeds) if not np.isnan(g.values[metric][:, i]).all(axis=1).any()}
            for g in (anchor, test)
        ]
        shared = sorted(complete[0] & complete[1])
        chosen = [[g.seeds.index(s) for s in shared] for g in (anchor, test)]
    else:
        seeds = [
            i for i in range(len(test.seeds)) if not np.isnan(test.values[metric][:, i]).all(axis=1).any()
        ]
        chosen = [[0] * len(seeds), seeds]
    images = sorted(set(anchor.images) & set(test.images))
    cut = []
    for grid, seeds in zip((anchor, test), chosen, strict=True):
        at = {image: i for i, image in enumerate(grid.images)}
        index = np.ix_(range(len(grid.rates)), seeds, [at[i] for i in images])
        cut += [grid.values["bpp"][index], grid.values[metric][index]]
    known = np.ones(len(images), bool)
    for array in cut:
        known &= ~np.isnan(array).any(axis=(0, 1))
    notes = []
    everything = len(set(anchor.images) | set(test.images))
    if known.sum() < everything:
        notes.append(
            f"{everything - int(known.sum())} of {everything} pictures left out: not measured everywhere"
        )
    seeds_seen = len(set(anchor.seeds) | set(test.seeds)) if seeds_pair else len(test.seeds)
    if len(chosen[1]) < seeds_seen:
        notes.append(f"{seeds_seen - len(chosen[1])} of {seeds_seen} seeds left out: not trained everywhere")
    a_bpp, a_quality, t_bpp, t_quality = (array[:, :, known] for array in cut)
    return _Pair(a_bpp, a_quality, t_bpp, t_quality, "; ".join(notes))


class _Means(NamedTuple):
    """Both curves in one or many draws, draws × points: bpp and quality on the scale of comparison."""

    anchor_bpp: Floats
    anchor_quality: Floats
    test_bpp: Floats
    test_quality: Floats


def _draw(pair: _Pair, metric: str, image_counts: Floats, seed_counts: Floats) -> _Means:
    a_bpp, a_quality, t_bpp, t_quality = (
        resampled_means(values, image_counts, seed_counts)
        for values in (pair.anchor_bpp, pair.anchor_quality, pair.test_bpp, pair.test_quality)
    )
    return _Means(a_bpp, to_decibel(metric, a_quality), t_bpp, to_decibel(metric, t_quality))


def _compare(
    pair: _Pair, metric: str, methods: Iterable[str], resamples: int
) -> dict[str, dict[str, object]]:
    """The measured columns of a row for each method; the draws are made once."""
    n_seeds, n_images = pair.test_bpp.shape[1:]
    blank: dict[str, object] = {
        **dict.fromkeys(("bd_rate_percent", "ci_low", "ci_high", "bd_quality_db"), np.nan),
        **dict.fromkeys(("bd_quality_ci_low", "bd_quality_ci_high", "overlap", "refused_resamples"), np.nan),
        "n_images": n_images,
        "n_seeds": n_seeds,
        "status": "refused",
    }
    refusal = _too_few(len(pair.anchor_bpp), len(pair.test_bpp))
    if n_images == 0 or n_seeds == 0:
        refusal = "no picture was measured by both at every rate"
    if refusal:
        return {method: blank | {"reason": _join(refusal, pair.note)} for method in methods}
    mean = _draw(pair, metric, np.ones((1, n_images)), np.ones((1, n_seeds)))
    drawn = None
    if n_images >= MIN_IMAGES:
        counts = resample_counts(n_images, resamples, 0), resample_counts(n_seeds, resamples, 1)
        drawn = _draw(pair, metric, *counts)
    return {method: blank | _measure(mean, drawn, n_images, method, pair.note) for method in methods}


def _join(*reasons: str) -> str:
    return "; ".join(filter(None, reasons))


def _measure(mean: _Means, drawn: _Means | None, n_images: int, method: str, note: str) -> dict[str, object]:
    point = _deltas(*mean, method)
    row: dict[str, object] = {"overlap": point.overlap[0]}
    refusal = _reason(point, 0)
    if refusal:
        return row | {"status": "refused", "reason": _join(refusal, note)}
    row |= {"bd_rate_percent": point.rate[0], "bd_quality_db": point.quality[0]}
    if drawn is None:
        few = f"no interval: {n_images} pictures, fewer than {MIN_IMAGES}"
        return row | {"status": "no_interval", "reason": _join(few, note)}
    deltas = _deltas(*drawn, method)
    kept = deltas.why == 0
    refused = 1 - float(kept.mean())
    row["refused_resamples"] = refused
    if refused > MAX_REFUSED:
        most = int(np.bincount(deltas.why[~kept].astype(int)).argmax())
        cause = "the curves share too little" if most == len(_REASONS) - 1 else _REASONS[most]
        many = f"no interval: {refused:.0%} of the resamples were refused, mostly because {cause}"
        return row | {"status": "no_interval", "reason": _join(many, note)}
    tail = (1 - CONFIDENCE) / 2
    row["ci_low"], row["ci_high"] = np.quantile(deltas.rate[kept], (tail, 1 - tail))
    quality = deltas.quality[kept & ~np.isnan(deltas.quality)]
    if not np.isnan(point.quality[0]) and len(quality) >= (1 - MAX_REFUSED) * len(kept):
        row["bd_quality_ci_low"], row["bd_quality_ci_high"] = np.quantile(quality, (tail, 1 - tail))
    return row | {"status": "ok", "reason": note}


def compare_curves(
    anchor: Grid,
    test: Grid,
    metric: str,
    methods: Iterable[str] = METHODS,
    *,
    resamples: int = RESAMPLES,
    seeds_pair: bool = True,
) -> dict[str, dict[str, object]]:
    """The measured columns of `BD_RATE_COLUMNS` (bd_rate_percent to reason) for each method, over what both curves have.

    seeds_pair: the same seed is the same training on both sides. Otherwise the anchor's only seed meets each of the test's.
    """
    return _compare(_align(anchor, test, metric, seeds_pair=seeds_pair), metric, methods, resamples)


def choose_comparisons(curves: Iterable[tuple[str, ...]]) -> list[Comparison]:
    """Which curve is held against which, from their `CURVE_KEYS`.

    Every arm against `uniform` of the same codec, preset and training (of its own variant where there is one, else of
    the plain one); every arm with predicted maps against the same arm with each control, since a gain that the centre
    bias gives too says nothing about saliency; and `uniform` against every classical codec and every checkpoint from elsewhere on the same pictures.
    """
    named = [(curve, dict(zip(CURVE_KEYS, curve, strict=True))) for curve in curves]

    def same(a: Mapping[str, str], b: Mapping[str, str], *keys: str) -> bool:
        return all(a[k] == b[k] for k in keys)

    place = ("dataset", "split")
    training = (*place, "train_dataset", "codec", "preset")
    chosen = []
    for test, t in named:
        if t["arm"] in UNSEEDED:
            continue
        if t["arm"] == BASELINE:
            chosen += [
                Comparison(
                    anchor, test, a["codec"] if a["arm"] == CLASSICAL_ARM else f"{a['variant']} (external)"
                )
                for anchor, a in named
                if a["arm"] in UNSEEDED and same(a, t, *place)
            ]
            continue
        baselines = {
            a["variant"]: anchor for anchor, a in named if a["arm"] == BASELINE and same(a, t, *training)
        }
        baseline = baselines.get(t["variant"], baselines.get(""))
        if baseline is not None:
            chosen.append(Comparison(baseline, test, BASELINE))
        if t["maps"] == "predicted":
            chosen += [
                Comparison(anchor, test, label_arm(a["arm"], a["maps"]))
                for anchor, a in named
                if same(a, t, *training, "arm", "variant") and a["maps"] not in ("predicted", "none")
            ]
    return chosen


NO_PICTURES = "no interval: a published curve has no pictures, its points alone are compared"


def published_rates(
    curves: pd.DataFrame, published: pd.DataFrame, *, sweep: str = "", methods: Iterable[str] = METHODS
) -> pd.DataFrame:
    """`uniform` of each codec against each published curve of the same pictures, by mean points; columns
    `BD_RATE_COLUMNS`, without intervals.

    curves, published: as `rd_curves` and `published_rows` give them.
    """
    rows: list[dict[str, object]] = []
    for key, anchor in published.groupby(list(CURVE_KEYS), sort=True, dropna=False):
        a = dict(zip(CURVE_KEYS, (str(k) for k in key), strict=True))
        tests = curves[
            (curves["arm"] == BASELINE)
            & (curves["dataset"] == a["dataset"])
            & (curves["split"] == a["split"])
        ]
        for test_key, test in tests.groupby(list(CURVE_KEYS), sort=True, dropna=False):
            t = dict(zip(CURVE_KEYS, (str(k) for k in test_key), strict=True))
            for metric in ("psnr_db", "ms_ssim"):
                if anchor[metric].isna().all() or test[metric].isna().all():
                    continue
                for method in methods:
                    delta = bd_delta(
                        anchor["bpp"].to_numpy(np.float64),
                        to_decibel(metric, anchor[metric].to_numpy(np.float64)),
                        test["bpp"].to_numpy(np.float64),
                        to_decibel(metric, test[metric].to_numpy(np.float64)),
                        method,
                    )
                    refused = np.isnan(delta.bd_rate_percent)
                    rows.append(
                        {
                            **{
                                k: t[k]
                                for k in ("dataset", "split", "train_dataset", "codec", "preset", "variant")
                            },
                            "sweep": sweep,
                            "anchor_arm": f"{a['codec']} (published)",
                            "test_arm": t["arm"],
                            "maps": t["maps"],
                            "metric": metric,
                            "method": method,
                            "bd_rate_percent": delta.bd_rate_percent,
                            "bd_quality_db": np.nan if refused else delta.bd_quality_db,
                            "overlap": delta.overlap,
                            "n_images": int(test["n_images"].max()),
                            "n_seeds": int(test["n_seeds"].max()),
                            "status": "refused" if refused else "no_interval",
                            "reason": delta.reason if refused else NO_PICTURES,
                        }
                    )
    return pd.DataFrame(rows, columns=list(BD_RATE_COLUMNS)).astype(dict(BD_RATE_COLUMNS))


def bd_rates(
    points: pd.DataFrame,
    *,
    sweep: str = "",
    comparisons: Iterable[Comparison] | None = None,
    metrics: Iterable[str] = BD_METRICS,
    methods: Iterable[str] = METHODS,
    resamples: int = RESAMPLES,
) -> pd.DataFrame:
    """One row per comparison × metric × method, with the columns of `BD_RATE_COLUMNS`.

    points: as `concat_points` gives them. comparisons: by default what `choose_comparisons` finds. A metric that a curve
    does not have (no fixations were recorded) gives no row; a refused comparison keeps its row, with null and the reason.
    """
    metrics, methods = tuple(metrics), tuple(methods)
    grids: dict[tuple[str, ...], Grid] = {}
    for key, curve in points.groupby(list(CURVE_KEYS), sort=True, dropna=False):
        grids[tuple(str(k) for k in key)] = curve_grid(curve, ("bpp", *metrics))
    rows = []
    for comparison in choose_comparisons(grids) if comparisons is None else comparisons:
        for side in (comparison.anchor, comparison.test):
            if side not in grids:
                raise FoveaError(f"bd_rates: no curve {' '.join(filter(None, side))} among the points")
        anchor, test = grids[comparison.anchor], grids[comparison.test]
        a, t = (dict(zip(CURVE_KEYS, side, strict=True)) for side in (comparison.anchor, comparison.test))
        for metric in metrics:
            if any(np.isnan(g.values[metric]).all() for g in (anchor, test)):
                continue
            compared = compare_curves(
                anchor, test, metric, methods, resamples=resamples, seeds_pair=a["arm"] not in UNSEEDED
            )
            for method, measured in compared.items():
                rows.append(
                    {
                        **{
                            k: t[k]
                            for k in ("dataset", "split", "train_dataset", "codec", "preset", "variant")
                        },
                        "sweep": sweep,
                        "anchor_arm": comparison.anchor_arm,
                        "test_arm": t["arm"],
                        "maps": t["maps"],
                        "metric": metric,
                        "method": method,
                        **measured,
                    }
                )
    return pd.DataFrame(rows, columns=list(BD_RATE_COLUMNS)).astype(dict(BD_RATE_COLUMNS))
