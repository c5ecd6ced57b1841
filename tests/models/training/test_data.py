import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import FoveaError
from models.saliency.weighting import weight_map
from models.training.data import Crops, FrameSet, Weighting


def made(sizes, maps=True, seed=0):
    rng = np.random.default_rng(seed)
    pictures = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in sizes]
    # the map repeats a colour, so that a crop of one can be checked against the crop of the other
    return FrameSet(pictures, [p[:, :, 0].copy() for p in pictures] if maps else None)


def same(a, b):
    return all((x is None and y is None) or np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_crops_are_a_function_of_seed_and_step():
    frames = made([(40, 60), (33, 50), (64, 48)])
    one = Crops(frames, seed=1, batch=4, crop=32)
    forward = [one.at(step) for step in range(6)]
    other = Crops(frames, seed=1, batch=4, crop=32)
    backward = [other.at(step) for step in reversed(range(6))][::-1]
    assert all(same(a, b) for a, b in zip(forward, backward, strict=True))
    x, s, w = forward[0].x, forward[0].s, forward[0].w
    assert x.shape == (4, 3, 32, 32) and x.dtype == torch.float32 and s.shape == (4, 1, 32, 32)
    assert x.is_contiguous(memory_format=torch.channels_last) and w is None and forward[0].valid is None
    assert x.min() >= 0 and 0.9 < x.max() <= 1
    torch.testing.assert_close(s, x[:, :1])
    assert not torch.equal(forward[0].x, Crops(frames, seed=2, batch=4, crop=32).at(0).x)
    assert not torch.equal(forward[0].x, forward[3].x)


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), min_size=1, max_size=4), st.integers(0, 1000))
@settings(max_examples=40)
def test_the_devices_gather_is_the_slices(sizes, step):
    frames = made(sizes)
    weighting = Weighting(alpha=0.1, gamma=0.5)
    sliced = Crops(frames, seed=0, batch=3, crop=16, weighting=weighting)
    gathered = Crops(frames, seed=0, batch=3, crop=16, weighting=weighting)
    gathered._flat = True
    gathered._upload()
    assert same(sliced.at(step), gathered.at(step))


def test_each_picture_once_a_round_in_a_new_order():
    crops = Crops(made([(20, 20)] * 12, maps=False), seed=0, batch=4, crop=16)
    rounds = [np.concatenate([crops.at(3 * r + k).picture for k in range(3)]) for r in range(4)]
    assert all(sorted(r) == list(range(12)) for r in rounds) and len({tuple(r) for r in rounds}) == 4
    # rounds that do not end with a batch
    crops = Crops(made([(20, 20)] * 7, maps=False), seed=0, batch=4, crop=16)
    seen = np.concatenate([crops.at(step).picture for step in range(7)])
    assert (np.bincount(seen) == 4).all()


def test_crops_come_from_where_they_say_mirrored_or_not():
    frames = made([(40, 60)] * 3)
    crops = Crops(frames, seed=3, batch=3, crop=24)
    flips = 0
    for step in range(10):
        places, batch = crops.places(step), crops.at(step)
        for slot, (index, top, left, flip) in enumerate(zip(*places, strict=True)):
            piece = frames.pictures[index][top : top + 24, left : left + 24]
            piece = piece[:, ::-1] if flip else piece
            np.testing.assert_allclose(batch.x[slot].permute(1, 2, 0), piece / 255, atol=1e-6)
            flips += flip
    assert 5 < flips < 25


def test_corners_are_reached():
    crops = Crops(made([(18, 17)], maps=False), seed=0, batch=8, crop=16)
    places = [crops.places(step) for step in range(20)]
    assert {int(v) for p in places for v in p.top} == {0, 1, 2} and {int(v) for p in places for v in p.left} == {0, 1}


def test_small_pictures_are_continued_and_masked():
    frames = made([(10, 40), (40, 40)])
    crops = Crops(frames, seed=0, batch=2, crop=16)
    batch = crops.at(0)
    small = int(np.flatnonzero(batch.picture == 0)[0])
    assert batch.valid.shape == (2, 1, 16, 16)
    assert batch.valid[small].sum() == 10 * 16 and batch.valid[1 - small].sum() == 16 * 16
    assert torch.equal(batch.x[small, :, 10:], batch.x[small, :, 9:10].expand(3, 6, 16))


def test_a_mirrored_narrow_picture_has_its_mask_mirrored():
    frames = made([(16, 5)])
    crops = Crops(frames, seed=0, batch=1, crop=16)
    step = next(s for s in range(50) if crops.places(s).flip[0])
    batch = crops.at(step)
    assert batch.valid[0, 0, 0].tolist() == [0.0] * 11 + [1.0] * 5
    np.testing.assert_allclose(batch.x[0, 0, :, 11:], frames.pictures[0][:, ::-1, 0] / 255, atol=1e-6)


@pytest.mark.parametrize("normalised", [True, False])
def test_weights_are_crops_of_the_whole_pictures_weights(normalised):
    frames, given = made([(40, 60), (30, 30)]), {"alpha": 0.1, "gamma": 0.5, "normalised": normalised, "scale": 2.0}
    crops = Crops(frames, seed=3, batch=2, crop=24, weighting=Weighting(**given))
    batch, places = crops.at(5), crops.places(5)
    for slot, (index, top, left, flip) in enumerate(zip(*places, strict=True)):
        piece = weight_map(torch.from_numpy(frames.maps[index]) / 255, **given)[top : top + 24, left : left + 24]
        torch.testing.assert_close(batch.w[slot, 0], piece.flip(1) if flip else piece, rtol=1e-6, atol=0)


def test_constant_maps_weigh_exactly_one():
    frames = FrameSet(made([(30, 31)] * 2).pictures, [np.full((30, 31), v, dtype=np.uint8) for v in (0, 137)])
    for alpha in (0.0, 0.1):
        batch = Crops(frames, seed=0, batch=2, crop=16, weighting=Weighting(alpha=alpha, gamma=0.7)).at(0)
        assert (batch.w == 1).all()


def test_an_array_of_pictures_is_as_good_as_a_list():
    pictures = np.random.default_rng(0).integers(0, 256, (3, 20, 24, 3), dtype=np.uint8)
    assert same(*(Crops(FrameSet(given), seed=0, batch=2, crop=16).at(3) for given in (pictures, list(pictures))))


def test_digest_sees_pixels_maps_and_shapes():
    a = made([(8, 12)])
    assert a.digest() == made([(8, 12)]).digest() and a.digest() != made([(8, 12)], maps=False).digest()
    assert a.digest() != FrameSet([a.pictures[0].reshape(12, 8, 3)], [a.maps[0].reshape(12, 8)]).digest()


GREY, COLOUR = np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (([],), "train split is empty"),
        (([COLOUR, GREY], None, ["a.png", "b.png"]), r"b\.png.*H×W×3"),
        (([COLOUR], [np.zeros((4, 5), np.uint8)]), r"picture 0.*4×4"),
        (([COLOUR], [GREY, GREY]), "1 pictures but 2"),
    ],
)
def test_bad_input_is_named(given, said):
    with pytest.raises(FoveaError, match=said):
        FrameSet(*given)


def test_weights_without_maps_are_refused():
    with pytest.raises(FoveaError, match="saliency map"):
        Crops(FrameSet([COLOUR]), seed=0, batch=1, crop=4, weighting=Weighting(alpha=1, gamma=1))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_cpus_crops():
    frames = made([(40, 60), (10, 12)])
    weighting = Weighting(alpha=0.1, gamma=0.5)
    host = Crops(frames, seed=0, batch=4, crop=16, weighting=weighting).at(2)
    device = Crops(frames, seed=0, batch=4, crop=16, device="cuda", weighting=weighting).at(2)
    for a, b in zip(host[:4], device[:4], strict=True):
        torch.testing.assert_close(a, b.cpu())
