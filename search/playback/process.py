"""A process for media files as the server sees it: it may die, hang or be killed at any time."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

from supportset._process import cores, threads_of
from supportset.store.errors import SupportsetError

_START_SECONDS = 60.0
_ANSWER_BYTES = 1 << 20


class MediaError(SupportsetError):
    """A file cannot be shown or searched by.

    Attributes
    ----------
    kind : str
        ``died``, ``timeout``, or what :mod:`supportset.search.playback.child` says.
    """

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class MediaProcess:
    """A process of :mod:`supportset.search.playback.child`: started at the first job, and again after its death.

    Parameters
    ----------
    memory, file_bytes : int
        Bytes that it may allocate, and that a file which it writes may have.
    """

    def __init__(self, memory: int, file_bytes: int) -> None:
        self._memory, self._file_bytes = memory, file_bytes
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._link: Connection | None = None
        self._killed = False

    @property
    def pid(self) -> int | None:
        """Number of the process; None while there is none."""
        process = self._process
        return None if process is None else process.pid

    def ask(self, job: str, seconds: float, /, **options: Any) -> Any:
        """Do one job; others wait.

        Raises
        ------
        MediaError
            The job failed, the process died, or it took longer than ``seconds`` and was killed.
        """
        with self._lock:
            if self._link is None:
                self._start()
            assert self._link is not None
            try:
                self._link.send_bytes(json.dumps({"job": job, **options}).encode())
                if not self._link.poll(seconds):
                    self._stop()
                    raise MediaError(f"decoding it takes longer than {seconds:g} s", "timeout")
                answer = json.loads(self._link.recv_bytes(_ANSWER_BYTES))
            except (OSError, EOFError, ValueError):
                self._stop()
                raise MediaError("the process that decodes it died", "died") from None
        if "error" in answer:
            raise MediaError(str(answer["error"]), str(answer.get("kind")))
        return answer["result"]

    def kill(self) -> None:
        """End the process now; a job that runs fails. From any thread."""
        self._killed = True
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """End the process, and free what belongs to it."""
        self.kill()
        with self._lock:
            self._stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        if self._killed:
            raise MediaError("the server stops, or nobody waits for it any more", "killed")
        ours, theirs = socket.socketpair()
        paths = [os.path.abspath(path) for path in sys.path]
        command = [sys.executable, "-P", "-m", "supportset.search.playback.child"]
        try:
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno()), str(self._memory), str(self._file_bytes)],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C on the terminal is for the server
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | threads_of(cores()),
            )
        except OSError as error:
            ours.close()
            raise MediaError(f"no process can be started: {error.strerror}", "died") from None
        finally:
            theirs.close()
        self._link = Connection(ours.detach())

    def _stop(self) -> None:
        if self._link is not None:
            self._link.close()
        if self._process is not None:
            with suppress(OSError):
                self._process.kill()
            self._process.wait()
        self._link = self._process = None
