"""A decode worker: a process of its own that turns jobs into frames in shared memory.

Started by :mod:`extract.workers` as ``python -m extract.decode_worker SOCKET MEMORY``. It loads PyAV, Pillow and
NumPy, not torch, and decodes on one thread.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from extract.decode import decode_clip
from extract.frame_ring import FrameRing
from extract.outcome import DAMAGED, ERROR, OK, OUT_OF_MEMORY, DecodeError
from extract.sampling import Sampling
from store.errors import SupportsetError
from store.files import hash_file


@dataclass(frozen=True)
class Setup:
    """What a worker is told once: how to sample and transform, and the form of the shared memory."""

    sampling: Sampling
    transform: Callable[[np.ndarray], np.ndarray]
    shape: tuple[int, ...]
    slots: int


@dataclass(frozen=True)
class Job:
    """One clip to decode.

    Attributes
    ----------
    number : int
        Not negative; the job's name within a run.
    path : str
        The file.
    start_s, end_s : float or None
        The clip's part of it.
    """

    number: int
    path: str
    start_s: float | None = None
    end_s: float | None = None


@dataclass(frozen=True)
class Arrived:
    """Message to the main process: the next slot of the ring holds a step of this job."""

    number: int
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Ended:
    """Message to the main process: no more steps of this job will come.

    Attributes
    ----------
    number : int
        The job.
    status : str
        ``ok``; ``damaged`` (the steps that came are what could be had); or why there are no features.
    message : str
    seconds : float
        Spent by the worker.
    hash : str or None
        Of the source file; None if it could not be read.
    """

    number: int
    status: str
    message: str
    seconds: float
    hash: str | None = None


class Worker:
    """The worker's side of the pipe."""

    def __init__(self, link: Connection, ring: FrameRing, setup: Setup) -> None:
        self._link, self._ring, self._setup = link, ring, setup
        self._jobs: deque[Job] = deque()
        self._free = setup.slots
        self._sent = 0
        self._hashed: tuple[str, str] | None = None

    def run(self) -> None:
        """Work on jobs until the main process says that there are no more, or is gone."""
        while True:
            while not self._jobs:
                if not self._listen():
                    return
            job = self._jobs.popleft()
            self._ring.job = job.number
            end = self._decode(job)
            self._ring.job = None
            self._link.send(end)

    def _decode(self, job: Job) -> Ended:
        began, setup = time.monotonic(), self._setup
        status, message = OK, ""
        try:
            steps = decode_clip(
                job.path, job.start_s, job.end_s, setup.sampling, transform=self._transform, beat=self._ring.beat
            )
            while True:
                try:
                    step = next(steps)
                except StopIteration as end:
                    message = end.value
                    break
                self._send(Arrived(job.number, step.start_s, step.end_s), step.frames)
        except DecodeError as error:
            status, message = error.status, error.message
        except MemoryError:
            status, message = OUT_OF_MEMORY, "the decode worker ran out of memory"
        except (BrokenPipeError, ConnectionResetError, EOFError):
            raise  # the main process is gone
        except Exception as error:  # whatever a file provokes costs this clip, not the run
            status, message = ERROR, f"{type(error).__name__}: {error}"
        content = self._hash(job.path) if status in (OK, DAMAGED) else None
        return Ended(job.number, status, " ".join(message.split()), time.monotonic() - began, content)

    def _transform(self, picture: np.ndarray) -> np.ndarray:
        self._ring.beat()
        return self._setup.transform(picture)

    def _send(self, message: Arrived, frames: np.ndarray) -> None:
        while not self._free or self._link.poll():
            if not self._listen():
                raise EOFError("the main process stopped")
        slot = self._ring.slot(self._sent)
        if frames.shape != slot.shape:
            raise ValueError(f"the transform made frames {frames.shape[1:]}, not {slot.shape[1:]} as of other clips")
        slot[:] = frames
        self._sent, self._free = self._sent + 1, self._free - 1
        self._link.send(message)

    def _listen(self) -> bool:
        """Take one message: a job, a number of slots that are free again, or None for the end."""
        self._ring.waiting = True
        message = self._link.recv()
        self._ring.beat()
        self._ring.waiting = False
        if isinstance(message, Job):
            self._jobs.append(message)
        elif message is not None:
            self._free += message
        return message is not None

    def _hash(self, path: str) -> str | None:
        if self._hashed is None or self._hashed[0] != path:  # clips of one video mostly come one after the other
            try:
                self._hashed = path, hash_file(Path(path))
            except SupportsetError:
                return None
        return self._hashed[1]


def main(socket: int, memory: int) -> None:
    """Run a worker on the two open files that it inherited."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to handle
    threading.Thread(target=_leave_with_parent, args=(os.getppid(),), daemon=True).start()
    link = Connection(socket)
    try:
        setup: Setup = link.recv()
        ring = FrameRing(memory, setup.shape, setup.slots)
        link.send(None)  # ready
        Worker(link, ring, setup).run()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the main process is gone


def _leave_with_parent(parent: int) -> None:
    """End the process when its parent is gone, even from within a decoder that never returns."""
    while os.getppid() == parent:
        time.sleep(2)
    os._exit(1)


if __name__ == "__main__":
    # Under its own name, so that the messages are the same classes on both sides of the pipe.
    from extract import decode_worker

    decode_worker.main(int(sys.argv[1]), int(sys.argv[2]))
