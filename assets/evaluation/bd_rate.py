"""BD-rate and BD-quality with paired bootstrap intervals, refused with a reason where they would mean nothing.

BD-rate (Bjøntegaard, VCEG-M33, 2001): the mean difference of log-rate between two curves over the qualities that both
reach, as a percentage of rate: −10 means a tenth fewer bits for the same quality. The curves are interpolated piecewise,
log-rate over quality, by PCHIP (Fritsch and Carlson 1980) or Akima (1970), as `scipy` does it. BD-quality is the mean
difference in dB over the rates that both reach. MS-SSIM enters as −10·log10(1 − x), x the mean over the images.

A comparison is refused when a curve has fewer than 4 points, is not strictly monotone (more bits, more quality), or the
interval that the curves share is less than a third of the shorter one's. Of a share (characters read) the least rates
are compared that reach each value: such curves end level.

Intervals are 95 % percentile intervals of a paired bootstrap: images are drawn with replacement, the same ones for both
curves and all rates, and seeds likewise where there are several. Each resample goes through everything above; over 5 % of
refused resamples, or fewer than 5 images, mean no interval. A draw depends on nothing but the number of images and
seeds, so that a row does not change with what else is in the table. Where trainings differ more than images do, few
seeds make intervals too narrow: of three seeds that vary five times as much as the mean over images, a 95 % interval
holds the truth three times in four.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from assets.evaluation.piecewise import METHODS, integrate
from assets.evaluation.rate_distortion import (
    CLASSICAL_ARM,
    EXTERNAL_ARM,
    MIN_IMAGES,
    RESAMPLES,
    CurveKey,
    Grid,
    curve_grid,
    curves_of,
    label_arm,
    resampled_means,
)
from models.bootstrap import Floats, interval, resample_counts
from models.judges import FALLING, KNOWN, SHARES, judged_in

BD_METRICS = ("psnr_db", "ms_ssim", "sw_psnr_db", "ew_psnr_db", "ew_ms_ssim")
MAIN_METRICS = ("ew_psnr_db", "sw_psnr_db")
MIN_POINTS = 4
MIN_OVERLAP = 1 / 3
MAX_REFUSED = 0.05
SHARE_LEVELS = 32
BASELINE = "uniform"
OWN_MAPS = ("none", "predicted")
"""Maps of arms that are no control."""
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
    "n_trained_on": "int64",  # of these pictures those that either side's codec was trained on
    "n_seeds": "int64",
    "refused_resamples": "float64",  # share, 0 to 1
    "status": "str",  # ok, no_interval, refused
    "reason": "str",
}
"""Columns of `bd_rates` and their dtypes, in order."""

MEASURED = tuple(BD_RATE_COLUMNS)[tuple(BD_RATE_COLUMNS).index("bd_rate_percent") :]
"""The columns that a comparison fills."""


class Comparison(NamedTuple):
    """Two curves, and what the anchor is called in the table."""

    anchor: CurveKey
    test: CurveKey
    anchor_arm: str


class Delta(NamedTuple):
    """BD values of one pair of curves. Refused values are NaN, with the reason; overlap is a share, 0 to 1."""

    bd_rate_percent: float
    bd_quality_db: float
    overlap: float
    reason: str


def main_metric(rates: pd.DataFrame, otherwise: str = "sw_psnr_db") -> str:
    """What comparisons are first judged by: where people looked, if that was recorded; else by the saliency model."""
    return next((m for m in MAIN_METRICS if (rates["metric"] == m).any()), otherwise)


def to_decibel(metric: str, values: Floats) -> Floats:
    """The scale on which curves of a metric are compared: itself for dB, −10·log10(1 − x) for a similarity, −x where less is
    better."""
    if not KNOWN[metric].decibel:
        return -values if metric in FALLING else values
    return -10 * np.log10(np.maximum(1 - values, 1e-10))


_REASONS = (
    "",
    "a value is missing or not finite",
    "the anchor's curve is not monotone",
    "the test's curve is not monotone",
    "the curves share no interval of quality: add rates at which both are as good",
    "the curves share {overlap:.0%} of the shorter one's interval of quality, less than a third: add rates at which both are as good",
)


def _mean_difference(
    x_anchor: Floats, y_anchor: Floats, x_test: Floats, y_test: Floats, method: str
) -> tuple[Floats, Floats]:
    """Mean of test − anchor over the shared interval of x, and that interval's share of the shorter curve's."""
    low = np.maximum(x_anchor[:, 0], x_test[:, 0])
    high = np.minimum(x_anchor[:, -1], x_test[:, -1])
    shorter = np.minimum(x_anchor[:, -1] - x_anchor[:, 0], x_test[:, -1] - x_test[:, 0])
    width = high - low
    difference = integrate(x_test, y_test, low, high, method) - integrate(x_anchor, y_anchor, low, high, method)
    return difference / width, np.maximum(width, 0) / shorter


class Sides(NamedTuple):
    """bpp and quality of two curves over the same pictures and seeds: rates × seeds × images as measured, or their means on
    the scale of comparison, draws × points."""

    anchor_bpp: Floats
    anchor_quality: Floats
    test_bpp: Floats
    test_quality: Floats

    def on_scale(self, metric: str) -> "Sides":
        """With the qualities by `to_decibel`."""
        anchor, test = (to_decibel(metric, q) for q in (self.anchor_quality, self.test_quality))
        return self._replace(anchor_quality=anchor, test_quality=test)


def _deltas(means: Sides, method: str) -> tuple[Floats, Floats, Floats, NDArray[np.int_]]:
    """What `Delta` has of many pairs of curves, points in any order, at least 3 each; the last are places in `_REASONS`."""
    curves, finite = [], np.ones(len(means.anchor_bpp), bool)
    for bpp, quality in (means[:2], means[2:]):
        finite &= (np.isfinite(bpp) & (bpp > 0) & np.isfinite(quality)).all(axis=1)
        order = np.argsort(bpp, axis=1)
        curves.append((np.take_along_axis(bpp, order, 1), np.take_along_axis(quality, order, 1)))
    rising = [(np.diff(b) > 0).all(axis=1) & (np.diff(q) > 0).all(axis=1) for b, q in curves]
    with np.errstate(all="ignore"):  # pairs that are refused
        (rate_a, quality_a), (rate_t, quality_t) = ((np.log(b), q) for b, q in curves)
        log_ratio, overlap = _mean_difference(quality_a, rate_a, quality_t, rate_t, method)
        gain, rate_overlap = _mean_difference(rate_a, quality_a, rate_t, quality_t, method)
        rate = 100 * np.expm1(log_ratio)
    overlap = np.where(finite & rising[0] & rising[1], overlap, np.nan)
    why = np.select([~finite, ~rising[0], ~rising[1], overlap <= 0, overlap < MIN_OVERLAP], [1, 2, 3, 4, 5])
    rate = np.where(why == 0, rate, np.nan)
    quality = np.where((why == 0) & (rate_overlap >= MIN_OVERLAP), gain, np.nan)
    return rate, quality, overlap, why


def delta(means: Sides, method: str) -> Delta:
    """BD-rate in per cent and BD-quality in dB of the first draw's pair of curves, points in any order. Raises FoveaError
    for an unknown method; a pair that can't be compared comes back with its reason."""
    for who, count in (("anchor", means.anchor_bpp.shape[1]), ("test", means.test_bpp.shape[1])):
        if count < MIN_POINTS:
            return Delta(
                np.nan, np.nan, np.nan, f"the {who}'s curve has {count} points, fewer than {MIN_POINTS}: add rates"
            )
    *found, why = _deltas(means, method)
    rate, quality, overlap = (float(values[0]) for values in found)
    return Delta(rate, quality, overlap, _REASONS[why[0]].format(overlap=overlap))


def _trained(grid: Grid, metric: str) -> dict[int, int]:
    """Seeds that have a value at every rate, with their places."""
    values = grid.values[metric]
    return {s: i for i, s in enumerate(grid.seeds) if not np.isnan(values[:, i]).all(axis=1).any()}


def _align(anchor: Grid, test: Grid, metric: str, *, seeds_pair: bool) -> tuple[Sides, int, str]:
    """Images and seeds that both curves have at every rate, on how many of the images a codec was trained, and what was left
    out. A classical anchor has no seeds: it meets each of test's."""
    ours, theirs = _trained(test, metric), _trained(anchor, metric)
    seeds = sorted(ours.keys() & theirs.keys()) if seeds_pair else sorted(ours)
    both, *of_images = np.intersect1d(anchor.images, test.images, return_indices=True)
    of_seeds = [theirs[s] if seeds_pair else 0 for s in seeds], [ours[s] for s in seeds]
    cut = []
    for grid, images, places in zip((anchor, test), of_images, of_seeds, strict=True):
        index = np.ix_(np.arange(len(grid.rates)), np.array(places, int), images)
        cut += [grid.values["bpp"][index], grid.values[metric][index]]
    known = ~np.any([np.isnan(array).any(axis=(0, 1)) for array in cut], axis=0)
    notes = []
    pictures = len(set(anchor.images) | set(test.images))
    if left := pictures - int(known.sum()):
        notes.append(f"{left} of {pictures} pictures left out: not measured everywhere")
    seen = len(set(anchor.seeds) | set(test.seeds)) if seeds_pair else len(test.seeds)
    if left := seen - len(seeds):
        notes.append(f"{left} of {seen} seeds left out: not trained everywhere")
    trained_on = len((anchor.trained_on | test.trained_on).intersection(both[known].tolist()))
    return Sides(*(array[:, :, known] for array in cut)), trained_on, "; ".join(notes)


def _draw(sides: Sides, metric: str, image_counts: Floats, seed_counts: Floats) -> Sides:
    """Means of each draw, draws × points."""
    means = Sides(*(resampled_means(values, image_counts, seed_counts) for values in sides)).on_scale(metric)
    return Sides(*_rising(*means[:2]), *_rising(*means[2:])) if metric in SHARES else means


def _rising(bpp: Floats, share: Floats) -> tuple[Floats, Floats]:
    """Curves of a share, draws × points, as the least bpp that reaches each of SHARE_LEVELS shares from the first
    point's to the highest: a share ends level, and falls by chance, so its curve is never strictly monotone. log-rate
    is linear over share between points that rise. A curve with fewer than MIN_POINTS of them comes back level, and is
    refused."""
    least = np.tile(np.arange(1.0, SHARE_LEVELS + 1), (len(bpp), 1))
    levels = np.zeros_like(least)
    for i, order in enumerate(np.argsort(bpp, axis=1)):
        b, s = bpp[i, order], share[i, order]
        new = np.flatnonzero(s > np.maximum.accumulate(np.concatenate([[-np.inf], s[:-1]])))
        if len(new) >= MIN_POINTS:
            levels[i] = np.linspace(s[new[0]], s[new[-1]], SHARE_LEVELS)
            least[i] = np.exp(np.interp(levels[i], s[new], np.log(b[new])))
    return least, levels


def _measure(mean: Sides, drawn: Sides | None, method: str, *, undrawn: str, note: str = "") -> dict[str, object]:
    """Columns of a row, those of `MEASURED` without the counts. undrawn: why there are no draws."""
    point = delta(mean, method)
    row: dict[str, object] = {"overlap": point.overlap}
    if point.reason:
        return row | {"status": "refused", "reason": _join(point.reason, note)}
    row |= {"bd_rate_percent": point.bd_rate_percent, "bd_quality_db": point.bd_quality_db}
    if drawn is None:
        return row | {"status": "no_interval", "reason": _join(f"no interval: {undrawn}", note)}
    rate, quality, _, why = _deltas(drawn, method)
    kept = why == 0
    refused = 1 - float(kept.mean())
    row["refused_resamples"] = refused
    if refused > MAX_REFUSED:
        most = int(np.bincount(why[~kept]).argmax())
        cause = "the curves share too little" if most == len(_REASONS) - 1 else _REASONS[most]
        many = f"no interval: {refused:.0%} of the resamples were refused, mostly because {cause}"
        return row | {"status": "no_interval", "reason": _join(many, note)}
    row["ci_low"], row["ci_high"] = interval(rate[kept])
    quality = quality[kept & ~np.isnan(quality)]
    if not np.isnan(point.bd_quality_db) and len(quality) >= (1 - MAX_REFUSED) * len(kept):
        row["bd_quality_ci_low"], row["bd_quality_ci_high"] = interval(quality)
    return row | {"status": "ok", "reason": note}


def _join(*reasons: str) -> str:
    return "; ".join(filter(None, reasons))


def compare_curves(
    anchor: Grid, test: Grid, methods: Sequence[str] = METHODS, *, resamples: int = RESAMPLES, seeds_pair: bool = True
) -> list[dict[str, object]]:
    """A row for each metric that both curves have and each method: metric, method, and the measured columns of
    `MEASURED`, over what both curves have.

    seeds_pair: the same seed is the same training on both sides. Otherwise the anchor's only seed meets each of the test's.
    """
    rows = []
    for metric in anchor.values:
        if metric == "bpp" or any(np.isnan(g.values[metric]).all() for g in (anchor, test)):
            continue
        sides, trained_on, note = _align(anchor, test, metric, seeds_pair=seeds_pair)
        n_seeds, n_images = sides.test_bpp.shape[1:]
        counted = {"metric": metric, "n_images": n_images, "n_trained_on": trained_on, "n_seeds": n_seeds}
        blank = {**dict.fromkeys(MEASURED, np.nan), **counted}
        if n_images == 0 or n_seeds == 0:
            reason = _join("no picture was measured by both at every rate", note)
            rows += [{**blank, "method": m, "status": "refused", "reason": reason} for m in methods]
            continue
        mean = _draw(sides, metric, np.ones((1, n_images)), np.ones((1, n_seeds)))
        drawn = None
        if n_images >= MIN_IMAGES:
            counts = resample_counts(n_images, resamples, 0), resample_counts(n_seeds, resamples, 1)
            drawn = _draw(sides, metric, *counts)
        few = f"{n_images} {'picture' if n_images == 1 else 'pictures'}, fewer than {MIN_IMAGES}"
        measured = ((m, _measure(mean, drawn, m, undrawn=few, note=note)) for m in methods)
        rows += [{**blank, "method": method, **row} for method, row in measured]
    return rows


def kind_of(test_arm: str, anchor_arm: str) -> str:
    """What a comparison is of: `arms` against the baseline, of an arm and its `controls`, of two `codecs` with the same arm, or
    with `others`' codecs."""
    if anchor_arm == BASELINE:
        return "arms"
    if anchor_arm.startswith(f"{test_arm}@"):
        return "controls"
    return "codecs" if anchor_arm.split(" ")[1:2] == [test_arm] else "others"


def choose_comparisons(curves: Iterable[CurveKey]) -> list[Comparison]:
    """Which curve is held against which.

    Every arm against `uniform` of the same codec, preset and training (of its own variant where there is one, else of
    the plain one), and each variant of `uniform` against the one with the fewest of its parts; every arm with predicted
    maps against the same arm with each control, since a gain that the centre bias gives too says nothing about
    saliency; every arm but the controls against the same arm of each codec before it by name, and against every classical
    codec and every checkpoint from elsewhere, on the same pictures.
    """
    known = list(curves)
    chosen = []
    for test in known:
        if test.arm in UNSEEDED:
            continue
        for other in known if test.maps in OWN_MAPS else ():
            if other.place != test.place:
                continue
            if other.arm in UNSEEDED:
                name = other.codec if other.arm == CLASSICAL_ARM else f"{other.variant} (external)"
                chosen.append(Comparison(other, test, name))
            elif other.codec < test.codec and (other.arm, other.maps) == (test.arm, test.maps):
                chosen.append(Comparison(other, test, _name_among(other, known)))
        chosen += _with_own(test, known)
    return chosen


def _name_among(curve: CurveKey, known: Sequence[CurveKey]) -> str:
    """Codec, arm and variant, and how it was trained where that alone tells it apart."""
    alike = [k for k in known if k._replace(preset=curve.preset, train_dataset=curve.train_dataset) == curve]
    more = (curve.preset, curve.train_dataset) if len(alike) > 1 else ()
    return " ".join(filter(None, (curve.codec, curve.arm, curve.variant, *more)))


def _with_own(test: CurveKey, known: Iterable[CurveKey]) -> list[Comparison]:
    """Against the baseline and the controls of the same training."""
    training = test._replace(arm="", maps="", variant="")
    alike = [a for a in known if a._replace(arm="", maps="", variant="") == training]
    baselines = {a.variant: a for a in alike if a.arm == BASELINE}
    if test.arm == BASELINE:
        told = _parts(test)
        less = [a for a in baselines.values() if _parts(a) < told]
        return [Comparison(min(less, key=lambda a: len(_parts(a))), test, BASELINE)] if less else []
    baseline = baselines.get(test.variant, baselines.get(""))
    chosen = [Comparison(baseline, test, BASELINE)] if baseline else []
    if test.maps == "predicted":
        same = [a for a in alike if (a.arm, a.variant) == (test.arm, test.variant)]
        controls = [a for a in same if a.maps not in OWN_MAPS]
        chosen += [Comparison(a, test, label_arm(a.arm, a.maps)) for a in controls]
    return chosen


def _parts(curve: CurveKey) -> set[str]:
    return {*curve.variant.split(",")} - {""}


NO_PICTURES = "a published curve has no pictures, its points alone are compared"


def published_rates(curves: pd.DataFrame, published: pd.DataFrame, *, sweep: str = "") -> pd.DataFrame:
    """`uniform` of each codec against each published curve of the same pictures, by mean points; columns `BD_RATE_COLUMNS`,
    without intervals. curves, published: as `rd_curves` and `published_rows` give them."""
    tests = curves_of(curves[curves["arm"] == BASELINE])
    rows = []
    for (a, anchor), (t, test) in itertools.product(curves_of(published), tests):
        head = {
            **_names(t, f"{a.codec} (published)", sweep),
            **{c: int(test[c].max()) for c in ("n_images", "n_trained_on", "n_seeds")},
        }
        for metric, method in itertools.product(("psnr_db", "ms_ssim"), METHODS):
            sides = Sides(*(c[k].to_numpy(np.float64)[None] for c in (anchor, test) for k in ("bpp", metric)))
            if t.place == a.place and not any(np.isnan(side).all() for side in sides):
                row = _measure(sides.on_scale(metric), None, method, undrawn=NO_PICTURES)
                rows.append({**head, "metric": metric, "method": method, **row})
    return _table(rows)


def _names(test: CurveKey, anchor_arm: str, sweep: str) -> dict[str, str]:
    names = test._asdict()
    return {"test_arm": names.pop("arm"), "anchor_arm": anchor_arm, "sweep": sweep, **names}


def _table(rows: list[dict[str, object]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(BD_RATE_COLUMNS)).astype(dict(BD_RATE_COLUMNS))


def bd_rates(
    points: pd.DataFrame,
    *,
    sweep: str = "",
    metrics: Iterable[str] | None = None,
    methods: Iterable[str] = METHODS,
    resamples: int = RESAMPLES,
) -> pd.DataFrame:
    """One row per comparison of `choose_comparisons` × metric × method, with the columns of `BD_RATE_COLUMNS`.

    points: as `concat_points` gives them. metrics: default `BD_METRICS` and what judges said. A metric that a curve
    does not have (no fixations were recorded) gives no row; a refused comparison keeps its row, with null and the reason.
    """
    metrics = (*BD_METRICS, *judged_in(points.columns)) if metrics is None else tuple(metrics)
    methods = tuple(methods)
    grids = {key: curve_grid(curve, ("bpp", *metrics)) for key, curve in curves_of(points)}
    rows: list[dict[str, object]] = []
    for anchor, test, anchor_arm in choose_comparisons(grids):
        pair = anchor.arm not in UNSEEDED
        compared = compare_curves(grids[anchor], grids[test], methods, resamples=resamples, seeds_pair=pair)
        rows += [{**_names(test, anchor_arm, sweep), **row} for row in compared]
    return _table(rows)
