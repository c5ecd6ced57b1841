"""Classical anchors: JPEG, WebP, AVIF and JPEG XL, each as good as it gets at a stated setting.

| codec  | library       | setting |
|--------|---------------|---------|
| jpeg   | libjpeg-turbo | baseline, optimised Huffman tables, no metadata; the better of 4:2:0 and 4:4:4 at equal bytes |
| webp   | libwebp       | method 6, its slowest |
| avif   | aom           | speed 3, 4:4:4, tune=psnr, one tile |
| avif-visual | aom      | the same with libavif's own tune for stills |
| jpegxl | libjxl        | effort 9, quality by libjxl's own JPEG-like scale |
| jpeg_guided | mozjpeg | progressive, coefficients chosen under a saliency map (models/codecs/guided_jpeg.py) |
| jpeg_trellis | mozjpeg | the same without a map: all places count alike |
| bicubic | libwebp, OpenCV | the picture area-averaged to `quality` percent of its sides, lossless, enlarged bicubically |

JPEG's chroma: 4:2:0 at the quality asked for, unless the largest 4:4:4 file that is not larger has less squared error.
So both are weighed at the same rate, and a row's quality means one rate, whichever won.

AVIF's tune: libavif 1.4 optimises stills for visual quality unless told otherwise, which costs about 1 dB of PSNR at
equal rate on street pictures (0.65 bpp, 512×256); an anchor for PSNR curves gets the setting that is best there. Speed
0 would gain another 3 % of rate or so at six times the time.

`bicubic` is no codec that anybody uses but the floor that one must be above at very low rates: the thumbnail takes the
smaller of lossless WebP and its bare bytes, and ten bytes or fewer for the sizes.

Quality rises from 0 to 100 for all of them. Every function is pure, single-threaded and deterministic for given
versions of the libraries. bpp is 8·len(file) over the picture's pixels.
"""

import bisect
import functools
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cv2
import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.codecs import guided_jpeg
from models.codecs.bitstream import read_varints, write_varints
from models.errors import FoveaError

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Classical:
    """One codec: its label, the qualities of its curve, rising (about 0.05 to 2 bpp), and its two functions.

    guided: `encode` takes a saliency map, too, uint8 H×W.
    """

    name: str
    label: str
    qualities: tuple[float, ...]
    encode: Callable[..., bytes]
    decode: Callable[[bytes], Picture]
    guided: bool = False


def _squared_error(a: Picture, b: Picture) -> int:
    difference = a.astype(np.int32) - b
    # of many megapixels it is beyond 32 bits
    return int(np.einsum("hwc,hwc->h", difference, difference, dtype=np.int64).sum())


def _jpeg(picture: Picture, quality: int, subsampling: str) -> bytes:
    return bytes(imagecodecs.jpeg8_encode(picture, quality, subsampling=subsampling, optimize=True))


def _encode_jpeg(picture: Picture, quality: float) -> bytes:
    subsampled = _jpeg(picture, round(quality), "420")
    full = functools.cache(lambda quality: _jpeg(picture, quality, "444"))
    # the largest 4:4:4 file not larger than that: sizes rise with quality
    largest = bisect.bisect(range(1, 101), len(subsampled), key=lambda quality: len(full(quality)))
    files = [subsampled, full(largest)] if largest else [subsampled]
    return min(files, key=lambda file: _squared_error(picture, _decode_jpeg(file)))


def _decode_jpeg(data: bytes) -> Picture:
    return np.asarray(imagecodecs.jpeg8_decode(data), np.uint8)


def _encode_webp(picture: Picture, quality: float) -> bytes:
    return bytes(imagecodecs.webp_encode(picture, quality, lossless=False, method=6, numthreads=1))


def _decode_webp(data: bytes) -> Picture:
    return np.asarray(imagecodecs.webp_decode(data), np.uint8)[..., :3]


def _encode_avif(picture: Picture, quality: float, tune: str = "psnr") -> bytes:
    # through Pillow: imagecodecs has no way to set aom's tune
    buffer = io.BytesIO()
    Image.fromarray(picture).save(
        buffer,
        "AVIF",
        quality=round(quality),
        speed=3,
        subsampling="4:4:4",
        codec="aom",
        max_threads=1,
        autotiling=False,
        **({"advanced": {"tune": tune}} if tune else {}),
    )
    return buffer.getvalue()


_encode_avif_visual = functools.partial(_encode_avif, tune="")


def _decode_avif(data: bytes) -> Picture:
    return np.asarray(imagecodecs.avif_decode(data, numthreads=1), np.uint8)[..., :3]


def _jpegxl_distance(quality: float) -> float:
    """Butteraugli distance for a JPEG-like quality, libjxl's JxlEncoderDistanceFromQuality."""
    if quality >= 30:
        return 0.1 + (100 - quality) * 0.09
    return 53 / 3000 * quality**2 - 23 / 20 * quality + 25


def _encode_jpegxl(picture: Picture, quality: float) -> bytes:
    distance = _jpegxl_distance(quality)
    return bytes(imagecodecs.jpegxl_encode(picture, distance=distance, effort=9, usecontainer=False, numthreads=1))


def _decode_jpegxl(data: bytes) -> Picture:
    return np.asarray(imagecodecs.jpegxl_decode(data, numthreads=1), np.uint8)


def _encode_bicubic(picture: Picture, quality: float) -> bytes:
    height, width = picture.shape[:2]
    small = (max(1, round(height * quality / 100)), max(1, round(width * quality / 100)))
    thumbnail = cv2.resize(picture, small[::-1], interpolation=cv2.INTER_AREA)
    webp = bytes(imagecodecs.webp_encode(np.ascontiguousarray(thumbnail), lossless=True, method=6, numthreads=1))
    bare = thumbnail.tobytes()
    sizes = write_varints((width, height, 2 * small[1] + int(len(webp) < len(bare)), small[0]))
    return bytes([len(sizes)]) + sizes + min(webp, bare, key=len)


def _decode_bicubic(data: bytes) -> Picture:
    width, height, mark, rows = read_varints(data[1 : 1 + data[0]], 4)
    body, shape = data[1 + data[0] :], (rows, mark // 2, 3)
    if mark % 2:
        thumbnail = np.asarray(imagecodecs.webp_decode(body), np.uint8)[..., :3].reshape(shape)
    else:
        thumbnail = np.frombuffer(body, np.uint8).reshape(shape)
    return np.asarray(cv2.resize(thumbnail, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


_GUIDED = (20.0, 45.0, 65.0, 80.0, 90.0, 95.0)

CLASSICAL: Mapping[str, Classical] = {
    c.name: c
    for c in (
        Classical("jpeg", "JPEG", (5, 10, 20, 35, 55, 75, 88, 95), _encode_jpeg, _decode_jpeg),
        Classical("webp", "WebP", (0, 4, 10, 22, 42, 68, 85, 93), _encode_webp, _decode_webp),
        Classical("avif", "AVIF", (1, 6, 15, 29, 46, 66), _encode_avif, _decode_avif),
        Classical("avif-visual", "AVIF, visual tune", (1, 6, 15, 29, 46, 66), _encode_avif_visual, _decode_avif),
        Classical("jpegxl", "JPEG XL", (0, 7, 15, 35, 62, 80, 90), _encode_jpegxl, _decode_jpegxl),
        Classical("jpeg_guided", "JPEG, guided", _GUIDED, guided_jpeg.encode, _decode_jpeg, guided=True),
        Classical("jpeg_trellis", "JPEG, trellis", _GUIDED, guided_jpeg.encode, _decode_jpeg),
        Classical("bicubic", "bicubic", (2, 4, 7, 11, 16, 24, 36), _encode_bicubic, _decode_bicubic),
    )
}


def _codec(name: str) -> Classical:
    if name not in CLASSICAL:
        raise FoveaError(f"unknown classical codec {name!r}; known: {', '.join(CLASSICAL)}")
    return CLASSICAL[name]


def encode(codec: str, quality: float, picture: Picture, saliency_map: Picture | None = None) -> bytes:
    """The whole file, as it would lie on a disk. picture: uint8 RGB, H×W×3; quality: 0 to 100; saliency_map: uint8 H×W, which
    a guided codec needs and no other looks at.

    Raises FoveaError for an unknown codec, a quality out of range, a picture that is not uint8 RGB, or no map.
    """
    chosen = _codec(codec)
    if not 0 <= quality <= 100:
        raise FoveaError(f"{codec}: quality goes from 0 to 100, not {quality}")
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or picture.size == 0:
        raise FoveaError(f"{codec}: needs uint8 RGB, H×W×3, got {picture.dtype} {picture.shape}")
    picture = np.ascontiguousarray(picture)
    if not chosen.guided:
        return chosen.encode(picture, quality)
    if saliency_map is None:
        raise FoveaError(f"{codec} needs the picture's saliency map; jpeg_trellis is the same without one")
    return chosen.encode(picture, quality, saliency_map)


def decode(codec: str, data: bytes) -> Picture:
    """The picture in a file that `encode` made, uint8 RGB, H×W×3. Raises FoveaError for bytes that do not decode."""
    chosen = _codec(codec)
    try:
        return chosen.decode(data)
    except Exception as error:
        # each library raises a class of its own
        raise FoveaError(f"not a {chosen.label} file: {error}") from error
