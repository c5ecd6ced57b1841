"""A street, drawn: textures from band-limited noise, façades, road, sky, cars, trees, people, signs.

World coordinates in metres: X to the right of the camera, Y up from the ground, Z forward. A pinhole camera
(`Camera`) puts a point at x = cx + f·X/Z, y = horizon + f·(height − Y)/Z. Canvases are float32 RGB 0 … 255, sprites uint8 RGBA
drawn at twice their size in the picture and shrunk by area, which smooths their edges.
"""

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Final

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

Float = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Rng = np.random.Generator
Colour = tuple[float, float, float]
Point = tuple[float, float]

_turns = np.radians(np.concatenate([np.linspace(start, start + 90, 8) for start in (0, 90, 180, 270)]))
_QUARTERS: Final = np.stack((np.cos(_turns), np.sin(_turns)), axis=1)

SHOPS: Final = (
    "BAKERY", "CAFE ROMA", "FLOWERS", "BOOKS", "PHARMACY", "HOTEL ADLER", "BICYCLES", "OPTICIAN", "TEA HOUSE",
    "HAIR STUDIO", "KIOSK 24", "PIZZA NAPOLI", "WINE & CHEESE", "TAILOR", "MUSIC STORE", "RAMEN BAR", "SHOES",
    "TRAVEL", "FRESH FRUIT", "COPY SHOP", "ANTIQUES", "BURGER 77", "JEWELLER", "LAUNDRY", "POST OFFICE",
)  # fmt: skip
STREETS: Final = (
    "Market St", "Mill Lane", "Station Rd", "Linden Way", "Castle St", "River Rd", "Kings Row", "Garden St",
    "Old Bridge", "Harbour St", "School Ln", "Church St",
)  # fmt: skip
PLASTERS: Final[tuple[Colour, ...]] = (
    (214, 202, 176), (196, 170, 122), (203, 158, 138), (188, 188, 182), (222, 218, 208), (170, 178, 168),
    (208, 186, 148), (160, 150, 140), (186, 140, 110), (150, 165, 178),
)  # fmt: skip
BRICKS: Final[tuple[Colour, ...]] = (
    (148, 84, 66),
    (126, 72, 58),
    (164, 104, 78),
    (138, 110, 92),
    (112, 84, 76),
)
PAINTS: Final[tuple[Colour, ...]] = (
    (200, 202, 204), (28, 30, 34), (120, 124, 128), (150, 24, 26), (28, 52, 96), (236, 236, 234), (60, 66, 72),
    (38, 78, 62), (168, 150, 118), (70, 100, 140), (196, 96, 32),
)  # fmt: skip
CLOTHES: Final[tuple[Colour, ...]] = (
    (36, 40, 52), (120, 30, 36), (60, 84, 128), (196, 190, 178), (52, 74, 56), (168, 130, 60), (90, 90, 96),
    (20, 22, 26), (180, 78, 60), (134, 152, 176),
)  # fmt: skip
SKINS: Final[tuple[Colour, ...]] = (
    (226, 184, 156),
    (198, 150, 120),
    (150, 104, 78),
    (98, 66, 50),
    (236, 200, 178),
)


# ---- noise and text


def fbm(rng: Rng, height: int, width: int, octaves: int = 6, first: int = 0, slope: float = 1.0) -> Float:
    """Return noise of standard deviation 1 whose octaves' amplitudes fall as 1/frequency^slope: float32 H×W.

    Octave k has details of about 2^k pixels; octaves first … first + octaves − 1 are in it. It is a random piece of a
    field of 1024×1024 pixels without seam, made once for each split of a dataset (what `rng` was seeded with but its last
    number), so that no texture is both in train and in test.
    """
    seeds = rng.bit_generator.seed_seq.entropy  # type: ignore[attr-defined]
    bank = _noise_field(tuple(seeds[:-1]) if isinstance(seeds, tuple) else (seeds,), octaves, first, slope)
    side = bank.shape[0]
    row, column = (int(v) for v in rng.integers(0, side, 2))
    if row + height <= side and column + width <= side:
        return bank[row : row + height, column : column + width].copy()
    rows = np.arange(row, row + height) % side
    columns = np.arange(column, column + width) % side
    return np.asarray(bank.take(rows, axis=0).take(columns, axis=1), np.float32)


_FIELD: Final = 1024


@lru_cache(maxsize=96)
def _noise_field(seeds: tuple[int, ...], octaves: int, first: int, slope: float) -> Float:
    frequency = _frequency()
    high, low = np.float32(2.0 ** -(first + 1)), np.float32(2.0 ** -(first + octaves + 1))
    # Equal noise in each octave is 1/f in amplitude in two dimensions; soft flanks at both ends of the band.
    shape = (
        frequency ** np.float32(-(1 + slope)) / (1 + (low / frequency) ** 4) / (1 + (frequency / high) ** 4)
    )
    shape[0, 0] = 0
    field_ = np.fft.irfft2(_white_spectrum(seeds) * shape, s=(_FIELD, _FIELD))
    return np.asarray(field_ / field_.std(), np.float32)


@lru_cache(maxsize=8)
def _white_spectrum(seeds: tuple[int, ...]) -> NDArray[np.complex64]:
    noise = np.random.default_rng(seeds).standard_normal((_FIELD, _FIELD), dtype=np.float32)
    return np.asarray(np.fft.rfft2(noise), np.complex64)


@lru_cache(maxsize=1)
def _frequency() -> Float:
    frequency = np.hypot(np.fft.fftfreq(_FIELD)[:, None], np.fft.rfftfreq(_FIELD)[None]).astype(np.float32)
    frequency[0, 0] = 1
    return np.asarray(frequency, np.float32)


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def text_mask(text: str, width: int, height: int, margin: float = 0.12, bold: float = 0.0) -> Float:
    """Return the coverage (0 … 1, float32 H×W) of a line of text as large as fits; `bold` thickens the strokes."""
    if width < 2 or height < 2:
        return np.zeros((max(1, height), max(1, width)), np.float32)
    font = _font(96)
    left, top, right, bottom = font.getbbox(text)
    image = Image.new("L", (int(right - left) + 12, int(bottom - top) + 12))
    ImageDraw.Draw(image).text((6 - left, 6 - top), text, fill=255, font=font, stroke_width=round(96 * bold))
    drawn = np.asarray(image)
    scale = min(width * (1 - margin) / drawn.shape[1], height * (1 - 1.6 * margin) / drawn.shape[0])
    size = (max(1, round(drawn.shape[1] * scale)), max(1, round(drawn.shape[0] * scale)))
    small = cv2.resize(drawn, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    mask = np.zeros((height, width), np.float32)
    y, x = (height - size[1]) // 2, (width - size[0]) // 2
    mask[y : y + size[1], x : x + size[0]] = small[: height - y, : width - x].astype(np.float32) / 255
    return mask


def plate_text(rng: Rng) -> str:
    """Return a number plate's text, such as "KR TB 4821"."""
    letters = "".join(rng.choice(list(string.ascii_uppercase.replace("O", "").replace("I", "")), 4))
    return f"{letters[:2]} {letters[2:]} {rng.integers(100, 9999)}"


# ---- camera and light


@dataclass(frozen=True)
class Camera:
    """A pinhole at `height` metres over the ground, looking along Z; all in pixels but `height`."""

    width: int
    height_px: int
    focal: float
    cx: float
    horizon: float
    height: float

    def project(self, x: float, y: float, z: float) -> Point:
        """Return where a world point falls in the picture."""
        return self.cx + self.focal * x / z, self.horizon + self.focal * (self.height - y) / z

    def scale(self, z: float) -> float:
        """Pixels a metre at distance z."""
        return self.focal / z


@dataclass(frozen=True)
class Light:
    """Weather: brightness of the two sides of the street, of ground shadows, colour of sun, sky and haze."""

    sun: Colour
    haze: Colour
    zenith: Colour
    left: float
    right: float
    shadow: float
    haze_distance: float
    cloud: float
    sun_side: int


WEATHERS: Final[tuple[dict[str, object], ...]] = (
    {"sun": (1.06, 1.02, 0.94), "haze": (206, 220, 234), "zenith": (112, 158, 212), "contrast": 0.30, "shadow": 0.52,
     "cloud": 0.35, "far": 260.0},
    {"sun": (0.96, 0.98, 1.0), "haze": (214, 218, 222), "zenith": (166, 174, 184), "contrast": 0.08, "shadow": 0.80,
     "cloud": 0.95, "far": 150.0},
    {"sun": (1.12, 0.98, 0.80), "haze": (240, 212, 178), "zenith": (112, 138, 180), "contrast": 0.38, "shadow": 0.50,
     "cloud": 0.5, "far": 200.0},
    {"sun": (0.78, 0.80, 0.86), "haze": (170, 178, 190), "zenith": (120, 130, 146), "contrast": 0.10, "shadow": 0.74,
     "cloud": 0.85, "far": 120.0},
)  # fmt: skip


def make_light(rng: Rng) -> Light:
    """Draw one of four weathers with its variations."""
    w = WEATHERS[rng.choice(len(WEATHERS), p=(0.4, 0.3, 0.18, 0.12))]
    side = int(rng.choice((-1, 1)))
    contrast = float(w["contrast"]) * float(rng.uniform(0.7, 1.2))  # type: ignore[arg-type]
    base = float(rng.uniform(0.86, 1.04))
    return Light(
        sun=tuple(np.asarray(w["sun"]) * rng.uniform(0.97, 1.03, 3)),
        haze=tuple(np.asarray(w["haze"]) * rng.uniform(0.96, 1.03)),
        zenith=tuple(np.asarray(w["zenith"]) * rng.uniform(0.94, 1.06) * rng.uniform(0.985, 1.015, 3)),
        left=base * (1 - contrast * side),
        right=base * (1 + contrast * side),
        shadow=float(w["shadow"]),  # type: ignore[arg-type]
        haze_distance=float(w["far"]) * float(rng.uniform(0.8, 1.3)),  # type: ignore[arg-type]
        cloud=float(np.clip(float(w["cloud"]) + rng.uniform(-0.25, 0.25), 0, 1)),  # type: ignore[arg-type]
        sun_side=side,
    )


def draw_sky(canvas: Float, camera: Camera, light: Light, rng: Rng) -> None:
    """Fill everything above the horizon: a gradient with clouds that get flatter towards the horizon."""
    full = int(camera.horizon) + 2
    rows = full // 2
    t = np.linspace(0, 1, rows, dtype=np.float32)[:, None] ** 1.4
    zenith, haze = np.asarray(light.zenith, np.float32), np.asarray(light.haze, np.float32)
    sky = zenith + (haze - zenith) * t[..., None]
    w = canvas.shape[1] // 2
    # Texture coordinates of a cloud layer overhead: distance grows as 1/elevation.
    noise = fbm(rng, 1024, 1024, 7, 1, 0.9)
    depth = 1 / (0.16 + (1 - np.linspace(0, 1, rows, dtype=np.float32)))
    mx = (np.linspace(-1, 1, w, dtype=np.float32)[None] * depth[:, None] * 130 + 512).astype(np.float32)
    my = np.repeat((depth[:, None] * 95 + float(rng.uniform(0, 512))).astype(np.float32), w, axis=1)
    field_ = np.asarray(cv2.remap(noise, mx, my, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP), np.float32)
    cover = 1 / (1 + np.exp(-(field_ - (0.9 - 2.1 * light.cloud)) * 3.2))
    lit = 0.88 + 0.14 * np.tanh(field_ * 0.8 - cv2.blur(field_, (41, 41)))
    cloud = (haze * 0.35 + np.asarray((238, 238, 240), np.float32) * 0.65)[None, None] * lit[..., None]
    share = (cover * (1 - 0.55 * t) * (0.55 + 0.4 * light.cloud))[..., None]
    drawn = (sky[:, :1] * (1 - share) + cloud * share).astype(np.float32)
    canvas[:full] = cv2.resize(drawn, (canvas.shape[1], full), interpolation=cv2.INTER_LINEAR)


def haze(colour: Float | Bytes, z: float, light: Light) -> Float:
    """Blend a colour or picture towards the haze for a distance."""
    share = np.float32(1 - np.exp(-max(0.0, z - 12) / light.haze_distance))
    return np.asarray(colour, np.float32) * (1 - share) + np.asarray(light.haze, np.float32) * share


# ---- the ground


@dataclass(frozen=True)
class Street:
    """Cross-section and paint, in metres from the camera's own X: kerbs, house fronts, centre line."""

    left_kerb: float
    right_kerb: float
    left_front: float
    right_front: float
    centre: float
    crossing: float | None
    parking: bool


def draw_ground(canvas: Float, camera: Camera, street: Street, light: Light, rng: Rng) -> None:
    """Fill everything below the horizon: asphalt, paint with wear, kerbs, paving, patches, manholes."""
    top = int(np.ceil(camera.horizon)) + 1
    h, w = canvas.shape[:2]
    asphalt = np.asarray((98, 99, 102), np.float32) * np.float32(rng.uniform(0.8, 1.25))
    paving = np.asarray(((156, 150, 142), (142, 142, 142), (160, 140, 126))[rng.integers(3)], np.float32)
    n = int(rng.integers(1, 6))
    look = _Ground(
        tile=fbm(rng, 1024, 1024, 5, 0, -0.3),
        coarse=fbm(rng, 1024, 1024, 6, 1, 1.0),
        slabs=rng.standard_normal((64, 64), dtype=np.float32),
        slab=float(rng.choice((0.4, 0.5, 0.8))),
        dash=float(rng.uniform(0, 9)),
        patches=[
            (float(x), float(z), float(x + a), float(z + b), float(tone))
            for x, z, a, b, tone in zip(
                rng.uniform(street.left_kerb, street.right_kerb - 1, n), rng.uniform(6, 40, n),
                rng.uniform(0.6, 2.5, n), rng.uniform(1, 8, n), rng.choice((-0.16, -0.1, 0.1), n), strict=True,
            )
        ],
        colours=np.stack((asphalt, np.asarray((214, 214, 208)), paving, np.asarray((168, 166, 160)))).astype(np.float32),
    )  # fmt: skip
    nearest = camera.focal * camera.height / (h - camera.horizon)
    for y0 in range(top, h, 32):  # strips that fit the processor's cache
        y = np.arange(y0, min(y0 + 32, h), dtype=np.float32)[:, None] + np.float32(0.5)
        z = np.float32(camera.focal * camera.height) / (y - np.float32(camera.horizon))
        x = (np.arange(w, dtype=np.float32) + np.float32(0.5 - camera.cx))[None] * (
            z / np.float32(camera.focal)
        )
        shares = _ground_shares(look, street, camera, x, z, nearest)
        far = 1 - np.exp(-np.clip(z - 12, 0, None) / np.float32(light.haze_distance))
        strip = shares @ look.colours
        strip *= (1 - far)[..., None]
        strip += far[..., None] * np.asarray(light.haze, np.float32)
        canvas[y0 : y0 + len(y)] = strip
    canvas[int(camera.horizon) : top] = np.asarray(light.haze, np.float32) * 0.8
    for _ in range(int(rng.integers(0, 3))):  # manholes
        mx, mz = float(rng.uniform(street.left_kerb + 1, street.right_kerb - 1)), float(rng.uniform(6, 22))
        cx, cy = camera.project(mx, 0, mz)
        rx, ry = camera.scale(mz) * 0.32, camera.scale(mz) * 0.32 * camera.height / mz
        for shrink, tone_ in ((1.0, 0.55), (0.86, 0.72), (0.7, 0.6), (0.5, 0.74)):
            _ellipse(canvas, (cx, cy), (rx * shrink, ry * shrink), tuple(asphalt * tone_))


@dataclass(frozen=True)
class _Ground:
    """Noise and paint of one picture's ground; `colours` are asphalt, paint, paving, kerb."""

    tile: Float
    coarse: Float
    slabs: Float
    slab: float
    dash: float
    patches: list[tuple[float, float, float, float, float]]
    colours: Float


def _band(value: Float, low: float, high: float, step: Float) -> Float:
    """Return 1 where low < value < high, with an edge one pixel (`step` metres) wide."""
    half = np.float32(0.5)
    rising = np.clip((value - np.float32(low)) / step + half, 0, 1)
    return np.asarray(rising * np.clip((np.float32(high) - value) / step + half, 0, 1), np.float32)


def _ground_shares(
    look: _Ground, street: Street, camera: Camera, x: Float, z: Float, nearest: float
) -> Float:
    """Return how much of each colour is in each pixel of a strip: H×W×4; x is H×W, z is H×1, in metres."""
    dx = z / np.float32(camera.focal)  # metres a pixel, across
    dz = z**2 / np.float32(camera.focal * camera.height)  # and along

    def across(column: Float) -> Float:
        return np.repeat(column, x.shape[1], axis=1)

    # World-fixed texture, one level a doubling of distance, so that it neither blurs near by nor aliases far off.
    grain = np.empty_like(x)
    level = np.clip(np.round(np.log2(z[:, 0] / nearest)), 0, 9)
    for k in np.unique(level):
        rows = np.flatnonzero(level == k)
        at = slice(rows[0], rows[-1] + 1)
        scale = np.float32(150 / 2.0**k)
        grain[at] = cv2.remap(
            look.tile,
            x[at] * scale + 3000,
            across(z[at] * scale * np.float32(0.6)),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_WRAP,
        )
    stains = np.asarray(
        cv2.remap(
            look.coarse,
            x * 14 + 900,
            across(z * np.float32(4.5)),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_WRAP,
        ),
        np.float32,
    )

    tone = 1 + np.float32(0.085) * grain + np.float32(0.055) * stains
    lane = (street.centre + street.right_kerb) / 2
    for track in (lane - 0.8, lane + 0.8, 2 * street.centre - lane - 0.8, 2 * street.centre - lane + 0.8):
        tone -= np.float32(0.05) * np.clip(1 - ((x - np.float32(track)) / np.float32(0.5)) ** 2, 0, 1)
    for x0, z0, x1, z1, darker in look.patches:  # mended places
        if z[0, 0] > z0 - 1 and z[-1, 0] < z1 + 1:
            tone *= 1 + _band(x, x0, x1, dx) * _band(z, z0, z1, dz) * np.float32(darker)

    paint = _band(x, street.centre - 0.07, street.centre + 0.07, dx) * _band(
        np.mod(z + look.dash, 9), 0.0, 4.0, dz
    )
    inset = 2.2 if street.parking else 0.25
    for edge in (street.left_kerb + inset, street.right_kerb - inset - 0.12):
        np.maximum(paint, np.float32(0.9) * _band(x, edge, edge + 0.12, dx), out=paint)
    if street.crossing and z[0, 0] > street.crossing - 3 and z[-1, 0] < street.crossing + 5:
        stripes = _band(np.mod(x, 1), 0.0, 0.5, dx) * _band(
            x, street.left_kerb + 0.3, street.right_kerb - 0.3, dx
        )
        np.maximum(paint, _band(z, street.crossing, street.crossing + 3.2, dz) * stripes, out=paint)
        stop = _band(z, street.crossing - 1.5, street.crossing - 1.1, dz)
        np.maximum(paint, stop * _band(x, street.centre + 0.1, street.right_kerb - 0.2, dx), out=paint)
    paint *= np.clip(0.86 + np.float32(0.10) * grain + np.float32(0.16) * stains, 0, 1)

    joints = np.maximum(
        _band(np.mod(x, look.slab), 0, 0.02, dx) * np.clip(0.05 / dx, 0, 1),
        _band(np.mod(z, look.slab), 0, 0.025, dz) * np.clip(0.08 / dz, 0, 1),
    )
    rows_, columns = (
        np.floor(z / look.slab).astype(np.int32) & 63,
        np.floor(x / look.slab).astype(np.int32) & 63,
    )
    each = look.slabs[rows_, columns] * np.clip(0.3 / dz, 0, 1)
    walk_tone = 1 + np.float32(0.05) * (grain + stains + each) - np.float32(0.3) * joints
    kerb_tone = 1 + np.float32(0.05) * grain - np.float32(0.25) * _band(np.mod(z, 1.0), 0, 0.03, dz)
    off = np.maximum(np.float32(street.left_kerb) - x, x - np.float32(street.right_kerb))
    walk = np.clip(off / dx + np.float32(0.5), 0, 1)
    kerb = _band(off, 0.0, 0.16, dx)
    road = (1 - walk) * (1 - np.float32(0.35) * _band(off, -0.12, 0.0, dx)) * (1 - kerb)
    shares = np.empty((*x.shape, 4), np.float32)
    shares[..., 0] = road * (1 - paint) * tone
    shares[..., 1] = road * paint * (1 + np.float32(0.03) * grain)
    shares[..., 2] = walk * (1 - kerb) * walk_tone
    shares[..., 3] = kerb * kerb_tone
    return shares


def _ellipse(canvas: Float, centre: Point, axes: Point, colour: Sequence[float]) -> None:
    at = tuple(round(v * 16) for v in centre)
    cv2.ellipse(
        canvas, (at[0], at[1]), (max(1, round(axes[0] * 16)), max(1, round(axes[1] * 16))), 0, 0, 360,
        [float(c) for c in colour], -1, cv2.LINE_8, 4,
    )  # fmt: skip


def shade_ground(
    canvas: Float, camera: Camera, points: Sequence[Point], strength: float, soft: float
) -> None:
    """Darken a polygon on the ground (X, Z in metres) to 1 − strength of its light, with soft edges (pixels)."""
    corners = np.asarray([camera.project(x, 0, max(z, 1.5)) for x, z in points], np.float32)
    shade_polygon(canvas, corners, strength, soft)


def shade_polygon(canvas: Float, corners: Float, strength: float, soft: float) -> None:
    """Darken a polygon of the picture (pixels), with soft edges."""
    h, w = canvas.shape[:2]
    pad = int(3 * soft) + 2
    x0, y0 = np.floor(corners.min(axis=0)).astype(int) - pad
    x1, y1 = np.ceil(corners.max(axis=0)).astype(int) + pad
    x0, y0, x1, y1 = max(0, x0), max(0, y0), min(w, x1), min(h, y1)
    if x1 - x0 < 2 or y1 - y0 < 2:
        return
    k = max(1.0, soft / 2)  # blurred shapes have no detail: drawn small and scaled up
    mask = np.zeros((int((y1 - y0) / k) + 1, int((x1 - x0) / k) + 1), np.uint8)
    shifted = np.clip((corners - (x0, y0)) * (16 / k), -(1 << 20), 1 << 20)
    cv2.fillPoly(mask, [np.round(shifted).astype(np.int32)], 255, cv2.LINE_AA, 4)
    shade = cv2.GaussianBlur(mask, (0, 0), max(0.4, soft / k))
    if k > 1:
        shade = cv2.resize(shade, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
    else:
        shade = shade[: y1 - y0, : x1 - x0]
    canvas[y0:y1, x0:x1] *= (1 - shade.astype(np.float32) * np.float32(strength / 255))[..., None]


# ---- sprites


@dataclass
class Sprite:
    """A transparent picture measured in metres, x from its left, y up from its bottom, `ppm` pixels a metre."""

    width: float
    height: float
    ppm: float
    rgb: Bytes = field(init=False)
    alpha: Bytes = field(init=False)

    def __post_init__(self) -> None:
        shape = (max(2, round(self.height * self.ppm)), max(2, round(self.width * self.ppm)))
        self.rgb = np.zeros((*shape, 3), np.uint8)
        self.alpha = np.zeros(shape, np.uint8)

    def to_px(self, points: Sequence[Point] | NDArray[np.float64]) -> NDArray[np.int32]:
        """Return points (metres) as pixels × 16, for OpenCV's `shift=4`."""
        k = 16 * self.ppm
        pixels = np.array(points, np.float64) * (k, -k)
        pixels[:, 1] += 16 * self.rgb.shape[0]
        return np.rint(pixels).astype(np.int32)

    def polygon(self, points: Sequence[Point] | NDArray[np.float64], colour: Sequence[float]) -> None:
        """Fill a polygon."""
        corners = [self.to_px(points)]
        cv2.fillPoly(self.rgb, corners, _rgb(colour), cv2.LINE_8, 4)
        cv2.fillPoly(self.alpha, corners, 255, cv2.LINE_8, 4)

    def box(
        self, x0: float, y0: float, x1: float, y1: float, colour: Sequence[float], round_: float = 0
    ) -> None:
        """Fill a box, with rounded corners of radius `round_`."""
        if not round_:
            rows, columns = self.region(x0, y0, x1, y1)
            self.rgb[rows, columns] = _rgb(colour)
            self.alpha[rows, columns] = 255
            return
        self.polygon(rounded_box(x0, y0, x1, y1, round_), colour)

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, colour: Sequence[float], angle: float = 0
    ) -> None:
        """Fill an ellipse, its first axis turned by `angle` degrees."""
        k = 16 * self.ppm
        centre = round(x * k), round(16 * self.rgb.shape[0] - y * k)
        axes = max(1, round(rx * k)), max(1, round(ry * k))
        cv2.ellipse(self.rgb, centre, axes, -angle, 0, 360, _rgb(colour), -1, cv2.LINE_8, 4)
        cv2.ellipse(self.alpha, centre, axes, -angle, 0, 360, 255, -1, cv2.LINE_8, 4)

    def limb(self, points: Sequence[Point], widths: Sequence[float], colour: Sequence[float]) -> None:
        """Fill a chain of tapering, round-ended strokes."""
        for (p, q), (a, b) in zip(pairwise(points), pairwise(widths), strict=True):
            d = np.asarray(q) - np.asarray(p)
            n = np.asarray((-d[1], d[0])) / max(1e-6, float(np.hypot(*d)))
            corners = [
                np.asarray(p) + n * a / 2,
                np.asarray(q) + n * b / 2,
                np.asarray(q) - n * b / 2,
                np.asarray(p) - n * a / 2,
            ]
            self.polygon([(float(c[0]), float(c[1])) for c in corners], colour)
            self.ellipse(*p, a / 2, a / 2, colour)
            self.ellipse(*q, b / 2, b / 2, colour)

    def region(self, x0: float, y0: float, x1: float, y1: float) -> tuple[slice, slice]:
        """Return the rows and columns of a box in metres."""
        h, w = self.alpha.shape
        rows = slice(max(0, round(h - y1 * self.ppm)), min(h, round(h - y0 * self.ppm)))
        return rows, slice(max(0, round(x0 * self.ppm)), min(w, round(x1 * self.ppm)))

    def write(
        self, text: str, x0: float, y0: float, x1: float, y1: float, colour: Sequence[float], bold: float = 0.0,
        margin: float = 0.12,
    ) -> None:  # fmt: skip
        """Write a line of text into a box."""
        rows, columns = self.region(x0, y0, x1, y1)
        part = self.rgb[rows, columns].astype(np.float32)
        if part.size:
            mask = text_mask(text, part.shape[1], part.shape[0], margin, bold)[..., None]
            self.rgb[rows, columns] = part * (1 - mask) + np.asarray(colour, np.float32) * mask

    def shade(self, factor: Float) -> None:
        """Multiply the colours by an array that fits the sprite's rows × columns."""
        if factor.ndim == 2:
            factor = factor[..., None]
        self.rgb = np.clip(self.rgb * factor, 0, 255).astype(np.uint8)


def rounded_box(x0: float, y0: float, x1: float, y1: float, radius: float) -> NDArray[np.float64]:
    """Return the corners of a box with rounded corners."""
    r = max(0.0, min(radius, (x1 - x0) / 2, (y1 - y0) / 2))
    centres = np.asarray([(x1 - r, y1 - r), (x0 + r, y1 - r), (x0 + r, y0 + r), (x1 - r, y0 + r)])
    return np.repeat(centres, len(_QUARTERS) // 4, axis=0) + r * _QUARTERS


def _rgb(colour: Sequence[float]) -> tuple[int, int, int]:
    r, g, b = colour
    return min(255, max(0, int(r))), min(255, max(0, int(g))), min(255, max(0, int(b)))


def paste(
    canvas: Float, sprite: Sprite, corners: NDArray[np.float64], tint: ArrayLike, z: float, light: Light
) -> None:
    """Put a sprite on four picture points (its top left, top right, bottom right, bottom left corner).

    `tint` multiplies the colours. Sprites are transparent or opaque, with black where transparent: premultiplied.
    """
    height, width = canvas.shape[:2]
    x0, y0 = np.floor(corners.min(axis=0)).astype(int)
    x1, y1 = np.ceil(corners.max(axis=0)).astype(int) + 1
    bx0, by0, bx1, by1 = max(0, x0), max(0, y0), min(width, x1), min(height, y1)
    if bx1 - bx0 < 1 or by1 - by0 < 1:
        return
    layer = cv2.merge((*cv2.split(sprite.rgb), sprite.alpha))
    h, w = sprite.alpha.shape
    source = np.asarray([(0, 0), (w, 0), (w, h), (0, h)], np.float32)
    longest = max(math.dist(corners[1], corners[0]), math.dist(corners[2], corners[3]), 1.0)
    tallest = max(math.dist(corners[3], corners[0]), math.dist(corners[2], corners[1]), 1.0)
    size = (min(w, round(longest)), min(h, round(tallest)))
    if size != (w, h):
        layer = np.asarray(cv2.resize(layer, size, interpolation=cv2.INTER_AREA), np.uint8)
        source *= np.asarray(size, np.float32) / (w, h)
    matrix = cv2.getPerspectiveTransform(source, (corners - (bx0, by0)).astype(np.float32))
    # Texture coordinates are those of pixel centres.
    half = np.asarray([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    matrix = np.linalg.inv(half) @ matrix @ half
    warped = np.asarray(
        cv2.warpPerspective(layer, matrix, (bx1 - bx0, by1 - by0), flags=cv2.INTER_LINEAR), np.uint8
    )
    _over(canvas[by0:by1, bx0:bx1], warped, tint, z, light)


def _over(region: Float, layer: Bytes, tint: ArrayLike, z: float, light: Light) -> None:
    """Lay premultiplied RGBA over a part of the canvas, tinted, with the haze of its distance."""
    fade = np.float32(1 - np.exp(-max(0.0, z - 12) / light.haze_distance))
    factor = np.asarray(tint, np.float32) * (1 - fade)
    veil = np.asarray(light.haze, np.float32) * (fade / np.float32(255))
    rows = np.flatnonzero(layer[..., 3].any(axis=1))
    if not len(rows):
        return
    step = max(8, 65536 // layer.shape[1])  # strips that fit the processor's cache
    for y in range(int(rows[0]), int(rows[-1]) + 1, step):
        part, target = layer[y : y + step], region[y : y + step]
        alpha = part[..., 3:].astype(np.float32)
        target *= 1 - alpha * np.float32(1 / 255)
        target += part[..., :3] * factor
        if fade > 0:
            target += veil * alpha


def paste_upright(
    canvas: Float,
    sprite: Sprite,
    camera: Camera,
    x: float,
    z: float,
    light: Light,
    tint: ArrayLike,
    y: float = 0.0,
) -> tuple[float, float, float, float]:
    """Put a sprite upright, facing the camera, its bottom centre at (x, y, z); returns its box (x, y, w, h) in pixels."""
    left, bottom = camera.project(x - sprite.width / 2, y, z)
    s = camera.scale(z)
    w, h = sprite.width * s, sprite.height * s
    x0, y0 = round(left), round(bottom - h)
    wide, high = max(1, round(w)), max(1, round(h))
    bx0, by0, bx1, by1 = (
        max(0, x0),
        max(0, y0),
        min(canvas.shape[1], x0 + wide),
        min(canvas.shape[0], y0 + high),
    )
    if bx1 > bx0 and by1 > by0:
        layer = cv2.merge((*cv2.split(sprite.rgb), sprite.alpha))
        how = cv2.INTER_AREA if wide < layer.shape[1] else cv2.INTER_LINEAR
        small = np.asarray(cv2.resize(layer, (wide, high), interpolation=how), np.uint8)
        _over(canvas[by0:by1, bx0:bx1], small[by0 - y0 : by1 - y0, bx0 - x0 : bx1 - x0], tint, z, light)
    return left, bottom - h, w, h


# ---- façades


def facade(
    rng: Rng, width: float, height: float, ppm: float, brick_share: float, light: Light
) -> tuple[Bytes, list[tuple[str, tuple[float, float, float, float]]]]:
    """Draw a house front of width × height metres: uint8 RGB at `ppm`, and its signs (text, box in metres).

    Box: x from the left, y from the top, width, height.
    """
    h, w = max(8, round(height * ppm)), max(8, round(width * ppm))
    bricks = rng.random() < brick_share
    base = np.asarray(
        BRICKS[rng.integers(len(BRICKS))] if bricks else PLASTERS[rng.integers(len(PLASTERS))], np.float32
    )
    base = base * np.float32(rng.uniform(0.88, 1.08)) * rng.uniform(0.97, 1.03, 3).astype(np.float32)
    wall = _bricks(rng, h, w, ppm, base) if bricks else _plaster(rng, h, w, base)
    s = Sprite(width, height, ppm)
    s.rgb, s.alpha[:] = wall, 255
    ground_floor = float(rng.uniform(3.4, 4.4))
    storey = float(rng.uniform(2.9, 3.6))
    floors = max(1, int((height - ground_floor - 0.7) // storey))
    columns = max(1, int(width // rng.uniform(1.9, 2.9)))
    pitch = width / columns
    win_w, win_h = pitch * float(rng.uniform(0.42, 0.6)), storey * float(rng.uniform(0.48, 0.66))
    frame = ((232, 230, 224), (86, 62, 46), (60, 64, 68), (210, 206, 196))[rng.integers(4)]
    style = int(rng.integers(4))
    for floor in range(floors):
        y = ground_floor + storey * (floor + 0.22)
        for column in range(columns):
            _window(s, rng, pitch * (column + 0.5) - win_w / 2, y, win_w, win_h, frame, style, light)
        if style == 2 or floor == 0:
            s.box(0, y - 0.42, width, y - 0.30, tuple(base * 1.12))
            s.box(0, y - 0.46, width, y - 0.42, tuple(base * 0.55))
    signs = _ground_floor(s, rng, width, ground_floor, base, light)
    s.box(0, height - 0.38, width, height, tuple(base * 0.92 + 18))
    s.box(0, height - 0.46, width, height - 0.38, tuple(base * 0.5))
    weather = 1 + 0.05 * fbm(rng, h, w, 5, 3, 1.0)
    grime = np.linspace(1.02, 0.90, h, dtype=np.float32)[:, None]
    s.shade((weather * grime).astype(np.float32))
    return s.rgb, signs


def _plaster(rng: Rng, h: int, w: int, base: Float) -> Bytes:
    rough = 1 + 0.028 * fbm(rng, h, w, 7, 0, 0.7)
    streaks = cv2.resize(fbm(rng, max(2, h // 24), w, 4, 0, 0.6), (w, h), interpolation=cv2.INTER_CUBIC)
    return np.clip(base * (rough + 0.022 * streaks)[..., None], 0, 255).astype(np.uint8)


def _bricks(rng: Rng, h: int, w: int, ppm: float, base: Float) -> Bytes:
    y = np.arange(h, dtype=np.float32) / np.float32(ppm)
    course = np.floor(y / np.float32(0.0833)).astype(np.int32)
    odd = course & 1
    x = (np.arange(w, dtype=np.float32) / np.float32(ppm))[None] + np.asarray([[0], [0.125]], np.float32)
    stone = np.floor(x / np.float32(0.25)).astype(np.int32) & 255
    tones = rng.standard_normal((256, 256), dtype=np.float32)
    each = np.empty((h, w), np.float32)
    for parity in (0, 1):
        rows = np.flatnonzero(odd == parity)
        each[rows] = tones[course[rows] & 255][:, stone[parity]]
    lines = [
        np.clip((np.float32(0.014) - np.mod(v, p)) * np.float32(ppm) + np.float32(0.5), 0, 1)
        for v, p in ((x, 0.25), (y, 0.0833))
    ]
    joint = np.maximum(lines[0][odd], lines[1][:, None])
    if ppm < 40:  # joints thinner than a pixel only lighten
        joint = np.full((h, w), 0.2, np.float32)
        each = each * (ppm / 40)
    tone = 1 + 0.09 * each + 0.035 * fbm(rng, h, w, 6, 0, 0.6)
    wall = base * tone[..., None]
    mortar = np.asarray((176, 168, 156), np.float32) * 0.85 + base * 0.15
    laid = wall * (1 - 0.75 * joint[..., None]) + mortar * 0.75 * joint[..., None]
    return np.asarray(np.clip(laid, 0, 255), np.uint8)


def _glass(
    s: Sprite, rng: Rng, x0: float, y0: float, x1: float, y1: float, light: Light, inside: float
) -> None:
    rows, columns = s.region(x0, y0, x1, y1)
    h, w = rows.stop - rows.start, columns.stop - columns.start
    if h < 1 or w < 1:
        return
    sky = np.asarray(light.haze, np.float32) * float(rng.uniform(0.25, 0.62))
    dark = np.asarray((34, 38, 44), np.float32) * float(rng.uniform(0.7, 1.5))
    t = np.linspace(float(rng.uniform(0.3, 1)), float(rng.uniform(0, 0.5)), h, dtype=np.float32)[:, None]
    if h > 10 and w > 10:
        blobs = rng.standard_normal((3 + h // 40, 3 + w // 40), dtype=np.float32)
        t = t + 0.16 * cv2.resize(blobs, (w, h), interpolation=cv2.INTER_CUBIC)
    pane = dark + (sky - dark) * np.broadcast_to(np.clip(t, 0, 1), (h, w))[..., None]
    if inside > 0.55 and w > 6:  # curtains
        folds = 0.8 + 0.2 * np.sin(np.linspace(0, float(rng.uniform(14, 40)), w, dtype=np.float32))
        part = w if inside > 0.85 else w // 3
        cloth = np.asarray((214, 208, 196), np.float32) * folds[:part, None]
        pane[:, :part] = pane[:, :part] * 0.4 + cloth * 0.5
    s.rgb[rows, columns] = np.clip(pane, 0, 255).astype(np.uint8)


def _window(
    s: Sprite,
    rng: Rng,
    x: float,
    y: float,
    w: float,
    h: float,
    frame: Sequence[float],
    style: int,
    light: Light,
) -> None:
    if s.ppm < 14:  # a few pixels: a frame, the pane, the sill
        s.box(x - 0.05, y - 0.05, x + w + 0.05, y + h + 0.05, frame)
        pane = float(rng.uniform(0.12, 0.42))
        s.box(x + 0.07, y + 0.07, x + w - 0.07, y + h - 0.07, tuple(float(c) * pane for c in light.haze))
        s.box(x - 0.10, y - 0.2, x + w + 0.10, y - 0.06, (92, 86, 80))
        return
    surround = tuple(float(c) * 0.96 for c in frame)
    if style == 1:
        for sx in (x - 0.42 * w, x + w + 0.04):  # shutters
            s.box(sx, y, sx + 0.38 * w, y + h, (70, 92, 84))
            for k in np.arange(y + 0.06, y + h - 0.04, 0.1):
                s.box(sx + 0.05, float(k), sx + 0.38 * w - 0.05, float(k) + 0.035, (48, 66, 60))
    elif style != 3:
        s.box(x - 0.10, y - 0.06, x + w + 0.10, y + h + 0.14, surround)
    s.box(x - 0.02, y - 0.02, x + w + 0.02, y + h + 0.02, tuple(float(c) * 0.42 for c in frame))
    s.box(x, y, x + w, y + h, frame)
    _glass(s, rng, x + 0.06, y + 0.06, x + w - 0.06, y + h - 0.06, light, float(rng.random()))
    s.box(x + w / 2 - 0.03, y, x + w / 2 + 0.03, y + h, frame)
    s.box(x, y + 0.66 * h, x + w, y + 0.66 * h + 0.05, frame)
    s.box(x, y + h - 0.12, x + w, y + h - 0.06, tuple(float(c) * 0.35 for c in frame))  # the reveal's shadow
    s.box(x - 0.12, y - 0.14, x + w + 0.12, y - 0.06, tuple(float(c) * 0.9 for c in frame))
    s.box(x - 0.10, y - 0.24, x + w + 0.10, y - 0.14, (58, 54, 50) if style == 3 else (92, 86, 80))


def _ground_floor(
    s: Sprite, rng: Rng, width: float, height: float, base: Float, light: Light
) -> list[tuple[str, tuple[float, float, float, float]]]:
    signs: list[tuple[str, tuple[float, float, float, float]]] = []
    plinth = tuple(base * 0.62)
    if rng.random() < 0.3:  # a house door and windows
        s.box(0, 0, width, 0.7, plinth)
        door = float(rng.uniform(0.4, max(0.5, width - 1.8)))
        wood = ((92, 58, 38), (44, 66, 58), (90, 30, 30), (52, 58, 74))[rng.integers(4)]
        s.box(door - 0.15, 0, door + 1.35, 2.75, tuple(base * 1.1))
        s.box(door, 0, door + 1.2, 2.6, wood)
        for py in (0.25, 1.25):
            s.box(door + 0.15, py, door + 0.55, py + 0.8, tuple(c * 0.75 for c in wood))
            s.box(door + 0.65, py, door + 1.05, py + 0.8, tuple(c * 0.75 for c in wood))
        _glass(s, rng, door + 0.1, 2.15, door + 1.1, 2.5, light, 0)
        s.box(door + 1.5, 1.7, door + 1.8, 1.95, (38, 66, 140))
        s.write(str(rng.integers(1, 140)), door + 1.5, 1.7, door + 1.8, 1.95, (240, 240, 240))
        for x in np.arange(0.6, width - 1.2, 2.4):
            if not door - 1.4 < x < door + 1.6:
                _window(s, rng, float(x), 1.1, 1.1, 1.6, (226, 224, 218), 0, light)
        return signs
    n = max(1, round(width / rng.uniform(5.5, 8)))
    each = width / n
    for k in range(n):  # shops
        x0, x1 = k * each + 0.2, (k + 1) * each - 0.2
        trim = np.asarray(PAINTS[rng.integers(len(PAINTS))], np.float32) * 0.8
        s.box(x0, 0, x1, height - 0.1, tuple(trim))
        s.box(x0 + 0.1, 0.5, x1 - 0.1, height - 1.1, (54, 54, 56))
        panes = max(2, int((x1 - x0) // 1.5))
        pane = (x1 - x0 - 0.2) / panes
        for j in range(panes):
            a = x0 + 0.1 + j * pane
            _glass(
                s,
                rng,
                a + 0.05,
                0.06 if j == panes // 2 else 0.55,
                a + pane - 0.05,
                height - 1.15,
                light,
                0.3,
            )
            if j != panes // 2:
                _goods(s, rng, a + 0.1, a + pane - 0.1, height - 1.2)
        board = np.asarray(PAINTS[rng.integers(len(PAINTS))], np.float32)
        ink = (246, 244, 236) if board.mean() < 130 else (28, 28, 32)
        s.box(x0, height - 1.02, x1, height - 0.18, tuple(board))
        s.box(x0, height - 1.08, x1, height - 1.02, tuple(board * 0.5))
        name = str(rng.choice(SHOPS))
        s.write(name, x0 + 0.1, height - 1.0, x1 - 0.1, height - 0.2, ink, bold=0.03)
        signs.append((name, (x0, s.height - height + 0.18, x1 - x0, 0.84)))
        if rng.random() < 0.35:  # an awning
            stripes = max(4, int((x1 - x0) / 0.3))
            step = (x1 - x0) / stripes
            red = np.asarray(PAINTS[rng.integers(3, len(PAINTS))], np.float32)
            for j in range(stripes):
                colour = tuple(red) if j % 2 else (230, 226, 216)
                s.box(x0 + j * step, height - 1.75, x0 + (j + 1) * step, height - 1.05, colour)
            s.box(x0, height - 1.80, x1, height - 1.72, (60, 58, 56))
    return signs


def _goods(s: Sprite, rng: Rng, x0: float, x1: float, top: float) -> None:
    """Fill a shop window: lit shelves with things on them."""
    if s.ppm < 20:
        return
    warm = np.asarray((250, 226, 180), np.float32)
    hue = rng.uniform(50, 210, 3)
    y = 0.58
    while y < top - 0.5 and (y < 0.6 or rng.random() < 0.6):
        s.box(x0, y - 0.04, x1, y, (124, 108, 90))
        x = x0 + 0.03
        while x < x1 - 0.12:
            w, h = float(rng.uniform(0.07, 0.24)), float(rng.uniform(0.1, 0.42))
            colour = np.clip(0.5 * hue + 0.5 * rng.uniform(30, 230, 3), 0, 255)
            s.box(x, y, min(x + w, x1), y + h, tuple(colour * 0.85), 0.02)
            s.box(
                x + 0.2 * w,
                y + 0.3 * h,
                min(x + 0.8 * w, x1),
                y + 0.62 * h,
                tuple(0.5 * colour + 0.45 * warm),
            )
            x += w + float(rng.uniform(0.01, 0.16))
        y += float(rng.uniform(0.6, 0.8))


# ---- trees


def tree(rng: Rng, ppm: float, height: float, light: Light) -> Sprite:
    """Draw a broad-leaved tree, `height` metres high."""
    width = height * float(rng.uniform(0.62, 0.85))
    s = Sprite(width, height, ppm)
    h, w = s.alpha.shape
    bark = np.asarray((84, 68, 54), np.float32) * float(rng.uniform(0.7, 1.2))
    mid = width / 2
    fork = height * float(rng.uniform(0.3, 0.42))
    s.limb([(mid, 0), (mid + width * 0.01, fork), (mid, height * 0.7)], [0.42, 0.30, 0.1], tuple(bark))
    for side in (-1, 1, -0.5, 0.6):
        end = (mid + side * width * 0.28, fork + height * float(rng.uniform(0.15, 0.4)))
        s.limb([(mid, fork), end], [0.2, 0.05], tuple(bark))
    s.shade((1 + 0.16 * fbm(rng, h, w, 4, 0, 0.4)).astype(np.float32))
    yy, xx = np.arange(h, dtype=np.float32)[:, None], np.arange(w, dtype=np.float32)[None]
    crown = np.full((h, w), -9, np.float32)
    for _ in range(int(rng.integers(9, 15))):  # lumps of leaves
        a, r = float(rng.uniform(0, 2 * np.pi)), float(np.sqrt(rng.uniform(0, 1)))
        cx = (mid + 0.3 * width * r * np.cos(a)) * s.ppm
        cy = h - (height * 0.64 + 0.24 * height * r * np.sin(a)) * s.ppm
        radius = width * float(rng.uniform(0.14, 0.24)) * s.ppm
        x0, x1, y0, y1 = (
            max(0, int(v))
            for v in (cx - 1.7 * radius, cx + 1.7 * radius, cy - 1.7 * radius, cy + 1.7 * radius)
        )
        part = crown[y0:y1, x0:x1]
        np.maximum(
            part, 1 - np.sqrt((xx[:, x0:x1] - cx) ** 2 + (yy[y0:y1] - cy) ** 2) / np.float32(radius), out=part
        )
    fine = max(0, int(np.log2(max(1.0, s.ppm * 0.03))))
    leaves = fbm(rng, h, w, 4, fine, 0.35)
    foliage = (crown * 2.4 + 0.62 * leaves + 0.2 > 0) & (crown > -0.6)
    small = cv2.resize(crown, (max(2, w // 8), max(2, h // 8)), interpolation=cv2.INTER_AREA)
    lumps = np.tanh(1.6 * cv2.GaussianBlur(small, (0, 0), max(0.8, 0.01 * s.ppm)))
    lumps *= np.linspace(1, 0, lumps.shape[0], dtype=np.float32)[:, None]
    lit = cv2.resize(lumps, (w, h), interpolation=cv2.INTER_LINEAR) * 0.5 + 0.58
    lit += np.float32(0.06 * light.sun_side) * (xx / w - 0.5)
    green = np.asarray(
        ((82, 104, 56), (96, 112, 60), (72, 96, 60), (120, 114, 60), (90, 100, 54))[rng.integers(5)],
        np.float32,
    )
    tone = np.clip(lit, 0.24, 1.3) * np.clip(1.04 + 0.30 * leaves, 0.2, 2.1)
    warm = 0.05 * np.clip(leaves, -1.5, 1.5)[..., None] * np.asarray((1.2, 0.6, -0.8), np.float32)
    leaf = (green * tone[..., None]) * (1 + warm)
    s.rgb[foliage] = np.clip(leaf[foliage], 0, 255).astype(np.uint8)
    s.alpha[foliage] = 255
    return s


# ---- cars


@dataclass(frozen=True)
class CarLook:
    """One car: body measures in metres, paint, plate."""

    width: float
    height: float
    length: float
    roof: float  # the roof's width as a share of the body's
    shoulder: float  # height of the body below the windows
    paint: Colour
    plate: str
    front: bool


def make_car(rng: Rng, front: bool) -> CarLook:
    """Draw a car's measures and paint."""
    kind = rng.choice(3, p=(0.5, 0.3, 0.2))
    width, height, length, shoulder = (
        (1.78, 1.46, 4.3, 0.92),
        (1.84, 1.66, 4.5, 1.02),
        (1.94, 1.98, 4.9, 1.1),
    )[kind]
    k = rng.uniform(0.97, 1.03, 3)
    paint = tuple(np.clip(np.asarray(PAINTS[rng.integers(len(PAINTS))]) * rng.uniform(0.88, 1.1), 10, 240))
    return CarLook(
        width * k[0],
        height * k[1],
        length * k[2],
        (0.74, 0.8, 0.88)[kind],
        shoulder,
        paint,
        plate_text(rng),
        front,
    )


def car_face(
    look: CarLook, ppm: float, rng: Rng, light: Light
) -> tuple[Sprite, Sprite, tuple[float, float, float, float]]:
    """Draw a car's back (or front): its body, its cabin (above the shoulder), and the plate's box.

    Body and cabin are as wide as the car, the cabin's bottom is the shoulder line. Plate: (x, y from the bottom, width,
    height) in metres of the body.
    """
    w, sh = look.width, look.shoulder
    s = Sprite(w, sh + 0.1, ppm)
    paint = np.asarray(look.paint, np.float32)
    mid = w / 2
    for x in (0.05, w - 0.27):  # tyres
        s.box(x, 0, x + 0.22, 0.45, (22, 22, 24), 0.05)
    s.polygon(rounded_box(0.0, 0.17, w, sh + 0.1, 0.13), tuple(paint))
    rows = np.linspace(sh + 0.1, 0, s.alpha.shape[0], dtype=np.float32)[:, None]
    across = np.linspace(-1, 1, s.alpha.shape[1], dtype=np.float32)[None]
    # Paint mirrors the sky above its edges and the road below them.
    gloss = (
        0.86
        + 0.16 * np.exp(-(((rows - sh - 0.03) / 0.06) ** 2))
        + 0.10 * np.exp(-(((rows - 0.66 * sh) / 0.10) ** 2))
    )
    gloss = gloss - 0.22 * np.clip((0.52 - rows) / 0.35, 0, 1)
    s.shade((gloss * (1 - 0.24 * across**4) + _reflections(rng, s, 2, 8)).astype(np.float32))
    dark = tuple(paint * 0.42)
    s.box(0.04, 0.485, w - 0.04, 0.50, dark)  # where the bumper begins
    s.box(0.06, 0.17, w - 0.06, 0.27, (34, 35, 38), 0.05)
    if look.front:
        for x, skew in ((0.05, 0.06), (w - 0.45, -0.06)):
            s.polygon(
                [(x, 0.60), (x + 0.40, 0.58 - skew / 2), (x + 0.38, 0.76), (x + 0.02, 0.80)], (60, 62, 66)
            )
            s.ellipse(x + 0.13, 0.69, 0.075, 0.07, (236, 238, 240))
            s.ellipse(x + 0.28, 0.68, 0.06, 0.055, (206, 210, 214))
        s.box(mid - 0.42, 0.55, mid + 0.42, 0.76, (26, 27, 29), 0.06)
        for k in (0.585, 0.625, 0.665, 0.705):
            s.box(mid - 0.40, k, mid + 0.40, k + 0.014, (120, 122, 126))
        s.ellipse(mid, 0.66, 0.07, 0.06, (196, 198, 202))
        s.box(mid - 0.55, 0.29, mid + 0.55, 0.40, (24, 25, 27), 0.04)
        for x in (0.10, w - 0.30):
            s.ellipse(x + 0.1, 0.36, 0.06, 0.05, (190, 194, 198))
        plate_y = 0.385
    else:
        for x in (0.03, w - 0.31):
            s.box(x, 0.60, x + 0.28, 0.86, (112, 12, 14), 0.05)
            s.box(x + 0.03, 0.74, x + 0.25, 0.83, (192, 26, 24), 0.03)
            s.box(x + 0.06, 0.63, x + 0.22, 0.69, (214, 150, 122), 0.02)
        s.ellipse(mid, 0.82, 0.055, 0.042, (198, 200, 204))
        s.write(
            ("GT", "1.6", "TDI", "SE", "XL")[rng.integers(5)], w - 0.62, 0.78, w - 0.36, 0.86, (200, 202, 205)
        )
        s.box(mid - 0.36, 0.535, mid + 0.36, 0.74, tuple(paint * 0.72), 0.04)
        for x in (0.14, w - 0.32):
            s.box(x, 0.31, x + 0.18, 0.35, (150, 20, 20), 0.015)
        s.ellipse(w * 0.78, 0.19, 0.045, 0.03, (90, 90, 92))
        plate_y = 0.57
    pw, ph = 0.54, 0.135
    px, py = mid - pw / 2, plate_y
    s.box(px - 0.012, py - 0.012, px + pw + 0.012, py + ph + 0.012, (30, 30, 32))
    s.box(px, py, px + pw, py + ph, (238, 238, 232))
    s.box(px, py, px + 0.042, py + ph, (22, 60, 150))
    s.write(look.plate, px + 0.05, py, px + pw - 0.005, py + ph, (18, 18, 22), bold=0.035, margin=0.06)
    return s, _cabin(look, ppm, rng, light), (px, py, pw, ph)


def _cabin(look: CarLook, ppm: float, rng: Rng, light: Light) -> Sprite:
    w, tall = look.width, look.height - look.shoulder
    c = Sprite(w, tall, ppm)
    paint = np.asarray(look.paint, np.float32)
    mid, top = w / 2, look.roof * w / 2
    eaves = mid - (mid - top) * (1 - 0.07 / tall)  # in line with the car's sides, which lean inwards evenly
    outline = [(0, 0), (w, 0), (mid + eaves, tall - 0.07), (mid + top - 0.10, tall), (mid - top + 0.10, tall)]
    c.polygon([*outline, (mid - eaves, tall - 0.07)], tuple(paint * 0.92))
    rows = np.linspace(1, 0, c.alpha.shape[0], dtype=np.float32)[:, None]
    c.shade((0.88 + 0.16 * rows**6 + _reflections(rng, c, 1, 6)).astype(np.float32))
    a, b = 0.10, 0.07
    glass = [(a, 0.04), (w - a, 0.04), (mid + top - b, tall - 0.09), (mid - top + b, tall - 0.09)]
    c.polygon(glass, (32, 36, 40))
    sky = tuple(np.asarray(light.haze) * 0.5)
    gh = tall - 0.13
    c.polygon(
        [glass[3], glass[2], (glass[2][0] + 0.03, 0.04 + 0.78 * gh), (glass[3][0] - 0.02, 0.04 + 0.58 * gh)],
        sky,
    )
    for x in (0.30, 0.68):  # seats, sometimes somebody in them
        c.box(w * x - 0.15, 0.04, w * x + 0.15, 0.04 + 0.32 * gh, (20, 22, 24), 0.08)
        c.ellipse(w * x, 0.04 + 0.48 * gh, 0.11, 0.10, (22, 24, 26))
    if not look.front:
        c.polygon([(mid, 0.05), (mid + 0.34, 0.12), (mid + 0.34, 0.14), (mid, 0.075)], (10, 10, 12))
    return c


def _reflections(rng: Rng, s: Sprite, down: int, across: int) -> Float:
    """Return faint streaks (mean 0) over a sprite, stretched across."""
    h, w = s.alpha.shape
    noise = fbm(rng, max(2, h // down), max(2, w // across), 4, 1, 1.0)
    return np.asarray(0.018 * cv2.resize(noise, (w, h), interpolation=cv2.INTER_CUBIC), np.float32)


def car_side(look: CarLook, ppm: float, rng: Rng, light: Light) -> Sprite:
    """Draw a car's side, its back at the left."""
    length, h, sh = look.length, look.height, look.shoulder
    s = Sprite(length, h, ppm)
    paint = np.asarray(look.paint, np.float32)
    van = look.roof > 0.85
    nose = 0.16 if van else 0.30
    profile = [
        (0.02, 0.2),
        (0.0, 0.6),
        (0.0, sh),
        (0.0, h - 0.06),
        (0.10, h),
        (length * (0.62 if not van else 0.74), h),
        (length * (1 - nose) + 0.1, sh + 0.06),
        (length - 0.12, sh - 0.14),
        (length, 0.6),
        (length - 0.04, 0.24),
    ]
    s.polygon(profile, tuple(paint))
    rows = np.linspace(h, 0, s.alpha.shape[0], dtype=np.float32)[:, None]
    gloss = (
        0.76
        + 0.24 * (rows > 0.62 * sh) * (rows < sh)
        - 0.16 * np.clip((0.5 - rows) / 0.4, 0, 1)
        + 0.2 * np.exp(-(((rows - sh) / 0.04) ** 2))
    )
    s.shade((gloss + _reflections(rng, s, 2, 12)).astype(np.float32))
    top = h - 0.12
    x0, x1 = 0.42 if not van else 0.24, length * (0.62 if not van else 0.72)
    panes = [
        (x0 + 0.1, x0 + 0.35 * (x1 - x0)),
        (x0 + 0.39 * (x1 - x0), x0 + 0.68 * (x1 - x0)),
        (x0 + 0.72 * (x1 - x0), x1 + 0.3),
    ]
    for k, (a, b) in enumerate(panes):
        lean_a, lean_b = (0.16 if k == 0 else 0.0), (0.42 if k == 2 else 0.0)
        s.polygon(
            [
                (a - lean_a, sh + 0.05),
                (b + lean_b * 0.4, sh + 0.05),
                (b - lean_b, top),
                (a + lean_a * 0.4, top),
            ],
            (34, 38, 43),
        )
        s.polygon(
            [
                (a + lean_a * 0.4, top),
                (b - lean_b, top),
                (b - lean_b * 0.7, top - 0.12),
                (a + lean_a * 0.2, top - 0.2),
            ],
            tuple(np.asarray(light.haze) * 0.5),
        )
    for x in (x0 + 0.37 * (x1 - x0), x0 + 0.7 * (x1 - x0), x1 + 0.34):
        s.box(x - 0.008, 0.34, x + 0.008, sh + 0.04, tuple(paint * 0.4))
    for x in (x0 + 0.42 * (x1 - x0), x0 + 0.75 * (x1 - x0)):
        s.box(x, sh - 0.14, x + 0.2, sh - 0.10, tuple(paint * 0.55), 0.02)
    s.box(0.0, 0.62, 0.16, 0.86, (150, 18, 18), 0.03)
    s.box(length - 0.26, 0.60, length - 0.04, 0.76, (226, 228, 230), 0.03)
    s.box(0.05, 0.20, length - 0.05, 0.32, (34, 35, 38))
    for x in (0.78, length - 0.86):
        s.ellipse(x, 0.36, 0.40, 0.40, (16, 16, 18))
        s.ellipse(x, 0.325, 0.325, 0.325, (26, 26, 28))
        s.ellipse(x, 0.325, 0.215, 0.215, (150, 152, 156))
        for a in np.arange(0, 2 * np.pi, 2 * np.pi / 5):
            s.ellipse(
                x + 0.13 * np.cos(a),
                0.325 + 0.13 * np.sin(a),
                0.05,
                0.035,
                (50, 51, 54),
                float(np.degrees(a)),
            )
        s.ellipse(x, 0.325, 0.045, 0.045, (200, 202, 205))
    return s


# ---- people


def person(rng: Rng, ppm: float) -> Sprite:
    """Draw somebody walking, 1.5 to 1.9 m tall."""
    tall = float(rng.uniform(1.52, 1.9))
    k = tall / 1.75
    s = Sprite(1.0 * k, tall * 1.02, ppm)
    mid = 0.5 * k
    skin = np.asarray(SKINS[rng.integers(len(SKINS))], np.float32)
    coat, legs = (np.asarray(CLOTHES[i], np.float32) for i in rng.choice(len(CLOTHES), 2, replace=False))
    hair = np.asarray(
        ((38, 28, 22), (70, 48, 30), (150, 116, 70), (120, 118, 116), (24, 22, 22))[rng.integers(5)],
        np.float32,
    )
    stride = float(rng.uniform(0.05, 0.26)) * k
    lean = float(rng.uniform(-0.02, 0.02))
    hip, knee = 0.90 * k, 0.48 * k
    skirt = rng.random() < 0.25
    for side, dark in ((-1, 0.74), (1, 1.0)):
        foot = mid + side * stride
        bend = mid + side * stride * 0.45 + 0.03 * k
        s.limb(
            [(mid + side * 0.05 * k, hip), (bend, knee), (foot, 0.08 * k)],
            [0.19 * k, 0.145 * k, 0.095 * k],
            tuple((skin if skirt else legs) * dark),
        )
        s.ellipse(foot + 0.05 * k, 0.045 * k, 0.12 * k, 0.045 * k, (34, 30, 28))
    swing = float(rng.uniform(0.04, 0.2)) * k
    s.limb(
        [
            (mid - 0.17 * k, 1.42 * k),
            (mid - 0.23 * k - swing * 0.5, 1.14 * k),
            (mid - 0.18 * k - swing, 0.88 * k),
        ],
        [0.12 * k, 0.105 * k, 0.08 * k],
        tuple(coat * 0.72),
    )
    s.ellipse(mid - 0.18 * k - swing, 0.85 * k, 0.045 * k, 0.055 * k, tuple(skin * 0.85))
    hem = 0.62 * k if skirt else float(rng.choice((0.72, 0.84))) * k
    flare = 0.24 * k if skirt else 0.19 * k
    s.polygon(
        [
            (mid - 0.20 * k, 1.44 * k),
            (mid - 0.07 * k, 1.50 * k),
            (mid + 0.07 * k, 1.50 * k),
            (mid + 0.20 * k, 1.44 * k),
            (mid + 0.17 * k, 1.1 * k),
            (mid + flare, hem),
            (mid - flare, hem),
            (mid - 0.17 * k, 1.1 * k),
        ],
        tuple(coat),
    )
    if rng.random() < 0.5:
        s.polygon(
            [
                (mid - 0.035 * k, 1.49 * k),
                (mid + 0.035 * k, 1.49 * k),
                (mid + 0.02 * k, 1.25 * k),
                (mid - 0.02 * k, 1.25 * k),
            ],
            tuple(CLOTHES[rng.integers(len(CLOTHES))]),
        )
    s.limb(
        [
            (mid + 0.17 * k, 1.42 * k),
            (mid + 0.24 * k + swing * 0.3, 1.14 * k),
            (mid + 0.20 * k + swing, 0.9 * k),
        ],
        [0.125 * k, 0.11 * k, 0.085 * k],
        tuple(coat * 0.9),
    )
    s.ellipse(mid + 0.20 * k + swing, 0.87 * k, 0.045 * k, 0.055 * k, tuple(skin))
    if rng.random() < 0.45:
        bag = np.asarray(CLOTHES[rng.integers(len(CLOTHES))], np.float32)
        bx = mid + 0.20 * k + swing
        s.box(bx - 0.11 * k, 0.52 * k, bx + 0.13 * k, 0.80 * k, tuple(bag), 0.03)
    s.limb([(mid, 1.46 * k), (mid + lean, 1.56 * k)], [0.11 * k, 0.10 * k], tuple(skin * 0.85))
    s.ellipse(mid + lean, 1.64 * k, 0.085 * k, 0.115 * k, tuple(skin))
    top = rounded_box(mid + lean - 0.095 * k, 1.655 * k, mid + lean + 0.095 * k, 1.765 * k, 0.085 * k)
    s.polygon(top, tuple(hair))
    if rng.random() < 0.4:
        s.ellipse(mid + lean - 0.075 * k, 1.60 * k, 0.035 * k, 0.12 * k, tuple(hair))
        s.ellipse(mid + lean + 0.075 * k, 1.60 * k, 0.035 * k, 0.12 * k, tuple(hair))
    for ex in (-0.032, 0.032):
        s.ellipse(mid + lean + ex * k, 1.645 * k, 0.011 * k, 0.009 * k, (30, 24, 22))
    s.ellipse(mid + lean, 1.585 * k, 0.026 * k, 0.008 * k, tuple(skin * 0.6))
    h, w = s.alpha.shape
    across = np.linspace(-1, 1, w, dtype=np.float32)[None]
    folds = fbm(rng, h, w, 5, max(0, int(np.log2(max(1.0, ppm * 0.02)))), 0.9)
    s.shade(
        (1.02 - 0.26 * np.clip(across * 2.2, -1, 1) * float(rng.choice((-1, 1))) + 0.085 * folds).astype(
            np.float32
        )
    )
    return s


# ---- signs


def road_sign(rng: Rng, ppm: float) -> tuple[Sprite, str, tuple[float, float, float, float]]:
    """Draw a sign on its post; returns it with its text ("" for a symbol) and its box (x, y from the bottom, w, h) in metres."""
    kind = int(rng.integers(5))
    s = Sprite(1.3, 3.0, ppm)
    s.box(0.62, 0, 0.68, 2.9, (128, 130, 132))
    s.box(0.62, 0, 0.635, 2.9, (92, 94, 96))
    text, box = "", (0.33, 2.26, 0.64, 0.64)
    if kind == 0:
        text = str(rng.choice(("30", "50", "20", "40")))
        s.ellipse(0.65, 2.58, 0.32, 0.32, (186, 22, 28))
        s.ellipse(0.65, 2.58, 0.25, 0.25, (240, 240, 236))
        s.write(text, 0.43, 2.40, 0.87, 2.76, (20, 20, 22), bold=0.04)
    elif kind == 1:
        s.polygon([(0.28, 2.28), (1.02, 2.28), (0.65, 2.92)], (190, 24, 28))
        s.polygon([(0.40, 2.34), (0.90, 2.34), (0.65, 2.77)], (242, 242, 238))
        s.box(0.625, 2.46, 0.675, 2.64, (20, 20, 22), 0.02)
        s.ellipse(0.65, 2.41, 0.03, 0.03, (20, 20, 22))
    elif kind == 2:
        text = "STOP"
        t = np.radians(np.arange(22.5, 382, 45))
        s.polygon(list(zip(0.65 + 0.36 * np.cos(t), 2.58 + 0.36 * np.sin(t), strict=True)), (240, 240, 238))
        s.polygon(list(zip(0.65 + 0.335 * np.cos(t), 2.58 + 0.335 * np.sin(t), strict=True)), (178, 20, 28))
        s.write(text, 0.34, 2.44, 0.96, 2.72, (244, 244, 242), bold=0.05, margin=0.05)
    elif kind == 3:
        text = str(rng.choice(STREETS))
        s.box(0.05, 2.5, 1.25, 2.82, (240, 240, 240), 0.03)
        s.box(0.07, 2.52, 1.23, 2.80, (24, 62, 140), 0.02)
        s.write(text, 0.09, 2.53, 1.21, 2.79, (244, 244, 244), bold=0.02, margin=0.06)
        box = (0.05, 2.5, 1.2, 0.32)
    else:
        text = "P"
        s.box(0.35, 2.26, 0.95, 2.88, (238, 238, 238), 0.04)
        s.box(0.37, 2.28, 0.93, 2.86, (30, 72, 160), 0.03)
        s.write(text, 0.40, 2.30, 0.90, 2.84, (246, 246, 246), bold=0.05)
    h, w = s.alpha.shape
    s.shade((1 + 0.03 * fbm(rng, h, w, 4, 2, 1.0)).astype(np.float32))
    return s, text, box


def lamp(ppm: float) -> Sprite:
    """Draw a street lamp, 7 m high."""
    s = Sprite(2.4, 7.2, ppm)
    s.polygon([(0.32, 0), (0.48, 0), (0.44, 7), (0.36, 7)], (86, 90, 92))
    s.polygon([(0.32, 0), (0.37, 0), (0.385, 7), (0.36, 7)], (54, 57, 60))
    s.limb([(0.40, 6.9), (1.0, 7.1), (1.7, 7.08)], [0.09, 0.08, 0.07], (80, 84, 86))
    s.box(1.5, 6.98, 2.3, 7.1, (120, 122, 124), 0.05)
    s.box(1.6, 6.95, 2.2, 6.99, (230, 228, 210))
    return s
