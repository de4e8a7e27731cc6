"""Films of known scenes, extracted with a tiny encoder pair, and a server of them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from click.testing import CliRunner
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.testclient import TestClient

from supportset.commands.main import cli
from supportset.search.library import Library
from supportset.search.page.routes import add_page
from supportset.search.server.app import create_app
from tests.extract.pairs import save_open_clip
from tests.search.page.films import make_folder, make_others


@dataclass(frozen=True)
class World:
    """A folder of films and its features; ``shown`` has the captions of each film, scene by scene."""

    folder: Path
    store: Path
    features: str
    shown: dict[str, list[str]]

    def library(self, **options: Any) -> Library:
        """The library of the films."""
        return Library.of_features(self.features, self.store, device="cpu", **options)


@pytest.fixture(scope="package")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("world")
    shown = make_folder(root / "films", films=4, scenes=3) | make_others(root / "films")
    save_open_clip(root / "tiny")
    words = ["extract", "folder", "--data", root / "films", "--name", "films", "--store", root / "features",
             "--backbone", f"open_clip:{root / 'tiny'}", "--device", "cpu", "--workers", "1"]  # fmt: skip
    done = CliRunner().invoke(cli, list(map(str, words)))
    assert done.exit_code == 0, done.output
    return World(root / "films", root / "features", "films/open_clip-tiny", shown)


@pytest.fixture(scope="package")
def app(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastAPI]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SUPPORTSET_CACHE", str(tmp_path_factory.mktemp("cache")))
        # The weights are random: nothing would fit, and results be behind a disclosure
        patch.setattr("supportset.search.searcher.Searcher._cutoffs", lambda self, by: None)
        made = create_app([world.library()])
        add_page(made)
        made.add_api_route("/answer/{status}", lambda status: JSONResponse({"error": "no"}, int(status)))
        yield made


@pytest.fixture(scope="package")
def client(app: FastAPI) -> TestClient:
    return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=True)


@pytest.fixture(scope="package")
def url(app: FastAPI) -> Iterator[str]:
    with serving(app) as address:
        yield address


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """A server on a free port, in a thread."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
