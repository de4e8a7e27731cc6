"""The extracting process as the server sees it: orders go in, events come out, and it may die at any time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any

from supportset._process import sleeping_threads

STOP_SECONDS = 10.0  # to seal what is complete


class Child:
    """A process of :mod:`supportset.search.ingest.child`.

    Parameters
    ----------
    order : dict
        The fields of :class:`supportset.search.ingest.rounds.Order`.
    events : callable
        Takes this object and each event of the process as a dict, from threads. Besides those of the process there are
        ``{"event": "log", "text"}`` for a line of its standard error, and at last ``{"event": "end", "code"}`` with its
        exit code (negative: the signal).

    Raises
    ------
    OSError
        The process cannot be started.
    """

    def __init__(self, order: dict[str, Any], events: Callable[[Child, dict[str, Any]], None]) -> None:
        self._events = events
        paths = [os.path.abspath(path) for path in sys.path]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "supportset.search.ingest.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            process_group=0,  # Ctrl-C on the terminal is for the server, which ends this process
            env=os.environ | sleeping_threads() | {"PYTHONPATH": os.pathsep.join(paths)},
        )
        self._words = threading.Thread(target=self._read_words, daemon=True)
        self._reader = threading.Thread(target=self._read_events, daemon=True)
        self._words.start()
        self._reader.start()
        self.send(order)

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def send(self, order: dict[str, Any]) -> None:
        """Send an order; the end of a dead process comes as its event."""
        with suppress(OSError, ValueError):
            self._input.write(json.dumps(order) + "\n")
            self._input.flush()

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Let the process seal what is complete, and end; kill it after so many seconds."""
        self.release()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
        self._reader.join()

    def release(self) -> None:
        """Let the process end when it likes."""
        with suppress(OSError):
            self._input.close()

    @property
    def _input(self) -> IO[str]:
        assert self._process.stdin is not None
        return self._process.stdin

    def _read_events(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with suppress(ValueError):  # the process died within a line
                self._events(self, json.loads(line))
        code = self._process.wait()
        self._words.join(1.0)  # decode workers may hold the pipe a little longer
        self._events(self, {"event": "end", "code": code})

    def _read_words(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if text := line.strip():
                self._events(self, {"event": "log", "text": text})
