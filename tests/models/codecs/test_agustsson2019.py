import dataclasses
import math

import numpy as np
import pytest
import torch
from scenes import spot
from trainings import untrained

from models.codecs import catalogue
from models.codecs.agustsson2019 import CARD, LEAK, quantise
from models.codecs.base import CodecConfig
from models.codecs.bitstream import BitstreamError, unpack
from models.errors import FoveaError
from models.training import doctor
from models.training.critics import FEATURES

OPTIONS_HERE = {"blocks": 1, "norm": "none", "patch": 2}


def made(mechanism="none", c=4, n=16, seed=0, **options):
    chosen = tuple(sorted({**OPTIONS_HERE, **options}.items()))
    return untrained(CodecConfig(codec="agustsson2019", n=n, m=c, mechanism=mechanism, lmbda=(), options=chosen), seed)


def scene(height, width, seed=0):
    """With enough in it for codes of untrained networks to differ."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows / rng.uniform(4, 20) + columns / rng.uniform(4, 20) + k) for k in range(3)]
    return (127 + 90 * np.stack(waves, axis=-1) + rng.normal(0, 8, (height, width, 3))).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(("c", "bpp"), [(2, 0.0181), (4, 0.0363), (8, 0.0726), (16, 0.1451)])
def test_the_bound_is_the_paper_s_and_what_likelihoods_say(c, bpp):
    nats = made(c=c)(torch.zeros(1, 3, 96, 128)).likelihoods["y"].log().sum()
    assert float(-nats / math.log(2)) == pytest.approx(6 * 8 * c * math.log2(5), rel=1e-4)
    assert made(c=c).payload_bound(1024, 1024) / 1024**2 == pytest.approx(bpp, abs=5e-5)
    # 480×360 is coded as 480×368
    bits = made(c=c).payload_bound(360, 480)
    assert 1.0 < bits / (360 * 480) / bpp < 1.03 and bits % 8 == 0
    assert math.isnan(made("select", c=c).payload_bound(360, 480)) and math.isnan(made(c=c).payload_bound(4096, 8192))


@pytest.mark.parametrize("patch", [1, 2])
def test_held_values_leave_no_ripple_on_even_ground(patch):
    """Codes that are the same everywhere give one colour, away from the border; without the hold they do not."""
    found = []
    for hold in (0, 1):
        codec = made(patch=patch, hold=hold)
        with torch.no_grad():
            for parameter in codec.generator.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape))
            shown = codec.synthesise(torch.ones(1, 4, 16, 16))
        middle = shown[:, :, shown.shape[2] // 4 : -(shown.shape[2] // 4), shown.shape[3] // 4 : -(shown.shape[3] // 4)]
        found.append(float(middle.std(dim=(2, 3)).max()))
    assert found[1] < 1e-5 < 1e-3 < found[0]


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (37, 90), (64, 48)])
@pytest.mark.parametrize("mechanism", ["none", "concat", "select"])
def test_any_size_comes_back_as_the_encoder_promised(size, mechanism):
    codec, picture = made(mechanism), scene(*size)
    encoded = codec.encode(picture, saliency_map=spot(*size))
    assert encoded.reconstruction.shape == picture.shape
    assert np.array_equal(codec.decode(encoded.data), encoded.reconstruction)
    assert np.array_equal(codec.decode_checked(encoded), encoded.reconstruction)
    payload = sum(map(len, unpack(encoded.data).strings))
    assert len(encoded.data) - payload < 30
    if mechanism != "select":
        assert 8 * payload <= codec.payload_bound(*size) and abs(8 * payload - encoded.bits_estimate) < 24


@pytest.mark.parametrize("given", [{}, {"mechanism": "select"}, {"noise": 2}])
def test_the_file_shows_what_the_forward_pass_shows(given):
    codec, picture, s = made(**given), scene(64, 80), spot(64, 80)
    x = torch.from_numpy(picture).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        seen = codec(x, saliency_map=torch.from_numpy(s)[None, None] / 255).x_hat
    encoded = codec.encode(picture, saliency_map=s)
    assert np.array_equal(codec.decode(encoded.data), encoded.reconstruction)
    shown = torch.from_numpy(encoded.reconstruction).permute(2, 0, 1)[None]
    assert (255 * seen.clamp(0, 1) - shown).abs().max() <= 0.52


def test_the_nearest_centre_forward_the_soft_one_backward():
    z = torch.linspace(-4, 4, 33, requires_grad=True)
    q, codes = quantise(z, 5)
    assert torch.equal(q.detach(), z.detach().round().clamp(-2, 2)) and torch.equal(codes.float(), q.detach())
    (slope,) = torch.autograd.grad(q.sum(), z)
    assert (slope[(z.abs() < 2).nonzero()] > 0.5).all()
    assert slope[0] == pytest.approx(LEAK, abs=0.05) and slope[-1] == pytest.approx(LEAK, abs=0.05)
    assert not quantise(z, 5, stopped=True)[0].requires_grad


def test_every_centre_occurs_from_the_start():
    symbols = made(c=8).latents(torch.rand(2, 3, 64, 64)).symbols
    assert set(symbols.flatten().tolist()) == {-2, -1, 0, 1, 2}


def test_the_doctor_finds_the_planted_faults():
    pictures = [scene(64, 64, k) for k in range(2)]
    assert doctor.gradients(made(), pictures).passed
    found = doctor.gradients(made(fault="gradient"), pictures)
    assert not found.passed and "encoder.0.weight" in found.detail and "the distortion" in found.detail
    assert doctor.reach(made(), pictures).passed
    found = doctor.reach(made(fault="relu"), pictures)
    assert not found.passed and "has no negative symbol" in found.detail


def test_selective_compression_sends_its_region_and_only_the_codes_inside():
    picture, s = scene(96, 128), spot(96, 128)
    half, all_of_it = made("select", keep=0.5), made("select", keep=1.0)
    x, m = torch.from_numpy(picture).permute(2, 0, 1)[None] / 255, torch.from_numpy(s)[None, None] / 255
    region = half.region(m)
    assert region.sum() == 24 and region[0, 0, 1, 3] == 1 and region[0, 0, 5, 7] == 0
    y_hat = half.latents(x, saliency_map=m).y_hat
    assert (y_hat * (1 - region) == 0).all() and (y_hat != 0).any()
    sizes = [sum(map(len, unpack(c.encode(picture, saliency_map=s).data).strings)) for c in (half, all_of_it)]
    assert sizes[0] < 0.75 * sizes[1] and len(unpack(half.encode(picture, saliency_map=s).data).strings[0]) > 0
    # a label map: what is marked is kept
    labels = np.zeros((96, 128), dtype=np.uint8)
    labels[16:48, 32:64] = 1
    marked = made("select", keep=0.0).region(torch.from_numpy(labels)[None, None] / 255)
    assert marked.sum() == 4 and marked[0, 0, 1:3, 2:4].sum() == 4


def test_noise_belongs_to_the_codes_but_in_training():
    codec = made(noise=2)
    x = torch.rand(2, 3, 64, 80)
    with torch.no_grad():
        shown = codec(x).x_hat
        assert torch.equal(shown, codec(x).x_hat)
        # another picture's codes bring other noise, and neighbours in a batch none
        assert torch.allclose(codec(x[1:]).x_hat, shown[1:], atol=1e-5)
        codes = torch.zeros(2, 4, 4, 5)
        codes[1, 0, 0, 0] = 1
        first, second = codec._noise_of(codes)
        assert first.shape == (2, 1, 2) and not torch.equal(first, second)
        assert torch.equal(first, codec._noise_of(codes[:1])[0])
        many = codec._noise_of(torch.arange(400).view(100, 4, 1, 1) % 251 - 125)
        assert abs(float(many.mean())) < 0.3 and 0.7 < float(many.std()) < 1.3
        codec.train()
        assert not torch.equal(codec(x).x_hat, codec(x).x_hat)


@pytest.mark.parametrize("mechanism", ["loss", "concat", "select"])
def test_a_branch_starts_where_its_trunk_stopped(mechanism):
    trunk, x, s = made(), torch.rand(1, 3, 64, 64), torch.rand(1, 1, 64, 64)
    branch = made(mechanism, seed=5, keep=1.0)
    branch.load_trunk(trunk.state_dict())
    with torch.no_grad():
        assert torch.allclose(branch(x, saliency_map=s).x_hat, trunk(x).x_hat, atol=1e-5)


def test_saved_and_loaded_it_reads_what_it_wrote(tmp_path):
    codec, picture = made("select", norm="instance"), scene(48, 64)
    encoded = codec.encode(picture, saliency_map=spot(48, 64))
    catalogue.save_codec(codec, tmp_path)
    loaded = catalogue.load_codec(tmp_path)
    assert np.array_equal(loaded.decode(encoded.data), encoded.reconstruction)
    with pytest.raises(BitstreamError, match="another model"):
        made(seed=9).decode(encoded.data)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"mechanism": "gain"}, "no mechanism 'gain'"),
        ({"n": 12}, "multiple of 8"),
        ({"patch": 3}, "it takes one of"),
        ({"norm": "batch"}, "it takes one of"),
        ({"centres": 4}, "centres is odd"),
        ({"hold": 1, "patch": 4}, "hold goes with"),
    ],
)
def test_what_it_cannot_be_is_named(given, said):
    with pytest.raises(FoveaError, match=said):
        made(**given)


def test_user_errors_are_named():
    with pytest.raises(FoveaError, match="needs a saliency map"):
        made("select").encode(scene(16, 16))
    with pytest.raises(FoveaError, match="not this model's 4 code channels"):
        made().encode(scene(16, 16), rate=8.0)
    damaged = made().encode(scene(64, 64)).data
    with pytest.raises(BitstreamError):
        made().decode(damaged[:-7])


def test_the_card_s_options_are_the_paper_s():
    own = {k: option.default for k, option in CARD.options.items() if option.part == "codec"}
    paper = dataclasses.replace(made().config, n=16, options=tuple(sorted(own.items())))
    assert CARD.options["features"].choices == tuple(FEATURES)
    assert sum(type(m).__name__ == "Residual" for m in catalogue.build(paper).modules()) == 9
