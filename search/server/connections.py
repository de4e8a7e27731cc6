"""Connections that say nothing do not keep others out."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0  # for the head of a request; uvicorn waits for ever
MOST = 512  # connections; from then on uvicorn refuses all requests
_CROWDED = MOST // 2


class Connection(H11Protocol):
    """A connection that is closed where the head of its first or next request does not arrive in time.

    Where there are many connections, a new one closes the one that has waited longest, so that one client cannot hold
    them all. The head has at most 64 KiB, as h11 bounds it.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to watch."""
        super().connection_made(transport)
        self._waits_from = self.loop.time()
        if len(self.connections) > _CROWDED:
            waiting = [each for each in self.connections if isinstance(each, Connection) and each.waits]
            longest = min(waiting, key=lambda each: each._waits_from)
            if longest is not self:  # all others are in use
                longest.transport.abort()
        self._watch()

    @property
    def waits(self) -> bool:
        """Whether the head of a request has not arrived."""
        return self.conn.their_state is h11.IDLE and not self.transport.is_closing()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        self._waits_from = self.loop.time()
        super().on_response_complete()

    def _watch(self) -> None:
        """Look again and again."""
        if self.transport.is_closing():
            return
        if self.waits and self.loop.time() - self._waits_from >= HEAD_SECONDS:
            self.transport.abort()
        else:
            self.loop.call_later(HEAD_SECONDS / 2, self._watch)
