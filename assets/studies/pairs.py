"""Which pictures a study shows: reconstructions of two arms that cost the same, picture by picture."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from assets.evaluation.rate_distortion import CLASSICAL_ARM, label_arm
from models.errors import FoveaError


@dataclass(frozen=True)
class Side:
    """One file that was measured: the arm's label, which codec and training made it, at which rate, and its bpp."""

    arm: str
    codec: str
    experiment: str
    point: float
    bpp: float


@dataclass(frozen=True)
class Match:
    """A picture as two arms show it at (nearly) the same bpp."""

    image: str
    first: Side
    second: Side

    @property
    def difference(self) -> float:
        """By which share of their mean the two bpp differ; positive when the second costs more."""
        return 2 * (self.second.bpp - self.first.bpp) / (self.second.bpp + self.first.bpp)


def arms_of(points: pd.DataFrame) -> "pd.Series[str]":
    """The label of each row of rd_points as studies name it: an arm such as `saliency_gain@center`, or `jpeg`, `webp`, …"""
    labels = [
        str(codec) if arm == CLASSICAL_ARM else label_arm(str(arm), str(maps))
        for codec, arm, maps in zip(points.codec, points.arm, points.maps, strict=True)
    ]
    return pd.Series(labels, index=points.index, dtype="str")


def rows_of(points: pd.DataFrame, arm: str, codec: str = "", variant: str | None = None) -> pd.DataFrame:
    """The measured rows of one arm: of one codec, one variant, its first seed. Raises FoveaError where that is not clear.

    variant: as rd_points has it, such as `fault=gradient,scratch`; of an arm that has one only, that one is taken.
    """
    labels = arms_of(points)
    rows = points[labels == arm]
    if rows.empty:
        raise FoveaError(f"no measured arm {arm!r}; measured here: {', '.join(sorted(labels.unique()))}")
    if (rows.arm == CLASSICAL_ARM).all():
        return rows
    if codec:
        rows = rows[rows.codec == codec]
        if rows.empty:
            raise FoveaError(f"arm {arm!r} was not measured with the codec {codec!r}")
    codecs = sorted(rows.codec.unique())
    if len(codecs) > 1:
        raise FoveaError(f"arm {arm!r} was measured with {', '.join(codecs)}: name one with --codec")
    variants = sorted(rows.variant.unique())
    if len(variants) > 1:
        if variant not in variants:
            raise FoveaError(
                f"arm {arm!r} was measured as {', '.join(map(repr, variants))}: name one of them with --variant"
            )
        rows = rows[rows.variant == variant]
    rows = rows[rows.train_dataset == sorted(rows.train_dataset.unique())[0]]
    first: pd.DataFrame = rows[rows.seed == rows.seed.min()]
    return first


def match_pairs(
    points: pd.DataFrame,
    arms: tuple[str, str],
    *,
    pairs: int,
    seed: int,
    tolerance: float,
    codec: str = "",
    variant: str | None = None,
) -> tuple[list[Match], dict[str, str]]:
    """Up to `pairs` matches, spread over pictures and rates, and why each picture that has none was refused.

    points: rows of rd_points of one dataset. tolerance: by which share of their mean the two bpp may differ. Each file is
    in one match at most; matches are taken picture by picture in a seeded order, the nearest bpp first, so that no picture
    has two more than another that could have had it. Raises FoveaError when there is not one.
    """
    if arms[0] == arms[1]:
        raise FoveaError(f"--arms names {arms[0]!r} twice; a study compares two")
    tables = [rows_of(points, arm, codec, variant) for arm in arms]
    if variant is not None and not any((t.variant == variant).any() for t in tables):
        raise FoveaError(f"neither arm was measured as variant {variant!r}")
    found: dict[str, list[Match]] = {}
    refused: dict[str, str] = {}
    nearest = math.inf
    for image in sorted({*tables[0].image, *tables[1].image}):
        sides = [_sides(t[t.image == image], arm) for t, arm in zip(tables, arms, strict=True)]
        if not sides[0] or not sides[1]:
            refused[image] = f"not measured with {arms[0] if not sides[0] else arms[1]}"
            continue
        all_of_them = sorted(
            (Match(image, a, b) for a in sides[0] for b in sides[1]), key=lambda m: abs(m.difference)
        )
        good: list[Match] = []
        used: set[Side] = set()
        for match in all_of_them:
            if abs(match.difference) <= tolerance and not used & {match.first, match.second}:
                used |= {match.first, match.second}
                good.append(match)
        nearest = min(nearest, abs(all_of_them[0].difference))
        if good:
            found[image] = good
        else:
            best = all_of_them[0]
            refused[image] = (
                f"its nearest rates are {best.first.bpp:.4f} and {best.second.bpp:.4f} bpp, {100 * abs(best.difference):.1f} % "
                f"apart (tolerance {100 * tolerance:g} %)"
            )
    if not found:
        hint = (
            f"; the nearest are {100 * nearest:.1f} % apart (--tolerance)" if math.isfinite(nearest) else ""
        )
        raise FoveaError(f"no picture was measured with {arms[0]} and {arms[1]} at matched bpp{hint}")
    rng = np.random.default_rng(seed)
    order = [sorted(found)[i] for i in rng.permutation(len(found))]
    # which rate of a picture comes first is drawn, too: all rates get their share
    queues = {image: [found[image][i] for i in rng.permutation(len(found[image]))] for image in order}
    chosen: list[Match] = []
    while len(chosen) < pairs and any(queues.values()):
        chosen += [queues[image].pop() for image in order if queues[image]][: pairs - len(chosen)]
    return chosen, refused


def _sides(rows: pd.DataFrame, arm: str) -> list[Side]:
    return [
        Side(arm, str(codec), str(experiment), float(point), float(bpp))
        for codec, experiment, point, bpp in zip(
            rows.codec, rows.experiment, rows.rate, rows.bpp, strict=True
        )
    ]


def mean_difference(matches: Sequence[Match]) -> float:
    """By which share the second arm costs more than the first, on average over the matches."""
    return float(np.mean([m.difference for m in matches]))
