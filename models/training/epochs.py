"""What trainings of saliency models share: epochs over pictures, of which held-out ones choose the best."""

import json
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from models.training.loop import Objective


class Epochs(Objective):
    """A row an epoch: the training's numbers and those of the validation pictures. The best epoch's weights are kept.
    `row_every` is the number of steps of an epoch."""

    #: between `train` or `val` and a number's name
    mark: str

    def __init__(self) -> None:
        self.best: dict[str, Tensor] = {}
        self.history: list[dict[str, float]] = []

    @abstractmethod
    def validated(self) -> tuple[dict[str, float], Mapping[str, Tensor]]:
        """Numbers of the validation pictures, and the tensors that they judge."""

    @abstractmethod
    def score(self, row: Mapping[str, float]) -> float:
        """How good an epoch is; the highest is kept."""

    @abstractmethod
    def out_of_patience(self) -> bool:
        """Whether further epochs have stopped to be worth it."""

    def best_epoch(self) -> int:
        """The first of those with the highest score."""
        scores = [self.score(row) for row in self.history]
        return scores.index(max(scores))

    def row(self, step: int, means: dict[str, float]) -> tuple[int, dict[str, float]]:
        """See Objective; the number is the epoch's, from 0."""
        seen, judged = self.validated()
        row = {f"train{self.mark}{k}": means[k] for k in self.names}
        row |= {f"val{self.mark}{k}": v for k, v in seen.items()}
        self.history.append(row)
        if self.best_epoch() == len(self.history) - 1:
            self.best = {k: v.detach().clone() for k, v in judged.items()}
        return len(self.history) - 1, row

    def done(self, step: int) -> bool:
        return step >= self.steps or (step % self.row_every == 0 and bool(step) and self.out_of_patience())

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "history": json.dumps(self.history)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.best, self.history = dict(state["best"]), json.loads(state["history"])
