"""Prediction by name: sizes, scale of the maps, company and threads, versions."""

import json
import shutil

import numpy as np
import pytest

from models.errors import FoveaError
from models.saliency.catalogue import code_modules, model_version, weights_path
from models.saliency.classical import fit_center_prior, gaussian_map, predict_density
from models.saliency.maps import SaliencyModel, scale_to_uint8
from models.saliency.predict import load_model

SIZES = [(64, 96), (16, 16), (16, 400), (300, 17)]


def noise(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def lite():
    return load_model("sam_lite", threads=1)


@pytest.mark.parametrize("name", ["sam_lite", "spectral_residual", "center_prior"])
def test_maps_of_any_size_also_of_flat_pictures(name):
    model = load_model(name, threads=2)
    assert isinstance(model, SaliencyModel) and (model.name, model.version) == (name, model_version(name))
    frames = [noise(s) for s in SIZES] + [np.full((40, 56, 3), v, np.uint8) for v in (0, 255)]
    maps, densities = model.predict(iter(frames)), model.predict_float(frames)
    for frame, found, density in zip(frames, maps, densities, strict=True):
        assert found.shape == density.shape == frame.shape[:2]
        assert (found.dtype, density.dtype) == (np.uint8, np.float32) and found.max() == 255
        assert np.isfinite(density).all() and density.min() >= 0.0
        assert density.sum(dtype=np.float64) == pytest.approx(1.0, abs=1e-4)
        assert np.array_equal(found, scale_to_uint8(density))


def test_a_map_depends_neither_on_company_nor_on_threads(lite):
    frames = [noise((64, 96), i) for i in range(4)]
    alone = [lite.predict_float([frame])[0] for frame in frames]
    together = load_model("sam_lite", threads=2).predict_float(frames)
    assert lite.predict([]) == []
    for a, b in zip(alone, together, strict=True):
        assert np.array_equal(a, b)


def test_flip_averages_with_the_mirrored_picture(lite):
    frame = noise((64, 96))
    averaged = lite.predict_float([frame], flip=True)[0]
    plain = lite.predict_float([frame])[0]
    mirrored = lite.predict_float([frame[:, ::-1].copy()])[0][:, ::-1]
    assert np.abs(averaged - plain).max() > 0.0
    np.testing.assert_allclose(averaged, (plain + mirrored) / 2, rtol=2e-3, atol=1e-8)


@pytest.mark.parametrize(
    "frame", [np.zeros((15, 64, 3), np.uint8), np.zeros((64, 64), np.uint8), np.zeros((64, 64, 3), np.float32)]
)
@pytest.mark.parametrize("name", ["sam_lite", "center_prior"])
def test_frames_that_are_no_pictures(name, frame):
    with pytest.raises(FoveaError, match="a frame must be"):
        load_model(name, threads=1).predict([frame])


def test_spectral_residual_finds_the_odd_one_out():
    picture = np.full((120, 160, 3), 128, np.uint8)
    picture[::8, :] = 60
    picture[40:52, 100:112] = (250, 40, 40)
    density = predict_density(picture)
    y, x = np.unravel_index(density.argmax(), density.shape)
    assert abs(y - 46) < 12 and abs(x - 106) < 12


def test_center_prior_is_the_fitted_gaussian():
    rng = np.random.default_rng(0)
    points = rng.normal((60.0, 30.0), (20.0, 10.0), (20_000, 2))
    prior = fit_center_prior(points, np.full((20_000, 2), (160.0, 120.0)))
    assert prior == pytest.approx((60.5 / 160, 30.5 / 120, 20 / 160, 10 / 120), rel=0.03)
    density = gaussian_map(120, 160, prior)
    y, x = np.unravel_index(density.argmax(), density.shape)
    assert abs(x - 60) <= 1 and abs(y - 30) <= 1
    assert density[y, x + 20] / density[y, x] == pytest.approx(np.exp(-0.5), rel=0.05)


def test_unknown_and_missing(tmp_path, monkeypatch):
    with pytest.raises(FoveaError, match="unknown saliency model 'deep'"):
        load_model("deep")
    with pytest.raises(FoveaError, match="unknown saliency model 'deep'"):
        model_version("deep")
    with pytest.raises(FoveaError, match="unknown saliency model 'deep'"):
        code_modules("deep")
    with pytest.raises(FoveaError, match="no weights at"):
        load_model("sam_lite", weights_dir=tmp_path)


def test_version_follows_weights_and_settings(tmp_path):
    shipped, path = weights_path("sam_lite"), tmp_path / "sam_lite.safetensors"
    shutil.copy(shipped, path)
    shutil.copy(shipped.with_suffix(".json"), path.with_suffix(".json"))
    assert model_version("sam_lite", tmp_path) == model_version("sam_lite")
    described = json.loads(path.with_suffix(".json").read_text())
    described["inference"]["blur"] += 1.0
    path.with_suffix(".json").write_text(json.dumps(described))
    blurred = model_version("sam_lite", tmp_path)
    assert blurred != model_version("sam_lite")
    frame = noise((64, 96))
    before, after = (load_model("sam_lite", weights_dir=d, threads=1).predict([frame])[0] for d in (None, tmp_path))
    assert not np.array_equal(before, after)
    path.with_suffix(".json").unlink()
    plain = model_version("sam_lite", tmp_path)
    path.write_bytes(path.read_bytes() + b" ")
    assert len({model_version("sam_lite", tmp_path), plain, blurred}) == 3


def test_the_batched_path_in_bfloat16_agrees(lite, monkeypatch):
    """What runs on a GPU, here on the CPU: sizes in groups, order kept, maps alike."""
    frames = [noise((64, 96), 1), noise((64, 96), 2), noise((80, 80), 3), noise((64, 96), 4)]
    exact = lite.predict(frames)
    monkeypatch.setattr(lite, "on_gpu", True)
    batched, densities = lite.predict(frames), lite.predict_float(frames)
    for a, b, density in zip(exact, batched, densities, strict=True):
        assert a.shape == b.shape == density.shape and b.max() == 255
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.99
        assert density.sum(dtype=np.float64) == pytest.approx(1.0, abs=1e-4)
