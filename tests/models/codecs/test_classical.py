import io

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from scenes import scene

from models.codecs import classical
from models.errors import FoveaError


@pytest.mark.parametrize("codec", classical.CLASSICAL)
def test_round_trips_keep_any_size_and_rate_and_quality_rise(codec: str) -> None:
    picture = scene(64, 96)
    qualities = classical.CLASSICAL[codec].qualities
    assert 6 <= len(qualities) <= 8 and list(qualities) == sorted(set(qualities))
    sizes, errors = [], []
    for quality in (qualities[0], qualities[len(qualities) // 2], qualities[-1]):
        data = classical.encode(codec, quality, picture, picture[..., 0])
        assert data == classical.encode(codec, quality, picture, picture[..., 0])
        decoded = classical.decode(codec, data)
        assert decoded.shape == picture.shape and decoded.dtype == np.uint8
        sizes.append(len(data))
        errors.append(float(np.mean((decoded.astype(float) - picture) ** 2)))
    assert sizes == sorted(set(sizes)) and errors == sorted(set(errors), reverse=True)
    for height, width in ((1, 1), (3, 17)):
        tiny = picture[:height, :width]
        data = classical.encode(codec, qualities[2], tiny, tiny[..., 0])
        assert classical.decode(codec, data).shape == (height, width, 3)


def test_jpeg_takes_the_better_chroma_at_equal_bytes() -> None:
    picture = scene(64, 96)
    for quality in (10, 50, 95):
        data = classical.encode("jpeg", quality, picture)
        subsampled = bytes(imagecodecs.jpeg8_encode(picture, quality, subsampling="420", optimize=True))
        error, error_420 = (
            float(np.mean((classical.decode("jpeg", d).astype(float) - picture) ** 2)) for d in (data, subsampled)
        )
        assert len(data) <= len(subsampled) and error <= error_420
    # fine saturated stripes are lost in 4:2:0, a grey picture loses nothing
    striped = scene(64, 96)
    striped[44:60, 10:80:2] = (230, 20, 30)
    striped[44:60, 11:80:2] = (20, 30, 220)
    with Image.open(io.BytesIO(classical.encode("jpeg", 95, striped))) as image:
        assert image.layer[0][1:3] == (1, 1)
    grey = np.repeat(scene(64, 96)[..., :1], 3, axis=2)
    assert len(classical.encode("jpeg", 75, grey)) <= len(
        bytes(imagecodecs.jpeg8_encode(grey, 75, subsampling="420", optimize=True))
    )


def test_the_better_chroma_is_found_of_many_megapixels_too() -> None:
    dark, light = np.zeros((2000, 3000, 3), np.uint8), np.full((2000, 3000, 3), 12, np.uint8)
    assert classical._squared_error(dark, light) == 2000 * 3000 * 3 * 12**2 > 2**31


def test_jpeg_carries_no_metadata_and_optimised_tables() -> None:
    data = classical.encode("jpeg", 50, scene(64, 96))
    assert b"Exif" not in data and b"ICC_PROFILE" not in data
    plain = bytes(imagecodecs.jpeg8_encode(scene(64, 96), 50, subsampling="420", optimize=False))
    assert len(data) < len(plain)


def test_avif_is_tuned_for_the_metric_of_the_curves() -> None:
    """At no more bytes than imagecodecs' default tuning, PSNR is higher."""
    picture = np.asarray(Image.fromarray(scene(64, 96)).resize((256, 192), Image.Resampling.BICUBIC))
    ours = classical.encode("avif", 29, picture)
    error = np.mean((classical.decode("avif", ours).astype(float) - picture) ** 2)
    for level in range(95, 0, -5):
        other = imagecodecs.avif_encode(picture, level, speed=6, pixelformat="444", numthreads=1, codec="aom")
        if len(other) <= len(ours):
            assert error < np.mean((imagecodecs.avif_decode(other).astype(float) - picture) ** 2)
            return
    pytest.fail("no default file of that size")


def test_errors_name_the_way_out() -> None:
    with pytest.raises(
        FoveaError, match=r"unknown classical codec 'gif'.*jpeg, webp, avif, avif-visual, jpegxl, jpeg_guided"
    ):
        classical.encode("gif", 50, scene(64, 96))
    with pytest.raises(FoveaError, match="quality goes from 0 to 100"):
        classical.encode("jpeg", 101, scene(64, 96))
    with pytest.raises(FoveaError, match="needs uint8 RGB"):
        classical.encode("jpeg", 50, scene(64, 96)[..., 0])
    with pytest.raises(FoveaError, match="jpeg_guided needs the picture's saliency map"):
        classical.encode("jpeg_guided", 50, scene(64, 96))
    for codec, entry in classical.CLASSICAL.items():
        with pytest.raises(FoveaError, match=f"not a {entry.label} file"):
            classical.decode(codec, b"nothing of the kind")
