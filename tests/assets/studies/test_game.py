import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pages import data_of
from PIL import Image
from servers.browser import Browser

from assets.frames.encode import encode_png
from assets.studies.game import LEVELS, read_forger, render_game
from models.errors import FoveaError

SIDE, CROPS = 64, 5
CASES = 4
STEPS = (0, 3, 9, 30, 100, 300)


def crop(seed: int) -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE]
    waves = [120 + 60 * np.sin(x / (4 + c) + seed) + 50 * np.cos(y / (3 + seed % 3)) for c in range(3)]
    return np.clip(np.stack(waves, -1), 0, 255).astype(np.uint8)


def write_unit(folder: Path, steps: tuple[int, ...] = STEPS) -> dict[str, np.ndarray]:
    """What a training keeps of its stages, from grey to the originals; the crops by sheet."""
    originals = np.stack([crop(i) for i in range(CROPS)])
    shares = [place / len(steps) for place in range(len(steps))]
    crops = {
        str(s): np.round(originals * w + 128 * (1 - w)).astype(np.uint8) for s, w in zip(steps, shares, strict=True)
    }
    crops["original"] = originals
    kept = folder / "stages"
    kept.mkdir(parents=True)
    for name, sheet in crops.items():
        (kept / f"{name}.png").write_bytes(encode_png(np.concatenate(list(sheet))))
    stages = [{"step": s, "bpp_estimate": [0.1 + 0.01 * i] * CROPS} for i, s in enumerate(steps)]
    where = [{"picture": 0, "image": "a", "top": 0, "left": 0, "side": SIDE}] * CROPS
    listing = {"format": 1, "steps": steps[-1], "held_out": True, "crops": where, "stages": stages}
    (kept / "stages.json").write_text(json.dumps(listing))
    return crops


def pixels(address: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).convert("RGB"))


def test_the_page_fetches_nothing_and_holds_the_pictures_exactly(tmp_path: Path) -> None:
    crops = write_unit(tmp_path)
    data = data_of(render_game(read_forger(tmp_path, "KEY")))
    assert [r["step"] for r in data["rounds"]] == list(STEPS)
    for level in data["rounds"]:
        for place, trial in enumerate(level["trials"]):
            real, forged = (pixels(data["pictures"][i]) for i in trial["pictures"])
            np.testing.assert_array_equal(real, crops["original"][place])
            np.testing.assert_array_equal(forged, crops[str(level["step"])][place])
    assert {t["note"] for t in data["rounds"][2]["trials"]} == {round(0.12 * SIDE * SIDE / 8)}


def test_levels_are_spread_over_all_stages(tmp_path: Path) -> None:
    steps = tuple(range(0, 30, 2))
    write_unit(tmp_path / "many", steps)
    rounds = data_of(render_game(read_forger(tmp_path / "many", "KEY")))["rounds"]
    assert (len(rounds), rounds[0]["step"], rounds[-1]["step"]) == (LEVELS, 0, steps[-1])
    assert not read_forger(tmp_path / "many", "KEY").begins_good
    write_unit(tmp_path / "trunk", (0, 15, 120))
    assert read_forger(tmp_path / "trunk", "KEY").begins_good


def test_names_cannot_break_out(tmp_path: Path) -> None:
    write_unit(tmp_path)
    evil = "</script><img src=x onerror=alert(1)>"
    page = render_game(read_forger(tmp_path, evil))
    assert evil not in page and "<img src=x" not in page


def test_older_and_damaged_units_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FoveaError, match=r"KEY was trained without keeping its stages; delete .* `fovea train KEY`"):
        read_forger(tmp_path, "KEY")
    write_unit(tmp_path)
    (tmp_path / "stages" / "9.png").unlink()
    with pytest.raises(FoveaError, match=r"damaged.*fovea train KEY"):
        read_forger(tmp_path, "KEY")
    listing = tmp_path / "stages" / "stages.json"
    listing.write_text(listing.read_text().replace('"format": 1', '"format": 9'))
    with pytest.raises(FoveaError, match="format 9"):
        read_forger(tmp_path, "KEY")


@pytest.fixture(scope="module")
def game(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("game")
    write_unit(folder)
    (folder / "game.html").write_text(render_game(read_forger(folder, "drawn-bls2017-key")))
    return folder / "game.html"


RIGHT, LEFT, ENTER = "\ue014", "\ue012", "\ue007"


def play(browser: Browser, answer: Callable[[int], None], go_on: Callable[[], None], fooled_from: int, each: Callable[[bool], None]) -> None:  # fmt: skip
    """All levels; from `fooled_from` on every other answer is wrong. each: called before and after (True) each answer."""
    for place in range(len(STEPS) * CASES):
        assert browser.run("return document.body.dataset.screen") == "trial"
        real = int(browser.run("return trials[place].flipped"))
        wrong = place // CASES >= fooled_from and place % 2 == 0
        each(False)
        answer(1 - real if wrong else real)
        each(True)
        go_on()


@pytest.mark.browser
def test_played_by_keyboard_alone(browser: Browser, game: Path) -> None:
    browser.open(game, 1280, 800)
    browser.press("\t")
    while browser.run("return document.activeElement.id") != "play":
        browser.press("\t")
    browser.press(ENTER)

    def each(answered: bool) -> None:
        if answered:
            assert browser.run("return document.activeElement.id") == "next"
            seen = browser.run("return [...document.querySelectorAll('.pic .tag')].map(t => t.textContent)")
            assert sorted(t.split(" ", 1)[1] for t in seen) == ["forged", "real photo"]
            assert browser.run("return document.querySelector('#say').textContent.length") > 10

    play(browser, lambda side: browser.press((LEFT, RIGHT)[side]), lambda: browser.press(ENTER), 3, each)
    assert browser.run("return document.body.dataset.screen") == "end"
    assert browser.run("return document.querySelector('#verdict').textContent") == "Fooled at level 4!"
    # 10 points times the level for each right answer, and 5 more for each in a row from the third on, 30 at most
    bonus = sum(5 * min(n - 2, 6) for n in range(3, 13))
    points = sum(40 * k for k in (1, 2, 3)) + sum(20 * k for k in (4, 5, 6)) + bonus
    words = browser.run("return document.querySelector('#done').textContent")
    assert f"You found 18 of 24 photos: {points} points." in words
    assert "From 30 practice steps on, the forger fooled you at least one time in four." in words
    rows = browser.run("return [...document.querySelectorAll('#rounds tbody tr')].map(r => r.innerText)")
    assert [re.split(r"\s*\t\s*", r.strip())[-2:] for r in rows] == [
        [str(s), f"{4 if i < 3 else 2} of 4"] for i, s in enumerate(STEPS)
    ]
    browser.run("document.querySelector('#json').focus()")
    browser.press(ENTER)
    saved = browser.downloaded("game-drawn-bls2017-key-p-*.json")
    assert len(json.loads(saved.read_text())["answers"]) == 24
    browser.run("document.querySelector('#again').click()")
    assert browser.run("return [document.body.dataset.screen, place, answers.length, score]") == ["trial", 0, 0, 0]
    assert browser.errors() == []


@pytest.mark.browser
@pytest.mark.parametrize(("width", "height", "dark"), [(390, 844, False), (360, 640, True)])
def test_played_by_touch_on_a_phone(browser: Browser, game: Path, width: int, height: int, dark: bool) -> None:
    browser.open(game, width, height, touch=True, dark=dark)
    assert not browser.overflows()
    browser.tap("#play")

    def each(answered: bool) -> None:
        assert not browser.overflows()
        assert browser.fits(), answered

    tap = browser.tap
    play(browser, lambda side: tap(f".pic:nth-of-type({side + 1})"), lambda: tap("#next"), len(STEPS), each)
    assert browser.run("return document.querySelector('#verdict').textContent") == "Nobody fools you!"
    assert not browser.overflows()
    browser.tap("#json")
    assert browser.errors() == []


@pytest.mark.browser
def test_swapping_changes_the_pictures_and_their_names(browser: Browser, game: Path) -> None:
    browser.open(game, 740, 360, touch=True)
    browser.tap("#play")
    browser.press(LEFT)
    read = "return [...document.querySelectorAll('.pic')].map(p => [p.querySelector('img').src, p.querySelector('.tag').textContent, p.classList.contains('real')])"
    before = browser.run(read)
    browser.run("document.querySelector('#peek').dispatchEvent(new Event('pointerdown'))")
    assert browser.run(read) == before[::-1]
    browser.run("document.querySelector('#peek').dispatchEvent(new Event('pointerup'))")
    assert browser.run(read) == before
    for kind, shown in (("keyDown", before[::-1]), ("keyUp", before)):
        browser.driver.execute_cdp_cmd("Input.dispatchKeyEvent", {"type": kind, "key": " ", "code": "Space"})
        browser.settle()
        assert browser.run(read) == shown
    assert browser.fits()


CONTRAST = """
const rgb = (c) => c.match(/[\\d.]+/g).slice(0, 3).map(Number);
const light = (c) => { const [r, g, b] = rgb(c).map(v => { v /= 255; return v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; }); return .2126 * r + .7152 * g + .0722 * b; };
const ground = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (!/, 0\\)|transparent/.test(c)) return c; } return "rgb(255,255,255)"; };
return [...document.querySelectorAll("section *")].filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) && !e.closest("noscript, .key, figcaption"))
  .map(e => { const a = light(getComputedStyle(e).color), b = light(ground(e)); return [e.id || e.className || e.tagName, (Math.max(a, b) + .05) / (Math.min(a, b) + .05)]; })
  .filter(([, ratio]) => ratio < 4.5);
"""


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out(browser: Browser, game: Path, dark: bool) -> None:
    browser.open(game, 800, 900, dark=dark)
    browser.run("start(); choose(0); tellLevels();")
    browser.run(
        "document.querySelectorAll('section, details, [hidden]').forEach(e => [e.hidden, e.open] = [false, true])"
    )
    assert browser.run(CONTRAST) == []
