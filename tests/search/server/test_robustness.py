"""The server lives on when its store, its processes or its clients do not; no request blocks others."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from supportset.search.library import Library, NotReady
from supportset.search.server.app import create_app
from supportset.search.server.limits import Limits
from supportset.search.server.media import Media
from supportset.search.server.work import Busy, Work
from supportset.store.errors import SupportsetError, UsageError
from supportset.store.write.writer import FeatureWriter, Source
from tests.search.untrained import TEXTS, plant

ASKED = {"query": "a red ball rolls", "by": "moment"}


@pytest.fixture
def own(films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    """A library of a store that a test may change."""
    monkeypatch.setenv("SUPPORTSET_CACHE", str(tmp_path / "cache"))
    shutil.copytree(films / "features", tmp_path / "features")
    return Library.of_features("films", tmp_path / "features", device="cpu", videos=films / "videos")


@contextmanager
def client_of(library: Library, limits: Limits | None = None) -> Iterator[TestClient]:
    """A client of a server of one library."""
    app = create_app([library], limits=limits)
    with TestClient(app, base_url="http://127.0.0.1:8765", raise_server_exceptions=False) as client:
        yield client


def add_clip(library: Library, clip_id: str) -> None:
    """Extract a clip, as another process does."""
    (features,) = library.searcher.features.sets
    with FeatureWriter(features.path, features.card) as writer:
        values = np.ones((2, features.dim), features.dtype)
        writer.add(clip_id, values, np.array([[0.0, 1.0], [1.0, 2.0]]), source=Source(f"{clip_id}.mp4", 1, 1))


def test_new_clips_are_found_after_a_refresh(own: Library) -> None:
    before = own.searcher
    assert not own.refresh()
    add_clip(own, "clip9")
    assert own.refresh()
    assert not own.refresh()
    assert "clip9" not in before.clip_ids  # a search that runs ends on what it began with
    assert before.search(["a red ball"], 3)[0]
    assert {hit.clip_id for hit in own.searcher.search(["a red ball"], 100, "moment")[0]} == {*TEXTS, "clip9"}
    assert own.searcher.retriever.tower is before.retriever.tower  # type: ignore[attr-defined]  # not loaded again


def test_a_server_notices_new_clips_by_itself(own: Library) -> None:
    with client_of(own, Limits(refresh_seconds=0.05)) as client:
        assert client.get("/api/libraries").json()[0]["clips"] == len(TEXTS)
        add_clip(own, "clip9")
        until = time.monotonic() + 30
        while client.get("/api/libraries").json()[0]["clips"] == len(TEXTS) and time.monotonic() < until:
            time.sleep(0.05)
        assert client.get("/api/libraries").json()[0]["clips"] == len(TEXTS) + 1


def test_a_removed_store_costs_answers_and_not_the_server(own: Library, tmp_path: Path) -> None:
    with client_of(own, Limits(refresh_seconds=0.05)) as client:
        (tmp_path / "features").rename(tmp_path / "away")
        time.sleep(0.3)
        with pytest.raises(SupportsetError):
            own.refresh()
        answer = client.post("/api/search", json=ASKED)
        assert answer.status_code in (200, 500)
        assert client.get("/api/libraries").json()[0]["ready"]
        (tmp_path / "away").rename(tmp_path / "features")
        assert client.post("/api/search", json=ASKED).status_code == 200


def test_damaged_features_cost_answers_and_not_the_server(own: Library, tmp_path: Path) -> None:
    for folder in (tmp_path / "features" / "films" / "features").iterdir():
        values = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
        content = bytearray(values.read_bytes())
        content[::7] = bytes(len(content[::7]))
        values.write_bytes(content)
    with client_of(own) as client:
        statuses = {client.post("/api/search", json=ASKED | {"k": 100}).status_code for _ in range(2)}
        assert statuses <= {200, 500}
        assert client.get("/api/status").status_code == 200
    with pytest.raises(SupportsetError):  # what no check has read before
        Library.of_features("films", tmp_path / "features", device="cpu")


def test_an_error_of_the_store_tells_no_folder(own: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise SupportsetError(f"{tmp_path}/features/films: damaged")

    monkeypatch.setattr(own.searcher, "search", fail)
    with client_of(own) as client:
        answer = client.post("/api/search", json=ASKED)
        assert answer.status_code == 500
        assert str(tmp_path) not in answer.text
        assert list(answer.json()) == ["error"]


def test_an_unforeseen_error_is_one_line(own: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own.searcher, "search", lambda *_, **__: 1 / 0)
    with client_of(own) as client:
        answer = client.post("/api/search", json=ASKED)
        assert (answer.status_code, answer.json()) == (500, {"error": "the server failed: its log has the reason"})
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert client.get("/api/status").status_code == 200


def test_a_library_may_wait_for_its_first_features(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUPPORTSET_CACHE", str(tmp_path / "cache"))
    library = Library.of_features("films", tmp_path / "features", device="cpu", wait=True)
    with pytest.raises(NotReady, match="nothing to search yet"):
        _ = library.searcher
    with client_of(library) as client:
        assert client.get("/api/libraries").json()[0]["ready"] is False
        refused = client.post("/api/search", json=ASKED)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        plant(tmp_path / "features", f"hf:{films / 'tiny'}")
        assert library.refresh()
        assert client.post("/api/search", json=ASKED).status_code == 200
    with pytest.raises(UsageError):
        Library.of_features("films", tmp_path / "nothing", device="cpu")


def test_more_calls_than_may_wait_are_refused_and_late_ones_given_up() -> None:
    async def ask() -> None:
        work, held = Work(Limits(running=1, waiting=1, seconds=0.3)), threading.Event()
        slow = [asyncio.create_task(work.run(held.wait)) for _ in range(2)]
        await asyncio.sleep(0.05)
        with pytest.raises(Busy, match="busy"):
            await work.run(int)
        for task in slow:
            with pytest.raises(Busy, match=r"within 0\.3 s"):
                await task
        held.set()
        await asyncio.sleep(0.1)
        assert await work.run(int) == 0
        work.close()
        with pytest.raises(Busy):
            await work.run(int)

    asyncio.run(ask())


def test_a_slow_search_does_not_block_files(own: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    held = threading.Event()
    monkeypatch.setattr(own.searcher, "search", lambda *_, **__: held.wait(30) and [[]])
    with client_of(own, Limits(running=2)) as client:
        slow = threading.Thread(target=client.post, args=("/api/search",), kwargs={"json": ASKED})
        slow.start()
        assert client.get("/media/films/video/clip0").status_code == 200
        assert slow.is_alive()
        held.set()
        slow.join()


def test_uploads_do_not_block_searches(own: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    held = threading.Event()
    monkeypatch.setattr(Media, "look_at_upload", lambda *_: held.wait(30) and ("image", b""))
    with client_of(own) as client:
        uploads = [
            threading.Thread(target=client.post, args=("/api/uploads",), kwargs={"files": {"file": b"x"}})
            for _ in range(Limits().running + 1)
        ]
        for each in uploads:
            each.start()
        time.sleep(0.3)
        assert client.post("/api/search", json=ASKED).status_code == 200
        assert all(each.is_alive() for each in uploads)
        held.set()
        for each in uploads:
            each.join()


def test_searches_at_once_give_what_they_give_alone(own: Library) -> None:
    texts = [
        "a red ball rolls",
        "two green squares",
        "it falls",
        "a much longer sentence about yellow rings",
    ]
    with client_of(own, Limits(rate=1e9, burst=1e9)) as client, ThreadPoolExecutor(8) as threads:

        def ask(text: str) -> list[tuple[str, float]]:
            hits = client.post("/api/search", json={"query": text, "by": "clip"}).json()["hits"]
            return [(hit["clip_id"], round(hit["score"], 5)) for hit in hits]

        alone = [ask(text) for text in texts]
        assert list(threads.map(ask, texts * 8)) == alone * 8


def test_a_weak_token_is_refused(own: Library) -> None:
    for token in ("", "short", "with a blank", "naïve-token"):
        with pytest.raises(UsageError, match="token"):
            create_app([own], token=token)
    with pytest.raises(UsageError, match="different names"):
        create_app([own, own])


def test_links_of_the_store_folder_are_followed(own: Library, films: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(films / "videos")
    own.videos = tmp_path / "linked"
    assert own.video_file("clip0") == (films / "videos" / "clip0.mp4").resolve()
    own.videos = tmp_path / "none"
    with pytest.raises(UsageError, match="not there any more"):
        own.video_file("clip0")
