"""The routes of the page: HTML, and the files that it loads."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

from supportset import __version__
from supportset.search.library import NotFound, NotReady
from supportset.search.page import pages, status
from supportset.search.page.asked import LONGEST, Asked, read_asked
from supportset.search.page.errors import ErrorPages
from supportset.search.server.depends import Ask, Run, Seconds
from supportset.search.server.work import Busy
from supportset.store.errors import SupportsetError, UsageError

_HERE = Path(__file__).parent
_router = APIRouter(include_in_schema=False)


def add_page(app: FastAPI) -> None:
    """Add the page to an application that `create_app` made."""
    app.mount("/static", StaticFiles(directory=_HERE / "static"), name="static")
    app.include_router(_router)
    app.add_middleware(ErrorPages, render=_error_page)


@_router.get("/")
async def search_page(request: Request, service: Ask, work: Run) -> HTMLResponse:
    """The query, and its answer if the address has one."""
    return await _answer(request, service, work, "search.html.j2")


@_router.get("/results")
async def results(request: Request, service: Ask, work: Run) -> HTMLResponse:
    """The part of the page that a search replaces."""
    return await _answer(request, service, work, "main.html.j2")


async def _answer(request: Request, service: Ask, work: Run, template: str) -> HTMLResponse:
    asked, code = Asked(), 200
    try:
        asked = read_asked(request.query_params.multi_items())
        content = await work.run(pages.search, service, asked)
    except SupportsetError as error:
        code = _code(error)
        content = await work.run(pages.failed, service, asked, error)
    headers = {"HX-Push-Url": asked.address()} if template == "main.html.j2" else {}
    return _page(template, content | {"here": "search"}, code, headers)


@_router.get("/video/{library}/{clip_id:path}")
async def video_page(
    library: str,
    clip_id: str,
    service: Ask,
    work: Run,
    q: Annotated[str, Query(max_length=LONGEST)] = "",
    t: Seconds = 0.0,
) -> HTMLResponse:
    """One video, with the curve of a query over its time."""
    try:
        content = await work.run(pages.video, service, library, clip_id, q.strip(), t)
    except SupportsetError as error:
        return _page("problem.html.j2", pages.problem(error) | {"status": 0}, _code(error))
    return _page("video.html.j2", content)


@_router.get("/status")
async def status_page(service: Ask, work: Run) -> HTMLResponse:
    """What the server has and does."""
    return _page("status.html.j2", await work.run(status.status, service))


@_router.get("/status/live")
async def status_live(service: Ask, work: Run) -> HTMLResponse:
    """The part of the status page that is asked for again and again."""
    return _page("live.html.j2", await work.run(status.status, service))


@_router.get("/status/line")
async def status_line(service: Ask, work: Run, found: int = 0) -> HTMLResponse:
    """What the first page says of an extraction; ``found`` is how many clips that page knows."""
    return _page("line.html.j2", await work.run(status.line, service) | {"known": found})


def _error_page(status: int, head: str, words: str) -> str:
    content = {"title": head, "here": "", "version": __version__, "static": _static, "status": status}
    return _templates().get_template("problem.html.j2").render(content | {"problem": {"head": head, "words": words}})


def _page(
    template: str, content: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None
) -> HTMLResponse:
    body = _templates().get_template(template).render({"here": "", "version": __version__, "static": _static} | content)
    return HTMLResponse(body, status, {"cache-control": "no-store", "vary": "HX-Request"} | (headers or {}))


@cache
def _templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _static(name: str) -> str:
    """The address of a file that the page loads; another one when the file changes, so that browsers may keep it."""
    content = (_HERE / "static" / name).read_bytes()
    return f"/static/{name}?v={hashlib.sha256(content).hexdigest()[:12]}"


def _code(error: SupportsetError) -> int:
    match error:
        case NotFound():
            return 404
        case Busy() | NotReady():
            return 503
        case UsageError():
            return 400
    return 500
