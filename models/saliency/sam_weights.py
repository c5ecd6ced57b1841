"""SAM's weights: safetensors files and the JSON beside them, checked tensor by tensor."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.errors import FoveaError
from models.saliency.sam import BLUR_SIGMA, INPUT_SIZE, SAM, build
from models.weights import check_tensors, sha256_of


def load_network(name: str, path: Path) -> SAM:
    """The network with the weights of a safetensors file, on the CPU, in evaluation mode. Raises FoveaError, naming the
    tensor, where one is missing, unknown, or has another shape or type."""
    network = build(name)
    try:
        state = load_file(path)
    except FileNotFoundError as error:
        raise FoveaError(missing_weights(name, path)) from error
    except (SafetensorError, OSError) as error:
        raise FoveaError(f"{path}: not a safetensors file ({error}): import the weights again") from error
    check_tensors(network, name, state, path)
    counters = {key: torch.tensor(0) for key in network.state_dict() if key.endswith("num_batches_tracked")}
    # in place of the tensors without memory that `build` gives
    network.load_state_dict(state | counters, assign=True)
    return network.requires_grad_(True).eval()


def write_weights(name: str, state: dict[str, Tensor], out_dir: Path, about: Mapping[str, object]) -> Path:
    """`out_dir/NAME.safetensors` and the JSON beside it, each replaced at once; returns the former. The JSON gets the
    file's `sha256` and the `inference` settings that `load_predictor` reads."""
    out_dir.mkdir(parents=True, exist_ok=True)
    path = out_dir / f"{name}.safetensors"
    described = path.with_suffix(".json")
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=out_dir) as folder:
        weights = Path(folder) / path.name
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, weights)
        record = {
            "model": name,
            "sha256": sha256_of(weights),
            "inference": {"size": list(INPUT_SIZE), "sigma": BLUR_SIGMA},
            **about,
        }
        text = Path(folder) / described.name
        text.write_text(json.dumps(record, indent=2) + "\n")
        # Weights without a description are read with their own checksum; a description of other weights never is.
        described.unlink(missing_ok=True)
        weights.replace(path)
        text.replace(described)
    return path


def missing_weights(name: str, path: Path) -> str:
    """What to tell somebody who asks for a model whose weights aren't there."""
    return (
        f"{name} has no weights at {path}: download them with "
        f"`fovea saliency-weights fetch {name}`, or import a file that you have with `fovea saliency-weights import "
        "FILE`; sam_lite needs neither"
    )
