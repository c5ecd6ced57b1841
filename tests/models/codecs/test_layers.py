import pytest
import torch
from compressai.layers import GDN as CompressAIGDN
from hypothesis import given
from hypothesis import strategies as st

from models.codecs.layers import GDN, GDN_BLOCK, Deconvolution, Subpixel, deconv


def pair_of(channels, inverse):
    """CompressAI's layer and ours with the same weights, moved from where they start."""
    torch.manual_seed(0)
    theirs, ours = CompressAIGDN(channels, inverse=inverse), GDN(channels, inverse=inverse)
    with torch.no_grad():
        theirs.gamma.add_(0.02 * torch.rand(channels, channels))
        theirs.beta.add_(torch.rand(channels))
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "shape", [(2, 6, 9, 7), *((1, 48, *s) for s in ((1, 1), (7, 9), (33, 47), (1, GDN_BLOCK), (64, 96)))]
)
def test_gdn_has_compressais_bits_with_and_without_gradient(inverse, layout, shape):
    """A batch; and one picture on one thread, below, at and above what it takes at once."""
    theirs, ours = pair_of(shape[1], inverse)
    x = torch.randn(shape).contiguous(memory_format=layout)
    kept = x.clone()
    assert torch.equal(ours(x), theirs(x))
    with torch.inference_mode():
        got, expected = ours(x), theirs(x)
    assert torch.equal(got, expected) and got.stride() == expected.stride()
    assert torch.equal(x, kept), "the input stays as it is"


def with_gradients(layer, x, probe):
    """The layer's result, and the gradients of probe·result by x and by each parameter."""
    x = x.detach().requires_grad_()
    layer.zero_grad()
    y = layer(x)
    (y * probe).sum().backward()
    return [y.detach(), x.grad, *(p.grad.clone() for p in layer.parameters())]


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("size", [(1, 3), (5, 7), (70, 65)])
def test_gdn_of_channels_last_has_compressais_gradients(inverse, size):
    """Sizes below and above what it takes at once; a gradient in torch's default layout, too."""
    theirs, ours = pair_of(6, inverse)
    x = torch.randn(2, 6, *size).contiguous(memory_format=torch.channels_last)
    probe = torch.randn(2, 6, *size)
    expected = with_gradients(theirs, x, probe)
    for layout in (torch.contiguous_format, torch.channels_last):
        assert "Normalised" in type(ours(x).grad_fn).__name__
        found = with_gradients(ours, x, probe.contiguous(memory_format=layout))
        assert found[0].is_contiguous(memory_format=torch.channels_last)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * float(b.abs().max()))


@pytest.mark.parametrize(("kernel", "stride"), [(5, 2), (9, 4)])
def test_a_deconvolution_of_channels_last_has_torchs_gradients(kernel, stride):
    torch.manual_seed(0)
    ours = deconv(4, 3, kernel, stride).double()
    assert isinstance(ours, Deconvolution)
    theirs = torch.nn.ConvTranspose2d(4, 3, kernel, stride, kernel // 2, output_padding=stride - 1, dtype=torch.float64)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 4, 5, 7, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    probe = torch.randn(2, 3, 5 * stride, 7 * stride, dtype=torch.float64)
    assert "PixelShuffle" in type(ours(x).grad_fn).__name__
    for a, b in zip(with_gradients(ours, x, probe), with_gradients(theirs, x, probe), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_gdn_of_any_strides():
    _, gdn = pair_of(6, False)
    x = torch.randn(1, 6, 9, 14)
    with torch.inference_mode():
        for view in (x.transpose(2, 3), x[..., ::2], x.permute(0, 1, 3, 2)[..., 1:]):
            assert torch.equal(gdn(view), gdn(view.contiguous()))


def test_gdn_under_autocast_is_compressais():
    torch.manual_seed(0)
    theirs, ours = CompressAIGDN(4), GDN(4)
    x = torch.randn(1, 4, 5, 5)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ours(x), theirs(x))


@given(
    kernel=st.sampled_from([1, 3, 5, 7, 9]),
    stride=st.integers(1, 4),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_the_subpixel_form_is_the_layer(kernel, stride, height, width, seed):
    torch.manual_seed(seed)
    layer = deconv(2, 3, kernel, stride).double()
    x = torch.randn(1, 2, height, width, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(Subpixel(layer)(x), layer(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "change",
    [
        {"dilation": 2},
        {"groups": 2},
        {"output_padding": 0},
        {"kernel_size": (3, 5), "padding": (1, 2)},
        {"stride": (2, 1), "output_padding": (1, 0)},
    ],
)
def test_other_layers_have_no_subpixel_form(change):
    given = {"kernel_size": 5, "stride": 2, "padding": 2, "output_padding": 1, **change}
    assert not Subpixel.fits(torch.nn.ConvTranspose2d(4, 4, **given))
    assert Subpixel.fits(deconv(4, 4)) and Subpixel.fits(deconv(4, 3, 9, 4))
    assert not Subpixel.fits(torch.nn.Conv2d(4, 4, 5))
