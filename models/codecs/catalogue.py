"""The codecs by name, and their files on disk. Loads nothing heavy until a codec is asked for.

A saved codec is a folder with `weights.safetensors` (parameters, buffers, integer coding tables: a stream made with
them decodes where other float arithmetic would have built other tables) and `codec.json` (configuration, identity).
"""

import importlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.errors import FoveaError
from models.experiments import CODEC_OPTIONS, GENERATIVE, LAYER_OPTIONS, LEVELLED, Experiment, Trunk

if TYPE_CHECKING:
    from models.codecs.base import Codec, CodecConfig

CODECS = {
    "bls2017": "models.codecs.bls2017:Bls2017",
    "bmshj2018_factorized": "models.codecs.bmshj2018:Bmshj2018Factorized",
    "bmshj2018_hyperprior": "models.codecs.bmshj2018:Bmshj2018Hyperprior",
    "mbt2018_mean": "models.codecs.mbt2018:Mbt2018Mean",
    "cheng2020_anchor": "models.codecs.cheng2020:Cheng2020Anchor",
    "agustsson2019": "models.codecs.agustsson2019:Agustsson2019",
}
WEIGHTS, DESCRIPTION = "weights.safetensors", "codec.json"


def module_of(codec: str) -> str:
    """The module that holds a codec: what its code version starts from. Raises FoveaError for an unknown name."""
    if codec not in CODECS:
        raise FoveaError(f"unknown codec {codec!r}; known: {', '.join(CODECS)}")
    return CODECS[codec].partition(":")[0]


def build(config: "CodecConfig") -> "Codec":
    """A codec with fresh weights (torch's random state), in training mode. Raises FoveaError for an unknown name."""
    module = importlib.import_module(module_of(config.codec))
    codec: Codec = getattr(module, CODECS[config.codec].partition(":")[2])(config)
    return codec


def config_for(record: Experiment | Trunk) -> "CodecConfig":
    """The codec that a record trains. A branch has its trunk's levels; without a trunk they are the record's lmbda."""
    from models.codecs.base import CodecConfig

    values = record.resolved()
    if values.get("shipped"):
        raise FoveaError(f"trunk {record.key} is shipped: its configuration stands beside its weights")
    levels = record.lmbda
    if isinstance(record, Experiment) and record.trunk is not None:
        if record.trunk.shipped:
            return branch_config(record, read_config(shipped_folder(record.trunk.shipped)))
        levels = record.trunk.lmbda
    gained = values["mechanism"] in LEVELLED
    return CodecConfig(
        codec=record.codec,
        n=values["n"],
        m=values["m"],
        mechanism=values["mechanism"],
        lmbda=levels,
        gamma=values["gamma"] if gained else 1.0,
        span=values["span"] if gained else 0.0,
        options=_options(record.codec, values),
    )


def _options(codec: str, values: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    names = (*CODEC_OPTIONS, *LAYER_OPTIONS.get(codec, ()))
    return tuple(sorted((k, values[k]) for k in names if k in values))


def branch_config(record: Experiment, trunk: "CodecConfig") -> "CodecConfig":
    """The codec of a branch from a trunk whose configuration is at hand, shipped ones included."""
    import dataclasses

    values = record.resolved()
    gained = record.mechanism in LEVELLED
    return dataclasses.replace(
        trunk,
        mechanism=record.mechanism,
        gamma=values["gamma"] if gained else 1.0,
        span=values["span"] if gained else 0.0,
        options=_options(record.codec, values) or trunk.options,
    )


def objective_of(codec: str) -> str:
    """`module:class` of the objective (models/training/loop.py) that trains a codec; the module is what the code version
    of its training starts from."""
    if codec in GENERATIVE:
        return "models.training.adversarial:Adversarial"
    return "models.training.rate_distortion:RateDistortion"


def save_codec(codec: "Codec", folder: Path | str) -> None:
    """Write both files, each atomically, the description last. The folder is made if missing."""
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = codec.weights()
    description = {
        "format": 1,
        "config": json.loads(codec.config.to_json()),
        "identity": codec.identity().hex(),
    }
    _replace(folder / WEIGHTS, lambda path: save_file(weights, path))
    _replace(
        folder / DESCRIPTION, lambda path: Path(path).write_text(json.dumps(description, indent=1) + "\n")
    )


def _replace(target: Path, write: Callable[[str], Any]) -> None:
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    try:
        write(name)
        Path(name).chmod(0o644)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read_config(folder: Path | str) -> "CodecConfig":
    """The configuration of a saved codec, without its weights."""
    return _describe(Path(folder))[0]


def _describe(folder: Path) -> tuple["CodecConfig", str]:
    from models.codecs.base import CodecConfig

    path = folder / DESCRIPTION
    try:
        raw = json.loads(path.read_text())
        if raw["format"] != 1:
            raise FoveaError(
                f"{path} has format {raw['format']}: use the release that wrote it, or a later one"
            )
        return CodecConfig.from_json(json.dumps(raw["config"])), str(raw["identity"])
    except FileNotFoundError:
        raise FoveaError(f"no codec in {folder}: {DESCRIPTION} is missing") from None
    except (KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FoveaError(f"{path} does not describe a codec: {error!r}") from error


def load_codec(path: Path | str, device: str = "cpu") -> "Codec":
    """A saved codec (its folder, or either file in it), in evaluation mode, ready to encode and decode if its tables
    were saved. Raises FoveaError when something is missing, damaged, or not what the description says."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(path)
    if folder.name in (WEIGHTS, DESCRIPTION):
        folder = folder.parent
    config, identity = _describe(folder)
    codec = build(config)
    try:
        weights = load_file(folder / WEIGHTS)
    except FileNotFoundError:
        raise FoveaError(f"no codec in {folder}: {WEIGHTS} is missing") from None
    except SafetensorError as error:
        raise FoveaError(f"{folder / WEIGHTS} is damaged: {error}") from error
    codec.load_weights(weights)
    if codec.identity().hex() != identity:
        raise FoveaError(f"{folder}: {WEIGHTS} is not the file that {DESCRIPTION} describes")
    return codec.eval().to(device)


def code_modules(codec: str) -> tuple[str, ...]:
    """Modules that a codec is computed by: what its code version starts from."""
    return (module_of(codec),)


SHIPPED = Path(__file__).parent / "weights"


def shipped() -> list[str]:
    """Names of the codecs that come with Fovea."""
    return sorted(p.parent.name for p in SHIPPED.glob(f"*/{DESCRIPTION}"))


def shipped_folder(name: str) -> Path:
    """The folder of a shipped codec. Raises FoveaError that lists what there is."""
    folder = SHIPPED / name
    if not (folder / DESCRIPTION).is_file():
        raise FoveaError(f"no codec {name!r} ships with Fovea; there are: {', '.join(shipped()) or 'none'}")
    return folder


def shipped_digest(name: str) -> str:
    """Digest of a shipped codec's description, which names its weights by their own."""
    import hashlib

    return hashlib.sha256((shipped_folder(name) / DESCRIPTION).read_bytes()).hexdigest()[:32]


def open_codec(name: str) -> "Codec":
    """A shipped codec by name, or a saved one by its folder. Raises FoveaError when it is neither."""
    if name in shipped():
        return load_codec(shipped_folder(name))
    folder = Path(name)
    for place in (folder, folder / "codec"):
        if (place / DESCRIPTION).is_file():
            return load_codec(place)
    raise FoveaError(
        f"{name!r} is neither a shipped codec ({', '.join(shipped()) or 'none'}) nor a folder with {DESCRIPTION}"
    )


def codec_for(data: bytes) -> "Codec":
    """The shipped codec that made a file. Raises FoveaError that names the model which the file needs."""
    from models.codecs.bitstream import unpack

    wanted = unpack(data).model.hex()
    for name in shipped():
        if _describe(shipped_folder(name))[1].startswith(wanted):
            return load_codec(shipped_folder(name))
    raise FoveaError(
        f"no shipped codec made this file: it needs the model {wanted}; name its folder with --model"
    )
