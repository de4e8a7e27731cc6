"""`serve --videos` as a person starts it: from a folder to answers over HTTP, until Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.extract.films import write_video
from tests.extract.pairs import save_open_clip

pytestmark = pytest.mark.slow
SECONDS = 200.0  # for what takes a few on a machine that is not busy
TOKEN = "for-the-test-only"


class Server:
    """The command, and a client of it."""

    def __init__(self, root: Path) -> None:
        self.videos, self._told = root / "My videos", root / "told"
        self.videos.mkdir()
        save_open_clip(root / "pair")
        words = ("serve", "--videos", self.videos, "--encoder", f"open_clip:{root / 'pair'}", "--device", "cpu",
                 "--store", root / "store", "--port", "0")  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-m", "supportset", *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=self._told.open("wb"),
            text=True,
            env=os.environ | {"SUPPORTSET_TOKEN": TOKEN, "SUPPORTSET_CACHE": str(root / "cache")},
        )
        assert self.process.stdout is not None
        url = re.match(r"(http://127\.0\.0\.1:\d+)/\?token=", self.process.stdout.readline())
        assert url is not None, self.told()
        self.client = httpx.Client(base_url=url[1], headers={"authorization": f"Bearer {TOKEN}"}, timeout=60)

    def told(self) -> str:
        return self._told.read_text(encoding="utf-8")

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get("/api/status").raise_for_status().json()["extraction"]
        return found

    def found(self) -> set[str]:
        """The clips that a search finds; none while there is nothing to search."""
        answer = self.client.post("/api/search", json={"query": "a red ball rolls", "k": 20})
        if answer.status_code == 503:
            return set()
        return {hit["clip_id"] for hit in answer.raise_for_status().json()["hits"]}

    def wait(self, what: Callable[[], Any]) -> Any:
        end = time.monotonic() + SECONDS
        while not (found := what()):
            assert time.monotonic() < end, (self.status(), self.told())
            time.sleep(0.1)
        return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("served"))
    yield server
    server.process.kill()
    server.process.wait()


def test_a_folder_is_served_from_empty_to_full_and_back(server: Server) -> None:
    assert httpx.get(str(server.client.base_url.join("/api/status"))).status_code == 401  # the token counts
    server.wait(lambda: server.status()["phase"] == "waiting")
    assert "no video or image yet" in server.status()["message"]
    assert server.client.post("/api/search", json={"query": "a red ball"}).status_code == 503
    film = write_video(server.videos / "holiday.mp4", 100, size=(160, 120))
    server.wait(lambda: server.found() == {"holiday"})
    (library,) = server.client.get("/api/libraries").json()
    assert (library["name"], library["clips"], library["thumbnails"]) == ("My-videos", 1, True)
    picture = server.client.get("/media/My-videos/thumbnail/holiday", params={"at": 1})
    assert (picture.status_code, picture.headers["content-type"]) == (200, "image/jpeg")
    assert server.client.get("/media/My-videos/video/holiday").content == film.read_bytes()
    film.unlink()
    server.wait(lambda: not server.found())
    assert server.status()["gone"] == 1


def test_ctrl_c_ends_both_processes_soon(server: Server) -> None:
    server.wait(lambda: server.status()["phase"] in ("idle", "waiting"))
    children = psutil.Process(server.process.pid).children(recursive=True)
    assert any("supportset.search.ingest.child" in child.cmdline() for child in children)
    server.process.send_signal(signal.SIGINT)
    server.process.wait(60)
    assert "Traceback" not in server.told()
    assert not psutil.wait_procs(children, timeout=30)[1]


@pytest.mark.parametrize(
    ("words", "says"),
    [((), "--videos FOLDER"), (("--videos", "nowhere"), "nowhere: no such folder")],
)
def test_wrong_use_is_one_line(words: tuple[str, ...], says: str, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from supportset.commands.main import cli

    result = CliRunner().invoke(cli, ["serve", *words, "--store", str(tmp_path)])
    assert result.exit_code == 2
    assert says in result.stderr
