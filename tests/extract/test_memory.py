"""Memory does not grow with a video's length, nor with the number of clips that fail or wait for the disk."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from supportset.extract.decode.clips import decode_clip
from supportset.extract.decode.sampling import Sampling
from supportset.extract.outcome import Outcome
from supportset.extract.pipeline import batches
from supportset.extract.pipeline.batches import Batch, BatchStream
from supportset.extract.pipeline.recorder import Recorder
from supportset.extract.progress.progress import Progress
from supportset.extract.work.selection import Clip, Task
from supportset.extract.workers.decode_worker import Job
from supportset.extract.workers.pool import ClipResult, StepFrames
from supportset.store.write.writer import Source
from tests.extract.films import write_video

pytestmark = pytest.mark.slow


def test_frames_that_were_used_are_let_go(tmp_path: Path) -> None:
    film = write_video(tmp_path / "film.mp4", 150, size=(640, 480))  # 0.9 MB a picture
    most = 0
    gc.collect()
    gc.disable()  # it counts objects, and would come too late for larger pictures
    try:
        for step in decode_clip(film, sampling=Sampling(fps=25.0), transform=lambda picture: picture[::8, ::8].copy()):
            if step.start_s * 25 % 10 < 1:
                most = max(most, sum(type(each) is av.VideoFrame for each in gc.get_objects()))
    finally:
        gc.enable()
    assert 0 < most < 90


class FailingClips:
    """A pool in which no clip has a step."""

    def __init__(self, clips: int) -> None:
        self.clips = clips

    def run(self, jobs: Iterator[Job]) -> Iterator[StepFrames | ClipResult]:
        for number in range(self.clips):
            yield ClipResult(number, Outcome("unreadable", "no header"), 0.0)

    def stop(self) -> None:
        pass


def test_clips_that_fail_go_on_without_waiting_for_a_full_batch() -> None:
    pool: Any = FailingClips(2000)
    with BatchStream(pool, iter(()), (1, 2, 2, 3), 4) as stream:
        sizes = []
        for batch in stream:
            sizes.append(len(batch.ends))
            stream.recycle(batch)
    assert sum(sizes) == 2000
    assert max(sizes) <= 4 + batches._ENDS


class SlowDisk:
    """A writer that takes a clip when told to, and notes how many wait for it."""

    def __init__(self) -> None:
        self.go = threading.Semaphore(0)
        self.taken: list[str] = []

    def add(self, clip_id: str, values: np.ndarray, *rest: Any, **more: Any) -> None:
        self.go.acquire()
        self.taken.append(clip_id)


@pytest.mark.parametrize(("clips", "size", "most"), [(100, 8, 64), (40, 2**20, 16)])
def test_what_waits_for_the_disk_is_bounded(clips: int, size: int, most: int) -> None:
    """By number, and for large features (4 MiB each here) by bytes."""
    writer: Any = SlowDisk()
    tasks = [Task(Clip(f"c{number}", "x", None, None), Source("x", 0, 0)) for number in range(clips)]
    handed: list[int] = []

    def feed() -> None:
        with Recorder(writer, tasks, Progress(clips, quiet=True), True, False) as taker:
            for number in range(clips):
                end = ClipResult(number, Outcome(), 0.0)
                batch = Batch(torch.empty((1, 1, 2, 2, 3), dtype=torch.uint8), [(number, 0.0, 1.0)], [end])
                taker.take(batch, np.zeros((1, size), np.float32))
                handed.append(number)
            taker.flush()
            assert taker.waited > 0

    thread = threading.Thread(target=feed)
    thread.start()
    for _ in range(clips):
        thread.join(0.002)  # time for the feeder to run ahead, as far as it is let
        assert len(handed) <= len(writer.taken) + most + 2
        writer.go.release()
    thread.join(10)
    assert writer.taken == [task.clip.clip_id for task in tasks]


def test_features_of_a_long_clip_hold_no_batches() -> None:
    """Of each batch a long clip has one step, the others are those of clips that end."""
    writer: Any = SlowDisk()
    taker = Recorder(writer, [], Progress(1, quiet=True), True, False)
    for number in range(20):
        rows = [(0, float(number), number + 1.0)] + [(1, 0.0, 1.0)] * 99
        taker.take(Batch(torch.empty((100, 1, 2, 2, 3), dtype=torch.uint8), rows), np.zeros((100, 16), np.float32))
    held = taker._features[0]
    assert sum((part if part.base is None else part.base).nbytes for part in held) == 20 * 16 * 4
