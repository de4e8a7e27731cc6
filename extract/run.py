"""The extraction run: from the clips of a dataset to features in the store.

Decode workers, the model and the writer work at the same time: workers fill shared memory, a thread packs steps of many
clips into full batches, the main thread runs the model on them, and another thread writes clips that are complete.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from extract.batches import Batch, BatchStream
from extract.decode_worker import Job, Setup
from extract.forward import Forward, describe_device, pick_device
from extract.outcome import MISSING
from extract.progress import Progress
from extract.recipe import fit_sampling, make_card, make_recipe
from extract.recorder import Recorder
from extract.sampling import Sampling
from extract.selection import Clip, Work, plan_work, require_videos, rows_of, select_clips
from extract.summary import Summary, count_statuses, exit_code
from extract.workers import DecodePool
from store.card import CARD
from store.catalog import feature_set_path
from store.dataset import Dataset
from store.errors import SupportsetError, UsageError
from store.feature_set import FeatureSet
from store.shard import shard_format as check_shard_format
from store.writer import FeatureWriter

if TYPE_CHECKING:
    from extract.backbones.base import Backbone

_RING_BYTES = 512 * 2**20  # of shared memory for all workers together, at most


class Interrupted(SupportsetError):  # noqa: N818 - named for what it tells
    """Ctrl-C or SIGTERM: what was complete is stored."""

    exit_code = 130


def extract(
    dataset: Dataset,
    root: str | Path,
    videos_root: str | Path,
    backbone: Backbone,
    sampling: Sampling | None = None,
    *,
    protocol: str | None = None,
    split: str | None = None,
    limit: int | None = None,
    shard: tuple[int, int] | None = None,
    shard_format: str = "zarr",
    dtype: str = "float16",
    workers: int | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    precision: str = "fp32",
    timeout: float = 600.0,
    clips_per_shard: int = 500,
    seconds_per_shard: float = 300.0,
    retry_failed: bool = False,
    on_error: Literal["skip", "stop"] = "skip",
    on_damage: Literal["keep", "drop"] = "keep",
    max_failures: float = 0.05,
    strict: bool = False,
    progress: bool = True,
) -> Summary:
    """Extract the features of a dataset's clips that the store does not have yet.

    Every selected clip ends with a row in the index: its features, or why there are none. A run that is stopped or
    killed goes on when started again, and redoes at most what was not yet sealed.

    Parameters
    ----------
    dataset : Dataset
    root : the store's folder
    videos_root : folder that the clips' paths are relative to
    backbone : Backbone
        Moved to the device.
    sampling : Sampling, optional
        Default: one step a second. The window is the backbone's.
    protocol, split, limit, shard : see :func:`extract.selection.select_clips`
    shard_format : ``zarr`` or ``hdf5``
    dtype : ``float16`` or ``float32``, as stored; a value that does not fit fails its clip (``overflow``)
    workers : decode processes; default: half the cores where the model runs on them too, else all but one
    batch_size : steps of one forward; default by device
    device, precision : of the forward
    timeout : seconds a clip may go without progress before its worker is killed
    clips_per_shard, seconds_per_shard : when a shard is sealed; what was not sealed is lost when the process is killed
    retry_failed : try clips again that failed in earlier runs
    on_error : ``stop`` ends the run at the first clip that fails
    on_damage : whether features of damaged clips are kept (with the damage as message) or dropped
    max_failures, strict : decide the summary's exit code, see :func:`extract.summary.exit_code`
    progress : show a live line, or log lines, on standard error

    Returns
    -------
    Summary

    Raises
    ------
    UsageError
        Wrong values, or not one video where they should be; nothing has been written then.
    Interrupted
        On Ctrl-C or SIGTERM.
    SupportsetError
        If the disk or a worker refuses to work, or a clip failed and ``on_error`` is ``stop``; what was complete is
        stored.
    """
    began, root, videos_root = time.monotonic(), Path(root), Path(videos_root)
    _check_choices(shard_format, on_error, on_damage, max_failures, timeout, workers, batch_size)
    place = pick_device(device)
    sampling = fit_sampling(sampling or Sampling(), backbone)
    clips = select_clips(dataset, protocol, split, limit, shard)
    recipe = make_recipe(backbone, sampling, dtype)
    path = feature_set_path(root, dataset.name, recipe)
    rows = FeatureSet.open(path).rows() if (path / CARD).exists() else None
    work = plan_work(clips, videos_root, rows, retry_failed=retry_failed)
    if not work.found and not work.done:
        require_videos(clips, videos_root)
    if work.tasks or work.absent:
        backbone.to(place, precision)
        card = make_card(recipe, describe_device(place), precision)
        plan = _Plan.make(backbone, sampling, place, len(work.tasks), workers, batch_size, timeout)
        with Progress(len(work.tasks), quiet=not progress) as shown, _sigterm_interrupts():
            shown.note(_announcement(dataset, path, clips, work))
            try:
                with (
                    FeatureWriter(
                        path,
                        card,
                        shard_format=shard_format,
                        clips_per_shard=clips_per_shard,
                        seconds_per_shard=seconds_per_shard,
                    ) as writer,
                    Recorder(writer, work.tasks, shown, on_damage == "keep", on_error == "stop") as recorder,
                ):
                    recorder.fail(work.absent, MISSING, "no file of this clip was found")
                    if work.tasks:
                        _work(work, videos_root, backbone, plan, recorder, shown)
                    recorder.flush()
            except KeyboardInterrupt:
                there = len(rows_of(FeatureSet.open(path).rows(), clips))
                raise Interrupted(
                    f"stopped: {there:,} of {len(clips):,} clips are done and stored in {path}; "
                    "the same command goes on from there"
                ) from None
    final = rows_of(FeatureSet.open(path).rows(), clips)
    return Summary(
        dataset.name,
        path.name,
        str(path),
        len(clips),
        count_statuses(final),
        time.monotonic() - began,
        exit_code(final, max_failures, strict),
    )


@dataclass(frozen=True)
class _Plan:
    """Sizes of a run."""

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
    ) -> _Plan:
        transform = backbone.frame_transform()
        shape = (sampling.window, *transform(np.zeros((48, 64, 3), np.uint8)).shape)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = workers or max(1, cores // 2 if device.type == "cpu" else cores - 1)
        workers = max(1, min(workers, tasks))
        many = 32 if device.type == "cpu" else 256
        batch_size = batch_size or (many if sampling.window == 1 else max(4, 2 * many // sampling.window))
        slots = min(-(-2 * batch_size // workers), _RING_BYTES // workers // prod(shape))
        return cls(
            Setup(sampling, transform, shape, max(2, slots)), workers, batch_size, device.type == "cuda", timeout
        )


def _work(work: Work, videos_root: Path, backbone: Backbone, plan: _Plan, recorder: Recorder, shown: Progress) -> None:
    """Decode, forward and record all tasks; the batch before is read back while the next one is computed."""
    forward, held, waited, since = Forward(backbone), None, 0.0, time.monotonic()
    began = since
    with ExitStack() as stack:
        pool = stack.enter_context(DecodePool(plan.setup, plan.workers, plan.timeout))
        stream = stack.enter_context(
            BatchStream(pool, _jobs(work, videos_root), plan.setup.shape, plan.batch_size, pinned=plan.pinned)
        )

        def finish(batch: Batch, features: Tensor) -> None:
            values = features.cpu().numpy()
            stream.recycle(batch)
            recorder.take(batch, values)

        for batch in stream:
            waited += time.monotonic() - since
            features = forward(batch.frames)
            if held is not None:
                finish(*held)
            held, since = (batch, features), time.monotonic()
        if held is not None:
            finish(*held)
    share = waited / max(time.monotonic() - began, 1e-9)
    slower = "decoding" if share > 0.5 else "the model"
    shown.note(f"extract: the model waited for frames {share:.0%} of the time: {slower} sets the pace")


def _jobs(work: Work, videos_root: Path) -> Iterator[Job]:
    for number, task in enumerate(work.tasks):
        yield Job(number, str(videos_root / task.source.path), task.clip.start_s, task.clip.end_s)


def _announcement(dataset: Dataset, path: Path, clips: list[Clip], work: Work) -> str:
    words = [f"{len(work.tasks):,} of {len(clips):,} clips of {dataset.name} to do"]
    if work.done:
        words.append(f"{work.done:,} done before")
    if work.absent:
        words.append(f"{len(work.absent):,} without a video")
    return f"extract: {', '.join(words)}; into {path}"


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Treat SIGTERM (a batch system that ends a job) as Ctrl-C, where signals can be handled."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_choices(
    shard_format: str,
    on_error: str,
    on_damage: str,
    max_failures: float,
    timeout: float,
    workers: int | None,
    batch_size: int | None,
) -> None:
    check_shard_format(shard_format)
    for name, value, choices in (("on_error", on_error, ("skip", "stop")), ("on_damage", on_damage, ("keep", "drop"))):
        if value not in choices:
            raise UsageError(f"{name}={value!r} is not one of {', '.join(choices)}")
    if not 0 <= max_failures <= 1:
        raise UsageError(f"max_failures={max_failures} is not a share from 0 to 1")
    for name, number in (("timeout", timeout), ("workers", workers), ("batch_size", batch_size)):
        if number is not None and not number > 0:
            raise UsageError(f"{name}={number} should be above 0")
