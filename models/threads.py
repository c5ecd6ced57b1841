"""Work on all cores, a bounded step ahead of whoever takes the results."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


_here = threading.local()


class Stopped(Exception):
    """Nobody takes the results of this thread any more."""


def check_stopped() -> None:
    """Raises Stopped in a thread of `in_order` that has been ended: work of many seconds asks between its steps."""
    if any(ended.is_set() for ended in _ended()):
        raise Stopped


def _ended() -> tuple[threading.Event, ...]:
    """Of this thread's iteration, and of those around it."""
    found: tuple[threading.Event, ...] = getattr(_here, "ended", ())
    return found


def in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    threads: int = 0,
    ahead: int = 4,
    initializer: Callable[[], object] | None = None,
) -> Iterator[Result]:
    """function(item) for each item, in order, `threads` at once (0: all cores); items are read lazily.

    At most `threads × ahead` items are under way or wait to be taken, so memory is bounded. Threads, not processes: what
    decodes, packs, codes and reads pictures lets go of Python's lock, and arrays need no copying. An exception of the
    function is raised in its place. initializer: called in each thread first. What is under way when the iteration ends is
    waited for, up to its next `check_stopped`.
    """
    ended = threading.Event()
    both = (*_ended(), ended)

    def begin() -> None:
        _here.ended = both
        if initializer:
            initializer()

    threads = threads or len(os.sched_getaffinity(0))
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="fovea", initializer=begin) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= threads * ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            ended.set()
            for future in waiting:
                future.cancel()
