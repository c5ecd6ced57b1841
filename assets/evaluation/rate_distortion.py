"""Rate–distortion points and curves: one row per picture × experiment × dataset, and their means with intervals.

A *curve* is what `CURVE_KEYS` names: one codec, arm, maps and training on one part of one dataset. Its *points* are the
values of its rate: of lmbda or of the code channels (learned codecs, a value being an experiment of its own or a level of
a variable-rate one), or of quality (classical codecs).
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from models.bootstrap import Floats, interval, resample_counts
from models.errors import FoveaError
from models.judges import judged_in
from models.metrics import METRICS

CLASSICAL_ARM = "classical"
"""`arm` of the classical codecs' rows; their `maps` is "none", train_dataset, preset, variant and experiment are empty."""

EXTERNAL_ARM = "external"
"""`arm` of checkpoints that were trained elsewhere; their `variant` is the name that the user gave, `experiment` holds the
file's SHA-256."""

PUBLISHED_ARM = "published"
"""`arm` of curves that others published: means only, without pictures, so in `rd_curves` alone and without intervals."""

REFERENCE_ARMS = (CLASSICAL_ARM, EXTERNAL_ARM, PUBLISHED_ARM)
"""Arms that nothing here trained: what `uniform` is held against, so that it is known where it stands."""

RD_POINT_COLUMNS: Mapping[str, str] = {
    "dataset": "str",
    "split": "str",
    "image": "str",
    "train_dataset": "str",
    "codec": "str",
    "arm": "str",  # without its control: `saliency_gain` with maps `center`, not `saliency_gain@center`
    "maps": "str",
    "preset": "str",
    "variant": "str",  # what else sets one curve apart from another of the same arm, such as `gamma=0.5,span=4`
    "rate_name": "str",  # what `rate` is: `lmbda`, `channels`, `quality`
    "rate": "float64",
    "seed": "Int64",
    "experiment": "str",
    "width": "int64",
    "height": "int64",
    "trained_on": "boolean",  # whether the codec's weights come from this very picture, too, where that is known
    "bytes": "int64",
    "bpp": "float64",
    "bpp_estimate": "float64",
    **dict.fromkeys(METRICS, "float64"),
    "encode_s": "float64",
    "decode_s": "float64",
    "mlflow_run_id": "str",
}
"""Columns of `rd_points` and their dtypes, in order; behind them those of judges (models/judges.py), where there are some."""


class CurveKey(NamedTuple):
    """What sets one curve apart from another; the columns have the same names."""

    dataset: str
    split: str
    train_dataset: str
    codec: str
    arm: str
    maps: str
    preset: str
    variant: str

    @property
    def place(self) -> str:
        """The pictures that it was measured on, as pages name them."""
        return place_of(self._asdict())


CURVE_KEYS = CurveKey._fields
POINT_KEYS = ("rate_name", "rate")
_ROW_KEYS = (*CURVE_KEYS, *POINT_KEYS, "seed", "experiment", "image")
_NEEDED = ("dataset", "split", "image", "codec", "arm", "maps", "bytes", "width", "height")
_BLANK = {column: "" for column, dtype in RD_POINT_COLUMNS.items() if dtype == "str"}

RESAMPLES = 2000
MIN_IMAGES = 5
"""Pictures that an interval takes: resampled, fewer give little more than their smallest and largest."""


def place_of(row: Mapping[str, Any]) -> str:
    """The pictures that a row speaks of, as pages name them."""
    return f"{row['dataset']} · {row['split']}"


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as dictionaries by column name."""
    return [{str(k): v for k, v in row.items()} for row in table.to_dict("records")]


def curves_of(table: pd.DataFrame) -> list[tuple[CurveKey, pd.DataFrame]]:
    """The curves of `rd_points` or `rd_curves` with their rows, by key."""
    groups = table.groupby(list(CURVE_KEYS), sort=True, dropna=False)
    return [(CurveKey(*map(str, key)), rows) for key, rows in groups]


def label_arm(arm: str, maps: str) -> str:
    """An arm as tables and legends write it: `saliency_gain`, `saliency_gain@center`, `uniform`."""
    return arm if maps in ("", "none", "predicted") or "@" in arm else f"{arm}@{maps}"


def concat_points(pieces: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """All pieces as one table with the columns and dtypes of `RD_POINT_COLUMNS`, sorted, so that order of arrival is
    no difference.

    A missing column is filled (bpp from bytes and size, text with "", numbers with NaN). Raises FoveaError for an unknown
    column, for a missing one that nothing can stand in for, and for a point that occurs twice.
    """
    frames, pieces = [], list(pieces)
    columns = dict(RD_POINT_COLUMNS) | dict.fromkeys(judged_in({c for p in pieces for c in p.columns}), "float64")
    for piece in pieces:
        unknown = [c for c in piece.columns if c not in columns]
        missing = [c for c in _NEEDED if c not in piece.columns]
        if unknown or missing:
            said = [f"missing columns {missing}"] if missing else []
            said += [f"unknown columns {unknown[:5]}"] if unknown else []
            raise FoveaError(f"rd_points: {', '.join(said)}; needed are {', '.join(_NEEDED)}")
        if "bpp" not in piece.columns:
            piece = piece.assign(bpp=8.0 * piece["bytes"] / (piece["width"] * piece["height"]))
        filled = piece.reindex(columns=list(columns)).astype(columns)
        frames.append(filled.fillna(_BLANK))
    if not frames:
        return pd.DataFrame({c: pd.Series(dtype=d) for c, d in RD_POINT_COLUMNS.items()})
    table = pd.concat(frames, ignore_index=True).sort_values(list(_ROW_KEYS), ignore_index=True, kind="stable")
    twice = table.duplicated(subset=list(_ROW_KEYS))
    if twice.any():
        row = table[twice].iloc[0]
        raise FoveaError(
            f"rd_points: {row['image']} of {row['dataset']} stands twice under {row['codec']} {row['experiment']}"
            f" ({row['rate_name']} {row['rate']})"
        )
    return table


class Grid(NamedTuple):
    """One curve as arrays over rates (rising) × seeds × images; NaN where a cell was not measured. trained_on: the images that
    its codec is known to come from."""

    rates: Floats
    seeds: tuple[int, ...]
    images: tuple[str, ...]
    values: dict[str, Floats]
    trained_on: frozenset[str] = frozenset()


def curve_grid(points: pd.DataFrame, columns: Iterable[str]) -> Grid:
    """The points of one curve as arrays. Raises FoveaError where two experiments claim the same cell."""
    rate = points["rate"].to_numpy(np.float64)
    if np.isnan(rate).any():
        raise FoveaError("rd_points: a row has no rate")
    cells = points.assign(rate=rate, seed=points["seed"].fillna(0).astype(int)).set_index(["rate", "seed", "image"])
    if cells.index.has_duplicates:
        first = points.iloc[0]
        raise FoveaError(
            f"rd_points: two experiments claim one point of {first['codec']} {label_arm(first['arm'], first['maps'])};"
            " set them apart in the column `variant`"
        )
    rates, seeds, images = (np.unique(cells.index.get_level_values(level)) for level in range(3))
    whole = cells.reindex(pd.MultiIndex.from_product([rates, seeds, images]))
    shape = (len(rates), len(seeds), len(images))
    values = {column: whole[column].to_numpy(np.float64).reshape(shape) for column in columns}
    return Grid(rates, tuple(seeds.tolist()), tuple(images.tolist()), values, frozenset(_trained_on(points)["image"]))


def _trained_on(points: pd.DataFrame) -> pd.DataFrame:
    return points[points["trained_on"].fillna(False).astype(bool)] if "trained_on" in points else points[:0]


def shared_parts(table: pd.DataFrame) -> tuple[str, ...]:
    """Parts of `variant` that all curves of Fovea's own training have, in order: what a label need not repeat. table:
    `rd_curves` or `rd_points`. None where only one training is there."""
    named = [key for key in CURVE_KEYS if key not in ("dataset", "split")]
    own = table.loc[~table["arm"].isin(REFERENCE_ARMS), named].drop_duplicates()
    return common_parts(own["variant"])


def common_parts(variants: Iterable[str]) -> tuple[str, ...]:
    """Parts that all of these variants have, in order; none where there are fewer than two."""
    first, *others = [v.split(",") for v in variants] or [[]]
    return tuple(part for part in first if part and others and all(part in other for other in others))


def told_apart(table: pd.DataFrame) -> pd.DataFrame:
    """The table with preset and training dataset among the parts of its own curves' `variant`, each where several curves
    would have one label without it. table: of curves, or of comparisons, where `test_arm` names the curve's arm."""
    arm = "arm" if "arm" in table.columns else "test_arm"
    named = [arm if key == "arm" else key for key in CURVE_KEYS]
    if not {*named} <= {*table.columns}:
        return table
    own = ~table[arm].isin(REFERENCE_ARMS)
    curves = table.loc[own, named].drop_duplicates()
    variant = table["variant"].astype(str)
    for key in ("preset", "train_dataset"):
        others = [k for k in named if k not in ("preset", "train_dataset")]
        if (curves.groupby(others, dropna=False)[key].nunique() > 1).any():
            variant = variant.where(~own, variant + "," + f"{key}=" + table[key].astype(str))
    return table.assign(variant=variant.str.removeprefix(","))


def without_parts(table: pd.DataFrame, parts: Collection[str]) -> pd.DataFrame:
    """The table with these parts taken out of its own curves' `variant` (`test_arm` names the curve where there is no
    `arm`); a table without these columns comes back as it is."""
    arm = next((c for c in ("arm", "test_arm") if c in table.columns), "")
    if not (parts and arm and "variant" in table.columns):
        return table
    left = table["variant"].map(lambda variant: ",".join(p for p in str(variant).split(",") if p not in parts))
    return table.assign(variant=left.where(~table[arm].isin(REFERENCE_ARMS), table["variant"]))


def resampled_means(values: Floats, image_counts: Floats, seed_counts: Floats) -> Floats:
    """Weighted means of rates × seeds × images, resamples × rates. Cells that are NaN are left out of both sums."""
    known = ~np.isnan(values)
    filled = np.where(known, values, 0.0)

    def total(cells: Floats) -> Floats:
        rates, seeds, images = cells.shape
        over_images = image_counts @ cells.reshape(rates * seeds, images).T
        return np.asarray(np.einsum("brs,bs->br", over_images.reshape(-1, rates, seeds), seed_counts))

    sums = total(filled)
    if known.all():
        return np.asarray(sums / (values.shape[1] * values.shape[2]))
    counts = total(known.astype(np.float64))
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def rd_curves(points: pd.DataFrame, *, resamples: int = RESAMPLES) -> pd.DataFrame:
    """Means over images and seeds of bpp and every metric, one row per point of a curve.

    For each measured column there are `X`, `X_low` and `X_high`: the mean and its 95 % percentile bootstrap interval,
    images drawn with replacement (seeds too, where there are several). With fewer than MIN_IMAGES images there is no
    interval. `experiments` and `mlflow_run_ids` hold what the point was measured from, separated by spaces.
    """
    measured = ["bpp", "bpp_estimate", *METRICS, "encode_s", "decode_s", *judged_in(points.columns)]
    dtypes = {
        **{k: RD_POINT_COLUMNS[k] for k in (*CURVE_KEYS, *POINT_KEYS)},
        **{f"{c}{end}": "float64" for c in measured for end in ("", "_low", "_high")},
        "n_images": "int64",
        "n_trained_on": "int64",
        "n_seeds": "int64",
        "experiments": "str",
        "mlflow_run_ids": "str",
    }
    tables = [pd.DataFrame(columns=list(dtypes)).astype(dtypes)]
    for key, curve in curves_of(points):
        grid = curve_grid(curve, measured)
        n_seeds, n_images = len(grid.seeds), len(grid.images)
        once = np.ones((1, n_images)), np.ones((1, n_seeds))
        many = resample_counts(n_images, resamples, 0), resample_counts(n_seeds, resamples, 1)
        columns: dict[str, Any] = {**key._asdict(), "rate": grid.rates}
        for column, values in grid.values.items():
            columns[column] = resampled_means(values, *once)[0]
            low = high = np.full(len(grid.rates), np.nan)
            if n_images >= MIN_IMAGES and not np.isnan(values).all():
                drawn = resampled_means(values, *many)
                low, high = np.array([interval(draws) for draws in drawn.T]).T
            columns |= {f"{column}_low": low, f"{column}_high": high}
        at = curve.groupby("rate")
        columns |= {"rate_name": at["rate_name"].first(), "n_images": at["image"].nunique()}
        columns["n_trained_on"] = len(grid.trained_on)
        # a classical codec has no seeds
        columns["n_seeds"] = at["seed"].nunique().clip(lower=1)
        columns |= {"experiments": at["experiment"].agg(_words), "mlflow_run_ids": at["mlflow_run_id"].agg(_words)}
        tables.append(pd.DataFrame(columns, index=pd.Index(grid.rates))[list(dtypes)].astype(dtypes))
    return pd.concat(tables, ignore_index=True)


def _words(texts: "pd.Series[str]") -> str:
    return " ".join(sorted(text for text in texts.unique() if text))
