"""Geometry and layers of SAM, without weights."""

import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from models.errors import FoveaError
from models.saliency import sam, sam_predictor

# --- Geometry ---


def test_fit_floors_and_centres_as_published() -> None:
    assert sam_predictor.fit(256, 512, 240, 320) == (160, 320, 40, 0)  # 2:1 in 4:3: 40 black rows above and below
    assert sam_predictor.fit(600, 800, 240, 320) == (240, 320, 0, 0)
    assert sam_predictor.fit(800, 600, 240, 320) == (240, 180, 0, 70)
    assert sam_predictor.fit(427, 640, 240, 320) == (213, 320, 13, 0)
    assert sam_predictor.fit(1, 1000, 240, 320) == (1, 320, 119, 0)
    assert sam_predictor.fit(1000, 1, 240, 320) == (240, 1, 0, 159)


def test_preprocess_pads_before_the_mean_is_subtracted() -> None:
    frame = np.full((100, 200, 3), (30, 20, 10), np.uint8)  # RGB
    x = sam_predictor.preprocess([frame])
    assert x.shape == (1, 3, 240, 320) and x.dtype == torch.float32
    bars, inside = x[0, :, 0, 0], x[0, :, 120, 160]
    assert torch.allclose(bars, -torch.tensor([103.939, 116.779, 123.68]))
    assert torch.allclose(inside, torch.tensor([10.0, 20.0, 30.0]) + bars)
    assert (x[0, 0, :40] == bars[0]).all() and (x[0, 0, 200:] == bars[0]).all()
    assert (x[0, 0, 40:200] == inside[0]).all()


def test_preprocess_takes_any_mixture_of_sizes() -> None:
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((20, 30), (31, 17), (480, 640))]
    together = sam_predictor.preprocess(frames, (48, 64))
    for k, frame in enumerate(frames):
        assert torch.equal(together[k], sam_predictor.preprocess([frame], (48, 64))[0])


def test_postprocess_blurs_in_pixels_of_the_picture() -> None:
    prediction = np.zeros((480, 640), np.float32)
    prediction[240, 320] = 5.0
    for height, width in ((600, 800), (480, 640), (300, 400)):
        saliency = sam_predictor.postprocess(prediction, height, width)
        assert saliency.shape == (height, width) and saliency.max() == 1
        x = np.arange(width)
        mass = saliency / saliency.sum()
        spread = np.sqrt((mass * (x - (mass * x).sum()) ** 2).sum())
        assert spread == pytest.approx(7.0, abs=0.2)


@pytest.mark.parametrize("size", [(256, 512), (512, 256), (1, 40), (40, 1), (77, 133)])
def test_maps_that_say_nothing_become_even(size: tuple[int, int]) -> None:
    dead = sam_predictor.postprocess(np.zeros((480, 640), np.float32), *size)
    assert dead.shape == size and (dead == 1).all()
    bars = np.zeros((480, 640), np.float32)
    bars[:8] = 1.0
    assert (sam_predictor.postprocess(bars, 256, 512) == 1).all()
    with pytest.raises(FoveaError, match="NaN"):
        sam_predictor.postprocess(np.full((480, 640), np.nan, np.float32), 10, 10)


@settings(max_examples=40)
@given(height=st.integers(40, 700), width=st.integers(40, 700), y=st.floats(0.1, 0.9), x=st.floats(0.1, 0.9))
def test_a_blob_comes_back_to_where_it_was(height: int, width: int, y: float, x: float) -> None:
    """Pre-processing, the identity for a network, post-processing: a blob keeps its place, at any size and shape."""
    assume(max(height, width) < 6 * min(height, width))
    y, x = y * (height - 1), x * (width - 1)
    sigma = max(height, width) / 40
    rows, columns = np.mgrid[:height, :width]
    blob = 200 * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * sigma**2))
    frame = np.repeat(np.rint(blob).astype(np.uint8)[:, :, None], 3, axis=2)
    padded = sam_predictor.preprocess([frame])[0, 0].numpy() + sam_predictor.MEAN_BGR[0]
    prediction = cv2.resize(padded, (640, 480), interpolation=cv2.INTER_LINEAR)
    saliency = sam_predictor.postprocess(prediction, height, width, sigma=1e-3)
    # The part above a tenth of the maximum: the edges cut the blob in the picture and in the map alike.
    seen = [np.where(m > 0.1 * m.max(), m, 0).astype(np.float64) for m in (blob, saliency)]
    centres = [((m * rows).sum() / m.sum(), (m * columns).sum() / m.sum()) for m in seen]
    pixel = max(1.0, height / 240, width / 320)
    assert abs(centres[0][0] - centres[1][0]) <= 1.5 * pixel and abs(centres[0][1] - centres[1][1]) <= 1.5 * pixel


# --- Layers ---


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(6, 8), (7, 5)])
def test_shifted_pool_takes_the_pixel_before(stride: int, size: tuple[int, int]) -> None:
    x = -torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) - 1  # negative: padding mustn't win
    pooled = sam.ShiftedMaxPool(stride)(x)
    rows, columns = (-(-side // stride) for side in size)
    assert pooled.shape == (2, 3, rows, columns)
    for i in range(rows):
        for j in range(columns):
            window = x[:, :, max(stride * i - 1, 0) : stride * i + 1, max(stride * j - 1, 0) : stride * j + 1]
            assert torch.equal(pooled[:, :, i, j], window.amax((2, 3)))


def test_priors_are_clipped_at_every_forward_and_never_in_store() -> None:
    prior = sam.LearnedPrior()
    with torch.no_grad():
        prior.weight.copy_(torch.tensor([5.0, -5.0, 5.0, -5.0]).repeat_interleave(16))
    g = prior(30, 40)[0, 0]
    y = torch.linspace(0.125, 0.875, 30)[:, None]
    x = torch.linspace(0, 1, 40)
    expected = torch.exp(-((x - 0.75) ** 2) / (2 * 0.9**2) - (y - 0.35) ** 2 / (2 * 0.2**2))
    assert torch.allclose(g, expected / expected.max(), atol=1e-5)
    assert prior.weight.min() == -5 and prior.weight.max() == 5


def test_the_network_refuses_sides_that_do_not_divide_by_8() -> None:
    with torch.device("meta"), pytest.raises(FoveaError, match="divisible by 8"):
        sam.build("sam_vgg")(torch.empty(1, 3, 44, 64))


# --- Loading ---


def test_missing_weights_name_file_and_command(tmp_path: Path) -> None:
    with pytest.raises(FoveaError, match=re.escape(str(tmp_path / "sam_vgg.safetensors"))) as caught:
        sam_predictor.load_predictor("sam_vgg", tmp_path)
    assert "fovea saliency-weights fetch sam_vgg" in str(caught.value)
    with pytest.raises(FoveaError, match="unknown network"):
        sam_predictor.load_predictor("sam_alexnet", tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"backbone.block1_conv1.weight": torch.zeros(64, 3, 3, 3)}, r"backbone.block1_conv1.bias is missing"),
        (
            {"backbone.block1_conv1.weight": torch.zeros(64, 3, 5, 5)},
            r"block1_conv1.weight is torch.float32 64×3×5×5, not float32 64×3×3×3",
        ),
        (b"not safetensors at all", "not a safetensors file"),
    ],
)
def test_other_peoples_safetensors_name_the_tensor(tmp_path: Path, content: Any, said: str) -> None:
    path = tmp_path / "sam_vgg.safetensors"
    path.write_bytes(content if isinstance(content, bytes) else save(content))
    with pytest.raises(FoveaError, match=said):
        sam_predictor.load_predictor("sam_vgg", tmp_path)


def test_settings_are_checked(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "sam_vgg.safetensors")
    (tmp_path / "sam_vgg.json").write_text(json.dumps({"inference": {"size": "small"}}))
    with pytest.raises(FoveaError, match=r"inference.size must be"):
        sam_predictor.load_predictor("sam_vgg", tmp_path)
