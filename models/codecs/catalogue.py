"""Codecs built from their cards, and saved codecs. Loads nothing heavy until a codec is asked for.

A saved codec is a folder with `weights.safetensors` (parameters, buffers, integer coding tables: a stream made with
them decodes where other float arithmetic would have built other tables) and `codec.json` (configuration, identity). One
with a transform for cut files (models/training/cuts.py) has `cuts.safetensors`, too, one with a context model
(models/training/context.py) `context.safetensors`; their metadata name them.
"""

import dataclasses
import functools
import hashlib
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from models.card import find_card
from models.errors import FoveaError
from models.experiments import Experiment, Trunk
from models.mechanisms import LEVELLED
from models.validation import unknown

if TYPE_CHECKING:
    from torch import Tensor

    from models.codecs.base import Codec
    from models.codecs.config import CodecConfig

WEIGHTS, DESCRIPTION = "weights.safetensors", "codec.json"
ADDED = {kind: f"{kind}.safetensors" for kind in ("cuts", "context")}
"""Files of what may be added to a codec."""
SHIPPED = Path(__file__).parent / "weights"
OBJECTIVES = {
    "rate_distortion": "models.training.rate_distortion:RateDistortion",
    "adversarial": "models.training.adversarial:Adversarial",
    "recurrent": "models.training.recurrent:Recurrent",
}
"""By a card's objective the class that trains the codec (models/training/loop.py)."""


def build(config: "CodecConfig") -> "Codec":
    """A codec with fresh weights (torch's random state), in training mode. Raises FoveaError for an unknown name, or for a
    mechanism or options that it lacks."""
    card, file = found = find_card(config.codec)
    card.check_mechanism(config.mechanism)
    card.check_options(dict(config.options))
    codec: Codec = getattr(_module(found.module, file), card.codec)(config)
    return codec


def _module(name: str, file: Path) -> ModuleType:
    """A codec's module; a user's file is executed once a process. Raises FoveaError for one that can't be executed."""
    if not name.endswith(".py"):
        return importlib.import_module(name)
    name = f"codecs.{file.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            raise FoveaError(f"{file}: {type(error).__name__}: {error}") from error
    return sys.modules[name]


def config_for(record: Experiment | Trunk) -> "CodecConfig":
    """The codec that a record trains. A branch has its trunk's levels; without a trunk they are the record's lmbda."""
    from models.codecs.config import CodecConfig

    values = record.resolved()
    if values.get("shipped"):
        raise FoveaError(f"trunk {record.key} is shipped: its configuration stands beside its weights")
    trunk = record.trunk if isinstance(record, Experiment) else None
    if trunk is not None and trunk.shipped:
        return branch_config(record, read_config(shipped_folder(trunk.shipped)))
    widths = trunk.resolved() if trunk else values
    config = CodecConfig(codec=record.codec, n=widths["n"], m=widths["m"], lmbda=(trunk or record).lmbda)
    return branch_config(record, config)


def branch_config(record: Experiment | Trunk, trunk: "CodecConfig") -> "CodecConfig":
    """The codec of a branch from a trunk whose configuration is at hand, shipped ones included."""
    values = record.resolved()
    gained = values["mechanism"] in LEVELLED
    options = {k: values[k] for k, o in record.card.options.items() if o.part == "codec" and k in values}
    return dataclasses.replace(
        trunk,
        mechanism=values["mechanism"],
        gamma=values["gamma"] if gained else 1.0,
        span=values["span"] if gained else 0.0,
        options=tuple(sorted(options.items())) or trunk.options,
    )


def objective_of(codec: str) -> str:
    """`module:class` of the objective that trains a codec; the module is what the code version of its training starts
    from."""
    return OBJECTIVES[find_card(codec).card.objective]


def code_module(codec: str) -> str:
    """What the code version of a codec starts from: a module's name, or the path of a user's file."""
    return find_card(codec).module


def save_codec(codec: "Codec", folder: Path | str, *, half: bool = False) -> None:
    """Write its files, each atomically, the description last. The folder is made if missing. half: float32 weights that
    are float16 numbers (`Codec.round_to_half`) take half the bytes, and are the same codec when they are read."""
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = codec.weights()
    if half:
        weights = {name: _halved(tensor) for name, tensor in weights.items()}
    for file in ADDED.values():
        (folder / file).unlink(missing_ok=True)
    for kind, (name, added) in codec.additions().items():
        halved = {k: _halved(v) for k, v in added.items()}
        _replace(folder / ADDED[kind], functools.partial(save_file, halved, metadata={"name": name.hex()}))
    description = {"format": 1, "config": json.loads(codec.config.to_json()), "identity": codec.identity().hex()}
    _replace(folder / WEIGHTS, lambda path: save_file(weights, path))
    _replace(folder / DESCRIPTION, lambda path: Path(path).write_text(json.dumps(description, indent=1) + "\n"))


def _halved(tensor: "Tensor") -> "Tensor":
    import torch

    if tensor.dtype != torch.float32:
        return tensor
    half = tensor.half()
    return half if torch.equal(half.float(), tensor) else tensor


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
    from models.codecs.config import CodecConfig

    path = folder / DESCRIPTION
    try:
        raw = json.loads(path.read_text())
        if raw["format"] != 1:
            raise FoveaError(f"{path} has format {raw['format']}: use the release that wrote it, or a later one")
        return CodecConfig.of(raw["config"]), str(raw["identity"])
    except FileNotFoundError:
        raise FoveaError(f"no codec in {folder}: {DESCRIPTION} is missing") from None
    except (KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else "it is damaged"
        raise FoveaError(
            f"{path} does not describe a codec: {what}; copy it anew from where the codec was trained"
        ) from error


def load_codec(path: Path | str) -> "Codec":
    """A saved codec (its folder, or either file in it), in evaluation mode, ready to encode and decode if its tables
    were saved. Raises FoveaError when something is missing, damaged, or not what the description says."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(path)
    if folder.name in (WEIGHTS, DESCRIPTION):
        folder = folder.parent
    config, identity = _describe(folder)
    try:
        codec = build(config)
        weights = load_file(folder / WEIGHTS)
    except FileNotFoundError:
        raise FoveaError(f"no codec in {folder}: {WEIGHTS} is missing") from None
    except SafetensorError as error:
        raise FoveaError(f"{folder / WEIGHTS} is damaged: {error}") from error
    except FoveaError as error:
        raise FoveaError(f"{folder / DESCRIPTION}: {error}") from error
    try:
        codec.load_weights(weights)
    except FoveaError as error:
        raise FoveaError(f"{folder / WEIGHTS} is damaged: {error}") from error
    if codec.identity().hex() != identity:
        raise FoveaError(f"{folder}: {WEIGHTS} is not the file that {DESCRIPTION} describes")
    codec.eval()
    for kind, name in _added_names(folder).items():
        try:
            codec.add(kind, load_file(folder / ADDED[kind]))
        except (SafetensorError, FoveaError) as error:
            raise FoveaError(f"{folder / ADDED[kind]} is damaged: {error}") from error
        if codec.additions()[kind].name.hex() != name:
            raise FoveaError(f"{folder / ADDED[kind]} goes with another {WEIGHTS}")
    return codec


def _added_names(folder: Path) -> dict[str, str]:
    """What names each addition that is there, in hexadecimal, by its kind. Raises FoveaError for a damaged file."""
    from safetensors import SafetensorError, safe_open

    names = {}
    for kind, path in ((kind, folder / file) for kind, file in ADDED.items() if (folder / file).is_file()):
        try:
            with safe_open(path, framework="numpy") as file:
                names[kind] = str((file.metadata() or {}).get("name", ""))
        except SafetensorError as error:
            raise FoveaError(f"{path} is damaged: {error}") from error
    return names


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
    """Digest of codec.json, which holds that of the weights, and of the names of what is added to them."""
    folder = shipped_folder(name)
    added = "".join(_added_names(folder).values())
    return hashlib.sha256((folder / DESCRIPTION).read_bytes() + added.encode()).hexdigest()[:32]


def open_codec(name: str) -> "Codec":
    """A shipped codec by name, or a saved one by its folder. Raises FoveaError when it is neither."""
    return load_codec(find_folder(name))


def find_folder(name: str) -> Path:
    """The folder of a shipped codec, or of a saved one. Raises FoveaError when the name is neither's."""
    for place in (SHIPPED / name, Path(name), Path(name) / "codec"):
        if (place / DESCRIPTION).is_file():
            return place
    raise FoveaError(f"{unknown('codec', name, shipped())}; or name a folder with {DESCRIPTION}")


def maker_of(data: bytes, way: str) -> str:
    """The name of the shipped codec that made a file. Raises FoveaError that names the model which the file needs; `way` says
    how it is given."""
    from models.codecs.bitstream import unpack

    wanted = unpack(data).model.hex()
    for name in shipped():
        folder = shipped_folder(name)
        if any(v.startswith(wanted) for v in (_describe(folder)[1], *_added_names(folder).values())):
            return name
    raise FoveaError(f"no shipped codec made this file: it needs the model {wanted}; {way}")
