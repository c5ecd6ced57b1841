"""Every kind of picture file becomes the right RGB, or is refused with its name and the reason."""

import errno
import io
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms

from assets.frames import decode
from assets.frames.decode import BrokenPicture, read_header, read_picture
from assets.frames.encode import encode_png, png_chunk
from models.errors import FoveaError


def noise(height: int = 40, width: int = 60, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(height: int = 96, width: int = 128) -> NDArray[np.uint8]:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack((x * 255 / width, y * 255 / height, (x + y) % 97 + 60), axis=-1).astype(np.uint8)


def saved(picture: NDArray[np.uint8] | Image.Image, kind: str, **options: object) -> bytes:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(width: int, height: int, *idat: bytes, interlace: int = 0) -> bytes:
    """An RGB PNG with these IDAT chunks."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, interlace)
    data = b"".join(png_chunk(b"IDAT", piece) for piece in idat)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + data + png_chunk(b"IEND", b"")


# ---- what becomes RGB


def unfiltered(picture: NDArray[np.uint8]) -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in np.ascontiguousarray(picture))


def small_chunks(picture: NDArray[np.uint8]) -> bytes:
    body = zlib.compress(unfiltered(picture))
    height, width, _ = picture.shape
    return png(width, height, *(body[k : k + 100] for k in range(0, len(body), 100)))


def interlaced(picture: NDArray[np.uint8]) -> bytes:
    """Adam7: seven passes."""
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    rows = b"".join(unfiltered(picture[y::dy, x::dx]) for x, y, dx, dy in passes)
    return png(picture.shape[1], picture.shape[0], zlib.compress(rows), interlace=1)


def pillow(picture: NDArray[np.uint8]) -> bytes:
    return saved(picture, "PNG", compress_level=9)


@pytest.mark.parametrize("write", [encode_png, small_chunks, interlaced, pillow])
@pytest.mark.parametrize(
    ("height", "width"),
    # several stored blocks; rows of 65533, 65536 and 65539 bytes: around a stored block's 65535
    [(40, 60), (300, 200), (16, 21844), (16, 21845), (16, 21846)],
)
def test_a_png_is_exact(write: Callable[[NDArray[np.uint8]], bytes], height: int, width: int) -> None:
    picture = noise(height, width)
    assert np.array_equal(read_picture(write(picture)), picture)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_and_bilevel_and_palette(kind: str) -> None:
    grey = noise(channels=1)
    assert np.array_equal(read_picture(saved(grey, kind)), np.repeat(grey[..., None], 3, axis=2))
    bilevel = grey > 127
    expected = np.repeat((bilevel * np.uint8(255))[..., None], 3, axis=2)
    assert np.array_equal(read_picture(saved(Image.fromarray(bilevel), kind)), expected)
    palette = Image.fromarray(smooth()).quantize(16)
    assert np.array_equal(read_picture(saved(palette, kind)), np.asarray(palette.convert("RGB")))


def test_grey_jpeg_and_webp() -> None:
    grey = smooth()[..., 0]
    decoded = read_picture(saved(grey, "JPEG", quality=95))
    assert decoded.shape == (96, 128, 3) and (decoded == decoded[..., :1]).all()
    picture = smooth()
    assert np.array_equal(read_picture(saved(picture, "WEBP", lossless=True)), picture)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_are_rounded_from_257ths(suffix: str, channels: int) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(128, 512)
    picture = values if channels == 1 else np.dstack((values, values[::-1], values.T.reshape(128, 512)))
    done, data = cv2.imencode(suffix, picture if channels == 1 else picture[..., ::-1])
    assert done
    expected = np.round(picture / 257.0).astype(np.uint8)
    expected = np.repeat(expected[..., None], 3, axis=2) if channels == 1 else expected
    assert np.array_equal(read_picture(data.tobytes()), expected)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_opaque_alpha_is_dropped_and_transparency_refused(kind: str) -> None:
    pixels = noise(channels=4)
    pixels[..., 3] = 255
    options = {"lossless": True} if kind == "WEBP" else {}
    assert np.array_equal(read_picture(saved(pixels, kind, **options)), pixels[..., :3])
    pixels[3, 7, 3] = 254
    with pytest.raises(BrokenPicture, match=r"holiday\.png: has transparent pixels"):
        read_picture(saved(pixels, kind, **options), "holiday.png")


def test_transparent_colours_and_grey_with_alpha_follow_the_rule_of_alpha() -> None:
    image = Image.fromarray(smooth()).quantize(8)
    with pytest.raises(BrokenPicture, match="transparent"):
        read_picture(saved(image, "PNG", transparency=0))
    samples = np.dstack((noise(20, 20, 1), np.full((20, 20), 255, np.uint8)))
    grey = saved(Image.fromarray(samples, "LA"), "PNG")
    assert (read_picture(grey) == samples[..., :1]).all()
    samples[3, 3, 1] = 7
    with pytest.raises(BrokenPicture, match="transparent pixels"):
        read_picture(saved(Image.fromarray(samples, "LA"), "PNG"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    stored = smooth(48, 80)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    data = saved(stored, kind, exif=exif.tobytes() if kind != "TIFF" else exif, **options)
    # What "turned 90° clockwise" means, spelt out independently of orient().
    turned = {
        1: stored, 2: np.fliplr(stored), 3: np.rot90(stored, 2), 4: np.flipud(stored),
        5: np.rot90(np.fliplr(stored), 1), 6: np.rot90(stored, -1), 7: np.rot90(np.fliplr(stored), -1), 8: np.rot90(stored, 1),
    }[orientation]  # fmt: skip
    header, picture = read_header(data), read_picture(data)
    assert (header.height, header.width) == turned.shape[:2] == picture.shape[:2]
    assert np.abs(picture.astype(int) - turned).max() <= (6 if kind == "JPEG" else 0) and picture.flags.c_contiguous


def test_a_jpeg_named_png_is_read_by_its_content(tmp_path: Path) -> None:
    file = tmp_path / "wrong.png"
    file.write_bytes(saved(smooth(), "JPEG"))
    assert read_header(file).format == "jpeg" and read_picture(file).shape == (96, 128, 3)


# ---- what is refused, by name


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("empty.png", b"", "empty"),
        ("notes.png", b"This is no picture, but my notes.\n", "not a PNG.*text"),
        ("noise.jpg", bytes(range(256)), "not a PNG"),
        ("ink.jpg", saved(Image.fromarray(smooth()).convert("CMYK"), "JPEG"), "CMYK"),
        ("ink.tiff", saved(Image.fromarray(smooth()).convert("CMYK"), "TIFF"), "CMYK"),
        ("lab.tiff", saved(Image.fromarray(smooth()).convert("LAB"), "TIFF"), "Lab"),
        ("float.tiff", saved(Image.fromarray(smooth()[..., 0].astype(np.float32)), "TIFF"), "float"),
        ("pages.tiff", saved(smooth(), "TIFF", save_all=True, append_images=[Image.fromarray(noise())]), "2 pictures"),
        ("film.webp", saved(smooth(), "WEBP", save_all=True, append_images=[Image.fromarray(noise(96, 128))]), "2 pictures"),
        ("film.png", saved(smooth(), "PNG", save_all=True, append_images=[Image.fromarray(noise(96, 128))]), "animated"),
        ("gif.png", saved(smooth(), "GIF"), "a GIF, which is not read: convert it to PNG"),
        ("bmp.png", saved(smooth(), "BMP"), "a BMP, which"),
        ("jp2.png", saved(smooth(), "JPEG2000"), "a JPEG 2000, which"),
        ("avif.jpg", saved(smooth(), "AVIF"), "an AVIF picture, which"),
        ("phone.jpg", b"\0\0\0\x24ftypheic\0\0\0\0mif1heic", "a HEIC picture, which"),
        ("scan.jpg", b"%PDF-1.7\n", "a PDF, which"),
    ],
)  # fmt: skip
def test_bad_files_are_refused_by_name(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    file = tmp_path / name
    file.write_bytes(data)
    for read in (read_header, read_picture):
        with pytest.raises(BrokenPicture, match=reason) as caught:
            read(file)
        assert name in str(caught.value) and isinstance(caught.value, FoveaError)


def test_a_picture_that_is_too_small_for_a_frame_is_a_picture_all_the_same() -> None:
    tiny, flat = saved(noise(1, 1), "PNG"), saved(noise(15, 400), "JPEG")
    for data, said in ((tiny, "1×1 is smaller than 16×16"), (flat, "400×15 is smaller")):
        with pytest.raises(BrokenPicture, match=said):
            read_header(data)
        assert min(read_picture(data).shape[:2]) in (1, 15)


def test_a_huge_picture_is_refused_before_it_is_decoded_and_one_that_its_rows_do_not_fill() -> None:
    for side, said in ((60_000, "is more than 89 megapixels"), (9460, "is more than 89 megapixels: make it smaller")):
        with pytest.raises(BrokenPicture, match=f"{side}×{side} {said}"):
            read_picture(png(side, side, zlib.compress(b"")))
    for width, height in ((9459, 9459), (70_000, 1278)):
        assert read_header(png(width, height, zlib.compress(b"")))[:2] == (width, height)
    with pytest.raises(BrokenPicture, match="damaged"):
        read_picture(png(40, 40, zlib.compress(bytes(39 * 121))))


@pytest.mark.parametrize(("kind", "options"), [(k, {}) for k in ("PNG", "JPEG", "WEBP", "TIFF")] + [("TIFF", {"big_tiff": True})])  # fmt: skip
def test_a_file_cut_short_anywhere_is_refused(kind: str, options: dict[str, bool]) -> None:
    data = saved(smooth(), kind, **options)
    assert read_picture(data).shape == smooth().shape
    for part in (*range(20), *np.linspace(20, len(data) - 2, 40).astype(int)):
        with pytest.raises(BrokenPicture):
            read_picture(data[:part])


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_file_cut_short_is_found_without_decoding(kind: str) -> None:
    data = saved(smooth(), kind)
    with pytest.raises(BrokenPicture, match="cut short"):
        read_header(data[: len(data) * 2 // 3], "half")


@settings(max_examples=60)
@given(st.data())
def test_a_png_with_one_flipped_bit_never_gives_a_wrong_picture(data: st.DataObject) -> None:
    picture = smooth(32, 40)
    file = bytearray(saved(picture, "PNG"))
    at = data.draw(st.integers(0, len(file) - 1))
    file[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(BrokenPicture):
        read_picture(bytes(file))


def test_a_jpeg_with_a_hole_does_not_end_in_grey() -> None:
    rng = np.random.default_rng(1)
    picture = cv2.resize(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8), (640, 480), interpolation=cv2.INTER_CUBIC)
    data = saved(picture, "JPEG", quality=90)
    holed = data[: len(data) // 2] + data[-2:]
    assert imagecodecs.jpeg8_decode(holed).shape == picture.shape  # libjpeg itself is content
    with pytest.raises(BrokenPicture, match="end before"):
        read_picture(holed)
    flat = smooth()
    flat[60:] = 200
    assert read_picture(saved(flat, "JPEG")).shape == flat.shape  # a flat corner is no hole


def half_flat() -> NDArray[np.uint8]:
    """Its lower half is one colour, so that what is missing there can't be told from what is there by looking."""
    picture = smooth()
    picture[48:] = 90
    return picture


def flat_jpeg(**options: object) -> bytes:
    return saved(half_flat(), "JPEG", quality=90, **options)


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def patched(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def sampled(factors: int) -> bytes:
    return cv2.imencode(".jpg", half_flat(), [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factors])[1].tobytes()


SOUND_JPEGS = {
    "4:1:1": sampled(cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411),
    "4:4:0": sampled(cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440),
    "a motion photo's video": flat_jpeg() + b"\0\0\0\x18ftypmp42" + bytes(3000),
    "a second end marker": flat_jpeg() + b"x\xff\xd9",
    "unknown intent": flat_jpeg(icc_profile=patched(SRGB, 64, b"\0\0\0\x09")),
    "profile of version 5": flat_jpeg(icc_profile=patched(SRGB, 8, b"\5")),
    "profile cut short": flat_jpeg(icc_profile=SRGB[:100]),
    "profile in chunks": flat_jpeg(icc_profile=SRGB + bytes(70_000)),
    "no profile at all": flat_jpeg(icc_profile=b"hello"),
    "fill bytes": b"\xff\xd8\xff\xff" + flat_jpeg()[2:],
    "progressive": flat_jpeg(progressive=True, icc_profile=b"hello"),
}  # fmt: skip


@pytest.mark.parametrize("name", SOUND_JPEGS)
def test_a_sound_jpeg_is_not_damaged_for_its_metadata(name: str) -> None:
    assert read_picture(SOUND_JPEGS[name]).shape == (96, 128, 3)


@pytest.mark.parametrize("name", ["4:1:1", "4:4:0", "unknown intent", "progressive"])
def test_a_hole_is_found_whatever_the_metadata(name: str) -> None:
    data = SOUND_JPEGS[name]
    scan = data.rindex(b"\xff\xda")
    with pytest.raises(BrokenPicture, match="end before"):
        read_picture(data[: scan + (len(data) - scan) // 3].rstrip(b"\xff") + b"\xff\xd9")


def tiff(bands: NDArray[Any], *, planar: bool = False, extra: tuple[int, ...] = (), odd: bool = False) -> bytes:
    """Uncompressed RGB with further bands, in one plane or several; odd: metadata that libraries warn of."""
    height, width, count = bands.shape
    planes = [bands[..., k] for k in range(count)] if planar else [bands]
    sizes = [plane.nbytes for plane in planes]

    def entries(offsets: list[int]) -> bytes:
        tags: list[tuple[int, str, list[int]]] = [
            (256, "I", [width]), (257, "I", [height]), (258, "H", [8 * bands.itemsize] * count), (259, "H", [1]),
            (262, "H", [2]), (273, "I", offsets), *([(274, "H", [1, 1])] if odd else []), (277, "H", [count]),
            (278, "I", [height]), (279, "I", sizes), (284, "H", [2 if planar else 1]),
            *([(338, "H", list(extra))] if extra else []), *([(34665, "I", [10**7]), (50000, "I", [7])] if odd else []),
        ]  # fmt: skip
        place, body, rows = 8 + 2 + 12 * len(tags) + 4, b"", b""
        for tag, kind, values in tags:
            value = struct.pack(f"<{len(values)}{kind}", *values)
            if len(value) > 4:
                value, body = struct.pack("<I", place + len(body)), body + value
            rows += struct.pack("<HHI", tag, 3 if kind == "H" else 4, len(values)) + value.ljust(4, b"\0")
        return b"II*\0" + struct.pack("<IH", 8, len(tags)) + rows + bytes(4) + body

    start = len(entries([0] * len(planes)))
    head = entries([start + sum(sizes[:k]) for k in range(len(planes))])
    return head + b"".join(np.ascontiguousarray(plane).tobytes() for plane in planes)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("extra", [None, (), (0,), (0, 0)])
def test_tiffs_with_odd_bands_and_metadata(deep: bool, planar: bool, extra: tuple[int, ...] | None) -> None:
    picture = smooth()
    bands = [picture] if extra is None else [picture, *(noise(96, 128, 1, k) for k in range(len(extra) or 1))]
    samples: NDArray[Any] = np.dstack(bands)
    if deep:
        samples = samples.astype(np.uint16) * 257
    data = tiff(samples, planar=planar, extra=extra or (), odd=True)
    np.testing.assert_array_equal(read_picture(data), picture)
    if extra == (0,):
        with pytest.raises(BrokenPicture, match="transparent"):
            read_picture(tiff(samples, planar=planar, extra=(2,)))


def test_no_library_writes_to_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    packed = bytearray(saved(smooth(), "TIFF", compression="tiff_deflate"))
    packed[60:90] = bytes(30)
    for data in (bytes(packed), tiff(smooth(), odd=True)[:-900]):
        with pytest.raises(BrokenPicture, match="can't be decoded"):
            read_picture(data)
    for picture in (Image.fromarray(smooth()).convert("P"), Image.fromarray(noise(40, 60, 1))):
        read_picture(saved(picture, "PNG", icc_profile=SRGB[:150]))
    assert capfd.readouterr().err == ""


def matrix_profile(red: tuple[float, ...], green: tuple[float, ...], blue: tuple[float, ...]) -> bytes:
    """An ICC profile of these colourants (XYZ under D50) and gamma 2.2."""

    def fixed(*values: float) -> bytes:
        return struct.pack(f">{len(values)}i", *(round(v * 65536) for v in values))

    white = (0.9642, 1.0, 0.8249)
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 2) + b"x\0" + bytes(80),
        b"cprt": b"text" + bytes(4) + b"none\0",
        **{name: b"XYZ " + bytes(4) + fixed(*xyz) for name, xyz in
           ((b"wtpt", white), (b"rXYZ", red), (b"gXYZ", green), (b"bXYZ", blue))},
        **{name: b"curv" + bytes(4) + struct.pack(">IH", 1, round(2.2 * 256)) for name in (b"rTRC", b"gTRC", b"bTRC")},
    }  # fmt: skip
    table, body = struct.pack(">I", len(tags)), b""
    for name, value in tags.items():
        table += name + struct.pack(">II", 128 + 4 + 12 * len(tags) + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    head = struct.pack(">I4sI4s4s4s", 132 + 12 * len(tags) + len(body), b"lcms", 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + fixed(*white)
    return head.ljust(128, b"\0") + table + body


P3 = (0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407)
SRGB_D50 = (0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.7141)
SKIN = (180, 110, 90)
LOSSLESS = {"WEBP": {"lossless": True, "quality": 100}, "JPEG": {"quality": 100}}


def in_srgb(colourants: tuple[tuple[float, ...], ...]) -> NDArray[np.float64]:
    """What SKIN under these colourants and gamma 2.2 is in sRGB."""
    linear = np.linalg.solve(np.array(SRGB_D50).T, np.array(colourants).T @ (np.array(SKIN) / 255) ** 2.2)
    return 255 * np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_colours_of_a_wider_profile_become_srgb(kind: str) -> None:
    picture, options = np.full((32, 32, 3), SKIN, np.uint8), LOSSLESS.get(kind, {})
    shown = read_picture(saved(picture, kind, icc_profile=matrix_profile(*P3), **options))
    expected = in_srgb(P3)
    assert np.abs(shown - expected).max() < 3 and shown[0, 0, 0] > 190
    for profile in (SRGB, b"", SRGB[:90], matrix_profile(*P3)[:150], patched(matrix_profile(*P3), 16, b"CMYK")):
        same = read_picture(saved(picture, kind, icc_profile=profile, **options))
        assert np.abs(same.astype(int) - picture).max() <= (2 if kind == "JPEG" else 0)


def camera_exif(space: int, index: str) -> Image.Exif:
    """As cameras name their colour space without a profile, by DCF 2.0."""
    exif, interop = Image.Exif(), {ExifTags.Interop.InteropIndex: index}
    exif[ExifTags.Base.Orientation] = 3
    exif.get_ifd(ExifTags.IFD.Exif).update({ExifTags.Base.ColorSpace: space, ExifTags.IFD.Interop: interop})
    return exif


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_adobe_rgb_known_by_exif_alone_becomes_srgb(kind: str) -> None:
    picture, options = np.full((32, 32, 3), SKIN, np.uint8), LOSSLESS.get(kind, {})
    adobe = (0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)  # its ICC colourants

    def shown(space: int, index: str, **more: object) -> NDArray[Any]:
        return read_picture(saved(picture, kind, exif=camera_exif(space, index).tobytes(), **options, **more))

    expected = in_srgb(adobe)
    assert np.abs(shown(0xFFFF, "R03") - expected).max() < 3 and expected[0] > 200
    for same in (shown(0xFFFF, "R98"), shown(1, "R03"), shown(0xFFFF, "R03", icc_profile=SRGB)):
        assert np.abs(same.astype(int) - picture).max() <= (2 if kind == "JPEG" else 0)


def test_what_exif_says_before_it_is_damaged_stands() -> None:
    exif = camera_exif(0xFFFF, "R03").tobytes()
    assert read_header(saved(smooth(), "JPEG", exif=exif[:40])).orientation == 3


def test_a_grey_profile_is_for_grey_pictures() -> None:
    grey = bytearray(matrix_profile(*P3).replace(b"rTRC", b"kTRC"))
    grey[16:20] = b"GRAY"
    struct.pack_into(">H", grey, grey.rindex(b"curv") + 12, 256)  # blue's is not read
    linear = bytes(grey).replace(struct.pack(">IH", 1, round(2.2 * 256)), struct.pack(">IH", 1, 256))
    shown = read_picture(saved(np.full((32, 32), 55, np.uint8), "PNG", icc_profile=linear))
    assert (shown == shown[..., :1]).all() and abs(int(shown[0, 0, 0]) - 128) < 3  # 0.216 of the light
    picture = smooth()
    np.testing.assert_array_equal(read_picture(saved(picture, "PNG", icc_profile=linear)), picture)


def test_a_thumbnails_end_marker_is_not_the_pictures() -> None:
    data = saved(smooth(), "JPEG")
    thumbnail = saved(noise(20, 20), "JPEG")
    app1 = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    whole = data[:2] + app1 + data[2:]
    assert read_picture(whole).shape == (96, 128, 3)
    with pytest.raises(BrokenPicture, match="cut short"):
        read_picture(whole[: len(app1) + 200])


def test_the_error_survives_a_process_boundary() -> None:
    error = pickle.loads(pickle.dumps(BrokenPicture("a.png", "cut short")))
    assert (error.name, error.reason, str(error)) == ("a.png", "cut short", "a.png: cut short")


# ---- the PNG writer


SHAPES = st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(1, 4))


@settings(max_examples=40)
@given(hnp.arrays(np.uint8, SHAPES), st.integers(1, 6))
def test_encoded_png_is_read_back_by_pillow(pixels: NDArray[np.uint8], level: int) -> None:
    image = Image.open(io.BytesIO(encode_png(pixels, level)))
    assert np.array_equal(np.asarray(image).reshape(pixels.shape), pixels)


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.EMFILE, "Too many open files")])
def test_what_the_machine_is_short_of_is_no_verdict_on_a_picture(
    error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data, short = saved(noise(), "PNG"), mock.Mock(side_effect=error)
    monkeypatch.setattr(decode, "_to_rgb8", short)
    with pytest.raises(FoveaError, match=r"a\.png: .*says nothing about the picture") as caught:
        read_picture(data, "a.png")
    assert not isinstance(caught.value, BrokenPicture)
    if isinstance(error, OSError):
        (tmp_path / "a.png").write_bytes(data)
        monkeypatch.setattr(Path, "read_bytes", short)
        with pytest.raises(FoveaError, match="says nothing about the picture") as caught:
            decode.read_file(tmp_path / "a.png")
        assert not isinstance(caught.value, BrokenPicture)
