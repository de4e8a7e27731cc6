"""The page as a browser shows it, wide and on a phone: searched, played, filtered, by keys, with a dropped file."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import av
import pytest

from tests.browser import KEYS, Browser, absent, open_browser
from tests.search.page.conftest import World
from tests.search.page.films import SCENE_S
from tests.search.page.test_html import ALL

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(absent()), reason=f"not installed: {', '.join(absent())}")]

WIDE, PHONE = 1280, 390
widths = pytest.mark.parametrize("width", [WIDE, PHONE])
VIDEO = "document.querySelector('.on video')"
LOADED = "return document.readyState == 'complete' && !document.querySelector('.htmx-request')"
# Drop a file on the page as a file manager does: the base64 text becomes the bytes of the file
DROP = """
const bytes = Uint8Array.from(atob('%s'), (each) => each.charCodeAt(0)), carried = new DataTransfer();
carried.items.add(new File([bytes], 'dropped.png', {type: '%s'}));
for (const name of ['dragenter', 'dragover', 'drop'])
  document.body.dispatchEvent(new DragEvent(name, {dataTransfer: carried, bubbles: true, cancelable: true}));
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def look(browser: Browser, address: str, width: int, scheme: str = "light") -> None:
    browser.look(address, width=width, scheme=scheme)
    browser.wait(LOADED)


def search(browser: Browser, words: str) -> None:
    browser.type("#q", words + KEYS["Enter"])
    browser.wait(
        f"return new URLSearchParams(location.search).get('q') == {words!r} && !document.querySelector('.htmx-request')"
    )


def titles(browser: Browser) -> list[str]:
    found: list[str] = browser.run("return [...document.querySelectorAll('.grid .name a')].map(e => e.textContent)")
    return found


def picture(world: World, film: str, second: float) -> bytes:
    """PNG of a film's frame."""
    with av.open(world.folder / film) as container:
        frame = next(each for each in container.decode(video=0) if each.time >= second)
    file = io.BytesIO()
    frame.to_image().save(file, "PNG")
    return file.getvalue()


@widths
@pytest.mark.parametrize(
    "path", ["/", "/?q=a+red+ball", "/video/films/film-02?q=a+red+ball", "/status", "/?q=ball&like=1*film-01"]
)
def test_nothing_is_wider_than_the_screen_and_targets_are_large(
    browser: Browser, url: str, path: str, width: int
) -> None:
    look(browser, url + path, width)
    if path.startswith("/?"):
        browser.click("#filters summary")
        browser.click(".grid .frame")
    assert browser.run("return [innerWidth, document.documentElement.scrollWidth]") == [width, width]
    wide = browser.run(
        "return [...document.querySelectorAll('body *')]"
        ".filter(e => e.checkVisibility() && !e.closest('svg, .strip, .frame'))"
        ".filter(e => e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.tagName + '.' + e.className)"
    )
    assert wide == []
    if width == PHONE:
        small = browser.run(
            "return [...document.querySelectorAll('a, button, select, summary, input:not([type=hidden])')]"
            ".filter(e => e.checkVisibility() && !e.closest('.only-read, .tool, .segments, .name'))"
            ".filter(e => e.getBoundingClientRect().height < 43.5).map(e => e.outerHTML.slice(0, 80))"
        )
        assert small == []


@widths
def test_search_plays_at_the_moment_in_place(browser: Browser, url: str, width: int) -> None:
    look(browser, url + "/", width)
    assert browser.run("return document.activeElement.id") == "q"
    search(browser, "a red ball")
    assert len(titles(browser)) == ALL
    assert "a red ball" in browser.run("return document.title")
    assert browser.run("return document.querySelector('#announce').textContent") == f"{ALL} results for “a red ball”"
    starts = browser.run("return [...document.querySelectorAll('.grid .hit')].map(e => Number(e.dataset.start))")
    late = next(n for n, name in enumerate(titles(browser)) if name.startswith("film-") and starts[n] > 1)
    browser.run(f"document.querySelectorAll('.grid .frame')[{late}].click()")
    at = browser.wait(
        "const v = document.querySelector('.on video'); return v && v.readyState > 1 && !v.paused && v.currentTime"
    )
    assert starts[late] <= at + 0.1
    assert at < starts[late] + 0.5
    assert browser.run("return document.querySelectorAll('.on').length") == 1
    assert browser.run("return document.querySelector('.on video').videoWidth") == 224
    browser.wait(f"const b = {VIDEO}.getBoundingClientRect(); return b.top >= 0 && b.bottom <= innerHeight")
    browser.press(KEYS["Escape"])
    assert browser.run("return document.querySelectorAll('video').length") == 0
    assert browser.run("return document.activeElement.className") == "frame", "the focus returns to the result"


@pytest.mark.parametrize("name", ["copied", "converted"])
def test_what_browsers_cannot_play_plays_at_the_moment(browser: Browser, url: str, name: str) -> None:
    look(browser, f"{url}/?q=a+red+ball&f:name={name}", WIDE)
    assert titles(browser) == [name]
    browser.click(".grid .frame")
    playing = (
        f"const v = {VIDEO}; return v && v.readyState > 1 && !v.paused && [v.currentTime, Number(v.dataset.offset)]"
    )
    start = browser.run("return Number(document.querySelector('.hit').dataset.start)")
    at, offset = browser.wait(playing, 60)
    assert start - 0.2 <= at + offset < start + 0.7
    assert browser.run(f"return {VIDEO}.videoWidth") == 224
    if name == "converted":  # a part at a time: each moment is in its own
        seconds = SCENE_S * 14 - 3
        browser.run(f"const a = document.querySelector('.hit [data-at]'); a.dataset.at = {seconds}; a.click()")
        later = f"const v = {VIDEO}; return v.dataset.offset == '60' && v.readyState > 1 && v.currentTime"
        at, offset = browser.wait(later, 60), 60
        assert seconds - 0.2 <= at + offset < seconds + 0.7


def test_a_still_is_shown_large(browser: Browser, url: str) -> None:
    look(browser, f"{url}/?q=a+red+ball&f:name=still", WIDE)
    browser.click(".grid .frame")
    assert (
        browser.wait("const i = document.querySelector('.on .screen img'); return i?.complete && i.naturalWidth") == 224
    )
    assert browser.run("return document.querySelector('.on .screen img').getBoundingClientRect().width") > 400
    browser.press(KEYS["Escape"])
    assert not browser.run("return document.querySelectorAll('.on').length")


@widths
def test_keys_find_play_and_close(browser: Browser, url: str, width: int) -> None:
    look(browser, url + "/?q=a+red+ball", width)
    browser.press("jj")
    assert browser.run("return [...document.querySelectorAll('.frame')].indexOf(document.activeElement)") == 1
    outline = browser.run("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none", "the focus is seen"
    browser.press("k")
    browser.press(KEYS["Enter"])
    browser.wait("const v = document.querySelector('.on video'); return v && v.readyState > 1")
    assert browser.run("return document.querySelector('.hit').classList.contains('on')")
    browser.press("j")
    browser.press(KEYS["Enter"])
    browser.wait("return document.querySelectorAll('.hit')[1].classList.contains('on')")
    assert browser.run("return document.querySelectorAll('video').length") == 1, "one plays at a time"
    browser.press(KEYS["Escape"])
    browser.press("?")
    assert browser.run("return document.querySelector('#keys').open")
    browser.press(KEYS["Escape"])
    browser.press("/")
    assert browser.run("return document.activeElement.id") == "q"
    browser.press("jk?")
    assert browser.run("return document.querySelector('#q').value") == "jk?", (
        "the old query is selected, and typed over"
    )


@widths
def test_back_restores_the_answer_before(browser: Browser, url: str, width: int) -> None:
    look(browser, url + "/", width)
    search(browser, "a red ball")
    browser.run("document.querySelector('#q').value = ''")
    search(browser, "blue stars")
    browser.back()
    browser.wait(
        "return document.querySelector('#q')?.value == 'a red ball' && "
        + f"document.querySelectorAll('.hit').length == {ALL}"
    )
    browser.back()
    browser.wait("return !!document.querySelector('.hero')")
    recent = browser.run("return [...document.querySelectorAll('#recent a')].map(e => e.textContent)")
    assert recent[:2] == ["blue stars", "a red ball"]
    assert browser.run("return [...document.querySelectorAll('#history option')].map(e => e.value)")[:2] == recent[:2]
    browser.click("#forget")
    assert browser.run("return document.querySelector('#recent').hidden && localStorage.length == 0")


@widths
def test_filters_narrow_and_their_chips_widen_again(browser: Browser, url: str, world: World, width: int) -> None:
    with (world.folder / "captions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    place = rows[-1]["place"]
    there = {Path(row["file"]).stem for row in rows if row["place"] == place}
    assert 0 < len(there) < ALL
    look(browser, url + "/?q=a+red+ball", width)
    browser.click("#filters summary")
    browser.run(
        "const s = document.querySelector('select[name=\"f:place\"]'); s.value = '" + place + "';"
        "s.dispatchEvent(new Event('change', {bubbles: true}))"
    )
    browser.wait(f"return document.querySelectorAll('.hit').length == {len(there)}")
    assert set(titles(browser)) == there
    assert parse_qs(urlsplit(browser.run("return location.href")).query)["f:place"] == [place]
    assert browser.run("return document.querySelector('#filters').open"), "the panel stays open"
    browser.click("[aria-label='Filters in use'] button")
    browser.wait(f"return document.querySelectorAll('.hit').length == {ALL}")
    assert "f:place" not in parse_qs(urlsplit(browser.run("return location.href")).query)


@widths
def test_more_like_this_puts_the_moment_into_the_query(browser: Browser, url: str, width: int) -> None:
    look(browser, url + "/?q=a+red+ball", width)
    first = titles(browser)[0]
    browser.click(".grid .like")
    browser.wait("return !!document.querySelector('.box .chip')")
    assert browser.run("return document.querySelector('.box .chip .what').textContent").startswith(f"like {first} 0:")
    assert first not in titles(browser)
    assert len(titles(browser)) == ALL - 1
    search(browser, "blue stars")  # added to the example
    assert browser.run("return document.querySelectorAll('.box .chip').length") == 1
    browser.click(".box .chip button")
    browser.wait("return !!document.querySelector('.box .chip.minus')")
    assert parse_qs(urlsplit(browser.run("return location.href")).query)["like"][0].startswith("-1*")


@widths
def test_a_dropped_picture_finds_its_moment(browser: Browser, url: str, world: World, width: int) -> None:
    second = SCENE_S + 2.5  # the middle of the second scene
    look(browser, url + "/", width)
    browser.run(DROP % (base64.b64encode(picture(world, "film-04.mp4", second)).decode(), "image/png"))
    browser.wait("return document.querySelector('.box .chip') && document.querySelectorAll('.hit').length")
    assert titles(browser)[0] == "film-04", "a frame of a film is most like that film"
    start = float(browser.run("return document.querySelector('.hit').dataset.start"))
    assert SCENE_S - 1 <= start <= second
    chip = browser.wait(
        "const i = document.querySelector('.box .chip img'); return i.complete && [i.naturalWidth, i.hidden]"
    )
    assert chip[0] > 16
    assert not chip[1]
    browser.run(DROP % (base64.b64encode(b"no picture").decode(), "image/png"))
    browser.wait("return document.querySelector('#problem').textContent")
    browser.run(DROP % (base64.b64encode(b"text").decode(), "text/plain"))
    browser.wait("return document.querySelector('#problem').textContent.startsWith('Only pictures and videos')")


@widths
def test_the_curve_of_a_video_seeks(browser: Browser, url: str, width: int) -> None:
    look(browser, url + "/video/films/film-02?q=a+red+ball", width)
    start = browser.run("return Number(document.querySelector('.player').dataset.start)")
    video = "const v = document.querySelector('.player video');"
    browser.wait(f"{video} return v.readyState > 1 && Math.abs(v.currentTime - {start}) < 0.5")
    left, top, wide = browser.run(
        "const c = document.querySelector('#curve'); c.scrollIntoView({behavior: 'instant', block: 'center'});"
        "const b = c.getBoundingClientRect(); return [b.left, b.top, b.width]"
    )
    browser.click_at(left + 0.8 * wide, top + 30)
    browser.wait(f"{video} return Math.abs(v.currentTime - {0.8 * 3 * SCENE_S}) < 1 && !v.paused")
    browser.click(".list a")
    browser.wait(f"{video} return Math.abs(v.currentTime - {start}) < 1")
    now = browser.run("return parseFloat(document.querySelector('#curve .now').getAttribute('x1'))")
    assert 0 <= now <= 100


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_the_scheme(browser: Browser, url: str, scheme: str) -> None:
    look(browser, url + "/?q=a+red+ball", WIDE, scheme)
    paper = browser.run("return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (min(paper[:3]) > 220) if scheme == "light" else (max(paper[:3]) < 40)


def test_a_busy_or_absent_server_is_said_in_words(browser: Browser, url: str) -> None:
    look(browser, url + "/?q=a+red+ball", WIDE)
    for status, words in ((429, "Too many requests"), (503, "busy"), (500, "The server says: no")):
        browser.run(
            "const open = window.reallyOpen ??= XMLHttpRequest.prototype.open;"
            f"XMLHttpRequest.prototype.open = function (how) {{ open.call(this, how, '/answer/{status}', true); }}"
        )
        browser.click(".box .go")
        browser.wait(f"return document.querySelector('#problem').textContent.includes({words!r})")
    look(browser, url + "/?q=a+red+ball", WIDE)
    browser.cdp("Network.enable")
    browser.cdp("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    try:
        browser.click(".box .go")
        browser.wait("return document.querySelector('#problem').textContent.includes('does not answer')")
    finally:
        browser.cdp(
            "Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=-1, uploadThroughput=-1
        )


def test_no_request_leaves_the_server_and_the_console_is_silent(browser: Browser, url: str) -> None:
    browser.messages(), browser.requests()
    for path in ("/", "/?q=a+red+ball", "/video/films/film-02?q=a+red+ball", "/status"):
        look(browser, url + path, WIDE)
        if "?q" in path and path.startswith("/?"):
            browser.click(".grid .frame")
            browser.wait("const v = document.querySelector('.on video'); return v && v.readyState > 1")
            browser.click(".on .shut")
            browser.click(".grid .like")
            browser.wait("return !!document.querySelector('.box .chip')")
    asked = [each for each in browser.requests() if not each.startswith(("data:", "chrome"))]
    assert len(asked) > 20
    assert not [each for each in asked if not each.startswith(f"{url}/")]
    assert browser.messages() == []


def test_it_works_without_scripts(browser: Browser, url: str) -> None:
    browser.cdp("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.look(url + "/", width=WIDE)
        browser.type("#q", "a red ball" + KEYS["Enter"])
    finally:
        browser.cdp("Emulation.setScriptExecutionDisabled", value=False)
    browser.wait(
        f"return location.search.includes('q=a+red+ball') && document.querySelectorAll('.hit').length == {ALL}"
    )
