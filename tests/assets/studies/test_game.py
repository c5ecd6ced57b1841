import base64
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from assets.frames.encode import encode_png
from assets.studies.forgers import Forger, Stage, begins_good, read_forger
from assets.studies.game import CASES, LEVELS, chosen_levels, render_game
from assets.studies.page import embed
from models.errors import FoveaError

if TYPE_CHECKING:
    from conftest import Browser

SIDE, CROPS = 64, 5
STEPS = (0, 3, 9, 30, 100, 300)


def crop(seed: int) -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE]
    waves = [120 + 60 * np.sin(x / (4 + c) + seed) + 50 * np.cos(y / (3 + seed % 3)) for c in range(3)]
    return np.clip(np.stack(waves, -1), 0, 255).astype(np.uint8)


def forger(codec: str = "bls2017", caught: bool = False, steps: tuple[int, ...] = STEPS) -> Forger:
    originals = [crop(i) for i in range(CROPS)]
    stages = []
    for place, step in enumerate(steps):
        share = place / len(steps)
        made = [np.round(o * share + 128 * (1 - share)).astype(np.uint8) for o in originals]
        stages.append(Stage(step, made, [12.0 + place] * CROPS, [0.1 + 0.01 * place] * CROPS, 1 - share / 2 if caught else None))  # fmt: skip
    return Forger(f"drawn-{codec}-key", codec, 0.0045, steps[-1], True, originals, stages)


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'id="data">(.*?)</script>', page, re.S)
    assert found
    return dict(json.loads(found[1], parse_constant=lambda name: pytest.fail(f"{name} is not JSON")))


def pixels(address: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).convert("RGB"))


def test_the_page_fetches_nothing_and_holds_the_pictures_exactly() -> None:
    made = forger()
    page = render_game([made], dataset="drawn")
    assert not re.search(r"(src|href)=\"(?!data:)[^\"#]", page)
    style, script = page[page.index("<style>") : page.index("</style>")], page[page.rindex("<script>") :]
    assert "url(" not in style
    assert "@import" not in style
    assert not re.search(r"\b(fetch|XMLHttpRequest|import|WebSocket|sendBeacon)\s*\(|https?://(?!www\.w3\.org/2000/svg)", script)  # fmt: skip
    data = data_of(page)
    (told,) = data["forgers"]
    assert data["quality"] is None
    assert [level["step"] for level in told["levels"]] == list(STEPS)
    for place, original in enumerate(made.originals):
        np.testing.assert_array_equal(pixels(data["pictures"][told["originals"][place]]), original)
        last = data["pictures"][told["levels"][-1]["pictures"][place]]
        np.testing.assert_array_equal(pixels(last), made.stages[-1].pictures[place])
    assert told["levels"][2]["note"] == [round(0.12 * SIDE * SIDE / 8)] * CROPS


def test_pictures_keep_to_the_budget_all_in_one_manner() -> None:
    noise = [np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8) for i in range(6)]
    whole, quality = embed(noise, 10_000_000)
    assert quality is None
    size = sum(map(len, whole))
    lossy, quality = embed(noise, size * 3 // 4)
    assert quality in (95, 90)
    assert sum(map(len, lossy)) <= size * 3 // 4
    assert embed(noise, 10)[1] == 80
    assert len(embed(noise, 10)[0]) == 6


def test_levels_are_spread_over_all_stages() -> None:
    many = forger(steps=tuple(range(0, 30, 2)))
    places = chosen_levels(many)
    assert len(places) == LEVELS
    assert places[0] == 0
    assert places[-1] == len(many.stages) - 1
    assert chosen_levels(forger()) == list(range(len(STEPS)))
    assert begins_good(forger(steps=(0, 15, 120)))
    assert not begins_good(forger())


def test_names_cannot_break_out() -> None:
    evil = "</script><img src=x onerror=alert(1)>"
    page = render_game([replace(forger(), key=evil)], dataset=evil)
    assert evil not in page
    assert "<img src=x" not in page


def test_a_game_needs_a_forger() -> None:
    with pytest.raises(FoveaError, match="needs a forger"):
        render_game([], dataset="drawn")


def write_unit(folder: Path, made: Forger, scores: bool) -> None:
    (folder / "stages").mkdir(parents=True)
    sheets = {"original": made.originals, **{str(s.step): s.pictures for s in made.stages}}
    for name, crops in sheets.items():
        (folder / "stages" / f"{name}.png").write_bytes(encode_png(np.concatenate(list(crops))))
    listing = {
        "format": 1, "steps": made.steps, "lmbda": made.lmbda, "held_out": True, "dataset": "drawn",
        "crops": [{"picture": 0, "image": "a", "top": 0, "left": 0, "side": SIDE}] * CROPS,
        "stages": [{"step": s.step, "psnr_db": s.psnr_db, "bpp_estimate": s.bpp} for s in made.stages],
    }  # fmt: skip
    (folder / "stages" / "stages.json").write_text(json.dumps(listing))
    if scores:
        said = {"stages": [{"step": s.step, "caught": s.caught} for s in made.stages]}
        (folder / "stages" / "scores.json").write_text(json.dumps(said))


def test_a_unit_is_read_back_with_its_discriminators_scores(tmp_path: Path) -> None:
    made = forger(caught=True)
    write_unit(tmp_path, made, scores=True)
    read = read_forger(tmp_path, made.key, made.codec)
    assert [s.caught for s in read.stages] == [s.caught for s in made.stages]
    for mine, theirs in zip(read.stages, made.stages, strict=True):
        assert (mine.step, list(mine.psnr_db)) == (theirs.step, list(theirs.psnr_db))
        np.testing.assert_array_equal(np.stack(mine.pictures), np.stack(theirs.pictures))
    np.testing.assert_array_equal(np.stack(read.originals), np.stack(made.originals))


def test_older_and_damaged_units_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        FoveaError, match=r"KEY was trained without keeping its stages; delete .* `fovea train KEY`"
    ):
        read_forger(tmp_path, "KEY", "bls2017")
    write_unit(tmp_path, forger(), scores=False)
    assert read_forger(tmp_path, "KEY", "bls2017").stages[0].caught is None
    (tmp_path / "stages" / "9.png").unlink()
    with pytest.raises(FoveaError, match=r"damaged.*fovea train KEY"):
        read_forger(tmp_path, "KEY", "bls2017")
    listing = tmp_path / "stages" / "stages.json"
    listing.write_text(listing.read_text().replace('"format": 1', '"format": 9'))
    with pytest.raises(FoveaError, match="format 9"):
        read_forger(tmp_path, "KEY", "bls2017")


SHORT = (0, 30, 300)


@pytest.fixture(scope="module")
def game(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("game") / "game.html"
    made = [forger(caught=True), forger("mbt2018_mean", steps=SHORT)]
    file.write_text(render_game(made, dataset="drawn", seed=7))
    return file


RIGHT, LEFT, ENTER = "\ue014", "\ue012", "\ue007"


def play(
    browser: "Browser",
    answer: Any,
    go_on: Any,
    after_level: Any,
    fooled_from: int,
    each: Any,
    levels: int = len(STEPS),
) -> None:
    """All levels; from `fooled_from` on every other answer is wrong."""
    for level in range(levels):
        for case in range(CASES):
            real = browser.run("return state.real")
            wrong = level >= fooled_from and case % 2 == 0
            each("case")
            answer({"left": "right", "right": "left"}[real] if wrong else real)
            each("answer")
            go_on()
        if level < levels - 1:
            each("level")
            after_level()


@pytest.mark.browser
def test_played_by_keyboard_alone(browser: "Browser", game: Path) -> None:
    browser.open(game, 1280, 800)
    browser.press("\t")
    while browser.run("return document.activeElement.id") != "play":
        browser.press("\t")
    browser.press(ENTER)

    def each(screen: str) -> None:
        assert browser.run("return document.body.dataset.screen") == (
            "level" if screen == "level" else "case"
        )
        if screen == "answer":
            assert browser.run("return document.activeElement.id") == "next"
            seen = browser.run("return [...document.querySelectorAll('.pic .tag')].map(t => t.textContent)")
            assert sorted(t.split(" ", 1)[1] for t in seen) == ["forged", "real photo"]
            assert browser.run("return document.querySelector('#say').textContent.length") > 10

    def up() -> None:
        while browser.run("return document.activeElement.id") != "up":
            browser.press("\t")
        browser.press(ENTER)

    play(
        browser,
        lambda side: browser.press(LEFT if side == "left" else RIGHT),
        lambda: browser.press(ENTER),
        up,
        3,
        each,
    )
    assert browser.run("return document.body.dataset.screen") == "end"
    assert browser.run("return document.querySelector('#verdict').textContent") == "Fooled at level 4!"
    found = browser.run("return state.found")
    assert found == [[4, 4]] * 3 + [[2, 4]] * 3
    # 10 points times the level for each right answer, and 5 more for each in a row from the third on, 30 at most
    bonus = sum(5 * min(n - 2, 6) for n in range(3, 13))
    assert (
        browser.run("return state.score")
        == sum(40 * k for k in (1, 2, 3)) + sum(20 * k for k in (4, 5, 6)) + bonus
    )
    assert browser.run("return document.querySelector('#caught').textContent") == "18/24"
    words = browser.run("return document.querySelector('#chart-text').textContent")
    assert "level 4, 30 practice steps: you 2 of 4, the robot 75 %" in words
    assert "From 30 practice steps on, the robot detective is fooled." in words
    assert browser.run("return document.querySelectorAll('#chart rect').length") == len(STEPS)
    # a robot that is fooled first and sure later on is fooled nowhere; one that is fooled at once, from the beginning
    for caught, said in (
        ([0.6] + [1.0] * (len(STEPS) - 1), "The robot detective is never fooled."),
        ([0.6] * len(STEPS), "From the very beginning, the robot detective is fooled."),
    ):
        browser.run(f"const c = {caught}; forger.levels.forEach((l, i) => {{ l.caught = c[i]; }}); chart();")
        assert said in browser.run("return document.querySelector('#chart-text').textContent")
    assert browser.errors() == []


@pytest.mark.browser
@pytest.mark.parametrize(("width", "height", "dark"), [(390, 844, False), (360, 640, True)])
def test_played_by_touch_on_a_phone(
    browser: "Browser", game: Path, width: int, height: int, dark: bool
) -> None:
    browser.open(game, width, height, touch=True, dark=dark)
    assert not browser.overflows()
    browser.tap("#forgers button:nth-of-type(2)")
    assert browser.run("return forger.codec") == "mbt2018_mean"
    browser.tap("#play")

    def each(screen: str) -> None:
        assert not browser.overflows()
        assert browser.fits(), screen

    play(
        browser,
        lambda side: browser.tap(f'.pic[data-side="{side}"]'),
        lambda: browser.tap("#next"),
        lambda: browser.tap("#up"),
        len(SHORT),
        each,
        len(SHORT),
    )
    assert browser.run("return document.querySelector('#verdict').textContent") == "Nobody fools you!"
    assert not browser.overflows()
    browser.tap("#save")
    assert browser.errors() == []


@pytest.mark.browser
def test_swapping_changes_the_pictures_and_their_names(browser: "Browser", game: Path) -> None:
    browser.open(game, 740, 360, touch=True)
    browser.tap("#play")
    browser.press(LEFT)
    read = "return [...document.querySelectorAll('.pic')].map(p => [p.querySelector('img').src, p.querySelector('.tag').textContent, p.classList.contains('real')])"
    before = browser.run(read)
    browser.tap("#compare")
    assert browser.run(read) == before[::-1]
    browser.press("c")
    assert browser.run(read) == before
    assert browser.fits()


CONTRAST = """
const rgb = (c) => c.match(/[\\d.]+/g).slice(0, 3).map(Number);
const light = (c) => { const [r, g, b] = rgb(c).map(v => { v /= 255; return v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; }); return .2126 * r + .7152 * g + .0722 * b; };
const ground = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (!/, 0\\)|transparent/.test(c)) return c; } return "rgb(255,255,255)"; };
return [...document.querySelectorAll("main *")].filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) && !e.closest("svg, noscript, .polaroid, .key"))
  .map(e => { const a = light(getComputedStyle(e).color), b = light(ground(e)); return [e.id || e.className || e.tagName, (Math.max(a, b) + .05) / (Math.min(a, b) + .05)]; })
  .filter(([, ratio]) => ratio < 4.5);
"""


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out(browser: "Browser", game: Path, dark: bool) -> None:
    browser.open(game, 800, 900, dark=dark)
    browser.run(
        "document.querySelectorAll('section, details, [hidden]').forEach(e => { e.hidden = false; e.open = true; })"
    )
    browser.run(
        "start(); document.querySelectorAll('section').forEach(e => { e.hidden = false; }); answered('left', 1); tags();"
    )
    browser.run("document.querySelectorAll('section').forEach(e => { e.hidden = false; })")
    assert browser.run(CONTRAST) == []
