"""Names and versions of the saliency models, without torch: what the planner needs to hash keys."""

import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from models.config import expanded
from models.errors import FoveaError
from models.validation import unknown
from models.weights import sha256_of

MODELS = ("sam_lite", "sam_vgg", "sam_resnet", "spectral_residual", "center_prior")
SHIPPED = Path(__file__).parent / "weights"
_CODE = {
    "sam_lite": ("models.saliency.sam_lite_predictor",),
    "sam_vgg": ("models.saliency.sam_predictor",),
    "sam_resnet": ("models.saliency.sam_predictor",),
    "spectral_residual": ("models.saliency.classical",),
    "center_prior": ("models.saliency.classical",),
}
_CONSTANT = {"spectral_residual": "spectral_residual-1", "center_prior": "center_prior-1"}


def weights_path(name: str, weights_dir: Path | None = None) -> Path:
    """The safetensors file of a model: `weights_dir/<name>.safetensors` (or `weights_dir` itself where it is such a
    file), or the one that ships.

    Without `weights_dir`, SAM-Lite's lies in the package, the others' under `FOVEA_HOME/weights` (default
    `.fovea/weights`). The file need not exist.
    """
    if weights_dir is not None:
        return weights_dir if weights_dir.suffix == ".safetensors" else weights_dir / f"{name}.safetensors"
    if name == "sam_lite":
        return SHIPPED / "sam_lite_osie.safetensors"
    home = os.environ.get("FOVEA_HOME") or Path(__file__).resolve().parents[2] / ".fovea"
    return expanded(home, "FOVEA_HOME: ") / "weights" / f"{name}.safetensors"


def describe_weights(path: Path) -> dict[str, Any]:
    """The JSON beside a file of weights, or {} where there is none."""
    try:
        described = json.loads(path.with_suffix(".json").read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise FoveaError(f"{path.with_suffix('.json')}: not JSON ({error})") from error
    if not isinstance(described, dict):
        raise FoveaError(f"{path.with_suffix('.json')}: not a JSON object")
    return described


def code_modules(name: str) -> tuple[str, ...]:
    """The modules whose code, with what they import, decides the maps of this model."""
    if name not in _CODE:
        raise FoveaError(unknown("saliency model", name, MODELS))
    return _CODE[name]


@functools.lru_cache(maxsize=32)
def _file_digest(path: Path, size: int, modified_ns: int) -> str:
    return sha256_of(path)


def model_version(name: str, weights_dir: Path | None = None) -> str:
    """A string that changes whenever the model's maps may change: weights' checksum and inference settings. Raises
    FoveaError for an unknown name or where the weights are missing."""
    if name in _CONSTANT:
        return _CONSTANT[name]
    if name not in MODELS:
        raise FoveaError(unknown("saliency model", name, MODELS))
    path = weights_path(name, weights_dir)
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise FoveaError(
            f"{name}: no weights at {path}: import or train them, or choose sam_lite, which ships with Fovea"
        ) from error
    described = describe_weights(path)
    weights = described.get("sha256") or _file_digest(path, status.st_size, status.st_mtime_ns)
    settings = json.dumps(described.get("inference", {}), sort_keys=True)
    return f"{name}-{hashlib.sha256(f'{weights} {settings}'.encode()).hexdigest()[:16]}"
