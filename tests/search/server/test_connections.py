"""Connections that say nothing: they are closed, and others are answered meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from supportset.search.server import connections
from supportset.search.server.connections import MOST, Connection
from supportset.search.server.guard import Guard
from supportset.search.server.limits import Limits

REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n"
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def answer(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def serve(client: Callable[[Callable[[], Awaitable[Stream]]], Awaitable[None]], app: Any = answer) -> None:
    """Run a client of a server; it takes a function that opens a connection."""

    async def run() -> None:
        config = uvicorn.Config(app, http=Connection, ws="none", limit_concurrency=MOST, log_config=None)
        state = ServerState()
        server = await asyncio.get_running_loop().create_server(
            lambda: Connection(config=config, server_state=state, app_state={}), "127.0.0.1", 0
        )
        port = server.sockets[0].getsockname()[1]
        async with server:
            await client(lambda: asyncio.open_connection("127.0.0.1", port))

    asyncio.run(run())


async def ask(stream: Stream) -> bytes:
    stream[1].write(REQUEST + b"\r\n")
    return (await asyncio.wait_for(stream[0].readuntil(b"ok"), 10))[:15]


def test_many_connections_that_say_nothing_keep_nobody_out() -> None:
    async def client(connect: Callable[[], Awaitable[Stream]]) -> None:
        silent = [await connect() for _ in range(MOST + 20)]
        for _, writer in silent:
            writer.write(REQUEST)  # a head without its end
        assert await ask(await connect()) == b"HTTP/1.1 200 OK"
        for _, writer in silent:
            writer.transport.abort()

    serve(client)


def test_a_head_that_does_not_arrive_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.4)

    async def client(connect: Callable[[], Awaitable[Stream]]) -> None:
        late, kept = await connect(), await connect()
        late[1].write(REQUEST)
        for _ in range(5):  # a connection that is used stays
            assert await ask(kept) == b"HTTP/1.1 200 OK"
            await asyncio.sleep(0.2)
        assert await asyncio.wait_for(late[0].read(), 10) == b""

    serve(client)


def test_an_answer_that_ends_early_closes_the_connection() -> None:
    async def cut(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def client(connect: Callable[[], Awaitable[Stream]]) -> None:
        stream = await connect()
        assert await ask(stream) == b"HTTP/1.1 200 OK"
        assert await asyncio.wait_for(stream[0].read(), 3) == b""

    serve(client, Guard(cut, Limits(), None))
