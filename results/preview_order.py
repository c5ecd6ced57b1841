"""What an order that no map tells is worth: the first bytes in uniform order, then by SAM-Lite's map of what they show.

    python results/preview_order.py DATASET      (with fixations; its frames are made: fovea benchmark --dataset DATASET)

The decoder makes the same map from the same preview. On another machine it might not, by a level somewhere, and all that
follows would be lost: so this is measured here and not offered.
"""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, cast
from unittest import mock

import numpy as np
import pandas as pd
import torch

from assets.evaluation.bd_rate import compare_curves
from assets.evaluation.cuts import BPP, UNIFORM
from assets.evaluation.numerals import with_interval
from assets.evaluation.pieces import subjects_of
from assets.evaluation.rate_distortion import curve_grid
from assets.stages import open_chain
from models.codecs import bitstream, conditioning, nested
from models.codecs.base import Encoded, Picture, map_to_tensor
from models.codecs.catalogue import open_codec
from models.codecs.conditioned import ConditionedCodec
from models.metrics import psnr_db
from models.saliency.predict import load_model
from pipelines.terminal import script

PREVIEWS = (0.04, 0.06, 0.1)
"""Bits per pixel in uniform order before the rest."""
EARLY = 1 << 12


class TwoParts(nested.Walk):
    """Nodes up to the level `first` in uniform order, then the others, `led` ahead. last: the walk that was made last."""

    first, led, last = -EARLY, np.zeros((1, 1), np.int64), cast(nested.Walk, None)

    def __init__(self, *given: Any):
        shape = given[-1]
        self.leads = np.broadcast_to(self.led, shape).ravel()
        super().__init__(*given)
        TwoParts.last = self

    def _wanted(self, at: np.ndarray) -> np.ndarray:
        levels = super()._wanted(at).astype(np.int64)
        there = levels < -nested.LEAF
        told = np.where(levels <= self.first, levels - EARLY, levels - self.leads[at])
        return np.where(there, told, levels).astype(np.int16)


@contextlib.contextmanager
def told(first: int, led: np.ndarray) -> Iterator[None]:
    """Files are written and read in two parts."""
    TwoParts.first, TwoParts.led = first, led
    with mock.patch.object(nested, "Walk", TwoParts):
        yield


def by_preview(
    codec: ConditionedCodec, whole: Encoded, picture: Picture, size: int, model: Any
) -> tuple[int, np.ndarray]:
    """The level that the preview has reached, and how far ahead places are by the map of it."""
    with told(-EARLY, np.zeros((1, 1), np.int64)):
        preview = codec.decode(bitstream.cut(whole.data, size))
        reached = int(TwoParts.last.wanted.min()) - 1
    seen = map_to_tensor(model.predict([preview])[0], picture.shape[:2], codec.stride)
    config, cell = codec.config, codec.stride * codec.cell
    steps = conditioning.level_steps(seen, config.gamma, config.span, cell, None)
    height, width = (-(-side // codec.stride) for side in picture.shape[:2])
    return reached, codec.ahead(steps, height, width)


def measured(
    codec: ConditionedCodec, picture: Picture, saliency_map: Picture, eyes: np.ndarray, model: Any
) -> pd.DataFrame:
    """A row for each order and place of a cut: order, rate, bpp, psnr_db, ew_psnr_db, seed."""
    pixels, rate, rows = picture[..., 0].size, codec.rates[-2], []

    def cuts(order: str, data: bytes) -> None:
        for bpp in BPP:
            cut = bitstream.cut(data, int(bpp * pixels / 8))
            shown = codec.decode(cut)
            quality = psnr_db(picture, shown), psnr_db(picture, shown, eyes)
            rows.append((order, bpp, 8 * len(cut) / pixels, *quality, 0))

    white = codec.analysed(picture, np.full_like(saliency_map, 255))
    whole = codec.encode_analysed(white, rate, progressive=True)
    cuts(UNIFORM, whole.data)
    cuts("saliency", codec.encode_analysed(codec.analysed(picture, saliency_map), rate, progressive=True).data)
    for bpp in PREVIEWS:
        with told(*by_preview(codec, whole, picture, int(bpp * pixels / 8), model)):
            cuts(f"preview of {bpp:g} bpp", codec.encode_analysed(white, rate, progressive=True).data)
    return pd.DataFrame(rows, columns=["order", "rate", "bpp", "psnr_db", "ew_psnr_db", "seed"])


def lines(points: pd.DataFrame) -> str:
    """BD-rates against uniform order, with intervals."""
    grids = {order: curve_grid(some, ("bpp", "psnr_db", "ew_psnr_db")) for order, some in points.groupby("order")}
    return "\n".join(
        f"{order} against uniform, {row['metric']}: {with_interval(row)}"
        for order in grids
        if order != UNIFORM
        for row in compare_curves(grids[UNIFORM], grids[order], ("pchip",))
    )


def main(dataset: str) -> None:
    """Measure all pictures of a dataset, and print."""
    codec, model = cast(ConditionedCodec, open_codec("light")), load_model("sam_lite")
    subjects, found = subjects_of(open_chain(), dataset, "none"), []
    for number, seen in enumerate(subjects, 1):
        one = measured(codec, seen.picture, seen.saliency_map, cast(np.ndarray, seen.fixation_map), model)
        found.append(one.assign(image=seen.image))
        print(f"{number}/{len(subjects)} {seen.image}", file=sys.stderr)
    print(lines(pd.concat(found)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    script(main, __doc__)
