"""The pictures of the page in docs/serve.md: ``python -m tests.search.page.pictures TINY_CLIP [docs/images]``.

TINY_CLIP is what ``python examples/tiny_clip.py TINY_CLIP`` writes. Only the demo world is shown.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
from pathlib import Path

from click.testing import CliRunner
from PIL import Image

from supportset.commands.main import cli
from supportset.search.library import Library
from supportset.search.serving import build_app
from tests.browser import Browser, open_browser
from tests.search.page.conftest import serving
from tests.search.page.films import make_folder

QUERY = "a+purple+heart+on+grass"
FILMS = 12
PLAYS = "const v = document.querySelector('video'); return v && v.readyState > 3 && !v.seeking"


def take(browser: Browser, url: str, out: Path) -> None:
    """Take the pictures: results on a wide screen, and a video's page, beside results on a phone of which one plays."""
    look(browser, f"{url}/?q={QUERY}", 1280, 900)
    first = browser.run("return document.querySelector('.grid .frame').getAttribute('href')")
    browser.click("#nearest summary")
    browser.run("scrollTo(0, 0); document.activeElement.blur()")
    wide = shot(browser, 940)
    wide.save(out / "search-page.webp", quality=88, method=6)
    look(browser, url + first, 1280, 1120, "dark")
    browser.wait(PLAYS)
    browser.run("const v = document.querySelector('video'); v.muted = true; v.play().then(() => v.pause())")
    time.sleep(0.5)
    video = shot(browser, 1120)
    look(browser, f"{url}/?q={QUERY}", 390, 844)
    browser.click(".grid .frame")
    browser.wait(PLAYS)
    browser.run("document.querySelector('video').pause(); document.activeElement.blur(); scrollTo(0, 0)")
    phone = shot(browser, 1120)
    both = Image.new("RGB", (video.width + phone.width + 24, video.height), "#8b93a3")
    both.paste(video, (0, 0))
    both.paste(phone, (video.width + 24, 0))
    both.save(out / "video-page.webp", quality=88, method=6)


def look(browser: Browser, address: str, width: int, height: int, scheme: str = "light") -> None:
    """Open a page as wide as a screen."""
    browser.look(address, width=width, height=height, scheme=scheme)
    browser.wait("return document.readyState == 'complete'")


def shot(browser: Browser, height: int) -> Image.Image:
    """The top of the page, when its pictures are there."""
    browser.wait("return [...document.images].every(i => i.complete || !i.checkVisibility())")
    time.sleep(0.5)  # the play button fades
    return Image.open(io.BytesIO(browser.picture(height))).convert("RGB")


def main(pair: Path, out: Path) -> None:
    """Render, extract, serve, and take the pictures."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_folder(root / "films", films=FILMS)
        words = ["extract", "folder", "--data", root / "films", "--name", "films", "--store", root / "features",
                 "--backbone", f"open_clip:{pair}", "--device", "cpu"]  # fmt: skip
        done = CliRunner().invoke(cli, list(map(str, words)))
        assert done.exit_code == 0, done.output
        library = Library.of_features(f"films/open_clip-{pair.name}", root / "features", device="cpu")
        with serving(build_app([library])) as url, open_browser(root / "profile") as browser:
            take(browser, url, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2] if len(sys.argv) > 2 else "docs/images"))
