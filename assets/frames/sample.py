"""The `sample` dataset: street scenes drawn by code, in Cityscapes' layout, for a machine without network.

Each picture is 2048×1024 and drawn from its own seed (dataset seed, split, number), whatever others are drawn. It has
large smooth places (sky, road), texture (plaster, bricks, leaves), and what people look at (plates, signs, faces).
"""

import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np

from assets.frames import scenery
from assets.frames.encode import encode_png
from assets.frames.scenery import Bytes, Colours, Point, Scene, Sprite, shapes
from assets.home import write_whole

Thing = Callable[[Scene, float, float, float], None]
#: Made-up cities, disjoint between splits as in Cityscapes.
CITIES: Final = {
    "train": ("dornfurt", "arnheide", "falkberg", "corvenau", "eschwald", "bellmont"),
    "val": ("grauhof", "hallinge"),
    "test": ("istenau", "kaltenau", "jorvingen"),
}
SHOPS: Final = (
    "BAKERY", "CAFE ROMA", "FLOWERS", "BOOKS", "PHARMACY", "HOTEL ADLER", "BICYCLES", "OPTICIAN", "TEA HOUSE",
    "KIOSK 24", "PIZZA NAPOLI", "TAILOR", "RAMEN BAR", "SHOES", "COPY SHOP", "ANTIQUES", "BURGER 77", "JEWELLER",
)  # fmt: skip
STREETS: Final = ("Market St", "Mill Lane", "Station Rd", "Linden Way", "Castle St", "Harbour St")
PLASTERS: Final = ((214, 202, 176), (196, 170, 122), (203, 158, 138), (222, 218, 208), (170, 178, 168))
BRICKS: Final = ((148, 84, 66), (126, 72, 58), (164, 104, 78), (138, 110, 92), (112, 84, 76))
PAINTS: Final = (
    (196, 198, 202), (22, 22, 24), (120, 124, 128), (236, 236, 234), (60, 66, 72), (150, 24, 26), (28, 52, 96),
    (38, 78, 62), (168, 150, 118), (70, 100, 140), (196, 96, 32),
)  # fmt: skip
CLOTHES: Final = ((36, 40, 52), (170, 30, 36), (60, 84, 128), (196, 190, 178), (52, 74, 56), (206, 160, 50))
SKINS: Final = ((226, 184, 156), (198, 150, 120), (150, 104, 78), (98, 66, 50))
GREENS: Final = ((82, 104, 56), (96, 112, 60), (72, 96, 60), (130, 118, 56))
INKS: Final[Colours] = {
    "white": (240, 240, 236), "black": (22, 22, 24), "red": (178, 20, 28), "chrome": (196, 198, 202),
    "dim": (32, 33, 36), "maroon": (112, 12, 14), "blue": (26, 64, 150), "peach": (214, 150, 122),
}  # fmt: skip
#: Cars: width, height, length. Of the drawings, a window is 1 m wide and high (its glass lies over the first shape), a
#: car 1.8×1.46×4.3 m with its shoulder at 0.92 m, a person 1.75 m tall with the bag that some carry last.
CARS: Final = ((1.78, 1.46, 4.3), (1.78, 1.46, 4.3), (1.84, 1.66, 4.5), (1.94, 1.98, 4.9))
SHAPES: Final = shapes("""
window: box wall -.57 -.06 .57 1.1, BOX frame .45 0 .5 1, box frame -.5 0 .5 .06, box frame -.5 .64 .5 .68,
    box frame -.03 0 .03 1, box dim -.5 .95 .5 1.01, box wall -.6 -.1 .6 -.03
body: BOX black .63 0 .85 .45 .05, box paint -.9 .17 .9 1.02 .13
back: box dim -.84 .17 .84 .27 .05, box dark -.36 .5 .36 .74 .04, BOX maroon .59 .6 .87 .86 .05,
    BOX red .62 .74 .84 .83 .03, BOX peach .65 .63 .81 .69 .02, oval chrome 0 .82 .055 .042, BOX red .58 .31 .76 .35
front: box dim -.84 .17 .84 .27 .05, BOX dim .45 .6 .84 .78 .06, OVAL white .72 .69 .075 .07, box dim -.42 .6 .42 .78,
    OVAL chrome .57 .68 .06 .055, box chrome -.4 .65 .4 .66, box chrome -.4 .72 .4 .73, oval chrome 0 .69 .07 .06
plate: box black -.282 -.012 .282 .147, box white -.27 0 .27 .135, box blue -.27 0 -.228 .135
cabin: poly paint -.9 0 .9 0 .74 .47 .66 .54 -.66 .54 -.74 .47, poly dim -.8 .04 .8 .04 .67 .46 -.67 .46,
    BOX black .2 .04 .5 .2 .08, OVAL black .35 .26 .11 .1, poly sky -.67 .46 .67 .46 .7 .38 -.72 .3
side: poly paint -2.15 .2 -2.15 1.4 -2.05 1.46 .52 1.46 1.05 .98 2 .8 2.15 .6 2.11 .24, box dim -1.1 .97 -.35 1.34,
    poly dim -1.95 .97 -1.2 .97 -1.2 1.34 -1.8 1.34, poly dim -.25 .97 .85 .97 .42 1.34 -.25 1.34,
    box dim -2.1 .2 2.1 .31, BOX dark .98 .34 1 .94, box dark -.31 .34 -.29 .94, box red -2.15 .62 -2 .86,
    box white 1.9 .6 2.12 .76 .03, OVAL black 1.33 .36 .4 .37, OVAL chrome 1.33 .33 .22 .22, OVAL dim 1.33 .33 .16 .16
person: LIMB legs .07 .9 .19 .11 .48 .15, LIMB legs .11 .48 .15 .14 .08 .1, OVAL black .16 .04 .1 .045,
    LIMB sleeve .17 1.42 .12 .24 1.14 .11, LIMB sleeve .24 1.14 .11 .28 .9 .08, OVAL skin .28 .86 .045 .055,
    limb skin 0 1.42 .11 0 1.56 .1, poly coat -.2 1.44 -.07 1.5 .07 1.5 .2 1.44 .17 1.1 .22 .72 -.22 .72 -.17 1.1,
    poly scarf -.04 1.5 .04 1.5 .02 1.25 -.02 1.25, oval hair 0 1.67 .1 .1, oval skin 0 1.62 .08 .1,
    OVAL black .032 1.64 .011 .009, oval red 0 1.57 .026 .008, box scarf .17 .52 .41 .8 .03
round: box dim -.03 0 .03 2.9, oval red 0 2.58 .32 .32, oval white 0 2.58 .25 .25
octagon: box dim -.03 0 .03 2.9, poly red .14 2.92 .34 2.72 .34 2.44 .14 2.24 -.14 2.24 -.34 2.44 -.34 2.72 -.14 2.92
street: box dim -.03 0 .03 2.9, box blue -.58 2.52 .58 2.8 .02
""")  # fmt: skip
#: boards on a post: shape, ink, what may be written and where (x0, y0, x1, y1)
SIGNS: Final = (
    ("round", "black", ("20", "30", "40", "50"), (-0.22, 2.4, 0.22, 2.76)),
    ("octagon", "white", ("STOP",), (-0.31, 2.44, 0.31, 2.72)),
    ("street", "white", STREETS, (-0.56, 2.53, 0.56, 2.79)),
)


def make_sample(
    out: Path,
    *,
    counts: Mapping[str, int],
    seed: int = 0,
    size: tuple[int, int] = (2048, 1024),
    workers: int | None = None,
    progress: Callable[[float, float, str], None] | None = None,
) -> list[Path]:
    """Draw the dataset below `out` and return the pictures' paths.

    `leftImg8bit/SPLIT/CITY/CITY_SSSSSS_000019_leftImg8bit.png` and `objects/SPLIT/CITY/…_objects.json` for each: a list
    of {"kind": "plate" | "sign", "text", "box": [x, y, width, height] in pixels}, unhidden and inside the picture.
    `progress` is called with (done, total, note). size: at least 256×128.
    """

    def make(split: str, number: int) -> Path:
        picture, objects = draw_scene(seed, split, number, size)
        city, listing = CITIES[split][number % len(CITIES[split])], {"size": list(size), "objects": objects}
        name = f"{split}/{city}/{city}_{number:06d}_000019"
        write_whole(out / f"objects/{name}_objects.json", json.dumps(listing, indent=1))
        write_whole(out / f"leftImg8bit/{name}_leftImg8bit.png", encode_png(picture, level=1))
        return out / f"leftImg8bit/{name}_leftImg8bit.png"

    jobs = [(split, number) for split in CITIES for number in range(counts.get(split, 0))]
    paths: list[Path] = []
    with ThreadPoolExecutor(workers or os.cpu_count() or 1, thread_name_prefix="sample") as pool:
        for path in pool.map(lambda job: make(*job), jobs):
            paths.append(path)
            if progress:
                progress(len(paths), len(jobs), "pictures drawn")
    return paths


def draw_scene(
    seed: int, split: str, number: int, size: tuple[int, int] = (2048, 1024)
) -> tuple[Bytes, list[dict[str, Any]]]:
    """Draw picture `number` of a split: uint8 RGB H×W×3, and its legible texts as `make_sample` lists them."""
    scene = Scene((seed, list(CITIES).index(split) + 1, number), *size)
    scenery.draw_sky(scene)
    scenery.draw_ground(scene)
    _things(scene)
    texts = []
    for text in scene.texts:  # inside the picture, in front of everything else, not too small to read
        (x, y, w, h), number = text["box"], text.pop("on")
        if min(x, y, size[0] - x - w, size[1] - y - h, h - 9 * scene.unit, w - 20 * scene.unit) >= 0:
            front = scene.front[round(y) : round(y + h), round(x) : round(x + w)] == number
            texts += [text] if front.mean() > 0.97 else []
    return scenery.photograph(scene), texts


def _things(scene: Scene) -> None:
    """Draw houses, cars, trees, people and signs, from far to near."""
    u, things = scene.rng.uniform, list[tuple[float, float, Thing]]()

    def row(draw: Thing, x: float, first: float, steps: Point, share: float = 1, spread: float = 0) -> None:
        z = u(first, 1.7 * first)
        while z < 110:
            free = draw in (_house, _tree) or not scene.crossing - 6 < z < scene.crossing + 4
            if free and u() < share:
                things.append((z, x + u(-spread, spread), draw))
            z += u(*steps)

    own = (scene.centre + scene.kerbs[1] - scene.inset) / 2 + 0.1
    row(_car, own, 5.4, (9, 30), 1, 0.25)
    row(_car, 2 * scene.centre - own, 9, (12, 40), 1, 0.25)
    for out, kerb, front in zip((-1, 1), scene.kerbs, scene.fronts, strict=True):
        row(_house, front, 9, (12, 13), 0.92)
        row(_car, kerb - out * 1.15, 5, (5.6, 8), 0.72 * (scene.inset > 1))
        row(_tree, kerb + out * 0.8, 11, (9, 20), u() < 0.6)
        row(_sign, kerb + out * 0.45, 9, (8, 24), 0.7)
        row(_person, (kerb + front) / 2, 6.5, (1.5, 14), 0.9, abs(front - kerb) / 2 - 0.5)
    things += [(scene.crossing + z, u(*scene.kerbs), _person) for z in u(0.4, 2.8, 3) if scene.crossing > 0]
    for z, x, draw in sorted(things, key=lambda thing: -thing[0]):
        # Twice as fine as in the picture and shrunk, where that is not too large.
        draw(scene, x, z, scene.focal / z * (2 if scene.focal / z < 250 * scene.unit else 1))


def _house(scene: Scene, x: float, z: float, ppm: float) -> None:
    """Draw a house that ends at z: its shadow, the gable that faces the camera, its front."""
    u, out, near = scene.rng.uniform, 1 if x > 0 else -1, max(z - 12, 2.5)
    tall, ppm = u(8, 17), min(max(0.8 * scene.focal / max(near, 9), 3), 54 * scene.unit)
    if scene.sunny == out:
        reach = x - out * u(1.5, 8)
        scene.shade(min(x, reach), max(x, reach), near, z, 0.8 * scene.shadow)
    gable = scene.pick(PLASTERS) * (0.6 + 0.05 * scene.noise(round(8 * tall), 72)[..., None])
    scene.upright(Sprite(9, tall, 8, gable), x + out * 4.5, near)
    front, (a, b) = _facade(scene, z - near, tall, ppm, u() < scene.bricks), (near, z)[::-out]
    scene.paste(front, [(x, tall, a), (x, tall, b), (x, 0, b), (x, 0, a)], scene.tint(x))


def _facade(scene: Scene, width: float, height: float, ppm: float, bricks: bool) -> Sprite:
    rng, u, h, w = scene.rng, scene.rng.uniform, round(height * ppm), round(width * ppm)
    base = scene.pick(BRICKS if bricks else PLASTERS) * u(0.88, 1.08)
    tone, joint = 1 + 0.06 * scene.noise(h, w), np.zeros((1, 1), np.float32)
    if bricks and ppm > 12:
        v, t = (np.arange(n, dtype=np.float32) / (ppm * size) for n, size in ((h, 0.0833), (w, 0.25)))
        y, x = np.broadcast_arrays(v[:, None], t + (np.floor(v)[:, None] % 2) / 2)
        tone += 0.09 * rng.standard_normal((256, 256), np.float32)[y.astype(int) & 255, x.astype(int) & 255]
        edge = np.minimum(x % 1 * 0.25, (v % 1 * 0.0833)[:, None])  # metres from a brick's
        joint = np.clip((0.014 - edge) * ppm + 0.5, 0, 0.7)
    wall = base * (tone * (1 - joint))[..., None] + 164 * joint[..., None]
    s, half, ground, storey = Sprite(width, height, ppm, wall), width / 2, u(3.4, 4.4), u(2.9, 3.6)
    columns, frame = max(1, int(width // u(1.9, 2.9))), scene.pick(PAINTS[:4])
    size = (width / columns * u(0.42, 0.6), storey * u(0.48, 0.66))
    colours = INKS | {"frame": frame, "wall": base * u(0.7, 1.2)}
    for low in np.arange(ground + 0.7, height - size[1] - 0.5, storey):
        for middle in (np.arange(columns) + 0.5) * (width / columns) - half:
            s.draw(SHAPES["window"][:1], colours, size, (middle, low))
            _glass(scene, s.region(middle - size[0] / 2, low, middle + size[0] / 2, low + size[1]))
            s.draw(SHAPES["window"][1:], colours, size, (middle, low))
    bands = ((height - 0.38, 1.02), (height - 0.46, 0.5), (ground, 1.1), (ground - 0.08, 0.55))
    s.draw([("box", base * k, -half, low, half, low + 0.1) for low, k in bands], {})
    for x0, x1 in pairwise(np.linspace(-half, half, max(1, round(width / u(5.5, 8))) + 1)):
        if u() < 0.85:
            _shop(scene, s, x0 + 0.2, x1 - 0.2, ground - 0.1)
    return s


def _glass(scene: Scene, part: Bytes) -> None:
    """Fill with glass that mirrors the sky."""
    (h, w), u = part.shape[:2], scene.rng.uniform
    t = np.linspace(u(0.3, 1), u(0, 0.5), h, dtype=np.float32)[:, None] + 0.12 * scene.noise(h, w, 3, 1.0)
    dark, sky = np.asarray((34, 38, 44), np.float32) * u(0.7, 1.5), scene.haze * u(0.25, 0.62)
    part[:] = np.clip(dark + (sky - dark) * np.clip(t, 0, 1)[..., None], 0, 255)


def _shop(scene: Scene, s: Sprite, x0: float, x1: float, top: float) -> None:
    u, (trim, board) = scene.rng.uniform, map(scene.pick, (PAINTS, PAINTS))
    s.draw([("box", trim * 0.8, x0, 0, x1, top), ("box", "dim", x0 + 0.1, 0.5, x1 - 0.1, top - 1)], INKS)
    for a, b in pairwise(np.linspace(x0 + 0.1, x1, max(3, int((x1 - x0) / 1.5)))):
        _glass(scene, s.region(a, 0.55, b - 0.1, top - 1.05))
        steps = np.arange(a + 0.1, b - 0.4, u(0.12, 0.4) if s.ppm > 16 else 9)  # of things on two shelves
        goods = [(u(30, 210, 3), x, y, x + u(0.07, 0.25), y + u(0.1, 0.42)) for x in steps for y in (0.58, 1.3)]
        s.draw([("box", *thing) for thing in goods], {})
    awning = np.linspace(x0, x1, 2 * int((x1 - x0) / 0.6) + 2) if u() < 0.35 else ()
    for j, (a, b) in enumerate(pairwise(awning)):
        s.draw([("box", ("red", "white")[j % 2], a, top - 1.65, b, top - 0.95)], INKS)
    for colour, low in ((board * 0.5, top - 0.98), (board, top - 0.92)):
        s.draw([("box", colour, x0, low, x1, top - 0.08)], {})
    ink, name = INKS["white" if board.mean() < 130 else "black"], str(scene.rng.choice(SHOPS))
    s.write("sign", name, (x0 + 0.1, top - 0.9, x1 - 0.1, top - 0.1), ink, 0.12)


def _car(scene: Scene, x: float, z: float, ppm: float) -> None:
    rng, out, front = scene.rng, 1 if x > 0 else -1, x < scene.centre
    (width, height, length), paint = CARS[rng.integers(len(CARS))], scene.pick(PAINTS)
    colours = INKS | {"paint": paint, "dark": paint * 0.45, "sky": scene.haze * 0.5}
    half, shoulder, scale, deep = width / 2, 0.63 * height, (width / 1.8, height / 1.46), 0.9 * front
    scene.shade(x - half - 0.2, x + half + 0.2, z - 0.3, z + length, 0.85)
    if abs(x) > half:  # the side towards the camera's own line, which leans inwards
        s, edge, (a, b) = Sprite(length, height, min(ppm / 2, 220)), x - out * half, (z, z + length)[::-out]
        s.draw(SHAPES["side"], colours, (length / 4.3, scale[1]))
        s.rgba, top = s.rgba[:, ::-1] if front != (x > 0) else s.rgba, edge + 0.2 * half * out
        scene.paste(s, [(top, height, a), (top, height, b), (edge, 0, b), (edge, 0, a)], scene.tint(x) * 0.9)
    cabin, body = Sprite(width, height - shoulder, ppm), Sprite(width, shoulder + 0.1, ppm)
    cabin.draw(SHAPES["cabin"], colours, scale)
    scene.upright(cabin, x, z + deep, shoulder)
    if front:
        scene.upright(Sprite(2 * half, 0.05, 60, paint * 0.8 + scene.haze * 0.18), x, z, shoulder, deep)
    body.draw(SHAPES["body"], colours, scale)
    rows = np.linspace(1, 0, len(body.rgba), dtype=np.float32)[:, None]
    body.shade(np.clip(0.8 + rows / 2, 0, 1) - np.clip(np.abs(rows - 0.72) - 0.1, 0, 0.2))
    body.draw(SHAPES["front" if front else "back"], colours, scale)
    letters, y = "".join(rng.choice(list("ABCDEFGHJKLMNPQRSTUVWXYZ"), 4)), (0.4 if front else 0.57) * scale[1]
    body.draw(SHAPES["plate"], INKS, at=(0, y))
    text = f"{letters[:2]} {letters[2:]} {rng.integers(100, 9999)}"
    body.write("plate", text, (-0.22, y, 0.265, y + 0.135), INKS["black"])
    scene.upright(body, x, z)


def _tree(scene: Scene, x: float, z: float, ppm: float) -> None:
    u, height, green = scene.rng.uniform, scene.rng.uniform(5, 10), scene.pick(GREENS)
    width, bark = height * u(0.62, 0.85), np.asarray((84, 68, 54)) * u(0.7, 1.2)
    s = Sprite(width, height, min(0.6 * ppm, 90 * scene.unit))
    s.draw([("limb", bark, 0, 0, 0.42, 0, 0.7 * height, 0.14)], {})
    for r in np.sqrt(np.linspace(1, 0, 40)):  # lumps of leaves, the inner ones in front
        a, size = u(0, 2 * np.pi), width * u(0.08, 0.16)
        cx, cy = 0.36 * width * r * np.cos(a), height * (0.66 + 0.24 * r * np.sin(a))
        s.draw([("oval", green * (0.23 + 0.9 * cy / height), cx, cy, size, size)], {})
    leaves = scene.noise(*s.rgba.shape[:2], max(0, int(np.log2(max(1.0, s.ppm * 0.03)))), 0.35)
    s.rgba[leaves < -0.8] = 0
    s.shade(1.04 + 0.3 * leaves)
    scene.shade(x - 1.8, x + 1.8, z - 1, z + 2.5, 0.1 + 0.7 * scene.shadow, -2.0 * scene.sunny)
    scene.upright(s, x, z)


def _person(scene: Scene, x: float, z: float, ppm: float) -> None:
    u, pick, k = scene.rng.uniform, scene.pick, scene.rng.uniform(0.87, 1.08)
    colours = INKS | {"skin": pick(SKINS), "hair": pick(BRICKS) * 0.5, "coat": pick(CLOTHES), "legs": pick(CLOTHES)}
    colours |= {"sleeve": colours["coat"] * 0.8, "scarf": pick(CLOTHES)}
    s = Sprite(k, 1.8 * k, ppm)
    s.draw(SHAPES["person"][: -1 if u() < 0.6 else None], colours, (k * u(0.85, 1.15), k))
    s.shade(1 + 0.12 * scene.noise(*s.rgba.shape[:2], 3, 1.0))
    scene.shade(x - 0.3, x + 0.3, z - 0.15, z + 0.5, 0.2 + 0.5 * scene.shadow, -0.7 * scene.sunny)
    scene.upright(s, x, z)


def _sign(scene: Scene, x: float, z: float, ppm: float) -> None:
    board, ink, texts, box = SIGNS[scene.rng.integers(len(SIGNS))]
    s = Sprite(1.3, 3.0, ppm)
    s.draw(SHAPES[board], INKS)
    s.write("sign", str(scene.rng.choice(texts)), box, INKS[ink])
    scene.upright(s, x, z)
