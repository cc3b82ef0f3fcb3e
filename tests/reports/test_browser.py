"""The page in a real browser: nothing fails, nothing is asked for, nothing is empty, nothing is cut off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from reports.browser import CHROMIUM, Browser
from reports.records import chain, record_of

from lightning_cosprune import write_report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

# How many colours each picture has; of a constant one there is one.
COLOURS = """
Promise.all([...document.querySelectorAll("svg image")].map(async image => {
  const bitmap = new Image(); bitmap.src = image.href.baseVal; await bitmap.decode();
  const canvas = document.createElement("canvas"); canvas.width = bitmap.width; canvas.height = bitmap.height;
  const context = canvas.getContext("2d"); context.drawImage(bitmap, 0, 0);
  return new Set(new Uint32Array(context.getImageData(0, 0, bitmap.width, bitmap.height).data.buffer)).size;
}))
"""
# Pictures that are empty or have no size, and letters too small to be read.
EMPTY = """[...document.querySelectorAll("svg")].filter(svg => svg.checkVisibility() &&
  (svg.getBoundingClientRect().width < 200 || svg.querySelectorAll("path").length < 3)).length"""
SMALL = """Math.min(...[...document.querySelectorAll("svg text")].filter(text => text.checkVisibility()).map(text =>
  parseFloat(getComputedStyle(text).fontSize) * Math.hypot(text.getScreenCTM().a, text.getScreenCTM().b)))"""
OPEN = "document.querySelectorAll('details').forEach(details => details.open = true)"
SIDEWAYS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    opened = Browser()
    yield opened
    opened.close()


@pytest.fixture(scope="module", params=[3, 12], ids=lambda layers: f"{layers} layers")
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    widths = (12, 24, 48) if request.param == 3 else (8, 8, 12, 12, 16, 16, 24, 24, 32, 32, 48, 300)
    found = tmp_path_factory.mktemp("page") / "report.html"
    write_report(found, record_of(chain(*widths), torch.randn(1, 1, 12, 12), repair=request.param == 3))
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_shows_all_of_it(browser: Browser, page: Path, width: int, scheme: str) -> None:
    browser.errors.clear()
    browser.open(page, width, scheme)
    assert browser.evaluate(SIDEWAYS) == 0
    browser.evaluate(OPEN)
    assert browser.evaluate(SIDEWAYS) == 0, "with all layers open"
    colours = browser.evaluate(COLOURS)
    assert len(colours) > 20
    assert min(colours) > 1
    assert browser.evaluate(EMPTY) == 0
    assert browser.evaluate(SMALL) > 7
    assert browser.errors == []


def test_dark_and_light_are_read_from_the_reader(browser: Browser, page: Path) -> None:
    found = {}
    for scheme in ("light", "dark"):
        browser.open(page, 800, scheme)
        shown = (
            "getComputedStyle(document.body).backgroundColor",
            "getComputedStyle(document.querySelector('svg text')).fill",
        )
        found[scheme] = [sum(map(int, browser.evaluate(what)[4:-1].split(", "))) for what in shown]
    assert found["light"][0] > 700 > 400 > found["light"][1], "dark letters on light ground"
    assert found["dark"][0] < 100 < 400 < found["dark"][1], "light letters on dark ground"


def test_what_is_wrong_is_noticed(browser: Browser, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text("<body style='width: 3000px'><script>null.x</script><img src='http://127.0.0.1:9/x.png'></body>")
    browser.errors.clear()
    browser.open(bad, 390, "light")
    assert browser.evaluate(SIDEWAYS) > 0
    assert any("asks for http" in error for error in browser.errors)
    assert any("exceptionThrown" in error for error in browser.errors)
