"""The pages as they are sent: without scripts of their own, complete without JavaScript, foreign texts as texts."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from urllib.parse import parse_qsl, quote, urlsplit

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from supportset.search.page import pages
from supportset.search.page.asked import Asked, read_asked
from supportset.search.page.routes import add_page
from supportset.search.server.app import create_app
from tests.search.page.conftest import World

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=alert(1)> & \"quoted\" '{{ 7 * 7 }}'"
ALL = 7  # files of the library
VOID = {"meta", "link", "img", "input", "path", "circle", "rect", "line"}


class Read(HTMLParser):
    """Elements of a page, which must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID and tag != "option":
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag != "option":
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def read(client: TestClient, address: str, status: int = 200) -> Read:
    answer = client.get(address)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "text/html; charset=utf-8"), answer.text
    return Read(answer.text)


ADDRESSES = [
    "/",
    "/?q=a+red+ball",
    f"/?q={quote(HOSTILE)}&without={quote(HOSTILE)}",
    "/?q=ball&by=clip&like=1*film-01@2-4",
    "/?q=ball&f:name=film-02.mp4",
    "/?q=ball&f:name=nothing",
    "/video/films/film-01",
    f"/video/films/film-01?q={quote(HOSTILE)}",
    "/status",
    "/results?q=ball",
    "/status/live",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_pages_have_no_inline_script_or_style_and_load_only_their_own(client: TestClient, address: str) -> None:
    page = read(client, address)
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], (tag, attributes)
        for name in ("src", "href", "action", "hx-get", "hx-post"):
            assert (attributes.get(name) or "/").startswith(("/", "#")), (tag, attributes)
            assert not (attributes.get(name) or "").startswith("//")
    assert "style" not in dict(page.tags)
    assert all(script["src"] for script in page.all("script"))
    assert "49" not in page.texts, "a text was taken for a template"


@pytest.mark.parametrize("address", ADDRESSES)
def test_everything_has_a_name(client: TestClient, address: str) -> None:
    page = read(client, address)
    assert all("alt" in image for image in page.all("img"))
    labelled = {label.get("for") for label in page.all("label")}
    fields = [field for field in [*page.all("input"), *page.all("select")] if field.get("type") != "hidden"]
    for field in fields:
        named = field.get("id") in labelled or field.get("aria-label") or field.get("type") in ("radio", "file")
        assert named, f"no label: {field}"
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    if "html" in dict(page.tags):
        assert page.all("html") == [{"lang": "en"}]
        assert len(page.all("h1")) == 1
        assert len(page.all("main")) == 1


def test_a_search_is_answered_without_javascript(client: TestClient, world: World) -> None:
    page = read(client, "/?lib=films&q=a+red+ball&without=&f%3Aname=")
    frames = [link for link in page.all("a") if link.get("class") == "frame"]
    assert len(frames) == len(world.shown)
    address = urlsplit(str(frames[0]["href"]))
    assert address.path.startswith("/video/films/film-")
    asked = dict(parse_qsl(address.query))
    assert asked["q"] == "a red ball"
    video = read(client, str(frames[0]["href"])).all("video")[0]
    assert str(video["src"]).endswith(f"#t={float(asked['t'])}" if "t" in asked else "#t=0.0")
    fields = {field.get("name"): field.get("value") for field in page.all("input")}
    assert (fields["q"], fields["lib"]) == ("a red ball", "films")


def test_filters_are_applied_shown_and_removable(client: TestClient) -> None:
    page = read(client, "/?q=ball&f:name=film-02.mp4")
    assert [link["title"] for link in page.all("a") if "title" in link] == ["film-02.mp4"]
    assert "File name contains film-02.mp4" in page.texts
    drop = next(button for button in page.all("button") if str(button.get("value")).startswith("drop-filter"))
    assert drop["value"] == "drop-filter name"
    assert {field.get("name"): field.get("value") for field in page.all("input")}["f:name"] == "film-02.mp4"
    chosen = read(client, "/?q=ball&f:place=meadow")
    assert "Place: meadow" in chosen.texts
    assert sum("selected" in option for option in chosen.all("option")) == 1
    after = client.get("/results", params={"q": "ball", "f:name": "film-02.mp4", "do": "drop-filter name"})
    assert after.headers["hx-push-url"] == "/?q=ball"
    nothing = read(client, "/?q=ball&f:name=none.mp4")
    assert "Nothing passes these filters." in nothing.texts


def test_a_video_shows_the_columns_of_its_captions_file(client: TestClient) -> None:
    told = client.get("/api/libraries/films/clips/film-01").json()["columns"]
    assert set(told) == {"place"}
    assert len(told["place"]) == len(set(told["place"])) > 0
    texts = read(client, "/video/films/film-01").texts
    assert texts[texts.index("Place") :][:3].count(", ".join(told["place"])) == 1


def test_an_example_is_part_of_the_query_and_not_of_its_hits(client: TestClient) -> None:
    page = read(client, "/?like=1*film-01@2.00-6.00")
    found = [str(link["title"]) for link in page.all("a") if "title" in link]
    assert "film-01.mp4" not in found
    assert len(found) == ALL - 1
    assert "like film-01 0:02\N{EN DASH}0:06" in page.texts
    flipped = client.get("/results", params={"q": "ball", "like": "1*film-01", "do": "flip 0"})
    assert flipped.headers["hx-push-url"] == "/?q=ball&like=-1*film-01"
    assert "unlike film-01" in Read(flipped.text).texts


@pytest.mark.parametrize(
    ("address", "status", "words"),
    [
        ("/?lib=nowhere&q=ball", 404, "No library 'nowhere'"),
        ("/?without=people", 400, "The query only says what not to find"),
        ("/?q=image:/etc/passwd", 400, "file"),
        ("/?q=ball&like=1*absent", 404, "no clip 'absent'"),
        ("/?q=ball&file=1*absent", 404, "upload"),
        ("/?q=ball&f:nothing:min=3", 400, "no column 'nothing'"),
        ("/?q=ball&f:date:min=yesterday", 400, "no date"),
        ("/?k=0&q=ball", 400, "k=0"),
        (f"/?q={'%2B'.join(['%22a%22'] * 21)}", 400, "21 terms"),
        ("/video/films/absent", 404, "no clip 'absent'"),
        ("/video/films/absent", 404, "Nothing is here"),
        ("/video/nowhere/film-01", 404, "No library 'nowhere'"),
        ("/results?lib=nowhere&q=ball", 404, "No library 'nowhere'"),
    ],
)
def test_errors_are_said_in_words(client: TestClient, address: str, status: int, words: str) -> None:
    page = read(client, address, status)
    assert any(words.lower() in text.lower() for text in page.texts), page.texts


def test_what_scores_below_the_cut_off_is_behind_a_disclosure(app: FastAPI, client: TestClient) -> None:
    service = app.state.service
    answer = service.search(read_asked([("q", "ball")]).query(), pages.SearchOptions())
    for fits, notice in ((0, True), (2, False), (ALL, False)):
        hits = [
            hit.model_copy(update={"fits": number < fits, "cutoff": 0.25}) for number, hit in enumerate(answer.hits)
        ]
        with pytest.MonkeyPatch.context() as patch:
            told = answer.model_copy(update={"hits": hits, "nothing_fits": not fits})
            patch.setattr(service, "search", lambda query, options, told=told: told)
            page = read(client, "/?q=ball")
        grids = [each.get("aria-label") for each in page.all("ol")]
        assert grids == [
            name for name, shown in (("Results", fits), ("Results below the cut-off", fits < ALL)) if shown
        ]
        assert ("Nothing in this library fits “ball”" in page.texts) is notice
        assert len([each for each in page.all("li") if each.get("class") == "hit below"]) == ALL - fits
        assert page.texts.count(", fits above 0.250") >= ALL
        assert len([each for each in page.all("line") if each.get("class") == "cut"]) >= ALL


def test_a_token_is_asked_for_on_a_page(world: World) -> None:
    app = create_app([world.library()], token="a-secret-word")
    add_page(app)
    client = TestClient(app, base_url="http://127.0.0.1")
    refused = client.get("/?q=ball", headers={"accept": "text/html"})
    assert (refused.status_code, refused.headers["content-type"]) == (401, "text/html; charset=utf-8")
    assert refused.headers["content-security-policy"].startswith("default-src 'self'")
    page = Read(refused.text)
    assert [field["name"] for field in page.all("input")] == ["token"]
    for each in [*(link["href"] for link in page.all("link")), *(script["src"] for script in page.all("script"))]:
        assert client.get(str(each)).status_code == 200
    assert client.get("/static/../api/libraries").status_code in (401, 404)
    assert client.get("/api/libraries", headers={"accept": "text/html"}).json()["error"].startswith("a token")
    assert client.get("/?token=a-secret-word", headers={"accept": "text/html"}).status_code == 200
    nowhere = client.get("/nowhere", headers={"accept": "text/html"})
    assert (nowhere.status_code, "Nothing is here" in Read(nowhere.text).texts) == (404, True)


def test_a_library_without_thumbnails_shows_times_and_no_broken_picture(app: FastAPI, client: TestClient) -> None:
    service = app.state.service
    answer = service.search(read_asked([("q", "ball")]).query(), pages.SearchOptions())
    bare = [
        hit.model_copy(
            update={"thumbnail": None, "moments": [m.model_copy(update={"thumbnail": None}) for m in hit.moments]}
        )
        for hit in answer.hits
    ]
    clip = service.clip("films", "film-01").model_copy(update={"thumbnails": []})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service, "search", lambda *_: answer.model_copy(update={"hits": bare}))
        patch.setattr(service, "clip", lambda *_: clip)
        page = read(client, "/?q=ball")
    assert not [image for image in page.all("img") if "thumbnail" in str(image["src"])]
    assert sum(span.get("class") == "none" for span in page.all("span")) == ALL
    assert (
        sum(bool(re.fullmatch("[0-9]+:[0-9]{2}\N{EN DASH}[0-9]+:[0-9]{2}", text)) for text in page.texts) >= ALL - 1
    ), "all but the picture"


def test_foreign_names_stay_texts(app: FastAPI, client: TestClient) -> None:
    service = app.state.service
    clip = service.clip("films", "film-01").model_copy(
        update={"path": f"{HOSTILE}/{HOSTILE}.mp4", "captions": [HOSTILE], "columns": {HOSTILE: HOSTILE}}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service, "clip", lambda *_: clip)
        page = read(client, "/video/films/film-01?q=ball")
    assert sum(HOSTILE in text for text in page.texts) >= 3
    assert len(page.all("script")) == 2
    assert not [image for image in page.all("img") if image["src"] == "x"]


def test_the_status_page_has_progress_and_failures(world: World) -> None:
    state = {
        "dataset": "films",
        "folder": "/home/me/Videos",
        "encoder": "open_clip:tiny",
        "phase": "extracting",
        "message": "",
        "files": 9,
        "clips": 8,
        "done": 5,
        "gone": 1,
        "settling": 2,
        "settling_files": [],
        "rate": 0.5,
        "left_s": 100.0,
        "current": "b.mkv",
        "failures": [{"file": "broken.avi", "status": "unreadable", "message": HOSTILE}],
        "counts": {},
        "error": None,
        "restarts": 0,
        "watching": "",
        "log": [],
        "features": None,
    }
    app = create_app([world.library()], status=lambda: state)
    add_page(app)
    client = TestClient(app, base_url="http://127.0.0.1")
    page = read(client, "/status")
    assert page.all("progress")[0] == {"max": "8", "value": "5", "aria-label": "5 of 8 clips"}
    for text in ("5 of 8", "30.0 clips/min", "2 min", "broken.avi", HOSTILE, "now b.mkv", "extracting"):
        assert text in page.texts, text
    live = next(div for div in page.all("div") if div.get("id") == "live")
    assert (live["hx-get"], live["hx-trigger"]) == ("/status/live", "every 2s")
    start = read(client, "/")
    assert "Extracting: 5 of 8 clips, 2 min left" in start.texts
    polled = next(div for div in start.all("div") if div.get("class") == "news")
    assert (polled["hx-get"], polled["hx-trigger"]) == (f"/status/line?found={ALL}", "every 3s")
    assert [link["class"] for link in read(client, str(polled["hx-get"])).all("a")] == ["now"]
    assert f"Show the {ALL} that can be searched" in read(client, "/status/line?found=0").texts
    assert "Show what is new" in read(client, "/status/line?found=3").texts
    state |= {"phase": "idle"}
    assert read(client, str(polled["hx-get"])).all("a") == []
    state |= {"phase": "waiting", "message": "the disk is not mounted", "rate": None, "left_s": None, "failures": []}
    assert "The disk is not mounted".lower() in " ".join(read(client, "/status/live").texts).lower()


def test_words_of_the_query() -> None:
    asked = read_asked([("q", "beach"), ("like", "1*a"), ("like", "-1*b")])
    assert asked.words == "for “beach” and like the example"
    assert replace(asked, text="").words == "like the example"
    assert Asked(without="x").words == "for this query"


def test_files_of_the_page_can_be_kept_by_browsers(client: TestClient) -> None:
    page = read(client, "/")
    for address in [
        *(str(each["src"]) for each in page.all("script")),
        *(str(each["href"]) for each in page.all("link")),
    ]:
        assert re.fullmatch(r"/static/[\w.-]+\?v=[0-9a-f]{12}", address)
        assert client.get(address).status_code == 200
    assert client.get("/static/../routes.py").status_code == 404
    assert client.get("/static/%2e%2e/routes.py").status_code == 404
