"""Loggers of messages that people must see."""

import functools
import logging


@functools.cache
def lasting_logger(name: str) -> logging.Logger:
    """A logger of this name that `logging` does not list: libraries that set up logging (Alembic's migrations, uvicorn) switch
    off every listed one that they do not know."""
    made = logging.Logger(name)
    made.parent = logging.root
    return made
