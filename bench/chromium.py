"""A headless Chromium, for pictures of the report and for its tests."""

import base64
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)


class NoChromium(Exception):
    """There is no browser, or nothing to drive it by; the message says what to install."""


@contextmanager
def open_chromium() -> Iterator[Any]:
    """A browser with a profile of its own.

    Raises:
        NoChromium: None is installed.
    """
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        raise NoChromium(
            "chromium and chromedriver are not both installed: apt-get install chromium-driver"
        )
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in _FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options, Service(driver))
    try:
        yield opened
    finally:
        opened.quit()


def resize(
    browser: Any, width: int, height: int = 900, dark: bool = False, scale: float = 1
) -> None:
    """Sets the size of the page in CSS pixels, the theme that the system is said to have, and the
    pixels of a picture for each of the page."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def photograph(browser: Any, clip: Mapping[str, float]) -> bytes:
    """A PNG of a part of the page.

    Args:
        browser: Shows the page.
        clip: `x`, `y`, `width` and `height` of the part, in CSS pixels.
    """
    taken = browser.execute_cdp_cmd(
        "Page.captureScreenshot", {"format": "png", "clip": {**clip, "scale": 1}}
    )
    return base64.b64decode(taken["data"])
