import numpy as np
import pytest
import torch

from models.saliency import losses, metrics


@pytest.fixture
def maps():
    generator = torch.Generator().manual_seed(3)
    prediction = torch.rand(2, 1, 12, 16, generator=generator) + 0.01
    density = torch.rand(2, 1, 12, 16, generator=generator) + 0.01
    fixations = (torch.rand(2, 1, 12, 16, generator=generator) > 0.9).float()
    return prediction, density / density.sum((2, 3), keepdim=True), fixations


def test_losses_are_the_metrics(maps):
    prediction, density, fixations = maps
    p, y = prediction[:, 0].numpy().astype(float), density[:, 0].numpy().astype(float)
    points = [np.argwhere(f.numpy())[:, ::-1].astype(float) for f in fixations[:, 0]]
    expected = [np.mean([measure(p[i], y[i]) for i in range(2)]) for measure in (metrics.cc, metrics.kl)]
    cc, kl, nss = *expected, np.mean([metrics.nss(p[i], points[i]) for i in range(2)])
    assert losses.correlation(prediction, density).item() == pytest.approx(cc, abs=1e-5)
    assert losses.kl_divergence(prediction, density).item() == pytest.approx(kl, abs=1e-4)
    assert losses.normalised_scanpath_saliency(prediction, fixations).item() == pytest.approx(nss, abs=1e-4)
    loss, parts = losses.sam_loss(*maps)
    assert [float(part) for part in parts] == pytest.approx([kl, cc, nss], abs=1e-4)
    assert float(loss) == pytest.approx(10 * kl - 2 * cc - nss, abs=1e-3)


def test_counts_weigh(maps):
    prediction, _, _ = maps
    one = torch.zeros_like(prediction)
    one[:, :, 2, 3] = 1.0
    other = torch.zeros_like(prediction)
    other[:, :, 7, 9] = 1.0
    nss = losses.normalised_scanpath_saliency
    expected = (3 * nss(prediction, one) + nss(prediction, other)) / 4
    assert nss(prediction, 3 * one + other).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["flat", "peak"])
def test_gradients_are_finite_at_the_extremes(maps, kind):
    _, density, fixations = maps
    logits = torch.zeros(2, 1, 12, 16)
    if kind == "peak":
        logits[:, :, 5, 5] = 60.0
    logits.requires_grad_()
    prediction = torch.softmax(logits.flatten(1), 1).view_as(logits)
    loss, _ = losses.sam_loss(prediction, density, fixations)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()
