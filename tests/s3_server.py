"""A real S3 server on loopback (moto's), which counts what it is asked and can refuse or cut short what it answers."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

BUCKET = "tests"


@dataclass(frozen=True)
class Request:
    """What was asked: method, path with the bucket, and the range of bytes where one was named."""

    method: str
    path: str
    range: str | None


class S3Server:
    """Serves from the memory of this process, in a thread, on a port that is free.

    Attributes
    ----------
    url : of the server
    bucket : URL of the one bucket
    requests : all since the last :meth:`forget`
    refused : requests whose ``METHOD /path`` this matches are answered with 403
    """

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.bucket = f"s3://{BUCKET}"
        self.requests: list[Request] = []
        self.refused: re.Pattern[str] | None = None
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()

    def forget(self) -> None:
        """Count from here on."""
        self.requests.clear()

    def ranges(self) -> list[tuple[int, int]]:
        """First byte and the one after the last of each range that was read."""
        bounds = [re.fullmatch(r"bytes=(\d+)-(\d+)", request.range or "") for request in self.requests]
        return sorted((int(match[1]), int(match[2]) + 1) for match in bounds if match)

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        request = Request(environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("HTTP_RANGE"))
        self.requests.append(request)
        if self.refused and self.refused.search(f"{request.method} {request.path}"):
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start("403 Forbidden", [("Content-Type", "application/xml")])
            return [b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"]
        answer: Iterable[bytes] = self._app(environ, start)
        return answer
