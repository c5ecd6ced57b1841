import base64
import dataclasses
import functools
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pages import data_of
from PIL import Image
from points import LAMBDAS, make_points
from servers.browser import Browser

from assets.evaluation import numerals, report, report_gallery
from assets.evaluation.bd_rate import bd_rates
from assets.evaluation.ideal import ideal_rows
from assets.evaluation.palette import cast_of
from assets.evaluation.rate_distortion import concat_points, rd_curves, records, shared_parts, without_parts
from assets.evaluation.report import chart_data, render_report
from assets.evaluation.report_gallery import GalleryItem, GalleryShot, salient_window
from assets.evaluation.report_tables import (
    HELPS,
    HURTS,
    INCONCLUSIVE,
    NOT_MAPS,
    QUESTION,
    UNKNOWN,
    Verdict,
    bd_markdown,
    control_tables,
    find_verdicts,
    headline,
)

# made-up gains for tests, in dB of eye-weighted PSNR: never shown as results
MADE_ARMS = {
    ("uniform", "none"): (1.0, 0.0), ("weighted", "predicted"): (1.004, 0.03),
    ("saliency_gain", "predicted"): (1.045, 1.3), ("saliency_gain", "oracle"): (1.06, 1.9),
    ("saliency_gain", "center"): (1.06, 0.4), ("saliency_gain", "shuffled"): (1.07, 0.0),
}  # fmt: skip


def made_points(*, eyes: bool = True, n: int = 12, dataset: str = "made", seed: int = 0) -> pd.DataFrame:
    about = {"n": n, "dataset": dataset}
    peers = {"jpeg": 1.7, "webp": 1.25, "avif": 0.72, "jpegxl": 1.05}
    curves = [make_points("classical", codec=codec, rate=rate, stream=99, **about) for codec, rate in peers.items()]
    for stream, ((arm, maps), (rate, db)) in enumerate(MADE_ARMS.items(), 10 + seed):
        arms = make_points(arm, maps, rate=rate, db=db, stream=stream, train_dataset=dataset, **about)
        curves.append(arms.assign(mlflow_run_id=arms.experiment))
    points = pd.concat(curves, ignore_index=True)
    psnr, weighted = points.psnr_db, 1 - 10 ** (-points.sw_psnr_db / 25)
    points = points.assign(bg_psnr_db=psnr - 0.3 * (points.sw_psnr_db - psnr), sw_ms_ssim=weighted, ew_ms_ssim=weighted)
    points = points.assign(vsi=0.9 + psnr / 1000, haarpsi=psnr / 100, gmsd=0.2 - psnr / 1000)
    return concat_points([points if eyes else points.assign(ew_psnr_db=np.nan, ew_ms_ssim=np.nan)])


def rates_of(points: pd.DataFrame) -> pd.DataFrame:
    return bd_rates(points, resamples=50, metrics=("psnr_db", "sw_psnr_db", "ew_psnr_db"))


def made_picture(seed: int, size: tuple[int, int] = (128, 192)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    cx, cy = rng.uniform(0.25, 0.75, 2) * (size[1], size[0])
    blob = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * (size[0] / 7) ** 2))
    base = np.stack([90 + 60 * np.sin(x / (9 + c) + seed) + 50 * np.cos(y / 11 - c) for c in range(3)], -1)
    base[..., 0] += 90 * blob * (np.sin(x / 2) > 0)
    return np.clip(base, 0, 255).astype(np.uint8), np.round(255 * blob).astype(np.uint8)


def made_shot(picture: np.ndarray, *named: object, variant: str = "", **values: float) -> GalleryShot:
    """named: codec, arm, maps, bpp, rate_name, rate."""
    names = ("codec", "arm", "maps", "bpp", "rate_name", "rate")
    return GalleryShot({**dict(zip(names, named, strict=True)), "variant": variant, **values}, picture)


def made_gallery(count: int = 2, size: tuple[int, int] = (128, 192), eyes: bool = True) -> list[GalleryItem]:
    items = []
    for number in range(count):
        original, saliency = made_picture(number, size)
        shots = []
        for step, lmbda in enumerate(LAMBDAS):
            for place, (arm, maps) in enumerate(MADE_ARMS):
                coarse = 2 ** (5 - step)
                worse = np.roll(original // coarse * coarse, place, axis=1)
                values = {"psnr_db": 26.0 + 2 * step, "sw_psnr_db": 27.1 + 2 * step, "ms_ssim": 0.9}
                shots.append(made_shot(worse, "bls2017", arm, maps, 0.11 * 2**step, "lmbda", lmbda, **values))
        for quality in (5.0, 50.0):
            named = ("jpeg", "classical", "none", quality / 100, "quality", quality)
            shots.append(made_shot(original // 2 * 2, *named, psnr_db=25.0))
        looked = saliency.astype(float) ** 2 if eyes else None
        items.append(GalleryItem(f"street/{number:03}", original, saliency, shots, looked))
    return items


@functools.cache
def made_tables(eyes: bool) -> dict[str, pd.DataFrame]:
    points = made_points(eyes=eyes)
    maps = [m for _, m in (made_picture(i) for i in range(6))]
    return {
        "curves": rd_curves(points, resamples=200),
        "rates": bd_rates(points, sweep="smoke", resamples=300),
        "ideal": ideal_rows(maps, [np.roll(m, 5, 1) if eyes else None for m in maps]).assign(dataset="made"),
    }


def made_report(*, eyes: bool = True, **options: object) -> str:
    provenance = {
        "commit": "0123456789abcdef0123456789abcdef01234567", "sweep": "made.smoke", "about": "Made-up `numbers` for tests.",
        "budget": ["smoke: 150 steps of batch 8"], "missing": "", "data version": "d" * 64,
        "mlflow_run_url": "http://127.0.0.1:5000/#/experiments/1/runs/{run_id}",
    }  # fmt: skip
    arguments = {**made_tables(eyes), "gallery": made_gallery(eyes=eyes), "provenance": provenance}
    return render_report(**{**arguments, **options})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def page() -> str:
    return made_report()


class Collector(HTMLParser):
    """Counts tags and collects everything that a browser would fetch."""

    VOID = frozenset({"meta", "link", "br", "img", "input", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.anchors: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = dict(attrs)
        self.fetched += [v for k, v in attrs if v and k in ("src", "srcset", "data", "poster")]
        if tag == "link":
            self.fetched.append(names.get("href") or "")
        if tag == "a":
            self.anchors.append(names.get("href") or "")
        if names.get("id"):
            self.ids.append(str(names["id"]))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parse(page: str) -> Collector:
    collector = Collector()
    collector.feed(page)
    assert not collector.open
    return collector


def words_of(page: str) -> str:
    return " ".join(" ".join(parse(page).text).split())


def test_page_is_whole_and_fetches_nothing(page: str) -> None:
    seen = parse(page)
    assert all(address.startswith("data:") for address in seen.fetched) and len(seen.ids) == len(set(seen.ids))
    inner = {a[1:] for a in seen.anchors if a.startswith("#")}
    assert inner <= set(seen.ids)
    # the only addresses are links to runs
    outside = [a for a in seen.anchors if not a.startswith("#")]
    assert outside and all(a.startswith("http://127.0.0.1:5000/#/experiments/1/runs/") for a in outside)


def test_every_number_of_the_tables_is_on_the_page(page: str) -> None:
    curves, rates = made_tables(True)["curves"], made_tables(True)["rates"]
    text = " ".join(parse(page).text)
    for value in curves["bpp"]:
        assert f"{value:.4f}" in text
    for metric in ("psnr_db", "sw_psnr_db", "ew_psnr_db"):
        assert all(f"{v:.2f}" in text for v in curves[metric])
    for row in rates.to_dict("records"):
        assert f"{row['bd_rate_percent']:+.1f}\u202f%".replace("-", "−") in text
        assert numerals.interval(row["ci_low"], row["ci_high"]) in text


def test_data_for_the_charts_is_strict_json_with_the_same_numbers(page: str) -> None:
    data, curves = data_of(page, links=True), made_tables(True)["curves"]
    assert sum(len(c["points"]) for c in data["curves"]) == len(curves)
    uniform = next(c for c in data["curves"] if c["baseline"])
    expected = curves[curves["arm"] == "uniform"].sort_values("bpp")
    assert [p["bpp"][0] for p in uniform["points"]] == pytest.approx(expected["bpp"].tolist(), abs=1e-5)
    ew_psnr, ms_ssim = ([p["values"][m][0] for p in uniform["points"]] for m in ("ew_psnr_db", "ms_ssim"))
    assert ew_psnr == pytest.approx(expected["ew_psnr_db"].tolist(), abs=1e-4)
    assert ms_ssim == pytest.approx((-10 * np.log10(1 - expected["ms_ssim"])).tolist(), abs=1e-3)


def numbers_of(rates: pd.DataFrame, anchor: str) -> list[dict[str, object]]:
    """saliency_gain against a conventional codec where people looked."""
    found = rates[(rates["test_arm"] == "saliency_gain") & (rates["maps"] == "predicted")]
    found = found[(found["anchor_arm"] == anchor) & (found["metric"] == "ew_psnr_db")]
    return records(found[found["method"] == "pchip"])


def test_headline_says_what_the_numbers_say(page: str) -> None:
    text = re.sub(r"[ \n]+", " ", " ".join(parse(page).text))
    rates = made_tables(True)["rates"]
    first, second = find_verdicts(rates)
    assert (first.arm, first.outcome) == ("saliency_gain", "conclusive: saves bits") and first.metric == "ew_psnr_db"
    assert "Also better than the centre bias and another picture’s map" in first.reasons[0]
    assert second.arm == "weighted" and second.outcome in text
    headline = text[: text.index("Rate–distortion curves")]
    assert numerals.percent(first.main["bd_rate_percent"]) in headline
    assert numerals.interval(first.main["ci_low"], first.main["ci_high"]) in headline
    assert numerals.percent(dict(first.costs)["plain PSNR"]["bd_rate_percent"]) in headline
    assert "One training run an arm" in headline
    known = {"jpeg": "JPEG", "webp": "WebP", "avif": "AVIF", "jpegxl": "JPEG XL"}
    assert set(rates["anchor_arm"]) & set(known), "the page is made with conventional codecs"
    for codec in set(rates["anchor_arm"]) & set(known):
        (row,) = numbers_of(rates, codec)
        assert re.search(rf"{known[codec]} \([\w, ]+\) {re.escape(numerals.with_interval(row))}", headline)


@functools.cache
def gain_rates() -> pd.DataFrame:
    return bd_rates(made_points(n=6), resamples=50, metrics=("ew_psnr_db",), methods=("pchip",))


def verdict_of(akima: tuple[float, float, float] | None = None, **changes: tuple[float, float, float]) -> str:
    """The outcome for hand-made rows: vs uniform, vs center, vs shuffled as (value, low, high). akima: against uniform."""
    rates = gain_rates()
    rates = rates[(rates["test_arm"] == "saliency_gain") & (rates["maps"] == "predicted")].copy()
    for anchor, values in changes.items():
        name = anchor if anchor == "uniform" else f"saliency_gain@{anchor}"
        rates.loc[rates["anchor_arm"] == name, ["bd_rate_percent", "ci_low", "ci_high"]] = values
    rates = rates[rates["anchor_arm"].isin([a if a == "uniform" else f"saliency_gain@{a}" for a in changes])]
    if akima is not None:
        other = rates[rates["anchor_arm"] == "uniform"].assign(method="akima")
        other[["bd_rate_percent", "ci_low", "ci_high"]] = akima
        rates = pd.concat([rates, other], ignore_index=True)
    (verdict,) = find_verdicts(rates)
    return verdict.outcome


GOOD, OPEN, BAD, NONE = (-9.0, -12.0, -6.0), (-1.0, -4.0, 2.0), (5.0, 3.0, 8.0), (-9.0, np.nan, np.nan)


@pytest.mark.parametrize(
    ("found", "outcome"),
    [
        ({"uniform": GOOD, "center": GOOD, "shuffled": GOOD}, "conclusive: saves bits"),
        ({"uniform": GOOD}, "saves bits; no control in this sweep"),
        ({"uniform": GOOD, "center": OPEN, "shuffled": GOOD}, "saves bits, but so does a control"),
        ({"uniform": OPEN, "center": GOOD}, "inconclusive"),
        ({"uniform": BAD}, "conclusive: costs bits"),
        ({"uniform": NONE}, "cannot be said"),
        # both ways to join the points have to say it
        ({"uniform": GOOD, "akima": (-8.0, -11.0, -5.0)}, "saves bits; no control in this sweep"),
        ({"uniform": GOOD, "akima": (np.nan, np.nan, np.nan)}, "saves bits; no control in this sweep"),
        ({"uniform": GOOD, "akima": (24.0, 5.0, 800.0)}, "inconclusive"),
        ({"uniform": GOOD, "akima": (-8.0, -11.0, 0.5)}, "inconclusive"),
        ({"uniform": BAD, "akima": (-1.0, -2.0, 3.0)}, "inconclusive"),
    ],
)
def test_verdicts(found: dict[str, tuple[float, float, float]], outcome: str) -> None:
    assert verdict_of(**found) == outcome


def headlined(points: pd.DataFrame) -> float:
    return float(find_verdicts(rates_of(points))[0].main["bd_rate_percent"])


PLACE = {"dataset": "made", "split": "test"}
TOLD = "Told where people look"


@pytest.mark.parametrize(
    ("outcomes", "said"),
    [
        (
            (HELPS, UNKNOWN),
            f"{TOLD}, a needs 9\u202f% fewer bits than without a map for the same quality there; +3.3\u202f% for the same plain PSNR; for b it is open",
        ),
        (
            (HURTS,),
            f"{TOLD}, a needs 9\u202f% more bits than without a map for the same quality there; +3.3\u202f% for the same plain PSNR",
        ),
        ((NOT_MAPS, INCONCLUSIVE), QUESTION),
        ((), QUESTION),
    ],
)
def test_the_headline_says_no_more_than_the_verdicts(outcomes: tuple[str, ...], said: str) -> None:
    sign = {HURTS: 1}
    found = [
        Verdict("ew_psnr_db", o, {**PLACE, "test_arm": "weighted", "codec": "ab"[i], "variant": "", "bd_rate_percent": 9.2 * sign.get(o, -1)},
                [("plain PSNR", {"bd_rate_percent": 3.3})], {}, "", [])
        for i, o in enumerate(outcomes)
    ]  # fmt: skip
    assert headline(found) == said
    # eyes that were recorded count more than the model that steers; of several places each is named
    steered = [dataclasses.replace(v, metric="sw_psnr_db") for v in found]
    assert headline([*steered, *found]) == said
    if said != QUESTION:
        away = dataclasses.replace(found[0], main={**found[0].main, "dataset": "away"})
        both = headline([*found, away])
        assert "a on made · test needs 9\u202f% " in both and ", a on away · test 9\u202f% " in both
    assert headline(steered) == said.replace(TOLD, "Told where people are predicted to look")
    # a cost that is not known of every codec is not said
    assert "plain PSNR" not in headline([dataclasses.replace(v, costs=[]) for v in found])


def test_the_headline_has_each_codec() -> None:
    points = made_points(n=6)
    both = pd.concat([points, points[points["arm"] != "classical"].assign(codec="light", variant="as shipped")])
    page = render_report(curves=rd_curves(both, resamples=50), rates=rates_of(both))
    needs = r"bls2017 needs (\d+) % fewer bits than without a map, light (\d+) % fewer for the same quality there"
    said = re.search(rf"{TOLD.removesuffix('look')}(?:look|are predicted to look), {needs}", words_of(page))
    assert said and said[1] == said[2] == str(round(-headlined(both)))


def test_variants_of_uniform_are_held_against_the_plain_one() -> None:
    points = made_points(n=6)
    plain = points[points["arm"] == "uniform"].assign(variant="steps=600")
    changed = {"dilation=2": 0.8, "l1_ms_ssim": 1.3}
    others = [plain.assign(variant=f"steps=600,{v}", bpp=factor * plain["bpp"]) for v, factor in changed.items()]
    own = pd.concat([plain, *others, points[points["arm"] == "classical"]], ignore_index=True)
    curves, rates = rd_curves(own, resamples=50), rates_of(own)
    page = render_report(curves=curves, rates=rates)
    text = words_of(page)
    assert "Nothing to compare yet" not in text
    assert "For the same PSNR bls2017 dilation=2 needs 20 % fewer bits" in text
    assert "uniform dilation=2 against plain uniform conclusive: saves bits" in text
    assert "uniform l1_ms_ssim against plain uniform conclusive: costs bits" in text
    drawn = data_of(page, links=True)["curves"]
    assert len({c["colour"] for c in drawn if not c["classical"]}) == 3
    swatches = re.findall(r'class="swatch s" style="--c:(#\w+)"></span>(uniform [\w=]+)', page)
    labels = ("uniform dilation=2", "uniform l1_ms_ssim")
    assert {(c["colour"], c["label"]) for c in drawn if c["label"] in labels} == set(swatches)
    table = bd_markdown(without_parts(rates, ["steps=600"]))
    assert "uniform dilation=2" in table and "uniform l1_ms_ssim" in table


def test_without_eyes_it_says_so() -> None:
    page = made_report(eyes=False, gallery=())
    assert "no eye movements are recorded" in page and "saliency-weighted PSNR" in page
    assert 'value="ew_psnr_db"' not in page and 'id="gallery"' not in page


def test_the_page_opens_where_the_first_metric_is() -> None:
    points = pd.concat([made_points(eyes=False, n=6, dataset="a"), made_points(n=6, dataset="z")])
    rates = bd_rates(points, resamples=50, metrics=("ew_psnr_db",), methods=("pchip",))
    page = render_report(curves=rd_curves(points, resamples=2), rates=rates)
    chosen = page[page.index('data-choose="place"') :]
    assert chosen.index('value="z') < chosen.index('value="a')


def test_what_all_curves_share_is_said_once_and_stands_in_no_label() -> None:
    points = made_points(n=6)
    own = points["arm"] != "classical"
    gained = points["arm"] == "saliency_gain"
    points.loc[own, "variant"] = "steps=600"
    points.loc[gained, "variant"] = "gamma=0.7,steps=600"
    curves = rd_curves(points, resamples=50)
    assert shared_parts(curves) == ("steps=600",)
    assert set(without_parts(curves, ["steps=600"])["variant"]) == {"", "gamma=0.7"}
    named = curves.assign(arm="external", variant="steps=600")
    assert set(without_parts(named, ["steps=600"])["variant"]) == {"steps=600"}
    assert shared_parts(curves[curves["arm"] == "uniform"]) == (), "one curve shares with nobody"

    named = ("bls2017", "uniform", "none", 0.1, "lmbda", 0.01)
    shot = made_shot(np.zeros((16, 16, 3), np.uint8), *named, variant="steps=600")
    item = GalleryItem("one", shot.picture, shot.picture[..., 0], [shot])
    page = render_report(curves=curves, rates=rates_of(points), gallery=[item])
    assert page.count("steps=600") == 1 and "common to all arms" in page and "gamma=0.7" in page


def test_one_picture_has_no_interval_and_codecs_as_they_ship_no_training(page: str) -> None:
    for present in ("12 pictures · trained with 1 seed ·", "the interval covers pictures", "In brackets"):
        assert present in page, present
    points = made_points(n=1)
    points.loc[points["arm"] != "classical", "variant"] = "as shipped"
    few = render_report(curves=rd_curves(points, resamples=2), rates=rates_of(points))
    assert "1 picture · codecs as they ship ·" in few and "1 picture, fewer than 5" in few
    no_interval = ('class="ci">–', ">–</small>")
    for absent in ("1 pictures", "trained with", "In brackets", "the interval covers pictures", *no_interval):
        assert absent not in few, absent


def test_two_datasets_are_told_apart() -> None:
    points = pd.concat([made_points(n=6), made_points(n=6, eyes=False, dataset="other", seed=5)], ignore_index=True)
    points["train_dataset"] = "made"
    rates, tables = rates_of(points), made_tables(True)
    curves = rd_curves(points, resamples=2)
    page = render_report(curves=curves, rates=rates, ideal=tables["ideal"])
    said = "with people’s recorded eye movements on made · test, with the maps that also steer on other · test"
    assert said in page and "with people’s recorded eye movements</p>" in made_report()
    cast, of_each = cast_of(curves), dict(list(rates.groupby("dataset")))
    on_eyes, alone = (control_tables(of_each[d], tables["ideal"], cast) for d in ("made", "other"))
    assert any(line["ideal"] for table in on_eyes for line in table["lines"])
    assert not any(line["ideal"] for table in alone for line in table["lines"]), "the ideal is of the other's maps"
    rows = [line.split("|")[1:4] for line in bd_markdown(rates).splitlines()[2:]]
    assert len(rows) == len(set(map(tuple, rows))) and {row[0].strip() for row in rows} == {"made", "other"}


def test_refusals_stand_in_the_table_with_their_reason() -> None:
    points = made_points(n=6)
    points.loc[(points["arm"] == "weighted") & (points["rate"] == LAMBDAS[1]), "ew_psnr_db"] = 10.0
    page = render_report(curves=rd_curves(points, resamples=50), rates=rates_of(points))
    text = words_of(page)
    assert "refused" in text and "the test's curve is not monotone" in text and "cannot be said" in text
    assert "against JPEG" in text and "What cannot be compared, and why" in text


def test_only_classical_codecs_make_a_page() -> None:
    points = made_points(n=6)
    points = points[points["arm"] == "classical"]
    page = render_report(curves=rd_curves(points, resamples=20), rates=rates_of(points))
    assert "Nothing to compare yet" in page
    parse(page)


def test_names_from_outside_cannot_break_out() -> None:
    evil = "</script><img src=x onerror=alert(1)>"
    points = made_points(n=6).replace({"variant": {"": evil}})
    item = made_gallery(1)[0]
    page = render_report(
        curves=rd_curves(points, resamples=20), rates=rates_of(points),
        gallery=[GalleryItem(evil, item.original, item.saliency_map, item.shots[:2])], provenance={"note": evil},
    )  # fmt: skip
    assert evil not in page and "<img src=x" not in page
    parse(page)


def sizes_of(page: str) -> tuple[int, Any]:
    gallery = data_of(page, links=True)["gallery"]
    return sum(map(len, gallery["pictures"])), gallery


def test_gallery_keeps_to_its_budget_and_its_crops_exact() -> None:
    items = made_gallery(1, (256, 320))
    total, gallery = sizes_of(made_report(gallery=items))
    assert gallery["lossless"] and total < report.BUDGET_BYTES
    smaller, lossy = sizes_of(made_report(gallery=items, budget_bytes=total * 2 // 3))
    assert smaller <= total * 2 // 3 and not lossy["lossless"]
    tight, few = sizes_of(made_report(gallery=items, budget_bytes=total // 6))
    assert tight < smaller and len(few["items"][0]["rates"]) < 4
    # whatever the budget, a crop is the reconstruction's own pixels
    panel = lossy["items"][0]["rates"][0]["panels"][0]
    data = base64.b64decode(lossy["pictures"][panel["crop"]].split(",")[1])
    assert items[0].fixation_map is not None
    top, left, height, width = salient_window(items[0].fixation_map, report_gallery.CROP_SIDE)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), items[0].shots[0].picture[top : top + height, left : left + width])  # fmt: skip


def test_files_of_equal_size_stand_side_by_side() -> None:
    original, saliency = made_picture(0, (64, 64))
    files = {
        ("bls2017", "uniform"): (0.2, 0.4), ("bls2017", "saliency_gain"): (0.15, 0.21, 0.46),
        ("light", "uniform"): (0.38, 0.9), ("jpeg", "classical"): (0.19, 0.399, 0.6),
    }  # fmt: skip
    shots = [
        made_shot(np.full_like(original, 100 * bpp), codec, arm, "none", bpp, "lmbda", bpp / 10, psnr_db=25.0)
        for (codec, arm), sizes in files.items()
        for bpp in sizes
    ]
    item = GalleryItem("one", original, saliency, shots[::-1])
    (shown,) = report_gallery.gallery_data([item], 10**7)["items"]
    found = {r["rate"]: [(p["bpp"], p["apart"]) for p in r["panels"]] for r in shown["rates"]}

    def at(*sizes: tuple[float, str]) -> list[tuple[str, str]]:
        return [(numerals.number(bpp, 3, unit="bpp"), more) for bpp, more in sizes]

    percent = "\u202f%"
    assert list(found) == [numerals.number(bpp, 2, unit="bpp") for bpp in (0.2, 0.38, 0.4, 0.9)]
    first, second, third, last = found.values()
    assert first == at((0.2, ""), (0.21, f"+5{percent}"), (0.19, f"−5{percent}"))
    # an arm of the leading codec may be further off than others, and what stands nowhere is named
    assert second == at((0.38, ""), (0.4, f"+5{percent}"), (0.399, f"+5{percent}"))
    assert third == at((0.4, ""), (0.46, f"+15{percent}"), (0.38, f"−5{percent}"), (0.399, ""))
    assert last == at((0.9, ""))
    far = [r["far"] for r in shown["rates"]]
    assert far == [
        ["light uniform (0.38)"],
        ["bls2017 saliency_gain (0.46)"],
        [],
        ["bls2017 uniform (0.40)", "bls2017 saliency_gain (0.46)", "JPEG (0.60)"],
    ]


def test_arms_side_by_side_are_of_the_same_training_rate_where_their_sizes_allow_it() -> None:
    original, saliency = made_picture(0, (64, 64))
    files = {
        "uniform": {0.0045: 0.30, 0.036: 0.60},
        "saliency_gain": {0.0045: 0.601, 0.013: 0.31, 0.036: 0.62},
        "weighted": {0.0045: 0.75, 0.013: 0.35},
    }
    shots = [
        made_shot(original, "bls2017", arm, "none", bpp, "lmbda", 0.01, psnr_db=25.0)._replace(trained_at=rate)
        for arm, sizes in files.items()
        for rate, bpp in sizes.items()
    ]
    (shown,) = report_gallery.gallery_data([GalleryItem("one", original, saliency, shots)], 10**7)["items"]
    rows = [[(p["bpp"], p["rate"].removeprefix("λ 0.01, trained for ")) for p in r["panels"]] for r in shown["rates"]]
    expected = [
        [(0.30, "0.0045"), (0.31, "0.013"), (0.35, "0.013")],
        [(0.60, "0.036"), (0.62, "0.036"), (0.75, "0.0045")],
    ]
    assert rows == [[(numerals.number(bpp, 3, unit="bpp"), rate) for bpp, rate in row] for row in expected]


def test_salient_window() -> None:
    weights = np.zeros((50, 80))
    weights[30:35, 60:65] = 1
    top, left, height, width = salient_window(weights, 20)
    assert (height, width) == (20, 20) and top <= 30 and top + 20 >= 35 and left <= 60 and left + 20 >= 65
    assert salient_window(np.ones((5, 9)), 20) == (0, 0, 5, 9)


def test_numbers_as_written() -> None:
    assert [numerals.percent(v) for v in (-9.04, 3, np.nan)] == ["−9.0\u202f%", "+3.0\u202f%", "–"]
    assert [numerals.interval(v, 1) for v in (-12.04, np.nan)] == ["[−12.0,\u00a0+1.0]", "–"]
    assert [numerals.rate_label("lmbda", v) for v in (0.00190273, 0.2048)] == ["λ 0.001903", "λ 0.2048"]
    assert [numerals.counted(n) for n in (0, 1, 2)] == ["0 pictures", "1 picture", "2 pictures"]


def test_judged_metrics_have_their_own_units() -> None:
    assert numerals.gain(0.0512, "characters_read") == "+0.051" and numerals.gain(-1, "psnr_db") == "−1.00\u202fdB"
    names = ["ms_ssim", "texts_read", "cvvdp_jod", "butteraugli"]
    labels = chart_data([], names)["metrics"]
    assert [labels[n]["unit"] for n in names] == ["dB", "", "JOD", ""]
    assert labels["butteraugli"]["axis"] == "−Butteraugli 3-norm"  # less is better, up is better
    assert labels["cvvdp_jod"]["axis"] == "ColorVideoVDP, JOD" and labels["ms_ssim"]["axis"].endswith("(1 − x) dB")


@pytest.mark.browser
def test_chromium_runs_it_offline(browser: Browser, page: str, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(page, encoding="utf-8")
    for width in (390, 1400):
        browser.open(file, width, 900)
        over = browser.run("const e = document.documentElement; return e.scrollWidth - e.clientWidth")
        assert over == 0, f"it scrolls sideways at {width} pixels"
    hidden = browser.run("""document.querySelectorAll(".bd td:first-child").forEach(c => c.append(" of mbt2018_mean as shipped"));
        return [...document.querySelectorAll(".bd")].map(t => t.offsetWidth - t.parentNode.clientWidth)""")
    assert hidden and max(hidden) <= 0, "a table of BD-rates is wider than the page"

    def count(selector: str) -> int:
        return int(browser.run("return document.querySelectorAll(arguments[0]).length", selector))

    # arms and controls are drawn; conventional codecs are a click away
    learned = browser.run("return JSON.parse(document.querySelector('#data').textContent).curves.filter(c => !c.classical).length")  # fmt: skip
    assert count('[class="line"]') == learned >= 6 and count("figure") >= 8
    assert count('[data-choose="classical"][aria-pressed="false"]') == 1 and count('[class^="mark"]') >= 4 * learned
    rows = browser.run("return [...document.querySelectorAll('tr[data-metric]')].map(r => [r.dataset.metric, r.dataset.method, r.hidden])")  # fmt: skip
    assert rows and all((metric == "ew_psnr_db" and method == "pchip") != hidden for metric, method, hidden in rows)
    # a conventional codec stands against uniform only where all codecs have the same
    across = """state.mode = "relative"; state.classical = true; const one = seriesNow().filter(s => s.curve.classical);
        data.curves.find(c => c.baseline).train += "2"; data.curves.push({ ...data.curves.find(c => c.baseline), train: "another", label: "another" });
        return [one.length, seriesNow().filter(s => s.curve.classical).length, seriesNow().length]"""
    one, none, rest = browser.run(across)
    assert one >= 1 and none == 0 and rest >= 2
    axis = """const axes = frame(document.createElement("div"), { x: [.1, 1], y: arguments[0], height: 460 });
        return [...axes.root.querySelectorAll("text[text-anchor=end]")].map(t => t.textContent.replace("−", "-"))"""
    for low, high in ((22, 37.5), (-1, 0.9), (30.1, 30.3), (0, 900)):
        ticks = [float(text) for text in browser.run(axis, [low, high])]
        assert len(ticks) > 2 and np.diff(ticks) == pytest.approx(ticks[1] - ticks[0]), ticks
    assert browser.errors() == []
