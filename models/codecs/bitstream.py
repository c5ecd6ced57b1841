"""The `.fov` container: what stands around the entropy coder's strings.

    "FOV" | version 1 byte | codec 1 | model 8 | width − 1, height − 1, level: varints | number of strings 1
    | length of each string but the last: varints | strings | CRC-32 of all before: 4 bytes, little-endian

About 25 bytes for a picture of ordinary size. A progressive file has version 2, and its last string in pieces, so that any
beginning of it can be read and checked:

    … | length of each string but the last, of the part of the last that is here, and of the rest: varints
    | strings but the last | CRC-32 of all before | the last string: PIECE bytes and 2 of the CRC-32 of all bytes of the file
    before that are no checksums, again and again

A file that ends before its last string does was cut short, and is read as far as it goes; the bytes after its last checksum
are unchecked. `cut` makes a file that says how long it is, and is checked to its end; what was unchecked is not in it.

A varint has 7 bits a byte, low bits first, the high bit set on all but
its last byte, at most five bytes. The parser takes bytes from anybody: whatever they are, it returns or raises
BitstreamError, and allocates no more than the file's own length.
"""

import io
import zlib
from collections.abc import Iterable
from typing import NamedTuple

from models.errors import FoveaError

MAGIC = b"FOV"
VERSION, PROGRESSIVE = 1, 2
PIECE = 512
WORD = 4
"""Bytes that the range coder writes at once."""
MODEL_BYTES = 8
MAX_SIDE = 1 << 16
MAX_PIXELS = 1 << 26
"""Largest picture of a file: 67 megapixels, for example 8192×8192."""

POSITIONS_A_BIT = 64
"""Latent positions for which a file holds at least one bit of coded symbols; encoders pad with zeros where a picture
is so flat that it takes less. Without this a file of a few bytes could ask for the memory of the largest picture."""

CODEC_NUMBERS = {
    "bls2017": 1,
    "bmshj2018_factorized": 2,
    "bmshj2018_hyperprior": 3,
    "mbt2018_mean": 4,
    "cheng2020_anchor": 5,
    "agustsson2019": 6,
    "toderici2017": 7,
    "light": 8,
}
"""Part of the format: a number is never given twice. 0: a codec of the user's own, told by its model alone."""

OWN = "a codec of one's own"
"""Name of the codecs with number 0 in a parsed file."""


class BitstreamError(FoveaError):
    """A file that is no Fovea file, damaged, from a later version, or made by another model."""


class Contents(NamedTuple):
    """A parsed file. model: the first 8 bytes of the codec's identity. level: in steps of 1/LEVEL_STEPS. total: of a
    progressive file, how many bytes its last string had before it was cut; `strings` has those that are here."""

    codec: str
    model: bytes
    width: int
    height: int
    level: int
    strings: tuple[bytes, ...]
    total: int | None = None

    def whole(self) -> int:
        """How many bytes the file has when nothing is cut off."""
        if self.total is None:
            return len(pack(self))
        # by its length: the last string may have been far longer than what is here
        least = len(pack(self._replace(strings=(*self.strings[:-1], b""), total=0)))
        return least - 1 + len(write_varints([self.total])) + self.total + 2 * -(-self.total // PIECE)


def write_varints(values: Iterable[int]) -> bytes:
    """Non-negative integers below 2^35."""
    out = bytearray()
    for value in values:
        while value > 127:
            out.append(value & 127 | 128)
            value >>= 7
        out.append(value)
    return bytes(out)


def read_varints(data: bytes, count: int) -> list[int]:
    """Exactly `count` integers that fill `data`. Raises BitstreamError otherwise."""
    file = io.BytesIO(data)
    values = [_varint(file) for _ in range(count)]
    if file.read(1):
        raise BitstreamError("damaged file: a string has bytes left over")
    return values


def _varint(file: io.BytesIO) -> int:
    value = 0
    for shift in range(0, 35, 7):
        byte = file.read(1)
        if not byte:
            raise BitstreamError("damaged file: it ends within a number")
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return value
    raise BitstreamError("damaged file: a number does not end")


def check_size(width: int, height: int) -> None:
    """Raises FoveaError for a picture that is too large for the format."""
    if not _fits(width, height):
        raise FoveaError(
            f"{width}×{height} is too large for a .fov file, which has at most {MAX_PIXELS} pixels and sides of "
            f"{MAX_SIDE}: make it smaller, or cut it in parts"
        )


def _fits(width: int, height: int) -> bool:
    return 1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE and width * height <= MAX_PIXELS


def pack(contents: Contents) -> bytes:
    """The file's bytes."""
    check_size(contents.width, contents.height)
    version = VERSION if contents.total is None else PROGRESSIVE
    head = MAGIC + bytes([version, CODEC_NUMBERS.get(contents.codec, 0)]) + contents.model[:MODEL_BYTES]
    head += write_varints([contents.width - 1, contents.height - 1, contents.level])
    head += bytes([len(contents.strings)]) + write_varints(len(s) for s in contents.strings[:-1])
    last = contents.strings[-1]
    if contents.total is None:
        return _sealed(head + b"".join(contents.strings))
    head += write_varints([len(last), contents.total - len(last)]) + b"".join(contents.strings[:-1])
    out, crc = bytearray(_sealed(head)), zlib.crc32(head)
    for at in range(0, len(last), PIECE):
        piece = last[at : at + PIECE]
        crc = zlib.crc32(piece, crc)
        out += piece + (crc & 0xFFFF).to_bytes(2, "little")
    return bytes(out)


def _sealed(body: bytes) -> bytes:
    return body + zlib.crc32(body).to_bytes(4, "little")


def unpack(data: bytes) -> Contents:
    """Raises BitstreamError, saying what is wrong."""
    if _is_progressive(data):
        return _begun(data, len(data)).contents
    body = data[:-4]
    if zlib.crc32(body) != int.from_bytes(data[-4:], "little"):
        raise BitstreamError("damaged file: cut short or changed, the checksum does not match")
    file = io.BytesIO(body)
    contents, lengths = _head(file)
    if file.tell() + sum(lengths) > len(body):
        raise BitstreamError("damaged file: its strings are longer than the file")
    return contents._replace(strings=(*map(file.read, lengths), file.read()))


def _is_progressive(data: bytes) -> bool:
    """Raises BitstreamError for what is no Fovea file, or none that this Fovea reads."""
    if data[:3] != MAGIC:
        raise BitstreamError("not a Fovea file: it does not start with FOV")
    if len(data) < 4:
        raise BitstreamError("damaged file: cut short after the first bytes")
    if data[3] not in (VERSION, PROGRESSIVE):
        raise BitstreamError(
            f"the file has format version {data[3]}, this Fovea reads versions {VERSION} and {PROGRESSIVE}: "
            "use the release that wrote it, or a later one"
        )
    if len(data) < 3 + 2 + MODEL_BYTES + 3 + 1 + 4:
        raise BitstreamError("damaged file: cut short within its header")
    return data[3] == PROGRESSIVE


class _Begun(NamedTuple):
    """A progressive file. least: how many bytes any picture needs. known: how many are not known to be wrong. checked: how
    many bytes of the last string have a right checksum behind them."""

    contents: Contents
    least: int
    known: int
    checked: int


def _begun(data: bytes, size: int) -> _Begun:
    """size: how many bytes of the file must be right. A piece that lies across their end and is wrong is left out, with all
    that follows. Raises BitstreamError as `unpack`."""
    file = io.BytesIO(data)
    contents, lengths = _head(file)
    here, missing = _varint(file), _varint(file)
    end = file.tell() + sum(lengths)
    if len(data) < end + 4:
        raise BitstreamError(
            f"damaged file, or cut too short for a picture: it has {len(data)} of the {end + 4} bytes that any needs"
        )
    crc = zlib.crc32(data[:end])
    if crc != int.from_bytes(data[end : end + 4], "little"):
        raise BitstreamError("damaged file: its beginning was changed, the checksum does not match")
    length = end + 4 + here + 2 * -(-here // PIECE)
    known = min(length, len(data))
    last, checked = bytearray(), 0
    for at in range(end + 4, known, PIECE + 2):
        sealed = at + min(PIECE, here - len(last))
        piece, seal = data[at:sealed], data[sealed : sealed + 2]
        crc = zlib.crc32(piece, crc)
        if len(seal) == 2 and crc & 0xFFFF != int.from_bytes(seal, "little"):
            if sealed + 2 <= size:
                raise BitstreamError(
                    f"damaged file: changed among its bytes {at} to {sealed + 2}, the checksum does not match; the first "
                    f"{at} are whole (fovea decompress --bytes {at})"
                )
            known = at
            break
        last += piece
        checked = len(last) if len(seal) == 2 else checked
    if length < min(size, len(data)):
        raise BitstreamError(f"damaged file: bytes are left over at its end, behind the first {length}")
    contents = contents._replace(strings=(*map(file.read, lengths), bytes(last)), total=here + missing)
    return _Begun(contents, end + 4, known, checked)


def _head(file: io.BytesIO) -> tuple[Contents, list[int]]:
    """What stands before the strings, read, and the length of each string but the last."""
    names = {0: OWN, **{number: name for name, number in CODEC_NUMBERS.items()}}
    number, model = file.read(5)[4], file.read(MODEL_BYTES)
    if number not in names:
        raise BitstreamError(f"damaged file, or from a later Fovea: no codec has number {number}")
    width, height, level = 1 + _varint(file), 1 + _varint(file), _varint(file)
    if not _fits(width, height):
        raise BitstreamError(f"damaged file: a {width}×{height} picture does not fit in any")
    count = file.read(1)
    if not count:
        raise BitstreamError("damaged file: cut short within its header")
    if count[0] == 0:
        raise BitstreamError("damaged file: it has no strings")
    lengths = [_varint(file) for _ in range(count[0] - 1)]
    return Contents(names[number], model, width, height, level, ()), lengths


def size_at(data: bytes, bpp: float) -> int:
    """How many bytes `bpp` bits per pixel of the picture of a progressive file are."""
    head = _progressive(data, 0).contents
    return int(bpp * head.width * head.height / 8)


def _progressive(data: bytes, size: int) -> _Begun:
    """As `_begun`. Raises FoveaError for another file."""
    if not _is_progressive(data):
        raise FoveaError("not a progressive file: only those can be cut (fovea compress --progressive)")
    return _begun(data, size)


def first_part(data: bytes) -> int:
    """How many bytes of a progressive file any picture needs. Raises FoveaError for another file."""
    return _progressive(data, 0).least


def checked_part(data: bytes) -> int:
    """How many of the first bytes of a progressive file have a right checksum behind them, which they include. Raises
    FoveaError for another file."""
    found = _progressive(data, 0)
    return found.least + found.checked + 2 * -(-found.checked // PIECE)


def beginning(data: bytes, size: int) -> bytes:
    """The first bytes of a progressive file, whatever follows them. Of a piece that ends behind them and was changed nobody
    knows where, so it is left out as a whole.

    Raises FoveaError for another file, for one that is damaged there, and for fewer bytes than any picture needs.
    """
    found = _progressive(data, size)
    _check_enough(size, found.least)
    return data[: min(size, found.known)]


def cut(data: bytes, size: int) -> bytes:
    """The beginning of a progressive file as one of at most `size` bytes, for which it takes no model: whole words of
    the range coder, so a few bytes less, and nothing that has no checksum. A file that is no larger is left as it is.

    Raises FoveaError as `beginning`.
    """
    found = _progressive(data, size)
    if size >= len(data):
        return data
    contents = found.contents
    last = contents.strings[-1][: found.checked]
    _check_enough(size, len(pack(contents._replace(strings=(*contents.strings[:-1], b"")))))
    kept = min(len(last), size) // WORD * WORD
    while len(made := pack(contents._replace(strings=(*contents.strings[:-1], last[:kept])))) > size:
        kept -= WORD
    return made


def _check_enough(size: int, least: int) -> None:
    if size < least:
        raise FoveaError(f"{size} bytes are too few: a picture of this file begins with {least}")


def least_bytes(positions: int) -> int:
    """The shortest string of coded symbols for this many latent positions: a multiple of 4."""
    return 4 * -(-positions // (32 * POSITIONS_A_BIT))


def check_plausible(positions: int, coded_bytes: int) -> None:
    """Raises BitstreamError when the strings are too short for the picture that the header declares."""
    if coded_bytes < least_bytes(positions):
        raise BitstreamError(
            f"damaged file: its {coded_bytes} bytes of symbols cannot hold a picture of the size that it declares"
        )


def is_by(contents: Contents, identity: bytes) -> bool:
    """Whether a file holds the name of this model."""
    return contents.model == identity[:MODEL_BYTES]


def check_model(contents: Contents, codec: str, identity: bytes) -> None:
    """Raises BitstreamError, naming the model that the file needs, when it was made by another one."""
    named = codec if codec in CODEC_NUMBERS else OWN
    if contents.codec != named or not is_by(contents, identity):
        raise BitstreamError(
            f"the file was made by another model: it needs {contents.codec} {contents.model.hex()}, "
            f"this is {codec} {identity[:MODEL_BYTES].hex()}"
        )
