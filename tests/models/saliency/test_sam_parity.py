"""Parity with the published code, from weights made by numbers, in Keras 1's own layout.

`tests/golden/sam` holds what the original network computed, in its original framework, from these weights.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sam_files import GOLDEN, layout_of, write_weights

from models.errors import FoveaError
from models.saliency import catalogue, sam, sam_import, sam_predictor, sam_weights


def drawn(rng: np.random.RandomState, kind: str, weight: str, shape: list[int]) -> np.ndarray:
    """The next array of the stream that the reference's weights were drawn from."""
    if len(shape) == 4:
        fan_in = np.prod(shape[1:])
        if kind == "convlstm":
            return (rng.randn(*shape) * ((8 if shape[0] == 1 else 1.5) / np.sqrt(fan_in))).astype(np.float32)
        return (rng.randn(*shape) * np.sqrt(2.0 / fan_in)).astype(np.float32)
    if "gamma" in weight:
        return (1 + 0.1 * rng.randn(*shape)).astype(np.float32) * np.float32(0.5)
    if "std" in weight:
        return (0.5 + rng.rand(*shape)).astype(np.float32)
    return (0.1 * rng.randn(*shape)).astype(np.float32)


def make_weights(variant: str, path: Path, *, nested: bool) -> None:
    """The reference's weights."""
    priors = json.loads((GOLDEN / "priors.json").read_text())[variant]
    rng = np.random.RandomState(1)

    def values(layer: dict[str, Any], weight: dict[str, Any]) -> np.ndarray:
        if layer["kind"] == "prior":
            return np.asarray(priors[layer["name"]], np.float32)
        found = drawn(rng, layer["kind"], weight["name"], weight["shape"])
        if layer["kind"] == "last":
            return np.abs(found) if found.ndim == 4 else found + np.float32(0.1)
        return found

    write_weights(path, layout_of(variant), values, nested=nested)


def converted(tmp_path_factory: pytest.TempPathFactory, variant: str) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp(f"sam_{variant}")
    source = folder / "made.pkl"
    make_weights(variant, source, nested=variant == "vgg")
    path = sam_import.convert(source, folder)
    source.unlink()
    yield path
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def vgg_weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield from converted(tmp_path_factory, "vgg")


@pytest.fixture(scope="module")
def resnet_weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield from converted(tmp_path_factory, "resnet")


def tensors(
    network: sam.SAM, x: torch.Tensor, outputs: dict[str, str], inputs: dict[str, str]
) -> dict[str, np.ndarray]:
    """What modules put out (after a ReLU, where the name ends in +relu) or take in, and the network's output."""
    seen: dict[str, np.ndarray] = {}

    def keep(name: str, relu: bool):
        def hook(_module, _arguments, result):
            seen[name] = (F.relu(result) if relu else result).numpy().copy()

        return hook

    def keep_input(name: str):
        def hook(_module, arguments):
            seen[name] = arguments[0].numpy().copy()

        return hook

    for module, name in outputs.items():
        network.get_submodule(module.removesuffix("+relu")).register_forward_hook(keep(name, module.endswith("+relu")))
    for module, name in inputs.items():
        network.get_submodule(module).register_forward_pre_hook(keep_input(name))
    # in float64: what is compared is the network, not how a processor rounds float32 on the way
    network.double()
    with torch.inference_mode():
        seen["OUT"] = network(x.double()).numpy()
    network.float()
    return seen


HEAD = {
    "recurrent": "attentiveconvlstm_1",
    "prior1": "learningprior_1",
    "prior2": "learningprior_2",
    "mix1+relu": "atrousconvolution2d_1",
    "mix2+relu": "atrousconvolution2d_2",
}
VGG = {f"backbone.block{k}_pool": f"block{k}_pool" for k in (1, 2, 3, 4)} | {
    f"backbone.block5_conv{k}+relu": f"block5_conv{k}" for k in (1, 2, 3)
}
RESNET = {
    "backbone.bn_conv1+relu": "activation_1",
    "backbone.pool1": "maxpooling2d_1",
    "backbone.res2c": "activation_10",
    "backbone.res3d": "activation_22",
    "backbone.res4f": "activation_40",
    "backbone.res5c": "activation_49",
}


def check(seen: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> None:
    named = set(reference) - {"X", "yt", "fx", "loss_kl", "loss_cc", "loss_nss"}
    assert named == set(seen)
    for name in sorted(named):
        assert seen[name].shape == reference[name].shape, name
        # The ConvLSTM's state is the steepest place of the network: float32 itself moves it by 1e-4.
        tolerance = 2e-4 if name in ("attentiveconvlstm_1", "merge_1", "merge_17") else 1e-5
        error = np.abs(seen[name] - reference[name]).max() / np.abs(reference[name]).max()
        assert error <= tolerance, f"{name}: {error:.1e}"


@pytest.mark.parametrize(
    ("variant", "layers", "inputs", "parameters"),
    [
        ("vgg", VGG | {"readout+relu": "convolution2d_12"}, ("merge_1", "merge_2"), 51_835_841),
        ("resnet", RESNET | {"readout+relu": "convolution2d_13"}, ("merge_17", "merge_18"), 70_093_441),
    ],
)
def test_every_layer_puts_out_what_the_published_one_does(
    request: pytest.FixtureRequest, variant: str, layers: dict[str, str], inputs: tuple[str, str], parameters: int
) -> None:
    with np.load(GOLDEN / f"reference_{variant}.npz") as file:
        expected = dict(file)
    network = sam_weights.load_network(f"sam_{variant}", request.getfixturevalue(f"{variant}_weights"))
    x = torch.from_numpy(expected["X"])
    check(tensors(network, x, HEAD | layers, dict(zip(("mix1", "mix2"), inputs, strict=True))), expected)
    assert sum(p.numel() for p in network.parameters()) == parameters
    folded = network.fold()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    with torch.inference_mode():
        out = folded(x).numpy()
    assert np.abs(out - expected["OUT"]).max() <= 1e-5 * expected["OUT"].max()


def test_predictor(vgg_weights: Path, tmp_path: Path) -> None:
    """The whole way at a small working size: order of channels, geometry, scales, flip, company."""
    folder = tmp_path
    (folder / "sam_vgg.safetensors").hardlink_to(vgg_weights)
    described = json.loads(vgg_weights.with_suffix(".json").read_text())
    described["inference"]["size"] = [48, 64]
    (folder / "sam_vgg.json").write_text(json.dumps(described))
    predictor = sam_predictor.load_predictor("sam_vgg", folder)
    assert predictor.name == "sam_vgg" and predictor.version == catalogue.model_version("sam_vgg", folder)
    assert predictor.version != catalogue.model_version("sam_vgg", vgg_weights.parent)

    rng = np.random.default_rng(3)
    wide = rng.integers(0, 256, (50, 100, 3), dtype=np.uint8)
    exact = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    maps = predictor.predict([wide, exact])
    densities = predictor.predict_float([exact, wide[:, ::-1]])
    for frame, saliency in zip((wide, exact), maps, strict=True):
        assert saliency.dtype == np.uint8 and saliency.shape == frame.shape[:2] and saliency.max() == 255
    for frame, density in zip((exact, wide), densities, strict=True):
        assert density.dtype == np.float32 and density.shape == frame.shape[:2]
        assert density.sum(dtype=np.float64) == pytest.approx(1, abs=1e-5)
    cut_off = densities[0] / densities[0].max() * 255 - maps[1]  # the same picture, in other company
    assert cut_off.min() > -1e-3 and cut_off.max() < 1 + 1e-3 and cut_off.max() > 0.5

    x = torch.from_numpy(exact[:, :, ::-1].astype(np.float32) - np.array(sam_predictor.MEAN_BGR, np.float32))
    with torch.inference_mode():
        raw = predictor.network(x.permute(2, 0, 1)[None])[0, 0].numpy()
    assert np.allclose(sam_predictor.postprocess(raw, 48, 64), densities[0] / densities[0].max(), atol=1e-6)

    both = predictor.predict_float([wide], flip=True)[0]
    plain = 2 * both - densities[1][:, ::-1]
    cut_off = plain / plain.max() * 255 - maps[0]
    assert cut_off.min() > -2e-2 and cut_off.max() < 1 + 2e-2 and not np.allclose(both, plain, atol=1e-7)
    assert predictor.predict([wide], flip=True)[0].max() == 255
    with pytest.raises(FoveaError, match="H×W×3 uint8"):
        predictor.predict([wide[:, :, 0]])
