"""Any saliency model by its name."""

from pathlib import Path

from models.errors import FoveaError
from models.saliency.catalogue import MODELS, describe_weights, model_version, weights_path
from models.saliency.maps import SaliencyModel
from models.validation import unknown


def load_model(
    name: str, *, weights_dir: Path | None = None, device: str = "cpu", threads: int | None = None
) -> SaliencyModel:
    """The model called `name` (see catalogue.MODELS), ready to predict. Raises FoveaError for an unknown name, missing or
    damaged weights, or a device that is not there."""
    if name not in MODELS:
        raise FoveaError(unknown("saliency model", name, MODELS))
    if name in ("spectral_residual", "center_prior"):
        from models.saliency.classical import ClassicalModel

        return ClassicalModel(name, model_version(name), threads)
    if name == "sam_lite":
        from models.saliency.sam_lite_predictor import SamLitePredictor

        version, path = model_version(name, weights_dir), weights_path(name, weights_dir)
        settings = describe_weights(path).get("inference", {})
        return SamLitePredictor(path, settings, version=version, device=device, threads=threads)
    from models.saliency.sam_predictor import load_predictor

    return load_predictor(name, weights_dir, device)
