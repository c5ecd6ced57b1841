import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scenes import scene

from models.codecs import catalogue
from models.codecs.base import LEVEL_STEPS, CodecConfig
from models.codecs.target_rate import _lowest, search_rate
from models.errors import FoveaError

PICTURE = scene(80, 112)
MAP = np.tile(np.linspace(0, 255, 112).astype(np.uint8), (80, 1))


def bpp(codec, rate: float, saliency_map=None) -> float:
    return 8 * len(codec.encode(PICTURE, saliency_map=saliency_map, rate=rate).data) / (80 * 112)


@pytest.mark.parametrize(("name", "saliency_map"), [("uniform", None), ("gained", MAP)])
def test_the_rate_found_is_the_nearest_of_all_that_a_file_can_name(request, name, saliency_map):
    codec = request.getfixturevalue(name)
    rows = [float(codec.config.lmbda[0] * 4 ** (r / LEVEL_STEPS)) for r in range(2 * LEVEL_STEPS + 1)]
    rows[-1] = codec.config.lmbda[-1]
    sizes = [bpp(codec, lmbda, saliency_map) for lmbda in rows]
    analysed = codec.analysed(PICTURE, saliency_map)
    for share in (0.1, 0.5, 0.83):
        target = sizes[0] + share * (sizes[-1] - sizes[0])
        found = search_rate(codec, analysed, target)
        assert min(abs(found - lmbda) for lmbda in rows) < 1e-6 * found
        nearest = min(abs(size - target) for size in sizes)
        assert abs(bpp(codec, found, saliency_map) - target) == pytest.approx(nearest, abs=1e-9)
    for end in (sizes[0], sizes[-1]):
        assert bpp(codec, search_rate(codec, analysed, end), saliency_map) == end


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=130), st.integers(0, 10_000), st.booleans())
def test_the_lowest_row_is_found_whatever_sizes_do(steps, wanted, above):
    sizes, asked = np.cumsum(steps) + 1, []

    def size(row):
        asked.append(row)
        return sizes[row]

    enough = np.flatnonzero(sizes > wanted if above else sizes >= wanted)
    assert _lowest(-1, len(sizes), size, wanted, above) == (enough[0] if len(enough) else len(sizes))
    assert len(set(asked)) == len(asked) <= 4 * math.ceil(math.log2(len(sizes) + 1))


@pytest.mark.parametrize("share", np.linspace(0.05, 0.95, 7))
def test_few_files_are_made_where_sizes_grow_evenly(share):
    sizes, asked = 3000 * np.exp(np.cumsum(0.045 - 0.02 * np.linspace(0, 1, 129))), []
    _lowest(-1, 129, lambda row: asked.append(row) or sizes[row], sizes[int(share * 128)] + 1)
    assert len(asked) <= 7


def test_what_is_out_of_reach_is_refused_with_the_range(uniform):
    low, high = (bpp(uniform, uniform.config.lmbda[end]) for end in (0, -1))
    for target in (0.5 * low, 2 * high):
        with pytest.raises(FoveaError, match=f"out of reach.*{low:.4f} … {high:.4f}"):
            search_rate(uniform, uniform.analysed(PICTURE), target)


def test_a_codec_with_one_rate_says_so():
    codec = catalogue.build(CodecConfig(codec="bls2017", n=4, m=4))
    codec.update()
    with pytest.raises(FoveaError, match="variable-rate"):
        search_rate(codec, codec.analysed(PICTURE), 0.3)
