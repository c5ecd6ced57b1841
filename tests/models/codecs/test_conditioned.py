"""What every codec on conditioned.py must do; a paper's own layers are in its own file's tests (bls2017: all of it)."""

import dataclasses

import numpy as np
import pytest
import torch
from scenes import scene, spot

from models.card import cards
from models.codecs import bitstream, catalogue, levelmap
from models.codecs.base import LEVEL_STEPS, CodecConfig, picture_to_tensor
from models.codecs.bitstream import BitstreamError
from models.codecs.conditioned import Setting
from models.codecs.entropy import bits
from models.errors import FoveaError
from models.training.doctor import gradients

CARDS = {name: found.card for name, found in cards().found.items()}
NAMES = ("bmshj2018_factorized", "bmshj2018_hyperprior", "mbt2018_mean", "cheng2020_anchor", "light")
ALL = (*NAMES, "bls2017")
PLAIN_AND_GAIN = [(n, m) for n in NAMES for m in ("none", "gain")]
TOLD = [name for name, card in CARDS.items() if "hyper" in card.mechanisms]
TOLD_LEVELS = [(n, "hyper") for n in TOLD]
SIZES = ((1, 1), (16, 16), (17, 90), (64, 64), (50, 70), (33, 129))


def fresh(name: str, mechanism: str = "none", lmbda: tuple[float, ...] = (0.002, 0.02), **values):
    torch.manual_seed(0)
    return catalogue.build(CodecConfig(codec=name, n=6, m=8, mechanism=mechanism, lmbda=lmbda, **values))


@pytest.mark.parametrize(
    ("name", "mechanism"), [*((n, m) for n in ALL for m in ("concat", "sft") if m in CARDS[n].mechanisms), *TOLD_LEVELS]
)
def test_every_parameter_learns_from_the_map(name, mechanism):
    # `hyper` learns where a level can move both ways, so there must be one between two others
    codec = fresh(name, mechanism, lmbda=(0.002, 0.006, 0.02), span=1.0)
    finding = gradients(codec, [scene(70, 64)] * 2, [spot(70, 64)] * 2)
    assert finding.passed, finding.detail


@pytest.mark.parametrize(
    ("name", "mechanism"),
    [*PLAIN_AND_GAIN, ("bls2017", "none"), ("bls2017", "gain"), ("mbt2018_mean", "sft"), *TOLD_LEVELS],
)
def test_any_size_comes_back_as_the_encoder_promised(trained_codec, name, mechanism):
    quick = mechanism in ("sft", "hyper")
    codec = disturbed(fresh(name, mechanism, span=1.0)) if quick else trained_codec(name, mechanism)
    for i, (height, width) in enumerate(SIZES):
        picture = scene(height, width)
        lmbda = float(codec.lmbda_at(torch.tensor(codec.top_level * i / len(SIZES))))
        encoded = codec.encode(picture, saliency_map=spot(height, width), rate=lmbda)
        assert encoded.reconstruction.shape == picture.shape and encoded.reconstruction.dtype == np.uint8
        assert np.array_equal(codec.decode(encoded.data), encoded.reconstruction)


def disturbed(codec):
    """With layers beside the trunk's that do something."""
    with torch.no_grad():
        for p in codec.fresh_parameters():
            p.add_(0.05 * torch.randn_like(p))
    codec.update()
    return codec.eval()


@pytest.mark.parametrize(
    ("name", "mechanism"), [*PLAIN_AND_GAIN, *TOLD_LEVELS, ("bls2017", "none"), ("bls2017", "gain")]
)
def test_files_are_as_long_as_estimated_and_rates_rise(trained_codec, name, mechanism):
    codec = trained_codec(name, mechanism)
    picture, saliency_map = scene(150, 230), spot(150, 230)
    sizes, errors = [], []
    for lmbda in (0.0016, 0.005, 0.0256):
        encoded = codec.encode(picture, saliency_map=saliency_map, rate=lmbda)
        assert abs(8 * len(encoded.data) - encoded.bits_estimate) <= 0.02 * encoded.bits_estimate + 8 * 64
        sizes.append(len(encoded.data))
        errors.append(np.square(encoded.reconstruction.astype(float) - picture).mean())
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]
    # light shows little after so short a training
    assert name == "light" or max(errors) < picture.astype(float).var()
    if mechanism == "gain":
        level_map = bitstream.unpack(encoded.data).strings[0]
        assert level_map and levelmap.decode_levels(level_map, 10, 15).any()


def test_symbols_far_in_the_tails_are_estimated_as_the_coder_writes_them():
    """Stripes a pixel wide: many likelihoods are at their lower bound, 30 bits, where an escape takes 24."""
    codec = catalogue.open_codec("mbt2018_mean")
    stripes = np.tile((np.arange(128) % 2 * 255).astype(np.uint8)[None, :, None], (96, 1, 3))
    encoded = codec.encode(stripes, rate=0.0512)
    assert abs(8 * len(encoded.data) - encoded.bits_estimate) <= 0.02 * encoded.bits_estimate + 8 * 64
    likelihoods = {"y": torch.tensor([0.5, 1e-9]), "z": torch.tensor([[0.25]])}
    assert bits(likelihoods, b"") == 1 + 16 + 2 and bits(likelihoods, b"ab") == 1 + 16 + 2 + 16


@pytest.mark.parametrize("name", ALL)
def test_the_file_s_estimate_is_that_of_the_forward_pass(trained_codec, name, monkeypatch):
    """Up to the grid of scales and means, where there are some; nearly, with a context. Symbols are those that values
    round to."""
    codec, picture = trained_codec(name), scene(64, 128)
    monkeypatch.setattr(codec, "worth", None, raising=False)
    encoded = codec.encode(picture, rate=0.0064)
    x = picture_to_tensor(picture, 16)
    with torch.no_grad():
        out = codec(x, level=torch.tensor([1.0]))
    forward = bits(out.likelihoods, b"".join(bitstream.unpack(encoded.data).strings[1::2]))
    # with a context the forward pass rounds y, not y − mu, as CompressAI's does
    context = name == "cheng2020_anchor"
    assert encoded.bits_estimate == pytest.approx(forward, rel=0.1 if context else 2e-3)
    shown = out.x_hat[0].clamp(0, 1).mul(255).round().permute(1, 2, 0).numpy()
    if not context:
        assert np.abs(shown - encoded.reconstruction).mean() < 0.05
        assert np.abs(shown - encoded.reconstruction).max() <= (1 if name != "mbt2018_mean" else 8)
    latents = codec.latents(x, level=torch.tensor([1.0]))
    assert latents.symbols.dtype == torch.int32 and latents.symbols.shape == (1, codec.config.m, 4, 8)
    again = codec.synthesise(latents.y_hat)[0].clamp(0, 1).mul(255).round().permute(1, 2, 0).numpy()
    assert np.array_equal(again, encoded.reconstruction)


@pytest.mark.parametrize("name", ALL)
def test_a_constant_map_gives_the_uniform_file(trained_codec, name):
    codec = trained_codec(name)
    twin = catalogue.build(dataclasses.replace(codec.config, mechanism="gain", gamma=0.5, span=3.0))
    twin.load_weights(codec.weights())
    picture = scene(50, 70)
    plains = {lmbda: codec.encode(picture, rate=lmbda) for lmbda in (0.0016, 0.005, 0.0256)}
    for value in (0, 77, 255):
        # one analysis serves every rate
        given = twin.analysed(picture, np.full((50, 70), value, np.uint8))
        for lmbda, plain in plains.items():
            flat = twin.encode_analysed(given, lmbda)
            assert bitstream.unpack(flat.data).strings == bitstream.unpack(plain.data).strings
            assert flat.bits_estimate == plain.bits_estimate
            assert np.array_equal(flat.reconstruction, plain.reconstruction)


@pytest.mark.parametrize(
    ("name", "mechanism"), [*((n, m) for n in ALL for m in CARDS[n].mechanisms if m != "hyper"), *TOLD_LEVELS]
)
def test_a_branch_starts_where_its_trunk_stopped(trained_codec, name, mechanism):
    trunk = trained_codec(name)
    branch = catalogue.build(dataclasses.replace(trunk.config, mechanism=mechanism, span=0.0))
    branch.load_trunk(trunk.weights())
    x, s = torch.rand(2, 3, 80, 96), torch.rand(2, 1, 80, 96)
    level = torch.tensor([0.0, 1.5])
    with torch.no_grad():
        out, expected = branch.eval()(x, saliency_map=s, level=level), trunk(x, level=level)
    # the fourth plane changes the order of summation, nothing else
    atol, rtol, share = (2e-3, 1e-4, 0.99) if name == "bls2017" else (5e-3, 1e-3, 0.98)
    torch.testing.assert_close(out.x_hat, expected.x_hat, rtol=0, atol=atol if mechanism == "concat" else 0)
    for k, v in expected.likelihoods.items():
        assert torch.isclose(out.likelihoods[k], v, rtol=rtol).float().mean() > share
    with pytest.raises(FoveaError, match=r"update\(\)"):
        branch.encode(scene(20, 20), saliency_map=spot(20, 20))


@pytest.mark.parametrize(("name", "mechanism"), [*((n, "gain") for n in ALL), *TOLD_LEVELS])
def test_a_saved_codec_reads_what_it_wrote(tmp_path, trained_codec, name, mechanism):
    codec = trained_codec(name, mechanism)
    picture, saliency_map = scene(33, 47), spot(33, 47)
    encoded = codec.encode(picture, saliency_map=saliency_map, rate=0.004)
    catalogue.save_codec(codec, tmp_path)
    for path in (tmp_path, tmp_path / "weights.safetensors"):
        again = catalogue.load_codec(path)
        assert again.config == codec.config and again.identity() == codec.identity() and not again.training
        assert np.array_equal(again.decode(encoded.data), encoded.reconstruction)
        assert again.encode(picture, saliency_map=saliency_map, rate=0.004).data == encoded.data
    assert sorted(p.name for p in tmp_path.iterdir()) == ["codec.json", "weights.safetensors"]


@pytest.mark.parametrize("name", ALL)
def test_damaged_weights_and_files_are_refused(trained_codec, name):
    codec = trained_codec(name)
    for key in [k for k in codec.weights() if k.startswith("tables.")]:
        twin = catalogue.build(codec.config)
        with pytest.raises(FoveaError, match=r"incomplete|type"):
            twin.load_weights({k: v for k, v in codec.weights().items() if k != key})
    data = codec.encode(scene(60, 60)).data
    for length in range(0, len(data), 23):
        with pytest.raises(BitstreamError):
            codec.decode(data[:length])
    contents = bitstream.unpack(data)
    with pytest.raises(BitstreamError, match="cannot hold"):
        codec.decode(bitstream.pack(contents._replace(width=8192, height=8192)))
    with pytest.raises(BitstreamError, match="does not know"):
        codec.decode(bitstream.pack(contents._replace(strings=contents.strings[1:])))
    with pytest.raises(BitstreamError, match="does not know"):
        codec.decode(bitstream.pack(contents._replace(level=17)))


@pytest.mark.parametrize(
    ("name", "mechanism"),
    [*((n, m) for n in ALL for m in CARDS[n].mechanisms if m not in ("loss", "hyper")), *TOLD_LEVELS],
)
def test_parameters_are_partitioned_and_the_map_is_asked_for(name, mechanism):
    # a codec of one level has no gains
    for codec in (
        *((fresh(name, mechanism, (0.01,)),) if mechanism != "hyper" else ()),
        fresh(name, mechanism, span=1.0),
    ):
        main, aux = ({id(p) for p in part} for part in (codec.main_parameters(), codec.aux_parameters()))
        assert not main & aux and main | aux == {id(p) for p in codec.parameters()}
    codec.aux_loss().backward()
    assert [n for n, p in codec.named_parameters() if p.grad is not None] == ["entropy_bottleneck.quantiles"]
    if mechanism == "none":
        return
    codec.update()
    with pytest.raises(FoveaError, match=f"{mechanism}.*needs a saliency map"):
        codec(torch.rand(1, 3, 32, 32))
    with pytest.raises(FoveaError, match=f"{mechanism}.*needs a saliency map"):
        codec.encode(scene(32, 32))


def telling(name: str):
    """With levels told that are those of a random network."""
    codec = fresh(name, "hyper", gamma=0.5, span=1.0)
    torch.nn.init.normal_(codec.h_a_level[-1].weight)
    torch.nn.init.normal_(codec.h_s_level[-1].weight)
    codec.update()
    return codec.eval()


@pytest.mark.parametrize("name", TOLD)
def test_the_hyperprior_tells_levels_that_no_level_map_sends(name):
    """The decoder, which sees no map, has the encoder's levels; they move the symbols, and stay within the range."""
    codec = telling(name)
    picture, saliency_map = scene(96, 160), spot(96, 160)
    encoded = codec.encode(picture, saliency_map=saliency_map, rate=0.005)
    assert bitstream.unpack(encoded.data).strings[0] == b""
    x = picture_to_tensor(picture, 16)
    with torch.no_grad():
        y = codec.analyse(x, None)
        base = codec.base_level(x, torch.tensor([0.5]))
        wanted = codec.wanted(base, codec.places(base, y, torch.from_numpy(saliency_map)[None, None] / 255)[0])
        assert wanted.shape == (1, 1, 6, 10) and wanted.max() > 0 > wanted.min()
        z = codec.entropy_bottleneck.symbols(codec.hyper_analyse(y, None, wanted), codec.gains_z(base))
        level = codec.parameters_for(z, base, 6, 10).level
        told = codec.level_told(codec.h_s_level(codec.parameters_for(z, base, 6, 10).z_hat)[:, :, :6, :10], base)
    assert level.shape == (1, 1, 6, 10) and level.unique().numel() > 1
    assert level.min() >= 0 and level.max() <= codec.top_level
    assert torch.equal(level * LEVEL_STEPS, (level * LEVEL_STEPS).round())
    # integers say what floats say, up to the rounding of the weights
    assert (level - told).abs().max() <= 1 / LEVEL_STEPS
    assert np.array_equal(codec.decode(encoded.data), encoded.reconstruction)


@pytest.mark.parametrize(("name", "mechanism"), [("bls2017", "none"), ("mbt2018_mean", "hyper")])
def test_files_do_not_depend_on_the_training_mode(name, mechanism):
    codec = telling(name) if mechanism == "hyper" else disturbed(fresh(name))
    picture, saliency_map = scene(70, 90), spot(70, 90)
    one = codec.train().encode(picture, saliency_map=saliency_map, rate=0.005)
    torch.manual_seed(99)
    two = codec.eval().encode(picture, saliency_map=saliency_map, rate=0.005)
    assert one.data == two.data and np.array_equal(one.reconstruction, codec.decode(one.data))


def test_training_makes_the_hyperprior_tell_what_the_map_asks_for():
    """From nothing told, with the trunk's weights as they are: the told levels follow a map that was never seen."""
    trunk = catalogue.open_codec("mbt2018_mean")
    torch.manual_seed(0)
    codec = catalogue.build(dataclasses.replace(trunk.config, mechanism="hyper", gamma=1.0, span=4.0))
    codec.load_trunk(trunk.weights())
    codec.requires_grad_(False)
    optimiser = torch.optim.Adam([p.requires_grad_() for p in codec.fresh_parameters()], lr=3e-3)
    x = torch.from_numpy(np.stack([scene(64, 128, i) for i in range(2)])).permute(0, 3, 1, 2) / 255.0
    base = torch.full((2, 1, 1, 1), 3.0)
    rng = torch.Generator().manual_seed(1)
    for _ in range(150):
        s = torch.nn.functional.interpolate(torch.rand(2, 1, 2, 3, generator=rng), (64, 128), mode="bilinear")
        with torch.no_grad():
            y = codec.analyse(x, s)
        codec.model(y, Setting(s, base, codec.places(base, y, s)[0])).penalty.mean().backward()
        optimiser.step()
        optimiser.zero_grad()
    codec.update()
    ramp = np.tile(np.linspace(0, 255, 128).astype(np.uint8), (64, 1))
    s = torch.from_numpy(ramp)[None, None].float() / 255
    with torch.no_grad():
        y = codec.eval().analyse(x[:1], None)
        wanted = codec.wanted(base[:1], codec.places(base[:1], y, s)[0])
        z = codec.hyper_analyse(y, None, wanted)
        symbols = codec.entropy_bottleneck.symbols(z, codec.gains_z(base[:1]))
        told = codec.parameters_for(symbols, base[:1], 4, 8).level - 3.0
    assert np.corrcoef(told.ravel(), wanted.ravel())[0, 1] > 0.8, (told, wanted)


def test_a_checkpoint_is_for_one_rate_and_no_map():
    one = fresh("bmshj2018_factorized", lmbda=(0.01,))
    with pytest.raises(FoveaError, match="one rate and no map"):
        fresh("bmshj2018_factorized").load_compressai(one.state_dict())
    with pytest.raises(FoveaError, match="lack h_"):
        fresh("mbt2018_mean", lmbda=(0.01,)).load_compressai(one.state_dict())


def test_a_decoder_that_gets_something_else_is_noticed(trained_codec, monkeypatch):
    codec = trained_codec("bls2017")
    encoded = codec.encode(scene(48, 80))
    read = codec.entropy_decode

    def off_by_a_bit(data):
        sent = read(data)
        y_hat = sent.y_hat.clone()
        y_hat[0, 0, 0, 0] = torch.nextafter(y_hat[0, 0, 0, 0], torch.tensor(9.0))
        return sent._replace(y_hat=y_hat)

    monkeypatch.setattr(codec, "entropy_decode", off_by_a_bit)
    with pytest.raises(FoveaError, match="differs from the encoder's"):
        codec.decode_checked(encoded)
