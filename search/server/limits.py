"""What one server gives at most, and to one client."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass

_CLIENTS = 10_000  # remembered; the one that asked longest ago is forgotten


@dataclass(frozen=True)
class Limits:
    """Bounds of a server.

    Attributes
    ----------
    running, waiting : int
        Searches at once, and those that may wait for them; the next one is refused with 503.
    seconds : float
        Time of one answer; a search that takes longer is refused with 503.
    rate, burst : float
        Requests a second of one client, on average, and at once; more are refused with 429. A file counts as a tenth of
        a request, an upload as five.
    refresh_seconds : float
        Between two looks whether stores have changed.
    body_bytes : int
        A JSON request.
    upload_bytes, upload_pixels : int
        An uploaded image or video: the size of the file, and of one picture.
    upload_video_seconds : float
        Length of an uploaded video.
    upload_seconds : float
        Time to receive an upload, and again to decode it.
    memory_bytes : int
        What a process that decodes or converts may allocate.
    conversions : int
        Videos that are converted at once.
    conversion_seconds : float
        Time of one conversion.
    cache_bytes : int
        Converted videos that are kept.
    """

    running: int = 4
    waiting: int = 32
    seconds: float = 60.0
    rate: float = 20.0
    burst: float = 100.0
    refresh_seconds: float = 30.0
    body_bytes: int = 64 * 2**10
    upload_bytes: int = 64 * 2**20
    upload_pixels: int = 100_000_000
    upload_video_seconds: float = 600.0
    upload_seconds: float = 60.0
    memory_bytes: int = 4 * 2**30
    conversions: int = 2
    conversion_seconds: float = 600.0
    cache_bytes: int = 4 * 2**30


CHEAP, USUAL, COSTLY = 0.1, 1.0, 5.0


class Rate:
    """A token bucket for each client.

    Parameters
    ----------
    limits : Limits
    """

    def __init__(self, limits: Limits) -> None:
        self._rate, self._burst = limits.rate, limits.burst
        self._clients: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, and when they were counted

    def wait(self, client: str, cost: float, now: float | None = None) -> float:
        """Take tokens of a client; return 0, or the seconds after which there are enough."""
        now = time.monotonic() if now is None else now
        tokens, since = self._clients.pop(client, (self._burst, now))
        tokens = min(self._burst, tokens + (now - since) * self._rate)
        enough = tokens >= cost
        self._clients[client] = (tokens - cost if enough else tokens, now)
        if len(self._clients) > _CLIENTS:
            self._clients.popitem(last=False)
        return 0.0 if enough else (cost - tokens) / self._rate
