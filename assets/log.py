"""Messages that people must see, and progress as lines."""

import functools
import logging
import time
from collections.abc import Callable

LOG_EVERY_S = 10.0


@functools.cache
def lasting_logger(name: str) -> logging.Logger:
    """A logger of this name that `logging` does not list: libraries that set up logging (Alembic's migrations, uvicorn) switch
    off every listed one that they do not know."""
    made = logging.Logger(name)
    made.parent = logging.root
    return made


def logged(say: Callable[[str], None], *, end: bool = True) -> Callable[..., None]:
    """Progress as a line every ten seconds, and with `end` one when all is done. What is left is counted from the first call on, since what came before was
    loading, and anew where `done` falls: other work of the same name."""
    last, seen = time.monotonic(), 0.0
    first: tuple[float, float] | None = None

    def log(done: float, total: float, note: str = "") -> None:
        nonlocal last, first, seen
        now = time.monotonic()
        began, before = first = first if first and done >= seen else (now, done)
        seen = done
        if now - last >= LOG_EVERY_S or (end and done == total):
            last = now
            left = f", {(now - began) / (done - before) * (total - done):.0f} s left" if done > before else ""
            say(f"{done:g}/{total:g} {note}".rstrip() + left)

    return log
