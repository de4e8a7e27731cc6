"""The page as a browser shows it: on a wide screen and a phone, light and dark, and printed."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from supportset.evaluate.report.page import render
from tests.browser import Browser, absent, open_browser
from tests.evaluate.reports import HOSTILE, report

pytest.importorskip("matplotlib", reason="reports need the extra `report`")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(absent()), reason=f"not installed: {', '.join(absent())}")]

WIDE, PHONE = 1280, 390
LONG = "a_file_name_without_any_space_" * 8


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module", params=[HOSTILE, LONG], ids=["hostile", "long"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render(report(request.param)), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", [WIDE, PHONE])
def test_nothing_is_wider_than_the_screen(browser: Browser, page: Path, width: int) -> None:
    browser.look(page, width=width)
    assert browser.run("return innerWidth") == width
    wide = browser.run(
        "return [...document.querySelectorAll('body *')]"
        ".filter(e => e.getBoundingClientRect().right > innerWidth + 0.5)"
        ".map(e => e.tagName + '.' + e.getAttribute('class'))"
    )
    assert (browser.run("return document.documentElement.scrollWidth"), wide) == (width, [])


def test_no_text_of_the_page_ran_and_nothing_was_asked_for(browser: Browser, page: Path) -> None:
    browser.look(page, width=WIDE)
    assert browser.run("return document.title") in (HOSTILE, LONG)
    assert browser.run("return document.scripts.length") == 0
    assert (
        browser.run("return performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length")
        == 0
    )
    assert browser.messages() == []
    broken = "return [...document.images].filter(e => !e.complete || !e.naturalWidth).length"
    assert browser.run(broken) == 0


@pytest.mark.parametrize("width", [WIDE, PHONE])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_paper_and_ink_follow_the_scheme(browser: Browser, page: Path, width: int, scheme: str) -> None:
    browser.look(page, width=width, scheme=scheme)
    pixels = np.asarray(Image.open(io.BytesIO(browser.picture(1500))).convert("L"))
    assert pixels.shape[1] == width
    paper = np.bincount(pixels.ravel()).argmax()
    assert (paper > 240) if scheme == "light" else (paper < 40)
    ink = browser.run("return getComputedStyle(document.querySelector('svg text')).fill")
    assert (max(map(int, ink[4:-1].split(","))) < 128) == (scheme == "light")


def test_texts_of_figures_do_not_overlap(browser: Browser, page: Path) -> None:
    browser.look(page, width=PHONE)
    crossing = browser.run(
        "return [...document.querySelectorAll('svg')].slice(0, 2).flatMap(svg => {"
        " let t = [...svg.querySelectorAll('text')].map(e => [e.textContent.trim(), e.getBoundingClientRect()]);"
        " return t.flatMap(([a, p], i) => t.slice(i + 1).filter(([b, q]) => p.left < q.right - 1"
        " && q.left < p.right - 1 && p.top < q.bottom - 2 && q.top < p.bottom - 2).map(([b]) => a + ' / ' + b)) })"
    )
    # names of models are as long as their authors like; the page's own words fit
    assert [pair for pair in crossing if not any(each in pair for each in (HOSTILE[:20], LONG[:20]))] == []
    sizes = browser.run("return [...document.querySelectorAll('svg text')].map(e => e.getBoundingClientRect().height)")
    assert min(sizes) > 8  # pixels of a line on a phone


def test_it_prints(browser: Browser, page: Path) -> None:
    browser.look(page, width=WIDE, scheme="dark")
    printed = browser.printed()
    assert printed.startswith(b"%PDF-")
    assert 2 <= printed.count(b"/Type /Page\n") <= 12
