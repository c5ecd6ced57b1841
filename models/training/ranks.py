"""One training over several processes, one device each, by torch.distributed.

Every rank computes the whole step's draw (crops, levels, noise are functions of the record and the step), takes its
share of the batch, and the shares' gradients are summed in one flat buffer before they are clipped. So the ranks stay
equal to the last bit, and the result is that of one process up to the order of floating-point sums.

Rank 0 alone reads and writes files. What it decides reaches the others over a second, patient group (gloo on the CPU):
they wait there while it prepares frames or solves quantiles, however long that takes.
"""

import datetime
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from models.config import count_in
from models.errors import FoveaError

PATIENCE = datetime.timedelta(days=7)
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Ranks:
    """This process's place among `size` processes; the only one when size is 1."""

    def __init__(self, rank: int = 0, size: int = 1, patient: Any = None):
        self.rank, self.size = rank, size
        self._patient = patient
        #: trainings that this process has begun
        self.begun = 0
        self._called = False

    @property
    def first(self) -> bool:
        """Whether this rank reads and writes files."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other rank."""
        return self.size == 1

    def share(self, batch: int) -> slice:
        """The items of a batch that are this rank's. Raises FoveaError when there are fewer items than ranks."""
        if batch < self.size:
            raise FoveaError(f"a batch of {batch} cannot be shared by {self.size} processes: take {batch} or fewer")
        return slice(batch * self.rank // self.size, batch * (self.rank + 1) // self.size)

    def sum_gradients(self, parameters: Iterable[Tensor], numbers: Sequence[Tensor]) -> list[Tensor]:
        """Replace the parameters' gradients by their sums over the ranks; gives the sums of `numbers`, too. numbers:
        scalars on the parameters' device, float32. Every rank gets the same bits."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([*(g.detach().float().reshape(-1) for g in gradients), torch.stack(list(numbers)).float()])
        dist.all_reduce(flat)
        sizes = [g.numel() for g in gradients]
        *parts, summed = flat.split([*sizes, len(numbers)])
        with torch.no_grad():
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view_as(gradient))
        return list(summed)

    def told(self, say: Callable[[], bytes]) -> bytes:
        """What rank 0 says, on every rank; a FoveaError there is one everywhere."""
        if self.alone:
            return say()
        if not self.first:
            ok, payload = self._received()
            if not ok:
                raise FoveaError(f"rank 0: {payload.decode()}")
            return payload
        try:
            payload = say()
        except FoveaError as error:
            self._send(False, str(error).encode())
            raise
        self._send(True, payload)
        return payload

    def _send(self, ok: bool, payload: bytes) -> None:
        dist.broadcast(torch.tensor([int(ok), len(payload)]), 0, group=self._patient)
        if payload:
            dist.broadcast(torch.frombuffer(bytearray(payload), dtype=torch.uint8), 0, group=self._patient)

    def _received(self) -> tuple[bool, bytes]:
        header = torch.zeros(2, dtype=torch.long)
        dist.broadcast(header, 0, group=self._patient)
        ok, length = header.tolist()
        payload = torch.zeros(length, dtype=torch.uint8)
        if length:
            dist.broadcast(payload, 0, group=self._patient)
        return bool(ok), payload.numpy().tobytes()

    def begin(self) -> None:
        """At the start of a training: rank 0 calls the others, who wait for it unless they were `called` before."""
        self.begun += 1
        if self.alone:
            return
        if self.first:
            self._send(True, b"train")
        elif not (self._called or self.called()):
            raise FoveaError("rank 0 has nothing to train")
        self._called = False

    def dismiss(self) -> None:
        """Rank 0, where there was nothing to train after all."""
        self._send(True, b"")

    def called(self) -> bool:
        """The others: wait until rank 0 begins a training; False when it has none."""
        self._called = self._received()[1] == b"train"
        return self._called

    def check_equal(self, what: str, values: bytes) -> None:
        """Raises FoveaError when the ranks' bytes differ."""
        if self.alone:
            return
        own = torch.frombuffer(bytearray(hashlib.sha256(values).digest()), dtype=torch.uint8)
        seen = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(seen, own, group=self._patient)
        other = [rank for rank, value in enumerate(seen) if not torch.equal(value, seen[0])]
        if other:
            raise FoveaError(f"{what} differ between rank 0 and rank {', '.join(map(str, other))}")

    def wait(self) -> None:
        """Until every rank is here."""
        if not self.alone:
            dist.barrier(group=self._patient)


_joined = Ranks()


def joined() -> Ranks:
    """The ranks that this process has joined; itself alone by default."""
    return _joined


@contextmanager
def join(device: str = "auto") -> Iterator[tuple[Ranks, str]]:
    """Join the processes that a launcher started (torchrun's variables); gives the ranks and this one's device.

    One GPU each where there are GPUs and `device` is auto or cuda; else all on the CPU. Raises FoveaError when the
    launcher's variables are incomplete.
    """
    global _joined
    missing = [name for name in VARIABLES if name not in os.environ]
    if missing:
        raise FoveaError(f"the launcher did not set {', '.join(missing)}: start with --processes K, or with torchrun")
    rank, size = count_in("RANK", 0), count_in("WORLD_SIZE", 1)
    if device in ("auto", "cuda"):
        count = torch.cuda.device_count()
        device = f"cuda:{count_in('LOCAL_RANK', rank) % count}" if count else "cpu"
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo", rank=rank, world_size=size)
    try:
        _joined = Ranks(rank, size, dist.new_group(backend="gloo", timeout=PATIENCE))
        yield _joined, device
    finally:
        _joined = Ranks()
        dist.destroy_process_group()
