"""REST: the same answers as from Python, and errors of one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from supportset.search.library import Library
from supportset.search.query import Query, Term
from tests.search.untrained import TEXTS


def test_a_search_finds_what_the_searcher_finds(client: TestClient, library: Library, films: Path) -> None:
    answer = client.post("/api/search", json={"query": "a red ball rolls", "k": 3, "by": "clip"}).json()
    expected = library.searcher.search(["a red ball rolls"], 3)[0]
    assert [(hit["clip_id"], hit["score"]) for hit in answer["hits"]] == [(hit.clip_id, hit.score) for hit in expected]
    assert answer["library"] == "films"
    played = answer["hits"][0]["playback"]
    content = client.get(played["url"])
    assert content.headers["content-type"] == "video/mp4" == played["media_type"]
    assert content.content == (films / "videos" / answer["hits"][0]["path"]).read_bytes()


def test_a_part_of_a_file_is_sent(client: TestClient, films: Path) -> None:
    whole = (films / "videos" / "clip0.mp4").read_bytes()
    part = client.get("/media/films/video/clip0", headers={"range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(whole)}"
    assert client.get("/media/films/video/clip0", headers={"range": "bytes=99999999-"}).status_code == 416


def test_libraries_are_listed(client: TestClient) -> None:
    (listed,) = client.get("/api/libraries").json()
    assert (listed["name"], listed["clips"], listed["ready"]) == ("films", len(TEXTS), True)
    assert listed["retriever"]["retriever"] == "zero-shot"


def test_errors_are_one_line(client: TestClient) -> None:
    cases = {
        "/media/films/video/none": 404,
        "/media/other/video/clip0": 404,
        "/api/libraries/films/clips/none": 404,
        "/nothing": 404,
    }
    for path, status in cases.items():
        answer = client.get(path)
        assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert "there are films" in client.get("/media/other/video/clip0").json()["error"]
    blank = client.post("/api/search", json={"query": "  "})
    assert (blank.status_code, blank.json()["error"]) == (400, "the query '  ' is blank: describe a clip")
    wrong = client.post("/api/search", json={"query": "a", "k": 0})
    assert wrong.status_code == 422
    assert "k" in wrong.json()["error"]


def test_an_upload_is_a_term_of_queries(client: TestClient, library: Library, films: Path) -> None:
    film = (films / "videos" / "clip1.mp4").read_bytes()
    sent = client.post("/api/uploads", files={"file": ("x.txt", film)}).json()
    assert sent["kind"] == "video"
    assert client.get(sent["preview"]).content[:2] == b"\xff\xd8"
    terms = {"terms": [{"kind": "upload", "value": sent["id"]}, {"value": "a red ball", "weight": 0.5}]}
    answer = client.post("/api/search", json={"query": terms, "k": 3, "by": "clip"}).json()
    query = Query((Term("video", str(films / "videos" / "clip1.mp4")), Term("text", "a red ball", 0.5)))
    expected = library.searcher.search([query], 3)[0]
    assert [(hit["clip_id"], hit["score"]) for hit in answer["hits"]] == [
        (hit.clip_id, pytest.approx(hit.score, abs=1e-6)) for hit in expected
    ]
    at_once = client.post(
        "/api/search/file", files={"file": film}, data={"k": 3, "by": "clip", "text": '0.5*"a red ball"'}
    )
    assert [hit["clip_id"] for hit in at_once.json()["hits"]] == [hit["clip_id"] for hit in answer["hits"]]
