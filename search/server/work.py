"""Work that takes a thread: so many calls at once, so many that wait, and no longer than so many seconds."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from supportset.search.server.limits import Limits
from supportset.store.errors import SupportsetError

Result = TypeVar("Result")


class Busy(SupportsetError):  # noqa: N818 - not an error by itself
    """The server has no room for a request now; ``after_s`` says when to ask again."""

    after_s = 2


class Work:
    """Threads for everything that reads features or runs a model, so that the event loop never waits.

    Parameters
    ----------
    limits : Limits
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._threads = ThreadPoolExecutor(limits.running, thread_name_prefix="search")
        self._lock, self._held = threading.Lock(), 0

    async def run(self, call: Callable[..., Result], *arguments: Any) -> Result:
        """Call a function in a thread.

        Raises
        ------
        Busy
            Too many calls wait, or this one takes too long. A call that has begun is not stopped, and keeps its thread.
        """
        with self._lock:
            if self._held >= self._limits.running + self._limits.waiting:
                raise Busy("the server is busy: ask again in a few seconds")
            self._held += 1
        try:
            future = self._threads.submit(call, *arguments)
        except RuntimeError:  # the server stops
            self._release(None)
            raise Busy("the server stops") from None
        future.add_done_callback(self._release)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self._limits.seconds)
        except TimeoutError:
            raise Busy(f"no answer within {self._limits.seconds:g} s: ask again later") from None

    def close(self) -> None:
        """Drop what has not begun."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _release(self, future: Future[Any] | None) -> None:
        with self._lock:
            self._held -= 1
