"""What makes a step a pure function of its number: random numbers of its own, torch's settings for its time."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from models.errors import FoveaError
from models.memory import keep_freed_memory


def _unshared(shape: torch.Size, count: int) -> FoveaError:
    return FoveaError(
        f"this codec draws random numbers of shape {tuple(shape)} for a batch of {count} pictures: a training that several "
        "processes share needs the pictures on the first axis; train it with --processes 1, or draw for each picture"
    )


class SeededNoise(TorchFunctionMode):
    """Everything random that torch draws inside comes from one generator instead of the process's global one.

    CompressAI's quantisation noise takes the global generator, which all threads of a process share. This mode holds
    for the calling thread only. A rank draws for the whole batch and takes its share.
    """

    IN_PLACE = frozenset({torch.Tensor.uniform_, torch.Tensor.normal_})
    DRAWS = IN_PLACE | {torch.rand, torch.randn}

    def __init__(self, device: torch.device, batch: int = 0, share: slice | None = None):
        super().__init__()
        self.generator = torch.Generator(device)
        self.batch, self.share = batch, share

    def seed(self, seed: int, step: int) -> None:
        """Restart the generator for a step."""
        mixed = np.random.SeedSequence([seed, step, 0x4015E]).generate_state(1, np.uint64)[0]
        self.generator.manual_seed(int(mixed))

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Adds the generator to a random function, passes everything else on."""
        kwargs = kwargs or {}
        if func in self.DRAWS and kwargs.get("generator") is None:
            kwargs["generator"] = self.generator
            if self.share is not None:
                return self._shared(func, args, kwargs, self.share)
        return func(*args, **kwargs)

    def _shared(self, func: Callable[..., Any], args: Any, kwargs: dict[str, Any], share: slice) -> Tensor:
        """This rank's part of what one process would draw for the whole batch. The batch is the first axis, or part of the
        last where CompressAI has its bottleneck's C×1×(N·h·w)."""
        count = share.stop - share.start
        if func not in self.IN_PLACE:
            shape = torch.Size(args if isinstance(args[0], int) else args[0])
            if shape[0] != count:
                raise _unshared(shape, count)
            drawn: Tensor = func((self.batch, *shape[1:]), **kwargs)
            return drawn[share]
        own: Tensor = args[0]
        axis = 2 if own.ndim == 3 and own.shape[1] == 1 else 0
        places, rest = divmod(own.shape[axis], count)
        if rest or (axis == 0 and places != 1):
            raise _unshared(own.shape, count)
        shape = torch.Size((*own.shape[:axis], self.batch * places, *own.shape[axis + 1 :]))
        layout = torch.contiguous_format if own.is_contiguous() else torch.channels_last
        whole = torch.empty(shape, dtype=own.dtype, device=own.device, memory_format=layout)
        func(whole, *args[1:], **kwargs)
        return own.copy_(whole.narrow(axis, share.start * places, count * places))


_settings = threading.Lock()
_trainings: list[tuple[Any, ...]] = []


def _be_deterministic(exact: bool) -> None:
    """What use_deterministic_algorithms does, without its import of torch's compiler, which takes seconds and is not used."""
    torch.set_deterministic_debug_mode("error" if exact else "default")


@contextmanager
def torch_settings(exact: bool, device: torch.device, threads: int | None) -> Iterator[None]:
    """Threads and deterministic algorithms for the time of the training, the caller's settings afterwards.

    All but the thread count hold for the process: with several trainings in its threads the first to begin notes what
    to go back to, the last to end does it, and one that must be deterministic makes all of them so.
    """
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    else:
        keep_freed_memory()
    own_threads = torch.get_num_threads()
    with _settings:
        if not _trainings:
            _trainings.append(
                (
                    torch.are_deterministic_algorithms_enabled(),
                    torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
                    torch.backends.cudnn.benchmark,
                )
            )
        exact = exact or (len(_trainings) > 1 and torch.are_deterministic_algorithms_enabled())
        _trainings.append(())
        _be_deterministic(exact)
        # each tensor is written before it is read: filling it first would only cost time
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = not exact
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(own_threads)
        with _settings:
            _trainings.pop()
            if len(_trainings) == 1:
                deterministic, fill, benchmark = _trainings.pop()
                _be_deterministic(deterministic)
                torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
                torch.backends.cudnn.benchmark = benchmark
