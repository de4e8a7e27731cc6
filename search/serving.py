"""Serve libraries over HTTP until Ctrl-C."""

from __future__ import annotations

import logging
import secrets
import socket
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from supportset.store.errors import SupportsetError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from supportset.search.library import Library
    from supportset.search.server.limits import Limits

HOST, PORT = "127.0.0.1", 8765
_STOP_SECONDS = 2  # that open downloads have when the server stops


def build_app(
    libraries: Sequence[Library],
    *,
    token: str | None = None,
    limits: Limits | None = None,
    status: Callable[[], Mapping[str, Any]] | None = None,
) -> FastAPI:
    """The REST interface and the page of some libraries; see `supportset.search.server.app.create_app`."""
    from supportset.search.page.routes import add_page
    from supportset.search.server.app import create_app

    app = create_app(libraries, token=token, limits=limits, status=status)
    add_page(app)
    return app


def needs_token(host: str) -> bool:
    """Whether other machines reach a server on this address."""
    try:
        return not ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"


def make_token() -> str:
    """A token that nobody guesses."""
    return secrets.token_urlsafe(24)


def listen(host: str = HOST, port: int = PORT) -> socket.socket:
    """Take a port.

    Parameters
    ----------
    host : str
        Address or name of this machine.
    port : int
        0: any free one.

    Raises
    ------
    SupportsetError
        The port is taken, or the address is not one of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=512)
        # asyncio does not set it on connections of such a socket: each answer would wait 40 ms for an acknowledgement
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    except OSError as error:
        reason = error.strerror or str(error)
        raise SupportsetError(f"cannot listen on {host} port {port}: {reason}; --port 0 takes any free port") from None


def address(listening: socket.socket, host: str, token: str | None) -> str:
    """The URL of the page."""
    port = listening.getsockname()[1]
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    query = f"?{urlencode({'token': token})}" if token else ""
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/{query}"


def network_name() -> str | None:
    """This machine's address in its network, as a route to elsewhere shows it; None without a network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
        try:
            unused.connect(("192.0.2.1", 9))  # of documentation; nothing is sent
        except OSError:
            return None
        name: str = unused.getsockname()[0]
        return name


def serve(app: FastAPI, listening: socket.socket, *, open_url: str | None = None, verbose: bool = False) -> None:
    """Serve an application on a socket until SIGINT or SIGTERM.

    Parameters
    ----------
    app : FastAPI
    listening : socket
        From `listen`.
    open_url : str, optional
        Opened in the user's browser.
    verbose : bool
        Log each request.
    """
    import uvicorn

    from supportset.search.server.connections import MOST, Connection

    logging.basicConfig(format="%(message)s", level=logging.INFO if verbose else logging.WARNING)
    if not verbose:  # failed requests are logged where they fail; what is left are requests that a stop ends
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=verbose,
        server_header=False,
        proxy_headers=False,
        http=Connection,
        ws="none",
        timeout_graceful_shutdown=_STOP_SECONDS,
        limit_concurrency=MOST,
    )
    if open_url is not None:
        webbrowser.open(open_url)  # the socket listens already: the request waits
    with suppress(KeyboardInterrupt):  # uvicorn has stopped by then
        uvicorn.Server(config).run(sockets=[listening])
