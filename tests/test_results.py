"""The scripts in results/, each on a small state of its own."""

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from recurrent import T, untrained_recurrent
from scenes import scene, spot
from trainings import untrained

from assets.evaluation.claims import Claim, Written, all_claims, outcome, shown, table
from assets.evaluation.cuts import ORDERS
from assets.evaluation.rate_distortion import curve_grid
from assets.stages import open_chain
from models.codecs import classical
from models.codecs.base import CodecConfig
from models.codecs.catalogue import open_codec
from models.errors import FoveaError
from models.metrics import psnr_db
from models.sweeps import sweep

RESULTS = Path(__file__).parents[1] / "results"


def rates() -> pd.DataFrame:
    rows = [
        {"dataset": "sample", "sweep": "trade", "codec": e.codec, "test_arm": e.arm, "maps": e.maps, "variant": e.variant,
         "anchor_arm": "uniform", "method": "pchip", "metric": metric, "bd_rate_percent": -5 * e.span, "ci_low": -21.0, "ci_high": -9.0}
        for e in sweep("trade", "sample").experiments[1:] for metric in ("ew_psnr_db", "psnr_db")
    ]  # fmt: skip
    return pd.DataFrame(rows)


def curves(mean: float) -> pd.DataFrame:
    """`uniform` on a curve of its own, `weighted_raw` at λ·mean on the same one."""
    lmbda = np.array([0.002, 0.004, 0.008, 0.016, 0.032])
    pieces = []
    for arm, factor in (("uniform", 1.0), ("weighted_raw", mean)):
        bpp = 6 * (lmbda * factor) ** 0.6
        pieces.append(
            pd.DataFrame({"arm": arm, "rate_name": "lmbda", "rate": lmbda, "bpp": bpp, "psnr_db": 30 + 5 * np.log(bpp)})
        )
    return pd.concat(pieces).assign(dataset="sample", sweep="source")


def test_each_script_prints_and_draws_what_its_tables_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FOVEA_HOME", str(tmp_path))
    monkeypatch.setenv("FOVEA_CONFIG", str(tmp_path))
    monkeypatch.setenv("MPLBACKEND", "agg")
    (tmp_path / "tables").mkdir()
    rates().to_parquet(tmp_path / "tables/bd_rates.parquet")
    curves(0.25).to_parquet(tmp_path / "tables/rd_curves.parquet")
    scripts: dict[str, dict[str, Any]] = {p.stem: runpy.run_path(str(p)) for p in RESULTS.glob("*.py")}
    known = "checkerboard dose effort eyes gaps map_sizes preview_order progressive_picture raw_weights recurrent trade"
    assert set(scripts) == set(known.split())

    scripts["trade"]["main"]("sample.trade", str(tmp_path / "trade.png"))
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 + 6 and "-20.0 % [-21.0, -9.0]" in said[-1]

    raw = scripts["raw_weights"]["main"]
    monkeypatch.setitem(raw.__globals__, "mean_weight", lambda chain, key: 0.25)
    raw("sample.source", str(tmp_path / "raw.png"))
    assert "0.0080" in (said := capsys.readouterr().out) and f"{100 * (0.25**0.6 - 1):.4f}" in said
    scripts["progressive_picture"]["main"](str(tmp_path / "progressive.png"))
    for name in ("trade", "raw", "progressive"):
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"

    picture, grey = scene(64, 96), scene(64, 96)[..., 0]
    ways = [*scripts["map_sizes"]["sizes"](picture, grey, grey.astype(np.float32)).values()]
    assert ways[0] > 4 * 64 * 96 > ways[2] > 0 < ways[3] < ways[0]

    codec = untrained(CodecConfig(codec="bls2017", n=4, m=6, lmbda=(0.002, 0.02)))
    measure = scripts["checkerboard"]["checkerboard"]
    assert 0 < measure(codec) < 255
    with torch.no_grad():
        for p in codec.g_s[-1].parameters():
            p.zero_()
    assert measure(codec) == 0


GAPS: Any = SimpleNamespace(**runpy.run_path(str(RESULTS / "gaps.py")))


def test_better_maps_gain_more_at_equal_cost() -> None:
    script = SimpleNamespace(**runpy.run_path(str(RESULTS / "dose.py")))
    bpp, rows = 0.1 * 2.0 ** np.arange(5), []
    for image in range(12):
        for worth, name in enumerate(("none", *script.MAPS)):
            for span in script.SPANS if worth else (0.0,):
                plain, looked = 30 + 5 * np.log2(bpp) - 0.05 * span, 28 + 5 * np.log2(bpp) + 0.1 * worth * span
                curve = {"rate": bpp, "bpp": bpp, "psnr_db": plain, "ew_psnr_db": looked + 0.01 * image * (span > 0)}
                rows.append(pd.DataFrame(curve).assign(image=f"{image}", maps=name, span=span, seed=0))
    points = pd.concat(rows)
    # 0.15 dB are lost at span 3
    expected = 0.3 * np.arange(1, 5) + 0.01 * 5.5
    assert script.at_equal_cost(points).mean().to_numpy() == pytest.approx(expected, abs=1e-3)
    said = script.lines(points)
    assert "at 0.15 dB of plain PSNR, 12 of 12 pictures" in said and "all people: +1.25 dB [" in said
    assert float(said.rpartition("p = ")[2]) < 0.001

    codec, picture, grey = open_codec("light"), scene(64, 96, 3), spot(64, 96)
    found = script.measured(codec, picture, {"all people": grey}, grey.astype(np.float32))
    looked = found[found.rate == codec.rates[4]].set_index("span").ew_psnr_db
    assert list(looked.index) == [0.0, *script.SPANS] and looked[6.0] > looked[0.0] + 0.3


def test_an_order_by_the_preview_decodes_and_shows_the_same_in_the_end() -> None:
    script = SimpleNamespace(**runpy.run_path(str(RESULTS / "preview_order.py")))
    codec, picture, grey = open_codec("light"), scene(192, 256, 3), spot(192, 256)
    points = script.measured(
        codec, picture, grey, grey.astype(np.float32), SimpleNamespace(predict=lambda pictures: [grey])
    )
    wide = points.pivot_table("ew_psnr_db", "order", "rate")
    preview = f"preview of {script.PREVIEWS[0]:g} bpp"
    assert len(wide) == 2 + len(script.PREVIEWS) and wide.loc[preview].iloc[-1] == wide.loc["uniform"].iloc[-1]
    assert wide.loc[preview].iloc[1] > wide.loc["uniform"].iloc[1] + 0.1


def test_the_recurrent_codec_is_measured_by_its_files() -> None:
    script = runpy.run_path(str(RESULTS / "recurrent.py"))
    codec, peers, s = untrained_recurrent(), {n: open_codec(n) for n in script["PEERS"]}, spot(160, 208)
    points = pd.concat(
        script["measured"](codec, peers, scene(160, 208, seed), dict.fromkeys(ORDERS, s), s.astype(np.float32)).assign(
            image=str(seed)
        )
        for seed in range(2)
    )
    sizes = points[points["image"] == "0"].groupby("order")["bytes"].apply(list)
    raw = 8 * 13 * 10 * np.arange(1, T + 1) / 8
    assert (np.array(sizes["uniform, raw bits"]) - raw > 0).all() and (
        np.array(sizes["uniform, raw bits"]) - raw < 50
    ).all()
    assert sizes["uniform"] == sizes["uniform, raw bits"], "without a fit a bit takes a bit"
    assert len(sizes["saliency"]) == 3 and sizes["jpeg"] == sorted(sizes["jpeg"])
    limits = np.array(script["CUT_BPP"]) * 160 * 208 / 8
    assert (np.array(sizes["light, cut"]) <= limits).all()
    said = script["lines"](points)
    assert said.count("psnr_db: ") == 18 and "saliency against uniform, ew_psnr_db" in said
    assert " 0.0\n" in said.split("saliency against")[0], "nothing is saved"


def test_more_effort_needs_fewer_bits_and_says_how_many_seconds() -> None:
    script = runpy.run_path(str(RESULTS / "effort.py"))
    codec = open_codec("light")
    picture, rows = scene(64, 96), []
    for rate in codec.rates[::2]:
        (_, quick, plain), (effort, slow, fewer) = script["refined"](codec, picture, spot(64, 96), rate, (0, 10))
        assert effort == 10 and slow > quick > 0
        for n, data in ((0, plain), (effort, fewer)):
            quality = psnr_db(picture, codec.decode(data))
            rows.append(("guided", n, "a", rate, 0, 8 * len(data) / (64 * 96), quick, quality, float("nan")))
    names = ["arm", "effort", "image", "rate", "seed", "bpp", "seconds", "psnr_db", "ew_psnr_db"]
    points = pd.DataFrame(rows, columns=names)
    other = curve_grid(points[points.effort == 0].assign(bpp=lambda p: 2 * p.bpp), ("bpp", "psnr_db"))
    plain, best = script["lines"](points, {"avif": other}).splitlines()
    assert plain.startswith("guided, effort 0: ") and "s; against avif: psnr_db −50.0" in plain
    assert best.startswith("guided, effort 10: ") and "s; against no effort: psnr_db −" in best


@pytest.mark.parametrize("codec", ["webp", "bicubic", "avif"])
def test_the_classical_file_within_a_budget_shows_the_picture_best(codec: str) -> None:
    picture = scene(66, 98)
    every = [classical.encode(codec, float(q), picture) for q in range(1, 40, 2)]
    least = len(every[0])
    for budget in (2 * least, 4 * least):
        file = GAPS.at_most(codec, picture, budget)
        assert len(file.data) <= budget and file.picture.shape == picture.shape
        own = max(every, key=lambda d: len(d) * (len(d) <= budget))
        errors = [
            np.square(shown.astype(float) - picture).mean() for shown in (file.picture, classical.decode(codec, own))
        ]
        # sizes need not rise with each single quality
        assert errors[0] <= 1.03 * errors[1]
    if codec != "bicubic":
        file = GAPS.at_most(codec, picture, least - 1)
        assert file.shrunk > 1 and len(file.data) < least
    assert len(GAPS.at_most(codec, picture, 3).data) <= least  # not even that is enough: the smallest there is


def seen(psnr: Any, draws: Any = ()) -> Any:
    """A part of a codec; the perceptual distance is 40 less the PSNR."""
    values = pd.DataFrame({"psnr_db": psnr, "perceptual": 40 - np.asarray(psnr)})
    return GAPS.Seen(
        values, SimpleNamespace(value=float(np.mean(draws)) if len(draws) else 1.0, draws=np.asarray(draws))
    )


def test_harder_pictures_are_not_taken_for_what_a_codec_learnt_by_heart() -> None:
    rng = np.random.default_rng(0)
    hard, easy = rng.normal(20, 2, 40), rng.normal(23, 2, 40)
    # training pictures are the harder ones by 3 dB; by heart the codec gained 1.5 dB on them
    own = {"train": seen(hard + 1.5 + rng.normal(0, 0.3, 40)), "held_out": seen(easy + rng.normal(0, 0.3, 40))}
    found = GAPS.gaps(own, {"train": seen(hard), "held_out": seen(easy)})
    assert found["psnr_gap_db"] < 0 and 1 < found["psnr_beyond_db_low"] < 1.5 < found["psnr_beyond_db_high"]
    # what both codecs find hard cancels: the interval is a narrower one
    widths = [found[f"{k}_high"] - found[f"{k}_low"] for k in ("psnr_gap_db", "psnr_beyond_db")]
    assert widths[1] < 0.4 * widths[0] and found["perceptual_beyond_percent"] > 0 > found["perceptual_gap_percent"]
    assert GAPS.gaps(own, own)["psnr_beyond_db_high"] == 0 and "psnr_beyond_db" not in GAPS.gaps(own, {})
    plain = GAPS.gaps({"train": seen([22.0, 23.0]), "held_out": seen([21.5, 22.5])}, {})
    assert plain["psnr_gap_db"] == 0.5 and plain["perceptual_gap_percent"] == pytest.approx(100 * (18 / 17.5 - 1))


def test_kids_are_compared_on_the_same_draws() -> None:
    shared = np.random.default_rng(1).normal(0, 5, 1000)
    one, other = seen([], 30 + shared).kid, seen([], [np.nan, *(32 + shared[1:])]).kid
    other.value = one.value + 2
    found = GAPS.kid_difference(one, other)
    assert found["kid_difference"] == -2 == pytest.approx(found["kid_difference_low"])


@pytest.mark.slow
def test_gaps_of_a_trained_sweep(installation: Path) -> None:
    chain = open_chain(threads=1)
    sweep = chain.world.sweeps["sample.gan-tiny"]
    assert GAPS.measured(chain, sweep).empty
    for stage in ("source_frames", "resized_frames", "saliency_maps", "rgba_frames"):
        chain.make(stage, "sample")
    chain.make("trained_codec", sweep.experiments[0].key)
    table = GAPS.measured(chain, sweep, pictures=4)
    assert list(table.codec) == ["agustsson2019", "bicubic", *["avif"] * 2, "avif-visual", *["webp"] * 2]
    learned = table.iloc[0]
    assert learned.held_out_payload_bpp <= min(learned.bound_bpp, learned.held_out_bpp)
    assert np.isfinite(
        learned[["psnr_gap_db", "perceptual_gap_percent", "kid", "held_out_sw_psnr_db"]].astype(float)
    ).all()
    # only the codec that says what the pictures themselves make of the gap is measured on training pictures, too
    assert list(table.train_psnr_db.notna()) == [True, *[False] * 4, True, False]
    own = learned.psnr_gap_db - (table.train_psnr_db - table.held_out_psnr_db)[5]
    assert learned.psnr_beyond_db == pytest.approx(own)
    assert table.kid_difference[2] == pytest.approx(learned.kid - table.kid[2])


def test_the_readme_shows_every_claim_that_was_run(tmp_path: Path) -> None:
    assert table(all_claims(tmp_path)) in (RESULTS.parent / "README.md").read_text()


def test_a_claim_is_judged_by_its_own_dataset_and_preset_alone() -> None:
    row = {
        "codec": "light", "test_arm": "saliency_gain", "maps": "predicted", "anchor_arm": "uniform", "metric": "psnr_db",
        "method": "pchip", "split": "test", "variant": "", "n_trained_on": 0, "n_images": 12, "reason": "",
    }  # fmt: skip
    found = {("kodak", "small"): 30.0, ("osie", "small"): -20.0, ("osie", "base"): 5.0}
    rates = pd.DataFrame(
        {**row, "dataset": on, "preset": preset, "bd_rate_percent": value, "ci_low": value - 1, "ci_high": value + 1}
        for (on, preset), value in found.items()
    )
    claim = Claim(
        says="", sweep="osie.paper", codec="light", arm="saliency_gain", against="uniform", metric="psnr_db", most=-10
    )

    def judged(**changes: Any) -> Any:
        return outcome(Written(Path("a.toml"), claim.model_copy(update=changes), "", []), rates, "")

    with pytest.raises(FoveaError, match=r"a\.toml: osie\.paper .* more than once.*'small'.*'base'"):
        judged()
    assert judged(preset="small").held and not judged(preset="base").held
    assert judged(preset="small").bd_rate_percent == -20 and not judged(sweep="kodak.paper").held


def test_a_broken_claim_is_named_and_stops_no_report(tmp_path: Path) -> None:
    folder = tmp_path / "claims"
    folder.mkdir()
    shipped = next(iter(all_claims(tmp_path)))
    for text, record, said in (
        ("says = ", "[]", "broken.toml: "),
        ("says = 'ÿ'", "[]", "broken.toml: not a text file; a claim is a TOML file"),
        (shipped.path.read_text(), "[{", "broken.json: not what"),
        (shipped.path.read_text(), '[{"date": "today"}]', "broken.json: not what"),
    ):
        (folder / "broken.toml").write_text(text, encoding="latin-1" if "ÿ" in text else "utf-8")
        (folder / "broken.json").write_text(record)
        with pytest.raises(FoveaError, match=said):
            all_claims(tmp_path)
        kept = [row["says"] for row in shown(tmp_path, shipped.claim.sweep)]
        assert kept.count(shipped.claim.says) == 1, "the broken one is its copy"


def test_the_gain_hangs_on_pictures_people_and_the_centre() -> None:
    """Guided files with errors of half wherever people looked, at equal bits, gain as much by whoever looked."""
    script = runpy.run_path(str(RESULTS / "eyes.py"))
    rng = np.random.default_rng(0)
    bpp = np.broadcast_to(np.geomspace(0.1, 1.6, 5), (8, 2, 5)).copy()
    plain = 400 / bpp[:, :1] * rng.uniform(0.9, 1.1, (8, 1, 1))
    both = np.concatenate([plain, plain / 2], axis=1)
    people, fixations = np.repeat(both[..., None], 3, axis=3), rng.integers(0, 9, (8, 3)) + np.array([1, 0, 0])
    found = script["Errors"](bpp, people, fixations, both, both[:, [0, 0]])
    assert script["bd_rate"](bpp, both, np.ones(8)) == pytest.approx(-50, abs=0.01)
    said = script["lines"](found).splitlines()
    assert said[0].startswith("8 pictures, 3 people")
    assert [s.rpartition(": ")[2] for s in said[1:]] == ["−50.0\u202f% [−50.0,\u00a0−50.0]"] * 3 + [
        "+0.0\u202f% [+0.0,\u00a0+0.0]"
    ]
    absent = people.copy()
    absent[0, :, :, 2] = 0
    fixations[0, 2] = 0
    assert np.allclose(script["by_people"](found._replace(people=absent, fixations=fixations), np.ones(3)), both)
