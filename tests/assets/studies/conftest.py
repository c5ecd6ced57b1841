"""A real browser for the pages: Chromium through its driver, offline, at any size, with mouse or touch."""

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


class Browser:
    """Chromium on one page at a time. Its downloads lie in `downloads`."""

    def __init__(self, driver: Any, downloads: Path):
        self.driver, self.downloads = driver, downloads

    def open(self, page: Path, width: int, height: int, *, touch: bool = False, dark: bool = False) -> None:
        """The page in a window of this size; a phone's when `touch`."""
        tell = self.driver.execute_cdp_cmd
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": touch}
        tell("Emulation.setDeviceMetricsOverride", size)
        tell("Emulation.setTouchEmulationEnabled", {"enabled": touch})
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        tell("Emulation.setEmulatedMedia", {"features": scheme})
        tell("Network.enable", {})
        tell("Network.emulateNetworkConditions", {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0})  # fmt: skip
        self.driver.get(page.as_uri())
        assert self.run("return document.documentElement.dataset.ready") == "yes"

    def run(self, script: str, *words: Any) -> Any:
        return self.driver.execute_script(script, *words)

    def press(self, key: str) -> None:
        """A key for whatever has the focus."""
        self.driver.switch_to.active_element.send_keys(key)

    def tap(self, selector: str) -> None:
        """A finger on the middle of an element, which must be in sight and large enough for a finger."""
        box = self.run(
            "const e = document.querySelector(arguments[0]); e.scrollIntoView({block: 'nearest'});"
            "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2, r.width, r.height]",
            selector,
        )
        x, y, width, height = box
        assert min(width, height) >= 44, (selector, box)
        over = self.run("return document.elementFromPoint(arguments[0], arguments[1])?.closest(arguments[2]) !== null", x, y, selector)  # fmt: skip
        assert over, f"{selector} is covered at {x:.0f}, {y:.0f}"
        for kind, points in (("touchStart", [{"x": x, "y": y}]), ("touchEnd", [])):
            self.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        self.settle()

    def settle(self) -> None:
        """Until the page has handled what was sent."""
        self.driver.execute_async_script(
            "const done = arguments[0]; setTimeout(() => requestAnimationFrame(() => done()), 30)"
        )

    def overflows(self) -> bool:
        """Whether anything reaches beyond the right edge."""
        return bool(
            self.run(
                "const w = innerWidth; return document.documentElement.scrollWidth > w || "
                "[...document.querySelectorAll('section *')].some(e => e.getClientRects().length && e.offsetParent && "
                "!e.closest('.seen-only') && e.getBoundingClientRect().right > w + 1)"
            )
        )

    def fits(self) -> bool:
        """Whether the whole screen is seen without scrolling."""
        return bool(self.run("return document.documentElement.scrollHeight <= innerHeight + 1"))

    def errors(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def downloaded(self, pattern: str) -> Path:
        """The file, once it is whole."""
        for _ in range(100):
            if found := [f for f in self.downloads.glob(pattern) if f.stat().st_size]:
                return found[0]
            time.sleep(0.1)
        raise AssertionError(f"no download {pattern}: {list(self.downloads.iterdir())}")

    def picture(self, file: Path) -> np.ndarray:
        """A screenshot, also as an array."""
        self.driver.save_screenshot(str(file))
        return np.asarray(Image.open(file).convert("RGB"))


@pytest.fixture(scope="session")
def data_of() -> Callable[[str], Any]:
    """Reads a page's data, once it is seen that the page fetches nothing."""

    def read(page: str) -> Any:
        assert not re.search(r"(src|href)=\"(?!data:)[^\"#]", page)
        style, script = page[page.index("<style>") : page.index("</style>")], page[page.rindex("<script>") :]
        assert "url(" not in style
        assert "@import" not in style
        assert not re.search(r"\b(fetch|XMLHttpRequest|import|WebSocket|sendBeacon)\s*\(|https?://", script)
        found = re.search(r'id="data">(.*?)</script>', page, re.S)
        assert found
        return json.loads(found[1], parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))

    return read


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    binary = next(
        (f for n in ("chromium", "chromium-browser", "google-chrome") if (f := shutil.which(n))), None
    )
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no Chromium with its driver on this machine (apt-get install chromium chromium-driver)")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    base = tmp_path_factory.mktemp("browser")
    downloads = base / "downloads"
    downloads.mkdir()
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking",
                 "--disable-component-update", "--disable-sync", "--no-first-run", f"--user-data-dir={base / 'profile'}"):  # fmt: skip
        options.add_argument(word)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield Browser(opened, downloads)
    finally:
        opened.quit()
