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
| more than 89,478,485 pixels (Pillow's own bound against decompression bombs) | refused |
| ICC profile, RGB or grey | converted to sRGB (colour.py), 16 bits after rounding to 8; without a usable one, samples are taken as sRGB |
| EXIF of JPEG, PNG, WebP with interoperability index R03, no ICC profile | Adobe RGB (DCF 2.0, as cameras write it), converted to sRGB; not where EXIF says sRGB itself |
| TIFF: bands beyond the colours that are not declared alpha | dropped |
| damage | of samples, not of metadata or what stands behind the picture. PNG: every chunk's CRC and the zlib checksum. JPEG: the end marker (JPEG has no checksum: damage inside that keeps the markers goes unnoticed). WebP, TIFF: declared length, decoder's own errors |

Ordinary 8-bit PNGs (the bulk of Cityscapes) take a fast way: libdeflate inflates two to three times as fast as the zlib
that PNG libraries call, so the rows are inflated first, stored as a PNG without compression, and libspng only undoes the
filters. All else is libpng's, libjpeg-turbo's and Pillow's work.
"""

import contextlib
import io
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

from assets.frames.colour import to_srgb
from assets.frames.encode import png_chunk
from models.errors import SHORTAGES, FoveaError
from models.validation import printable

Picture = NDArray[np.uint8]

#: A picture's least width and height.
MIN_SIDE: Final = 16
#: A picture's most pixels.
MAX_PIXELS: Final = 89_478_485

_PNG = b"\x89PNG\r\n\x1a\n"
_OTHERS = {
    "a HEIC picture": rb"....ftyp(heic|heix|hevc|heim|heis|mif1|msf1)", "an AVIF picture": rb"....ftyp(avif|avis)",
    "a GIF": rb"GIF8", "a BMP": rb"BM....\0\0\0\0", "a JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "a JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ", "a PDF": rb"%PDF-", "an SVG": rb"\s*(<\?xml.{,512})?<svg",
    "a Photoshop file": rb"8BPS", "an OpenEXR file": rb"v/1\x01",
}  # fmt: skip
"""Beginnings of what is told by name."""
_CHANNELS = {0: 1, 2: 3, 6: 4}  # by PNG's colour type
_STARTS = {"JPEG": rb"\xff\xd8\xff", "WEBP": rb"RIFF....WEBP", "TIFF": rb"II[*+]\0|MM\0[*+]"}
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "YCbCr", "I;16", "I;16L", "I;16B"}
_MOST = f"{MAX_PIXELS / 1e6:.0f} megapixels: make it smaller, or cut it in parts"
_EXIF_SRGB = 1  # of ColorSpace
#: What Pillow raises for a damaged file.
_DAMAGE = (OSError, SyntaxError, ValueError, struct.error, LookupError, EOFError, TypeError)
_scratch = threading.local()
_PILLOW = threading.RLock()

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


class Header(NamedTuple):
    """What a file says of its picture: size (after orientation, as `read_header` gives it), EXIF orientation (1 … 8), ICC
    profile or b"", what gives its samples as they are stored, H×W or H×W×C, and its format."""

    width: int
    height: int
    orientation: int
    profile: bytes
    decode: Callable[[], NDArray[Any]]
    format: str = ""


def read_header(source: Path | str | bytes, name: str | None = None) -> Header:
    """Check a file without decoding its pixels, and return what it says of its picture.

    Finds: empty and foreign files, PNGs with a missing or damaged chunk, JPEGs without end marker, WebPs shorter than
    they say, pictures too small for a frame (16×16) or too large, and what `read_picture` refuses for its kind (CMYK,
    animation).

    Raises BrokenPicture: one of these.
    """
    data, label = _load(source, name)
    with _named(label):
        header = _header(data)
    if min(header.width, header.height) < MIN_SIDE:
        raise BrokenPicture(label, f"{header.width}×{header.height} is smaller than {MIN_SIDE}×{MIN_SIDE} pixels")
    return header


def read_picture(source: Path | str | bytes, name: str | None = None) -> Picture:
    """Decode a file, or the bytes of one, into uint8 RGB, H×W×3, C-contiguous; `name` is for messages. Raises
    BrokenPicture: the file is damaged or of a kind that is refused (table above); nothing is guessed."""
    data, label = _load(source, name)
    with _named(label):
        header = _header(data)
        picture = to_srgb(_to_rgb8(header.decode()), header.profile)
    picture = orient(picture, header.orientation)
    if picture.shape != (header.height, header.width, 3):
        raise BrokenPicture(label, f"decodes to {picture.shape[1]}×{picture.shape[0]}, header says otherwise")
    return picture


def read_png_samples(data: bytes, name: str) -> NDArray[Any]:
    """Return a PNG's samples as they are stored, alpha included: uint8 or uint16, H×W or H×W×C. Raises BrokenPicture: no
    PNG, or one of its checksums fails (PNG libraries pass over some)."""
    if not data.startswith(_PNG):
        raise BrokenPicture(name, "not a PNG")
    with _named(name):
        return _png(data).decode()


def orient(picture: Picture, orientation: int) -> Picture:
    """Turn and mirror a stored picture the way its EXIF orientation (1 … 8) asks for viewing."""
    if orientation >= 5:
        picture = picture.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    return np.ascontiguousarray(picture)


def _short(label: str, error: OSError | MemoryError) -> FoveaError:
    why = getattr(error, "strerror", None) or "no memory left"
    return FoveaError(
        f"{label}: {why}, which says nothing about the picture; run again, with fewer --threads if it happens again"
    )


class _Broken(Exception):
    """The reason alone; the public functions add the file's name."""


@contextlib.contextmanager
def _named(label: str) -> Iterator[None]:
    """Whatever goes wrong with a picture, as BrokenPicture; what this machine is short of, as FoveaError: a verdict on
    a picture is kept."""
    try:
        yield
    except _Broken as error:
        raise BrokenPicture(label, str(error)) from error
    except MemoryError as error:
        raise _short(label, error) from error
    except (OSError, SyntaxError, ValueError, RuntimeError, LookupError) as error:
        if isinstance(error, OSError) and error.errno in SHORTAGES:
            raise _short(label, error) from error
        raise BrokenPicture(label, f"can't be decoded: {str(error) or type(error).__name__}") from error


def read_file(path: Path, name: str | None = None) -> bytes:
    """A file's bytes. Raises BrokenPicture for one that can't be read, and for a pipe or device, which would wait for ever."""
    if "\0" in str(path):
        raise BrokenPicture(name or printable(path), "no file has such a name")
    try:
        if not path.is_file() and path.exists() and not path.is_dir():
            raise BrokenPicture(name or str(path), "is a pipe, socket or device, not a file")
        return path.read_bytes()
    except OSError as error:
        if error.errno in SHORTAGES:
            raise _short(name or str(path), error) from error
        raise BrokenPicture(name or str(path), f"can't be read: {error.strerror or error}") from error


def _load(source: Path | str | bytes, name: str | None) -> tuple[bytes, str]:
    if isinstance(source, bytes):
        return source, name or "picture"
    return read_file(Path(source), name), name or str(source)


def _header(data: bytes) -> Header:
    if not data:
        raise _Broken("the file is empty (0 bytes)")
    if data.startswith(_PNG):
        header = _png(data)._replace(format="png")
    else:
        kinds = [kind for kind, start in _STARTS.items() if re.match(start, data, re.DOTALL)]
        if not kinds:
            other = next((kind for kind, start in _OTHERS.items() if re.match(start, data, re.DOTALL)), "")
            if other:
                raise _Broken(f"{other}, which is not read: convert it to PNG")
            looks = "something else" if re.search(rb"[^\t\n\r\f\x20-\xff]", data[:512]) else "text"
            raise _Broken(f"not a PNG, JPEG, WebP or TIFF picture (the file begins like {looks})")
        header = _by_pillow(data, kinds[0])._replace(format=kinds[0].lower())
    if header.width * header.height > MAX_PIXELS:
        raise _Broken(f"{header.width}×{header.height} is more than {_MOST}")
    if header.orientation not in range(1, 9):
        header = header._replace(orientation=1)  # outside the standard: viewers show the picture as stored
    return header._replace(width=header.height, height=header.width) if header.orientation >= 5 else header


def _of_exif(exif: bytes, profile: bytes) -> tuple[int, bytes]:
    """Orientation, and the ICC profile: the picture's own, or else what EXIF says of its colours."""
    orientation, parsed = 1, Image.Exif()
    if not exif:
        return orientation, profile
    # damaged metadata is not damage of the picture
    with _quiet(), contextlib.suppress(*_DAMAGE):
        parsed.load(exif)
        if isinstance(value := parsed.get(ExifTags.Base.Orientation), int):
            orientation = value
        index = parsed.get_ifd(ExifTags.IFD.Interop).get(ExifTags.Interop.InteropIndex)
        space = parsed.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.ColorSpace)
        if not profile and str(index).startswith("R03") and space != _EXIF_SRGB:
            profile = codecs.cms_profile("adobergb")
    return orientation, profile


# ---- PNG


def _png(data: bytes) -> Header:
    """Every chunk's checksum is looked at: PNG libraries pass over some."""
    view, position = memoryview(data), len(_PNG)
    chunks: dict[bytes, list[memoryview]] = {}
    while b"IEND" not in chunks:
        cut = f"cut short: the PNG ends after {len(data)} bytes without its IEND chunk"
        if position + 12 > len(data):
            raise _Broken(cut)
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            raise _Broken(cut)
        if struct.pack(">I", codecs.deflate_crc32(view[position + 4 : end])) != data[end : end + 4]:
            name = kind.decode("ascii", "replace")
            raise _Broken(f"damaged: the PNG's {name} chunk at byte {position} fails its checksum")
        chunks.setdefault(kind, []).append(view[position + 8 : end])
        position = end + 4
    ihdr = bytes(chunks.get(b"IHDR", [b""])[0])
    if len(ihdr) != 13 or b"IDAT" not in chunks:
        raise _Broken("damaged: the PNG has no IHDR or no IDAT chunk")
    if b"acTL" in chunks:
        raise _Broken("an animated PNG: one file must be one picture")
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", ihdr)
    plain = depth == 8 and colour in _CHANNELS and not interlace and b"tRNS" not in chunks
    own = _png_profile(bytes(chunks.get(b"iCCP", [b""])[0]))
    return Header(
        width,
        height,
        *_of_exif(bytes(chunks.get(b"eXIf", [b""])[0]), own),
        lambda: _plain_png(ihdr, chunks[b"IDAT"]) if plain else codecs.png_decode(_bare_png(chunks)),
    )


def _png_profile(iccp: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(iccp.partition(b"\0")[2][1:], 1 << 24) if iccp else b""
    except zlib.error:
        return b""


def _bare_png(chunks: dict[bytes, list[memoryview]]) -> bytes:
    """Without metadata, which libpng prints warnings of."""
    kinds = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
    return _PNG + b"".join(png_chunk(kind, bytes(body)) for kind in kinds for body in chunks.get(kind, []))


def _plain_png(ihdr: bytes, idat: list[memoryview]) -> NDArray[Any]:
    width, height, _, colour = struct.unpack_from(">IIBB", ihdr)
    rows = _buffer("rows", height * (1 + width * _CHANNELS[colour]))
    try:
        inflated = codecs.deflate_decode(idat[0] if len(idat) == 1 else b"".join(idat), out=rows)
    except codecs.DeflateError as error:
        raise _Broken(f"damaged: the PNG's pixels don't inflate ({error})") from error
    if len(inflated) != len(rows):
        raise _Broken(f"damaged: the PNG holds {len(inflated)} bytes of rows, its size asks for {len(rows)}")
    png = _buffer("png", len(rows) + len(rows) // 1000 + 1024)  # a stored block of 64 KiB takes 5 bytes more
    length = len(codecs.deflate_encode(rows, level=0, out=png[41:-16]))
    start = _PNG + png_chunk(b"IHDR", ihdr) + struct.pack(">I4s", length, b"IDAT")
    png[:41] = np.frombuffer(start, np.uint8)
    crc = codecs.deflate_crc32(png[37 : 41 + length])
    end = struct.pack(">I", crc) + png_chunk(b"IEND", b"")
    png[41 + length : 57 + length] = np.frombuffer(end, np.uint8)
    decoded: NDArray[Any] = codecs.spng_decode(png[: 57 + length])
    return decoded


def _buffer(name: str, size: int) -> NDArray[np.uint8]:
    """Return `size` bytes of this thread's own memory: fresh pages for each picture would cost half as much again."""
    held: NDArray[np.uint8] | None = getattr(_scratch, name, None)
    if held is None or not size <= len(held) <= 4 * size:
        held = np.empty(size, np.uint8)
        setattr(_scratch, name, held)
    return held[:size]


# ---- JPEG, WebP, TIFF


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Pillow's warnings: they are of metadata. One thread at a time, since their filters belong to the whole
    process."""
    with _PILLOW, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _pillow(stream: io.BytesIO, kind: str) -> Iterator[Image.Image]:
    with _quiet(), Image.open(stream, formats=(kind,)) as image:
        yield image


def _by_pillow(data: bytes, kind: str) -> Header:
    if kind == "WEBP" and (declared := struct.unpack_from("<I", data, 4)[0] + 8) > len(data):
        raise _Broken(f"cut short: the WebP has {len(data)} of the {declared} bytes that it declares")
    if kind == "TIFF" and (plain := _plain_tiff(data)):
        return plain
    stream = io.BytesIO(data)
    try:
        with _pillow(stream, kind) as image:
            if image.mode not in _MODES:
                mode = {"LAB": "Lab", "F": "float"}.get(image.mode, image.mode)
                raise _Broken(f"pixels of kind {mode}: convert them to RGB with the profile they were made for")
            if kind == "JPEG":
                # opening it has read as far as the first scan: past a thumbnail, which has an end marker of its own
                end = data.find(b"\xff\xd9", stream.tell()) + 2
                if end < 2:
                    raise _Broken(f"cut short: the JPEG ends after {len(data)} bytes without its end marker")
                about = _of_exif(image.info.get("exif", b""), _profile(image))
                return Header(*image.size, *about, lambda: _jpeg_samples(data[:end]))
            if (pages := getattr(image, "n_frames", 1)) > 1:
                raise _Broken(f"{pages} pictures in one file: one file must be one picture")
            if isinstance(image, TiffImagePlugin.TiffImageFile):
                tags = dict(image.tag_v2)
                # Pillow's size is the one after orientation
                turned = tags.get(274, 1)

                def decode() -> NDArray[Any]:
                    # Pillow turns TIFFs while loading them: back to how they are stored, the caller turns all formats alike
                    return orient(_samples(data, "TIFF"), {6: 8, 8: 6}.get(turned, turned))

                return Header(tags[256], tags[257], turned, _profile(image), decode)
            about = _of_exif(image.info.get("exif", b""), _profile(image))
            return Header(*image.size, *about, lambda: _samples(data, kind))
    except UnidentifiedImageError as error:
        raise _Broken(
            f"damaged, cut short, or a rare kind of {kind} that is not read: save it as an RGB PNG"
        ) from error
    except Image.DecompressionBombError as error:
        raise _Broken(f"is more than {_MOST}") from error
    except _DAMAGE as error:
        raise _Broken(f"damaged or cut short: {str(error) or type(error).__name__}") from error


def _profile(image: Image.Image) -> bytes:
    found = image.info.get("icc_profile")
    return found if isinstance(found, bytes) else b""


def _jpeg_samples(data: bytes) -> NDArray[Any]:
    """data: up to its end marker."""
    decoded: NDArray[Any] = codecs.jpeg8_decode(data)
    corner = decoded[-4:, -8:].reshape(-1, 3 if decoded.ndim == 3 else 1)
    # Where data are missing inside, libjpeg goes on in one flat colour to the end without an error. So does many a sky or
    # border.
    if (corner == corner[0]).all() and _ends_early(data):
        raise _Broken("damaged: the JPEG's data end before its pixels do")
    return decoded


def _ends_early(data: bytes) -> bool:
    """Whether a JPEG's scans hold less than its pixels. Two decoders have to agree: the strict parser of JPEG XL's lossless
    transcoding, which knows no 4:1:1, and Pillow, which wants more where neither pixels nor data have ended."""
    head, frame = [data[:2]], b""
    at = 2
    while data[at + 1] != 0xDA:  # up to the first scan
        start = data.index(b"\xff", at)
        marker, end = data[start + 1], start + 2 + int.from_bytes(data[start + 2 : start + 4])
        if marker == 0xFF:  # a fill byte
            at = start + 1
            continue
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE):  # metadata and comments
            head.append(data[start:end])
        if marker in (0xC0, 0xC1, 0xC2):
            frame = data[start:end]
        at = end
    bare = b"".join(head) + data[at:]
    try:
        codecs.jpegxl_encode_jpeg(bare)
    except codecs.JpegxlError:
        if frame[1:2] == b"\xc2":  # progressive: Pillow waits for the end marker
            return all(factors >> 4 <= 2 and factors & 15 <= 2 for factors in frame[11::3])
        try:
            with _pillow(io.BytesIO(bare[:-2] + bytes(8)), "JPEG") as image:  # what a decoder reads ahead
                image.load()
        except OSError:
            return True
    return False


def _samples(data: bytes, kind: str) -> NDArray[Any]:
    with _pillow(io.BytesIO(data), kind) as image:
        return np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))


def _plain_tiff(data: bytes) -> Header | None:
    """One page of grey or RGB, 8 or 16 bits a sample; None for others. Not by Pillow, which knows few layouts of bands and
    cuts 16 bits to 8 in its own way, and for which libtiff prints."""
    stream = io.BytesIO(data)
    try:
        with _quiet():
            tags = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if data[2:4] in (b"+\0", b"\0+") else 8])  # BigTIFF
            stream.seek(tags.next)
            tags.load(stream)
            first = {tag: int(np.ravel(tags.get(tag, 1))[0]) for tag in (256, 257, 258, 262, 274, 284, 338, 339)}
            profile = tags.get(34675, b"")
    except _DAMAGE:
        return None
    width, height, bits, photometric, turned, planes, extra, kind = first.values()
    if tags.next or {256, 257, 262} - set(tags) or bits not in (8, 16) or photometric > 2 or kind != 1:
        return None

    def decode() -> NDArray[Any]:
        samples: NDArray[Any] = codecs.tiff_decode(data)
        if samples.ndim == 3 and planes == 2:  # one for each band
            samples = np.moveaxis(samples, 0, -1)
        if photometric == 0:
            samples = np.iinfo(samples.dtype).max - samples
        kept = (3 if photometric == 2 else 1) + (338 in tags and extra in (1, 2))
        return samples if samples.ndim == 2 else samples[..., :kept]

    return Header(width, height, turned, profile if isinstance(profile, bytes) else b"", decode)


# ---- samples → uint8 RGB


def _to_rgb8(samples: NDArray[Any]) -> Picture:
    if samples.dtype not in (np.uint8, np.uint16):
        raise _Broken(f"samples of type {samples.dtype}: convert it to 8 bits")
    if samples.ndim == 2:
        samples = samples[..., None]
    if samples.ndim != 3 or samples.shape[2] not in (1, 2, 3, 4):
        raise _Broken(f"pixels of shape {samples.shape}: convert it to RGB")
    if samples.shape[2] in (2, 4):
        if not (samples[..., -1] == np.iinfo(samples.dtype).max).all():
            raise _Broken("has transparent pixels: put it on a background, or save it without alpha")
        samples = samples[..., :-1]
    if samples.dtype == np.uint16:
        samples = ((samples.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    if samples.shape[2] == 1:
        samples = np.repeat(samples, 3, axis=2)
    return np.ascontiguousarray(samples)
