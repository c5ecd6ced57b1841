import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scenes import scene, spot

from assets.evaluation import cuts
from assets.evaluation.cuts import cut_lines, measure_cuts
from assets.evaluation.cuts_page import cuts_page
from assets.saliency.pairs import Pairs
from models.codecs import bitstream, catalogue
from models.errors import FoveaError

SIZE = (144, 176)


@pytest.fixture
def reader(monkeypatch):
    """Three pictures whose predicted maps are where people looked, and other maps that are not."""
    pictures = [scene(*SIZE, seed) for seed in (3, 5, 8)]
    table = pd.DataFrame({"image": ["a", "b", "c"]})

    def open_pairs(reader, dataset, split, *, maps="predicted"):
        there = [spot(*SIZE)] * 3
        return Pairs(table, pictures, [m[::-1, ::-1] for m in there] if maps == "shuffled" else there)

    monkeypatch.setattr(cuts, "open_pairs", open_pairs)
    monkeypatch.setattr(cuts, "frame_fixation_maps", lambda *_: [spot(*SIZE).astype(np.float32) ** 2] * 3)
    monkeypatch.setattr(cuts, "BPP", (0.2, 0.25, 0.3, 0.35))
    monkeypatch.setattr(cuts, "PLACES", 6)
    monkeypatch.setattr(cuts, "PICTURES", 1)
    return SimpleNamespace(world=SimpleNamespace(dataset=lambda name: name))


def test_what_people_look_at_first_is_better_early_and_nothing_falls(reader):
    codec = catalogue.open_codec("light")
    found = measure_cuts(reader, "some", codec, spans=[8])
    points = found.points
    assert found.metric == "ew_psnr_db" and len(points) == 3 * (7 * 4 + 2 * (len(codec.rates) - 1))
    cut = points[~points["order"].isin([cuts.SEPARATE, cuts.ALIKE, cuts.JPEG])]
    plain, alike = (points[points["order"] == o].set_index(["image", "rate"]) for o in (cuts.SEPARATE, cuts.ALIKE))
    assert (alike.bpp <= plain.bpp).all() and (alike.bpp > plain.bpp - 8 * 8 / (SIZE[0] * SIZE[1])).all()
    # where it chose its symbols it is the plain file; at other rates that one's own choice is worth something
    assert (alike.psnr_db < plain.psnr_db + 0.1).all()
    jpeg = points[points["order"] == cuts.JPEG].groupby("rate").psnr_db.mean()
    assert jpeg.iloc[-1] > jpeg.iloc[0] + 0.5
    assert (cut.bpp <= cut.rate).all() and (cut.bpp > cut.rate - 8 * 8 / (SIZE[0] * SIZE[1])).all()
    at = cut[cut.rate == 0.25].groupby("order")[["psnr_db", "ew_psnr_db"]].mean()
    assert at.ew_psnr_db["saliency"] > at.ew_psnr_db["uniform"] + 0.3
    assert at.ew_psnr_db["another picture's"] < at.ew_psnr_db["saliency"] - 0.3
    assert at.ew_psnr_db["saliency, span 8"] > at.ew_psnr_db["saliency"]
    assert at.psnr_db["saliency"] > at.psnr_db["saliency, span 8"] and at.psnr_db["uniform"] > at.psnr_db["saliency"]
    assert max(found.fall.values()) < 0.05
    said = cut_lines(found)
    assert ["order", "0.200", "0.250", "0.300", "0.350"] in [line.split() for line in said.splitlines()]
    assert (
        "saliency order against uniform: psnr_db +" in said
        and "uniform, cut to their sizes against separate files: " in said
    )
    assert "saliency order against progressive JPEG: " in said and "nan" not in said and "(no interval: " in said
    page = cuts_page(found, "some, light")
    told = json.loads(page.split('id="data">')[1].split("</script>")[0])
    (one,) = told["pictures"]
    assert [s["order"] for s in one["shots"]] == ["uniform", "saliency"] and len(one["shots"][0]["sizes"]) == 6
    sizes = [shots["sizes"] for shots in one["shots"]]
    assert sizes[1] == sorted(sizes[1]) and "begins where saliency is predicted" in page
    ends = [max(both) for both in zip(*sizes, strict=True)]
    assert sizes == [[min(end, of[-1]) for end in ends] for of in sizes], "as many bytes of both, or all of one"
    assert "shows, bit for bit: 18 of 18 files" in said and "all 18 measured files show" in page
    assert "largest fall from one of 6 cuts to the next, first 1 pictures: psnr_db 0.0" in said


def test_a_fall_is_seen():
    worst = {"psnr_db": 0.0}
    cuts._see_falls([{"psnr_db": v} for v in (20.0, 25.0, 24.5, 26.0)], worst)
    assert worst == {"psnr_db": 0.5}


def test_a_whole_file_that_shows_another_picture_is_named(reader, monkeypatch):
    codec = catalogue.open_codec("light")
    monkeypatch.setattr(
        codec, "decode", lambda data: np.full((*SIZE, 3), bitstream.unpack(data).total is None, np.uint8)
    )
    with pytest.raises(FoveaError, match=r"^a, uniform order: the whole file shows another picture than a plain one"):
        measure_cuts(reader, "some", codec)


def test_other_codecs_are_refused(reader):
    with pytest.raises(FoveaError, match="such as light"):
        measure_cuts(reader, "some", catalogue.open_codec("mbt2018_mean"))
