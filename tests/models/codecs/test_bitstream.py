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
    assert unpack(pack(contents)) == contents and len(pack(CONTENTS)) - sum(map(len, CONTENTS.strings)) <= 26


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


def test_every_prefix_is_refused():
    for length in range(len(pack(CONTENTS))):
        with pytest.raises(BitstreamError, match=r"not a Fovea file|cut short|ends"):
            unpack(pack(CONTENTS)[:length])


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
    with pytest.raises(BitstreamError, match=rf"needs bls2017 {b'identity'.hex()}, this is bls2017 {'ff' * 8}"):
        bitstream.check_model(unpack(data), "bls2017", b"\xff" * 16)
    bitstream.check_model(unpack(data), "bls2017", b"identity and more")


def test_absurd_geometry_is_refused():
    head = pack(CONTENTS)[:13]
    for width, height in ((1 << 34, 1), (1, 1 << 17), (1 << 14, 1 << 14)):
        body = head + bitstream.write_varints([width - 1, height - 1, 0]) + b"\x01"
        with pytest.raises(BitstreamError, match="does not fit"):
            unpack(reseal(body + b"symbols!"))
    with pytest.raises(FoveaError, match="131072×256 is too large"):
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
    assert sum(map(len, contents.strings)) <= len(tail) and contents.width * contents.height <= bitstream.MAX_PIXELS


PIECES = CONTENTS._replace(strings=(b"", b"map", bytes(range(256)) * 5), total=1280)


@given(strings=st.lists(st.binary(max_size=1200), min_size=1, max_size=4), missing=st.integers(0, 10**6))
def test_progressive_files_are_unpacked(strings, missing):
    contents = CONTENTS._replace(strings=tuple(strings), total=len(strings[-1]) + missing)
    assert unpack(pack(contents)) == contents


def test_any_beginning_of_a_progressive_file_is_read_as_far_as_it_goes():
    data = pack(PIECES)
    least = len(pack(PIECES._replace(strings=(b"", b"map", b""))))
    before = b""
    for size in range(len(data)):
        if size < least:
            with pytest.raises(BitstreamError, match=r"not a Fovea file|cut|ends"):
                unpack(data[:size])
            continue
        contents = unpack(data[:size])
        last = contents.strings[-1]
        assert contents._replace(strings=PIECES.strings) == PIECES
        assert PIECES.strings[-1].startswith(last) and last.startswith(before) and contents.whole() == len(data)
        before = last
    assert len(before) == 1280


@pytest.mark.parametrize("whole", [pack(CONTENTS), pack(PIECES), bitstream.cut(pack(PIECES), 1000)])
def test_every_flipped_byte_is_refused_and_one_more_too(whole):
    for place in (*range(60), *range(60, len(whole), 7)):
        data = bytearray(whole)
        data[place % len(whole)] ^= 0x41
        with pytest.raises(BitstreamError):
            unpack(bytes(data))
        if 600 < place < 1000 and len(whole) > 1200:
            with pytest.raises(BitstreamError, match="from number 514 on"):
                unpack(bytes(data[:1200]))
    with pytest.raises(BitstreamError, match=r"left over|checksum"):
        unpack(whole + b"\0")


@pytest.mark.parametrize("size", [60, 545, 548, 549, 550, 1000, 1200])
def test_a_cut_file_is_at_most_four_bytes_shorter_and_whole_by_its_own_words(size):
    made = bitstream.cut(pack(PIECES), size)
    contents = unpack(made)
    assert size - 6 < len(made) <= size and contents.total == 1280 and len(contents.strings[-1]) % 4 == 0
    assert bitstream.cut(made, len(made)) == made
    with pytest.raises(BitstreamError, match="left over"):
        unpack(made + b"\0")


def test_what_cannot_be_cut_is_refused():
    for size, said in ((10, "begins with"), (5000, "cannot be cut from it")):
        with pytest.raises(FoveaError, match=said):
            bitstream.cut(pack(PIECES), size)
    with pytest.raises(FoveaError, match="not a progressive file"):
        bitstream.cut(pack(CONTENTS), 40)
