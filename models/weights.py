"""torch's weight files, without its advice, and the checksum of any file."""

import hashlib
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

from models.errors import FoveaError


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_weights(path: Path) -> Any:
    """What a .pth file of weights alone holds; nothing in it is executed. Raises FoveaError in a line of our own: torch
    advises to turn that off."""
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles older than torch's format, which are refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise FoveaError(f"{path}: no such file") from None
    except (pickle.UnpicklingError, RuntimeError, zipfile.BadZipFile, EOFError, ValueError, LookupError, TypeError, AttributeError, OSError) as error:  # fmt: skip
        if not path.is_file():
            what = "not a file"
        elif zipfile.is_zipfile(path):
            what = "damaged, or a whole pickled model, which is not loaded: save its state_dict()"
        elif path.read_bytes()[:2] == b"PK":
            what = "cut short or damaged: fetch it again"
        else:
            what = f"no checkpoint of weights ({path.stat().st_size} bytes): not what torch.save writes"
        raise FoveaError(f"{path}: {what}") from error
