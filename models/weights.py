"""torch's weight files, without its advice; whether tensors are a network's; and the checksum of any file."""

import hashlib
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.errors import FoveaError

if TYPE_CHECKING:
    from torch import Tensor, nn


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


def check_tensors(
    network: "nn.Module", name: str, state: Mapping[str, "Tensor"], source: Path, *, types: bool = True
) -> None:
    """Raises FoveaError, naming the tensor, unless `state` holds exactly those of the network, counters of batches left out.
    types: they must be the network's, too."""
    expected = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    for key, tensor in expected.items():
        if key not in state:
            raise FoveaError(f"{source}: {key} is missing: not the weights of {name}")
        found = state[key]
        if found.shape != tensor.shape or (types and found.dtype != tensor.dtype):
            said, wanted = (f"{t.dtype} {'×'.join(map(str, t.shape))}" for t in (found, tensor))
            raise FoveaError(f"{source}: {key} is {said}, not {wanted.removeprefix('torch.')}")
    if unknown := sorted(set(state) - set(expected)):
        raise FoveaError(f"{source}: {unknown[0]} is not a tensor of {name}")
