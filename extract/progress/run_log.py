"""The log of a run in the feature set that it writes: JSON lines under ``log/``. Nothing here reads them.

On a local disk every line is written at once, so a killed process loses at most one line. A storage that takes complete
files only gets the log every few minutes, and at the end.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from supportset.store.errors import SupportsetError
from supportset.store.files import LocalFolder, open_folder, telling
from supportset.store.files.places import StorePath
from supportset.store.maintain.orphans import LOG

_UPLOAD_SECONDS = 300.0


class RunLog:
    """Appends events to a separate file for each run.

    If the log cannot be written, that is reported once and the run continues without it.

    Parameters
    ----------
    path : str or StorePath
        Folder of the feature set.

    Attributes
    ----------
    tell : callable
        Takes a line for the user.
    """

    def __init__(self, path: str | StorePath) -> None:
        self.tell: Callable[[str], None] = print
        self._file = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}.jsonl"
        self._folder = open_folder(path).child(LOG)
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._lines: list[bytes] = []  # storages that take complete files only
        self._uploaded = time.monotonic()
        self._broken = False

    def write(self, event: str, **facts: Any) -> None:
        """Append one line; from any thread."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "event": event, **facts}, ensure_ascii=False, default=str)
        content = line.encode("utf-8", "backslashreplace") + b"\n"  # file names need not be valid Unicode
        with self._lock:
            if not self._broken:
                try:
                    self._append(content)
                except SupportsetError as error:
                    self._broken = True
                    self.tell(f"{error}; the run continues without a log")

    def close(self) -> None:
        """Write the pending lines."""
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None
            if self._lines and not self._broken:
                try:
                    self._folder.put({self._file: self._lines})
                except SupportsetError as error:
                    self.tell(f"{error}; this run leaves no log")
            self._broken = True

    def _append(self, content: bytes) -> None:
        if not isinstance(self._folder, LocalFolder):
            self._lines.append(content)
            if time.monotonic() - self._uploaded >= _UPLOAD_SECONDS:
                self._folder.put({self._file: self._lines})
                self._uploaded = time.monotonic()
            return
        file = self._folder.path / self._file
        with telling("write the log", file):
            if self._descriptor is None:
                os.makedirs(file.parent, exist_ok=True)
                self._descriptor = os.open(
                    file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o666
                )
            os.write(self._descriptor, content)


def command_line() -> str:
    """Return this process's command, without the interpreter and the program's folder."""
    return shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:]]) if sys.argv else ""
