"""Stop on request: Ctrl-C or SIGTERM ends a run between two steps."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

from supportset.store.errors import SupportsetError


class TrainingInterrupted(SupportsetError):  # noqa: N818 - named like KeyboardInterrupt
    """A run was stopped on request, after it saved a checkpoint. The exit code is that of Ctrl-C."""

    exit_code = 130


class StopRequest:
    """While active, the first SIGINT or SIGTERM sets ``requested``; a second one ends the process.

    Outside the main thread, where signals cannot be caught, this does nothing.

    Parameters
    ----------
    at_once : bool
        End the process at once on the second signal, also while PyTorch computes. Python runs signal handlers between
        two of its own instructions only, so a thread reads the signals. Every file of a run is replaced as a unit, so
        no more is lost than the steps since the last checkpoint. False: the second signal acts as it did before.
    message : str
        Printed at the first signal, with ``at_once``.
    """

    def __init__(self, *, at_once: bool = False, message: str = "") -> None:
        self.requested = False
        self._at_once, self._message = at_once, message
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._on_signal)
        if self._at_once:
            reader, self._writer = socket.socketpair()
            self._writer.setblocking(False)
            self._wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
            threading.Thread(target=self._watch, args=(reader,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before and self._at_once:
            signal.set_wakeup_fd(self._wakeup)
            self._writer.close()
        self._restore()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if not self._at_once:
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _watch(self, reader: socket.socket) -> None:
        signals = 0
        with reader:
            while number := reader.recv(1):
                if number[0] in (signal.SIGINT, signal.SIGTERM):
                    signals += 1
                    if signals > 1:
                        os._exit(TrainingInterrupted.exit_code)
                    if self._message:
                        print(self._message, file=sys.stderr, flush=True)
