"""One picture file → uint8 RGB, by rules that are stated here, or a named refusal.

| in the file | rule |
|---|---|
| format | by content, not by suffix: PNG, JPEG, WebP, TIFF |
| EXIF orientation | applied; width and height are those after it |
| grey, 1-, 2-, 4-bit grey, bilevel | repeated to R = G = B |
| palette | looked up |
| 16 bits a sample | round(value / 257), so 0 → 0 and 65535 → 255 |
| alpha or a transparent colour | dropped where every pixel is opaque, else refused |
| CMYK, Lab, float, 12-bit JPEG | refused: there is no one right conversion |
| several pictures in a file (animation, TIFF pages) | refused |
| colour profile, gamma | not applied: samples are taken as they stand |
| damage | PNG: every chunk's CRC and the zlib checksum. JPEG: the end marker (JPEG has no checksum: damage inside that keeps the markers goes unnoticed). WebP, TIFF: declared length, decoder's own errors |

Ordinary 8-bit PNGs (the bulk of Cityscapes) take a fast way: libdeflate inflates two to three times as fast as the zlib
that PNG libraries call, so the rows are inflated first, wrapped as stored blocks, and libspng only undoes the filters.
"""

import contextlib
import io
import re
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

from models.errors import FoveaError

Picture = NDArray[np.uint8]

#: A picture's least width and height.
MIN_SIDE: Final = 16
#: A picture's most pixels (Pillow's own bound against decompression bombs).
MAX_PIXELS: Final = 89_478_485

_PNG = b"\x89PNG\r\n\x1a\n"
_STORED = 65535  # the most bytes in one stored block of a deflate stream
_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)
_JPEG_SOF = frozenset((*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)))
_scratch = threading.local()
_PILLOW = threading.Lock()

#: imagecodecs takes any buffer; its type stubs know only some.
codecs: Any = imagecodecs


class BrokenPicture(FoveaError):
    """A file that can't become a picture: `name` is the file, `reason` why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason

    def __reduce__(self) -> tuple[type["BrokenPicture"], tuple[str, str]]:
        return type(self), (self.name, self.reason)


@dataclass(frozen=True)
class Header:
    """What a file says of its picture: format, size after orientation, EXIF orientation (1 … 8)."""

    format: str
    width: int
    height: int
    orientation: int


def read_header(source: Path | str | bytes, name: str | None = None) -> Header:
    """Check a file without decoding its pixels, and return what it says of its picture.

    Finds: empty and foreign files, PNGs with a missing or damaged chunk, JPEGs without end marker, WebPs shorter than
    they say, pictures smaller than 16×16 or too large, and what `read_picture` refuses for its kind (CMYK, animation).

    Raises:
        BrokenPicture: one of these.
    """
    data, label = _load(source, name)
    try:
        header, _ = _header(data)
        return header
    except _Broken as error:
        raise BrokenPicture(label, str(error)) from error


def read_picture(source: Path | str | bytes, name: str | None = None) -> Picture:
    """Decode a file, or the bytes of one, into uint8 RGB, H×W×3, C-contiguous; `name` is for messages.

    Raises:
        BrokenPicture: the file is damaged or of a kind that is refused (table above); nothing is guessed.
    """
    data, label = _load(source, name)
    try:
        header, details = _header(data)
        samples = _DECODERS[header.format](data, details)
        picture = _to_rgb8(samples)
    except _Broken as error:
        raise BrokenPicture(label, str(error)) from error
    except (OSError, SyntaxError, ValueError, RuntimeError, MemoryError, Warning) as error:
        raise BrokenPicture(label, f"can't be decoded: {str(error) or type(error).__name__}") from error
    picture = orient(picture, header.orientation)
    if picture.shape != (header.height, header.width, 3):
        raise BrokenPicture(label, f"decodes to {picture.shape[1]}×{picture.shape[0]}, header says otherwise")
    return picture


def read_png_samples(data: bytes, name: str | None = None) -> NDArray[Any]:
    """Return a PNG's samples as they are stored, alpha included: uint8 or uint16, H×W or H×W×C.

    Raises:
        BrokenPicture: no PNG, or one of its checksums fails (PNG libraries pass over some).
    """
    label = name or "picture"
    if not data.startswith(_PNG):
        raise BrokenPicture(label, "not a PNG")
    try:
        return _decode_png(data, _png_header(data)[3])
    except _Broken as error:
        raise BrokenPicture(label, str(error)) from error
    except (OSError, SyntaxError, ValueError, RuntimeError) as error:
        raise BrokenPicture(label, f"can't be decoded: {str(error) or type(error).__name__}") from error


def orient(picture: Picture, orientation: int) -> Picture:
    """Turn and mirror a stored picture the way its EXIF orientation (1 … 8) asks for viewing."""
    if orientation >= 5:
        picture = picture.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    return np.ascontiguousarray(picture)


class _Broken(Exception):
    """The reason alone; the public functions add the file's name."""


def _load(source: Path | str | bytes, name: str | None) -> tuple[bytes, str]:
    if isinstance(source, bytes):
        return source, name or "picture"
    label = name or str(source)
    try:
        return Path(source).read_bytes(), label
    except OSError as error:
        raise BrokenPicture(label, f"can't be read: {error.strerror or error}") from error


def _header(data: bytes) -> tuple[Header, dict[str, Any]]:
    if not data:
        raise _Broken("the file is empty (0 bytes)")
    if data.startswith(_PNG):
        kind, (width, height, orientation, details) = "png", _png_header(data)
    elif data.startswith(b"\xff\xd8\xff"):
        kind, (width, height, orientation, details) = "jpeg", _jpeg_header(data)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        kind, (width, height, orientation, details) = "webp", _pillow_header(data, "WEBP")
    elif data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        kind, (width, height, orientation, details) = "tiff", _pillow_header(data, "TIFF")
    else:
        looks = "text" if _is_text(data[:512]) else "something else"
        raise _Broken(f"not a PNG, JPEG, WebP or TIFF picture (the file begins like {looks})")
    if width < MIN_SIDE or height < MIN_SIDE:
        raise _Broken(f"{width}×{height} is smaller than {MIN_SIDE}×{MIN_SIDE} pixels")
    if width * height > MAX_PIXELS:
        raise _Broken(f"{width}×{height} is more than {MAX_PIXELS / 1e6:.0f} megapixels")
    if not 1 <= orientation <= 8:
        orientation = 1  # outside the standard: viewers show the picture as stored
    if orientation >= 5:
        width, height = height, width
    return Header(kind, width, height, orientation), details


def _is_text(head: bytes) -> bool:
    return all(byte >= 32 or byte in b"\t\n\r\f" for byte in head)


def _exif_orientation(exif: bytes) -> int:
    parsed = Image.Exif()
    try:
        parsed.load(exif)
        value = parsed.get(ExifTags.Base.Orientation, 1)
    except (SyntaxError, ValueError, OSError, struct.error, KeyError, EOFError):
        return 1  # damaged metadata is not damage of the picture
    return value if isinstance(value, int) else 1


# ---- PNG


def _png_header(data: bytes) -> tuple[int, int, int, dict[str, Any]]:
    view, position, orientation = memoryview(data), 8, 1
    idat: list[memoryview] = []
    seen: set[bytes] = set()
    ihdr = b""
    while True:
        if position + 12 > len(data):
            raise _Broken(f"cut short: the PNG ends after {len(data)} bytes without its IEND chunk")
        (length,) = struct.unpack_from(">I", data, position)
        kind = data[position + 4 : position + 8]
        end = position + 8 + length
        if end + 4 > len(data):
            raise _Broken(f"cut short: the PNG ends after {len(data)} bytes inside its {_ascii(kind)} chunk")
        (crc,) = struct.unpack_from(">I", data, end)
        if codecs.deflate_crc32(view[position + 4 : end]) != crc:
            raise _Broken(f"damaged: the PNG's {_ascii(kind)} chunk at byte {position} fails its checksum")
        if kind == b"IDAT":
            idat.append(view[position + 8 : end])
        elif kind == b"IHDR":
            ihdr = data[position + 8 : end]
        elif kind == b"eXIf":
            orientation = _exif_orientation(data[position + 8 : end])
        seen.add(kind)
        position = end + 4
        if kind == b"IEND":
            break
    if len(ihdr) != 13 or not idat:
        raise _Broken("damaged: the PNG has no IHDR or no IDAT chunk")
    if b"acTL" in seen:
        raise _Broken("an animated PNG: one file must be one picture")
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", ihdr)
    details = {
        "ihdr": ihdr, "idat": idat, "depth": depth, "colour": colour,
        "fast": depth == 8 and colour in (0, 2, 6) and not interlace and b"tRNS" not in seen,
        "transparent": b"tRNS" in seen,
    }  # fmt: skip
    return width, height, orientation, details


def _ascii(kind: bytes) -> str:
    return kind.decode("ascii", "replace")


def _decode_png(data: bytes, details: dict[str, Any]) -> NDArray[Any]:
    if details["fast"]:
        return _decode_plain_png(details["ihdr"], details["idat"])
    if details["depth"] == 16 and not details["transparent"]:
        decoded: NDArray[Any] = codecs.png_decode(data)
        return decoded
    return _decode_with_pillow(data, details)


def _decode_plain_png(ihdr: bytes, idat: list[memoryview]) -> NDArray[Any]:
    width, height, _, colour = struct.unpack_from(">IIBB", ihdr)
    rows = _buffer("rows", height * (1 + width * {0: 1, 2: 3, 6: 4}[colour]))
    compressed = idat[0] if len(idat) == 1 else b"".join(idat)
    try:
        inflated = codecs.deflate_decode(compressed, out=rows)
    except codecs.DeflateError as error:
        raise _Broken(f"damaged: the PNG's pixels don't inflate ({error})") from error
    if len(inflated) != len(rows):
        raise _Broken(f"damaged: the PNG holds {len(inflated)} bytes of rows, its size asks for {len(rows)}")
    decoded: NDArray[Any] = codecs.spng_decode(_stored_png(ihdr, rows))
    return decoded


def _stored_png(ihdr: bytes, rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Wrap filtered rows as a PNG whose deflate stream is stored, not compressed."""
    blocks, rest = divmod(len(rows), _STORED)
    length = 2 + blocks * (_STORED + 5) + 5 + rest + 4
    png = _buffer("png", 33 + 12 + length + 12)
    _put(png, 0, _PNG + struct.pack(">I", 13) + b"IHDR" + ihdr + _crc(b"IHDR" + ihdr))
    _put(png, 33, struct.pack(">I", length) + b"IDAT\x78\x01")
    body = png[43 : 43 + length - 2]
    full = body[: blocks * (_STORED + 5)].reshape(blocks, _STORED + 5)
    full[:, :5] = np.frombuffer(struct.pack("<BHH", 0, _STORED, 0), np.uint8)
    full[:, 5:] = rows[: blocks * _STORED].reshape(blocks, _STORED)
    last = body[blocks * (_STORED + 5) :]
    _put(last, 0, struct.pack("<BHH", 1, rest, rest ^ 0xFFFF))
    last[5 : 5 + rest] = rows[blocks * _STORED :]
    _put(last, 5 + rest, struct.pack(">I", codecs.deflate_adler32(rows)))
    _put(png, 41 + length, _crc(png[37 : 41 + length]) + b"\0\0\0\0IEND" + _crc(b"IEND"))
    return png


def _crc(data: bytes | NDArray[np.uint8]) -> bytes:
    return struct.pack(">I", codecs.deflate_crc32(data))


def _put(target: NDArray[np.uint8], at: int, data: bytes) -> None:
    target[at : at + len(data)] = np.frombuffer(data, np.uint8)


def _buffer(name: str, size: int) -> NDArray[np.uint8]:
    """Return `size` bytes of this thread's own memory: fresh pages for each picture would cost a third more."""
    held: NDArray[np.uint8] | None = getattr(_scratch, name, None)
    if held is None or not size <= len(held) <= 4 * size:
        held = np.empty(size, np.uint8)
        setattr(_scratch, name, held)
    return held[:size]


# ---- JPEG


def _jpeg_header(data: bytes) -> tuple[int, int, int, dict[str, Any]]:
    position, orientation = 2, 1
    frame: tuple[int, int, int, int] | None = None
    cut = f"cut short: the JPEG ends after {len(data)} bytes without its end marker"
    while True:
        found = _JPEG_MARKER.search(data, position)
        if not found:
            raise _Broken(cut)
        marker, position = found[1][0], found.end()
        if marker == 0xD9:
            break
        if marker == 0x01 or marker == 0xD8:
            continue
        if position + 2 > len(data):
            raise _Broken(cut)
        (length,) = struct.unpack_from(">H", data, position)
        if position + length > len(data):
            raise _Broken(cut)
        if marker in _JPEG_SOF and frame is None and length >= 8:
            frame = struct.unpack_from(">BHHB", data, position + 2)
        elif marker == 0xE1 and data[position + 2 : position + 8] == b"Exif\0\0" and orientation == 1:
            orientation = _exif_orientation(data[position + 2 : position + length])
        position += length
    if frame is None:
        raise _Broken("damaged: the JPEG has no frame header")
    precision, height, width, components = frame
    if precision != 8:
        raise _Broken(f"a JPEG of {precision} bits a sample: convert it to 8 bits")
    if components == 4:
        raise _Broken("a CMYK JPEG: convert it to RGB with the profile it was made for")
    if components not in (1, 3):
        raise _Broken(f"a JPEG with {components} components: convert it to RGB")
    return width, height, orientation, {}


def _decode_jpeg(data: bytes, _: dict[str, Any]) -> NDArray[Any]:
    decoded: NDArray[Any] = codecs.jpeg8_decode(data)
    corner = decoded[-4:, -8:].reshape(-1, 3 if decoded.ndim == 3 else 1)
    if (corner == corner[0]).all():
        # Where data are missing inside, libjpeg goes on in one flat colour to the end without an error. So does many
        # a sky or border: the strict parser of JPEG XL's lossless transcoding tells the two apart.
        try:
            codecs.jpegxl_encode_jpeg(data)
        except codecs.JpegxlError as error:
            raise _Broken("damaged: the JPEG's data end before its pixels do") from error
    return decoded


# ---- WebP, TIFF and the rarer kinds of PNG, through Pillow


@contextlib.contextmanager
def _pillow_warnings(action: Literal["error", "ignore"]) -> Iterator[None]:
    """What Pillow's warnings do here. One thread at a time: the filters belong to the whole process."""
    with _PILLOW, warnings.catch_warnings():
        warnings.simplefilter(action)
        yield


def _pillow_header(data: bytes, kind: str) -> tuple[int, int, int, dict[str, Any]]:
    if kind == "WEBP":
        declared = struct.unpack_from("<I", data, 4)[0] + 8
        if declared > len(data):
            raise _Broken(f"cut short: the WebP has {len(data)} of the {declared} bytes that it declares")
    try:
        with _pillow_warnings("ignore"), Image.open(io.BytesIO(data), formats=(kind,)) as image:
            frames = getattr(image, "n_frames", 1)
            if frames > 1:
                raise _Broken(f"{frames} pictures in one file: one file must be one picture")
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            width, height = image.size
            tags: dict[int, Any] = {}
            if isinstance(image, TiffImagePlugin.TiffImageFile):
                tags = dict(image.tag_v2)
                width, height = tags[256], tags[257]  # Pillow's size is the one after orientation
                _check_tiff(tags)
    except UnidentifiedImageError as error:
        raise _Broken(f"damaged, or a rare kind of {kind} that is not read: save it as an RGB PNG") from error
    except (OSError, SyntaxError, ValueError, struct.error, KeyError, EOFError, TypeError) as error:
        raise _Broken(f"damaged: {str(error) or type(error).__name__}") from error
    return width, height, orientation if isinstance(orientation, int) else 1, {"tags": tags}


def _check_tiff(tags: dict[int, Any]) -> None:
    photometric, bits = tags.get(262), tuple(np.atleast_1d(tags.get(258, 1)).tolist())
    names = {5: "CMYK", 8: "Lab", 9: "Lab", 10: "Lab", 32803: "raw sensor"}
    if photometric in names:
        raise _Broken(f"a {names[photometric]} TIFF: convert it to RGB")
    if (
        set(np.atleast_1d(tags.get(339, 1)).tolist()) != {1}
        or len(set(bits)) != 1
        or bits[0] not in (1, 2, 4, 8, 16)
    ):
        raise _Broken(
            f"a TIFF with samples of {'/'.join(map(str, bits))} bits, float or signed: convert it to 8 bits"
        )


def _decode_tiff(data: bytes, details: dict[str, Any]) -> NDArray[Any]:
    tags = details["tags"]
    if np.max(tags.get(258, 1)) != 16:
        return _decode_with_pillow(data, details)
    # Pillow cuts 16-bit colour to 8 bits in its own way.
    samples: NDArray[Any] = codecs.tiff_decode(data)
    if tags.get(262) == 0:
        samples = 65535 - samples
    return samples


def _decode_with_pillow(data: bytes, details: dict[str, Any]) -> NDArray[Any]:
    if details.get("depth") == 16:
        raise _Broken("a 16-bit PNG with a transparent colour: save it without")
    # a decoder that warns about the file has not read it for certain
    with _pillow_warnings("error"), Image.open(io.BytesIO(data)) as image:
        if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "YCbCr"):
            raise _Broken(f"pixels of kind {image.mode}: convert them to RGB")
        transparent = "transparency" in image.info or image.mode in ("LA", "PA", "RGBA")
        decoded = np.asarray(image.convert("RGBA" if transparent else "RGB"))
        orientation = details.get("tags", {}).get(ExifTags.Base.Orientation.value, 1)
    # Pillow turns TIFFs while loading them: back to how they are stored, the caller turns all formats alike.
    return _unorient(decoded, orientation) if isinstance(orientation, int) else decoded


def _unorient(picture: NDArray[Any], orientation: int) -> NDArray[Any]:
    return orient(picture, {6: 8, 8: 6}.get(orientation, orientation))


# ---- samples → uint8 RGB


def _to_rgb8(samples: NDArray[Any]) -> Picture:
    if samples.dtype == np.uint16:
        full = 65535
    elif samples.dtype == np.uint8:
        full = 255
    else:
        raise _Broken(f"samples of type {samples.dtype}: convert it to 8 bits")
    if samples.ndim == 2:
        samples = samples[..., None]
    if samples.ndim != 3 or samples.shape[2] not in (1, 2, 3, 4):
        raise _Broken(f"pixels of shape {samples.shape}: convert it to RGB")
    if samples.shape[2] in (2, 4):
        if not (samples[..., -1] == full).all():
            raise _Broken("has transparent pixels: put it on a background, or save it without alpha")
        samples = samples[..., :-1]
    if samples.dtype == np.uint16:
        samples = ((samples.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    if samples.shape[2] == 1:
        samples = np.repeat(samples, 3, axis=2)
    return np.ascontiguousarray(samples)


_DECODERS: Final[dict[str, Callable[[bytes, dict[str, Any]], NDArray[Any]]]] = {
    "png": _decode_png,
    "jpeg": _decode_jpeg,
    "webp": _decode_with_pillow,
    "tiff": _decode_tiff,
}
