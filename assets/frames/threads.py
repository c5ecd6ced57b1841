"""Work on all cores, a bounded step ahead of whoever takes the results."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

K = TypeVar("K")
T = TypeVar("T")
R = TypeVar("R")


def in_order(
    act: Callable[[T], R], items: Iterable[tuple[K, T]], *, workers: int | None = None, chunk: int = 4
) -> Iterator[tuple[K, R]]:
    """(key, `act(item)`) for each (key, item), in order; items are read lazily.

    At most `workers × chunk` items are under way or wait to be taken, so memory is bounded. Threads, not processes:
    what decodes, packs and reads pictures releases the interpreter's lock, and arrays need no copying.
    """
    count = workers or os.cpu_count() or 1
    pending: deque[tuple[K, Future[R]]] = deque()
    with ThreadPoolExecutor(count, thread_name_prefix="frames") as pool:
        try:
            for key, item in items:
                pending.append((key, pool.submit(act, item)))
                if len(pending) >= count * chunk:
                    first, future = pending.popleft()
                    yield first, future.result()
            while pending:
                first, future = pending.popleft()
                yield first, future.result()
        finally:
            for _, future in pending:
                future.cancel()
