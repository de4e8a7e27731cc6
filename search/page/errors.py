"""Errors as pages: what the server refuses with JSON, a browser shows as words."""

from __future__ import annotations

import json
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_JSON_ONLY = ("/api/", "/media/", "/static/", "/openapi.json")
_HEADS = {
    401: "A token is needed",
    403: "Refused",
    404: "Nothing is here",
    421: "Another address is needed",
    429: "Too many requests",
    503: "The server is busy",
}


class ErrorPages:
    """Middleware around the whole application.

    Parameters
    ----------
    app : ASGI application
    render : callable
        Takes a status, a headline and a line, and returns the page.
    """

    def __init__(self, app: ASGIApp, render: Callable[[int, str, str], str]) -> None:
        self._app, self._render = app, render

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"].startswith(_JSON_ONLY) or not _is_visit(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        start: Message | None = None
        body = b""

        async def send_page(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start" and _is_error(message):
                start = message
            elif start is None:
                await send(message)
            else:
                body += message.get("body", b"")
                if not message.get("more_body"):
                    await self._send(start, body, send)

        await self._app(scope, receive, send_page)

    async def _send(self, start: Message, body: bytes, send: Send) -> None:
        status, line = start["status"], str(json.loads(body).get("error", ""))
        page = self._render(status, _HEADS.get(status, "The server failed"), line[:1].upper() + line[1:]).encode()
        headers = MutableHeaders(raw=start["headers"])
        headers["content-type"], headers["content-length"] = "text/html; charset=utf-8", str(len(page))
        await send(start)
        await send({"type": "http.response.body", "body": page})


def _is_visit(headers: Headers) -> bool:
    """Whether a person opens a page, and no script asks."""
    return "text/html" in headers.get("accept", "") and "hx-request" not in headers


def _is_error(message: Message) -> bool:
    return message["status"] >= 400 and Headers(raw=message["headers"]).get("content-type") == "application/json"
