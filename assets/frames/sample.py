"""The `sample` dataset: street scenes drawn by code, in Cityscapes' layout, for a machine without network.

Each picture is 2048×1024 and drawn from its own seed (dataset seed, split, number): it never depends on how many others
there are or how many workers draw. What the experiment needs is in them: large smooth places (sky, road), texture (plaster,
bricks, leaves), and small things that people look at (number plates, signs, faces). What is written where stands in a
JSON beside the pictures: `objects/SPLIT/CITY/…_objects.json`.
"""

import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from assets.frames import scenery
from assets.frames.encode import encode_png
from assets.frames.scenery import Camera, Float, Light, Rng, Street
from models.errors import FoveaError

DEFAULT_COUNTS: Final = {"train": 24, "val": 6, "test": 8}
DEFAULT_SIZE: Final = (2048, 1024)
#: Made-up cities, disjoint between splits as in Cityscapes, each with its share of brick houses.
CITIES: Final[dict[str, tuple[tuple[str, float], ...]]] = {
    "train": (
        ("arnheide", 0.2),
        ("bellmont", 0.7),
        ("corvenau", 0.4),
        ("dornfurt", 0.1),
        ("eschwald", 0.5),
        ("falkberg", 0.3),
    ),
    "val": (("grauhof", 0.3), ("hallinge", 0.6)),
    "test": (("istenau", 0.2), ("jorvingen", 0.6), ("kaltenau", 0.4)),
}
_SPLIT_SEED: Final = {"train": 1, "val": 2, "test": 3}


def make_sample(
    out: Path,
    *,
    seed: int = 0,
    counts: Mapping[str, int] = DEFAULT_COUNTS,
    size: tuple[int, int] = DEFAULT_SIZE,
    workers: int | None = None,
    progress: Callable[[float, float, str], None] | None = None,
) -> list[Path]:
    """Draw the dataset below `out` and return the pictures' paths.

    `leftImg8bit/SPLIT/CITY/CITY_SSSSSS_000019_leftImg8bit.png` and, for each, `objects/SPLIT/CITY/…_objects.json`: a
    list of {"kind": "plate" | "sign", "text", "box": [x, y, width, height] in pixels}, unhidden and inside the picture.
    `progress` is called with (done, total, note).

    Raises:
        FoveaError: an unknown split, or a size under 256×128.
    """
    if unknown := sorted(set(counts) - set(CITIES)):
        raise FoveaError(f"sample: {', '.join(unknown)} is no split; the splits are train, val and test")
    if size[0] < 256 or size[1] < 128:
        raise FoveaError(f"sample: {size[0]}×{size[1]} is too small to draw a street in; at least 256×128")
    jobs = [(split, number) for split in CITIES for number in range(counts.get(split, 0))]
    paths: list[Path] = []
    with ThreadPoolExecutor(workers or os.cpu_count() or 1, thread_name_prefix="sample") as pool:
        made = pool.map(lambda job: _make_one(out, seed, job[0], job[1], size), jobs)
        for done, path in enumerate(made, start=1):
            paths.append(path)
            if progress:
                progress(done, len(jobs), "pictures drawn")
    return paths


def draw_scene(
    seed: int, split: str, number: int, size: tuple[int, int] = DEFAULT_SIZE
) -> tuple[NDArray[np.uint8], list[dict[str, Any]]]:
    """Draw picture `number` of a split: uint8 RGB H×W×3, and its plates and signs."""
    rng = np.random.default_rng((seed, _SPLIT_SEED[split], number))
    brick_share = CITIES[split][number % len(CITIES[split])][1]
    width, height = size
    unit = width / 2048
    camera = Camera(
        width, height,
        focal=float(rng.uniform(1500, 2100)) * unit,
        cx=width * float(rng.uniform(0.44, 0.56)),
        horizon=height * float(rng.uniform(0.41, 0.48)),
        height=float(rng.uniform(1.35, 1.75)),
    )  # fmt: skip
    light = scenery.make_light(rng)
    street = _street(rng)
    canvas: Float = np.empty((height, width, 3), np.float32)
    scenery.draw_sky(canvas, camera, light, rng)
    scenery.draw_ground(canvas, camera, street, light, rng)
    _shadows(canvas, camera, street, light, rng)
    _far_end(canvas, camera, light, rng)
    objects: list[dict[str, Any]] = []
    _houses(canvas, camera, street, light, rng, brick_share, objects)
    _things(canvas, camera, street, light, rng, objects)
    return _photograph(canvas, light, rng, unit), [o for o in objects if _visible(o, objects, size)]


def _make_one(out: Path, seed: int, split: str, number: int, size: tuple[int, int]) -> Path:
    picture, objects = draw_scene(seed, split, number, size)
    city = CITIES[split][number % len(CITIES[split])][0]
    stem = f"{city}_{number:06d}_000019"
    path = out / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png"
    _write(path, encode_png(picture, level=1))
    listed = [{key: o[key] for key in ("kind", "text", "box")} for o in objects]
    text = json.dumps({"size": list(size), "objects": listed}, indent=1)
    _write(out / "objects" / split / city / f"{stem}_objects.json", text.encode())
    return path


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    beside.write_bytes(data)
    beside.replace(path)


def _street(rng: Rng) -> Street:
    lane = float(rng.uniform(3.0, 3.6))
    parking = bool(rng.random() < 0.8)
    margin = 2.3 if parking else 0.4
    centre = -lane / 2 + float(rng.uniform(-0.3, 0.3))
    left, right = centre - lane - margin, centre + lane + margin
    walks = rng.uniform(2.4, 4.2, 2)
    crossing = float(rng.uniform(9, 22)) if rng.random() < 0.35 else None
    return Street(left, right, left - float(walks[0]), right + float(walks[1]), centre, crossing, parking)


def _shadows(canvas: Float, camera: Camera, street: Street, light: Light, rng: Rng) -> None:
    """Houses on the sunny side throw a broken shadow over the street."""
    strength = 1 - light.shadow
    if strength < 0.3:
        return
    from_left = light.sun_side > 0
    edge = street.left_front if from_left else street.right_front
    sign = 1 if from_left else -1
    z = 3.0
    while z < 90:
        length, reach = float(rng.uniform(5, 14)), float(rng.uniform(1.5, 8))
        if rng.random() < 0.75:
            points = [
                (edge, z),
                (edge + sign * reach, z + 1),
                (edge + sign * reach, z + length),
                (edge, z + length),
            ]
            scenery.shade_ground(canvas, camera, points, strength * 0.8, max(0.8, 0.05 * camera.scale(z)))
        z += length


def _far_end(canvas: Float, camera: Camera, light: Light, rng: Rng) -> None:
    """Close the street at the horizon: hazy houses, towers and trees."""
    base = int(camera.horizon) + 2
    width = canvas.shape[1]
    unit = width / 2048
    for layer, z in enumerate((320.0, 190.0)):
        x = -50.0
        while x < width:
            w = float(rng.uniform(40, 150)) * unit
            h = float(rng.uniform(30, 110) + (70 if rng.random() < 0.08 else 0)) * unit * (1.1 - 0.4 * layer)
            x0, x1, y0 = max(0, int(x)), min(width, int(x + w)), max(0, int(base - h))
            if x1 > x0:
                if rng.random() < 0.45:  # trees
                    tone = np.asarray((86, 104, 70), np.float32) * float(rng.uniform(0.8, 1.1))
                    bumps = scenery.fbm(rng, 2, x1 - x0, 5, 1, 0.8)[0]
                    ys = (base - h * (0.55 + 0.10 * bumps)).astype(int)
                    region = canvas[y0:base, x0:x1]
                    inside = np.arange(y0, base)[:, None] >= ys[None]
                    leaf = tone * (1 + 0.16 * scenery.fbm(rng, base - y0, x1 - x0, 4, 0, 0.4))[..., None]
                    region[inside] = scenery.haze(leaf, z, light)[inside]
                else:
                    tone = (
                        np.asarray(scenery.PLASTERS[rng.integers(len(scenery.PLASTERS))], np.float32) * 0.85
                    )
                    house = np.ones((base - y0, x1 - x0), np.float32)
                    step = max(3, round(9 * unit))
                    house[step // 2 :: step] = 0.8
                    house[:, ::step] *= 1.12
                    house += 0.04 * scenery.fbm(rng, base - y0, x1 - x0, 4, 0, 0.8)
                    canvas[y0:base, x0:x1] = scenery.haze(tone * house[..., None], z, light)
            x += w * float(rng.uniform(0.7, 1.05))


def _houses(
    canvas: Float,
    camera: Camera,
    street: Street,
    light: Light,
    rng: Rng,
    brick_share: float,
    objects: list[dict[str, Any]],
) -> None:
    jobs: list[tuple[float, float, int, bool]] = []
    for side in (-1, 1):
        front = abs(street.left_front if side < 0 else street.right_front)
        edge = camera.cx if side < 0 else camera.width - camera.cx
        z = max(3.0, 0.8 * front * camera.focal / max(1.0, edge)) - float(rng.uniform(0, 8))
        while z < 130:
            length = float(rng.uniform(8, 17))
            gap = rng.random() < 0.12
            if not gap:
                jobs.append((max(z, 2.0), z + length, side, False))
            z += length
    jobs.sort(key=lambda job: -job[1])
    for z0, z1, side, _ in jobs:
        _house(canvas, camera, street, light, rng, brick_share, objects, z0, z1, side)


def _house(
    canvas: Float, camera: Camera, street: Street, light: Light, rng: Rng, brick_share: float,
    objects: list[dict[str, Any]], z0: float, z1: float, side: int,
) -> None:  # fmt: skip
    x = street.left_front if side < 0 else street.right_front
    tall = float(rng.uniform(8, 17))
    # The nearest part of the front that is in the picture decides how fine it has to be drawn.
    edge = camera.cx if side < 0 else camera.width - camera.cx
    nearest = max(z0, abs(x) * camera.focal / max(1.0, edge))
    ppm = float(np.clip(0.8 * camera.scale(nearest), 3, 66 * camera.width / 2048))
    rgb, signs = scenery.facade(rng, z1 - z0, tall, ppm, brick_share, light)
    near, far = z0, z1
    bright = light.left if side < 0 else light.right
    tint = np.asarray(light.sun) * bright
    # The gable that faces the camera, seen where the neighbour is lower or missing.
    depth = 9.0
    gable = np.asarray(scenery.PLASTERS[rng.integers(len(scenery.PLASTERS))], np.float32) * 0.62
    xs = sorted((x, x + side * depth))
    a, b = camera.project(xs[0], tall, near), camera.project(xs[1], 0, near)
    _wall(canvas, (a[0], a[1], b[0], b[1]), gable, near, light, rng)
    roof = float(rng.uniform(1.2, 3.2)) if rng.random() < 0.6 else 0.0
    if roof:
        tiles = np.asarray(
            ((128, 70, 54), (92, 84, 82), (110, 62, 50), (74, 76, 82))[rng.integers(4)], np.float32
        )
        back = x + side * 2.6
        corners = np.asarray(
            [
                camera.project(back, tall + roof, near),
                camera.project(back, tall + roof, far),
                camera.project(x, tall, far),
                camera.project(x, tall, near),
            ]
        )
        _roof(
            canvas, corners if side < 0 else corners[[1, 0, 3, 2]], tiles * bright, near, light, rng, z1 - z0
        )
    # Haze grows along the front: in strips as deep as their nearness asks for.
    cuts = [near]
    while cuts[-1] < far:
        cuts.append(min(far, cuts[-1] * 1.35 + 1.0))
    total = rgb.shape[1]
    for a_z, b_z in pairwise(cuts):
        u0, u1 = (a_z - near) / (far - near), (b_z - near) / (far - near)
        if side > 0:
            u0, u1 = 1 - u1, 1 - u0
        part = scenery.Sprite.__new__(scenery.Sprite)
        part.rgb = rgb[:, int(u0 * total) : max(int(u0 * total) + 2, int(np.ceil(u1 * total)))]
        part.alpha = np.full(part.rgb.shape[:2], 255, np.uint8)
        l_z, r_z = (a_z, b_z) if side < 0 else (b_z, a_z)
        corners = np.asarray(
            [
                camera.project(x, tall, l_z),
                camera.project(x, tall, r_z),
                camera.project(x, 0, r_z),
                camera.project(x, 0, l_z),
            ]
        )
        visible = corners[:, 0].min() < canvas.shape[1] and corners[:, 0].max() > 0
        if visible:
            scenery.paste(canvas, part, corners, tint, (a_z + b_z) / 2, light)
    foot = np.asarray(
        [
            camera.project(x - side * 0.5, 0, near),
            camera.project(x - side * 0.5, 0, far),
            camera.project(x, 0, far),
            camera.project(x, 0, near),
        ],
        np.float32,
    )
    scenery.shade_polygon(canvas, foot, 0.35, max(0.6, 0.06 * camera.scale(nearest)))
    for name, (sx, sy, sw, sh) in signs:
        za, zb = (z0 + sx, z0 + sx + sw) if side < 0 else (z1 - sx - sw, z1 - sx)
        p, q = camera.project(x, tall - sy, za), camera.project(x, tall - sy - sh, zb)
        r, t = camera.project(x, tall - sy - sh, za), camera.project(x, tall - sy, zb)
        xs_, ys_ = (p[0], q[0], r[0], t[0]), (p[1], q[1], r[1], t[1])
        box = [min(xs_), min(ys_), max(xs_) - min(xs_), max(ys_) - min(ys_)]
        objects.append({"kind": "sign", "text": name, "box": [round(v, 1) for v in box], "z": za})


def _wall(
    canvas: Float, box: tuple[float, float, float, float], colour: Float, z: float, light: Light, rng: Rng
) -> None:
    x0, y0 = max(0, int(box[0])), max(0, int(box[1]))
    x1, y1 = min(canvas.shape[1], int(np.ceil(box[2]))), min(canvas.shape[0], int(np.ceil(box[3])))
    if x1 <= x0 or y1 <= y0:
        return
    noise = scenery.fbm(rng, y1 - y0, x1 - x0, 6, 0, 0.8)
    canvas[y0:y1, x0:x1] = scenery.haze(colour * (1 + 0.05 * noise)[..., None], z, light)


def _roof(
    canvas: Float,
    corners: NDArray[np.float64],
    colour: Float,
    z: float,
    light: Light,
    rng: Rng,
    length: float,
) -> None:
    part = scenery.Sprite.__new__(scenery.Sprite)
    h, w = 48, max(16, int(length * 16))
    rows = 1 + 0.18 * (np.arange(h, dtype=np.float32)[:, None] % 6 < 2) * -1
    noise = 1 + 0.09 * scenery.fbm(rng, h, w, 4, 0, 0.5)
    part.rgb = np.clip(colour * (rows * noise)[..., None], 0, 255).astype(np.uint8)
    part.alpha = np.full((h, w), 255, np.uint8)
    scenery.paste(canvas, part, corners, light.sun, z, light)


def _things(
    canvas: Float, camera: Camera, street: Street, light: Light, rng: Rng, objects: list[dict[str, Any]]
) -> None:
    """Draw cars, trees, people, signs and lamps, from far to near."""
    things: list[tuple[float, str, float]] = []
    half_view = camera.width / 2 / camera.focal
    own = (street.centre + street.right_kerb - (2.3 if street.parking else 0.4)) / 2 + 0.1
    other = 2 * street.centre - own
    z = float(rng.uniform(5.2, 9.5))
    while z < 90:  # traffic ahead
        things.append((z, "ahead", own + float(rng.uniform(-0.25, 0.25))))
        z += float(rng.uniform(9, 30))
    z = float(rng.uniform(7, 24))
    while z < 90:
        things.append((z, "oncoming", other + float(rng.uniform(-0.25, 0.25))))
        z += float(rng.uniform(12, 40))
    if street.parking:
        for kerb, sign in ((street.left_kerb, 1), (street.right_kerb, -1)):
            x = kerb + sign * 1.15
            z = max(4.5, abs(x) / half_view * 0.55) + float(rng.uniform(0, 6))
            while z < 80:
                if rng.random() < 0.72 and not (
                    street.crossing and street.crossing - 7 < z < street.crossing + 5
                ):
                    things.append((z, "parked", x))
                z += float(rng.uniform(5.6, 8.0))
    for kerb, front in ((street.left_kerb, street.left_front), (street.right_kerb, street.right_front)):
        sign = -1 if kerb < 0 else 1
        planted = rng.random() < 0.6
        z = float(rng.uniform(10, 22))
        while z < 110:
            if planted:
                things.append((z, "tree", kerb + sign * 0.8))
            z += float(rng.uniform(9, 20))
        for _ in range(int(rng.integers(3, 9))):
            z = float(rng.uniform(7, 45)) if rng.random() < 0.8 else float(rng.uniform(45, 80))
            low, high = sorted((kerb + sign * 0.5, front - sign * 0.5))
            things.append((z, "person", float(rng.uniform(low, high))))
        for z in rng.uniform(9, 45, int(rng.integers(1, 4))):
            things.append((float(z), "sign", kerb + sign * 0.45))
        if rng.random() < 0.8:
            for z in np.arange(float(rng.uniform(12, 24)), 110, 26):
                things.append((float(z), "lamp", kerb + sign * 0.35))
    if street.crossing:
        for _ in range(int(rng.integers(0, 4))):
            things.append(
                (
                    street.crossing + float(rng.uniform(0.4, 2.8)),
                    "person",
                    float(rng.uniform(street.left_kerb, street.right_kerb)),
                )
            )
    cars = [(z, x) for z, kind, x in things if kind in ("ahead", "oncoming", "parked")]
    for z, kind, x in sorted(things, key=lambda thing: -thing[0]):
        if kind == "person" and any(cz - 0.6 < z < cz + 5 and abs(cx - x) < 1.3 for cz, cx in cars):
            continue
        _thing(canvas, camera, street, light, rng, objects, z, kind, x)


def _thing(
    canvas: Float,
    camera: Camera,
    street: Street,
    light: Light,
    rng: Rng,
    objects: list[dict[str, Any]],
    z: float,
    kind: str,
    x: float,
) -> None:
    scale = camera.scale(z)
    mix = float(np.clip((x - street.left_front) / (street.right_front - street.left_front), 0, 1))
    tint = np.asarray(light.sun) * ((1 - mix) * light.left + mix * light.right)
    ppm = min(2.0, max(1.25, 400 / scale)) * scale
    unit = camera.width / 2048
    if kind in ("ahead", "oncoming", "parked"):
        _car(canvas, camera, light, rng, objects, z, kind, x, tint, street, unit)
        return
    soft = max(0.6, 0.05 * scale)

    def hide(left: float, top: float, wide: float, high: float) -> None:
        objects.append({"kind": "thing", "text": "", "box": [left, top, wide, high], "z": z})

    if kind == "person":
        figure = scenery.person(rng, ppm)
        shadow = [
            (x - 0.3, z - 0.15),
            (x + 0.3, z - 0.15),
            (x + 0.3 + 0.9 * light.sun_side, z + 0.5),
            (x - 0.3 + 0.9 * light.sun_side, z + 0.5),
        ]
        scenery.shade_ground(canvas, camera, shadow, 0.5 * (1.1 - light.shadow) + 0.15, soft)
        box = scenery.paste_upright(canvas, figure, camera, x, z, light, tint)
        objects.append({"kind": "person", "text": "", "box": [round(v, 1) for v in box], "z": z})
    elif kind == "tree":
        high = float(rng.uniform(5, 10))
        leafy = scenery.tree(rng, min(1.25 * scale, 90 * unit), high, light)
        reach = 2.2 * light.sun_side
        shadow = [(x - 1.8, z - 1), (x + 1.8, z - 1), (x + 1.8 + reach, z + 2.5), (x - 1.8 + reach, z + 2.5)]
        scenery.shade_ground(canvas, camera, shadow, 0.7 * (1 - light.shadow) + 0.1, 8 * soft)
        left, top, w, h = scenery.paste_upright(canvas, leafy, camera, x, z, light, tint)
        hide(left, top, w, 0.75 * h)
        hide(left + w / 2 - 0.25 * scale, top, 0.5 * scale, h)
    elif kind == "sign":
        board, text, (bx, by, bw, bh) = scenery.road_sign(rng, ppm)
        left, top, w, h = scenery.paste_upright(canvas, board, camera, x, z, light, tint)
        hide(left, top, w, 0.3 * h)
        hide(left + 0.6 * scale, top, 0.1 * scale, h)
        if text:
            box4 = [left + bx * scale, top + h - (by + bh) * scale, bw * scale, bh * scale]
            objects.append({"kind": "sign", "text": text, "box": [round(v, 1) for v in box4], "z": z})
    else:
        post = scenery.lamp(ppm if scale < 120 else scale)
        flipped = x > 0
        if flipped:
            post.rgb, post.alpha = post.rgb[:, ::-1].copy(), post.alpha[:, ::-1].copy()
        offset = 0.8 if not flipped else -0.8
        _, top, _, h = scenery.paste_upright(canvas, post, camera, x + offset, z, light, tint)
        hide(camera.project(x, 0, z)[0] - 0.1 * scale, top, 0.2 * scale, h)


def _car(
    canvas: Float, camera: Camera, light: Light, rng: Rng, objects: list[dict[str, Any]], z: float, kind: str, x: float,
    tint: NDArray[np.float64], street: Street, unit: float,
) -> None:  # fmt: skip
    front = kind == "oncoming" or (kind == "parked" and x < street.centre)
    look = scenery.make_car(rng, front)
    scale = camera.scale(z)
    face, cabin, (px, py, pw, ph) = scenery.car_face(look, min(2 * scale, max(scale, 500 * unit)), rng, light)
    half = look.width / 2
    body = [(x - half, z), (x + half, z), (x + half, z + look.length), (x - half, z + look.length)]
    grow = [(-0.12, -0.25), (0.12, -0.25), (0.12, 0), (-0.12, 0)]
    around = [(a + c, b + d) for (a, b), (c, d) in zip(body, grow, strict=True)]
    scenery.shade_ground(canvas, camera, around, 0.62, max(0.8, 0.09 * scale))
    scenery.shade_ground(canvas, camera, body, 0.75, max(0.6, 0.03 * scale))
    set_back = 1.05 if front and look.roof < 0.87 else 0.45 if front else 0.0
    if abs(x) > half:  # the side that looks towards the camera's own line
        side = scenery.car_side(look, min(220 * unit, max(scale * 0.5, 4)), rng, light)
        if front != (x > 0):
            side.rgb, side.alpha = side.rgb[:, ::-1].copy(), side.alpha[:, ::-1].copy()
        edge = x + half if x < 0 else x - half
        lean = (1 - look.roof) * half * (-1 if x < 0 else 1)
        cut = round((1 - look.shoulder / look.height) * side.alpha.shape[0])
        ends = (z, z + look.length) if x < 0 else (z + look.length, z)
        levels = (
            (look.shoulder, 0.0, 0.0, slice(cut, None)),
            (look.height, look.shoulder, lean, slice(0, cut)),
        )
        for upper, lower, shift, rows in levels:
            part = scenery.Sprite.__new__(scenery.Sprite)
            part.rgb, part.alpha = side.rgb[rows], side.alpha[rows]
            corners = np.asarray(
                [camera.project(edge + shift, upper, ends[0]), camera.project(edge + shift, upper, ends[1]),
                 camera.project(edge, lower, ends[1]), camera.project(edge, lower, ends[0])]
            )  # fmt: skip
            scenery.paste(canvas, part, corners, tint * 0.88, z + look.length / 2, light)
            low, high = corners.min(axis=0), corners.max(axis=0)
            objects.append({"kind": "thing", "text": "", "box": [*low, *(high - low)], "z": z})
    left, top, w, h = scenery.paste_upright(
        canvas, cabin, camera, x, z + set_back, light, tint, look.shoulder
    )
    box = [left, top, w, h]
    if set_back:
        bonnet = [(x - half * 0.96, look.shoulder, z), (x + half * 0.96, look.shoulder, z)]
        bonnet += [
            (x + half * 0.95, look.shoulder + 0.03, z + set_back),
            (x - half * 0.95, look.shoulder + 0.03, z + set_back),
        ]
        points = np.asarray([camera.project(*p) for p in bonnet])
        colour = np.asarray(look.paint) * 0.8 + np.asarray(light.haze) * 0.18
        lid = scenery.haze((colour * tint).astype(np.float32), z, light)
        cv2.fillPoly(canvas, [np.round(points * 16).astype(np.int32)], [float(c) for c in lid], cv2.LINE_8, 4)
    left, body_top, w, h = scenery.paste_upright(canvas, face, camera, x, z, light, tint)
    objects.append({"kind": "car", "text": "", "box": [left, box[1], w, body_top + h - box[1]], "z": z})
    plate = [left + px * scale, body_top + h - (py + ph) * scale, pw * scale, ph * scale]
    objects.append({"kind": "plate", "text": look.plate, "box": [round(v, 1) for v in plate], "z": z - 0.01})


def _visible(item: dict[str, Any], objects: list[dict[str, Any]], size: tuple[int, int]) -> bool:
    """Keep plates and signs that are inside the picture, in front of everything else, and not too small to read."""
    if item["kind"] not in ("plate", "sign"):
        return False
    x, y, w, h = item["box"]
    unit = size[0] / 2048
    if x < 0 or y < 0 or x + w > size[0] or y + h > size[1] or h < 9 * unit or w < 20 * unit:
        return False
    for other in objects:
        if other["kind"] in ("car", "person", "thing") and other["z"] < item["z"] - 0.005:
            ox, oy, ow, oh = other["box"]
            if ox < x + w and x < ox + ow and oy < y + h and y < oy + oh:
                return False
    return True


def _photograph(canvas: Float, light: Light, rng: Rng, unit: float) -> NDArray[np.uint8]:
    """Take the picture: exposure, soft tone curve, vignetting, lens blur, sensor noise, 8 bits."""
    h, w = canvas.shape[:2]
    canvas = np.asarray(
        cv2.GaussianBlur(canvas, (0, 0), max(0.3, float(rng.uniform(0.7, 1.05)) * unit)), np.float32
    )
    exposure = np.float32(rng.uniform(0.96, 1.16))
    xx = np.linspace(-1, 1, w, dtype=np.float32)[None]
    corner, strength = np.float32(rng.uniform(0.05, 0.16)), np.float32(rng.uniform(0.7, 1.7))
    picture = np.empty((h, w, 3), np.uint8)
    for y0 in range(0, h, 32):  # strips that fit the processor's cache
        strip = canvas[y0 : y0 + 32]
        yy = (np.arange(y0, y0 + len(strip), dtype=np.float32)[:, None] * 2 / h - 1).astype(np.float32)
        strip *= (exposure * (1 - corner * (xx**2 + np.float32(0.6) * yy**2) / np.float32(1.6)))[..., None]
        # Highlights roll off above 200 instead of clipping.
        if strip.max() > 200:
            over = np.maximum(strip - 200, 0)
            strip -= over - 55 * (1 - np.exp(over / np.float32(-55)))
        noise = _sensor_noise(rng, len(strip), w)
        noise *= (strength * (np.float32(0.5) + np.float32(0.044) * np.sqrt(np.maximum(strip[..., 1], 0))))[
            ..., None
        ]
        strip += noise
        picture[y0 : y0 + 32] = np.clip(strip + np.float32(0.5), 0, 255)
    return picture


def _sensor_noise(rng: Rng, h: int, w: int) -> Float:
    """Return noise of standard deviation about 1, mostly brightness, some colour: float32 H×W×3."""
    brightness = rng.standard_normal((h, w), dtype=np.float32)
    colour = rng.standard_normal((h // 2 + 1, w // 2 + 1, 3), dtype=np.float32)
    grown = cv2.resize(colour, (w, h), interpolation=cv2.INTER_LINEAR)
    return np.asarray(0.85 * brightness[..., None] + 0.6 * grown, np.float32)
