"""Tools to draw a street with: text, sprites, a scene to lay them on, ground, sky, the photograph.

World coordinates in metres: X to the right of the camera, Y up from the ground, Z forward. Pictures are uint8.
"""

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

Float = NDArray[Any]
Bytes = NDArray[Any]
Colours = dict[str, Any]
Point = tuple[float, float]
#: kind, colour or its name, numbers in metres: box x0 y0 x1 y1 [radius of its corners], oval x y rx ry,
#: limb x0 y0 width0 x1 y1 width1, poly x y x y …; a kind in capitals is drawn on both sides of x = 0
Shape = tuple[Any, ...]
Box = tuple[float, float, float, float]
_CIRCLE: Final = np.asarray([(np.cos(a), np.sin(a)) for a in np.linspace(0, 2 * np.pi, 32, endpoint=False)])
#: colours of sun, haze and zenith, contrast of the street's sides, darkness of shadows, clouds, range of sight (m)
WEATHERS: Final[tuple[tuple[Any, ...], ...]] = (
    ((1.06, 1.02, 0.94), (206, 220, 234), (112, 158, 212), 0.30, 0.48, 0.35, 260),
    ((0.96, 0.98, 1.00), (214, 218, 222), (166, 174, 184), 0.08, 0.20, 0.95, 150),
    ((1.12, 0.98, 0.80), (240, 212, 178), (112, 138, 180), 0.38, 0.50, 0.50, 200),
    ((0.78, 0.80, 0.86), (170, 178, 190), (120, 130, 146), 0.10, 0.26, 0.85, 120),
)


@lru_cache(maxsize=64)
def noise_field(seeds: tuple[int, ...], first: int, slope: float) -> Bytes:
    """Seamless noise, 128 + 32 σ, uint8 1024×1024: details of 2^first pixels and more, amplitude 1/frequency^slope."""
    white = np.fft.rfft2(np.random.default_rng(seeds).standard_normal((1024, 1024)))
    f = np.maximum(np.hypot(np.fft.fftfreq(1024)[:, None], np.fft.rfftfreq(1024)[None]), 1e-9)
    high, low = 2.0 ** -(first + 1), 2.0 ** -(first + 7)
    # Equal noise in each octave is 1/f in amplitude in two dimensions; soft flanks at both ends of the band.
    white *= f ** -(1 + slope) / (1 + (low / f) ** 4) / (1 + (f / high) ** 4)
    drawn: Float = np.fft.irfft2(white, s=(1024, 1024))
    return np.asarray(np.clip(np.rint(drawn * (32 / drawn.std()) + 128), 0, 255), np.uint8)


def text_mask(text: str, width: int, height: int, margin: float) -> Float:
    """Coverage (0 … 1, float32 H×W) of a line of text as large as fits inside a margin."""
    font = ImageFont.load_default(96)
    left, top, right, bottom = font.getbbox(text)
    image = Image.new("L", (int(right - left) + 12, int(bottom - top) + 12))
    ImageDraw.Draw(image).text((6 - left, 6 - top), text, 255, font, stroke_width=3)
    scale = min(width * (1 - margin) / image.width, height * (1 - 1.6 * margin) / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    mask = Image.new("L", (width, height))
    mask.paste(image.resize(size, Image.Resampling.BOX), ((width - size[0]) // 2, (height - size[1]) // 2))
    return np.asarray(mask, np.float32) * (1 / 255)


class Sprite:
    """A picture with holes, `ppm` pixels a metre: x from its middle, y up from its bottom; premultiplied RGBA."""

    def __init__(self, width: float, height: float, ppm: float, fill: Float | None = None):
        self.width, self.height, self.ppm, self.texts = width, height, ppm, list[tuple[str, str, Box]]()
        self.rgba = np.zeros((max(2, round(height * ppm)), max(2, round(width * ppm)), 4), np.uint8)
        if fill is not None:
            self.rgba[..., :3], self.rgba[..., 3] = np.clip(fill, 0, 255), 255

    def draw(self, parts: Iterable[Shape], inks: Colours, scale: Point = (1, 1), at: Point = (0, 0)) -> None:
        """Fill shapes one over the other, their coordinates times `scale` and moved to `at`."""
        h, w = self.rgba.shape[:2]
        for kind, colour, *numbers in parts:
            rgb = np.clip(inks[colour] if isinstance(colour, str) else colour, 0, 255)
            outline = _outline(kind.lower(), tuple(numbers)) * scale
            for side in (1, -1) if kind.isupper() else (1,):
                metres = outline * (side, 1) + at
                corners = np.rint(16 * (metres * (self.ppm, -self.ppm) + (w / 2, h)) - 8).astype(np.int32)
                cv2.fillPoly(self.rgba, [corners], (*rgb.tolist(), 255), cv2.LINE_AA, 4)

    def region(self, x0: float, y0: float, x1: float, y1: float) -> Bytes:
        """The colours of a box: a view."""
        bottom, middle = len(self.rgba), self.rgba.shape[1] / 2
        rows = slice(*(max(0, round(bottom - y * self.ppm)) for y in (y1, y0)))
        return self.rgba[rows, slice(*(max(0, round(middle + x * self.ppm)) for x in (x0, x1))), :3]

    def write(self, kind: str, text: str, box: Box, ink: ArrayLike, margin: float = 0.06) -> None:
        """Write a line of text into a box (x0, y0, x1, y1 in metres)."""
        part = self.region(*box)
        if part.size:
            mask = text_mask(text, part.shape[1], part.shape[0], margin)[..., None]
            part[:] = part * (1 - mask) + np.asarray(ink, np.float32) * mask
            self.texts.append((kind, text, box))

    def shade(self, factor: Float) -> None:
        """Multiply the colours by an H×W array."""
        self.rgba[..., :3] = np.clip(self.rgba[..., :3] * factor[..., None], 0, 255)


@lru_cache(maxsize=512)
def _outline(kind: str, numbers: tuple[float, ...]) -> Float:
    v = np.asarray(numbers, np.float64)
    if kind == "poly":
        return v.reshape(-1, 2)
    if kind == "oval":
        return np.asarray(v[:2] + v[2:] * _CIRCLE)
    if len(v) == 4:
        return v[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2)
    circles = v.reshape(-1, 3) * (1, 1, 0.5) if kind == "limb" else np.empty((4, 3))
    if kind == "box":
        x0, y0, x1, y1, r = v
        circles[:] = [(x, y, r) for x in (x0 + r, x1 - r) for y in (y0 + r, y1 - r)]
    around = circles[:, None, :2] + circles[:, None, 2:] * _CIRCLE
    return np.asarray(cv2.convexHull(around.reshape(-1, 2).astype(np.float32))[:, 0], np.float64)


def shapes(table: str) -> dict[str, list[Shape]]:
    """Read drawings "NAME: SHAPE, SHAPE, …", one a line; one that begins with blanks goes on with the one above."""
    lines = (line.split(":") for line in table.strip().replace("\n ", " ").splitlines())
    parts = {name: [shape.split() for shape in drawn.split(",")] for name, drawn in lines}
    return {name: [(k, c, *map(float, v)) for k, c, *v in drawn] for name, drawn in parts.items()}


class Scene:
    """A street in a light, seen by a pinhole camera, and the picture of it: uint8 RGB H×W×3.

    `front` says for each pixel which of the sprites laid down is in front; `texts` are what is written on them. Kerbs
    and house fronts (left, right), the centre line and where a crossing begins are in metres. All pictures of a split
    share their noise (`seeds` but the last), so that no texture is both in train and in test.
    """

    def __init__(self, seeds: tuple[int, ...], width: int, height: int):
        self.seeds, self.rng = seeds, np.random.default_rng(seeds)
        u, self.unit, self.canvas = self.rng.uniform, width / 2048, np.empty((height, width, 3), np.uint8)
        self.front, self.count, self.texts = np.zeros((height, width), np.int16), 0, list[dict[str, Any]]()
        self.focal, self.eye = u(1500, 2100) * self.unit, u(1.35, 1.75)
        self.cx, self.horizon = width * u(0.44, 0.56), height * u(0.41, 0.48)
        weather = WEATHERS[int(self.rng.integers(7)) // 2]
        self.sun, self.haze, self.zenith = (np.asarray(c, np.float32) * u(0.93, 1.04) for c in weather[:3])
        contrast, self.shadow, cloud, sight = weather[3:]
        self.cloud, self.sight, self.bricks = cloud + u(-0.25, 0.25), sight * u(0.8, 1.3), u(0.1, 0.7)
        self.sunny, bright = int(self.rng.choice((-1, 1))), contrast * u(0.7, 1.2)
        self.sides = (1 - bright * self.sunny, 1 + bright * self.sunny)
        lane, self.inset = u(3.0, 3.6), 2.3 if u() < 0.8 else 0.4
        self.centre, self.crossing = u(-0.3, 0.3) - lane / 2, u(9, 22) if u() < 0.35 else -99.0
        self.kerbs = (self.centre - lane - self.inset, self.centre + lane + self.inset)
        self.fronts = (self.kerbs[0] - u(2.4, 4.2), self.kerbs[1] + u(2.4, 4.2))

    def noise(self, height: int, width: int, first: int = 0, slope: float = 0.7) -> Float:
        """A random piece of the noise field with mean 0 and standard deviation 1: float32 H×W."""
        rows, columns = (np.arange(n) + self.rng.integers(1024) for n in (height, width))
        piece = noise_field(self.seeds[:-1], first, slope).take(rows, 0, mode="wrap")
        return np.asarray((piece.take(columns, 1, mode="wrap") - np.float32(128)) / 32)

    def noise_at(self, x: Float, y: Float, first: int, slope: float) -> Float:
        """The noise field at places in pixels: x, y and the result are float32 H×W."""
        field = noise_field(self.seeds[:-1], first, slope)
        found = cv2.remap(field, x, np.ascontiguousarray(y), cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        return (found - np.float32(128)) / 32

    def pick(self, table: Sequence[Any]) -> Float:
        """A random colour of a table."""
        return np.asarray(table[int(self.rng.integers(len(table)))], np.float32)

    def project(self, points: ArrayLike) -> NDArray[np.float64]:
        """Where world points (N×3) fall in the picture: N×2."""
        x, y, z = np.asarray(points, np.float64).T
        return np.stack([self.cx + self.focal * x / z, self.horizon + self.focal * (self.eye - y) / z], 1)

    def fade(self, z: Float) -> Float:
        """The haze's share at distances z."""
        return np.asarray(1 - np.exp(-np.maximum(z - 12, 0) / self.sight), np.float32)

    def tint(self, x: float) -> Float:
        """Colour and brightness of the light at x."""
        return self.sun * float(np.interp(x, self.fronts, self.sides))

    def paste(self, sprite: Sprite, corners: ArrayLike, tint: ArrayLike, owns: bool = True) -> None:
        """Lay a sprite on four world points (top left, top right, bottom right, bottom left), hazed by distance. `tint`
        multiplies its colours. What `owns` its pixels hides what is written there."""
        world, points, (h, w) = np.asarray(corners, np.float64), self.project(corners), sprite.rgba.shape[:2]
        limits, self.count = self.canvas.shape[1::-1], self.count + owns
        x0, y0 = np.clip(np.floor(points.min(axis=0)), 0, limits).astype(int)
        x1, y1 = np.clip(np.ceil(points.max(axis=0)) + 1, 0, limits).astype(int)
        if x1 <= x0 or y1 <= y0:
            return
        a, b, c, d = points
        sizes = ((w, math.dist(a, b), math.dist(d, c)), (h, math.dist(a, d), math.dist(b, c)))
        kx, ky = (max(1, int(n / max(1, *sides) + 0.01)) for n, *sides in sizes)
        h, w = h // ky, w // kx
        layer: Bytes = cv2.resize(sprite.rgba[: h * ky, : w * kx], (w, h), interpolation=cv2.INTER_AREA)
        source = np.asarray([(0, 0), (w, 0), (w, h), (0, h)], np.float32) - 0.5
        matrix = cv2.getPerspectiveTransform(source, (points - (x0 + 0.5, y0 + 0.5)).astype(np.float32))
        layer = cv2.warpPerspective(layer, matrix, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR)
        # 1/Z is linear across the picture of a plane that stands upright.
        near = np.interp(np.arange(x0, x1) + 0.5, (a[0], b[0]), 1 / world[:2, 2])
        fade = self.fade(1 / near)[:, None]
        factor, veil = np.asarray(tint, np.float32) * (1 - fade), self.haze * fade / 255
        for y in range(y0, y1, 32):  # strips that fit the processor's cache
            part, target = layer[y - y0 : y - y0 + 32], self.canvas[y : min(y1, y + 32), x0:x1]
            if part[..., 3].any():
                alpha = part[..., 3:].astype(np.float32)
                blend = part[..., :3] * factor
                blend += veil * alpha
                if part[..., 3].min() < 255:
                    blend += target * (1 - alpha * (1 / 255))
                target[:] = np.minimum(blend, 255)
                if owns:
                    self.front[y : y + len(part), x0:x1][part[..., 3] > 127] = self.count
        for kind, text, (left, low, right, high) in sprite.texts:
            across, down = (world[1] - world[0]) / sprite.width, (world[0] - world[3]) / sprite.height
            middle, ends = (world[2] + world[3]) / 2, [(u, v) for u in (left, right) for v in (low, high)]
            places = self.project([middle + u * across + v * down for u, v in ends])
            box = [round(float(v), 1) for v in (*places.min(axis=0), *np.ptp(places, axis=0))]
            self.texts.append({"kind": kind, "text": text, "box": box, "on": self.count})

    def upright(self, sprite: Sprite, x: float, z: float, y: float = 0, back: float = 0) -> None:
        """Lay a sprite facing the camera, its bottom's middle at (x, y, z), its top `back` metres farther."""
        a, b, top, far = x - sprite.width / 2, x + sprite.width / 2, y + sprite.height, z + back
        self.paste(sprite, [(a, top, far), (b, top, far), (b, y, z), (a, y, z)], self.tint(x))

    def shade(self, x0: float, x1: float, z0: float, z1: float, strength: float, slant: float = 0.0) -> None:
        """Darken a place on the ground, with soft edges, to 1 − strength; its far side is moved by `slant`."""
        soft, near, far = Sprite(1, 1, 48), max(1.5, 1.25 * z0 - z1 / 4), 1.25 * z1 - z0 / 4
        soft.rgba[8:-8, 8:-8, 3] = round(255 * strength)
        soft.rgba[:] = cv2.GaussianBlur(soft.rgba, (0, 0), 4)
        a, b = 1.25 * x0 - x1 / 4, 1.25 * x1 - x0 / 4
        self.paste(soft, [(a + slant, 0, far), (b + slant, 0, far), (b, 0, near), (a, 0, near)], 0, False)


def draw_sky(scene: Scene) -> None:
    """Fill everything above the horizon: a gradient with clouds that get flatter towards the horizon."""
    rows, w = int(scene.horizon) // 2 + 2, scene.canvas.shape[1] // 2
    t = np.linspace(0, 1, rows, dtype=np.float32)[:, None]
    depth = 1 / (1.16 - t)  # of a layer of clouds overhead
    across = np.linspace(-130, 130, w, dtype=np.float32)[None] * depth
    along = np.broadcast_to(depth * 95 + scene.rng.uniform(0, 512), across.shape)
    noise = scene.noise_at(across + 512, along, 1, 1.0)
    cover = np.clip((noise - (0.9 - 2.1 * scene.cloud)) * 0.5 + 0.5, 0, 1)
    share = (cover * cover * (3 - 2 * cover) * (1 - 0.55 * t) * (0.55 + 0.4 * scene.cloud))[..., None]
    cloud = (scene.haze * 0.35 + 155) * (0.92 + 0.05 * np.clip(noise, -2, 2))[..., None]
    sky = scene.zenith + (scene.haze - scene.zenith) * (t * np.sqrt(t))[..., None]
    small = np.clip(sky + (cloud - sky) * share, 0, 255).astype(np.uint8)
    scene.canvas[: 2 * rows] = cv2.resize(small, (2 * w, 2 * rows), interpolation=cv2.INTER_LINEAR_EXACT)


def _band(value: Float, low: float, high: float, step: Float) -> Float:
    """1 where low < value < high, with an edge one pixel (`step` metres) wide."""
    return np.clip(((high - low) / 2 - np.abs(value - (high + low) / 2)) / step + 0.5, 0, 1)


def draw_ground(scene: Scene) -> None:
    """Fill everything below the horizon: asphalt, paint with wear, kerbs, paving."""
    u, (h, w), right = scene.rng.uniform, scene.canvas.shape[:2], scene.kerbs[1]
    asphalt, slab, dash = np.asarray((98, 99, 102), np.float32) * u(0.8, 1.25), u(0.4, 0.8), u(0, 9)
    paving = scene.pick(((156, 150, 142), (142, 142, 142), (160, 140, 126)))
    for y0 in range(int(scene.horizon) + 1, h, 16):  # strips that fit the processor's cache
        y = np.arange(y0, min(y0 + 16, h), dtype=np.float32)[:, None] + (0.5 - scene.horizon)
        z = scene.focal * scene.eye / np.maximum(y, 0.5)
        dx, dz = z / scene.focal, z * z / (scene.focal * scene.eye)  # metres a pixel, across and along
        x, long = (np.arange(w, dtype=np.float32) + (0.5 - scene.cx)) * dx, np.broadcast_to(z, (len(z), w))
        # World-fixed texture, one level a doubling of distance: it neither blurs near by nor aliases far off.
        scale = 2.0 ** -round(math.log2(float(dx[len(dx) // 2, 0])) + 0.3)
        grain = scene.noise_at(x * scale, long * (scale * 0.6), 0, -0.3)
        stain = scene.noise_at(x * 14, long * 4.5, 1, 1.0)
        away, half = np.abs(x - scene.centre), right - scene.centre  # from the middle of the road
        paint = _band(away, -1, 0.07, dx) * _band((z + dash) % 9, 0, 4, dz)
        paint = np.maximum(paint, _band(away, half - scene.inset - 0.06, half - scene.inset + 0.06, dx))
        zebra = _band(x % 1, 0, 0.5, dx) * _band(z, scene.crossing, scene.crossing + 3.2, dz)
        paint = np.maximum(paint, zebra * _band(away, -1, half - 0.3, dx))
        walk, kerb = np.clip((away - half) / dx + 0.5, 0, 1), _band(away, half, half + 0.16, dx)
        joints = _band(x % slab, 0, 0.02, dx) + _band(z % slab, 0, 0.025, dz) * np.clip(0.08 / dz, 0, 1)
        colour = asphalt + (paving * (1 - 0.3 * joints)[..., None] - asphalt) * walk[..., None]
        worn = paint * np.clip(0.84 + 0.10 * grain + 0.16 * stain, 0, 1) * (1 - walk)
        for share, grey in ((kerb, 168), (worn, 218)):
            colour += (grey - colour) * share[..., None]
        tone = (1 + 0.085 * grain + 0.055 * stain) * (1 - 0.35 * _band(away, half - 0.12, half, dx))
        colour *= tone[..., None]
        colour += (scene.haze - colour) * scene.fade(z)[..., None]
        scene.canvas[y0 : y0 + len(y)] = np.clip(colour, 0, 255)


def photograph(scene: Scene) -> Bytes:
    """Take the picture: lens blur, exposure with highlights that roll off above 200, vignetting, sensor noise."""
    rng, (h, w) = scene.rng, scene.canvas.shape[:2]
    picture: Bytes = cv2.GaussianBlur(scene.canvas, (0, 0), max(0.35, rng.uniform(0.6, 0.95) * scene.unit))
    levels = np.arange(256) * rng.uniform(0.98, 1.16)
    rolled = np.minimum(levels, 200) + 55 * (1 - np.exp(np.maximum(levels - 200, 0) / -55))
    curve = (np.rint(16 * rolled) / 16).astype(np.float32)
    noise = (np.rint(rng.uniform(0.7, 1.7) * (0.5 + 0.044 * np.sqrt(levels)) * 256) / 256).astype(np.float32)
    corner, xx = rng.uniform(0.03, 0.1), np.linspace(-1, 1, w, dtype=np.float32)[:, None] ** 2
    for y in range(0, h, 32):
        strip = picture[y : y + 32]
        grain = rng.standard_normal((len(strip), w, 1), np.float32) * 0.85
        tinge = rng.standard_normal((len(strip) // 2 + 1, w // 2 + 1, 3), np.float32) * 0.5
        grain = grain + tinge.repeat(2, 0).repeat(2, 1)[: len(strip), :w]
        light = 1 - corner * (xx + (2 * y / h - 1) ** 2)
        taken = cv2.LUT(strip, curve) * light + grain * cv2.LUT(strip[..., 1:2], noise)[..., None]
        strip[:] = np.clip(taken + 0.5, 0, 255)
    return picture
