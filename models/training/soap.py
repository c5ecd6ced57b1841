"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024, arXiv 2409.11321).

A gradient has up to three axes: outputs, the places of a convolution's kernel as one, and inputs. For each, the running
average of G·Gᵀ with the others flattened has eigenvectors that turn G into a basis in which Adam's second moment is nearly
a whole matrix. The bases are refreshed by one step of power iteration and QR every few steps (the paper's algorithm 4). An
axis longer than `widest` keeps its own basis, as do vectors: then it is Adam. Axes of their own for inputs and places are
what lets fine detail be learned: pictures' neighbouring pixels are alike, and a descent that does not know it spends its
steps on what they share.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from models.device import has_bfloat16


class Soap(torch.optim.Optimizer):
    """Groups with `plain` = True are Adam's with betas 0.9 and 0.999 (quantiles).

    lr: as for Adam. betas: of the moments. shampoo: decay of the averages of G·Gᵀ. every: steps between new bases. The
    very first step changes nothing: it makes the bases. Products are taken in bfloat16 where nothing asks torch to be
    deterministic and the processor has them.
    """

    def __init__(self, params: Iterable[Any], lr: float = 3e-3, eps: float = 1e-8, every: int = 10):
        own = {"betas": (0.95, 0.95), "shampoo": 0.95, "widest": 768, "plain": False}
        super().__init__(params, {"lr": lr, "eps": eps, "every": every, **own})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
        before = matmul.fp32_precision
        if not torch.are_deterministic_algorithms_enabled() and has_bfloat16(torch.device("cpu")):
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
        assert parameter.grad is not None
        gradient = _axes(parameter.grad)
        if not state:
            state["steps"] = 0
            state["first"], state["second"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
            wide = group["plain"] or gradient.ndim < 2
            for axis, size in enumerate(() if wide else gradient.shape):
                if 1 < size <= group["widest"]:
                    mean = _outer(gradient, axis)
                    state[f"mean{axis}"], state[f"basis{axis}"] = mean, _basis(mean)
            if not wide:
                return
        turned = [axis for axis in range(gradient.ndim) if f"mean{axis}" in state]
        state["steps"] += 1
        beta1, beta2 = (0.9, 0.999) if group["plain"] else group["betas"]
        seen = gradient
        for axis in turned:
            seen = _turn(seen, state[f"basis{axis}"], axis)
        # the first moment is kept in the basis, and turned with it
        first = state["first"].lerp_(seen, 1 - beta1)
        second = state["second"].mul_(beta2).addcmul_(seen, seen, value=1 - beta2)
        correction = 1 - beta1 ** state["steps"]
        move = first / (second / (1 - beta2 ** state["steps"])).sqrt_().add_(group["eps"])
        for axis in turned:
            move = _turn(move, state[f"basis{axis}"].T, axis)
        if parameter.ndim > 2:
            move = move.mT
        parameter.add_(move.reshape(parameter.shape), alpha=-group["lr"] / correction)
        for axis in turned:
            state[f"mean{axis}"].lerp_(_outer(gradient, axis), 1 - group["shampoo"])
            if state["steps"] % group["every"] == 0:
                _refresh(state, axis)


def _axes(gradient: Tensor) -> Tensor:
    """A vector, or outputs (× places) × inputs."""
    if gradient.ndim > 2:
        return gradient.flatten(2).mT.contiguous()
    return gradient.contiguous() if gradient.ndim else gradient.reshape(1)


def _outer(gradient: Tensor, axis: int) -> Tensor:
    if axis == gradient.ndim - 1:
        rows = gradient.flatten(0, -2)
        return rows.T @ rows
    rows = gradient.movedim(axis, 0).flatten(1)
    return rows @ rows.T


def _basis(mean: Tensor) -> Tensor:
    """Eigenvectors, the largest eigenvalue's first."""
    scaled = mean.double() / mean.abs().max().clamp_min(1e-30)
    ridge = 1e-9 * torch.eye(len(mean), dtype=torch.float64, device=mean.device)
    return torch.linalg.eigh(scaled + ridge)[1].flip(1).to(mean.dtype).contiguous()


def _turn(values: Tensor, basis: Tensor, axis: int) -> Tensor:
    """One axis into the basis, or with its transpose back."""
    if axis == values.ndim - 1:
        return values @ basis
    if axis == 0:
        return (basis.T @ values.flatten(1)).reshape(values.shape)
    return basis.T @ values


def _refresh(state: dict[str, Any], axis: int) -> None:
    """A new basis of an axis: the moments move into it, the second one by the order of its columns."""
    basis = state[f"basis{axis}"]
    product = state[f"mean{axis}"] @ basis
    order = (basis * product).sum(dim=0).argsort(descending=True)
    new = torch.linalg.qr(product[:, order])[0].contiguous()
    state["second"] = state["second"].index_select(axis, order)
    state["first"] = _turn(state["first"], basis.T @ new, axis).contiguous()
    state[f"basis{axis}"] = new
