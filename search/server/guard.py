"""What stands before every request: who may ask, how much, how often; and the headers of every answer."""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import time
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from urllib.parse import parse_qsl, urlencode, urlsplit

from fastapi.exceptions import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from supportset.search.server.limits import CHEAP, COSTLY, USUAL, Limits, Rate

COOKIE = "supportset-token"  # and the port: servers on other ports have other tokens
UPLOADS = {"/api/uploads", "/api/search/file"}
_SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
HEADERS = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; object-src 'none'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_log = logging.getLogger(__name__)


class Guard:
    """Middleware. Without a token only this machine may ask, under a name of this machine.

    Parameters
    ----------
    app : ASGI application
    limits : Limits
    token : str, optional
        What a request must show: as a bearer token, or as the cookie that a visit with ``?token=`` sets.
    """

    def __init__(self, app: ASGIApp, limits: Limits, token: str | None) -> None:
        self._app, self._limits, self._token, self._rate = app, limits, token, Rate(limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return  # no web sockets
        begun = False

        async def send_guarded(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            if (refused := self._refuse(scope)) is not None:
                await refused(scope, receive, send_guarded)
            else:
                await self._app(scope, self._bounded(scope, receive), send_guarded)
        except asyncio.CancelledError:  # the server stops
            if not begun:
                await refusal(503, "the server stops")(scope, receive, send_guarded)
        except Exception as error:
            if begun:  # the client is gone, or the file was cut while it was sent: what raises closes the connection
                _log.info("%s %s: ended early: %s", scope["method"], scope["path"], error)
                raise
            if not isinstance(error, OSError):
                _log.exception("%s %s", scope["method"], scope["path"])
                await refusal(500, "the server failed: its log has the reason")(scope, receive, send_guarded)
                return
            _log.error("%s %s: %s", scope["method"], scope["path"], error)
            await refusal(500, "the server cannot read or write a file")(scope, receive, send_guarded)

    def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        """Receive a body up to its bounds of size and time."""
        most = self._limits.upload_bytes if _is_upload(scope) else self._limits.body_bytes
        until = time.monotonic() + self._limits.upload_seconds
        got, whole = 0, False

        async def bounded() -> Message:
            nonlocal got, whole
            if whole:  # what comes is the news that the client is gone
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, until - time.monotonic()))
            except TimeoutError:
                raise HTTPException(408, "the body did not arrive in time") from None
            if message["type"] == "http.request":
                got += len(message.get("body", b""))
                whole = not message.get("more_body", False)
                if got > most:
                    raise HTTPException(413, f"the body is too large: up to {most:,} bytes are taken")
            return message

        return bounded

    def _refuse(self, scope: Scope) -> Response | None:
        """The answer to a request that goes no further."""
        headers = Headers(scope=scope)
        client = scope["client"][0] if scope.get("client") else "local"
        if wait_s := self._rate.wait(client, _cost(scope)):
            return refusal(429, "too many requests: ask again later", {"retry-after": str(math.ceil(wait_s))})
        host = headers.get("host", "")
        if self._token is None:
            if not _is_local(_name(host)):
                return refusal(421, "this server answers only under the name 127.0.0.1 or localhost")
        elif (answer := self._check_token(scope, headers)) is not None and not scope["path"].startswith("/static/"):
            return answer  # the page that asks for the token has its style and scripts
        most = self._limits.upload_bytes if _is_upload(scope) else self._limits.body_bytes
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > most:
            return refusal(413, f"the body is too large: up to {most:,} bytes are taken", {"connection": "close"})
        origin = headers.get("origin")
        if scope["method"] not in _SAFE_METHODS and (
            (origin is not None and origin.partition("://")[2] != host)
            or headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none")
        ):
            return refusal(403, "requests from pages of other sites are refused")
        return None

    def _check_token(self, scope: Scope, headers: Headers) -> Response | None:
        assert self._token is not None
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        shown = [value for name, value in query if name == "token"]
        if shown and scope["method"] in ("GET", "HEAD"):
            if not self._is_token(shown[0]):
                return refusal(401, "the token is wrong: take the address that serve printed")
            rest = urlencode([(name, value) for name, value in query if name != "token"])
            path = "/" + scope["raw_path"].decode("latin-1").partition("?")[0].lstrip("/")
            answer = RedirectResponse(path + (f"?{rest}" if rest else ""), 303)
            answer.set_cookie(_cookie_name(scope), self._token, httponly=True, samesite="strict", max_age=30 * 86400)
            return answer
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._is_token(bearer.strip()):
            return None
        if self._is_token(_cookie(headers, _cookie_name(scope))):
            return None
        needs = "a token is needed: open the address that serve printed, or send 'Authorization: Bearer TOKEN'"
        return refusal(401, needs, {"www-authenticate": "Bearer"})

    def _is_token(self, shown: str) -> bool:
        assert self._token is not None
        return hmac.compare_digest(shown.encode(errors="surrogateescape"), self._token.encode())


def refusal(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error as JSON."""
    return JSONResponse({"error": message}, status, headers)


def _cost(scope: Scope) -> float:
    path = scope["path"]
    if _is_upload(scope):
        return COSTLY
    return CHEAP if path.startswith(("/static/", "/media/")) else USUAL


def _is_upload(scope: Scope) -> bool:
    return scope["method"] == "POST" and scope["path"] in UPLOADS


def _name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_local(name: str) -> bool:
    """Whether a name is one of this machine wherever it is asked for: an address, or ``localhost``."""
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _cookie_name(scope: Scope) -> str:
    return f"{COOKIE}-{(scope.get('server') or ('', 0))[1]}"


def _cookie(headers: Headers, name: str) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return found.value if found is not None else ""
