"""Gain vectors: one model for all rates, and for several rates within one picture.

    y ── − median ── × gain(level) ── round ── q ── × inverse_gain(level) ── + median ── y_hat

Cui et al. 2021, "Asymmetric gained deep image compression with continuous rate adaptation": a pair of vectors a level,
one scale a channel, between two levels the geometric interpolation of their eq. 3. The level may differ from place to
place. Gains are kept as logarithms, so they stay positive and interpolate linearly.

At high rate the best step size goes with lambda^−1/2 (D = Δ²/12, 6.02 dB a bit): that is where they start, the inverse
gain at the reciprocal.
"""

import math

import torch
from torch import Tensor, nn


class Gain(nn.Module):
    """Gain and inverse gain of `channels` latents over the levels of `lmbda`.

    With a single level both are 1 and there is nothing to learn. The middle of the range starts at gain 1.
    """

    def __init__(self, channels: int, lmbda: tuple[float, ...]):
        super().__init__()
        self.levels = len(lmbda)
        if self.levels > 1:
            logs = torch.tensor([math.log(v) for v in lmbda], dtype=torch.float64)
            start = (0.5 * (logs - 0.5 * (logs[0] + logs[-1]))).float()
            self.log_gain = nn.Parameter(start[:, None].repeat(1, channels))
            self.log_inverse_gain = nn.Parameter(-start[:, None].repeat(1, channels))

    def forward(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """level: N×1×h×w in [0, L−1], fractions allowed. Gain and inverse gain: N×M×h×w each."""
        low = level.floor().clamp(0, self.levels - 2)
        part = (level - low).movedim(1, -1)
        # a level that is no number gives gains that are none, not an index out of range: training skips such a step
        index = torch.nan_to_num(low[:, 0]).long()
        return self._between(self.log_gain, index, part), self._between(self.log_inverse_gain, index, part)

    @staticmethod
    def _between(logs: Tensor, index: Tensor, part: Tensor) -> Tensor:
        low, high = logs[index], logs[index + 1]
        return torch.exp(low + part * (high - low)).movedim(-1, 1)
