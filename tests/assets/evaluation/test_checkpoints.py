import contextlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from assets.evaluation import checkpoints
from assets.evaluation.bd_rate import choose_comparisons
from assets.evaluation.checkpoints import externals, keep_external, kept_when_measured, quality_of, read_external
from assets.evaluation.rate_distortion import CurveKey
from models.errors import FoveaError


def test_points_of_a_curve_are_kept_by_quality(tmp_path: Path) -> None:
    paths = []
    for quality in (3, 1):
        path = tmp_path / f"bmshj2018-hyperprior-{quality}-6d87be32.pth.tar"
        path.write_bytes(bytes([quality]))
        paths.append(path)
    assert [quality_of(p) for p in paths] == [3, 1]
    names = ("mine.pth", "mbt2018_mean.pth.tar", "bls2017.pth", "mine-2.pth", "mine_q12.safetensors", "a-3-b.pth")
    assert [quality_of(Path(name)) for name in names] == [1, 1, 1, 2, 12, 1]
    codec = "bmshj2018_hyperprior"
    first = keep_external(tmp_path, "kodak", codec, [(paths[0], None)])
    assert (first.name, first.partition) == (codec, f"{codec}@kodak")
    both = keep_external(tmp_path, "kodak", codec, [(paths[1], None)])
    assert [f.quality for f in both.files] == [1, 3] and len({f.sha256 for f in both.files}) == 2
    assert read_external(tmp_path, "kodak", codec) == both and externals(tmp_path, "kodak") == [both]
    assert externals(tmp_path, "other") == []
    for files, fields, said in (
        (
            [(paths[0], 2.0), (paths[1], 2.0)],
            {},
            "both are quality 2: say --quality once for each checkpoint, in their order",
        ),
        ([(paths[0], -1.0)], {}, "positive"),
        ([(tmp_path / "none", None)], {}, "none: No such file"),
    ):
        with pytest.raises(FoveaError, match=said):
            keep_external(tmp_path, "kodak", codec, files, **fields)  # type: ignore[arg-type]
    with pytest.raises(FoveaError, match="choose another --name"):
        keep_external(tmp_path, "kodak", "mbt2018_mean", [(paths[0], None)], name=codec)
    file = tmp_path / "checkpoints" / "kodak" / f"{codec}.json"
    file.write_text(json.dumps({"codec": codec}))
    with pytest.raises(FoveaError, match="is damaged"):
        externals(tmp_path, "kodak")


def test_uniform_is_held_against_an_external_curve_and_never_the_other_way_round() -> None:
    uniform = CurveKey("kodak", "test", "camvid", "bls2017", "uniform", "none", "base", "")
    external = CurveKey("kodak", "test", "", "mbt2018_mean", "external", "none", "", "theirs")
    jpeg = CurveKey("kodak", "test", "", "jpeg", "classical", "none", "", "")
    found = choose_comparisons([uniform, external, jpeg])
    assert {(c.anchor_arm, c.test) for c in found} == {("theirs (external)", uniform), ("jpeg", uniform)}


@pytest.mark.parametrize("known", [False, True])
def test_what_could_not_be_measured_does_not_stay(tmp_path: Path, known: bool) -> None:
    for name in ("good", "bad"):
        (tmp_path / f"{name}.pth").write_bytes(name.encode())
    if known:
        keep_external(tmp_path, "kodak", "mbt2018_mean", [(tmp_path / "good.pth", 1.0)])
    before = read_external(tmp_path, "kodak", "mbt2018_mean")
    with pytest.raises(RuntimeError), kept_when_measured(tmp_path, "kodak", "mbt2018_mean"):
        kept = keep_external(tmp_path, "kodak", "mbt2018_mean", [(tmp_path / "bad.pth", 1.0)])
        assert read_external(tmp_path, "kodak", "mbt2018_mean") == kept
        raise RuntimeError
    assert read_external(tmp_path, "kodak", "mbt2018_mean") == before


def test_two_evaluations_of_a_curve_at_once_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, both = checkpoints.write_whole, threading.Barrier(2)

    def slowly(path: Path, content: bytes | str) -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.5)  # both have read the list where nothing keeps them apart
        write(path, content)

    def evaluate(quality: float) -> None:
        path = tmp_path / f"{quality}.pth"
        path.write_bytes(path.name.encode())
        with kept_when_measured(tmp_path, "kodak", "mbt2018_mean"):
            keep_external(tmp_path, "kodak", "mbt2018_mean", [(path, quality)])
            if quality == 3.0:
                raise RuntimeError

    monkeypatch.setattr(checkpoints, "write_whole", slowly)
    with ThreadPoolExecutor(3) as pool:
        done = [pool.submit(evaluate, quality) for quality in (1.0, 2.0, 3.0)]
    assert [type(d.exception()) for d in done] == [type(None), type(None), RuntimeError]
    curve = read_external(tmp_path, "kodak", "mbt2018_mean")
    assert curve is not None and [f.quality for f in curve.files] == [1.0, 2.0]
    assert externals(tmp_path, "kodak") == [curve]
