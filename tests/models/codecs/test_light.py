import itertools

import numpy as np
import pytest
import torch
from scenes import checkerboard, scene

from models.codecs import catalogue, light
from models.codecs.base import CodecConfig
from models.codecs.catalogue import open_codec
from models.metrics import psnr_db

LAMBDAS = (0.003, 0.012, 0.048)


@pytest.fixture(autouse=True)
def fewer_blocks(monkeypatch):
    """The pictures here are small."""
    monkeypatch.setattr(light, "SEEN", 4000)


def started(pictures, seed=0):
    torch.manual_seed(seed)
    codec = catalogue.build(CodecConfig(codec="light", n=8, m=64, mechanism="gain", lmbda=LAMBDAS))
    codec.start(pictures)
    return codec.eval()


@torch.no_grad()
def test_a_training_starts_from_principal_components():
    """Without rounding its first picture is that of as many components, near enough; the first channels vary most."""
    pictures = [scene(96, 112, seed) for seed in range(6)]
    codec = started(pictures)
    x = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255.0
    y = codec.analyse(x, None)
    error = float((codec.show(y) - x).square().mean())
    blocks = torch.nn.functional.pixel_unshuffle(x, 16).permute(0, 2, 3, 1).reshape(-1, 768).double()
    variances = torch.linalg.eigvalsh(torch.cov(blocks.T, correction=0)).flip(0)
    assert error < 1.5 * float(variances[64:].sum() / 768) + 2e-4
    of_channels = y.transpose(0, 1).flatten(1).var(dim=1)
    assert of_channels[:8].sum() > 0.8 * of_channels.sum()


def test_a_start_is_the_same_each_time_and_small_pictures_do_not_hinder():
    pictures = [scene(96, 112, 0), np.zeros((4, 40, 3), np.uint8)]
    first, again = started(pictures), started(pictures)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    none = started(pictures[1:])
    assert all(bool(torch.isfinite(p).all()) for p in none.parameters())


@torch.no_grad()
def test_training_shows_g_s_the_symbols_of_files(monkeypatch):
    """Chosen by rate and error, from a rounded z; but for the few that integer arithmetic of h_s rounds the other way."""
    codec = started([scene(96, 112, seed) for seed in range(6)])
    codec.update()
    x = torch.from_numpy(scene(64, 96, 9)).permute(2, 0, 1)[None] / 255.0
    even, level = torch.ones_like(x[:, :1]), torch.tensor([1.0])
    held = codec.latents(x, saliency_map=even, level=level).y_hat
    shown = []
    monkeypatch.setattr(codec, "show", lambda y_hat: shown.append(y_hat) or torch.zeros_like(x))
    codec.train()(x, saliency_map=even, level=level)
    apart = (shown[0] - held).abs() > 1e-2
    assert float(apart.float().mean()) < 0.001
    monkeypatch.setattr(type(codec), "worth", None)
    codec(x, saliency_map=even, level=level)
    assert float(((shown[1] - held).abs() > 1e-2).float().mean()) > 0.003


@pytest.mark.parametrize("colour", [*itertools.product((0, 255), repeat=3)])
def test_a_stark_colour_costs_little_and_is_shown(colour: tuple[int, int, int]) -> None:
    codec = open_codec("light")
    whole = np.full((128, 192, 3), colour, np.uint8)
    boxed, white = scene(128, 192), np.full((128, 192), 255, np.uint8)
    plain = codec.encode(boxed, saliency_map=white)
    boxed[16:112, 32:160] = colour
    for picture, bpp, db in ((whole, 0.5, 38), (boxed, 2.5 * 8 * len(plain.data) / (128 * 192), 27)):
        file = codec.encode(picture, saliency_map=white)
        assert 8 * len(file.data) / (128 * 192) < bpp and psnr_db(picture, file.reconstruction) > db


@pytest.mark.parametrize(("cell", "db"), [(4, 22), (8, 26)])
def test_a_pattern_that_no_training_had_is_shown_whatever_it_costs(cell: int, db: float) -> None:
    codec, picture = open_codec("light"), checkerboard(128, 192, cell)
    even = np.full((128, 192), 255, np.uint8)
    for progressive in (False, True):
        given = codec.analysed(picture, even)
        shown = codec.decode_checked(codec.encode_analysed(given, 0.0512, progressive=progressive))
        assert psnr_db(picture, shown) > db


def test_the_context_model_that_ships_saves_bits_and_changes_no_picture() -> None:
    codec, picture = open_codec("light"), scene(128, 192, 5)
    even, sizes = np.full((128, 192), 255, np.uint8), []
    for rate in (codec.rates[0], codec.rates[4], codec.rates[-1]):
        file = codec.encode(picture, saliency_map=even, rate=rate)
        without = open_codec("light")
        without.context = None
        before = without.encode(picture, saliency_map=even, rate=rate)
        assert np.array_equal(codec.decode(file.data), codec.decode(before.data))
        sizes.append(len(file.data) / len(before.data))
    assert max(sizes) < 0.99 and sum(sizes) / len(sizes) < 0.96
