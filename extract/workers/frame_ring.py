"""Memory that a decode worker and the main process share: a ring of frame slots, and a heartbeat.

The memory has no name in the file system. The worker inherits it as an open file, and it ends with both processes.
Which slots are full is not stored here: the pipe carries that.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from math import prod

import numpy as np

_HEADER = 64  # bytes: three 64-bit counters, and the slots begin on a cache line
_HEARTBEATS, _WAITING, _JOB = range(3)


class FrameRing:
    """Slots for steps of one shape: the worker fills them, the main process empties them, both in turn.

    Parameters
    ----------
    file : int
        Descriptor of the shared file, from :meth:`create`.
    shape : tuple of int
        Shape of one step, (window, h, w, 3).
    slots : int
        Number of steps the ring holds.
    """

    def __init__(self, file: int, shape: tuple[int, ...], slots: int) -> None:
        self._map = mmap.mmap(file, _HEADER + slots * prod(shape))
        self._counters = np.frombuffer(self._map, np.int64, 3)
        self._slots = np.frombuffer(self._map, np.uint8, offset=_HEADER).reshape(slots, *shape)

    @staticmethod
    def create(shape: tuple[int, ...], slots: int) -> int:
        """Make the shared file and return its descriptor, which the caller closes."""
        if hasattr(os, "memfd_create"):
            file = os.memfd_create("supportset-frames")
        else:
            with tempfile.TemporaryFile() as temporary:
                file = os.dup(temporary.fileno())
        os.ftruncate(file, _HEADER + slots * prod(shape))
        return file

    def slot(self, number: int) -> np.ndarray:
        """Return the slot of the step with this serial number."""
        slot: np.ndarray = self._slots[number % len(self._slots)]
        return slot

    def heartbeat(self) -> None:
        """Count one heartbeat of the worker."""
        self._counters[_HEARTBEATS] += 1

    @property
    def heartbeats(self) -> int:
        """Heartbeats so far."""
        return int(self._counters[_HEARTBEATS])

    @property
    def waiting(self) -> bool:
        """Whether the worker waits for the main process: for a job or a free slot."""
        return bool(self._counters[_WAITING])

    @waiting.setter
    def waiting(self, value: bool) -> None:
        self._counters[_WAITING] = value

    @property
    def job(self) -> int | None:
        """Number of the job that the worker has begun and not finished."""
        return int(self._counters[_JOB]) - 1 if self._counters[_JOB] else None

    @job.setter
    def job(self, number: int | None) -> None:
        self._counters[_JOB] = 0 if number is None else number + 1
