import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.codecs import bitstream
from models.codecs.bitstream import BitstreamError, Contents, pack, unpack
from models.errors import FoveaError

CONTENTS = Contents("bls2017", b"identity", 512, 256, 24, (b"", b"map", b"symbols!"))


def reseal(body: bytes) -> bytes:
    return body + zlib.crc32(body).to_bytes(4, "little")


@given(
    width=st.integers(1, 8192),
    height=st.integers(1, 8192),
    level=st.integers(0, 1000),
    strings=st.lists(st.binary(max_size=300), min_size=1, max_size=5),
)
def test_what_is_packed_is_unpacked(width, height, level, strings):
    contents = Contents("bls2017", b"8 bytes.", width, height, level, tuple(strings))
    assert unpack(pack(contents)) == contents


def test_overhead_is_about_25_bytes():
    assert len(pack(CONTENTS)) - sum(map(len, CONTENTS.strings)) <= 26


@given(st.lists(st.integers(0, 2**35 - 1), max_size=20))
def test_varints(values):
    assert bitstream.read_varints(bitstream.write_varints(values), len(values)) == values


@given(st.binary(max_size=60))
def test_varints_of_anything(data):
    try:
        values = bitstream.read_varints(data, 3)
    except BitstreamError:
        return
    assert len(values) == 3 and all(0 <= v < 2**35 for v in values)


@pytest.mark.parametrize("length", range(len(pack(CONTENTS))))
def test_every_prefix_is_refused(length):
    with pytest.raises(BitstreamError, match=r"not a Fovea file|cut short|ends"):
        unpack(pack(CONTENTS)[:length])


@pytest.mark.parametrize("place", range(len(pack(CONTENTS))))
def test_every_flipped_byte_is_refused(place):
    data = bytearray(pack(CONTENTS))
    data[place] ^= 0x41
    with pytest.raises(BitstreamError):
        unpack(bytes(data))


def test_messages_say_what_is_wrong():
    data = pack(CONTENTS)
    with pytest.raises(BitstreamError, match="does not start with FOV"):
        unpack(b"\x89PNG" + data[4:])
    with pytest.raises(BitstreamError, match=r"version 9.*use the release"):
        unpack(reseal(data[:3] + b"\x09" + data[4:-4]))
    with pytest.raises(BitstreamError, match="no codec has number 200"):
        unpack(reseal(data[:4] + b"\xc8" + data[5:-4]))
    with pytest.raises(BitstreamError, match="checksum"):
        unpack(data[:-1])
    with pytest.raises(
        BitstreamError, match=rf"needs bls2017 {b'identity'.hex()}, this is bls2017 {'ff' * 8}"
    ):
        bitstream.check_model(unpack(data), "bls2017", b"\xff" * 16)
    bitstream.check_model(unpack(data), "bls2017", b"identity and more")


def test_absurd_geometry_is_refused():
    head = pack(CONTENTS)[:13]
    for width, height in ((1 << 34, 1), (1, 1 << 17), (1 << 14, 1 << 14)):
        body = head + bitstream.write_varints([width - 1, height - 1, 0]) + b"\x01"
        with pytest.raises(BitstreamError, match="does not fit"):
            unpack(reseal(body + b"symbols!"))
    with pytest.raises(FoveaError, match="does not fit"):
        pack(CONTENTS._replace(width=1 << 17))
    with pytest.raises(BitstreamError, match="cannot hold"):
        bitstream.check_plausible(bitstream.MAX_PIXELS // 256, 40)
    assert bitstream.least_bytes(512) == 4
    bitstream.check_plausible(512, 4)


@given(st.binary(max_size=120))
def test_anything_with_a_right_checksum_is_parsed_or_refused(tail):
    try:
        contents = unpack(reseal(b"FOV\x01\x01" + tail))
    except BitstreamError:
        return
    assert sum(map(len, contents.strings)) <= len(tail)
    assert contents.width * contents.height <= bitstream.MAX_PIXELS
