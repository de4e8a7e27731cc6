"""The REST interface."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import FileResponse, Response

from supportset.search.server.answers import (
    ClipAnswer,
    CurveAnswer,
    ErrorAnswer,
    LibraryAnswer,
    Playback,
    SearchAnswer,
    SearchRequest,
    StatusAnswer,
)
from supportset.search.server.service import Service, read_query
from supportset.search.server.work import Work
from supportset.store.files import hash_parts

_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorAnswer, "description": "The request cannot be answered as it is."},
    404: {"model": ErrorAnswer, "description": "No such library, clip or file."},
    422: {"model": ErrorAnswer, "description": "A value is missing, or of the wrong type."},
    429: {"model": ErrorAnswer, "description": "Too many requests of this client."},
    503: {"model": ErrorAnswer, "description": "The server is busy, or has nothing to search yet."},
}
api = APIRouter(prefix="/api", responses=_ERRORS)
files = APIRouter(prefix="/media", responses=_ERRORS)


def service_of(request: Request) -> Service:
    """The service of the application."""
    service: Service = request.app.state.service
    return service


def work_of(request: Request) -> Work:
    """The threads of the application."""
    work: Work = request.app.state.work
    return work


Ask = Annotated[Service, Depends(service_of)]
Run = Annotated[Work, Depends(work_of)]
Seconds = Annotated[float, Query(ge=0, le=1e7, allow_inf_nan=False)]


@api.get("/libraries", summary="What can be searched")
async def libraries(service: Ask, work: Run) -> list[LibraryAnswer]:
    """List the libraries of this server."""
    return await work.run(service.libraries)


@api.get("/status", summary="What the server does")
async def status(service: Ask, work: Run) -> StatusAnswer:
    """Libraries, and the progress and failures of a running extraction."""
    return await work.run(service.status)


@api.post("/search", summary="Search by text, moments of clips and uploads")
async def search(request: SearchRequest, service: Ask, work: Run) -> SearchAnswer:
    """Find videos or clips, the best first, and the moments in them that fit."""
    return await work.run(service.search, read_query(request.query), request)


@api.get("/libraries/{library}/clips/{clip_id:path}", summary="One clip")
async def clip(library: str, clip_id: str, service: Ask, work: Run) -> ClipAnswer:
    """What the dataset's tables say of a clip, and how it is played."""
    return await work.run(service.clip, library, clip_id)


@api.get("/libraries/{library}/curve/{clip_id:path}", summary="Scores over time")
async def curve(
    library: str, clip_id: str, query: Annotated[str, Query(min_length=1, max_length=2000)], service: Ask, work: Run
) -> CurveAnswer:
    """Score each part of a clip."""
    return await work.run(service.curve, library, clip_id, read_query(query))


@api.get("/libraries/{library}/playback/{clip_id:path}", summary="How a clip is played")
async def playback(library: str, clip_id: str, service: Ask, work: Run, at: Seconds = 0.0) -> Playback | None:
    """Say which address plays the file of a clip at a second of the file; null: there is no file."""
    return await work.run(service.playback, library, clip_id, at)


@files.get("/{library}/video/{clip_id:path}", summary="The file of a clip", response_class=FileResponse)
async def video(library: str, clip_id: str, service: Ask, work: Run) -> FileResponse:
    """Send the video or image of a clip; it takes ranges of bytes."""
    file = await work.run(service.library(library).video_file, clip_id)
    return FileResponse(file)


@files.get(
    "/{library}/thumbnail/{clip_id:path}",
    summary="A picture of a clip",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}}},
)
async def thumbnail(
    request: Request, library: str, clip_id: str, service: Ask, work: Run, at: Seconds = 0.0
) -> Response:
    """Send the picture nearest to a second of the clip."""
    picture = await work.run(service.thumbnail, library, clip_id, at)
    etag = f'"{hash_parts([picture])}"'
    headers = {"etag": etag, "cache-control": "private, max-age=3600"}
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(picture, media_type="image/jpeg", headers=headers)
