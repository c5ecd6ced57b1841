"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024, arXiv 2409.11321).

For a gradient G (out × in) running averages L of G·Gᵀ and R of Gᵀ·G have eigenvectors that turn G into a basis in which
Adam's second moment is nearly a whole matrix. The bases are refreshed by one step of power iteration and QR every few
steps (the paper's algorithm 4). A side longer than `widest` keeps its own basis, as do vectors: then it is Adam.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class Soap(torch.optim.Optimizer):
    """Groups with `plain` = True are Adam's with betas 0.9 and 0.999 (quantiles).

    lr: as for Adam. betas: of the moments. shampoo: decay of L and R. every: steps between new bases. The very first step
    changes nothing: it makes the bases. Products are taken in bfloat16 where nothing asks torch to be deterministic and
    the processor has them.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 3e-3,
        betas: tuple[float, float] = (0.95, 0.95),
        shampoo: float = 0.95,
        eps: float = 1e-8,
        every: int = 10,
        widest: int = 256,
    ):
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "shampoo": shampoo,
                "eps": eps,
                "every": every,
                "widest": widest,
                "plain": False,
            },
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
        before = matmul.fp32_precision
        if not torch.are_deterministic_algorithms_enabled():
            matmul.fp32_precision = "bf16"
        try:
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._move(parameter, group)
        finally:
            matmul.fp32_precision = before

    def _move(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        gradient = _matrix(parameter.grad)
        if not state:
            state["steps"] = 0
            state["first"], state["second"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
            sides = () if group["plain"] or parameter.ndim < 2 else _SIDES
            for name, axis in sides:
                if 1 < gradient.shape[axis] <= group["widest"]:
                    mean = _outer(gradient, axis)
                    state[name] = mean
                    state[f"{name}_basis"] = _basis(mean)
            if sides:
                return
        state["steps"] += 1
        beta1, beta2 = (0.9, 0.999) if group["plain"] else group["betas"]
        turned = _turn(state, gradient)
        # the first moment is kept in the basis, and turned with it
        first = state["first"].lerp_(turned, 1 - beta1)
        second = state["second"].mul_(beta2).addcmul_(turned, turned, value=1 - beta2)
        correction = 1 - beta1 ** state["steps"]
        root = (second / (1 - beta2 ** state["steps"])).sqrt_().add_(group["eps"])
        move = _turn_back(state, first / root)
        parameter.add_(move.reshape(parameter.shape), alpha=-group["lr"] / correction)
        for name, axis in _SIDES:
            if name in state:
                state[name].lerp_(_outer(gradient, axis), 1 - group["shampoo"])
                if state["steps"] % group["every"] == 0:
                    _refresh(state, name, axis)


_SIDES = (("left", 0), ("right", 1))


def _matrix(gradient: Tensor | None) -> Tensor:
    """out × everything else; a vector is a column."""
    assert gradient is not None
    gradient = gradient.contiguous()
    return gradient.reshape(gradient.shape[0], -1) if gradient.ndim else gradient.reshape(1, 1)


def _outer(gradient: Tensor, axis: int) -> Tensor:
    return gradient @ gradient.T if axis == 0 else gradient.T @ gradient


def _basis(mean: Tensor) -> Tensor:
    """Eigenvectors, the largest eigenvalue's first."""
    scaled = mean.double() / mean.abs().max().clamp_min(1e-30)
    ridge = 1e-9 * torch.eye(len(mean), dtype=torch.float64, device=mean.device)
    return torch.linalg.eigh(scaled + ridge)[1].flip(1).to(mean.dtype).contiguous()


def _turn(state: dict[str, Any], values: Tensor) -> Tensor:
    """Into the basis."""
    if "left" in state:
        values = state["left_basis"].T @ values
    return values @ state["right_basis"] if "right" in state else values


def _turn_back(state: dict[str, Any], values: Tensor) -> Tensor:
    if "left" in state:
        values = state["left_basis"] @ values
    return values @ state["right_basis"].T if "right" in state else values


def _refresh(state: dict[str, Any], name: str, axis: int) -> None:
    """A new basis of one side: the moments move into it, the second one by the order of its columns."""
    mean, basis = state[name], state[f"{name}_basis"]
    product = mean @ basis
    order = (basis * product).sum(dim=0).argsort(descending=True)
    new = torch.linalg.qr(product[:, order])[0].contiguous()
    change = new.T @ basis
    state["second"] = state["second"].index_select(axis, order)
    state["first"] = change @ state["first"] if axis == 0 else state["first"] @ change.T
    state[f"{name}_basis"] = new
