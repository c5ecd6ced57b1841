import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from assets.evaluation.measure import Subject, measure_codec
from models.codecs.base import CodecConfig
from models.codecs.catalogue import build
from models.errors import FoveaError

LAMBDAS = (0.002, 0.006, 0.02)


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(0)
    made = build(CodecConfig(codec="bls2017", n=8, m=12, lmbda=(0.002, 0.02))).eval()
    made.update()
    return made


def subjects(count: int) -> list[Subject]:
    rng = np.random.default_rng(0)
    flat = np.full((176, 192), 255, np.uint8)
    return [
        Subject(f"{k}", rng.integers(0, 256, (176, 192, 3), dtype=np.uint8), None, flat, None)
        for k in range(count)
    ]


def without_seconds(rows) -> pd.DataFrame:
    return pd.DataFrame([{k: v for k, v in row.items() if not k.endswith("_s")} for row in rows])


@pytest.mark.parametrize("count", [1, 3])
def test_rows_stand_in_order_whatever_the_threads(codec, count):
    said: list[float] = []
    kept = frozenset({"0"})
    alone = measure_codec(codec, subjects(count), LAMBDAS, keep=kept)
    tell = lambda d, t, n: said.append(d / t)  # noqa: E731
    beside = measure_codec(codec, subjects(count), LAMBDAS, keep=kept, threads=2, progress=tell)
    assert [(r["image"], r["rate"]) for r in alone.rows] == [
        (f"{k}", v) for k in range(count) for v in LAMBDAS
    ]
    pd.testing.assert_frame_equal(without_seconds(beside.rows), without_seconds(alone.rows), check_exact=True)
    assert said[-1] == 1.0 and len(said) == 3 * count
    assert set(alone.kept) == {("0", v) for v in LAMBDAS}
    for row in alone.rows[:3]:
        encoded = codec.encode(subjects(1)[0].picture, rate=row["rate"])
        assert row["bytes"] == len(encoded.data) and row["bpp"] == 8 * len(encoded.data) / (176 * 192)
        assert np.array_equal(alone.kept["0", row["rate"]], encoded.reconstruction)
        assert np.array_equal(beside.kept["0", row["rate"]], encoded.reconstruction)
        assert row["encode_s"] > 0 and row["decode_s"] > 0


def test_a_file_that_decodes_to_something_else_names_its_picture(codec, monkeypatch):
    own = codec.entropy_decode
    monkeypatch.setattr(codec, "entropy_decode", lambda data: own(data)._replace(y_hat=own(data).y_hat + 1))
    with pytest.raises(FoveaError, match="0: the decoded file differs"):
        measure_codec(codec, [dataclasses.replace(subjects(1)[0])], LAMBDAS)
