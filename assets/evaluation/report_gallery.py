"""The pictures of a report: originals, maps and reconstructions that were kept when the points were measured, which of these
stand beside each other, and how they fit a budget of bytes."""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from assets.evaluation.bd_rate import BASELINE, OWN_MAPS
from assets.evaluation.numerals import digits, number, rate_label
from assets.evaluation.page import Picture, data_uri
from assets.evaluation.palette import Cast, cast_of, look
from assets.evaluation.pieces import POINTS, SHOWN, gallery_images, kept_name, pieces_of
from assets.evaluation.rate_distortion import CLASSICAL_ARM, records
from assets.frames.contact import overlay
from assets.frames.decode import read_picture
from assets.graph import Task
from assets.saliency.fixations import frame_fixation_maps
from assets.saliency.pairs import open_pairs
from models.metrics import METRICS
from models.sweeps import Sweep

CROP_SIDE = 160
WHOLE_WIDTH = 960
CAPTIONS = {"psnr_db": "PSNR", "sw_psnr_db": "saliency-w.", "ew_psnr_db": "eye-w.", "ms_ssim": "MS-SSIM"}
#: a file stands beside one up to this much larger or smaller, relative: of another codec, of the same
NEAR, OWN_NEAR = 0.1, 0.25
#: files less apart lead one row
SAME = 0.03
MAPS = ("none", "predicted", "oracle", "center", "shuffled")


class GalleryShot(NamedTuple):
    """One reconstruction of a picture: its row of rd_points, and its pixels. trained_at: the rate that its codec was trained
    for, where that is one."""

    row: Mapping[str, Any]
    picture: Picture
    trained_at: float | None = None


@dataclass(frozen=True)
class GalleryItem:
    """A picture with its map (uint8 H×W) and its reconstructions: every arm at every rate, classical at any quality.
    fixation_map: H×W, where people looked, if it is known."""

    image: str
    original: Picture
    saliency_map: Picture
    shots: Sequence[GalleryShot]
    fixation_map: NDArray[np.floating[Any]] | None = None


def gallery(task: Task, sweep: Sweep) -> list[GalleryItem]:
    """A few measured pictures of the sweep's dataset with every reconstruction of them that the store has."""
    seen = open_pairs(task, sweep.dataset, "measured")
    shown = gallery_images(seen.table.image)
    shots: dict[str, list[GalleryShot]] = defaultdict(list)
    trained_at = {e.key: e.rates[0] for e in sweep.experiments if len(e.rates) == 1 and not e.untrained}
    for made in pieces_of(task.given)[0]:
        if made.stage == "external_rd_points":
            continue
        points = made.table(SHOWN if (made.folder / SHOWN).exists() else POINTS)
        for row in records(points[(points.dataset == sweep.dataset) & points.image.isin(shown)]):
            classical = made.stage == "classical_rd_points"
            path = made.folder / kept_name(row["image"], row["codec"] if classical else "", float(row["rate"]))
            # one seed is enough to look at
            if path.exists() and (classical or int(row["seed"]) == 0):
                shots[row["image"]].append(GalleryShot(row, read_picture(path), trained_at.get(row["experiment"])))
    items = []
    for place in np.flatnonzero(seen.table.image.isin(shown)):
        picture, one = np.asarray(seen.pictures[place]), seen.table.iloc[place : place + 1]
        image, saliency_map = str(one.image.item()), np.asarray((seen.maps or [])[place])
        (looked,) = frame_fixation_maps(task.dataset(sweep.dataset), one, [picture.shape[:2]])
        items.append(GalleryItem(image, picture, saliency_map, shots[image], looked))
    return items


class Plan(NamedTuple):
    """How pictures are written. quality: of whole pictures, None for lossless. rates: at most so many of them."""

    quality: int | None
    controls: bool = True
    rates: int = 99


PLANS = (Plan(None), Plan(88), Plan(60), Plan(50, False), Plan(40, False, 3), Plan(30, False, 1))
"""From the best to the smallest."""


class _Pictures:
    """Pictures as data URIs, each stored once. made: what was encoded for an earlier plan, too."""

    def __init__(self, made: dict[tuple[object, ...], str]) -> None:
        self.places: dict[str, int] = {}
        self._made = made

    def add(self, name: tuple[object, ...], make: Callable[[], Picture], quality: int | None) -> int:
        """Index of the URI of the picture of this name: lossless WebP, or lossy at a quality."""
        key = (*name, quality)
        if key not in self._made:
            # method 0 is 20 times faster than 4, for a tenth more bytes
            lossless = {"lossless": True, "quality": 20, "method": 0}
            self._made[key] = data_uri(make(), **({"quality": quality, "method": 2} if quality else lossless))
        return self.places.setdefault(self._made[key], len(self.places))

    @property
    def size(self) -> int:
        return sum(map(len, self.places))


def _whole(picture: Picture) -> Picture:
    scale = WHOLE_WIDTH / picture.shape[1]
    if scale >= 1:
        return picture
    size = (WHOLE_WIDTH, max(1, round(picture.shape[0] * scale)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


#: what stands side by side, the leading one first, and of the curves without a file near its bytes the nearest
Row = tuple[list[GalleryShot], list[GalleryShot]]


def _by_size(item: GalleryItem, most: int) -> list[Row]:
    """For each file of each learned codec's baseline the file of every other curve that comes nearest in bytes, the codec's own
    first. At most so many, spread evenly. Without learned codecs, a classical one leads."""
    curves = {place: [*shots] for place, shots in itertools.groupby(sorted(item.shots, key=_place), _place)}
    leading = {(key[0], key[1]): curve for key, curve in reversed(curves.items())}
    learned = [curve for (classical, _), curve in leading.items() if not classical]
    targets = [shot for curve in learned or [*leading.values()][-1:] for shot in curve]
    targets.sort(key=lambda s: float(s.row["bpp"]))
    targets = [t for k, t in enumerate(targets) if not k or apart(t, targets[k - 1]) - 1 > SAME]
    if len(targets) > most:
        places = {round(p) for p in np.linspace(0, len(targets) - 1, most + 2)[1:-1]}
        targets = [targets[p] for p in sorted(places)]
    return [_beside(target, curves.values()) for target in targets]


def _place(shot: GalleryShot) -> tuple[Any, ...]:
    """A curve, and its place in a row: codecs one after the other, learned ones first, each with its baseline first."""
    codec, arm, variant, maps = (shot.row[k] for k in ("codec", "arm", "variant", "maps"))
    return arm == CLASSICAL_ARM, codec, arm != BASELINE, arm, variant, MAPS.index(maps) if maps in MAPS else 9


def _beside(target: GalleryShot, curves: Iterable[Sequence[GalleryShot]]) -> Row:
    def distance(shot: GalleryShot) -> tuple[bool, bool, float]:
        """Of those that are near in size one that was trained for the same rate comes first."""
        size = abs(math.log(apart(shot, target)))
        near = size <= math.log1p(NEAR)
        return not near, near and shot.trained_at != target.trained_at, size

    def own(shot: GalleryShot) -> bool:
        return bool(shot.row["codec"] == target.row["codec"])

    def far(shot: GalleryShot) -> bool:
        return abs(apart(shot, target) - 1) > (OWN_NEAR if own(shot) else NEAR)

    nearest = sorted((min(curve, key=distance) for curve in curves), key=lambda s: not own(s))
    return [s for s in nearest if not far(s)], [s for s in nearest if far(s)]


def apart(shot: GalleryShot, target: GalleryShot) -> float:
    """How many times the bytes of the target."""
    return float(shot.row["bpp"]) / float(target.row["bpp"])


def gallery_data(gallery: Sequence[GalleryItem], budget_bytes: int) -> dict[str, Any]:
    """Pictures and captions for report.js. Whole pictures lossless if that fits the budget, else lossy for looking
    around; crops are always the exact pixels. If even that does not fit, controls and then rates are left out.
    """
    made: dict[tuple[object, ...], str] = {}
    for plan in PLANS:
        pictures, items = _Pictures(made), list[dict[str, Any]]()
        for item in gallery:
            items.append(_item(item, pictures, plan))
            if pictures.size > budget_bytes:
                break
        else:
            break
    return {"pictures": list(pictures.places), "items": items, "lossless": plan.quality is None}


def salient_window(weights: NDArray[Any], side: int) -> tuple[int, int, int, int]:
    """Top, left, height and width of the window with the largest sum of weights; the whole where a side is shorter."""
    height, width = min(side, weights.shape[0]), min(side, weights.shape[1])
    sums = cv2.integral(np.asarray(weights, np.float64))
    windows = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    top, left = np.unravel_index(int(np.argmax(windows)), windows.shape)
    return int(top), int(left), height, width


def _item(item: GalleryItem, pictures: _Pictures, plan: Plan) -> dict[str, Any]:
    eyes = item.fixation_map
    top, left, height, width = salient_window(item.saliency_map if eyes is None else eyes, CROP_SIDE)
    window = np.s_[top : top + height, left : left + width]

    def panel(name: tuple[object, ...], make: Callable[[], Picture], **about: Any) -> dict[str, Any]:
        whole = pictures.add((item.image, "whole", *name), lambda: _whole(make()), plan.quality)
        crop = pictures.add((item.image, "crop", *name), lambda: make()[window], None)
        return {"whole": whole, "crop": crop, **about}

    cast = cast_of(pd.DataFrame([s.row for s in item.shots], columns=["codec", "arm", "variant"]))

    def shown(shot: GalleryShot, target: GalleryShot) -> dict[str, Any]:
        point = tuple(shot.row[k] for k in ("codec", "arm", "maps", "variant", "rate_name", "rate"))
        return panel(point, lambda: shot.picture, **_caption(shot, target, cast))

    fixed = [
        panel(("original",), lambda: item.original, label="original", kind="original"),
        panel(("map",), lambda: overlay(item.original, item.saliency_map), label="saliency map, predicted", kind="map"),
    ]  # fmt: skip
    if eyes is not None:
        fixed.append(panel(("eyes",), lambda: overlay(item.original, eyes), label="where people looked", kind="map"))

    def wanted(shots: Iterable[GalleryShot]) -> list[GalleryShot]:
        return [s for s in shots if plan.controls or s.row["maps"] in OWN_MAPS]

    def named(shot: GalleryShot) -> str:
        return f"{look(shot.row, cast).label} ({number(shot.row['bpp'], 2)})"

    rates = [
        {
            "rate": number(shots[0].row["bpp"], 2, unit="bpp"),
            "panels": [shown(s, shots[0]) for s in wanted(shots)],
            "far": [named(s) for s in wanted(far)],
        }
        for shots, far in _by_size(item, plan.rates)
    ]
    full_height, full_width = item.original.shape[:2]
    return {
        "image": item.image,
        "fixed": fixed,
        "rates": rates,
        "size": [full_width, full_height],
        "window": [left / full_width, top / full_height, width / full_width, height / full_height],
        "crop": [width, height],
        "by": "where people looked" if eyes is not None else "the saliency map",
    }


def _caption(shot: GalleryShot, target: GalleryShot, cast: Cast) -> dict[str, Any]:
    style, row = look(shot.row, cast), shot.row
    more = 100 * (apart(shot, target) - 1)
    at = shot.trained_at
    trained = f", trained for {at:g}" if at is not None and at != row["rate"] else ""
    known = [m for m in CAPTIONS if math.isfinite(row.get(m, math.nan))]
    return {
        "label": style.label,
        "kind": "classical" if style.classical else "arm",
        "colour": style.colour,
        "bpp": number(row["bpp"], 3, unit="bpp"),
        "apart": number(more, 0, sign=True, unit="%") if abs(more) >= 0.5 else "",
        "values": [[CAPTIONS[m], number(row[m], digits(m), unit=METRICS[m].unit)] for m in known],
        "rate": rate_label(row["rate_name"], row["rate"]) + trained,
    }
