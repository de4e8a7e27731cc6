"""The REST interface."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, File, Form, Query, UploadFile

from supportset.search.query import Query as SearchQuery
from supportset.search.query import Term
from supportset.search.server.answers import (
    ClipAnswer,
    CurveAnswer,
    FileSearchOptions,
    LibraryAnswer,
    Playback,
    SearchAnswer,
    SearchRequest,
    StatusAnswer,
    UploadAnswer,
)
from supportset.search.server.depends import ERRORS, Ask, Run, RunUpload, Seconds
from supportset.search.server.service import read_query

api = APIRouter(prefix="/api", responses=ERRORS, tags=["search"])


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


@api.post("/uploads", summary="Upload an image or video to search by")
async def upload(
    file: Annotated[UploadFile, File()], service: Ask, work: RunUpload, library: Annotated[str | None, Form()] = None
) -> UploadAnswer:
    """Embed a file. Its id is a term of queries; the file itself is not kept."""
    return await work.run(service.upload, library, file.file)


@api.post("/search/file", summary="Search by an uploaded image or video")
async def search_by_file(
    file: Annotated[UploadFile, File()],
    options: Annotated[FileSearchOptions, Form()],
    service: Ask,
    uploading: RunUpload,
    work: Run,
) -> SearchAnswer:
    """Find what looks like a file, and perhaps fits a text, too."""
    uploaded = await uploading.run(service.upload, options.library, file.file)
    terms = [Term("image", uploaded.id, options.weight)]
    if options.text:
        terms += read_query(options.text).terms
    return await work.run(service.search, SearchQuery(tuple(terms)), options)


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
