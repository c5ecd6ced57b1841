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
LEAST = len(pack(PIECES._replace(strings=(b"", b"map", b""))))


@given(strings=st.lists(st.binary(max_size=1200), min_size=1, max_size=4), missing=st.integers(0, 10**6))
def test_progressive_files_are_unpacked(strings, missing):
    contents = CONTENTS._replace(strings=tuple(strings), total=len(strings[-1]) + missing)
    assert unpack(pack(contents)) == contents


def test_any_beginning_of_a_progressive_file_is_read_as_far_as_it_goes():
    data = pack(PIECES)
    before = b""
    for size in range(len(data)):
        if size < LEAST:
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
            with pytest.raises(
                BitstreamError, match=rf"among its bytes {LEAST + 514} to {LEAST + 1028}, .*--bytes {LEAST + 514}"
            ):
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


def test_a_file_that_broke_off_is_cut_to_what_was_checked():
    data = pack(PIECES)
    for end in range(LEAST + 1, len(data)):
        broken = data[:end]
        made, checked = bitstream.cut(broken, end - 1), bitstream.checked_part(broken)
        last, most = unpack(made).strings[-1], PIECES.strings[-1][: (checked - LEAST) // 514 * 512]
        assert checked <= end < checked + 514 and len(made) < end and most.startswith(last)
        assert len(last) >= min(len(most), end - 1 - LEAST - 2 * (len(most) // 512)) - 6
        if checked < end:
            for place in range(checked, end, 37):
                wrong = broken[:place] + bytes([broken[place] ^ 1]) + broken[place + 1 :]
                assert bitstream.cut(wrong, end - 1) == made


def test_a_file_that_is_no_larger_is_left_as_it_is():
    for data in (pack(PIECES), bitstream.cut(pack(PIECES), 901), pack(PIECES)[:900]):
        for size in (len(data), len(data) + 1, 10**9):
            assert bitstream.cut(data, size) == data
    for data in (pack(PIECES)[:-1] + b"?", pack(PIECES) + b"\0"):
        with pytest.raises(BitstreamError):
            bitstream.cut(data, 10**9)


def test_damage_behind_the_beginning_that_is_taken_does_not_matter():
    data = pack(PIECES)
    for place in range(LEAST, len(data), 11):
        wrong = data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :] + b"more"
        piece = LEAST + (place - LEAST) // 514 * 514
        sealed = min(piece + 514, len(data))
        for size in {LEAST, piece, min(place, sealed - 2), sealed - 2}:
            assert bitstream.beginning(wrong, size) == data[: min(piece, size)]
            assert bitstream.cut(wrong, size) == bitstream.cut(data[: sealed - 1], size)
        for size in (sealed, len(wrong)):
            for take in (bitstream.beginning, bitstream.cut):
                with pytest.raises(BitstreamError, match=f"{piece} are whole"):
                    take(wrong, size)
        assert unpack(bitstream.beginning(wrong, piece)) == unpack(data[:piece])
    assert bitstream.beginning(data + b"more", len(data)) == data
    with pytest.raises(BitstreamError, match=f"left over at its end, behind the first {len(data)}"):
        bitstream.beginning(data + b"more", len(data) + 1)


def test_cuts_of_cuts_are_the_cut():
    data = pack(PIECES)
    for first, second, third in ((1200, 900, 400), (1000, 548, 547), (len(data) - 1, LEAST + 1, LEAST)):
        cut = bitstream.cut(bitstream.cut(data, first), second)
        assert cut == bitstream.cut(data, second) and bitstream.cut(cut, third) == bitstream.cut(data, third)


def test_what_cannot_be_cut_is_refused():
    for take in (bitstream.cut, bitstream.beginning):
        with pytest.raises(FoveaError, match=f"^10 bytes are too few: a picture of this file begins with {LEAST}$"):
            take(pack(PIECES), 10)
        with pytest.raises(FoveaError, match="not a progressive file"):
            take(pack(CONTENTS), 40)
        for end in range(LEAST):
            with pytest.raises(BitstreamError):
                take(pack(PIECES)[:end], 10**6)
