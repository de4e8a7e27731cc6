"""A library of small films with a tiny encoder pair, and a client of its server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from supportset.search.library import Library
from supportset.search.server.app import create_app
from tests.extract.films import write_video
from tests.extract.pairs import save_pair
from tests.search.untrained import TEXTS, plant

Open = Callable[..., TestClient]


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of ``features``, ``tiny`` (the pair) and ``videos``, with a secret beside the videos."""
    root = tmp_path_factory.mktemp("films")
    save_pair("clip", root / "tiny")
    plant(root / "features", f"hf:{root / 'tiny'}")
    (root / "videos").mkdir()
    for number, clip in enumerate(TEXTS):
        write_video(root / "videos" / f"{clip}.mp4", 25 * (1 + number % 3))
    (root / "secret.mp4").write_bytes(b"a secret beside the videos")
    return root


@pytest.fixture
def library(films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    """The library of the films."""
    monkeypatch.setenv("SUPPORTSET_CACHE", str(tmp_path / "cache"))
    return Library.of_features("films", films / "features", device="cpu", videos=films / "videos")


@pytest.fixture
def open_client(library: Library) -> Iterator[Open]:
    """Makes clients of servers of the library; the arguments are those of `create_app`."""
    with ExitStack() as stack:

        def opened(**options: Any) -> TestClient:
            app = create_app([library], **options)
            base = "http://127.0.0.1:8765"
            return stack.enter_context(TestClient(app, base_url=base, raise_server_exceptions=False))

        yield opened


@pytest.fixture
def client(open_client: Open) -> TestClient:
    """A client of a server with the usual limits."""
    return open_client()
