"""CompressAI's classes as reference, integer arithmetic, and the change of variables under gains."""

import json

import numpy as np
import pytest
import torch
from scenes import scene
from trainings import driven

from models.codecs import bitstream, catalogue
from models.codecs.base import CodecConfig
from models.codecs.hyperprior import gaussian_tables
from models.codecs.hyperprior_model import scale_table
from models.codecs.integer_synthesis import FRACTION, LIMIT, IntegerSynthesis
from models.errors import FoveaError

N, M = 8, 12
CLASSES = ("bmshj2018_factorized", "bmshj2018_hyperprior", "mbt2018_mean", "cheng2020_anchor")
WIDTHS = {"cheng2020_anchor": (N, N)}


def loaded(references, name: str, **options):
    n, m = WIDTHS.get(name, (N, M))
    config = CodecConfig(codec=name, n=n, m=m, options=tuple(options.items()))
    codec = catalogue.build(config).eval()
    codec.load_compressai(references[name].state_dict())
    return codec


@pytest.fixture(scope="module")
def picture():
    return np.random.default_rng(4).integers(0, 256, (64, 128, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def x(picture):
    return torch.from_numpy(picture).permute(2, 0, 1)[None].contiguous().float() / 255


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", CLASSES)
def test_the_forward_pass_is_compressai_s(references, x, name, training):
    codec, reference = loaded(references, name).train(training), references[name].train(training)
    torch.manual_seed(3)
    out = codec(x)
    torch.manual_seed(3)
    expected = reference(x)
    reference.eval()
    assert torch.equal(out.x_hat, expected["x_hat"]) and out.likelihoods.keys() == expected["likelihoods"].keys()
    for key, value in expected["likelihoods"].items():
        assert torch.equal(out.likelihoods[key], value), key


@pytest.mark.parametrize("name", CLASSES)
def test_bytes_are_compressai_s(references, picture, x, name):
    """With CompressAI's float arithmetic, where no symbol escapes: the same strings, and the same picture."""
    codec = loaded(references, name, **({} if name == "bmshj2018_factorized" else {"arithmetic": "float"}))
    with torch.no_grad():
        expected = references[name].compress(x)
        shown = references[name].decompress(**expected)["x_hat"]
    encoded = codec.encode(picture)
    strings = bitstream.unpack(encoded.data).strings
    assert strings[0] == b"" and strings[1] == b"" and strings[-2] == b""
    ours = strings[2::2][::-1]
    assert list(ours) == [s[0] for s in expected["strings"]]
    # files are shown with channels-last tensors, which round otherwise in the last bit
    shown = shown[0].clamp(0, 1).mul(255).permute(1, 2, 0).numpy()
    assert np.abs(encoded.reconstruction - shown).max() <= 0.52
    assert np.array_equal(codec.decode(encoded.data), encoded.reconstruction)


@pytest.mark.parametrize("name", ["bmshj2018_hyperprior", "mbt2018_mean"])
def test_integer_arithmetic_changes_next_to_nothing(references, picture, x, name):
    """z's string is CompressAI's; y's symbols too where there are no means, and the file is as long."""
    exact, floats = (loaded(references, name, arithmetic=a).encode(picture) for a in ("integer", "float"))
    strings, others = (bitstream.unpack(e.data).strings for e in (exact, floats))
    assert strings[2] == others[2] and len(exact.data) <= 4 + len(floats.data)
    assert exact.bits_estimate == pytest.approx(floats.bits_estimate, rel=1e-3)
    a, b = (loaded(references, name, arithmetic=v).latents(x).symbols for v in ("integer", "float"))
    assert b.abs().max() > 2
    different = (a != b).float().mean()
    assert different == 0 if name == "bmshj2018_hyperprior" else different < 0.01


def test_older_checkpoints_are_understood(references):
    name = "bmshj2018_hyperprior"
    old = {
        "module." + k.replace("_matrix", "_matrices.").replace("_bias", "_biases.").replace("_factor", "_factors.")
        if k.startswith("entropy_bottleneck._")
        else k: v
        for k, v in references[name].state_dict().items()
        if not k.endswith((".bound", "_offset", "_quantized_cdf", "_cdf_length"))
    }
    assert "module.entropy_bottleneck._matrices.0" in old
    codec = catalogue.build(CodecConfig(codec=name, n=N, m=M))
    codec.load_compressai(old)
    assert codec.identity() == loaded(references, name).identity()


# ── integers ──


def whole(transform: torch.nn.Sequential, values: np.ndarray) -> np.ndarray:
    """The same in Python's way of int64: zeros between, correlation with the flipped kernel, floor-free rounding."""
    for layer in transform:
        if isinstance(layer, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            w = np.rint(layer.weight.detach().double().numpy() * 65536).astype(np.int64)
            b = np.rint(layer.bias.detach().double().numpy() * 2.0**28).astype(np.int64)
            stride = layer.stride[0]
            if isinstance(layer, torch.nn.ConvTranspose2d):
                c, h, v = values.shape
                spaced = np.zeros((c, h * stride, v * stride), dtype=np.int64)
                spaced[:, ::stride, ::stride] = values
                values, w = spaced, w[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
            r = w.shape[2] // 2
            windows = np.lib.stride_tricks.sliding_window_view(
                np.pad(values, ((0, 0), (r, r), (r, r))), w.shape[2:], axis=(1, 2)
            )
            sums = np.einsum("chwij,ocij->ohw", windows, w) + b[:, None, None]
            low, rest = sums >> 16, sums & 65535
            up = (rest > 32768) | ((rest == 32768) & (low & 1 == 1))
            values = np.clip(low + up, -LIMIT, LIMIT)
        elif isinstance(layer, torch.nn.ReLU):
            values = np.maximum(values, 0)
        else:
            values = np.where(values < 0, np.rint(values * 41943 / 2.0**22).astype(np.int64), values)
    return values


@pytest.mark.parametrize("name", ["bmshj2018_hyperprior", "mbt2018_mean"])
@pytest.mark.parametrize("reach", [30 << FRACTION, LIMIT])
def test_the_synthesis_is_integer_arithmetic(references, name, reach):
    h_s = references[name].h_s
    z = torch.randint(-reach, reach + 1, (1, N, 3, 4), generator=torch.Generator().manual_seed(0))
    got = IntegerSynthesis(h_s)(z.double())
    assert np.array_equal(got[0].long().numpy(), whole(h_s, z[0].numpy()))
    with torch.no_grad():
        close = h_s(z.float() / 2**FRACTION)
    if reach < LIMIT:
        torch.testing.assert_close(got / 2**FRACTION, close.double(), atol=0.02, rtol=2e-3)


def test_large_weights_get_a_coarser_grid_and_broken_ones_an_error():
    layer = torch.nn.Conv2d(4, 4, 3, padding=1)
    with torch.no_grad():
        layer.weight.fill_(300.0)
    wide = IntegerSynthesis(torch.nn.Sequential(layer))
    assert 0 < wide.layers[0].shift < 16
    assert wide(torch.full((1, 4, 5, 5), float(LIMIT), dtype=torch.float64)).max() == LIMIT
    with torch.no_grad():
        layer.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(FoveaError, match="diverged"):
        IntegerSynthesis(torch.nn.Sequential(layer))


def test_scales_fall_to_the_nearest_table(references):
    codec = loaded(references, "bmshj2018_hyperprior")
    tables = np.log(np.array(scale_table(2)))
    grid = np.concatenate((np.arange(1, 6000), np.arange(6000, 1_200_000, 997)))
    distance = np.abs(np.log(grid / 4096)[:, None] - tables)
    got = np.searchsorted(codec._bounds, grid << 16)
    nearest = distance.min(axis=1)
    assert np.all(distance[np.arange(len(grid)), got] <= nearest + 1e-4)
    assert np.searchsorted(codec._bounds, [-5 << 16, 0, 1 << 50]).tolist() == [0, 0, 126]


def test_gaussian_tables_are_compressai_s(references):
    other = references["mbt2018_mean"].gaussian_conditional
    coarse, fine = gaussian_tables(scale_table()), gaussian_tables(scale_table(2))
    for i in range(64):
        for tables, row in ((coarse, i), (fine, 2 * i)):
            assert tables.offsets[row] == other._offset[i]
            cdf = other._quantized_cdf[i, : other._cdf_length[i]].numpy()
            assert np.abs(np.array(tables.cdf(row)[:-1]) - cdf).max() <= (tables is fine)


DECODE = """
import hashlib, json, sys, warnings
warnings.simplefilter("ignore")
from pathlib import Path
import torch
from models.codecs import bitstream, catalogue
torch.set_num_threads(int(sys.argv[2]))
torch.backends.mkldnn.set_flags(sys.argv[3] == "on")
codec = catalogue.load_codec(sys.argv[1])
data = (Path(sys.argv[1]) / "a.fov").read_bytes()
symbols = []
owner = codec if hasattr(codec, "dequantized") else codec.entropy_bottleneck
read = owner.dequantized
owner.dequantized = lambda s, *given: (symbols.append(s), read(s, *given))[1]
picture = codec.decode(data)
print(json.dumps([hashlib.sha256(symbols[0].numpy().tobytes()).hexdigest(), picture.tolist()]))
"""


def test_a_symbol_may_be_the_one_before_where_that_saves_more_than_it_costs(trained_codec, monkeypatch):
    codec = trained_codec("light", "gain")
    picture = scene(96, 128, 3)
    given = codec.analysed(picture, np.full((96, 128), 255, np.uint8))
    seen = []
    for worth in (None, 1e6, codec.worth, 3.0):
        monkeypatch.setattr(codec, "worth", worth)
        encoded = codec.encode_analysed(given, 0.01)
        assert np.array_equal(codec.decode(encoded.data), encoded.reconstruction)
        y_hat = codec.entropy_decode(encoded.data).y_hat
        seen.append((len(encoded.data), encoded.bits_estimate, float((y_hat - given.y).square().mean())))
    plain, dear, usual, cheap = seen
    assert dear == plain and cheap[1] < usual[1] < plain[1] and cheap[2] > usual[2] > plain[2]


INSTRUCTIONS = ("default", "avx2", "avx512")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mechanism", "kept"),
    [
        ("bls2017", "gain", None),
        ("bmshj2018_factorized", "gain", None),
        ("bmshj2018_hyperprior", "gain", None),
        ("mbt2018_mean", "gain", None),
        ("mbt2018_mean", "hyper", None),
        ("light", "gain", None),
        ("mbt2018_mean", "hyper", 1.0),
        ("light", "gain", 1.0),
        ("light", "gain", 0.6),
        ("light", "context", None),
    ],
)
def test_streams_decode_elsewhere(tmp_path, request, trained_codec, name, mechanism, kept):
    """Vector instructions, threads, oneDNN on and off: equal symbols, pixels within ±1. kept: of a progressive file."""
    codec = request.getfixturevalue("in_context") if mechanism == "context" else trained_codec(name, mechanism)
    rng = np.random.default_rng(0)
    picture = np.cumsum(rng.integers(-9, 10, (90, 130, 3)), axis=1).astype(np.uint8)
    given = codec.analysed(picture, np.tile(np.arange(130, dtype=np.uint8), (90, 1)))
    encoded = codec.encode_analysed(given, 0.02, progressive=kept is not None)
    catalogue.save_codec(codec, tmp_path)
    data = encoded.data[: int(len(encoded.data) * (kept or 1))]
    (tmp_path / "a.fov").write_bytes(data)
    expected = codec.decode(data)
    digests = set()
    # a processor without the instructions would not refuse, it would end the process
    here = torch.backends.cpu.get_cpu_capability().lower()
    usable = INSTRUCTIONS[: INSTRUCTIONS.index(here) + 1] if here in INSTRUCTIONS else INSTRUCTIONS[:1]
    kinds = [(usable[0], 1, "off"), (usable[-1], 2, "on"), *((other, 2, "off") for other in usable[1:])]
    for capability, threads, onednn in kinds:
        said = driven("-c", DECODE, tmp_path, threads, onednn, ATEN_CPU_CAPABILITY=capability)
        digest, shown = json.loads(said)
        digests.add(digest)
        assert np.abs(np.array(shown) - expected.astype(int)).max() <= 1
    assert len(digests) == 1


# ── gains ──


@pytest.mark.parametrize("name", ["bmshj2018_hyperprior", "mbt2018_mean"])
@pytest.mark.parametrize("g", [0.4, 3.0])
def test_bins_of_any_width_tile_the_density(references, name, g):
    """The likelihoods of all symbols sum to 1, and their standard deviation is that of y at gain 1, times the gain."""
    codec = loaded(references, name)
    sigma, mu = torch.full((1, M, 1, 1), 2.5), torch.full((1, M, 1, 1), 0.7)
    q = torch.arange(-60.0, 61.0).expand(1, M, 1, -1)
    gain = torch.full((1, M, 1, 1), g)
    y = q / gain + mu
    with torch.no_grad():
        y_hat, likelihoods = codec._gaussian(y, sigma, mu, (gain, 1 / gain))
        torch.testing.assert_close(y_hat, y)
        torch.testing.assert_close(likelihoods.sum(dim=3), torch.ones(1, M, 1), atol=1e-4, rtol=0)
        variance = (likelihoods * q.square()).sum(dim=3) - 1 / 12
        torch.testing.assert_close(variance.sqrt(), torch.full((1, M, 1), 2.5 * g), rtol=2e-2, atol=0)
        one = torch.ones(1, M, 1, 1)
        gained, plain = codec._gaussian(y, sigma, mu, (one, one)), codec._gaussian(y, sigma, mu, None)
        torch.testing.assert_close(gained[1], plain[1], rtol=1e-4, atol=1e-7)


def test_unknown_arithmetic_is_refused():
    with pytest.raises(FoveaError, match="one of 'integer', 'float'"):
        catalogue.build(CodecConfig(codec="mbt2018_mean", n=4, m=4, options=(("arithmetic", "fast"),)))


def test_scales_are_found_as_compressai_finds_them():
    codec = catalogue.build(CodecConfig(codec="bmshj2018_hyperprior", n=4, m=6))
    table = codec.gaussian_conditional.scale_table
    near = torch.cat((table, torch.nextafter(table, table + 1), torch.nextafter(table, table - 1)))
    scales = torch.cat((near, 300 * torch.rand(999), torch.tensor([0.0, 1e-9, 1e9, -1.0])))[None, None, :, None]
    assert torch.equal(codec.larger_scales(scales), codec.gaussian_conditional.build_indexes(scales).long())
