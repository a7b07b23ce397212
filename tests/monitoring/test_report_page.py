"""The page in a real browser: what is drawn, by which keys it is gone through, who can read it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import report_samples as samples
from axe_core_python.selenium import Axe
from chromium import open_chromium
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from test_report_live import Changing

from bench.chromium import resize
from hotfeast.server.metrics import Page
from hotfeast.server.monitoring.report.build import all_details, build_report
from hotfeast.server.monitoring.report.live import PATHS, LivePage
from hotfeast.server.monitoring.report.render import render_page

_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_chromium() as opened:
        yield opened


def _write(path: Path, catalogue: Any, evidence: Any) -> str:
    page = render_page(build_report(catalogue, evidence), all_details(catalogue, evidence))
    path.write_text(page, "utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("small")
    return _write(folder / "report.html", samples.catalogue(), samples.evidence())


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("large") / "report.html"
    path.write_text(render_page(build_report(*samples.many(2000)), {}), "utf-8")
    return path.as_uri()


def _open(browser: Any, address: str, width: int = 1400, dark: bool = False) -> None:
    resize(browser, width, dark=dark)
    browser.get("about:blank")
    browser.get(address)
    browser.execute_script("document.documentElement.style.scrollBehavior = 'auto'")


def _until(browser: Any, condition: Any) -> Any:
    return WebDriverWait(browser, 10, poll_frequency=0.05).until(lambda _: condition())


def _text(browser: Any, selector: str) -> str:
    return str(browser.find_element(By.CSS_SELECTOR, selector).text)


def _names(browser: Any) -> list[str]:
    return [b.text for b in browser.find_elements(By.CSS_SELECTOR, "#rows .open")]


def _complaints(browser: Any) -> list[str]:
    return [e["message"] for e in browser.get_log("browser") if e["level"] in ("SEVERE", "WARNING")]


def test_what_is_wrong_comes_first_and_leads_to_its_picture(browser: Any, small: str) -> None:
    _open(browser, small)
    assert _text(browser, "[data-key=tile-firing] .tile-number") == "1"
    assert "user_facts" in _text(browser, "#now-content")
    assert _names(browser)[0] == "spend"
    browser.find_element(By.CSS_SELECTOR, ".troubles a").click()
    _until(browser, lambda: browser.find_elements(By.CSS_SELECTOR, "#details .chart"))
    assert _text(browser, "#details-title") == "spend"
    headings = [h.text for h in browser.find_elements(By.CSS_SELECTOR, "#details h3")]
    assert headings == [
        "Distribution",
        "Null, missing and stale over time",
        "Mean over time",
        "Drift",
        "Statistics",
        "Lineage",
        "Who reads it",
    ]
    # Both are drawn: bars for now, a line for the reference; figures stand at the axes.
    assert len(browser.find_elements(By.CSS_SELECTOR, "#details .bin")) > 10
    assert browser.find_elements(By.CSS_SELECTOR, "#details path.reference")
    for chart in browser.find_elements(By.CSS_SELECTOR, "#details .chart"):
        assert chart.accessible_name
        assert chart.find_elements(By.CSS_SELECTOR, ".tick")
    assert "ranking" in _text(browser, "#details .lineage")
    assert not _complaints(browser)


def test_strangers_words_stay_words(browser: Any, small: str) -> None:
    _open(browser, small + "#feature=user_stats:visits")
    _until(browser, lambda: samples.HOSTILE in _text(browser, "#details .description"))
    assert browser.execute_script("return window.pwned ?? null") is None
    assert not browser.find_elements(By.CSS_SELECTOR, "img")
    assert not _complaints(browser)


def test_nothing_at_an_axis_is_minus_zero(browser: Any, small: str) -> None:
    # Bins of whole numbers begin half a one below the least, which is 0.
    _open(browser, small + "#feature=user_stats:visits")
    ticks = _until(browser, lambda: browser.find_elements(By.CSS_SELECTOR, "#details .tick"))
    words = [tick.text for tick in ticks]
    assert "0" in words
    assert "-0" not in words


def test_search_and_sorting_by_keys_alone(browser: Any, small: str) -> None:
    _open(browser, small)
    body = browser.find_element(By.TAG_NAME, "body")
    body.send_keys("/")
    active = browser.switch_to.active_element
    assert active.get_attribute("id") == "search"
    active.send_keys("people users")
    assert set(_names(browser)) == {"spend", "visits", "old_score", "since", "recent"}
    assert _text(browser, "#count") == "5 of 9 features"
    active.send_keys(Keys.ARROW_DOWN)
    browser.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    second = browser.switch_to.active_element
    assert second.text == _names(browser)[1]
    second.send_keys(Keys.ENTER)
    _until(browser, lambda: browser.switch_to.active_element.get_attribute("id") == "details-title")
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert browser.switch_to.active_element.text == _names(browser)[1]
    assert not browser.find_element(By.ID, "details").is_displayed()
    for query, names in (
        ("is:deprecated", ["old_score"]),
        ("is:pii", ["city"]),
        ("view:cart_share", ["cart_share"]),
        ("type:int64_list", ["recent"]),
        ("is:drifted", ["spend"]),
    ):
        search = browser.find_element(By.ID, "search")
        search.clear()
        search.send_keys(query)
        assert _names(browser) == names
    search.clear()
    search.send_keys("no such thing")
    assert browser.find_element(By.ID, "empty").is_displayed()
    search.send_keys(Keys.ESCAPE)
    head = browser.find_element(By.CSS_SELECTOR, "[data-key=sort-name]")
    head.send_keys(Keys.ENTER)
    assert _names(browser) == sorted(_names(browser))
    assert head.find_element(By.XPATH, "..").get_attribute("aria-sort") == "ascending"
    head.send_keys(Keys.ENTER)
    assert _names(browser) == sorted(_names(browser), reverse=True)


def test_only_what_is_seen_of_thousands_is_made(browser: Any, large: str) -> None:
    _open(browser, large)
    assert _text(browser, "#count") == "2,000 features"
    made = "return document.querySelectorAll('#rows tr').length"
    assert browser.execute_script(made) <= 360
    table = browser.find_element(By.ID, "table")
    assert table.get_attribute("aria-rowcount") == "2001"
    browser.find_element(By.CSS_SELECTOR, "#rows .open").send_keys(Keys.END)
    _until(browser, lambda: browser.switch_to.active_element.text == "feature_099_19")
    row = browser.switch_to.active_element.find_element(By.XPATH, "../..")
    assert row.get_attribute("aria-rowindex") == "2001"
    browser.find_element(By.ID, "search").send_keys("owner:team3 feature_003")
    assert len(_names(browser)) == 20


@pytest.mark.parametrize(("width", "dark"), [(360, False), (1600, True)])
def test_anybody_can_read_it(browser: Any, small: str, width: int, dark: bool) -> None:
    _open(browser, small, width, dark)
    folds = "for (const d of document.querySelectorAll('details')) d.open = true"
    browser.execute_script(folds)
    axe = Axe()
    for opened in (False, True):
        if opened:
            browser.execute_script("location.hash = '#feature=user_stats:spend'")
            _until(browser, lambda: browser.find_elements(By.CSS_SELECTOR, "#details .chart"))
            browser.execute_script(folds)
        found = axe.run(browser, options={"runOnly": _RULES})
        assert len(found["passes"]) > 10
        assert [(v["id"], v["nodes"][0]["html"][:200]) for v in found["violations"]] == []
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    ground = browser.find_element(By.TAG_NAME, "body").value_of_css_property("background-color")
    assert ("20, 19, 18" in ground) == dark


def test_over_a_narrow_page_the_details_are_all_there_is(browser: Any, small: str) -> None:
    _open(browser, small, 360)
    browser.find_element(By.CSS_SELECTOR, "#rows .open").click()
    _until(browser, lambda: browser.find_elements(By.CSS_SELECTOR, "#details .chart"))
    assert browser.execute_script("return document.querySelector('.list').inert")
    assert browser.find_element(By.ID, "details").rect["width"] == 360
    browser.find_element(By.ID, "details-close").click()
    assert not browser.execute_script("return document.querySelector('.list').inert")
    button = browser.find_element(By.ID, "theme")
    button.click()
    button.click()
    assert browser.execute_script("return document.documentElement.dataset.theme") == "dark"
    browser.execute_script("localStorage.clear()")


def test_a_live_page_goes_on_without_losing_the_readers_place(browser: Any) -> None:
    reports = Changing()
    page = Page([], "127.0.0.1", 0, dict.fromkeys(PATHS, LivePage(reports)))
    try:
        _open(browser, page.url.removesuffix("metrics") + "#feature=user_stats:spend")
        _until(browser, lambda: browser.find_elements(By.CSS_SELECTOR, "#details .chart"))
        assert _text(browser, "#live") == "Live"
        made = _text(browser, "#made")
        browser.execute_script(
            "document.querySelector('[data-key=numbers-history]').open = true;"
            "document.getElementById('details-content').scrollTop = 300;"
            "document.querySelector('[data-key=\"row-user_stats:spend\"]').focus();"
        )
        reports.change()
        _until(browser, lambda: _text(browser, "#made") != made)
        place = browser.execute_script(
            "return [document.querySelector('[data-key=numbers-history]').open,"
            "document.getElementById('details-content').scrollTop,"
            "document.activeElement.dataset.key]"
        )
        assert place == [True, 300, "row-user_stats:spend"]
        assert not _complaints(browser)
    finally:
        page.stop()
    _until(browser, lambda: _text(browser, "#live").startswith("No answer"))
