"""Whether what saliency saves where people look hangs on who looked, on the centre, or on what anybody would look at.

    python results/eyes.py DATASET      (with fixations; its frames are made: fovea benchmark --dataset DATASET)

Files of `light` are real, without a map and with SAM-Lite's. Their squared error is weighted by each person's own
fixations, so that people can be drawn anew as pictures are; by all fixations divided by the mean density of the
dataset, so that the middle of the picture has no privilege; and by the fixations on the next picture, which know
nothing of this one.
"""

import sys
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from assets.evaluation.bd_rate import Sides, delta
from assets.evaluation.numerals import with_interval
from assets.saliency.fixations import fixation_map, frame_fixations
from assets.saliency.pairs import open_pairs
from assets.stages import open_chain
from models.bootstrap import interval, resample_counts
from models.codecs.base import Codec, Picture
from models.codecs.catalogue import open_codec
from models.errors import FoveaError
from pipelines.terminal import script

Floats = NDArray[np.float64]
DRAWS = 1000
FLOOR = 0.1
"""Of the mean density's highest value: what it is at least where it divides."""


class Errors(NamedTuple):
    """Of each picture, arm (without a map, with one) and rate: bpp, and mean squared errors of [0, 255] under the weights of
    each person (with the number of their fixations on the picture), of the divided density, and of the other picture's."""

    bpp: Floats
    people: Floats
    fixations: Floats
    divided: Floats
    other: Floats


def arms(codec: Codec, picture: Picture, saliency_map: Picture) -> Iterable[tuple[int, int, float, Floats]]:
    """Arm, rate (by number), bpp and squared error by place of each file."""
    for arm, one in enumerate((np.full_like(saliency_map, 255), saliency_map)):
        given = codec.analysed(picture, one)
        for k, rate in enumerate(codec.rates[::2]):
            encoded = codec.encode_analysed(given, rate)
            shown = codec.decode_checked(encoded)
            error = np.square(picture.astype(np.float64) - shown).mean(axis=2)
            yield arm, k, 8 * len(encoded.data) / error.size, error


def bd_rate(bpp: Floats, errors: Floats, pictures: Floats) -> float:
    """Per cent of bits of the second arm against the first at equal mean PSNR. bpp, errors: pictures × arms × rates."""
    weights = pictures / pictures.sum()
    rate, quality = (np.tensordot(weights, v, 1) for v in (bpp, 10 * np.log10(255**2 / errors)))
    sides = Sides(rate[None, 0], quality[None, 0], rate[None, 1], quality[None, 1])
    return delta(sides, "pchip").bd_rate_percent


def by_people(found: Errors, people: Floats) -> Floats:
    """Squared errors under the fixations of people that are counted so often; NaN where none of them looked."""
    share = found.fixations * people
    with np.errstate(invalid="ignore"):
        share = share / share.sum(1, keepdims=True)
    return np.einsum("iaks,is->iak", found.people, share)


def lines(found: Errors) -> str:
    """BD-rates with intervals."""
    count, who = found.fixations.shape
    pictures, people = resample_counts(count, DRAWS, 0), resample_counts(who, DRAWS, 1)
    one, all_people = np.ones(count), np.ones(who)
    whole = by_people(found, all_people)

    def said(errors: Floats, drawn: Iterable[float]) -> str:
        low, high = interval(np.array([*drawn]))
        return with_interval({"bd_rate_percent": bd_rate(found.bpp, errors, one), "ci_low": low, "ci_high": high})

    def over_pictures(errors: Floats) -> Iterable[float]:
        return (bd_rate(found.bpp, errors, p) for p in pictures)

    both = (bd_rate(found.bpp, by_people(found, s), p) for p, s in zip(pictures, people, strict=True))
    return "\n".join(
        [
            f"{count} pictures, {who} people; guided against uniform, 95 % intervals",
            f"where people looked, over pictures: {said(whole, over_pictures(whole))}",
            f"where people looked, over pictures and people: {said(whole, both)}",
            f"density divided by its mean: {said(found.divided, over_pictures(found.divided))}",
            f"fixations on another picture: {said(found.other, over_pictures(found.other))}",
        ]
    )


def measured(dataset: str) -> Errors:
    """All of a dataset's pictures. Raises FoveaError where they have several sizes, or nobody looked at one."""
    chain, codec = open_chain(), open_codec("light")
    table, pictures, maps = open_pairs(chain, dataset, "measured")
    sizes = {(p.shape[1], p.shape[0]) for p in pictures}
    eyes = frame_fixations(chain.world.dataset(dataset), table).table
    eyes = eyes[eyes["image"].isin(table.image)]
    if len(sizes) > 1 or eyes["image"].nunique() < len(table):
        raise FoveaError("a mean density needs pictures of one size, with fixations on each of them")
    (size,) = sizes

    def density(rows: pd.DataFrame) -> Floats:
        return fixation_map(rows[["x", "y"]].to_numpy(np.float64) - 0.5, size).astype(np.float64)

    names = sorted(set(eyes["subject"]))
    looked = dict(iter(eyes.groupby("image")))
    densities = [density(looked[image]) for image in table.image]
    mean = np.mean(densities, axis=0)
    mean = np.maximum(mean, FLOOR * mean.max())
    shape = (len(table), 2, len(codec.rates[::2]))
    bpp, divided, other = np.empty((3, *shape))
    errors, fixations = np.zeros((*shape, len(names))), np.zeros((len(table), len(names)))
    for i, image in enumerate(table.image):
        own = densities[i] / mean
        own /= own.sum()
        theirs = {names.index(who): rows for who, rows in looked[image].groupby("subject")}
        fixations[i, [*theirs]] = [len(rows) for rows in theirs.values()]
        weights = [density(rows) for rows in theirs.values()]
        for arm, k, rate, error in arms(codec, np.asarray(pictures[i]), np.asarray((maps or [])[i])):
            bpp[i, arm, k] = rate
            divided[i, arm, k] = (own * error).sum()
            other[i, arm, k] = (densities[(i + 1) % len(densities)] * error).sum()
            errors[i, arm, k, [*theirs]] = [(one * error).sum() for one in weights]
        print(f"{i + 1}/{len(table)} {image}", file=sys.stderr)
    return Errors(bpp, errors, fixations, divided, other)


def main(dataset: str) -> None:
    """Print what was found on a dataset."""
    torch.set_num_threads(1)
    print(lines(measured(dataset)))


if __name__ == "__main__":
    script(main, __doc__)
