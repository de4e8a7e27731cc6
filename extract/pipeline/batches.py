"""Full batches from the steps of many clips; a thread fills one while the model computes another."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import torch

from supportset.extract.workers.decode_worker import ClipResult, Job
from supportset.extract.workers.pool import DecodePool, StepFrames

_BUFFERS = 4  # one being filled, one ready, two in the model (the one before is read back while the next is computed)
_ENDS = 256  # ends in one batch at most: with many clips without a step, a batch is sent before it is full
_POLL_SECONDS = 0.5


@dataclass
class Batch:
    """Steps of several clips, and the clips that end with them.

    Attributes
    ----------
    buffer : (batch size, window, h, w, 3) uint8
        Belongs to the stream: give it back with :meth:`BatchStream.recycle`.
    rows : list of (job number, start_s, end_s)
        Origin of each of the N steps in the buffer. N is the batch size; it is smaller, or 0, in the last batch and
        where many clips fail in a row.
    ends : list of ClipResult
        Jobs whose last step is in this batch or an earlier one.
    """

    buffer: torch.Tensor
    rows: list[tuple[int, float, float]] = field(default_factory=list)
    ends: list[ClipResult] = field(default_factory=list)

    @property
    def frames(self) -> torch.Tensor:
        """The steps: (N, window, h, w, 3) uint8."""
        return self.buffer[: len(self.rows)]


class _Stopped(Exception):  # noqa: N818 - a signal between threads, not a failure
    pass


class BatchStream:
    """Runs a pool over jobs in a separate thread; iterating yields batches in order.

    Parameters
    ----------
    pool : DecodePool
    jobs : iterator of Job
    shape : tuple of int
        Of one step.
    batch_size : int
    pinned : bool
        Page-locked memory, from which a GPU copies on its own.
    """

    def __init__(
        self, pool: DecodePool, jobs: Iterator[Job], shape: tuple[int, ...], batch_size: int, *, pinned: bool = False
    ) -> None:
        self._pool, self._jobs, self._size = pool, jobs, batch_size
        self._free: queue.Queue[torch.Tensor] = queue.Queue()
        for _ in range(_BUFFERS):
            self._free.put(torch.empty((batch_size, *shape), dtype=torch.uint8, pin_memory=pinned))
        self._ready: queue.Queue[Batch | Exception | None] = queue.Queue()  # bounded by the buffers
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._pool.stop()
        self._thread.join()

    def __iter__(self) -> Iterator[Batch]:
        while True:
            item = self._ready.get()
            if item is None:
                return
            if isinstance(item, Exception):
                raise item
            yield item

    def recycle(self, batch: Batch) -> None:
        """Return the frames' memory for another batch."""
        self._free.put(batch.buffer)

    def _run(self) -> None:
        try:
            self._fill()
            self._ready.put(None)
        except _Stopped:
            self._ready.put(None)
        except Exception as error:  # raised again in the thread that requests batches
            self._ready.put(error)

    def _fill(self) -> None:
        batch = Batch(self._take())
        room = batch.buffer.numpy()
        for event in self._pool.run(self._jobs):
            if isinstance(event, StepFrames):
                room[len(batch.rows)] = event.frames
                batch.rows.append((event.number, event.start_s, event.end_s))
            else:
                batch.ends.append(event)
            if len(batch.rows) == self._size or len(batch.ends) == self._size + _ENDS:
                self._ready.put(batch)
                batch = Batch(self._take())
                room = batch.buffer.numpy()
        if batch.rows or batch.ends:
            self._ready.put(batch)

    def _take(self) -> torch.Tensor:
        while not self._stop.is_set():
            try:
                return self._free.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
        raise _Stopped
