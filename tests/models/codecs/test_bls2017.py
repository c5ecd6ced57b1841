import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from scenes import scene, spot

from models.codecs.base import Codec, CodecConfig, picture_to_tensor
from models.codecs.bitstream import BitstreamError
from models.codecs.bls2017 import Bls2017
from models.codecs.catalogue import build
from models.errors import FoveaError

# ── an independent computation of the paper's transforms, float64 numpy ──


def correlate(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, stride: int) -> np.ndarray:
    """x: C×H×W; weight: O×C×k×k; zero borders of k//2."""
    r = weight.shape[2] // 2
    windows = sliding_window_view(np.pad(x, ((0, 0), (r, r), (r, r))), weight.shape[2:], axis=(1, 2))
    y = np.einsum("chwij,ocij->ohw", windows[:, ::stride, ::stride], weight)
    return y if bias is None else y + bias[:, None, None]


def upsample(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int) -> np.ndarray:
    """Zeros between the samples, then correlation with the flipped kernel. weight: C×O×k×k."""
    c, h, w = x.shape
    zeros = np.zeros((c, h * stride, w * stride))
    zeros[:, ::stride, ::stride] = x
    return correlate(zeros, weight[:, :, ::-1, ::-1].transpose(1, 0, 2, 3), bias, 1)


def gdn(x: np.ndarray, beta: np.ndarray, gamma: np.ndarray, inverse: bool) -> np.ndarray:
    """Ballé 2016, equation 1; CompressAI keeps square roots of beta and gamma with an offset of 2^-18."""
    offset = 2.0**-36
    beta = np.maximum(beta, np.sqrt(1e-6 + offset)) ** 2 - offset
    gamma = np.maximum(gamma, np.sqrt(offset)) ** 2 - offset
    norm = np.sqrt(beta[:, None, None] + np.einsum("ij,jhw->ihw", gamma, x**2))
    return x * norm if inverse else x / norm


def doubles(codec: Codec) -> dict[str, np.ndarray]:
    return {k: v.double().numpy() for k, v in codec.state_dict().items()}


def test_transforms_are_the_paper_s(uniform):
    w = doubles(uniform)
    x = picture_to_tensor(scene(48, 64), 16)
    v = x[0].double().numpy()
    v = gdn(correlate(v, w["g_a.0.weight"], w["g_a.0.bias"], 4), w["g_a.1.beta"], w["g_a.1.gamma"], False)
    v = gdn(correlate(v, w["g_a.2.weight"], w["g_a.2.bias"], 2), w["g_a.3.beta"], w["g_a.3.gamma"], False)
    y = correlate(v, w["g_a.4.weight"], None, 2)
    assert y.shape == (10, 3, 4)
    with torch.no_grad():
        assert np.abs(uniform.g_a(x)[0].numpy() - y).max() < 1e-4 * np.abs(y).max()
    v = np.round(y)
    v = gdn(upsample(v, w["g_s.0.weight"], w["g_s.0.bias"], 2), w["g_s.1.beta"], w["g_s.1.gamma"], True)
    v = gdn(upsample(v, w["g_s.2.weight"], w["g_s.2.bias"], 2), w["g_s.3.beta"], w["g_s.3.gamma"], True)
    x_hat = upsample(v, w["g_s.4.weight"], w["g_s.4.bias"], 4)
    with torch.no_grad():
        got = uniform.g_s(torch.from_numpy(np.round(y)).float()[None])[0].numpy()
    assert np.abs(got - x_hat).max() < 1e-4 * np.abs(x_hat).max()


def codec_of(mechanism: str, lmbda: tuple[float, ...] = (0.002, 0.008, 0.032), **values) -> Bls2017:
    torch.manual_seed(0)
    return Bls2017(CodecConfig(codec="bls2017", n=6, m=8, mechanism=mechanism, lmbda=lmbda, **values))


# ── conditioning ──


def test_a_constant_map_trains_as_the_uniform_codec(uniform):
    twin = Bls2017(dataclasses.replace(uniform.config, mechanism="gain", gamma=0.5, span=3.0))
    twin.load_trunk(uniform.weights())
    x, level = torch.rand(2, 3, 32, 48), torch.tensor([0.3, 1.9])
    torch.manual_seed(1)
    out = twin.train()(x, saliency_map=torch.full((2, 1, 32, 48), 0.4), level=level)
    torch.manual_seed(1)
    plain = uniform.train()(x, level=level)
    uniform.eval()
    assert torch.equal(out.x_hat, plain.x_hat) and torch.equal(out.likelihoods["y"], plain.likelihoods["y"])
    assert torch.equal(out.lmbda, plain.lmbda.expand_as(out.lmbda)) and not out.side_bits.any()


def test_gain_spends_where_the_map_says(gained):
    picture = scene(128, 192)
    left, right = np.zeros((2, 128, 192), dtype=np.uint8)
    left[:, :96] = 255
    right[:, 96:] = 255
    errors = []
    for saliency_map in (left, right):
        shown = gained.encode(picture, saliency_map=saliency_map, rate=0.0064).reconstruction
        squared = np.square(shown.astype(float) - picture)
        errors.append((squared[:, :96].mean(), squared[:, 96:].mean()))
    assert errors[0][0] < errors[1][0] and errors[1][1] < errors[0][1]


def test_gain_s_multiplier_follows_the_levels(gained):
    s = torch.from_numpy(spot(64, 64))[None, None] / 255.0
    out = gained(torch.rand(1, 3, 64, 64), saliency_map=s, level=torch.tensor([1.0]))
    assert out.lmbda.shape == (1, 1, 64, 64) and float(out.side_bits) > 0
    blocks = out.lmbda.reshape(4, 16, 4, 16)
    assert torch.equal(blocks.amax(dim=(1, 3)), blocks.amin(dim=(1, 3)))
    assert float(out.lmbda.max()) > 0.0064 > float(out.lmbda.min())
    lo, hi = gained.config.lmbda[0], gained.config.lmbda[-1]
    assert lo * 0.999 <= float(out.lmbda.min()) and float(out.lmbda.max()) <= hi * 1.001
    # equal rate at high rate: the geometric mean of the places' multipliers stays near the base
    assert math.exp(float(out.lmbda.log().mean())) == pytest.approx(0.0064, rel=0.25)


def test_levels_held_at_the_ends_do_not_fold_rates_together(gained):
    picture, saliency_map = scene(128, 192), spot(128, 192)
    grid = [float(gained.lmbda_at(torch.tensor(v / 4))) for v in range(9)]
    sizes = [len(gained.encode(picture, saliency_map=saliency_map, rate=v).data) for v in grid]
    assert all(a < b for a, b in itertools.pairwise(sizes))


# ── weights, parameters, errors ──


def test_one_level_is_compressai_s_computation():
    codec = codec_of("none", (0.01,)).eval()
    x = torch.rand(2, 3, 32, 48)
    with torch.no_grad():
        out = codec(x)
        y_hat, likelihoods = super(type(codec.entropy_bottleneck), codec.entropy_bottleneck).forward(codec.g_a(x))
        assert torch.equal(out.likelihoods["y"], likelihoods) and torch.equal(out.x_hat, codec.g_s(y_hat))
    assert out.lmbda.shape == (2, 1, 1, 1) and float(out.lmbda[0]) == pytest.approx(0.01)


def test_a_trunk_that_does_not_fit_is_refused(uniform):
    with pytest.raises(FoveaError, match=r"n 6, m 8.*g_a"):
        codec_of("none").load_trunk(uniform.weights())
    for lmbda, said in (((0.001, 0.01), "2 levels"), ((0.001,), "unknown gain")):
        with pytest.raises(FoveaError, match=said):
            Bls2017(dataclasses.replace(uniform.config, lmbda=lmbda)).load_trunk(uniform.weights())


def test_a_file_of_another_model_is_refused_by_name(uniform, gained):
    data = uniform.encode(scene(20, 20)).data
    with pytest.raises(BitstreamError, match=f"needs bls2017 {uniform.identity().hex()[:16]}"):
        gained.decode(data)


def test_user_errors_are_named(uniform, gained):
    picture = scene(20, 20)
    with pytest.raises(FoveaError, match=r"outside this model's range 0.0016"):
        uniform.encode(picture, rate=1.0)
    for wrong in (picture.astype(np.float32), picture[..., 0]):
        with pytest.raises(FoveaError, match="uint8, H×W×3"):
            uniform.encode(wrong)
    with pytest.raises(FoveaError, match="saliency map of a 20×10 picture"):
        gained.encode(scene(10, 20), saliency_map=spot(20, 10))


def test_dilated_layers_leave_holes():
    """Plain layers give each position some taps; with dilation 2 at stride 2 every second one gets none."""
    torch.manual_seed(0)
    plain, wide = (
        build(CodecConfig(codec="bls2017", n=4, m=6, lmbda=(0.01,), options=options)).eval()
        for options in ((), (("dilation", 2),))
    )
    assert {k: v.shape for k, v in plain.state_dict().items()} == {k: v.shape for k, v in wide.state_dict().items()}
    with torch.no_grad():
        wide.g_s[0].bias.fill_(7.0)
        inner = wide.g_s[0](torch.randn(1, 6, 5, 5))
        assert inner.shape == plain.g_s[0](torch.randn(1, 6, 5, 5)).shape == (1, 4, 10, 10)
        assert (inner[:, :, 1::2] == 7).all() and (inner[:, :, :, 1::2] == 7).all()
        assert (inner[:, :, ::2, ::2] != 7).any()
    x = torch.rand(1, 3, 96, 112)
    assert wide.g_a(x).shape == plain.g_a(x).shape and wide(x).x_hat.shape == x.shape


def test_the_receptive_fields_are_as_the_docstring_says():
    for options, side in (((), 57), ((("dilation", 2),), 105)):
        torch.manual_seed(0)
        codec = build(CodecConfig(codec="bls2017", n=3, m=2, lmbda=(0.01,), options=options))
        x = torch.rand(1, 3, 256, 256, requires_grad=True)
        y = codec.g_a(x)
        y[0, 0, 8, 8].backward()
        seen = (x.grad[0].abs().sum(dim=0) > 0).nonzero()
        span = (seen.amax(dim=0) - seen.amin(dim=0) + 1).tolist()
        assert span == [side, side]
