import pytest
import torch

from models.training.critics import (
    Discriminators,
    EfficientFeatures,
    discriminator_loss,
    feature_matching,
    generator_loss,
    perceptual_distance,
)


def judged(value):
    return [[torch.full((1, 2, 4, 4), value), torch.full((1, 1, 2, 2), value)] for _ in range(3)]


def test_least_squares_targets():
    assert discriminator_loss(judged(1.0), judged(0.0)) == 0 and discriminator_loss(judged(0.0), judged(1.0)) == 1
    assert generator_loss(judged(1.0)) == 0 and generator_loss(judged(0.0)) == 0.5
    mixed = [*judged(1.0)[:1], *judged(0.0)[1:]]
    assert generator_loss(mixed, 1) == 0 and generator_loss(mixed) == pytest.approx(1 / 3)


def test_feature_matching_leaves_out_the_verdict_and_the_pictures_gradient():
    real, fake = judged(0.0), judged(0.25)
    for scale in (*real, *fake):
        for layer in scale:
            layer.requires_grad_(True)
    loss = feature_matching(real, fake)
    assert loss == 0.25
    loss.backward()
    assert real[0][0].grad is None and fake[0][0].grad is not None and fake[0][-1].grad is None


def test_three_scales_see_halved_pictures():
    torch.manual_seed(0)
    found = Discriminators(4)(torch.rand(1, 3, 64, 64))
    assert [s[-1].shape[2:] for s in found] == [(8, 8), (4, 4), (2, 2)] and [s[0].shape[1] for s in found] == [4, 4, 4]


def test_the_perceptual_distance_grows_with_blur_and_passes_gradients():
    network = EfficientFeatures("efficientnet")
    torch.manual_seed(0)
    x = torch.nn.functional.interpolate(torch.rand(2, 3, 16, 16), scale_factor=4, mode="bilinear")
    x = (x + 0.2 * torch.rand(2, 3, 64, 64)).clamp(0, 1)
    light = torch.nn.functional.avg_pool2d(x, 3, stride=1, padding=1)
    heavy = torch.nn.functional.avg_pool2d(x, 9, stride=1, padding=4)
    values = [perceptual_distance(network, y, x) for y in (x, light, heavy)]
    assert values[0].abs().max() < 1e-5 and (values[1] < values[2]).all() and values[1].shape == (2,)
    x_hat = light.clone().requires_grad_(True)
    perceptual_distance(network, x_hat, x).sum().backward()
    assert x_hat.grad is not None and x_hat.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in network.parameters())
    weight = torch.zeros(2, 1, 64, 64)
    assert perceptual_distance(network, light, x, weight).abs().max() == 0


def test_deep_features_count_the_coarse_ones_most():
    plain, deep = EfficientFeatures("efficientnet"), EfficientFeatures("efficientnet-deep")
    torch.manual_seed(0)
    x, y = torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64)
    found = deep(x)
    assert [tuple(f.shape[1:]) for f in found] == [(16, 32, 32), (24, 16, 16), (40, 8, 8), (112, 4, 4)]
    for a, b in zip(found, plain(x), strict=False):
        assert torch.allclose(a, b, atol=1e-4)
    unit = [[f / f.square().sum(dim=1, keepdim=True).sqrt() for f in deep(p)] for p in (x, y)]
    each = [(a - b).abs().sum(dim=1).mean() for a, b in zip(*unit, strict=True)]
    written_out = sum(s * d for s, d in zip((1, 2, 4, 8), each, strict=True)) / 15
    assert perceptual_distance(deep, y, x) == pytest.approx(float(written_out), rel=1e-4)
    assert perceptual_distance(plain, y, x) == pytest.approx(float(sum(each[:3]) / 3), rel=1e-4)
