import threading
import time

import numpy as np
import pytest
import torch
from trainings import untrained

from models.codecs.base import CodecConfig
from models.codecs.batch import AHEAD, in_order
from models.codecs.bitstream import BitstreamError


@pytest.fixture(scope="module")
def codec():
    return untrained(CodecConfig(codec="bls2017", n=8, m=12))


def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (rng.integers(1, 90), rng.integers(1, 90), 3), dtype=np.uint8) for _ in range(9)]


def test_files_and_pictures_are_those_of_one_by_one_in_order(codec) -> None:
    codec.name()  # known before threads ask for it at once
    before = torch.get_num_threads()
    alone = [codec.encode(p) for p in pictures()]
    together = list(in_order(codec.encode, pictures(), threads=3))
    assert [e.data for e in together] == [e.data for e in alone]
    shown = list(in_order(codec.decode, [e.data for e in together], threads=3))
    for mine, one in zip(shown, alone, strict=True):
        np.testing.assert_array_equal(mine, one.reconstruction)
    assert torch.get_num_threads() == before


def test_a_damaged_file_is_an_error_in_its_place(codec) -> None:
    files = [codec.encode(p).data for p in pictures()[:3]]
    decoded = in_order(codec.decode, [files[0], files[1][:-5], files[2]], threads=2)
    assert next(decoded).shape == pictures()[0].shape
    with pytest.raises(BitstreamError):
        next(decoded)


def test_work_is_taken_only_as_it_is_needed() -> None:
    taken, running, most = [], [], 0
    lock = threading.Lock()

    def items():
        for i in range(40):
            taken.append(i)
            yield i

    def work(i: int) -> int:
        nonlocal most
        with lock:
            running.append(i)
            most = max(most, len(running))
        time.sleep(0.002 * (i % 3))
        with lock:
            running.remove(i)
        return i * i

    results = in_order(work, items(), threads=3)
    assert next(results) == 0 and len(taken) <= AHEAD * 3
    assert list(results) == [i * i for i in range(1, 40)] and 1 < most <= 3
