"""SAM's published weights: download, checks, conversion to safetensors.

The published files are called `.pkl` but are HDF5, written by Keras 1.1 on Theano. Nothing of a file is executed: one
that doesn't begin with HDF5's signature is refused before anything reads it, links out of the file are refused, and
every layer's arrays are checked for kind and shape before they are read.

    file ─ signature ─ root layout ─ weighted layers in order ─ shapes ─ rotate kernels ─ safetensors + JSON
"""

import contextlib
import dataclasses
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import h5py
import numpy as np
import requests
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.download import NotTheFile, Wanted, alone_at, fetch
from models.errors import FoveaError
from models.network import PATIENT, Manner, send
from models.saliency.catalogue import describe_weights, weights_path
from models.saliency.sam import AttentiveConvLSTM, DilatedResNet, DilatedVGG, build
from models.saliency.sam_weights import write_weights
from models.weights import check_tensors, sha256_of

RELEASE_URL = "https://github.com/marcellacornia/sam/releases/download/1.0/"
PUBLISHED = {"sam_vgg": "sam-vgg_salicon_weights.pkl", "sam_resnet": "sam-resnet_salicon_weights.pkl"}
"""File names in release 1.0 (MIT licence): trained on SALICON's edition of 2015."""

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"

# --- What the published files hold ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of a layer: its shape in the file and where it goes (`rows`: a slice of the target's first axis)."""

    label: str
    shape: tuple[int, ...]
    target: str
    rows: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Layer:
    """One weighted layer, in file order. `stable`: Keras didn't number it, so its name can be checked."""

    name: str
    stable: bool
    arrays: tuple[Array, ...]


#: names of arrays in a convolution and in a batch norm, there and here; Keras 1 keeps the variance in its running_std
CONV = {"W": "weight", "b": "bias"}
NORM = {"gamma": "weight", "beta": "bias", "running_mean": "running_mean", "running_std": "running_var"}


def expected_layers(name: str) -> list[Layer]:
    """The weighted layers of "sam_vgg" (19) or "sam_resnet" (113), in the order of the published files."""
    shapes = {key: tuple(tensor.shape) for key, tensor in build(name).state_dict().items()}

    def layer(name: str, target: str, parts: Mapping[str, str] = CONV, stable: bool = True) -> Layer:
        arrays = (Array(label, shapes[f"{target}.{key}"], f"{target}.{key}") for label, key in parts.items())
        return Layer(name, stable, tuple(arrays))

    layers: list[Layer] = []
    if name == "sam_vgg":
        for stage, (_, repeats) in enumerate(DilatedVGG.stages, 1):
            for repeat in range(1, repeats + 1):
                layers.append(layer(f"block{stage}_conv{repeat}", f"backbone.block{stage}_conv{repeat}"))
    else:
        layers += [layer("conv1", "backbone.conv1"), layer("bn_conv1", "backbone.bn_conv1", NORM)]
        for stage, letters, *_ in DilatedResNet.stages:
            for letter in letters:
                block = f"{stage}{letter}"
                tail = ("branch2c", "branch1") if letter == "a" else ("branch2c",)
                for group in (("branch2a",), ("branch2b",), tail):
                    layers += [layer(f"res{block}_{b}", f"backbone.res{block}.{b}") for b in group]
                    layers += [layer(f"bn{block}_{b}", f"backbone.res{block}.bn_{b}", NORM) for b in group]
        layers.append(layer("convolution2d (2048 → 512)", "reduce", stable=False))

    kernel = shapes["recurrent.w_a.weight"]
    width = kernel[0]
    arrays = []
    for part in ("w_a", "u_a", "v_a"):
        arrays.append(Array(f"{part}.W", shapes[f"recurrent.{part}.weight"], f"recurrent.{part}.weight"))
        if part != "v_a":
            arrays.append(Array(f"{part}.b", (width,), f"recurrent.{part}.bias"))
    for place, gate in enumerate(AttentiveConvLSTM.gates):
        rows = (place * width, (place + 1) * width)
        for side in ("w", "u"):
            arrays.append(Array(f"{side}_{gate}.W", kernel, f"recurrent.{side}.weight", rows))
            arrays.append(Array(f"{side}_{gate}.b", (width,), f"recurrent.{side}.bias", rows))
    layers.append(Layer("attentiveconvlstm", False, tuple(arrays)))
    for index in (1, 2):
        layers.append(layer(f"learningprior {index}", f"prior{index}", {"W": "weight"}, stable=False))
        layers.append(layer(f"atrousconvolution2d {index}", f"mix{index}", stable=False))
    layers.append(layer("convolution2d (last, 1×1)", "readout", stable=False))
    return layers


# --- Reading ----------------------------------------------------------------------------------------------------------


def refuse_unless_hdf5(path: Path) -> None:
    """Raises FoveaError unless the file begins with HDF5's signature; says what it is instead, where that shows."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise FoveaError(f"{path}: cannot be read ({error.strerror})") from error
    if not head.startswith(HDF5_SIGNATURE):
        raise FoveaError(f"{path}: {_kind(head)}; SAM's published weights are HDF5 files in spite of their ending")


def _kind(head: bytes) -> str:
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "an HTML page, not weights (a login or error page?)"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself"
    # Protocol 2 and later begin with PROTO, older ones with a mark, a global or a container opcode.
    if re.match(rb"\x80[\x01-\x0a]|[(\]}c]", head):
        return "a pickle, which is never loaded (it could run anything)"
    if head.startswith(b"PK"):
        return "a zip archive (perhaps a PyTorch checkpoint)"
    return "empty" if not head else "not HDF5"


def _member(group: h5py.Group, name: str, where: str) -> h5py.Group | h5py.Dataset:
    """What `name` (a path inside the file) stands for; only plain links are followed."""
    here: h5py.Group | h5py.Dataset = group
    for part in name.split("/"):
        link = here.get(part, getlink=True) if isinstance(here, h5py.Group) else None
        if link is None:
            raise FoveaError(f"{where}: {name} is announced but missing")
        if not isinstance(link, h5py.HardLink):
            raise FoveaError(f"{where}: {name} is a link to somewhere else, which is refused")
        here = here[part]
    return here


def _names(group: h5py.Group, attribute: str) -> list[str]:
    values = np.atleast_1d(group.attrs[attribute]).tolist()
    return [v.decode() if isinstance(v, bytes) else str(v) for v in values]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[h5py.Group]:
    """The group that has `layer_names`: the root (save_weights) or `model_weights` (model.save)."""
    refuse_unless_hdf5(path)
    try:
        with h5py.File(path, "r") as file:
            if "layer_names" in file.attrs:
                yield file
            elif isinstance(file.get("model_weights", getlink=True), h5py.HardLink):
                yield file["model_weights"]
            else:
                raise FoveaError(f"{path}: neither the root nor model_weights has layer_names: not written by Keras 1")
    except FoveaError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise FoveaError(f"{path}: damaged or cut off ({error}): download it again") from error


def _weighted_layers(root: h5py.Group, path: Path) -> list[tuple[str, list[tuple[str, h5py.Dataset]]]]:
    found = []
    for name in _names(root, "layer_names"):
        where = f"{path}: layer {name}"
        group = _member(root, name, where)
        arrays = []
        for weight in _names(group, "weight_names"):
            dataset = _member(group, weight, where)
            if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
                raise FoveaError(f"{where}: {weight} is not a plain array")
            arrays.append((weight, dataset))
        if arrays:
            found.append((name, arrays))
    return found


def _times(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape)) or "scalar"


def _matched(
    found: list[tuple[str, list[tuple[str, h5py.Dataset]]]], layers: list[Layer], path: Path
) -> Iterator[tuple[Array, str, h5py.Dataset]]:
    """Each array with its name in messages and what the file has. Raises FoveaError at the first layer that is missing,
    surplus, or of another shape or type."""
    nothing: tuple[str, list[tuple[str, h5py.Dataset]]] = ("nothing", [])
    for i, (layer, (name, arrays)) in enumerate(itertools.zip_longest(layers, found, fillvalue=nothing), 1):
        if not isinstance(layer, Layer):
            raise FoveaError(f"{path}: layer {name} is one too many ({len(layers)} were expected)")
        where = f"{path}: layer {i} of {len(layers)}, {layer.name} (in the file: {name})"
        if (layer.stable and name != layer.name) or len(arrays) != len(layer.arrays):
            raise FoveaError(
                f"{where}: another layer with {len(arrays)} arrays, not {len(layer.arrays)}: is one missing?"
            )
        for array, (weight, dataset) in zip(layer.arrays, arrays, strict=True):
            which = f"{where}: {weight} ({array.label})"
            if dataset.dtype.kind != "f":
                raise FoveaError(f"{which} holds {dataset.dtype}, not numbers with fractions")
            if tuple(dataset.shape) != array.shape:
                raise FoveaError(f"{which} is {_times(dataset.shape)}, not {_times(array.shape)}")
            yield array, which, dataset


def read_weights(path: Path) -> tuple[str, dict[str, Tensor]]:
    """The network's name and its tensors (float32, `SAM.state_dict` layout) from a Keras 1 weight file.

    Theano convolves, PyTorch correlates: every kernel is rotated by 180°. Raises FoveaError, naming the layer, for
    anything that isn't the published layout, for values that aren't finite and for negative variances.
    """
    with _opened(path) as root:
        found = _weighted_layers(root, path)
        first = found[0][0] if found else "nothing"
        name = {"block1_conv1": "sam_vgg", "conv1": "sam_resnet"}.get(first, "")
        if not name:
            raise FoveaError(f"{path}: begins with {first}: neither SAM-VGG (block1_conv1) nor SAM-ResNet (conv1)")
        network = build(name)
        state = {
            key: torch.empty(tensor.shape)
            for key, tensor in network.state_dict().items()
            if not key.endswith("num_batches_tracked")
        }
        # all of the layout before anything is read
        for array, which, dataset in list(_matched(found, expected_layers(name), path)):
            values: NDArray = np.asarray(dataset[()], np.float32)
            if not np.isfinite(values).all():
                raise FoveaError(f"{which} holds NaN or infinity")
            if array.label == "running_std" and (values < 0).any():
                raise FoveaError(f"{which} holds a negative variance")
            if values.ndim == 4:
                values = values[:, :, ::-1, ::-1]
            target = state[array.target]
            (target if array.rows is None else target[slice(*array.rows)]).copy_(torch.from_numpy(values.copy()))
    check_tensors(network, name, state, path)
    return name, state


# --- Conversion ----------------------------------------------------------------------------------------------------------


def convert(path: Path, out_dir: Path) -> Path:
    """Convert a published weight file (HDF5 in spite of `.pkl`); returns `out_dir/sam_vgg.safetensors` or `sam_resnet…`.
    Raises FoveaError, naming the layer, where the file isn't one; nothing is written then."""
    name, state = read_weights(path)
    about = {
        "source": path.name,
        "source_sha256": sha256_of(path),
        "paper": "Cornia et al., Predicting Human Eye Fixations via an LSTM-based Saliency Attentive Model, 2018",
    }
    return write_weights(name, state, out_dir, about)


# --- Download ---------------------------------------------------------------------------------------------------------


def source_url(file_name: str, url: str | None = None) -> str:
    """Where a published file is: `url`, else FOVEA_SAM_URL, else the release; either the file or its folder."""
    base = url or os.environ.get("FOVEA_SAM_URL") or RELEASE_URL
    if urlsplit(base).scheme not in ("http", "https"):
        raise FoveaError(f"{base}: not an http(s) address (FOVEA_SAM_URL or --url)")
    if urlsplit(base).path.lower().endswith((".pkl", ".h5", ".hdf5")):
        return base
    return f"{base.rstrip('/')}/{file_name}"


def download(url: str, path: Path, sha256: str | None = None, manner: Manner = PATIENT) -> Path:
    """Download an HDF5 file to `path`; an interrupted download goes on where it stopped, in this or another process.

    What starts with anything but HDF5's signature is refused at its first bytes. Raises FoveaError when the server says
    no, after too many broken connections, or (ChecksumError) for a wrong checksum.
    """
    session = requests.Session()

    def ask(headers: dict[str, str]) -> requests.Response:
        response = send(session, "GET", url, manner.policy, headers={**headers, "Accept-Encoding": "identity"})
        if response.status_code in (200, 206, 416):
            return response
        response.close()
        raise FoveaError(f"{url}: the server answered {response.status_code} {response.reason}: check the address")

    def refuse(answer: NotTheFile, _: int) -> None:
        raise FoveaError(f"{url}: {_kind(answer.head)}; SAM's published weights are HDF5 files")

    def fault(found: str) -> str:
        expected = (sha256 or found).lower()
        return "" if found == expected else f"SHA-256 is {found}, not {expected}"

    with session, alone_at(path, manner.say):
        return fetch(Wanted(url, url, HDF5_SIGNATURE, ask, refuse, fault), path, manner).path


def fetch_weights(
    name: str,
    weights_dir: Path | None = None,
    url: str | None = None,
    sha256: str | None = None,
    manner: Manner = PATIENT,
) -> Path:
    """Download the published weights of "sam_vgg" or "sam_resnet", convert them; returns the safetensors file.

    url: the file or its folder; without one FOVEA_SAM_URL, else the authors' release. sha256: what the published file must
    have, where it is known. Weights that are there already, of that file, are returned as they are. Raises FoveaError with
    what to do about it.
    """
    if name not in PUBLISHED:
        raise FoveaError(f"{name}: no published weights: one of {', '.join(PUBLISHED)}")
    target, file_name = weights_path(name, weights_dir), PUBLISHED[name]
    address = source_url(file_name, url)
    described: dict[str, Any] = {}
    with contextlib.suppress(FoveaError):  # a damaged one counts as none
        described = describe_weights(target)
    there = target.is_file() and described.get("source") == file_name
    if there and sha256 in (None, described.get("source_sha256")):
        return target
    file = download(address, target.with_suffix(".download"), sha256, manner)
    converted, state = read_weights(file)
    if converted != name:
        raise FoveaError(f"{file}: holds {converted}, not {name}: check the address {address}")
    origin = {"source": file_name, "source_sha256": sha256_of(file), "source_url": address, "licence": "MIT"}
    path = write_weights(name, state, target.parent, origin)
    file.unlink()
    return path
