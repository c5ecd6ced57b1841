import pytest
import torch
from torch import nn

from models.codecs.base import CodecConfig
from models.codecs.catalogue import build
from models.training.checkerboard import checkerboard, ripple


def even(layer: nn.Module) -> nn.Module:
    """All weights 1, no bias: what is uneven is the overlap."""
    for p in layer.parameters():
        nn.init.constant_(p, 1.0 if p.ndim == 4 else 0.0)
    return layer


LATENT = torch.ones(1, 2)


def test_uneven_overlap_scores_high_and_smooth_upsampling_zero():
    uneven = even(nn.ConvTranspose2d(2, 1, 3, stride=2))
    covered = even(nn.ConvTranspose2d(2, 1, 4, stride=2))
    smooth = nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), even(nn.Conv2d(2, 1, 3, padding=1)))
    holes = even(nn.ConvTranspose2d(2, 1, 5, stride=2, dilation=2))
    scores = [ripple(layer, LATENT) for layer in (uneven, covered, smooth, holes)]
    # 3 taps at stride 2: 1 or 2 of them along each axis, so 2 · (1, 2, 2, 4) at the four positions, mean 4.5
    assert scores[0] == pytest.approx(torch.tensor([2.0, 4, 4, 8]).std(correction=0).item(), rel=0.05)
    assert scores[1] < 1e-5 and scores[2] < 1e-5
    assert scores[3] > 4 * scores[0]


@pytest.mark.parametrize("name", ["bls2017", "bmshj2018_factorized", "mbt2018_mean"])
def test_a_codec_s_ripple_is_in_grey_levels(name):
    torch.manual_seed(0)
    codec = build(CodecConfig(codec=name, n=4, m=6, lmbda=(0.002, 0.02))).eval()
    codec.update()
    assert 0 < checkerboard(codec) < 255
    with torch.no_grad():
        for p in codec.g_s[-1].parameters():
            p.zero_()
    assert checkerboard(codec) == 0


def test_dilated_layers_leave_holes_that_the_measure_sees():
    """Plain layers give each position some taps; with dilation 2 at stride 2 every second one gets none."""
    torch.manual_seed(0)
    plain, wide = (
        build(CodecConfig(codec="bls2017", n=4, m=6, lmbda=(0.01,), options=options)).eval()
        for options in ((), (("dilation", 2),))
    )
    assert {k: v.shape for k, v in plain.state_dict().items()} == {
        k: v.shape for k, v in wide.state_dict().items()
    }
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
