"""Files of which any beginning shows a picture, made and read by whole codecs."""

import numpy as np
import pytest
import torch
from scenes import scene, spot

from models.codecs import bitstream, catalogue
from models.codecs.base import CodecConfig
from models.codecs.bitstream import BitstreamError
from models.codecs.target_rate import encode_progressive
from models.errors import FoveaError
from models.metrics import psnr_db

PICTURE, MAP = scene(96, 130, 3), spot(96, 130)


@pytest.fixture(scope="module")
def light():
    return catalogue.open_codec("light")


def files(codec, rate=None, picture=PICTURE, saliency_map=MAP):
    given = codec.analysed(picture, saliency_map)
    return codec.encode_analysed(given, rate), codec.encode_analysed(given, rate, progressive=True)


@pytest.mark.parametrize(
    ("name", "mechanism"),
    [
        ("light", "gain"),
        ("mbt2018_mean", "none"),
        ("mbt2018_mean", "hyper"),
        ("mbt2018_mean", "sft"),
        ("bmshj2018_hyperprior", "gain"),
    ],
)
@pytest.mark.parametrize("size", [(96, 130), (17, 5), (1, 1)])
def test_the_whole_file_shows_the_plain_file_s_picture(trained_codec, name, mechanism, size):
    codec = trained_codec(name, mechanism)
    plain, progressive = files(codec, 0.02, scene(*size), spot(*size))
    for one in (plain, progressive):
        assert np.array_equal(codec.decode_checked(one), plain.reconstruction)
    assert torch.equal(plain.sent.y_hat, progressive.sent.y_hat)
    assert len(progressive.data) < 1.05 * len(plain.data) + 40
    for kept in (0.3, 0.6, 0.9):
        cut = progressive.data[: int(kept * len(progressive.data))]
        try:
            assert codec.decode(cut).shape == (*size, 3)
        except BitstreamError as error:
            assert "too short for a picture" in str(error) or "within its header" in str(error)


def test_quality_does_not_fall_from_cut_to_cut(light):
    _, whole = files(light, 0.03)
    least = len(bitstream.pack(_without_planes(whole.data)))
    before, looked_before = 0.0, 0.0
    for size in np.linspace(least, len(whole.data), 50).astype(int).tolist():
        shown = light.decode(bitstream.cut(whole.data, size))
        now, looked = psnr_db(PICTURE, shown), psnr_db(PICTURE, shown, MAP)
        assert now > before - 0.05 and looked > looked_before - 0.05
        before, looked_before = now, looked
    assert np.array_equal(shown, whole.reconstruction) and before > 25


def _without_planes(data):
    contents = bitstream.unpack(data)
    return contents._replace(strings=(*contents.strings[:-1], b""))


def test_places_that_matter_come_first(light):
    flat = np.full_like(MAP, 255)
    looked, plain = [], []
    for saliency_map in (MAP, flat):
        _, whole = files(light, 0.05, saliency_map=saliency_map)
        shown = light.decode(bitstream.cut(whole.data, len(whole.data) // 2))
        looked.append(psnr_db(PICTURE, shown, MAP.astype(float) ** 2))
        plain.append(psnr_db(PICTURE, shown))
    assert looked[0] > looked[1] + 0.5 and plain[0] < plain[1]


def test_a_file_that_ends_early_and_one_that_was_cut_show_the_same(light):
    _, whole = files(light, 0.05)
    size = 2 * len(whole.data) // 3
    shorter = bitstream.cut(whole.data, size)
    contents = bitstream.unpack(shorter)
    assert size - 6 < len(shorter) <= size and contents.whole() == len(whole.data)
    least = len(bitstream.pack(_without_planes(whole.data)))
    ends = [
        n for n in range(least, size) if len(bitstream.unpack(whole.data[:n]).strings[-1]) == len(contents.strings[-1])
    ]
    assert np.array_equal(light.decode(whole.data[: ends[0]]), light.decode(shorter))
    assert bitstream.cut(bitstream.cut(whole.data, size + 99), size) == shorter
    assert bitstream.cut(whole.data, len(whole.data)) == whole.data


def test_cut_files_have_a_transform_of_their_own(trained_codec, tmp_path):
    plain = trained_codec("light", "gain")
    catalogue.save_codec(plain, tmp_path / "plain")
    codec = catalogue.load_codec(tmp_path / "plain")
    codec.add("cuts", {k: (v + 0.01).half() for k, v in codec.g_s.state_dict().items()})
    catalogue.save_codec(codec, tmp_path / "both")
    codec = catalogue.load_codec(tmp_path / "both")
    assert codec.identity() == plain.identity() and codec.additions()["cuts"].name not in (b"", plain.identity())

    (file, whole), (_, before) = files(codec), files(plain)
    for made in (file, whole, before):
        assert np.array_equal(codec.decode_checked(made), plain.decode(file.data))
    cuts = [bitstream.cut(made.data, len(made.data) * 2 // 3) for made in (whole, before)]
    assert len(cuts[0]) == len(cuts[1]) and cuts[0] != cuts[1]
    own, old = (codec.decode(data) for data in cuts)
    assert np.array_equal(old, plain.decode(cuts[1])), "files of the codec before it had one show what they did"
    sent = codec.entropy_decode(cuts[0])
    assert sent.cut and not np.array_equal(own, old)
    assert np.array_equal(own, codec.show_sent(sent)) and np.array_equal(old, codec.show_sent(sent._replace(cut=False)))
    assert not codec.entropy_decode(bitstream.cut(whole.data, len(whole.data) * 19 // 20)).cut
    with pytest.raises(BitstreamError, match="made by another model"):
        plain.decode(cuts[0])

    (tmp_path / "both" / catalogue.ADDED["cuts"]).rename(tmp_path / catalogue.ADDED["cuts"])
    catalogue.save_codec(trained_codec("light", "none"), tmp_path / "both")
    (tmp_path / catalogue.ADDED["cuts"]).rename(tmp_path / "both" / catalogue.ADDED["cuts"])
    with pytest.raises(FoveaError, match=r"cuts\.safetensors goes with another weights"):
        catalogue.load_codec(tmp_path / "both")
    (tmp_path / "both" / catalogue.ADDED["cuts"]).write_bytes(b"nothing")
    with pytest.raises(FoveaError, match=r"cuts\.safetensors is damaged"):
        catalogue.load_codec(tmp_path / "both")
    with pytest.raises(FoveaError, match="do not fit this cheng2020_anchor"):
        trained_codec("cheng2020_anchor", "none").add("cuts", {"weight": torch.zeros(1)})


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_rate_is_met_to_a_few_bytes(light, share):
    picture = scene(208, 256, 5)
    given = light.analysed(picture, spot(208, 256))
    highest = light.encode_analysed(given, light.rates[-1], progressive=True)
    bpp = share * 8 * len(highest.data) / (208 * 256)
    encoded = encode_progressive(light, given, None, bpp)
    assert 0.995 * bpp <= 8 * len(encoded.data) / (208 * 256) <= bpp
    assert np.array_equal(light.decode(encoded.data), encoded.reconstruction)


def test_rates_out_of_reach_are_refused(light):
    given = light.analysed(PICTURE, MAP)
    with pytest.raises(FoveaError, match="spends at most"):
        encode_progressive(light, given, None, 20.0)
    with pytest.raises(FoveaError, match="too few: a picture of this file begins with"):
        encode_progressive(light, given, None, 0.02)


def test_codecs_without_such_files_say_so(trained_codec):
    torch.manual_seed(0)
    floats = catalogue.build(CodecConfig(codec="mbt2018_mean", n=4, m=8, options=(("arithmetic", "float"),)))
    floats.update()
    context = catalogue.build(CodecConfig(codec="cheng2020_anchor", n=4, m=4))
    context.update()
    for codec, said in (
        (trained_codec("bls2017", "none"), "^a codec bls2017 has no progressive files$"),
        (context.eval(), "^a codec cheng2020_anchor has no progressive files$"),
        (floats.eval(), "with arithmetic=float has no progressive files, with arithmetic=integer it has$"),
    ):
        with pytest.raises(FoveaError, match=said):
            codec.encode_analysed(codec.analysed(PICTURE), progressive=True)
