import numpy as np
import pytest
from scenes import scene

from models.codecs.base import LEVEL_STEPS
from models.codecs.target_rate import search_rate
from models.errors import FoveaError

PICTURES = [scene(80, 112, seed) for seed in range(2)]
MAPS = [np.tile(np.linspace(0, 255, 112).astype(np.uint8), (80, 1))] * 2


def analysed(codec, maps=None) -> list:
    return [codec.analysed(p, None if maps is None else maps[i]) for i, p in enumerate(PICTURES)]


def rate(codec, lmbda: float, maps=None) -> float:
    sizes = [
        len(codec.encode(p, saliency_map=None if maps is None else maps[i], rate=lmbda).data)
        for i, p in enumerate(PICTURES)
    ]
    return float(np.mean([8 * s / (80 * 112) for s in sizes]))


@pytest.mark.parametrize(("name", "maps"), [("uniform", None), ("gained", MAPS)])
def test_the_level_found_is_the_nearest_of_all_and_spends_what_it_says(request, name, maps):
    codec = request.getfixturevalue(name)
    rows = [float(codec.config.lmbda[0] * 4 ** (r / LEVEL_STEPS)) for r in range(2 * LEVEL_STEPS + 1)]
    rows[-1] = codec.config.lmbda[-1]
    rates = [rate(codec, lmbda, maps) for lmbda in rows]
    given = analysed(codec, maps)
    for share in (0.1, 0.5, 0.83):
        target = rates[0] + share * (rates[-1] - rates[0])
        found = search_rate(codec, given, target)
        assert found.bpp == rate(codec, found.rate, maps)
        nearest = min(abs(r - target) for r in rates)
        assert abs(found.bpp - target) == pytest.approx(nearest, abs=1e-9)
        assert (found.low, found.high) == (rates[0], rates[-1])
        assert found.level * LEVEL_STEPS == round(found.level * LEVEL_STEPS)
    ends = search_rate(codec, given, rates[0]), search_rate(codec, given, rates[-1])
    assert [e.bpp for e in ends] == [rates[0], rates[-1]]


def test_what_is_out_of_reach_is_refused_with_the_range(uniform):
    found = search_rate(uniform, analysed(uniform), rate(uniform, 0.0064))
    for target in (0.5 * found.low, 2 * found.high):
        with pytest.raises(FoveaError, match=f"out of reach.*{found.low:.4f} … {found.high:.4f}"):
            search_rate(uniform, analysed(uniform), target)
    with pytest.raises(FoveaError, match="at least one picture"):
        search_rate(uniform, [], 0.3)


def test_a_codec_with_one_rate_says_so():
    from models.codecs import catalogue
    from models.codecs.base import CodecConfig

    with pytest.raises(FoveaError, match="variable-rate"):
        search_rate(catalogue.build(CodecConfig(codec="bls2017", n=4, m=4)), [], 0.3)
