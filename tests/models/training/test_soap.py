import pytest
import torch

from models.training.soap import Soap


def ill_conditioned(rows=24, columns=20):
    """Least squares with correlated inputs and outputs: what a basis is for. Gives the loss of a matrix."""
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(columns, columns, generator=generator))[0]
    x = torch.randn(256, columns, generator=generator) @ (turn * torch.logspace(0, -2, columns)) @ turn.T
    wanted = torch.randn(rows, columns, generator=generator)
    return lambda w: ((x @ (w - wanted).T) ** 2).mean()


def trained(optimiser, loss, w, steps):
    for _ in range(steps):
        optimiser.zero_grad()
        loss(w).backward()
        optimiser.step()
    return float(loss(w).detach())


@pytest.fixture(autouse=True)
def exact():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("group", [{"plain": True}, {"widest": 1, "betas": (0.9, 0.999)}])
def test_without_a_basis_it_is_adam(group):
    """A group that wants none; and sides that are too wide, after the step that would have made the basis."""
    loss = ill_conditioned()
    a, b = (torch.nn.Parameter(torch.zeros(24, 20)) for _ in range(2))
    first = 0 if group.get("plain") else 1
    trained(Soap([{"params": [a], **group}], lr=0.01), loss, a, 30 + first)
    trained(torch.optim.Adam([b], lr=0.01), loss, b, 30)
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_it_is_faster_than_adam_where_directions_matter():
    loss = ill_conditioned()
    reached = {}
    for kind in (Soap, torch.optim.Adam):
        reached[kind] = min(
            trained(kind([w], lr=lr), loss, w, 200)
            for lr in (0.01, 0.03, 0.1)
            for w in [torch.nn.Parameter(torch.zeros(24, 20))]
        )
    assert reached[Soap] < 0.2 * reached[torch.optim.Adam]


def test_each_axis_of_a_convolution_is_turned_into_its_basis():
    """An outer product of three vectors has one direction an axis: a step along it, whatever the directions are."""
    generator = torch.Generator().manual_seed(0)
    outputs, inputs, places = (
        torch.nn.functional.normalize(torch.randn(n, generator=generator), dim=0) for n in (6, 5, 9)
    )
    direction = torch.einsum("o,i,p->oip", outputs, inputs, places).reshape(6, 5, 3, 3)
    w = torch.nn.Parameter(torch.zeros(6, 5, 3, 3))
    optimiser = Soap([w], lr=0.01, eps=1e-3)  # else noise of zeros is normalised, too
    for _ in range(4):
        w.grad = 7 * direction
        optimiser.step()
    torch.testing.assert_close(w.detach(), -0.03 * direction, rtol=0.02, atol=2e-5)


def test_every_shape_moves_and_a_saved_state_goes_on_alike():
    def parameters():
        generator = torch.Generator().manual_seed(1)
        shapes = ((), (5,), (6, 4), (8, 3, 3, 3), (4, 300))
        return [torch.nn.Parameter(torch.randn(s, generator=generator)) for s in shapes]

    def loss(values):
        return sum((v**2).sum() * (1 + i) + v.flatten()[0] ** 4 for i, v in enumerate(values))

    def steps(optimiser, values, count):
        for _ in range(count):
            optimiser.zero_grad()
            loss(values).backward()
            optimiser.step()

    whole, parts = parameters(), parameters()
    start = [p.detach().clone() for p in whole]
    steps(Soap(whole, every=4), whole, 25)
    first = Soap(parts, every=4)
    steps(first, parts, 11)
    again = Soap(parts, every=4)
    again.load_state_dict(first.state_dict())
    steps(again, parts, 14)
    for a, b, was in zip(whole, parts, start, strict=True):
        assert torch.equal(a, b) and not torch.equal(a, was)


def test_a_gradient_of_zeros_makes_a_basis_too():
    w = torch.nn.Parameter(torch.ones(4, 4))
    optimiser = Soap([w])
    for _ in range(12):
        w.grad = torch.zeros(4, 4)
        optimiser.step()
    assert torch.equal(w, torch.ones(4, 4))
