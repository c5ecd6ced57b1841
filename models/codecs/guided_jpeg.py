"""JPEG that anything opens, its bits where people look: DCT coefficients by weighted rate–distortion.

A block's squared error counts by its weight, (OFFSET + s^GAMMA)/mean for a mean s of the saliency map in it, 0 … 1, and its
AC coefficients minimise J = weight · error + λ · bits, λ = LAMBDA · (mean luma step)², by dynamic programming along the
zigzag (the trellis of Crouse and Ramchandran 1997, and of mozjpeg). One quantiser table serves the whole picture, so it is
finer than its λ alone asks for: places that matter get its steps, elsewhere the trellis zeroes what is not worth its bits.

- A coefficient is its nearest level, the largest level that has one bit fewer, or 0; it is 0 from the start where the nearest
  level saves less than `WORTH` bits' worth of error. DC is rounded.
- Bits are those of ideal codes for the symbols (zeros before a coefficient, and its size) of sequential Huffman coding, by
  their frequencies after that first choice, luma and chroma apart. The file is progressive, in the scans that mozjpeg's
  lossless optimisation finds, so what is minimised is near its bits, not the same.
- A coefficient follows one of the `WINDOW` candidates before it, or none of them.
- Errors are those of R, G and B: `ERROR_WEIGHTS` says what an error of Y, Cb and Cr adds there. Chroma is 4:2:0.
- Quantiser tables lie between Annex K's, scaled by quality as libjpeg does it, and flat ones, which squared error asks for.

Of a few settings tried on six of OSIE's validation pictures these served best: a greater LAMBDA, or a smaller OFFSET, gains a
little more where people look and costs more elsewhere.
"""

import bisect
import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import DTypeLike, NDArray

from models.codecs.jpeg_stream import MAX_SIDE, ZIGZAG, Component, Runs, jpeg_file, runs_of, sizes
from models.errors import FoveaError

Picture = NDArray[np.uint8]
Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

LAMBDA = 0.2
OFFSET, GAMMA = 0.05, 0.7
#: 0: Annex K's quantiser table, 1: one step for all; and chroma's steps in units of what the same mean gives
FLAT, CHROMA_STEP = 0.85, 0.7
WORTH = 1.0
WINDOW = 8
#: of a Cb or Cr sample, which four pixels share
ERROR_WEIGHTS = (1.0, 4 * 1.086, 4 * 0.825)

_TO_YCBCR = np.array(
    [
        [0.299, 0.587, 0.114, -128],
        [-0.299 / 1.772, -0.587 / 1.772, 0.886 / 1.772, 0],
        [0.701 / 1.402, -0.587 / 1.402, -0.114 / 1.402, 0],
    ]
)
#: Annex K.1, row by row
_LUMA = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    float,
)
_CHROMA = np.full((8, 8), 99.0)
_CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
_k = np.arange(8)
_dct = np.sqrt(np.where(_k, 2, 1) / 8)[:, None] * np.cos((2 * _k + 1) * _k[:, None] * np.pi / 16)
#: a block's 64 pixels, row by row, to its coefficients in zigzag order
_FORWARD = np.kron(_dct, _dct)[ZIGZAG].T.astype(np.float32)
_ZEROS, _SIZES = np.arange(64), np.arange(12)[:, None]


def quantisers(quality: float) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Steps of luma and chroma in zigzag order, 1 … 255. quality: 0 to 100, as libjpeg counts it."""
    quality = max(quality, 1)
    percent = 5000 / quality if quality < 50 else 200 - 2 * quality
    middle = np.exp(np.log(_LUMA).mean())

    def steps(table: NDArray[np.float64], share: float) -> NDArray[np.int32]:
        flatter = table ** (1 - FLAT) * middle**FLAT * share
        return np.floor(flatter * percent / 100 + 0.5).clip(1, 255).astype(np.int32)[ZIGZAG]

    return steps(_LUMA.ravel(), 1), steps(_CHROMA.ravel(), CHROMA_STEP)


class Analysed(NamedTuple):
    """What is the same at every quality: of Y, Cb and Cr, rows × columns × 64 orthonormal DCT coefficients in zigzag order, and
    the weights of the blocks, rows × columns, mean 1."""

    width: int
    height: int
    transformed: Sequence[Floats]
    weights: Sequence[Floats]


def analysed(picture: Picture, saliency_map: Picture | None = None) -> Analysed:
    """picture: uint8 RGB H×W×3; saliency_map: uint8 H×W, None: every block weighs the same.

    Raises FoveaError for a map of another size, or a side over `MAX_SIDE`.
    """
    height, width = picture.shape[:2]
    if max(height, width) > MAX_SIDE:
        raise FoveaError(f"a JPEG's sides have at most {MAX_SIDE} pixels, the picture is {width}×{height}")
    if saliency_map is not None and saliency_map.shape != (height, width):
        raise FoveaError(f"the map is {saliency_map.shape}, the picture {(height, width)}")
    y, cb, cr = (np.asarray(p, np.float32) for p in cv2.split(cv2.transform(picture.astype(np.float32), _TO_YCBCR)))
    transformed = [_transformed(plane) for plane in (y, _means(cb, 2), _means(cr, 2))]
    luma = _block_weights(saliency_map, transformed[0].shape[:2], 8)
    chroma = _block_weights(saliency_map, transformed[1].shape[:2], 16)
    return Analysed(width, height, transformed, (luma, chroma, chroma))


def _extended(plane: Floats, side: int) -> Floats:
    """With borders repeated until the sides are multiples of `side`."""
    bottom, right = -plane.shape[0] % side, -plane.shape[1] % side
    return np.asarray(cv2.copyMakeBorder(plane, 0, bottom, 0, right, cv2.BORDER_REPLICATE), np.float32)


def _means(plane: Floats, side: int) -> Floats:
    """Of squares of `side` pixels."""
    whole = _extended(plane, side)
    size = (whole.shape[1] // side, whole.shape[0] // side)
    return np.asarray(cv2.resize(whole, size, interpolation=cv2.INTER_AREA), np.float32)


def _transformed(plane: Floats) -> Floats:
    whole = _extended(plane, 8)
    rows, columns = whole.shape[0] // 8, whole.shape[1] // 8
    blocks = whole.reshape(rows, 8, columns, 8).transpose(0, 2, 1, 3).reshape(-1, 64)
    return np.asarray(blocks @ _FORWARD, np.float32).reshape(rows, columns, 64)


def _block_weights(saliency_map: Picture | None, shape: tuple[int, ...], side: int) -> Floats:
    """side: of a block, in pixels of the picture."""
    if saliency_map is None:
        return np.ones(shape, np.float32)
    weights = OFFSET + (_means(saliency_map.astype(np.float32), side) / 255) ** GAMMA
    # in float64, so that a flat map gives exactly 1
    return np.asarray(weights / np.float32(weights.mean(dtype=np.float64)), np.float32)


class Plane(NamedTuple):
    """A plane's n blocks in units of the quantiser's steps: n × 64 coefficients, and what a unit² of error is worth in bits."""

    coefficients: Floats
    worth: Floats


def scaled(given: Analysed, steps: Sequence[NDArray[np.int32]]) -> list[Plane]:
    """steps: of each plane."""
    lmbda = LAMBDA * float(steps[0].mean()) ** 2
    found = []
    for transformed, weights, step, share in zip(given.transformed, given.weights, steps, ERROR_WEIGHTS, strict=True):
        worth = (step.astype(np.float64) ** 2 * share / lmbda).astype(np.float32)
        coefficients = transformed.reshape(-1, 64) * (1 / step).astype(np.float32)
        found.append(Plane(coefficients, weights.reshape(-1, 1) * worth))
    return found


class Rates(NamedTuple):
    """Bits of a nonzero coefficient by its size (12) and the zeros before it (64), and of a block's end before its last one."""

    coefficient: Floats
    end: np.float32


def rates_of(levels: Iterable[NDArray[np.int32]]) -> Rates:
    """By the frequencies in planes of n × 64 quantised coefficients."""
    counts = np.full(256, 0.2)
    for blocks in levels:
        found = runs_of(blocks)
        size = sizes(blocks[found.block, found.position])
        counts += np.bincount((found.zeros % 16 << 4) + size, minlength=256)
        counts[0xF0] += (found.zeros // 16).sum()
        counts[0x00] += np.count_nonzero(blocks[:, 63] == 0)
    bits = -np.log2(counts / counts.sum())
    each = bits[(_ZEROS % 16 << 4) + np.minimum(_SIZES, 10)] + _SIZES + _ZEROS // 16 * bits[0xF0]
    return Rates(each.astype(np.float32), np.float32(bits[0x00]))


def rounded(plane: Plane, least: float = 0.0) -> NDArray[np.int32]:
    """n × 64 nearest levels; AC levels that save less than `least` bits' worth of error are 0."""
    level = np.rint(plane.coefficients)
    if least:
        level[:, 1:] *= (level * (2 * plane.coefficients - level) * plane.worth > least)[:, 1:]
    # the largest size of an AC coefficient is 10
    level[:, 1:].clip(-1023, 1023, out=level[:, 1:])
    return level.astype(np.int32)


class _Candidates(NamedTuple):
    """The nonzero levels of n blocks, (1 + most) × n: row i has each block's i-th, row 0 none, blocks with the most first.

    nearest, lower: the error saved by the level and by the lower one (see the module), in bits; size: of the level;
    alive[i - 1]: how many blocks have an i-th; at: rows and columns of the candidates in `runs`' order.
    """

    position: NDArray[np.int32]
    size: NDArray[np.int32]
    nearest: Floats
    lower: Floats
    alive: Integers
    at: tuple[Integers, Integers]


def _candidates(runs: Runs, level: NDArray[np.int32], value: Floats, worth: Floats, n: int) -> _Candidates:
    """level, value, worth: of each of the runs' coefficients, magnitudes."""
    count = np.bincount(runs.block, minlength=n)
    order = np.argsort(-count, kind="stable")
    most = int(count[order[0]])
    rank = np.empty(n, np.int64)
    rank[order] = np.arange(n)
    alive = n - np.cumsum(np.bincount(count, minlength=most + 1))[:most]
    nth = np.arange(len(level)) - np.repeat(np.cumsum(count) - count, count) + 1
    at = (nth, rank[runs.block])

    def spread(values: NDArray[np.generic], kind: DTypeLike) -> NDArray[np.generic]:
        table = np.zeros((most + 1, int(alive[0])), kind)
        table[at] = values
        return table

    low = _lower(level)
    tables = (
        spread(runs.position, np.int32),
        spread(sizes(level), np.int32),
        spread(level * (2 * value - level) * worth, np.float32),
        spread(low * (2 * value - low) * worth, np.float32),
    )
    return _Candidates(*tables, alive, at)  # type: ignore[arg-type]


def _lower(level: NDArray[np.int32]) -> NDArray[np.int32]:
    """The largest magnitude that has one bit fewer."""
    return ((1 << np.maximum(sizes(level) - 1, 0)) - 1).astype(np.int32)


def _cheapest(c: _Candidates, rates: Rates) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which candidates are kept, and which of them at the lower level, as `c.position`.

    cost[i]: of a block up to its i-th candidate, when that is kept.
    """
    shape, table = c.position.shape, rates.coefficient.ravel()
    cost, before = np.zeros(shape, np.float32), np.zeros(shape, np.int16)
    lowered = np.zeros(shape, bool)
    best, last = np.full(shape[1], rates.end, np.float32), np.zeros(shape[1], np.int16)
    for i, m in enumerate(c.alive, 1):
        position, size = c.position[i, :m], c.size[i, :m]
        at = size * 64 + position - 1
        some = np.flatnonzero(size > 1)
        here, come = table[at], np.zeros(m, np.int16)
        here_low, come_low = table[at[some] - 64], np.zeros(len(some), np.int16)
        for j in range(max(1, i - WINDOW), i):
            nearer = at - c.position[j, :m]
            whole = cost[j, :m] + table[nearer]
            better = whole < here
            here[better], come[better] = whole[better], j
            whole = cost[j, some] + table[nearer[some] - 64]
            better = whole < here_low
            here_low[better], come_low[better] = whole[better], j
        here -= c.nearest[i, :m]
        here_low -= c.lower[i, some]
        better = here_low < here[some]
        chosen = some[better]
        here[chosen], come[chosen], lowered[i, chosen] = here_low[better], come_low[better], True
        cost[i, :m], before[i, :m] = here, come
        whole = here + np.where(position < 63, rates.end, np.float32(0))
        better = whole < best[:m]
        best[:m][better], last[:m][better] = whole[better], i
    kept = np.zeros(shape, bool)
    for i in range(len(c.alive), 0, -1):
        m = c.alive[i - 1]
        kept[i, :m] = last[:m] == i
        np.copyto(last[:m], before[i, :m], where=kept[i, :m])
    return kept, lowered


def trellis(plane: Plane, first: NDArray[np.int32], rates: Rates) -> NDArray[np.int32]:
    """n × 64 levels: `first` with what J gains lowered or zeroed."""
    runs = runs_of(first)
    if not len(runs.block):
        return first
    where = (runs.block, runs.position)
    level = np.abs(first[where])
    c = _candidates(runs, level, np.abs(plane.coefficients[where]), plane.worth[where], len(first))
    kept, lowered = _cheapest(c, rates)
    found = first.copy()
    found[where] = np.sign(first[where]) * kept[c.at] * np.where(lowered[c.at], _lower(level), level)
    return found


def encode_analysed(given: Analysed, quality: float) -> bytes:
    """The file at this quality, 0 to 100."""
    # C code that only this codec needs
    from mozjpeg_lossless_optimization import optimize

    luma, chroma = quantisers(quality)
    steps = (luma, chroma, chroma)
    planes = scaled(given, steps)
    first = [rounded(plane, WORTH) for plane in planes]
    rates = rates_of(first[:1]), rates_of(first[1:])
    components = []
    for i, (plane, start, step) in enumerate(zip(planes, first, steps, strict=True)):
        levels = trellis(plane, start, rates[min(i, 1)])
        components.append(Component(levels.reshape(given.transformed[i].shape), step, 1 if i else 2))
    return bytes(optimize(jpeg_file(given.width, given.height, components)))


def encode(picture: Picture, quality: float, saliency_map: Picture | None = None) -> bytes:
    """A JPEG file. picture: uint8 RGB H×W×3; quality: 0 to 100; saliency_map: uint8 H×W, None: all places count alike.

    Pure and deterministic. Raises FoveaError as `analysed`.
    """
    return encode_analysed(analysed(picture, saliency_map), quality)


def encode_to_size(
    picture: Picture, bpp: float, saliency_map: Picture | None = None, *, spare: int = 0
) -> tuple[bytes, float]:
    """The largest file of at most `bpp` bits per pixel over whole qualities, and its quality; seven encodings.
    spare: bytes that are to be added to it.

    Raises FoveaError as `analysed`, and where the lowest quality takes more.
    """
    given = analysed(picture, saliency_map)
    pixels = given.width * given.height
    file = functools.cache(lambda quality: encode_analysed(given, quality))
    best = bisect.bisect(range(1, 101), bpp * pixels / 8 - spare, key=lambda quality: len(file(quality)))
    if best == 0:
        least = 8 * (len(file(1)) + spare) / pixels
        raise FoveaError(f"{bpp:g} bpp is out of reach: a JPEG of this picture takes at least {least:.4f}")
    return file(best), best
