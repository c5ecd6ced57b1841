import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_msssim import ms_ssim as reference_ms_ssim

from models.codecs.base import Output
from models.errors import FoveaError
from models.losses import l1_ms_ssim, ms_ssim, rate_distortion
from models.saliency.weighting import weight_map

DISTORTIONS = ("mse", "ms_ssim", "l1_ms_ssim")


def made(n=3, side=64, seed=0, lmbda=0.01):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 3, side, side, generator=g)
    x_hat = (x + 0.1 * torch.randn(n, 3, side, side, generator=g)).requires_grad_()
    likelihoods = {"y": torch.rand(n, 4, 4, 4, generator=g) * 0.9 + 0.05, "z": torch.full((n, 2, 1, 1), 0.5)}
    return Output(x_hat, likelihoods, torch.zeros(n), torch.full((n, 1, 1, 1), lmbda)), x


def test_the_lagrangian_against_plain_numpy():
    output, x = made(n=2, side=32)
    output = output._replace(side_bits=torch.tensor([10.0, 30.0]))
    loss = rate_distortion(output, x)
    bits = sum(-np.log2(v.numpy()).reshape(2, -1).sum(1) for v in output.likelihoods.values())
    bpp = ((bits + np.array([10, 30])) / 32**2).mean()
    mse = 255**2 * ((output.x_hat.detach() - x) ** 2).mean().item()
    assert loss.bpp.item() == pytest.approx(bpp, rel=1e-5) and loss.mse.item() == pytest.approx(mse, rel=1e-5)
    assert loss.distortion.item() == pytest.approx(mse, rel=1e-5)
    assert loss.loss.item() == pytest.approx(bpp + 0.01 * mse, rel=1e-5)


def test_a_penalty_is_added_picture_by_picture():
    output, x = made(n=2)
    plain = rate_distortion(output, x)
    more = rate_distortion(output._replace(penalty=torch.tensor([0.5, 1.0])), x)
    assert more.loss.item() == pytest.approx(plain.loss.item() + 0.75, rel=1e-6)
    assert torch.equal(more.bpp, plain.bpp) and torch.equal(more.distortion, plain.distortion)


@given(st.integers(0, 255), st.floats(0, 1), st.floats(0.3, 2), st.sampled_from(DISTORTIONS))
@settings(max_examples=15)
def test_constant_saliency_is_exactly_the_uniform_loss(value, alpha, gamma, distortion):
    output, x = made(n=1, side=48)
    s = torch.full((1, 1, 48, 48), value / 255)
    weighted = rate_distortion(output, x, weight=weight_map(s, alpha=alpha, gamma=gamma), distortion=distortion)
    uniform = rate_distortion(output, x, distortion=distortion)
    if distortion == "ms_ssim":  # unweighted pooling is another order of summation
        assert weighted.loss.item() == pytest.approx(uniform.loss.item(), rel=1e-6)
    else:
        assert torch.equal(weighted.loss, uniform.loss)


@pytest.mark.parametrize("distortion", DISTORTIONS)
def test_weights_move_the_loss_and_its_gradient(distortion):
    output, x = made(n=1)
    s = torch.zeros(1, 1, 64, 64)
    s[..., :32] = 1
    with torch.no_grad():
        output.x_hat[..., :32] += 0.2 * torch.randn_like(output.x_hat[..., :32])
    w = weight_map(s, alpha=0.05, gamma=1)
    weighted = rate_distortion(output, x, weight=w, distortion=distortion)
    uniform = rate_distortion(output, x, distortion=distortion)
    assert weighted.distortion > uniform.distortion * 1.1
    assert torch.equal(weighted.mse, uniform.mse) and torch.equal(weighted.bpp, uniform.bpp)
    (gradient,) = torch.autograd.grad(weighted.loss, output.x_hat)
    assert gradient[..., :20].abs().mean() > 5 * gradient[..., 44:].abs().mean()


@pytest.mark.parametrize("distortion", DISTORTIONS)
def test_lambda_at_each_place_is_a_weight_and_all_valid_is_no_mask(distortion):
    output, x = made(n=2)
    field = torch.rand(2, 1, 64, 64)
    weighted = rate_distortion(output, x, weight=field, distortion=distortion)
    placed = rate_distortion(output._replace(lmbda=0.01 * field), x, distortion=distortion)
    valid = rate_distortion(output, x, weight=field, distortion=distortion, valid=torch.ones(2, 1, 64, 64))
    assert placed.loss.item() == pytest.approx(weighted.loss.item(), rel=1e-5)
    assert valid.loss.item() == pytest.approx(weighted.loss.item(), rel=1e-6)


@pytest.mark.parametrize("distortion", DISTORTIONS)
def test_padding_never_counts(distortion):
    output, x = made(n=2, side=64)
    valid = torch.ones(2, 1, 64, 64)
    valid[0, :, 40:] = 0
    changed = output._replace(x_hat=output.x_hat.detach().clone())
    changed.x_hat[0, :, 40:] += 0.5
    kept, other = (rate_distortion(o, x, distortion=distortion, valid=valid) for o in (output, changed))
    # windows reach over the border, so that a similarity near it sees the padding; the error itself does not
    assert torch.equal(kept.mse, other.mse)
    if distortion == "mse":
        assert torch.equal(kept.loss, other.loss)
    bits = sum(-torch.log2(v).flatten(1).sum(1) for v in output.likelihoods.values())
    assert kept.bpp.item() == pytest.approx((bits / torch.tensor([40 * 64, 64 * 64])).mean().item(), rel=1e-5)


def test_ms_ssim_is_the_reference_where_five_scales_fit():
    g = torch.Generator().manual_seed(1)
    x = torch.nn.functional.avg_pool2d(torch.rand(2, 3, 2 * 192, 2 * 176, generator=g), 2)
    x_hat = x + 0.05 * torch.randn(x.shape, generator=g)
    reference = reference_ms_ssim(x_hat, x, data_range=1.0, size_average=False)
    torch.testing.assert_close(ms_ssim(x_hat, x), reference, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ms_ssim(x_hat, x, weight=torch.full((2, 1, 192 * 2 // 2, 176), 3.0)), reference)


def test_perfect_pictures():
    x = torch.rand(1, 3, 40, 48)
    assert ms_ssim(x, x).item() == pytest.approx(1) and l1_ms_ssim(x, x).abs().max() < 1e-5


def test_zhao_mix_of_a_constant_shift():
    x = torch.full((1, 3, 64, 64), 0.5)
    mixed = l1_ms_ssim(x + 0.1, x)
    luminance = (2 * 0.6 * 0.5 + 1e-4) / (0.36 + 0.25 + 1e-4)
    assert mixed.mean().item() == pytest.approx(0.84 * (1 - luminance) + 0.16 * 0.1, rel=5e-3)


def test_unknown_distortion_and_too_small():
    output, x = made(n=1, side=16)
    with pytest.raises(FoveaError, match="lpips"):
        rate_distortion(output, x, distortion="lpips")
    with pytest.raises(FoveaError, match="11×11"):
        ms_ssim(x[..., :8], x[..., :8])
