"""The files of clips over HTTP: videos, pictures, previews of uploads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, Response

from supportset.search.playback.process import MediaError
from supportset.search.server.depends import ERRORS, Ask, Run, Seconds
from supportset.store.files import hash_parts

_LOOK_SECONDS = 0.5  # between two looks whether a waiting client is still there
_MANY_PARTS = 1_000_000
_JPEG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/jpeg": {}}}}
_BYTES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"video/mp4": {}, "video/webm": {}, "image/*": {}}},
    206: {"description": "A range of bytes.", "content": {"video/mp4": {}, "video/webm": {}, "image/*": {}}},
    416: {"description": "The range lies behind the end.", "content": {"text/plain": {}}},
    502: {"description": "The file cannot be converted; the next request tries again."},
    507: {"description": "The disk of converted videos is full."},
}
files = APIRouter(prefix="/media", responses=ERRORS, tags=["files"])


@files.head("/{library}/video/{clip_id:path}", include_in_schema=False)
@files.get(
    "/{library}/video/{clip_id:path}",
    summary="The file of a clip",
    response_class=Response,
    responses=_BYTES,
)
async def video(
    request: Request,
    library: str,
    clip_id: str,
    service: Ask,
    work: Run,
    part: Annotated[int | None, Query(ge=0, le=_MANY_PARTS, description="Of a long video that is converted.")] = None,
) -> Response:
    """Send the video or image of a clip, converted where browsers cannot show it. It takes ranges of bytes."""
    media = service.media
    file = await work.run(service.library(library).video_file, clip_id)
    facts = await work.run(media.facts, file)
    wanted, shown = media.conversion(facts, part), file
    if wanted is not None:
        try:
            shown = await _patiently(request, *await work.run(media.begin, file, wanted))
        except MediaError as error:
            if wanted.job == "copy" and error.kind in ("failed", "died", "timeout", "memory"):
                await work.run(media.cannot_copy, file)
            raise
    try:
        found = await work.run(shown.stat)
    except OSError:
        raise MediaError("the file is not there any more", "missing") from None
    return FileResponse(
        shown, media_type=media.media_type(facts), stat_result=found, headers={"cache-control": "private, no-cache"}
    )


async def _patiently(request: Request, future: Future[Path], leave: Callable[[], None]) -> Path:
    """Wait for a conversion, as long as the client does."""
    waited = asyncio.wrap_future(future)
    try:
        while not (await asyncio.wait({waited}, timeout=_LOOK_SECONDS))[0]:
            if await request.is_disconnected():
                raise MediaError("the client does not wait any more", "killed")
        return waited.result()
    finally:
        leave()
        if waited.done() and not waited.cancelled():
            waited.exception()  # looked at, whether or not it is raised


@files.head("/{library}/thumbnail/{clip_id:path}", include_in_schema=False)
@files.get(
    "/{library}/thumbnail/{clip_id:path}",
    summary="A picture of a clip",
    response_class=Response,
    responses=_JPEG,
)
async def thumbnail(
    request: Request, library: str, clip_id: str, service: Ask, work: Run, at: Seconds = 0.0
) -> Response:
    """Send the picture nearest to a second of the clip."""
    return _picture(request, await work.run(service.thumbnail, library, clip_id, at))


@files.get("/uploads/{upload}", summary="A picture of an upload", response_class=Response, responses=_JPEG)
async def preview(request: Request, upload: str, service: Ask) -> Response:
    """Send a small picture of an uploaded file."""
    return _picture(request, service.uploads.get(upload).preview)


def _picture(request: Request, content: bytes) -> Response:
    etag = f'"{hash_parts([content])}"'
    headers = {"etag": etag, "cache-control": "private, max-age=3600"}
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(content, media_type="image/jpeg", headers=headers)
