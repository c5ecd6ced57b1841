import io
import itertools

import cv2
import imagecodecs
import numpy as np
import pytest
from mozjpeg_lossless_optimization import optimize
from PIL import Image

from models.codecs import guided_jpeg
from models.codecs.jpeg_stream import ZIGZAG, Component, jpeg_file, runs_of, sizes
from models.errors import FoveaError

QUALITIES = (1, 60, 100)


def photo(height: int, width: int) -> np.ndarray:
    """Shades, coloured edges and texture of every strength."""
    y, x = np.mgrid[:height, :width]
    base = 120 + 70 * np.sin(x / 9) * np.cos(y / 13) + 30 * (x % 40 > 25)
    noise = np.random.default_rng(5).normal(0, 9, (height, width)) * (y % 48 > 16)
    return np.stack([base + noise, 0.7 * base + y / 4 + noise, 200 - base / 2], -1).clip(0, 255).astype(np.uint8)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def black(height: int, width: int) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


def left_half(height: int, width: int) -> np.ndarray:
    s = np.zeros((height, width), np.uint8)
    s[:, : width // 2] = 255
    return s


def decoded(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "JPEG" and image.mode == "RGB"
        return np.asarray(image)


@pytest.mark.parametrize("make", [photo, noise, black])
@pytest.mark.parametrize("size", [(1, 1), (16, 16), (17, 90)])
def test_every_decoder_opens_every_size(size, make):
    picture = make(*size)
    for quality, given in itertools.product(QUALITIES, (None, left_half(*size))):
        data = guided_jpeg.encode(picture, quality, given)
        shown = decoded(data)
        assert shown.shape == picture.shape
        assert np.array_equal(shown, cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1])
        assert np.array_equal(shown, imagecodecs.jpeg8_decode(data))
        assert data == guided_jpeg.encode(picture, quality, given)
        if make is black:
            assert shown.max() <= (16 if quality == 1 else 2)  # half a step of DC, over 8


def components(rows: int, columns: int, density: float) -> list[Component]:
    """Sparse coefficients of every size, with runs of more than 48 zeros among them."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(3):
        shape = (rows, columns, 64)
        blocks = np.exp(rng.uniform(0, 5.5, shape)).astype(np.int32) * rng.choice([-1, 1], shape)
        blocks *= rng.random(shape) < density
        blocks[0, 0] = 0
        blocks[0, 0, [3, 63]] = 200, -1023
        blocks[-1, -1, 0] = 1000 if columns > 1 else 300
        found.append(Component(blocks.astype(np.int32), rng.integers(1, 3, 64).astype(np.int32), 1))
    return [found[0], found[1], found[2]._replace(steps=found[1].steps)]


@pytest.mark.parametrize("density", [0.0, 0.03, 0.6])
def test_a_file_shows_what_its_coefficients_say(density):
    """Pixels of Y, Cb and Cr against the inverse DCT in float64, before and after the lossless optimisation."""
    rows, columns = 3, 5
    parts = components(rows, columns, density)
    data = jpeg_file(8 * columns, 8 * rows, parts)
    wanted = []
    for part in parts:
        flat = np.zeros((rows, columns, 64))
        flat[..., ZIGZAG] = part.blocks * part.steps.astype(float)
        blocks = flat.reshape(rows, columns, 8, 8)
        planes = [[cv2.idct(b) for b in row] for row in blocks]
        wanted.append(np.block(planes) + 128)
    for file in (data, optimize(data)):
        with Image.open(io.BytesIO(file)) as image:
            image.draft("YCbCr", image.size)
            shown = np.asarray(image).astype(float)
        assert np.abs(shown - np.stack(wanted, -1).clip(0, 255)).max() <= 1


def test_the_looked_at_half_gets_the_bits():
    picture = photo(160, 320)
    plain = guided_jpeg.encode(picture, 60)
    guided, _ = guided_jpeg.encode_to_size(picture, 8 * len(plain) / (160 * 320), left_half(160, 320))
    assert 0.9 * len(plain) <= len(guided) <= len(plain)

    def errors(data: bytes) -> tuple[float, float]:
        off = (decoded(data).astype(float) - picture) ** 2
        return off[:, :160].mean(), off[:, 160:].mean()

    (looked, rest), (looked_before, rest_before) = errors(guided), errors(plain)
    assert looked < 0.8 * looked_before and rest > 1.2 * rest_before


@pytest.mark.parametrize("level", [0, 90, 255])
def test_a_flat_map_is_no_map(level):
    picture = photo(41, 70)
    flat = np.full((41, 70), level, np.uint8)
    assert guided_jpeg.encode(picture, 50, flat) == guided_jpeg.encode(picture, 50)


def cost(plane: guided_jpeg.Plane, levels: np.ndarray, rates: guided_jpeg.Rates) -> np.ndarray:
    """J of each block's AC coefficients in bits, written out."""
    error = ((plane.coefficients - levels) ** 2 * plane.worth)[:, 1:].sum(1, dtype=float)
    runs = runs_of(levels)
    bits = rates.coefficient[sizes(levels[runs.block, runs.position]), runs.zeros]
    return error + np.bincount(runs.block, bits, len(levels)) + rates.end * (levels[:, 63] == 0)


def planes_at(picture: np.ndarray, quality: float) -> list[guided_jpeg.Plane]:
    luma, chroma = guided_jpeg.quantisers(quality)
    return guided_jpeg.scaled(guided_jpeg.analysed(picture), (luma, chroma, chroma))


@pytest.mark.parametrize("make", [photo, noise, black])
@pytest.mark.parametrize("quality", [1, 50, 90, 100])
def test_the_trellis_never_costs_more_than_rounding(make, quality):
    for plane in planes_at(make(64, 96), quality):
        nearest, pruned = guided_jpeg.rounded(plane), guided_jpeg.rounded(plane, guided_jpeg.WORTH)
        rates = guided_jpeg.rates_of([pruned])
        found = guided_jpeg.trellis(plane, nearest, rates)
        before, after = (cost(plane, levels, rates).sum() for levels in (nearest, found))
        assert after <= before * (1 + 1e-6) and np.array_equal(found[:, 0], nearest[:, 0])
        assert (np.abs(found) <= np.abs(nearest)).all()
        # what is zeroed from the start is hardly missed
        assert cost(plane, guided_jpeg.trellis(plane, pruned, rates), rates).sum() <= after * 1.005


def test_the_trellis_finds_the_best_of_all_choices():
    plane = planes_at(photo(64, 96), 80)[0]
    first = guided_jpeg.rounded(plane, guided_jpeg.WORTH)
    rates = guided_jpeg.rates_of([first])
    found = cost(plane, guided_jpeg.trellis(plane, first, rates), rates)
    few = np.flatnonzero((np.count_nonzero(first[:, 1:], axis=1) <= 7) & first[:, 1:].any(1))
    assert len(few) >= 5
    for block in few[:12]:
        where = 1 + np.flatnonzero(first[block, 1:])
        low = (1 << (sizes(first[block, where]) - 1)) - 1
        choices = [{0, int(v), int(np.sign(v) * less)} for v, less in zip(first[block, where], low, strict=True)]
        all_ways = np.array(list(itertools.product(*choices)), np.int32)
        tried = np.repeat(first[block : block + 1], len(all_ways), 0)
        tried[:, where] = all_ways
        one = guided_jpeg.Plane(
            np.repeat(plane.coefficients[block : block + 1], len(tried), 0),
            np.repeat(plane.worth[block : block + 1], len(tried), 0),
        )
        assert found[block] == pytest.approx(cost(one, tried, rates).min(), rel=1e-5)


def test_a_size_is_kept_and_used():
    picture = photo(96, 144)
    bpp = 0.9
    data, quality = guided_jpeg.encode_to_size(picture, bpp)
    assert data == guided_jpeg.encode(picture, quality)
    assert len(data) * 8 <= bpp * picture[..., 0].size < 8 * len(guided_jpeg.encode(picture, quality + 1))
    with pytest.raises(FoveaError, match=r"0\.001 bpp is out of reach: .* at least 0\."):
        guided_jpeg.encode_to_size(picture, 0.001)


def test_what_cannot_be_coded_is_told():
    with pytest.raises(FoveaError, match="the map is"):
        guided_jpeg.encode(photo(16, 24), 50, np.zeros((24, 16), np.uint8))
    with pytest.raises(FoveaError, match="at most 65500 pixels"):
        guided_jpeg.encode(np.zeros((1, 65501, 3), np.uint8), 50)
