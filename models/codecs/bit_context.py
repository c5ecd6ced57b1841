"""How likely each bit of a recurrent codec is, from bits that the decoder has already: logistic regression in integers.

Bits of an iteration are a plane of m values a place, −1 or 1, and 0 where a place has stopped. A bit is told in the
context of the eight places around and of its own in the iteration before, of those around as far as this iteration has
come, and of the place's bits before it. Places come in four phases, so that three quarters of them have neighbours of the
same iteration (`PHASES`); within a phase in raster order, a place's bits one after the other.

The weights are integers and the sum of a few hundred of them, times −1, 0 or 1, is exact in any order: every machine
reads the same bits. `fit` finds the weights from the bits of pictures; without it each bit takes one bit.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models.codecs.range_coder import RangeDecoder, RangeEncoder

PHASES = ((0, 0), (1, 1), (0, 1), (1, 0))
"""Row and column, modulo 2, of the places of each phase."""
SETS = 4
"""Weights of their own for the first, the second, the third, and all further iterations."""
UNIT = 64
"""A weight of so much is one nat."""
FINE, FAR = 16, 96
"""Probabilities are tabulated in steps of 1/FINE nat, up to FAR steps from even."""
FIXED = 1 << 20
"""A count of uses that is so high that the range coder takes the given probability as it is."""

Bits = NDArray[np.int8]
Places = tuple[NDArray[np.intp], NDArray[np.intp]]


class BitContext(nn.Module):
    """weights: int16, SETS × phases × m × (18·m around in this iteration and the one before, then m before it, then 1).
    table: int32, the probability of −1 out of 2^16 for each tabulated number of nats."""

    weights: Tensor
    table: Tensor

    def __init__(self, bits: int):
        super().__init__()
        self.bits = bits
        self.register_buffer("weights", torch.zeros(SETS, len(PHASES), bits, 19 * bits + 1, dtype=torch.int16))
        nats = torch.arange(-FAR, FAR + 1, dtype=torch.float64) / FINE
        self.register_buffer("table", torch.round(65536 * torch.sigmoid(-nats)).int())

    def write(self, planes: Bits, stops: NDArray[np.int64], first: int) -> tuple[bytes, float]:
        """The bits of the iterations from number `first` on, and how many bits that takes by the model.

        planes: all iterations, T×m×h×w. stops: h×w, how many iterations each place has.
        """
        encoder, table = RangeEncoder(), self.table.cpu().numpy()
        for t in range(first, len(planes)):
            before = planes[t - 1] if t else np.zeros_like(planes[0])
            for number, places, so_far in self._phases(planes[t], stops, t):
                own = planes[t][:, *places].T
                z = self._around(number, t, so_far, before, places) + own @ self._own(number, t).T
                zeros = table[np.clip(np.floor(z * FINE / UNIT), -FAR, FAR).astype(np.int64) + FAR]
                for p, bit in zip(zeros.ravel().tolist(), (own > 0).ravel().tolist(), strict=True):
                    encoder.bit([p, FIXED], int(bit))
        return encoder.finish(), encoder.bits

    def read(self, data: bytes, planes: Bits, stops: NDArray[np.int64], first: int, whole: bool) -> int:
        """Fill in the iterations from number `first` on, as far as `data` leads; gives how many of all there are then.

        whole: nothing was cut off from what `write` gave. Of data that was, the iterations told completely count.
        """
        decoder, table = RangeDecoder(data), self.table.tolist()
        for t in range(first, len(planes)):
            before = planes[t - 1] if t else np.zeros_like(planes[0])
            for number, places, _ in self._phases(planes[t], stops, t):
                z = self._around(number, t, planes[t], before, places)
                steps = self._own(number, t).T
                told = np.empty(z.shape, dtype=np.int8)
                for row, out in zip(z, told, strict=True):
                    for c in range(self.bits):
                        p = table[min(max(int(row[c]) * FINE // UNIT, -FAR), FAR) + FAR]
                        if decoder.bit([p, FIXED], 0):
                            out[c] = 1
                            row += steps[c]
                        else:
                            out[c] = -1
                            row -= steps[c]
                planes[t][:, *places] = told.T
            if not whole and decoder.position > len(data):
                planes[t] = 0
                return t
        return len(planes)

    def _phases(self, plane: Bits, stops: NDArray[np.int64], t: int) -> Iterator[tuple[int, Places, Bits]]:
        """The phases that have places in iteration t: the number, the places, and the bits of the phases before."""
        so_far = np.zeros_like(plane)
        for number, (row, column) in enumerate(PHASES):
            rows, columns = np.nonzero(stops[row::2, column::2] > t)
            if not len(rows):
                continue
            places = (2 * rows + row, 2 * columns + column)
            yield number, places, so_far
            so_far[:, *places] = plane[:, *places]

    def _around(self, number: int, t: int, so_far: Bits, before: Bits, places: Places) -> NDArray[np.float64]:
        """The sum of everything but the place's own bits, n×m. Integers in float64, where sums of them are exact."""
        weights = self.weights[min(t, SETS - 1), number].double().cpu().numpy()
        around = around_of(so_far, before, places)
        total: NDArray[np.float64] = around @ weights[:, : around.shape[1]].T + weights[:, -1]
        return total

    def _own(self, number: int, t: int) -> NDArray[np.float64]:
        """m×m: of each bit the weights of those before it."""
        own = self.weights[min(t, SETS - 1), number, :, 18 * self.bits : -1].double().cpu().numpy()
        return np.tril(own, -1)

    # ── finding the weights ───────────────────────────────────────────────────────────────────────────────────────

    @torch.enable_grad()
    def fit(self, planes: Sequence[Bits], steps: int = 400, seed: int = 0) -> None:
        """The weights that tell these pictures' bits in fewest bits. planes: T×m×h×w each, no place stopped."""
        for group in range(SETS):
            for number in range(len(PHASES)):
                given, told = self._seen(planes, group, number)
                if len(told):
                    self.weights[group, number] = _regression(given, told, steps, seed)

    def _seen(self, planes: Sequence[Bits], group: int, number: int) -> tuple[Tensor, Tensor]:
        """What is around, n×18m, and the bits, n×m, int8, at all places of a phase."""
        given, told = [np.zeros((0, 18 * self.bits), np.int8)], [np.zeros((0, self.bits), np.int8)]
        for one in planes:
            stops = np.full(one.shape[2:], len(one))
            for t in range(group, len(one) if group == SETS - 1 else min(group + 1, len(one))):
                before = one[t - 1] if t else np.zeros_like(one[0])
                for k, places, so_far in self._phases(one[t], stops, t):
                    if k == number:
                        given.append(around_of(so_far, before, places).astype(np.int8))
                        told.append(one[t][:, *places].T)
        return torch.from_numpy(np.concatenate(given)), torch.from_numpy(np.concatenate(told))


def around_of(so_far: Bits, before: Bits, places: Places) -> NDArray[np.float64]:
    """The 3×3 places around each, of this iteration and of the one before, n×18m; 0 beyond the borders."""
    rows, columns = places
    padded = np.pad(np.concatenate((so_far, before)), ((0, 0), (1, 1), (1, 1)))
    near = [padded[:, rows + i, columns + j] for i in range(3) for j in range(3)]
    return np.concatenate(near).T.astype(np.float64)


def _regression(given: Tensor, told: Tensor, steps: int, seed: int, batch: int = 1024) -> Tensor:
    """int16 m×(18m + m + 1), by Adam on shuffled batches, the rate falling to zero; weights start and stay small."""
    m = told.shape[1]
    lower = torch.ones(m, m).tril(-1)
    values = torch.zeros(m, given.shape[1] + m + 1, requires_grad=True)
    optimiser = torch.optim.Adam([values], lr=0.01)
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 0.01 * (1 - step / steps)
        at = torch.randint(len(told), (min(batch, len(told)),), generator=generator)
        x, y = given[at].float(), told[at].float()
        z = x @ values[:, : -m - 1].T + y @ (values[:, -m - 1 : -1] * lower).T + values[:, -1]
        loss = F.softplus(-y * z).sum(dim=1).mean() + 1e-3 * values.abs().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return torch.round(values.detach() * UNIT).clamp(-32768, 32767).short()
