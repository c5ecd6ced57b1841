"""The network: layers against plain PyTorch, folding, sizes, loading."""

import hashlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from models.errors import FoveaError
from models.saliency import sam_lite
from models.saliency.catalogue import describe_weights, weights_path
from models.saliency.layers import AttentiveConvLSTM, ConvNorm, GaussianPriors, same_padding


@pytest.fixture(scope="module")
def shipped():
    return sam_lite.load_sam_lite(weights_path("sam_lite"))


def pictures(n=1, height=96, width=128, seed=0):
    noise = torch.randint(0, 256, (n, height, width, 3), generator=torch.Generator().manual_seed(seed))
    return sam_lite.normalise(noise.to(torch.uint8))


@given(st.integers(16, 300), st.sampled_from([3, 5]), st.sampled_from([1, 2]))
def test_same_padding_is_tensorflows(size, kernel, stride):
    before, after = same_padding(size, kernel, stride)
    assert (size + before + after - kernel) // stride + 1 == -(-size // stride) and after - before in (0, 1)


@pytest.mark.parametrize(("kernel", "stride", "groups"), [(1, 1, 1), (3, 2, 1), (5, 2, 6), (3, 1, 6)])
def test_conv_norm_equals_convolution_and_batch_norm(kernel, stride, groups):
    torch.manual_seed(0)
    layer = ConvNorm(6, 12, kernel, stride, groups)
    norm = layer.norm
    with torch.no_grad():
        for tensor in (norm.weight, norm.running_var):
            tensor.uniform_(0.5, 2.0)
        for tensor in (norm.bias, norm.running_mean):
            tensor.uniform_(-1.0, 1.0)
    layer.eval()
    x = torch.randn(2, 6, 13, 18)
    top, bottom = same_padding(13, kernel, stride)
    left, right = same_padding(18, kernel, stride)
    padded = F.pad(x, (left, right, top, bottom))
    expected = F.relu6(norm(F.conv2d(padded, layer.weight, None, stride, 0, 1, groups)))
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)
    layer.fold()
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)
    assert layer.norm is None


def test_conv_norm_learns_statistics_only_in_training():
    layer = ConvNorm(3, 4)
    before = layer.norm.running_mean.clone()
    x = torch.randn(8, 3, 6, 6) + 2.0
    layer.eval()
    layer(x)
    assert torch.equal(layer.norm.running_mean, before)
    layer.train()
    y = layer(x)
    assert not torch.equal(layer.norm.running_mean, before) and y.min() >= 0.0


def test_attention_starts_uniform_and_has_mean_one():
    torch.manual_seed(0)
    lstm = AttentiveConvLSTM(8)
    x = torch.randn(2, 8, 5, 7)
    attention = lstm.attention(lstm.u_a(x), None)
    torch.testing.assert_close(attention, torch.ones_like(attention))
    torch.nn.init.normal_(lstm.v_a.weight)
    attention = lstm.attention(lstm.u_a(x), torch.tanh(x))
    torch.testing.assert_close(attention.mean((2, 3)), torch.ones(2, 1))
    assert attention.std() > 0.1


def test_recurrence_follows_the_paper():
    """The gates written out one by one, h and c starting at zero."""
    torch.manual_seed(1)
    lstm = AttentiveConvLSTM(4, steps=3)
    torch.nn.init.normal_(lstm.v_a.weight)
    x = torch.randn(1, 4, 6, 5)
    h = c = torch.zeros_like(x)
    for step in range(3):
        # at the first step the hidden state's convolutions, biases included, are left out
        seen = lstm.w_a(h) if step else 0.0
        e = lstm.v_a(torch.tanh(seen + lstm.u_a(x)))
        a = torch.softmax(e.flatten(), 0).view_as(e) * 30
        total = lstm.w(a * x) + (lstm.u(h) if step else 0.0)
        i, f, o, g = total[:, :4], total[:, 4:8], total[:, 8:12], total[:, 12:]
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
    torch.testing.assert_close(lstm(x), h, atol=1e-6, rtol=1e-5)


def test_priors_are_clipped_and_scaled():
    priors = GaussianPriors(2)
    with torch.no_grad():
        priors.mu.copy_(torch.tensor([[0.5, 9.0], [0.5, -9.0]]))
        priors.sigma.copy_(torch.tensor([[0.2, 0.2], [0.3, 0.3]]))
    maps = priors(41, 61)[0]
    assert maps.shape == (2, 41, 61)
    torch.testing.assert_close(maps.amax((1, 2)), torch.ones(2))
    assert maps[0].argmax() == 20 * 61 + 30 and maps[1].argmax() == 10 * 61 + 45
    torch.testing.assert_close(maps[0, 20, 30 + 12], torch.tensor(np.exp(-0.5), dtype=torch.float32))


def test_imagenet_weights_fill_the_backbone():
    state = sam_lite.imagenet_weights()
    network = sam_lite.EfficientNetLite0()
    network.load_state_dict(state)
    assert sum(p.numel() for p in network.parameters()) == 2_958_848
    features = network.eval()(pictures())
    assert [tuple(f.shape[1:]) for f in features] == [(40, 12, 16), (112, 6, 8), (320, 3, 4)]


@torch.inference_mode()
def test_folding_changes_nothing(shipped):
    folded = sam_lite.load_sam_lite(weights_path("sam_lite")).fold()
    assert not [m for m in folded.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    x = pictures(2)
    torch.testing.assert_close(folded(x), shipped(x), atol=2e-4, rtol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("size", [(32, 32), (48, 160), (240, 32)])
def test_log_densities(shipped, size):
    y = shipped(pictures(2, *size))
    assert y.shape[:2] == (2, 1) and abs(y.shape[2] - size[0] / 4) <= 1
    torch.testing.assert_close(y.exp().sum((1, 2, 3)), torch.ones(2), atol=1e-4, rtol=0)


def test_blur_keeps_mass_and_spreads():
    maps = torch.zeros(1, 1, 31, 41)
    maps[..., 15, 20] = 1.0
    blurred = sam_lite.gaussian_blur(maps, 2.0)
    assert blurred.sum().item() == pytest.approx(1.0, abs=1e-5)
    assert (blurred[..., 15, 22] / blurred[..., 15, 20]).item() == pytest.approx(np.exp(-0.5), rel=1e-4)
    assert torch.equal(sam_lite.gaussian_blur(maps, 0.0), maps)


@given(st.integers(16, 5000), st.integers(16, 5000), st.sampled_from([224, 240, 256]))
def test_working_size(height, width, rows):
    h, w = sam_lite.working_size(height, width, rows)
    assert h % 16 == w % 16 == 0 and 32 <= min(h, w) <= rows + 8 and max(h, w) <= 3 * rows + 8
    if max(height, width) <= 3 * min(height, width):
        assert min(h, w) == pytest.approx(rows, abs=8) and w / h == pytest.approx(width / height, rel=0.08)


def test_working_size_of_the_usual_pictures():
    assert sam_lite.working_size(600, 800, 240) == (240, 320) and sam_lite.working_size(256, 512, 256) == (256, 512)


def test_shipped_file_is_what_its_description_says():
    path = weights_path("sam_lite")
    described = describe_weights(path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == described["sha256"] and path.stat().st_size <= 8_000_000
    assert described["train"]["count"] == 500 and described["train"]["last"] < described["validation"]["first"]
    assert described["validation"]["last"] == "1560.jpg"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("readout.weight"), "readout.weight"),
        (lambda state: state.update({"readout.weight": torch.zeros(1, 5, 1, 1)}), "readout.weight"),
        (lambda state: state.update({"extra.weight": torch.zeros(1)}), "extra.weight"),
    ],
)
def test_bad_weights_are_refused(change, said, tmp_path, shipped):
    path = tmp_path / "sam_lite.safetensors"
    state = {k: v.clone() for k, v in shipped.state_dict().items() if not k.endswith("num_batches_tracked")}
    change(state)
    save_file(state, path)
    with pytest.raises(FoveaError, match=said):
        sam_lite.load_sam_lite(path)


@pytest.mark.parametrize("write", [lambda path: torch.save({}, path), lambda path: path.write_text("no weights")])
def test_what_is_no_safetensors_file_is_refused(write, tmp_path):
    write(tmp_path / "sam_lite.safetensors")
    with pytest.raises(FoveaError, match="safetensors"):
        sam_lite.load_sam_lite(tmp_path / "sam_lite.safetensors")
