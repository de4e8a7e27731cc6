"""Who may ask, how much, how often; and that nothing but files of the datasets leaves the server."""

from __future__ import annotations

import asyncio
import io
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from starlette.testclient import TestClient

from supportset.search.library import Library, NotFound
from supportset.search.server.app import create_app, without_paths
from supportset.search.server.limits import Limits, Rate
from supportset.store.format.dataset import write_dataset
from tests.search.server.conftest import Open
from tests.search.untrained import TEXTS

TOKEN = "a-token-of-this-test"
SECRET = b"a secret beside the videos"


def test_without_a_token_only_names_of_this_machine_are_answered(client: TestClient) -> None:
    for host, status in {
        "127.0.0.1:8765": 200, "localhost": 200, "[::1]:8765": 200, "LOCALHOST": 200, "127.0.0.2": 200,
        "evil.example": 421, "127.0.0.1.evil.example": 421, "": 421, "[": 421, "192.168.0.4:8765": 421,
    }.items():  # fmt: skip
        assert client.get("/api/libraries", headers={"host": host}).status_code == status, host


def test_a_token_is_shown_as_bearer_or_cookie(open_client: Open) -> None:
    client = open_client(token=TOKEN)
    refused = client.get("/api/libraries", headers={"host": "my-machine.lan"})
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    for path in ("/", "/openapi.json", "/media/films/video/clip0", "/nothing"):
        assert client.get(path).status_code == 401
    assert client.get("/api/libraries", headers={"authorization": f"Bearer {TOKEN}x"}).status_code == 401
    assert client.get("/api/libraries", headers={"authorization": f"bearer {TOKEN}"}).status_code == 200
    assert client.get("/api/libraries?token=wrong").status_code == 401
    visit = client.get(f"/api/libraries?a=1&token={TOKEN}", follow_redirects=False)
    assert (visit.status_code, visit.headers["location"]) == (303, "/api/libraries?a=1")
    cookie = visit.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert client.get("/api/libraries").status_code == 200  # the client keeps the cookie


def test_a_visit_with_the_token_leads_to_this_server_only(open_client: Open) -> None:
    client = open_client(token=TOKEN)
    visit = client.get(f"http://127.0.0.1:8765//evil.example/?token={TOKEN}", follow_redirects=False)
    assert visit.headers["location"].startswith("/evil.example")


def test_pages_of_other_sites_cannot_send(client: TestClient) -> None:
    asked = {"query": "a red ball"}
    for headers, status in (
        ({"origin": "http://127.0.0.1:8765"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:9"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://[evil"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
    ):
        answer = client.post("/api/search", json=asked, headers=headers)
        assert answer.status_code == status, headers
        assert "access-control-allow-origin" not in answer.headers


def test_every_answer_has_the_headers(open_client: Open) -> None:
    client, closed = open_client(), open_client(token=TOKEN)
    for answer in (client.get("/api/libraries"), client.get("/nothing"), client.get("/media/films/video/clip0"),
                   closed.get("/"), client.get("/api/libraries", headers={"host": "evil.example"})):  # fmt: skip
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["referrer-policy"] == "no-referrer"


def test_bodies_are_bounded(open_client: Open) -> None:
    client = open_client(limits=Limits(body_bytes=1000, upload_bytes=5000))
    long = client.post("/api/search", json={"query": "a" * 2000})
    assert (long.status_code, long.json()["error"]) == (413, "the body is too large: up to 1,000 bytes are taken")

    def unannounced() -> object:
        for _ in range(100):
            yield b"a" * 1000

    assert client.post("/api/search", content=unannounced()).status_code == 413  # type: ignore[arg-type]
    assert client.post("/api/uploads", files={"file": b"a" * 6000}).status_code == 413
    assert client.post("/api/uploads", files={"file": b"a" * 2000}).status_code == 400


def test_a_body_that_does_not_arrive_is_not_waited_for(library: Library) -> None:
    async def send_half() -> tuple[int, dict[str, str], bytes]:
        app = create_app([library], limits=Limits(upload_seconds=0.2))
        return await get(app, "/api/search", "POST", [{"type": "http.request", "body": b"{", "more_body": True}])

    status, _, content = asyncio.run(send_half())
    assert (status, json.loads(content)) == (408, {"error": "the body did not arrive in time"})


def test_uploads_are_judged_by_their_content(client: TestClient, open_client: Open, tmp_path: Path) -> None:
    for content, part in (
        (b"", "cannot be searched by"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "cannot be searched by"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "cannot be searched by"),
        (b"\x89PNG\r\n\x1a\nabc", "cannot be searched by"),
    ):
        answer = client.post("/api/uploads", files={"file": ("photo.png", content, "image/png")})
        assert answer.status_code == 400, content
        assert part in answer.json()["error"]
        assert "/tmp" not in answer.json()["error"]


def test_pictures_of_too_many_pixels_are_refused_before_they_are_decoded(open_client: Open) -> None:
    written = io.BytesIO()
    Image.new("1", (12_000, 10_000)).save(written, "PNG")
    bomb = written.getvalue()
    assert len(bomb) < 20_000
    answer = open_client().post("/api/uploads", files={"file": bomb})
    assert answer.status_code == 400
    assert "12,000 x 10,000 pixels" in answer.json()["error"]


def test_uploads_leave_nothing_behind(
    open_client: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, films: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    client = open_client()
    assert client.post("/api/uploads", files={"file": (films / "videos" / "clip0.mp4").read_bytes()}).status_code == 200
    assert client.post("/api/uploads", files={"file": b"nothing"}).status_code == 400
    assert list((tmp_path / "temporary").iterdir()) == []


def test_queries_name_no_file_of_the_server(client: TestClient, films: Path) -> None:
    path = films / "videos" / "clip0.mp4"
    for query in (f"image:{path}", f'0.5*video:"{path}" + "a"', {"terms": [{"kind": "image", "value": str(path)}]}):
        assert client.post("/api/search", json={"query": query}).status_code in (400, 422)
    unknown = client.post("/api/search", json={"query": {"terms": [{"kind": "upload", "value": str(path)}]}})
    assert unknown.status_code == 404
    curve = client.get("/api/libraries/films/curve/clip0", params={"query": f"image:{path}"})
    assert curve.status_code == 400


def test_a_client_that_asks_too_often_waits(open_client: Open) -> None:
    client = open_client(limits=Limits(rate=0.5, burst=3))
    assert [client.get("/api/libraries").status_code for _ in range(4)] == [200, 200, 200, 429]
    assert client.get("/api/libraries").headers["retry-after"] in ("1", "2")


def test_tokens_of_a_bucket_come_back() -> None:
    rate = Rate(Limits(rate=2.0, burst=2.0))
    assert [rate.wait("a", 1.0, 0.0) for _ in range(3)] == [0.0, 0.0, 0.5]
    assert rate.wait("b", 1.0, 0.0) == 0.0
    assert rate.wait("a", 1.0, 0.5) == 0.0
    assert rate.wait("a", 2.0, 100.0) == 0.0
    assert rate.wait("a", 2.0, 100.0) == 1.0


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("/home/me/features/films/dataset.json: damaged", "dataset.json: damaged"),
        ("the query '/a/b' is blank", "the query 'b' is blank"),
        ("filter 'a/b < 3': write COLUMN", "filter 'a/b < 3': write COLUMN"),
        ("see https://example.org/a/b", "see https://example.org/a/b"),
    ],
)
def test_messages_tell_no_folders(message: str, shown: str) -> None:
    assert without_paths(message) == shown


@pytest.fixture(scope="module")
def hostile(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Library:
    """A library whose tables and folder of videos try to lead to the secret."""
    root = tmp_path_factory.mktemp("hostile")
    os.environ["SUPPORTSET_CACHE"] = str(root / "cache")
    library = Library.of_features("films", films / "features", device="cpu", videos=films / "videos")
    inside = films / "videos"
    for name, target in (("link.mp4", films / "secret.mp4"), ("up", films), ("loop.mp4", inside / "loop.mp4")):
        if not (inside / name).is_symlink():
            (inside / name).symlink_to(target)
    paths = ["../secret.mp4", str(films / "secret.mp4"), "link.mp4", "up/secret.mp4", "loop.mp4", "x/../../secret.mp4",
             "..", ".", "", "up", "clip0.mp4/../../secret.mp4", "clip0\0.mp4"]  # fmt: skip
    rows = [{"clip_id": f"evil{number}", "path": path} for number, path in enumerate(paths)]
    rows += [{"clip_id": "../secret.mp4", "path": None}, {"clip_id": "clip0", "path": "clip0.mp4"}]
    hostile = write_dataset(root, "films", clips=rows, captions=[], splits=[], protocols={}, sources=[])
    opened = library._opened
    assert opened is not None
    opened.searcher.dataset = hostile
    opened.__dict__.pop("rows", None)
    return library


def test_no_row_of_the_tables_leads_out_of_the_folder(hostile: Library) -> None:
    ids = hostile.searcher.dataset.clips["clip_id"].to_pylist()
    assert hostile.video_file("clip0").name == "clip0.mp4"
    for clip_id in ids[:-1]:
        with pytest.raises(NotFound):
            hostile.video_file(clip_id)


def test_the_folder_that_a_store_names_holds_only_what_was_extracted_from_it(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUPPORTSET_CACHE", str(tmp_path / "cache"))
    library = Library.of_features("films", films / "features", device="cpu")
    opened = library._opened
    assert opened is not None
    opened.searcher.dataset.info["origin"] = {"videos": str(films / "videos")}
    monkeypatch.setattr(library, "row", lambda clip_id: {"path": f"{clip_id}.mp4"})
    found = (films / "videos" / "clip0.mp4").stat()
    for size, mtime in ((None, None), (found.st_size, found.st_mtime_ns + 1), (found.st_size + 1, found.st_mtime_ns)):
        opened.recorded["clip0"] = (size, mtime)
        with pytest.raises(NotFound, match="not the one that was extracted"):
            library.video_file("clip0")
    opened.recorded["clip0"] = (found.st_size, found.st_mtime_ns)
    assert library.video_file("clip0").name == "clip0.mp4"


_ODD = [
    ".",
    "..",
    "%2e%2e",
    "%2E.",
    "..%2f",
    "%5c..",
    "\\",
    "/",
    "//",
    "%00",
    "%c0%ae",
    "%C3%A9",
    "%ff",
    "%E2%80%AE",
    "%",
]
_NAMES = [
    "secret.mp4",
    "clip0",
    "clip0.mp4",
    "videos",
    "films",
    "media",
    "video",
    "thumbnail",
    "uploads",
    "evil0",
    "up",
]
_SEGMENTS = st.sampled_from(
    [*_ODD, *_NAMES, "link.mp4", "etc", "passwd", "file:", "C:", "?part=1", "#", ";", "~", "static"]
)
_PREFIXES = ("/", "/media/films/video/", "/media/films/thumbnail/", "/media/", "/api/libraries/films/clips/",
             "/api/libraries/films/playback/", "/media/uploads/", "/media/films/video/../", "//")  # fmt: skip
_PATHS = st.one_of(
    st.lists(_SEGMENTS, max_size=8).map("/".join),
    st.lists(_SEGMENTS, max_size=8).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30).map(lambda text: quote(text, safe="")),
)


async def get(
    app: Any, target: str, method: str = "GET", body: Sequence[Any] = ({"type": "http.request", "more_body": False},)
) -> tuple[int, dict[str, str], bytes]:
    """Ask for a target exactly as it stands in a request: clients tidy dots and slashes."""
    path, _, query = target.partition("?")
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": method,
        "scheme": "http", "path": unquote(path), "raw_path": path.encode(), "query_string": query.encode(),
        "root_path": "", "headers": [(b"host", b"127.0.0.1:8765")], "client": ("127.0.0.1", 5),
        "server": ("127.0.0.1", 8765),
    }  # fmt: skip
    sent: list[Any] = []
    waiting = [*body]

    async def receive() -> Any:
        if waiting:
            return waiting.pop()
        await asyncio.sleep(60)

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:])


@pytest.mark.slow
@given(prefix=st.sampled_from(_PREFIXES), path=_PATHS)
@settings(max_examples=500, deadline=None, database=None)
@example(prefix="/media/films/video/", path="evil0")
@example(prefix="/media/films/video/", path="..%2fsecret.mp4")
@example(prefix="/media/films/video/", path="%2e%2e/%2e%2e/secret.mp4")
@example(prefix="/media/films/video/", path="../../secret.mp4")
@example(prefix="/media/films/video/", path="clip0%00.mp4")
@example(prefix="/media/films/video/", path="clip0")
def test_no_path_leads_to_the_secret(prefix: str, path: str, app: Any) -> None:
    status, headers, content = asyncio.run(get(app, prefix + path))
    assert SECRET not in content
    assert b"root:" not in content
    assert status in (200, 307, 400, 404, 405, 422), (status, content)
    if status == 200 and headers["content-type"] != "application/json":
        assert content == (app.state.service.library(None).videos / "clip0.mp4").read_bytes()
    elif status >= 400:
        assert list(json.loads(content)) == ["error"]


@pytest.fixture(scope="module")
def app(hostile: Library) -> Iterator[Any]:
    """A server of the hostile library that may be asked any number of times."""
    app = create_app([hostile], limits=Limits(rate=1e9, burst=1e9))
    yield app
    app.state.service.media.close()


def test_the_secret_would_be_seen(films: Path) -> None:
    assert (films / "secret.mp4").read_bytes() == SECRET
    assert len(TEXTS) > 1
