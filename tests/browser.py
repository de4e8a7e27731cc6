"""A headless Chromium, driven by its own driver: measurements and screenshots of a page as people see it."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def absent() -> list[str]:
    """The programs that a browser needs and this machine lacks."""
    return [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]


KEYS = {"Enter": "\ue007", "Escape": "\ue00c", "Tab": "\ue004"}


class Browser:
    """One window. `open_browser` makes it."""

    def __init__(self, url: str, profile: Path) -> None:
        self._url = url
        options = {
            "binary": shutil.which("chromium"),
            "args": ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}"],
        }
        capabilities = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        self._url = f"{url}/session/{session['sessionId']}"

    def look(self, page: Path | str, *, width: int, scheme: str = "light", height: int = 900) -> None:
        """Open a file or a URL, as wide as a screen of ``width`` CSS pixels and in a colour scheme."""
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                 mobile=width < 600)  # fmt: skip
        self.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self._call("POST", "/url", {"url": page if isinstance(page, str) else page.resolve().as_uri()})

    def run(self, script: str) -> Any:
        """The value of a function body."""
        return self._call("POST", "/execute/sync", {"script": script, "args": []})

    def wait(self, script: str, seconds: float = 20.0) -> Any:
        """The value of a function body, as soon as it is true."""
        until = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < until, f"not true within {seconds:g} s: {script}"
            time.sleep(0.05)
        return value

    def click(self, selector: str) -> None:
        """Click the middle of the first element that is found, as a mouse does."""
        self._call("POST", f"/element/{self._find(selector)}/click", {})

    def click_at(self, x: float, y: float) -> None:
        """Click a point of the window, in CSS pixels."""
        strokes = [{"type": "pointerMove", "x": round(x), "y": round(y)}, {"type": "pointerDown", "button": 0},
                   {"type": "pointerUp", "button": 0}]  # fmt: skip
        self._call("POST", "/actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": strokes}]})

    def type(self, selector: str, text: str) -> None:
        """Type into an element; ``KEYS`` has the characters of keys without one."""
        self._call("POST", f"/element/{self._find(selector)}/value", {"text": text})

    def press(self, keys: str) -> None:
        """Press keys one after the other, wherever the focus is."""
        strokes = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._call("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]})

    def back(self) -> None:
        """Go back in the history."""
        self._call("POST", "/back", {})

    def requests(self) -> list[str]:
        """URLs that were asked for since the last call."""
        lines = [
            json.loads(each["message"])["message"] for each in self._call("POST", "/se/log", {"type": "performance"})
        ]
        return [each["params"]["request"]["url"] for each in lines if each["method"] == "Network.requestWillBeSent"]

    def messages(self) -> list[str]:
        """What the console says, such as of requests that the page forbids."""
        return [each["message"] for each in self._call("POST", "/se/log", {"type": "browser"})]

    def picture(self, height: int | None = None) -> bytes:
        """PNG of the page from its top, all of it or so many pixels."""
        width, all_of_it = self.run("let e = document.documentElement; return [e.clientWidth, e.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": width, "height": min(height or all_of_it, all_of_it), "scale": 1}
        shot = self.cdp("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        return base64.b64decode(shot["data"])

    def printed(self) -> bytes:
        """The page as PDF."""
        return base64.b64decode(self._call("POST", "/print", {}))

    def cdp(self, command: str, **parameters: Any) -> Any:
        """A command of the DevTools protocol."""
        return self._call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def close(self) -> None:
        """End the session, and with it the browser."""
        self._call("DELETE", "")

    def _find(self, selector: str) -> str:
        found = self._call("POST", "/element", {"using": "css selector", "value": selector})
        element: str = next(iter(found.values()))
        return element

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(
            self._url + path, data, {"Content-Type": "application/json"}, method=method
        )  # loopback
        with urllib.request.urlopen(asked, timeout=120) as answer:
            return json.load(answer)["value"]


@contextmanager
def open_browser(folder: Path) -> Iterator[Browser]:
    """A browser with a profile in an empty folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen(["chromedriver", f"--port={port}", "--log-level=OFF"], stdout=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{url}/status", timeout=10).close()
                break
            except OSError:
                assert driver.poll() is None, "chromedriver ended"
                time.sleep(0.05)
        browser = Browser(url, folder)
        try:
            yield browser
        finally:
            browser.close()
    finally:
        driver.terminate()
        driver.wait()
