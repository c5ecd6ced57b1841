"""Exceptions that nobody foresaw, in a line for people: a fault in a codec of one's own, or in Fovea."""

import sqlite3
import traceback
from pathlib import Path

from models.config import PROJECT, config_folder
from models.errors import FoveaError


def described(error: BaseException) -> str:
    """An error in a line. Of one that is no FoveaError its type, and the innermost place in a file of the user's or of
    Fovea's."""
    said = " ".join(str(error).split())
    if isinstance(error, FoveaError):
        return said
    places = [
        f"{name}, line {f.lineno}" for f in traceback.extract_tb(error.__traceback__) if (name := _own(f.filename))
    ]
    return type(error).__name__ + (f" in {places[-1]}" if places else "") + (f": {said}" if said else "")


def database_said(error: BaseException | None) -> str:
    """What SQLite has against a database of FOVEA_HOME, where that is at the root of an error; "" else."""
    while error is not None:
        if isinstance(error, sqlite3.OperationalError):
            return (
                f"a database of FOVEA_HOME cannot be used: {error}. Is its disk full or read-only, a limit reached (ulimit -f), or "
                "another program at work in it?"
            )
        error = error.__cause__ or error.__context__
    return ""


def _own(filename: str) -> str:
    """The name of a file of the user's codecs or of Fovea's packages below the folder that holds them; "" for another."""
    file = Path(filename)
    for folder, parts in ((config_folder(), ("codecs",)), (PROJECT, ("assets", "fovea", "models", "pipelines"))):
        for part in parts:
            if file.is_relative_to(folder / part):
                return str(file.relative_to(folder))
    return ""
