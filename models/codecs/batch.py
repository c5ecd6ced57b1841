"""Many pictures at once, over all cores: the files and pictures that one by one would give, in the order given.

One picture a thread and one torch thread each: convolutions and the range coder let go of Python's lock while they
work, and no bit depends on the number of cores. Work is taken as it is needed, so that memory holds a few pictures a
thread, however many there are.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator

import torch

import models.threads
from models.memory import keep_freed_memory
from models.threads import Item, Result

AHEAD = 2
"""Items a thread that are under way or wait to be taken."""


@contextlib.contextmanager
def one_torch_thread() -> Iterator[None]:
    """So that no bit depends on the number of cores: how many threads share a convolution changes the order of its sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_order(function: Callable[[Item], Result], items: Iterable[Item], *, threads: int = 0) -> Iterator[Result]:
    """function(item) for each item, in order, `threads` at once (0: all cores), each with one torch thread.

    An exception of the function is raised in its place. torch's own number of threads is 1 until the end.
    """
    keep_freed_memory()
    with one_torch_thread():
        alone = functools.partial(torch.set_num_threads, 1)
        yield from models.threads.in_order(function, items, threads=threads, ahead=AHEAD, initializer=alone)
