import functools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import metrics
from models.errors import FoveaError


def pair(height: int, width: int, seed: int = 0, noise: float = 12.0) -> tuple[np.ndarray, np.ndarray]:
    """A smooth picture with edges and a noisy copy."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    base = np.stack([120 + 80 * np.sin(x / 9 + c) * np.cos(y / 7) + 40 * (x > width / 2) for c in range(3)], -1)
    original = np.clip(base + rng.normal(0, 6, base.shape), 0, 255).astype(np.uint8)
    return original, np.clip(original + rng.normal(0, noise, base.shape), 0, 255).astype(np.uint8)


quick = functools.partial(metrics.measure, indices=False)


def test_identical_pictures_end_at_the_cap_and_one() -> None:
    original, _ = pair(200, 180)
    values = metrics.measure(original, original, saliency_map=original[..., 0], fixation_map=original[..., 1])
    for name in metrics.METRICS:
        best = {"gmsd": 0.0}.get(name, 100.0 if name.endswith("_db") else 1.0)
        assert values[name] == pytest.approx(best, abs=1e-5), name
    assert values["psnr_db"] == values["ew_psnr_db"] == metrics.PSNR_CAP_DB


@pytest.mark.parametrize("value", [0, 1, 90, 255])
@pytest.mark.parametrize("size", [(16, 16), (160, 176), (331, 257)])
def test_values_of_flat_pictures_are_finite_and_in_range(value: int, size: tuple[int, int]) -> None:
    flat = np.full((*size, 3), value, np.uint8)
    near = np.clip(flat.astype(int) + np.random.default_rng(0).integers(-1, 2, flat.shape), 0, 255)
    ramp = np.broadcast_to(np.arange(size[1], dtype=np.float32), size)
    for one in (flat, near.astype(np.uint8)):
        for other in (flat, near.astype(np.uint8), 255 - flat):
            for name, found in metrics.measure(one, other, saliency_map=ramp, fixation_map=ramp).items():
                most = 100.0 if name.endswith("_db") else 0.5 if name == "gmsd" else 1.0
                assert 0 <= found <= most, (name, found)


@pytest.mark.parametrize("size", [(256, 512), (161, 161), (171, 333), (250, 163)])
def test_ms_ssim_agrees_with_pytorch_msssim(size: tuple[int, int]) -> None:
    import torch
    from pytorch_msssim import ms_ssim

    original, reconstruction = pair(*size, noise=20)
    x, y = (torch.from_numpy(p.transpose(2, 0, 1)[None].copy()).float() for p in (original, reconstruction))
    assert quick(original, reconstruction)["ms_ssim"] == pytest.approx(float(ms_ssim(x, y)), abs=2e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (7, 9), (11, 11), (16, 20), (80, 81), (160, 200)])
def test_small_pictures_have_every_metric_or_nan(size: tuple[int, int]) -> None:
    original, reconstruction = pair(*size, noise=30)
    weight = np.ones(size, np.float32)
    values = metrics.measure(original, reconstruction, saliency_map=weight, fixation_map=weight)
    assert 0 <= values["ms_ssim"] < 1 and values["sw_ms_ssim"] == pytest.approx(values["ms_ssim"], abs=1e-5)
    assert math.isnan(values["vsi"]) == (min(size) < 16)
    assert [metrics._scales(s, 999) for s in (5, 20, 21, 40, 41, 80, 81, 160, 161)] == [1, 1, 2, 2, 3, 3, 4, 4, 5]


@settings(max_examples=15)
@given(st.integers(20, 90), st.integers(20, 90), st.integers(0, 99), st.floats(0.01, 200))
def test_constant_map_gives_the_plain_metric(height: int, width: int, seed: int, value: float) -> None:
    original, reconstruction = pair(height, width, seed)
    flat = np.full((height, width), value)
    plain = quick(original, reconstruction)
    weighted = quick(original, reconstruction, fixation_map=flat)
    assert weighted["ew_psnr_db"] == pytest.approx(plain["psnr_db"], abs=1e-3)
    assert weighted["ew_ms_ssim"] == pytest.approx(plain["ms_ssim"], abs=1e-5)


def test_weighted_metrics_see_only_where_the_weight_is() -> None:
    original, noisy = pair(200, 240)
    reconstruction = original.copy()
    reconstruction[:, :120] = noisy[:, :120]
    left = np.zeros((200, 240), np.uint8)
    left[:, :120] = 255
    values = quick(original, reconstruction, saliency_map=left, fixation_map=255 - left)
    assert values["ew_psnr_db"] == metrics.PSNR_CAP_DB and values["bg_psnr_db"] == metrics.PSNR_CAP_DB
    assert values["sw_psnr_db"] == pytest.approx(values["psnr_db"] - 10 * np.log10(2), abs=1e-3)
    assert values["sw_ms_ssim"] < values["ms_ssim"] < values["ew_ms_ssim"]


def test_psnr_by_hand_and_every_metric_in_its_range() -> None:
    original = np.zeros((1, 2, 3), np.uint8)
    reconstruction = np.array([[[3, 3, 3], [6, 0, 0]]], np.uint8)
    values = metrics.measure(original, reconstruction, saliency_map=np.array([[1, 3]], np.uint8))
    assert values["sw_psnr_db"] == pytest.approx(10 * np.log10(255**2 / (0.25 * 9 + 0.75 * 12)))
    assert values["psnr_db"] == pytest.approx(10 * np.log10(255**2 / (0.5 * 9 + 0.5 * 12)), abs=1e-5)
    original, reconstruction = pair(170, 190)
    saliency, fixation = original[..., 0], np.random.default_rng(1).random((170, 190))
    for shown in (reconstruction, 255 - original):
        values = metrics.measure(original, shown, saliency_map=saliency, fixation_map=fixation)
        assert values["psnr_db"] == metrics.psnr_db(original, shown) and list(values) == list(metrics.METRICS)
        for name, value in values.items():
            assert 0 <= value <= (100 if name.endswith("_db") else 0.5 if name == "gmsd" else 1), name
    assert values["ms_ssim"] < 0.3, "of the inverted picture"


def test_map_of_zeros_is_nan_and_missing_maps_are_nan() -> None:
    original, reconstruction = pair(64, 64)
    values = quick(original, reconstruction, saliency_map=np.zeros((64, 64), np.uint8))
    assert all(math.isnan(values[k]) for k in ("sw_psnr_db", "sw_ms_ssim", "ew_psnr_db", "ew_ms_ssim"))
    assert values["bg_psnr_db"] == pytest.approx(values["psnr_db"], abs=1e-3)


@pytest.mark.parametrize(
    ("values", "said"), [(np.ones((5, 5)), "resize the map"), (np.full((32, 32), -1.0), "not negative")]
)
def test_bad_input_names_what_is_wrong(values: np.ndarray, said: str) -> None:
    original, reconstruction = pair(32, 32)
    with pytest.raises(FoveaError, match=said):
        quick(original, reconstruction, saliency_map=values)
    with pytest.raises(FoveaError, match="differ in size"):
        metrics.psnr_db(original, reconstruction[:-1])
    with pytest.raises(FoveaError, match="uint8 RGB"):
        metrics.psnr_db(original[..., 0], reconstruction[..., 0])
