"""What the report shows of each fault of `faults`: pictures of its page in Chromium.

A week without a fault passes first, so that the day of the fault has something before it. Each
picture is the panel of the feature (of a view that is late, one of its features) from its title to
the figures that the fault is seen in.
"""

import io
import os
from collections.abc import Callable
from contextlib import chdir, redirect_stdout
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from feast.repo_config import load_repo_config
from feast.repo_operations import apply_total
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from bench.chromium import open_chromium, photograph, resize
from bench.faults import (
    FAULT_DAY,
    FAULTS,
    LASTING,
    REPO,
    SERVED_AT,
    Fault,
    Gateway,
    References,
    Year,
    month_before,
)
from hotfeast.server.feast_api import FeatureStore
from hotfeast.server.monitoring.report.build import Evidence, all_details, build_report
from hotfeast.server.monitoring.report.catalogue import Catalogue
from hotfeast.server.monitoring.report.catalogue_build import catalogue_of
from hotfeast.server.monitoring.report.evidence import compared, seen_of_state
from hotfeast.server.monitoring.report.gateway_reports import alert_rows
from hotfeast.server.monitoring.report.render import render_page

DAYS_BEFORE = 7
WIDTH = 780
"""Of a picture, in pixels of the page."""
SCALE = 1.25
"""Pixels of a picture for each of the page."""
COLOURS = 128
"""Of a picture, so that its file is small."""
_DISTRIBUTION, _SHARES = "Distribution", "Null, missing and stale over time"
# Of the view that is late, since a feature has to be shown.
_OF_LATE = "baskets_count_7d"
_REFERENCE = "of the month before"
_WAIT = 10.0
# Where the picture ends: below the last figure of the section, without what leads to its numbers.
_CLIP = """
const panel = document.getElementById("details").getBoundingClientRect();
const section = [...document.querySelectorAll("#details-content section")]
  .find((s) => s.querySelector("h3").textContent === arguments[0]);
const ends = [...section.children].filter((c) => !c.matches("details"))
  .map((c) => c.getBoundingClientRect().bottom);
return { x: panel.x, y: panel.y, width: panel.width, height: Math.max(...ends) + 5 - panel.y };
"""


def take_pictures(folder: Path, say: Callable[[str], None]) -> list[Path]:
    """Writes a picture of each fault, named by it.

    Args:
        folder: Where to; made if it is not there.
        say: Is told of each.

    Raises:
        NoChromium: There is no browser.
    """
    with open_chromium() as browser, TemporaryDirectory(prefix="hotfeast-faults-") as pages:
        folder.mkdir(parents=True, exist_ok=True)
        year = Year()
        catalogue, references = _catalogue(Path(pages)), month_before(year)
        written = []
        for fault in FAULTS:
            page = Path(pages) / f"{fault.key}.html"
            page.write_text(_page(year, catalogue, references, fault), "utf-8")
            picture = folder / f"{fault.key}.png"
            picture.write_bytes(_picture(browser, page, fault))
            say(f"{picture}: {picture.stat().st_size / 1000:.0f} kB")
            written.append(picture)
    return written


def _catalogue(folder: Path) -> Catalogue:
    """Of the demonstration's definitions, from a registry of their own."""
    # Is asked for and not looked at: nothing is written online.
    os.environ.setdefault("HOTFEAST_REDIS", "127.0.0.1:6379")
    config = load_repo_config(REPO, REPO / "feature_store.yaml")
    config.registry.path = str(folder / "registry.db")
    # Feast goes to the repository's folder, and tells of each table that it does not make.
    with chdir(REPO), redirect_stdout(io.StringIO()):
        apply_total(config, REPO, skip_source_validation=True)
    return catalogue_of(FeatureStore(config=config))


def _page(year: Year, catalogue: Catalogue, references: References, fault: Fault) -> str:
    gateway = Gateway(year, references)
    for before in range(DAYS_BEFORE, 0, -1):
        gateway.pass_day(FAULT_DAY - timedelta(days=before))
    alerts = gateway.pass_day(FAULT_DAY, fault)
    evidence = Evidence(
        words="The demonstration's data with a fault",
        now=(FAULT_DAY + SERVED_AT + LASTING).timestamp(),
        seen=compared(seen_of_state(gateway.store, references, _REFERENCE)),
        alerts=alert_rows(alerts, catalogue),
    )
    return render_page(build_report(catalogue, evidence), all_details(catalogue, evidence))


def _picture(browser: Any, page: Path, fault: Fault) -> bytes:
    resize(browser, WIDTH, 2400, scale=SCALE)
    browser.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
    browser.get("about:blank")
    browser.get(f"{page.as_uri()}#feature={fault.view}:{fault.feature or _OF_LATE}")

    def find(selector: str) -> Any:
        return WebDriverWait(browser, _WAIT, poll_frequency=0.05).until(
            lambda _: browser.find_elements(By.CSS_SELECTOR, selector)
        )[0]

    find("#details .chart")
    channel = f"[data-key=channel-{fault.channel}]"
    if browser.find_elements(By.CSS_SELECTOR, channel):
        find(channel).click()
        find(f"{channel}:checked")
    clip = browser.execute_script(_CLIP, _SHARES if fault.rule == "nulls" else _DISTRIBUTION)
    image = Image.open(io.BytesIO(photograph(browser, clip))).convert("RGB")
    made = io.BytesIO()
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(made, "PNG", optimize=True)
    return made.getvalue()
