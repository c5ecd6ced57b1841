"""One look for each curve, in plots and report: colour by arm, dash by maps, marker by codec, greys for the classical; an
arm's variants have colours and markers of their own.

Colours are from Okabe and Ito's set, which people with any of the common colour blindnesses can tell apart; dashes and
markers say the same once more.
"""

import colorsys
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from assets.evaluation.rate_distortion import (
    CLASSICAL_ARM,
    EXTERNAL_ARM,
    PUBLISHED_ARM,
    REFERENCE_ARMS,
    common_parts,
    label_arm,
)

ARM_COLOURS = {
    "uniform": "#0072B2",
    "saliency_gain": "#D55E00",
    "saliency_sft": "#009E73",
    "saliency_concat": "#CC79A7",
    "weighted": "#E69F00",
    "weighted_raw": "#56B4E9",
    "saliency_hyper": "#882255",
    "saliency_select": "#B8A800",
}
DASHES: dict[str, tuple[float, ...]] = {"center": (6, 3), "shuffled": (1.5, 2.5), "oracle": (8, 2.5, 1.5, 2.5)}
CLASSICAL: dict[str, tuple[str, str, tuple[float, ...]]] = {
    "jpeg": ("JPEG", "#5c6370", (2, 2)),
    "jpeg_guided": ("JPEG, guided", "#3f4754", (5, 1)),
    "jpeg_trellis": ("JPEG, trellis", "#4f5866", (3, 1)),
    "webp": ("WebP", "#7d8590", (7, 2)),
    "avif": ("AVIF", "#8a7a66", (4, 2, 1, 2)),
    "jpegxl": ("JPEG XL", "#6f7f6f", (1, 2)),
    "bicubic": ("bicubic", "#a0a0a0", (1, 4)),
}
"""Label, colour and dash of the classical codecs."""
SETTINGS = {"jpeg": "baseline, optimised", "webp": "method 6", "avif": "speed 3", "jpegxl": "effort 9"}
"""What those are set to that have a choice (models/codecs/classical.py)."""
MARKERS = ("circle", "square", "diamond", "triangle", "cross")
_OTHER = "#444444"
OTHERS = ("#7a5195", "#4a7c59", "#9c5a3c", "#3d6b8e", "#8c6d1f")


#: of a control's colour, the share that is white
_PALE = {"oracle": 0.3, "center": 0.5, "shuffled": 0.7}
#: of a codec's curves: how light, and how far their hue is turned
_SHADES = {
    "bls2017": (1.0, 0.0),
    "light": (0.6, 0.0),
    "mbt2018_mean": (0.8, 0.05),
    "bmshj2018_factorized": (0.9, -0.05),
    "bmshj2018_hyperprior": (0.6, 0.06),
    "cheng2020_anchor": (0.65, -0.06),
}


def plain_colour(codec: str, arm: str, maps: str, variant: str) -> str:
    """A curve's colour, `#rrggbb`, where dashes and markers cannot be drawn, the same in every sweep: near its arm's, darker for
    some codecs, paler for a control; a variant's hue is its own."""
    shade, turn = _SHADES.get(codec, (0.7, zlib.crc32(codec.encode()) % 13 / 100))
    colour, pale = ARM_COLOURS.get(arm, _OTHER), _PALE.get(maps, 0.0)
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    hue, light, strong = colorsys.rgb_to_hls(red, green, blue)
    if variant not in ("", "as shipped"):
        found = zlib.crc32(variant.encode())
        turn, shade = turn + 0.1 + 0.8 * found / 2**32, shade * (1.0, 0.7, 1.3)[found % 3]
    own = colorsys.hls_to_rgb((hue + turn) % 1, light, strong)
    mixed = (min(1.0, shade * (pale + (1 - pale) * value)) for value in own)
    return "#" + "".join(f"{round(255 * value):02x}" for value in mixed)


class Look(NamedTuple):
    """How a curve is drawn. dash: lengths in pixels, () for a full line. marker: one of `MARKERS`."""

    colour: str
    dash: tuple[float, ...]
    marker: str
    label: str
    classical: bool


def _named(name: str) -> str:
    """One of a few quiet colours, always the same for a name."""
    return OTHERS[sum(name.encode()) % len(OTHERS)]


class Cast(NamedTuple):
    """Who is in a picture. codecs: the learned ones; more than one, and labels name the codec. variants: codec, arm and
    variant of those that have parts which not all variants of their codec's arm have."""

    codecs: Sequence[str] = ()
    variants: Sequence[tuple[str, str, str]] = ()


ONE = Cast()


def cast_of(table: pd.DataFrame, arm: str = "arm") -> Cast:
    """The cast of a table of curves, or of comparisons of them, where the column `test_arm` names the arm."""
    own = table[~table[arm].isin(REFERENCE_ARMS)]
    found: list[tuple[str, str, str]] = []
    for (codec, name), variants in own.groupby(["codec", arm])["variant"]:
        told = sorted(variants.unique())
        plain = ",".join(common_parts(told)) if len(told) > 1 else told[0]
        found += [(str(codec), str(name), variant) for variant in told if variant != plain]
    return Cast(sorted(own["codec"].unique()), found)


def look(row: Mapping[str, Any], cast: Cast = ONE, arm: str = "arm") -> Look:
    """The look of one curve. row: its `CURVE_KEYS`; arm: the column that names its arm. cast: who is in the picture."""
    codec, name, maps, variant = (str(row[k]) for k in ("codec", arm, "maps", "variant"))
    if name == CLASSICAL_ARM:
        label, colour, dash = CLASSICAL.get(codec, (codec, _OTHER, (2, 2)))
        return Look(colour, dash, "cross", label, True)
    if name == PUBLISHED_ARM:
        return Look(_named(codec), (9, 3), "cross", f"{codec}, published ({variant})", True)
    if name == EXTERNAL_ARM:
        return Look(_named(variant), (), "triangle", f"{variant} (external)", True)
    colour, place = ARM_COLOURS.get(name, _OTHER), cast.codecs.index(codec) if codec in cast.codecs else 0
    if (codec, name, variant) in cast.variants:
        number = cast.variants.index((codec, name, variant))
        colour, place = OTHERS[number % len(OTHERS)], place + 1 + number
    marker = MARKERS[place % (len(MARKERS) - 1)]
    label = " ".join(filter(None, (codec if len(cast.codecs) > 1 else "", label_arm(name, maps), variant)))
    return Look(colour, DASHES.get(maps, ()), marker, label, False)
