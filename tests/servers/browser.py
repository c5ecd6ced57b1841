"""A real browser for pages: Chromium through its driver, at any size, with mouse or touch."""

import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


class Browser:
    """Chromium on one page at a time. Its downloads lie in `downloads`."""

    def __init__(self, driver: Any, downloads: Path):
        self.driver, self.downloads = driver, downloads

    def open(self, page: Path, width: int, height: int, *, touch: bool = False, dark: bool = False) -> None:
        """The page in a window of this size; a phone's when `touch`."""
        tell = self.driver.execute_cdp_cmd
        self.driver.get("about:blank")
        self.errors()  # forgets those of another test's page, whose server may be gone
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": touch}
        tell("Emulation.setDeviceMetricsOverride", size)
        tell("Emulation.setTouchEmulationEnabled", {"enabled": touch})
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        tell("Emulation.setEmulatedMedia", {"features": scheme})
        tell("Network.enable", {})
        tell("Network.emulateNetworkConditions", {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0})  # fmt: skip
        self.driver.get(page.as_uri())
        assert self.run("return document.documentElement.dataset.ready") == "yes"

    def online(self, width: int, height: int) -> None:
        """A window of this size for pages of a server."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1})  # fmt: skip

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
