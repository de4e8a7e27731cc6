"""Decode, compute and write at the same time.

Workers fill shared memory, a thread packs the steps of many clips into full batches, the main thread runs the model,
and the recorder's thread writes complete clips.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor

from supportset._process import cores as usable_cores
from supportset.extract.decode.decoders import PYAV, decoder_beside
from supportset.extract.decode.sampling import Sampling
from supportset.extract.pipeline.batch_size import default_batch_size
from supportset.extract.pipeline.batches import Batch, BatchStream
from supportset.extract.pipeline.forward import Forward
from supportset.extract.pipeline.recorder import Recorder
from supportset.extract.progress.progress import Progress
from supportset.extract.progress.stage_timing import Spent
from supportset.extract.work.selection import Work
from supportset.extract.workers.decode_worker import Job, Setup
from supportset.extract.workers.pool import DecodePool

if TYPE_CHECKING:
    from supportset.extract.backbones.base import Backbone

_WATCH_SECONDS = 0.1  # seconds between two samples of what the decode workers do
_RING_BYTES = 512 * 2**20  # maximum of shared memory for all workers together


@dataclass(frozen=True)
class Plan:
    """Sizes of a run.

    Attributes
    ----------
    setup : Setup
        Settings of the decode workers.
    workers : int
        Decode processes.
    batch_size : int
        Steps of one forward.
    pinned : bool
        Whether batches are in page-locked memory.
    timeout : float
        Seconds a clip may go without progress.
    """

    setup: Setup
    workers: int
    batch_size: int
    pinned: bool
    timeout: float

    @classmethod
    def make(
        cls,
        backbone: Backbone,
        sampling: Sampling,
        device: torch.device,
        tasks: int,
        workers: int | None,
        batch_size: int | None,
        timeout: float,
        cores: int | None = None,
        decoder: str = PYAV,
        thumbnails: int = 0,
    ) -> Plan:
        """Choose what is not given: workers by the cores that the model leaves, the batch by the device.

        ``cores`` are those that the run may use; default: all that this process may use. ``decoder`` is a name of
        :mod:`supportset.extract.decode.decoders`, ``thumbnails`` the most of a clip.
        """
        transform = backbone.frame_transform()
        shape = (sampling.window, *transform(np.zeros((48, 64, 3), np.uint8)).shape)
        cores = cores or usable_cores()
        workers = workers or max(1, cores // 2 if device.type == "cpu" else cores - 1)
        workers = max(1, min(workers, tasks))
        batch_size = batch_size or default_batch_size(device, sampling.window)
        slots = min(-(-2 * batch_size // workers), _RING_BYTES // workers // prod(shape))
        return cls(
            Setup(
                sampling,
                transform,
                shape,
                max(2, slots),
                decoder_beside(decoder, str(device)),
                cpu_seconds=timeout,
                thumbnails=thumbnails,
            ),
            workers,
            batch_size,
            device.type == "cuda",
            timeout,
        )


def run_pipeline(
    work: Work, videos_root: Path, backbone: Backbone, plan: Plan, recorder: Recorder, shown: Progress
) -> None:
    """Decode, forward and record all tasks.

    Parameters
    ----------
    work : Work
        The tasks.
    videos_root : Path
        Folder that their paths are relative to.
    backbone : Backbone
        On its device.
    plan : Plan
        Sizes.
    recorder : Recorder
        Takes the features, clip by clip.
    shown : Progress
        Receives the stage times.

    Raises
    ------
    SupportsetError
        From the workers, the model, or the writer.
    """
    with DecodePool(plan.setup, plan.workers, plan.timeout) as pool:
        run_pool(pool, _jobs(work, videos_root, shown), backbone, plan, recorder, shown)


def run_pool(
    pool: DecodePool, jobs: Iterator[Job], backbone: Backbone, plan: Plan, recorder: Recorder, shown: Progress
) -> None:
    """Compute and record the steps of a pool's jobs; a batch is copied back while the next is computed.

    Parameters and errors are those of :func:`run_pipeline`.
    """
    shown.pipeline(
        device=str(backbone.device), workers=plan.workers, batch_size=plan.batch_size, compiled=backbone.compiled
    )
    forward, held = Forward(backbone, plan.batch_size), None
    with ExitStack() as stack:
        stream = stack.enter_context(BatchStream(pool, jobs, plan.setup.shape, plan.batch_size, pinned=plan.pinned))
        laps = stack.enter_context(_Laps(pool, recorder, shown))

        def finish(batch: Batch, features: Tensor) -> None:
            values = features.cpu().numpy()
            stream.recycle(batch)
            recorder.take(batch, values)

        for batch in stream:
            laps.frames_came()
            features = forward(batch.frames)
            if held is not None:
                finish(*held)
            held = (batch, features)
            if features.device.type == "cpu":  # nothing is pending: record it now
                finish(*held)
                held = None
            laps.batch_done()
        if held is not None:
            laps.frames_came()
            finish(*held)
            laps.batch_done()


class _Laps:
    """Measures the stages between two batches, and reports them."""

    def __init__(self, pool: DecodePool, recorder: Recorder, shown: Progress) -> None:
        self._pool, self._recorder, self._shown = pool, recorder, shown
        self._since = self._came = time.monotonic()
        self._stored = recorder.waited
        self._started = False
        self._room = 0.0  # seconds, counted by the thread
        self._told_room = 0.0
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="room", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        self._thread.join()

    def frames_came(self) -> None:
        """Note that the model received a batch."""
        self._came = time.monotonic()

    def batch_done(self) -> None:
        """Note that the recorder has the batch's features."""
        now, waited, room = time.monotonic(), self._came - self._since, self._room
        store = self._recorder.waited - self._stored
        spent = Spent(computing=now - self._came - store, store=store)
        if self._started:
            spent += Spent(frames=waited, room=room - self._told_room)
        else:  # start-up of processes and libraries is not counted
            spent += Spent(starting=waited)
        self._shown.spent(spent)
        self._since, self._stored, self._told_room, self._started = now, self._recorder.waited, room, True

    def _watch(self) -> None:
        since = time.monotonic()
        while not self._left.wait(_WATCH_SECONDS):
            now = time.monotonic()
            self._room += (now - since) * self._pool.blocked
            since = now


def _jobs(work: Work, videos_root: Path, shown: Progress) -> Iterator[Job]:
    file = None
    for number, task in enumerate(work.tasks):
        if task.source.path != file:
            file = task.source.path
            shown.starts(file)
        yield Job(number, str(videos_root / task.source.path), task.clip.start_s, task.clip.end_s)
