"""Opening a page in headless Chromium and checking what a reader would notice."""

from __future__ import annotations

import base64
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService

WIDTHS = (400, 1280)
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--disable-dev-shm-usage",
)


def require_chromium() -> tuple[str, str]:
    """Paths of Chromium and its driver; without them the test skips, or fails in strict mode.

    ``COMPOSITIONAL_PROMPTS_REQUIRE_CHROMIUM=1`` is the strict mode, for continuous integration.
    """
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser and driver:
        return browser, driver
    reason = "Chromium is not installed: apt-get install chromium chromium-driver"
    if os.environ.get("COMPOSITIONAL_PROMPTS_REQUIRE_CHROMIUM") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def open_browser() -> Iterator[Chrome]:
    """A headless Chromium with a profile of its own."""
    browser, driver = require_chromium()
    with tempfile.TemporaryDirectory(prefix="chromium-") as profile:
        options = ChromeOptions()
        options.binary_location = browser
        for flag in (*_FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        chrome = Chrome(options=options, service=ChromeService(driver))
        try:
            yield chrome
        finally:
            chrome.quit()


def check_page(page: Path, screenshots: Path | None = None) -> None:
    """Assert that a page reads well in Chromium, narrow and wide, light and dark.

    No message on the console, every image loaded, nothing wider than the window. With
    ``screenshots``, a PNG of the whole page for every width and scheme is left in that directory.
    """
    with open_browser() as chrome:
        for scheme in ("light", "dark"):
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            for width in WIDTHS:
                metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
                chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
                chrome.get(page.resolve().as_uri())
                log: Any = chrome.get_log("browser")  # type: ignore[no-untyped-call]
                messages = [entry["message"] for entry in log]
                assert not messages, f"{page} at {width} px: the console says {messages}"
                _check_images(chrome, page)
                _check_width(chrome, page, width)
                if screenshots is not None:
                    _screenshot(chrome, screenshots / f"{scheme}-{width}.png")


def _check_images(chrome: Chrome, page: Path) -> None:
    # Those that wait until they are scrolled to are loaded now.
    broken, shown = chrome.execute_async_script(
        "const done = arguments[0], images = [...document.images];"
        "images.forEach(i => { i.loading = 'eager'; });"
        "Promise.allSettled(images.map(i => i.decode())).then(() => done("
        " [images.filter(i => !i.complete || i.naturalWidth === 0).map(i => i.alt),"
        "  images.length]))"
    )
    assert shown > 0, f"{page} shows no image"
    assert not broken, f"{page}: images did not load: {broken}"


def _check_width(chrome: Chrome, page: Path, width: int) -> None:
    inner, content = chrome.execute_script(
        "return [window.innerWidth, document.documentElement.scrollWidth]"
    )
    assert inner == width
    assert content <= width, f"{page} is {content} px wide in a window of {width} px"


def _screenshot(chrome: Chrome, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shot = chrome.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
    path.write_bytes(base64.b64decode(shot["data"]))
