import dataclasses
import threading
import time

import numpy as np
import pandas as pd
import pytest
from trainings import untrained

from assets.evaluation import equal_size
from assets.evaluation.measure import Subject, measure_codec
from assets.evaluation.measure_classical import measure_classical
from models.codecs import classical
from models.codecs.base import CodecConfig
from models.codecs.batch import in_order
from models.errors import FoveaError

LAMBDAS = (0.002, 0.006, 0.02)


@pytest.fixture(scope="module")
def codec():
    return untrained(CodecConfig(codec="bls2017", n=8, m=12, lmbda=(0.002, 0.02)))


def subjects(count: int) -> list[Subject]:
    rng = np.random.default_rng(0)
    flat = np.full((176, 192), 255, np.uint8)
    return [
        Subject(f"{k}", rng.integers(0, 256, (176, 192, 3), dtype=np.uint8), None, flat, None) for k in range(count)
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
    assert [(r["image"], r["rate"]) for r in alone.rows] == [(f"{k}", v) for k in range(count) for v in LAMBDAS]
    pd.testing.assert_frame_equal(without_seconds(beside.rows), without_seconds(alone.rows), check_exact=True)
    assert said[-1] == 1.0 and len(said) == 3 * count and set(alone.kept) == {("0", v) for v in LAMBDAS}
    for row in alone.rows[:3]:
        encoded = codec.encode(subjects(1)[0].picture, rate=row["rate"])
        assert row["bytes"] == len(encoded.data) and row["bpp"] == 8 * len(encoded.data) / (176 * 192)
        assert np.array_equal(alone.kept["0", row["rate"]], encoded.reconstruction)
        assert np.array_equal(beside.kept["0", row["rate"]], encoded.reconstruction)
        assert row["encode_s"] > 0 and row["decode_s"] > 0


def test_a_measurement_ends_at_its_next_rate_when_nobody_waits_for_it(codec, monkeypatch):
    started, files = threading.Event(), []

    def encoded(*given, **more):
        files.append(given)
        started.set()
        time.sleep(0.3)
        return encode(*given, **more)

    def items():
        yield 0
        started.wait(60)
        raise KeyboardInterrupt

    encode = codec.encode_analysed
    monkeypatch.setattr(codec, "encode_analysed", encoded)
    with pytest.raises(KeyboardInterrupt):
        list(in_order(lambda _: measure_codec(codec, subjects(1), LAMBDAS), items()))
    assert len(files) == 1


def test_what_a_report_shows_of_a_variable_rate_has_the_sizes_asked_for(codec, monkeypatch):
    rates = sorted(codec.config.lmbda)
    low, high = (r["bpp"] for r in measure_codec(codec, subjects(1), rates).rows)
    asked = (low / 4, low + (high - low) / 3, low + (high - low) / 1.5, high * 4)
    monkeypatch.setattr(equal_size, "SIZES_BPP", asked)
    found = equal_size.measure_shown(codec, subjects(2), rates, threads=2)
    assert [r["image"] for r in found.rows] == ["0", "0", "1", "1"]
    assert set(found.kept) == {(r["image"], r["rate"]) for r in found.rows}
    step = (high - low) / (8 * codec.top_level)
    for row, bpp in zip(found.rows, asked[1:3] * 2, strict=True):
        assert abs(row["bpp"] - bpp) < 2 * step, "within a level, of which there are 8 between neighbours"
    for rate, bpp in zip(rates, asked[1:3], strict=True):
        (branch,) = equal_size.measure_shown(codec, subjects(1), [rate]).rows
        assert abs(branch["bpp"] - bpp) < 2 * step, "of a branch for one rate, the size that is nearest"
    monkeypatch.setattr(equal_size, "SIZES_BPP", (high * 4,))
    assert [r["rate"] for r in equal_size.measure_shown(codec, subjects(1), rates).rows] == rates


def test_a_picture_that_is_too_large_or_decodes_to_something_else_is_named(codec, monkeypatch):
    large = dataclasses.replace(subjects(1)[0], image="large", picture=np.zeros((8193, 8200, 3), np.uint8))
    with pytest.raises(FoveaError, match=r"^large: 8200×8193 is too large for a \.fov file"):
        measure_codec(codec, [large], LAMBDAS)
    own = codec.entropy_decode
    monkeypatch.setattr(codec, "entropy_decode", lambda data: own(data)._replace(y_hat=own(data).y_hat + 1))
    with pytest.raises(FoveaError, match="0: the decoded file differs"):
        measure_codec(codec, [dataclasses.replace(subjects(1)[0])], LAMBDAS)


@pytest.mark.parametrize("name", ["jpeg_guided", "jpeg_trellis"])
def test_a_guided_jpeg_gets_the_map_of_the_metrics(name):
    subject = subjects(1)[0]
    saliency_map = np.zeros((176, 192), np.uint8)
    saliency_map[:, :96] = 255
    subject = dataclasses.replace(subject, saliency_map=saliency_map)
    rows = [row for row, _ in measure_classical(name, subject)]
    qualities = classical.CLASSICAL[name].qualities
    assert [row["rate"] for row in rows] == list(qualities)
    for row, quality in zip(rows[:2], qualities, strict=False):
        assert row["bytes"] == len(classical.encode(name, quality, subject.picture, saliency_map))
        plain = len(classical.encode("jpeg_trellis", quality, subject.picture))
        assert (row["bytes"] != plain) == (name == "jpeg_guided")
