import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from models.codecs import bitstream
from models.codecs.external import file_sha256, load_checkpoint
from models.errors import FoveaError

N, M = 8, 12


@pytest.fixture(scope="module")
def reference(references: dict[str, torch.nn.Module]) -> torch.nn.Module:
    return references["bmshj2018_hyperprior"]


@pytest.mark.parametrize("kind", ["plain", "wrapped", "parallel", "safetensors"])
def test_its_bytes_are_those_of_compressai_s_own_compress(
    reference: torch.nn.Module, tmp_path: Path, kind: str
) -> None:
    state = reference.state_dict()
    path = tmp_path / ("c.safetensors" if kind == "safetensors" else "c.pth.tar")
    if kind == "safetensors":
        save_file({k: v.contiguous() for k, v in state.items() if v.numel()}, path)
    elif kind == "wrapped":
        torch.save({"epoch": 3, "state_dict": state}, path)
    else:
        torch.save({f"module.{k}": v for k, v in state.items()} if kind == "parallel" else state, path)
    codec = load_checkpoint(path, "bmshj2018_hyperprior")
    assert (codec.config.n, codec.config.m) == (N, M) and not codec.training
    picture = np.random.default_rng(0).integers(0, 256, (64, 128, 3), dtype=np.uint8)
    x = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        expected = reference.compress(x)  # type: ignore[operator]
    encoded = codec.encode(picture)
    assert list(bitstream.unpack(encoded.data).strings[2::2][::-1]) == [s[0] for s in expected["strings"]]
    assert np.array_equal(codec.decode(encoded.data), encoded.reconstruction) and len(file_sha256(path)) == 64


def test_what_is_no_checkpoint_is_refused_in_a_line(reference: torch.nn.Module, tmp_path: Path) -> None:
    whole, text, numbers = tmp_path / "whole.pth", tmp_path / "text.pth", tmp_path / "numbers.pth"
    torch.save(reference, whole)
    text.write_text("not weights")
    torch.save({"a": 1}, numbers)
    good, diverged = tmp_path / "good.pth", tmp_path / "nan.pth"
    torch.save(reference.state_dict(), good)
    weight = reference.state_dict()["g_a.2.weight"].clone()
    weight[0, 0, 0, 0] = float("nan")
    torch.save(reference.state_dict() | {"g_a.2.weight": weight}, diverged)
    data, damaged = good.read_bytes(), {}
    for name, bad in {
        "cut": data[: len(data) // 2], "flipped": data[:200] + b"x" * 60 + data[260:], "empty": b"", "zeros": bytes(999),
        "pickle": pickle.dumps({"a": 1}, 4), "code": b'cos\nsystem\n(S"echo hi"\ntR.',
    }.items():  # fmt: skip
        damaged[name] = tmp_path / f"{name}.pth"
        damaged[name].write_bytes(bad)
    scale, mean = "bmshj2018_hyperprior", "mbt2018_mean"
    for path, codec, said in (
        (whole, scale, "whole.pth: damaged, or a whole pickled model"),
        (text, scale, "text.pth: no checkpoint of weights"),
        (damaged["cut"], mean, "cut.pth: cut short or damaged"),
        (damaged["flipped"], mean, "flipped.pth: damaged"),
        *((damaged[name], mean, "no checkpoint of weights") for name in ("empty", "zeros", "code", "pickle")),
        (tmp_path, mean, "not a file"),
        (numbers, scale, "not a state dict"),
        (tmp_path / "none.pth", scale, "no such file"),
        (good, mean, "is not a mbt2018_mean"),
        (good, "cheng2020_anchor", "has no g_a.0.conv1.weight"),
        (good, "bls2017", "known: bmshj2018_factorized"),
        (diverged, scale, r"nan\.pth: g_a\.2\.weight holds numbers that are not finite"),
    ):
        with pytest.raises(FoveaError, match=said) as caught:
            load_checkpoint(path, codec)
        assert "weights_only" not in str(caught.value) and "\n" not in str(caught.value)
