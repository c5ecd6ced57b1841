"""A codec's folder as an MLflow model: pyfunc_codec.py as code, the codec as artifact, Fovea's codec modules beside it,
so that it loads where Fovea is not installed."""

import hashlib
import importlib.metadata
import json
import re
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from assets.home import ROOT
from assets.versions import closure, module_file
from models.codecs.catalogue import code_module
from models.errors import FoveaError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

REQUIREMENTS = [
    "mlflow", "torch", "compressai", "safetensors", "numpy", "pandas", "pillow", "imagecodecs", "pydantic",
]  # fmt: skip


def folder_digest(folder: Path) -> str:
    """SHA-256 over the names and contents of a folder's files."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def save_model(folder: Path, target: Path) -> None:
    """Write the MLflow model of a codec's folder; its param `lmbda` is by default what the codec was trained for, if
    that is one."""
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    def schema(**columns: str) -> Schema:
        return Schema([ColSpec(kind, name, required=False) for name, kind in columns.items()])

    codec = json.loads((folder / "codec.json").read_text())["config"]["codec"]
    training = folder / "training.json"
    rates = json.loads(training.read_text())["record"].get("lmbda", []) if training.exists() else []
    with tempfile.TemporaryDirectory(prefix="fovea-code-") as made, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice about type hints and the like
        _copy_modules(codec, Path(made))
        mlflow.pyfunc.save_model(
            target,
            python_model=str(Path(__file__).with_name("pyfunc_codec.py")),
            artifacts={"codec": str(folder)},
            code_paths=[f"{made}/models", f"{made}/assets"],
            pip_requirements=[f"{n}=={importlib.metadata.version(n)}" for n in REQUIREMENTS],
            signature=ModelSignature(
                inputs=schema(image="binary", saliency_map="binary", fov="binary"),
                outputs=schema(fov="binary", bpp="double", image="binary"),
                params=ParamSchema([ParamSpec("lmbda", "double", default=rates[0] if len(rates) == 1 else 0.0)]),
            ),
            metadata={"fovea.digest": folder_digest(folder)},
        )


def fetch_codec(address: str, client: "MlflowClient", folder: Path) -> Path:
    """The codec's folder of a registered model, fetched into `folder`. address: models:/NAME/VERSION or models:/NAME@ALIAS.
    Raises FoveaError for one that is not there, or holds no codec."""
    import mlflow.artifacts
    from mlflow.exceptions import MlflowException

    # not mlflow's own reading of such addresses: it looks into the registry of the process, whatever it is told
    found = re.fullmatch(r"models:/([^/@]+)(?:/(\d+)|@([^/@]+))", address)
    if found is None:
        raise FoveaError(f"{address}: the address of a model is models:/NAME/VERSION or models:/NAME@ALIAS")
    name, version, alias = found.groups()
    try:
        version = version or client.get_model_version_by_alias(name, alias).version
        source = client.get_model_version_download_uri(name, version)
        fetched = mlflow.artifacts.download_artifacts(
            artifact_uri=source, dst_path=str(folder), tracking_uri=client.tracking_uri
        )
    except (MlflowException, OSError) as error:
        raise FoveaError(f"{address}: {str(error).splitlines()[0]}") from error
    codec = Path(fetched) / "artifacts" / "codec"
    if not codec.is_dir():
        raise FoveaError(f"{address} is not a codec that Fovea registered: it has no artifacts/codec")
    return codec


def _copy_modules(codec: str, to: Path) -> None:
    """The modules that loading and running this codec, and reading pictures, import."""
    reads = "assets.frames.decode"
    for module in closure("models.codecs.catalogue", code_module(codec), reads, left_out=frozenset()):
        source = module_file(module)
        assert source is not None
        if module.endswith(".py"):
            place = to / "models/codecs" / f"user_{source.name}"
        else:
            place = to / source.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, place)
        for package in place.relative_to(to).parents[:-1]:
            (to / package / "__init__.py").touch()
