"""The process that opens media files: a job in, an answer out. ``search.playback.process`` starts it.

A file may crash a decoder, hang it or fill the memory: it costs this process.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import av.error

from supportset.extract.outcome import DecodeError
from supportset.search.playback import convert
from supportset.search.playback.facts import read_facts
from supportset.search.playback.upload import prepare_upload
from supportset.store.errors import SupportsetError

_NICE = 5  # a search has the right of way
FULL = "full"  # kind of an error: the disk, or the bound of a file


def _facts(path: str) -> Any:
    return asdict(read_facts(Path(path)))


def _copy(source: str, target: str) -> None:
    convert.copy_video(Path(source), Path(target))


def _encode(source: str, target: str, start_s: float, end_s: float | None) -> None:
    convert.encode_part(Path(source), Path(target), start_s, end_s)


def _picture(source: str, target: str) -> None:
    convert.picture_as_jpeg(Path(source), Path(target))


JOBS: dict[str, Callable[..., Any]] = {
    "facts": _facts, "copy": _copy, "encode": _encode, "picture": _picture, "upload": prepare_upload,
}  # fmt: skip


def answer(job: str, options: dict[str, Any]) -> dict[str, Any]:
    """Do a job: ``{"result"}``, or ``{"error", "kind"}`` with one line that names no path."""
    try:
        return {"result": JOBS[job](**options)}
    except MemoryError:
        return {"error": "decoding it takes more memory than is allowed", "kind": "memory"}
    except DecodeError as error:
        return {"error": error.outcome.message or error.outcome.status, "kind": error.outcome.status}
    except SupportsetError as error:
        return {"error": str(error), "kind": "refused"}
    except (av.error.FFmpegError, OSError) as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        return {"error": error.strerror or type(error).__name__, "kind": FULL if full else "failed"}
    except Exception as error:  # whatever a library raises for a file
        return {"error": f"{type(error).__name__}: it cannot be decoded", "kind": "failed"}


def main(socket: int, memory: int, file_bytes: int) -> None:
    """Answer jobs on an inherited socket until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server ends this process
    os.nice(_NICE)
    if sys.platform == "linux":
        for limit, value in ((resource.RLIMIT_DATA, memory), (resource.RLIMIT_FSIZE, file_bytes)):
            resource.setrlimit(limit, (value, resource.getrlimit(limit)[1]))
    threading.Thread(target=_leave_with_parent, args=(os.getppid(),), daemon=True).start()
    link = Connection(socket)
    try:
        while True:
            job = json.loads(link.recv_bytes())
            link.send_bytes(json.dumps(answer(job.pop("job"), job)).encode())
    except (EOFError, OSError):
        return


def _leave_with_parent(parent: int) -> None:
    """End the process when the server is gone, even inside a decoder that never returns."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
