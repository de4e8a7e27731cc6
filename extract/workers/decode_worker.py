"""A decode worker process: it decodes clips into frames in shared memory.

``workers.pool`` starts it as ``python -m supportset.extract.workers.decode_worker SOCKET MEMORY``. It loads PyAV,
Pillow and NumPy, and decodes on one thread. It loads torch only where torchcodec is the decoder.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from supportset.extract.decode.clips import Step, decode_clips
from supportset.extract.decode.decoders import PYAV
from supportset.extract.decode.sampling import Sampling
from supportset.extract.outcome import DecodeError, Outcome
from supportset.extract.workers.frame_ring import FrameRing
from supportset.extract.workers.retries import Job
from supportset.store.errors import SupportsetError
from supportset.store.files import hash_file
from supportset.store.format.status import DAMAGED, ERROR, OK, OUT_OF_MEMORY, TIMEOUT
from supportset.store.format.thumbnails import Picture


@dataclass(frozen=True)
class Setup:
    """What a worker receives once, at its start.

    Attributes
    ----------
    sampling : Sampling
    transform : callable
        Applied to each picked frame.
    shape : tuple of int
        Shape of one step in the shared memory, (window, h, w, 3).
    slots : int
        Steps that the shared memory holds.
    decoder : str
        A decoder of :mod:`supportset.extract.decode.decoders` that works on this machine.
    cpu_seconds : float
        CPU time that a file of up to 1 MB may take; one of n MB may take n times as long. Its other clips then end as
        ``timeout``: a small file may hold millions of large frames.
    memory : int
        Bytes that the worker may allocate; a clip that takes more ends as ``out_of_memory``. Not with a decoder that
        uses a GPU, whose driver allocates memory that it does not use.
    thumbnails : int
        Most thumbnails of a clip.
    thumbnails_only : bool
        Whether only the frames of thumbnails are decoded.
    """

    sampling: Sampling
    transform: Callable[[np.ndarray], np.ndarray]
    shape: tuple[int, ...]
    slots: int
    decoder: str = PYAV
    cpu_seconds: float = 600.0
    memory: int = 4 * 2**30
    thumbnails: int = 0
    thumbnails_only: bool = False


@dataclass(frozen=True)
class Begun:
    """Message to the main process: this job needs what is decoded from here."""

    number: int


@dataclass(frozen=True)
class Arrived:
    """Message to the main process: the next slot of the ring holds a step of this job."""

    number: int
    start_s: float
    end_s: float


@dataclass(frozen=True)
class ClipResult:
    """Message to the main process, which passes it on to the writer: this job has given all its steps.

    A bare :class:`Outcome` in its place ends a pass of several clips; the main process decides which of them fail.

    Attributes
    ----------
    number : int
        The job.
    outcome : Outcome
    seconds : float
        Time that the worker spent on the job.
    hash : str or None
        Hash of the source file; None if it cannot be read.
    thumbnails : tuple of Picture
        Of its steps, in their order.
    """

    number: int
    outcome: Outcome
    seconds: float
    hash: str | None = None
    thumbnails: tuple[Picture, ...] = ()


class Worker:
    """The worker's side of the pipe."""

    def __init__(self, link: Connection, ring: FrameRing, setup: Setup) -> None:
        self._link, self._ring, self._setup = link, ring, setup
        self._passes: deque[tuple[Job, ...]] = deque()
        self._free = setup.slots
        self._sent = 0
        self._hashed: tuple[str, str] | None = None
        self._size, self._budget, self._until = 0, 0.0, float("inf")  # of the file, see _grant

    def run(self) -> None:
        """Decode passes until the main process sends None or ends."""
        while True:
            while not self._passes:
                if not self._listen():
                    return
            self._decode(self._passes.popleft())

    def _decode(self, jobs: tuple[Job, ...]) -> None:
        """Decode the clips of one file, all in one pass."""
        self._ring.job = jobs[0].number
        self._grant(jobs[0].path)
        seconds = _SharedSeconds(len(jobs))
        thumbnails: dict[int, list[Picture]] = {}

        def begin(place: int) -> None:
            seconds.open(place)
            self._link.send(Begun(jobs[place].number))

        try:
            for place, item in decode_clips(
                jobs[0].path,
                [(job.start_s, job.end_s) for job in jobs],
                self._setup.sampling,
                transform=self._transform,
                heartbeat=self._heartbeat,
                opened=begin,
                decoder=self._setup.decoder,
                thumbnails=self._setup.thumbnails,
                thumbnails_only=self._setup.thumbnails_only,
            ):
                number = jobs[place].number
                if isinstance(item, Step):
                    if item.thumbnail:
                        thumbnails.setdefault(number, []).append(Picture(item.start_s, item.end_s, item.thumbnail))
                    self._send(Arrived(number, item.start_s, item.end_s), item.frames)
                    continue
                content = self._hash(jobs[place].path) if item.status in (OK, DAMAGED) else None
                spent = seconds.close(place)
                if not seconds.left:
                    self._ring.job = None
                self._finish(ClipResult(number, item, spent, content, tuple(thumbnails.pop(number, ()))))
        except MemoryError:
            most = f"{self._setup.memory / 2**30:g} GiB"
            outcome = Outcome(OUT_OF_MEMORY, f"the decode worker ran out of memory; it may take {most}")
        except (BrokenPipeError, ConnectionResetError, EOFError):
            raise  # the main process is gone
        except Exception as error:  # any error of a file costs its clips, not the run
            outcome = Outcome(ERROR, f"{type(error).__name__}: {error}")
        else:
            return
        gc.collect()  # frames that hold each other, of which the next file's memory would be short
        self._ring.job = None
        self._link.send(outcome)

    def _transform(self, picture: np.ndarray) -> np.ndarray:
        self._heartbeat()
        return self._setup.transform(picture)

    def _grant(self, path: str) -> None:
        """Begin to count the CPU time of a file."""
        self._size = 0
        with suppress(OSError):  # opening it will say more
            self._size = os.path.getsize(path)
        self._budget = self._setup.cpu_seconds * max(1.0, self._size / 1e6)
        self._until = time.process_time() + self._budget

    def _heartbeat(self) -> None:
        self._ring.heartbeat()
        if time.process_time() > self._until:
            taken = f"more than {self._budget:.3g} s of CPU time for a file of {self._size:,} bytes"
            raise DecodeError(TIMEOUT, f"{taken}; see --timeout")

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

    def _finish(self, result: ClipResult) -> None:
        """Send a result. With thumbnails it may fill the pipe: then this waits for the main process."""
        self._ring.waiting = True
        self._link.send(result)
        self._ring.heartbeat()
        self._ring.waiting = False

    def _listen(self) -> bool:
        """Receive one message: the jobs of a pass, a number of free slots, or None for the end."""
        self._ring.waiting = True
        message = self._link.recv()
        self._ring.heartbeat()
        self._ring.waiting = False
        if isinstance(message, tuple):
            self._passes.append(message)
        elif message is not None:
            self._free += message
        return message is not None

    def _hash(self, path: str) -> str | None:
        if self._hashed is None or self._hashed[0] != path:  # clips of one video come one after the other
            try:
                self._hashed = path, hash_file(Path(path))
            except SupportsetError:
                return None
        return self._hashed[1]


class _SharedSeconds:
    """Divide the time of a pass: each stretch among the clips that are open then."""

    def __init__(self, clips: int) -> None:
        self._spent, self.left, self._open = [0.0] * clips, set(range(clips)), set[int]()
        self._since = time.monotonic()

    def open(self, place: int) -> None:
        self._share()
        self._open.add(place)

    def close(self, place: int) -> float:
        """Return the seconds of a finished clip."""
        self._share()
        self.left.discard(place)
        self._open.discard(place)
        return self._spent[place]

    def _share(self) -> None:
        now = time.monotonic()
        owners = self._open or self.left
        for place in owners:
            self._spent[place] += (now - self._since) / len(owners)
        self._since = now


def main(socket: int, memory: int) -> None:
    """Run a worker on the two open files that it inherits."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process handles Ctrl-C
    gc.freeze()  # collections need not look at the loaded modules again
    threading.Thread(target=_leave_with_parent, args=(os.getppid(),), daemon=True).start()
    link = Connection(socket)
    try:
        setup: Setup = link.recv()
        ring = FrameRing(memory, setup.shape, setup.slots)
        if setup.decoder == PYAV and sys.platform == "linux":
            resource.setrlimit(resource.RLIMIT_DATA, (setup.memory, resource.getrlimit(resource.RLIMIT_DATA)[1]))
        link.send(None)  # ready
        Worker(link, ring, setup).run()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the main process is gone


def _leave_with_parent(parent: int) -> None:
    """End the process when its parent is gone, even inside a decoder that never returns."""
    while os.getppid() == parent:
        time.sleep(2)
    os._exit(1)


if __name__ == "__main__":
    # Under its own name, so that the messages are the same classes on both sides of the pipe.
    from supportset.extract.workers import decode_worker

    decode_worker.main(int(sys.argv[1]), int(sys.argv[2]))
