"""Loggers of messages that people must see."""

import logging


class _StaysOn(logging.Logger):
    """Libraries that set up logging (Alembic's migrations, uvicorn) switch off every logger that they do not know."""

    # a plain attribute of logging.Logger, whose type a property cannot have: here setting it does nothing
    @property  # type: ignore[override]
    def disabled(self) -> bool:
        return False

    @disabled.setter
    def disabled(self, value: bool) -> None:
        pass


def lasting_logger(name: str) -> logging.Logger:
    """The logger of this name, which stays on whatever a library does."""
    found = logging.getLogger(name)
    if type(found) is logging.Logger:
        found.__class__ = _StaysOn
    return found
