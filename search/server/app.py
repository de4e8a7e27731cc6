"""The application: REST, the files of clips, and what guards them."""

from __future__ import annotations

import asyncio
import logging
import re
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from supportset import __version__
from supportset.search.library import Library, NotFound, NotReady
from supportset.search.playback.process import MediaError
from supportset.search.server.files import files
from supportset.search.server.guard import Guard, refusal
from supportset.search.server.limits import Limits
from supportset.search.server.media import Media
from supportset.search.server.rest import api
from supportset.search.server.service import Service
from supportset.search.server.uploads import Uploads
from supportset.search.server.work import Busy, Work
from supportset.store.errors import SupportsetError, UsageError
from supportset.store.user_cache import cache_folder

_ABSOLUTE = re.compile(r"(?<![\w.:/])/(?:[^\s/:;,'\"()]+/)+([^\s/:;,'\"()]*)")
_TOKEN = re.compile(r"[A-Za-z0-9._~-]{8,}")
_STATUS_OF = {"missing": 404, "busy": 503, "killed": 503, "full": 507}  # of a `MediaError`; else 502
_log = logging.getLogger(__name__)


def create_app(
    libraries: Sequence[Library],
    *,
    token: str | None = None,
    limits: Limits | None = None,
    status: Callable[[], Mapping[str, Any]] | None = None,
) -> FastAPI:
    """Make the application of some libraries.

    Parameters
    ----------
    libraries : sequence of Library
        At least one, with different names; the first is searched where none is named.
    token : str, optional
        What every request must show. None: only requests to a name of this machine (127.0.0.1, localhost) are answered.
    limits : Limits, optional
    status : callable, optional
        The state of a running extraction, for ``/api/status``.

    Returns
    -------
    FastAPI
        Its ``state`` has ``service``, ``work`` and ``uploading``.

    Raises
    ------
    UsageError
        No library, or two of one name.
    """
    names = [library.name for library in libraries]
    if not names or len(set(names)) < len(names):
        raise UsageError(f"libraries need different names, at least one: {', '.join(names) or 'there is none'}")
    limits = limits or Limits()

    if token is not None and not _TOKEN.fullmatch(token):
        raise UsageError("the token is too weak: give at least 8 characters, of A-Z a-z 0-9 . _ ~ -")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        looking = asyncio.create_task(_keep_fresh(libraries, limits.refresh_seconds))
        yield
        looking.cancel()
        app.state.work.close()
        app.state.uploading.close()
        app.state.service.media.close()

    app = FastAPI(
        title="supportset",
        version=__version__,
        description="Search the moments of videos by text, images and examples.",
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = Service(libraries, Media(limits), Uploads(), status)
    app.state.work = Work(limits)
    # One after the other, as they share the encoder; searches do not wait for them
    app.state.uploading = Work(replace(limits, running=1, waiting=limits.waiting // 4))
    app.include_router(api)
    app.include_router(files)
    app.add_exception_handler(SupportsetError, _failed)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_middleware(Guard, limits=limits, token=token)
    return app


async def _keep_fresh(libraries: Sequence[Library], seconds: float) -> None:
    """Look now and then whether a store has changed; say it once where one cannot be opened any more."""
    said: dict[str, str] = {}
    while True:
        await asyncio.sleep(seconds)
        for library in libraries:
            try:
                await asyncio.to_thread(library.refresh)
            except Exception as error:  # whatever a damaged store raises: what is open stays in use
                if library.ready and said.get(library.name) != str(error):
                    _log.warning("%s: the store cannot be opened again: %s", library.name, error)
                said[library.name] = str(error)
            else:
                said.pop(library.name, None)


def without_paths(message: str) -> str:
    """A message in which only the last part of an absolute path is left: a client need not know where things lie."""
    for folder in (str(cache_folder()), tempfile.gettempdir(), str(Path.cwd()), str(Path.home())):
        message = message.replace(f"{folder}/", "") if len(folder) > 1 else message
    return _ABSOLUTE.sub(r"\1", message)


async def _failed(request: Request, error: Exception) -> Response:
    match error:
        case NotFound():
            return refusal(404, str(error))
        case Busy() | NotReady():
            return refusal(503, str(error), {"retry-after": str(getattr(error, "after_s", 5))})
        case MediaError():
            headers = {"retry-after": "5"} if error.kind in ("busy", "killed") else None
            return refusal(_STATUS_OF.get(error.kind, 502), f"the file cannot be shown: {error}", headers)
        case UsageError():
            return refusal(400, without_paths(str(error)))
    _log.error("%s %s: %s", request.method, request.url.path, error)
    return refusal(500, "the features of this library cannot be read: the server's log has the reason")


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = "there is nothing at this address" if error.status_code == 404 else str(error.detail)
    return refusal(error.status_code, said, error.headers)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(each) for each in first["loc"][1:])
    return refusal(422, f"{where}: {first['msg']}" if where else str(first["msg"]))
