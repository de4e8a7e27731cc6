"""From features of steps to rows of the store: clips are put together, and written by a thread of its own."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import groupby
from types import TracebackType
from typing import Self

import numpy as np

from supportset.extract.outcome import DAMAGED, OK, OVERFLOW
from supportset.extract.pipeline.batches import Batch
from supportset.extract.progress.progress import Progress
from supportset.extract.progress.stage_timing import Spent
from supportset.extract.work.selection import Clip, Task
from supportset.extract.workers.pool import ClipEnd
from supportset.store.errors import SupportsetError, ValueOverflow
from supportset.store.write.writer import FeatureWriter

_PENDING_CLIPS, _PENDING_BYTES = 64, 64 * 2**20  # on their way to the writer; beyond these the run waits for the disk


class Recorder:
    """Gathers the features of each clip and hands complete clips to the writer.

    What it holds is bounded: features of the clips that are being decoded, and what the disk has not taken yet.

    Parameters
    ----------
    writer : FeatureWriter
        Used by the recorder's thread only, until the recorder is left.
    tasks : sequence of Task
        By job number.
    progress : Progress
    keep_damaged : bool
        Whether a damaged clip's features are stored, with the damage as their message, or dropped.
    stop_on_error : bool
        Whether the first clip that fails ends the run (after it is recorded).

    Attributes
    ----------
    waited : float
        Seconds for which the caller was held up because the writer did not keep pace.
    """

    def __init__(
        self,
        writer: FeatureWriter,
        tasks: Sequence[Task],
        progress: Progress,
        keep_damaged: bool,
        stop_on_error: bool,
    ) -> None:
        self._writer, self._tasks, self._progress = writer, tasks, progress
        self._keep_damaged, self._stop_on_error = keep_damaged, stop_on_error
        self._features: dict[int, list[np.ndarray]] = {}
        self._spans: dict[int, list[tuple[float, float]]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._pending: deque[tuple[Future[None], int]] = deque()
        self._pending_bytes = 0
        self.waited = 0.0

    def fail(self, clips: list[Clip], status: str, message: str) -> None:
        """Record clips that were not tried."""
        for clip in clips:
            self._submit(self._thread.submit(self._writer.fail, clip.clip_id, status, message), 0)

    def take(self, batch: Batch, features: np.ndarray) -> None:
        """Take the features of a batch of N steps, and write the clips that are complete with it.

        Parameters
        ----------
        batch : the steps
        features : (N x vectors, D), the vectors of each step side by side; each becomes a step of the store, at the
            time of its own

        Raises
        ------
        SupportsetError
            If the disk refused an earlier clip, or one failed and the run is to stop then.
        """
        start, vectors = 0, len(features) // max(len(batch.rows), 1)
        for number, run in groupby(batch.rows, key=lambda row: row[0]):
            spans = [(begin, end) for _, begin, end in run for _ in range(vectors)]
            # A copy: a view would hold the whole batch for as long as the clip goes on.
            self._features.setdefault(number, []).append(features[start : start + len(spans)].copy())
            self._spans.setdefault(number, []).extend(spans)
            start += len(spans)
        self._progress.frames(len(batch.rows) * batch.buffer.shape[1])
        for end_of_clip in batch.ends:
            number = end_of_clip.job.number
            values, spans = self._features.pop(number, []), self._spans.pop(number, [])
            future = self._thread.submit(self._write, self._tasks[number], end_of_clip, values, spans)
            self._submit(future, sum(part.nbytes for part in values))

    def flush(self) -> None:
        """Wait until everything taken so far is with the writer; raises as :meth:`take`."""
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
        """Wait for the oldest clip that the writer has not taken."""
        future, size = self._pending.popleft()
        self._pending_bytes -= size
        since = time.monotonic()
        try:
            future.result()
        finally:
            self.waited += time.monotonic() - since

    def _write(self, task: Task, end: ClipEnd, values: list[np.ndarray], spans: list[tuple[float, float]]) -> None:
        clip_id, source = task.clip.clip_id, replace(task.source, hash=end.hash)
        status, message = end.status, end.message
        kept = status == DAMAGED and self._keep_damaged and bool(values)
        if status == OK or kept:
            told = f"{DAMAGED}: {message}" if kept else message
            try:
                self._writer.add(
                    clip_id, np.concatenate(values), np.array(spans), source=source, seconds=end.seconds, message=told
                )
            except ValueOverflow as error:
                status, message, kept = OVERFLOW, str(error), False
        if status != OK and not kept:
            self._writer.fail(clip_id, status, message, source=source, seconds=end.seconds)
        self._progress.clip(status, clip_id, message)
        if self._stop_on_error and status != OK and not kept:
            raise SupportsetError(
                f"clip {clip_id!r} ({task.source.path}) is {status}: {message}; what was done before is stored; "
                "--on-error skip goes on past such clips"
            )
