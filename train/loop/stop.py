"""Stopping on request: Ctrl-C or a polite kill ends a run between two steps, not in the middle of one."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from supportset.store.errors import SupportsetError


class TrainingInterrupted(SupportsetError):  # noqa: N818 - it is told as it is named
    """A run was stopped on request after it saved a checkpoint; exit code as after Ctrl-C."""

    exit_code = 130


class StopRequest:
    """While active, the first SIGINT or SIGTERM sets ``requested``; a second one acts at once.

    Signals can be caught in the main thread alone; elsewhere this does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
