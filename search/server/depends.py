"""What the handlers of requests take, and the errors that all of them may answer with."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Query, Request

from supportset.search.server.answers import ErrorAnswer
from supportset.search.server.service import Service
from supportset.search.server.work import Work


def _error(description: str) -> dict[str, Any]:
    return {"model": ErrorAnswer, "description": description}


ERRORS: dict[int | str, dict[str, Any]] = {
    400: _error("The request cannot be answered as it is."),
    401: _error("The token is missing or wrong."),
    403: _error("The request comes from a page of another site."),
    404: _error("No such library, clip or file."),
    413: _error("The body is too large."),
    421: _error("The name of the host is not one of this server."),
    422: _error("A value is missing, or of the wrong type."),
    429: _error("Too many requests of this client."),
    500: _error("The store cannot be read."),
    503: _error("The server is busy, or has nothing to search yet."),
}


def service_of(request: Request) -> Service:
    """The service of the application."""
    service: Service = request.app.state.service
    return service


def work_of(request: Request) -> Work:
    """The threads of the application."""
    work: Work = request.app.state.work
    return work


def uploading_of(request: Request) -> Work:
    """The thread of uploads."""
    work: Work = request.app.state.uploading
    return work


Ask = Annotated[Service, Depends(service_of)]
Run = Annotated[Work, Depends(work_of)]
RunUpload = Annotated[Work, Depends(uploading_of)]
Seconds = Annotated[float, Query(ge=0, le=1e7, allow_inf_nan=False)]
