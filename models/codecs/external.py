"""Checkpoints in CompressAI's published format: a state dict in a .pth, .pth.tar or .safetensors file.

Nothing in a file is executed (`weights_only`). Widths are read off the shapes. Coding is by CompressAI's float
arithmetic, so that the strings are those of its own `compress`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.codecs.catalogue import build
from models.errors import FoveaError
from models.validation import unknown
from models.weights import read_weights, sha256_of

if TYPE_CHECKING:
    from models.codecs.base import Codec

#: our name → the parameters whose first dimension is N and M
WIDTHS = {
    "bmshj2018_factorized": ("g_a.0.weight", "g_a.6.weight"),
    "bmshj2018_hyperprior": ("g_a.0.weight", "g_a.6.weight"),
    "mbt2018_mean": ("g_a.0.weight", "g_a.6.weight"),
    "cheng2020_anchor": ("g_a.0.conv1.weight", "g_a.0.conv1.weight"),
}
FLOAT = ("bmshj2018_hyperprior", "mbt2018_mean")
"""Codecs whose own arithmetic is by integers unless asked."""

WRAPPED = ("state_dict", "network", "model_state_dict")
"""Where training scripts keep a model's state dict in what they save."""


def file_sha256(path: Path) -> str:
    """SHA-256 of a file. Raises FoveaError when it cannot be read."""
    try:
        return sha256_of(path)
    except OSError as error:
        raise FoveaError(f"{path}: {error.strerror}") from error


def _read(path: Path) -> dict[str, Any]:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path))
        except FileNotFoundError:
            raise FoveaError(f"{path}: no such file") from None
        except (SafetensorError, OSError) as error:
            raise FoveaError(f"{path}: not a checkpoint, or damaged ({error})") from error
    loaded = read_weights(path)
    while isinstance(loaded, dict) and (inner := next((k for k in WRAPPED if isinstance(loaded.get(k), dict)), None)):
        loaded = loaded[inner]
    if not isinstance(loaded, dict) or not all(isinstance(v, torch.Tensor) for v in loaded.values()) or not loaded:
        raise FoveaError(f"{path}: not a state dict: expected a mapping of names to tensors")
    return {str(k).removeprefix("module."): v for k, v in loaded.items()}


def load_checkpoint(path: Path, codec: str) -> "Codec":
    """A codec of one rate with a checkpoint's weights, in evaluation mode, ready to encode and decode.

    Raises FoveaError for a file that is no checkpoint, for another model's, and for an unknown codec.
    """
    from models.codecs.conditioned import ConditionedCodec
    from models.codecs.config import CodecConfig

    if codec not in WIDTHS:
        raise FoveaError(unknown("codec of CompressAI", codec, WIDTHS))
    import torch

    state = _read(path)
    for name, values in state.items():
        if values.is_floating_point() and not bool(torch.isfinite(values).all()):
            raise FoveaError(f"{path}: {name} holds numbers that are not finite: a training that diverged?")
    widths = []
    for name in WIDTHS[codec]:
        if name not in state or state[name].ndim != 4:
            raise FoveaError(f"{path} is not a {codec}: it has no {name}; name its model with --codec")
        widths.append(int(state[name].shape[0]))
    options = (("arithmetic", "float"),) if codec in FLOAT else ()
    made = build(CodecConfig(codec=codec, n=widths[0], m=widths[1], options=options))
    assert isinstance(made, ConditionedCodec)
    try:
        made.load_compressai(state)
    except FoveaError as error:
        raise FoveaError(f"{path} is not a {codec}: {error}") from error
    return made.eval()
