"""From features of steps to rows of the store: assemble clips, and write them in a separate thread."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import groupby
from types import TracebackType
from typing import Any, Self

import numpy as np

from supportset.extract.outcome import Outcome
from supportset.extract.pipeline.batches import Batch
from supportset.extract.progress.progress import Progress
from supportset.extract.progress.stage_timing import Spent
from supportset.extract.work.selection import Task
from supportset.extract.workers.decode_worker import ClipResult
from supportset.store.errors import SupportsetError, ValueOverflow
from supportset.store.format.status import DAMAGED, OK, OVERFLOW
from supportset.store.write.thumbnails import ThumbnailWriter
from supportset.store.write.writer import FeatureWriter

_PENDING_CLIPS, _PENDING_BYTES = 64, 64 * 2**20  # clips queued for the writer; with more the run waits for the disk


class Recorder:
    """Gathers the features of each clip and passes complete clips to the writer.

    Its memory is bounded: features of the clips in decoding, and clips that the disk has not taken yet.

    Parameters
    ----------
    writer : FeatureWriter
        Used by the recorder's thread only, until the recorder is left.
    tasks : sequence of Task
        By job number.
    progress : Progress
    keep_damaged : bool
        Whether the features of a damaged clip are stored or dropped.
    stop_on_error : bool
        Whether the first clip that fails ends the run (after it is recorded).
    thumbnails : ThumbnailWriter, optional
        Takes the thumbnails of clips that have features, before these; used by the recorder's thread only.

    Attributes
    ----------
    waited : float
        Seconds for which the caller waited for the writer.
    """

    def __init__(
        self,
        writer: FeatureWriter,
        tasks: Sequence[Task],
        progress: Progress,
        keep_damaged: bool,
        stop_on_error: bool,
        thumbnails: ThumbnailWriter | None = None,
    ) -> None:
        self._writer, self._tasks, self._progress = writer, tasks, progress
        self._keep_damaged, self._stop_on_error = keep_damaged, stop_on_error
        self._thumbnails = thumbnails
        self._features: dict[int, list[np.ndarray]] = {}
        self._spans: dict[int, list[tuple[float, float]]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._pending: deque[tuple[Future[None], int]] = deque()
        self._pending_bytes = 0
        self.waited = 0.0

    def take(self, batch: Batch, features: np.ndarray) -> None:
        """Take the features of a batch of N steps, and write the clips that it completes.

        Parameters
        ----------
        batch : Batch
            The steps.
        features : ndarray
            (N x vectors, D): the vectors of each step side by side. Each becomes a step of the store.

        Raises
        ------
        SupportsetError
            If the disk refused an earlier clip, or one failed and ``stop_on_error`` is set.
        """
        start, vectors = 0, len(features) // max(len(batch.rows), 1)
        for number, run in groupby(batch.rows, key=lambda row: row[0]):
            spans = [(begin, end) for _, begin, end in run for _ in range(vectors)]
            # A copy: a view would keep the batch in memory until the clip ends.
            self._features.setdefault(number, []).append(features[start : start + len(spans)].copy())
            self._spans.setdefault(number, []).extend(spans)
            start += len(spans)
        self._progress.frames(len(batch.rows) * batch.buffer.shape[1])
        for end in batch.ends:
            values, spans = self._features.pop(end.number, []), self._spans.pop(end.number, [])
            future = self._thread.submit(self._write, self._tasks[end.number], end, values, spans)
            size = sum(part.nbytes for part in values) + sum(len(each.jpeg) for each in end.thumbnails)
            self._submit(future, size)

    def flush(self) -> None:
        """Wait until the writer has everything taken so far; raises as :meth:`take`."""
        before = self.waited
        while self._pending:
            self._settle()
        self._progress.spent(Spent(store=self.waited - before))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True)

    def _submit(self, future: Future[None], size: int) -> None:
        self._pending.append((future, size))
        self._pending_bytes += size
        while self._pending and (
            self._pending[0][0].done() or len(self._pending) > _PENDING_CLIPS or self._pending_bytes > _PENDING_BYTES
        ):
            self._settle()

    def _settle(self) -> None:
        """Wait until the writer takes the oldest queued clip."""
        future, size = self._pending.popleft()
        self._pending_bytes -= size
        since = time.monotonic()
        try:
            future.result()
        finally:
            self.waited += time.monotonic() - since

    def _write(self, task: Task, end: ClipResult, values: list[np.ndarray], spans: list[tuple[float, float]]) -> None:
        clip_id, outcome = task.clip.clip_id, end.outcome
        about: Any = {"source": replace(task.source, hash=end.hash), "seconds": end.seconds}
        kept = outcome.status == OK or (outcome.status == DAMAGED and self._keep_damaged and bool(values))
        if kept:
            if self._thumbnails is not None:
                self._thumbnails.record(clip_id, end.thumbnails, **vars(outcome), **about)
            try:
                self._writer.add(clip_id, np.concatenate(values), np.array(spans), **vars(outcome), **about)
            except ValueOverflow as error:
                kept, outcome = False, Outcome(OVERFLOW, str(error))
        if not kept:
            self._writer.fail(clip_id, **vars(outcome), **about)
        self._progress.clip(outcome.status, clip_id, outcome.message)
        if self._stop_on_error and not kept:
            raise SupportsetError(
                f"clip {clip_id!r} ({task.source.path}) is {outcome}; clips before it are stored; "
                "--on-error skip continues past such clips"
            )
