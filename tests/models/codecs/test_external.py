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
def reference() -> torch.nn.Module:
    from compressai.models.google import ScaleHyperprior

    torch.manual_seed(1)
    model = ScaleHyperprior(N, M).eval()
    with torch.no_grad():
        # no symbol may escape: CompressAI writes escapes into the same string, which is unsafe to read back
        model.g_a[6].weight.mul_(80)
        model.h_a[4].weight.mul_(20)
        model.h_s[4].weight.mul_(8)
        model.h_s[4].bias.add_(torch.linspace(6.0, 30.0, M))
    model.update(force=True, update_quantiles=True)
    return model


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
    assert np.array_equal(codec.decode(encoded.data), encoded.reconstruction)
    assert len(file_sha256(path)) == 64


def test_what_is_no_checkpoint_is_refused(reference: torch.nn.Module, tmp_path: Path) -> None:
    whole, text, numbers = tmp_path / "whole.pth", tmp_path / "text.pth", tmp_path / "numbers.pth"
    torch.save(reference, whole)
    text.write_text("not weights")
    torch.save({"a": 1}, numbers)
    good = tmp_path / "good.pth"
    torch.save(reference.state_dict(), good)
    data, damaged = good.read_bytes(), {}
    for name, bad in {
        "cut": data[: len(data) // 2], "flipped": data[:200] + b"x" * 60 + data[260:], "empty": b"", "zeros": bytes(999),
        "code": b'cos\nsystem\n(S"echo hi"\ntR.',
    }.items():  # fmt: skip
        damaged[name] = tmp_path / f"{name}.pth"
        damaged[name].write_bytes(bad)
    for path, codec, said in (
        (whole, "bmshj2018_hyperprior", "whole.pth: damaged, or a whole pickled model"),
        (text, "bmshj2018_hyperprior", "text.pth: no checkpoint of weights"),
        (damaged["cut"], "mbt2018_mean", "cut.pth: cut short or damaged"),
        (damaged["flipped"], "mbt2018_mean", "flipped.pth: damaged"),
        *((damaged[name], "mbt2018_mean", "no checkpoint of weights") for name in ("empty", "zeros", "code")),
        (tmp_path, "mbt2018_mean", "not a file"),
        (numbers, "bmshj2018_hyperprior", "not a state dict"),
        (tmp_path / "none.pth", "bmshj2018_hyperprior", "no such file"),
        (good, "mbt2018_mean", "is not a mbt2018_mean"),
        (good, "cheng2020_anchor", "has no g_a.0.conv1.weight"),
        (good, "bls2017", "known: bmshj2018_factorized"),
    ):
        with pytest.raises(FoveaError, match=said) as caught:
            load_checkpoint(path, codec)
        assert "weights_only" not in str(caught.value) and "\n" not in str(caught.value)


def test_weights_that_diverged_are_refused_by_file_and_layer(reference: torch.nn.Module, tmp_path: Path) -> None:
    state = {name: values.clone() for name, values in reference.state_dict().items()}
    state["g_a.2.weight"][0, 0, 0, 0] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(FoveaError, match=r"nan\.pth: g_a\.2\.weight holds numbers that are not finite"):
        load_checkpoint(tmp_path / "nan.pth", "bmshj2018_hyperprior")
