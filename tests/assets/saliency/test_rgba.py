"""Frame and map in one PNG and back, bit for bit."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

from assets.frames.encode import encode_png
from assets.saliency.rgba import pack, pack_many, unpack
from models.errors import FoveaError

pixels = st.tuples(st.integers(1, 40), st.integers(1, 40)).flatmap(
    lambda size: hnp.arrays(np.uint8, (*size, 4), elements=st.sampled_from([0, 0, 1, 127, 255]))
)


@settings(max_examples=80)
@given(pixels)
def test_round_trip_is_lossless_under_alpha_zero_too(rgba: NDArray[np.uint8]) -> None:
    rgb, saliency_map = np.ascontiguousarray(rgba[..., :3]), np.ascontiguousarray(rgba[..., 3])
    data = pack(rgb, saliency_map)
    back_rgb, back_map = unpack(data)
    assert np.array_equal(back_rgb, rgb) and np.array_equal(back_map, saliency_map)
    assert back_rgb.flags.c_contiguous and back_map.flags.c_contiguous
    # Any program sees the same: an ordinary RGBA PNG.
    image = Image.open(io.BytesIO(data))
    assert image.mode == "RGBA" and np.array_equal(np.asarray(image), rgba)


def test_views_are_packed_like_copies() -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (20, 30, 4), dtype=np.uint8)
    rgb, saliency_map = rgba[::-1, :, :3], rgba[:, ::-1, 3]
    back = unpack(pack(rgb, saliency_map))
    assert np.array_equal(back[0], rgb) and np.array_equal(back[1], saliency_map)


def test_many_keep_their_order_and_equal_one_alone() -> None:
    rng = np.random.default_rng(0)
    items = [(k, *(rng.integers(0, 256, s, dtype=np.uint8) for s in ((24, 36, 3), (24, 36)))) for k in range(17)]
    packed = list(pack_many(items, workers=3, chunk=2))
    assert [key for key, _ in packed] == list(range(17))
    for (_, rgb, saliency_map), (_, data) in zip(items, packed, strict=True):
        assert data == pack(rgb, saliency_map)


@pytest.mark.parametrize(
    ("rgb", "saliency_map", "reason"),
    [
        (np.zeros((4, 5, 3), np.uint8), np.zeros((5, 4), np.uint8), r"map must be uint8 \(4, 5\)"),
        (np.zeros((4, 5, 4), np.uint8), np.zeros((4, 5), np.uint8), "frame must be uint8 H×W×3"),
        (np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5), np.float32), "map must be uint8"),
        (np.zeros((4, 5, 3), np.float32), np.zeros((4, 5), np.uint8), "frame must be uint8"),
    ],
)
def test_what_does_not_fit_is_refused(rgb: NDArray[np.uint8], saliency_map: NDArray[np.uint8], reason: str) -> None:
    with pytest.raises(FoveaError, match=reason):
        pack(rgb, saliency_map)


def test_other_files_are_refused() -> None:
    for data in (b"", b"text", encode_png(np.zeros((4, 4, 3), np.uint8))):
        with pytest.raises(FoveaError, match="rgba"):
            unpack(data)


@settings(max_examples=60)
@given(st.data())
def test_a_flipped_bit_is_noticed(data: st.DataObject) -> None:
    rgba = np.arange(16 * 16 * 4, dtype=np.uint32).reshape(16, 16, 4).astype(np.uint8)
    file = bytearray(pack(rgba[..., :3], rgba[..., 3]))
    file[data.draw(st.integers(0, len(file) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(FoveaError):
        unpack(bytes(file))
