"""SAM's losses against the original framework's numbers and against their definitions."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models.saliency.sam_losses import cc_loss, kl_loss, nss_loss, sam_loss

GOLDEN = Path(__file__).parents[2] / "golden" / "sam"


@pytest.mark.parametrize("variant", ["vgg", "resnet"])
def test_published_numbers(variant: str) -> None:
    with np.load(GOLDEN / f"reference_{variant}.npz") as file:
        values = {k: torch.from_numpy(file[k]) for k in ("OUT", "yt", "fx", "loss_kl", "loss_cc", "loss_nss")}
    for loss, target, name in (
        (kl_loss, "yt", "loss_kl"),
        (cc_loss, "yt", "loss_cc"),
        (nss_loss, "fx", "loss_nss"),
    ):
        assert loss(values["OUT"], values[target]).item() == pytest.approx(values[name].item(), rel=1e-5)
    total = sam_loss(values["OUT"], values["yt"], values["fx"]).item()
    expected = sum(values[name].item() for name in ("loss_kl", "loss_cc", "loss_nss"))
    assert total == pytest.approx(expected, rel=1e-5)


@pytest.fixture
def maps() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    prediction, density = torch.rand(2, 3, 1, 24, 32, generator=generator)
    return prediction, density, (torch.rand(3, 1, 24, 32, generator=generator) > 0.95).float()


def test_definitions(maps: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
    prediction, density, fixations = maps
    for k in range(3):
        p, y = (m[k].flatten().double().numpy() for m in (prediction, density))
        assert cc_loss(prediction, density)[k].item() == pytest.approx(-2 * np.corrcoef(p, y)[0, 1], rel=1e-3)
        z = ((p - p.mean()) / p.std())[fixations[k].flatten().numpy() > 0]
        assert nss_loss(prediction, fixations)[k].item() == pytest.approx(-z.mean(), rel=1e-4)
        kl = (y / y.sum() * np.log((y / y.sum()) / (p / p.sum()))).sum()
        assert kl_loss(prediction, density)[k].item() == pytest.approx(10 * kl, abs=0.02)


def test_scale_of_the_prediction_counts_for_nothing(
    maps: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    prediction, density, fixations = maps
    once, thousandfold = (sam_loss(s * prediction, density, fixations).item() for s in (1, 1000))
    assert once == pytest.approx(thousandfold, rel=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_constant_maps_and_no_fixations_stay_finite(value: float) -> None:
    prediction = torch.full((2, 1, 16, 16), value, requires_grad=True)
    density = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    loss = sam_loss(prediction, density, torch.zeros(2, 1, 16, 16))
    loss.backward()
    assert loss.isfinite() and prediction.grad is not None and prediction.grad.isfinite().all()
    assert nss_loss(prediction, torch.zeros(2, 1, 16, 16)).tolist() == [0, 0]
    assert cc_loss(torch.zeros(1, 1, 16, 16), density[:1]).item() == 0
