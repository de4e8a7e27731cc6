"""Thumbnails of clips that have features: made from their videos, for sets that were extracted without."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from supportset._process import cores
from supportset.extract.decode.sampling import Sampling
from supportset.extract.decode.thumbnails import MOST, blank
from supportset.extract.options import Selection
from supportset.extract.outcome import Outcome
from supportset.extract.pipeline.thumbnails import open_writer
from supportset.extract.progress.interrupted import Interrupted, sigterm_interrupts
from supportset.extract.progress.progress import Progress
from supportset.extract.recheck.recorded import recorded_sampling
from supportset.extract.work.lacking import Lacking, plan_thumbnails
from supportset.extract.work.selection import Clip, Task, select_clips
from supportset.extract.workers.decode_worker import ClipResult, Setup
from supportset.extract.workers.pool import DecodePool
from supportset.extract.workers.retries import Job
from supportset.store.errors import UsageError
from supportset.store.files import StorePath, store_path
from supportset.store.format.card import Recipe
from supportset.store.format.dataset import Dataset
from supportset.store.format.index import SCHEMA
from supportset.store.format.registry import DEFAULT_FORMAT
from supportset.store.format.status import ERROR, OK
from supportset.store.format.thumbnails import has_thumbnails, thumbnails_path
from supportset.store.read.feature_set import FeatureSet
from supportset.store.write.thumbnails import NO_PICTURE, ThumbnailWriter

_SLOTS = 64  # steps between a worker and this process; their frames are not used


@dataclass(frozen=True)
class Failure:
    """A clip whose video failed or is damaged: its status, and why. ``kept`` says whether it has thumbnails."""

    clip_id: str
    status: str
    message: str
    kept: bool


@dataclass
class ThumbnailSummary:
    """What :func:`make_thumbnails` found and made.

    Attributes
    ----------
    path : str
        Folder of the thumbnails.
    done : int
        Clips that had thumbnails of their file, or failed, before.
    made : int
        Clips that have new thumbnails.
    pictures : int
        Number of these thumbnails.
    bytes : int
        Size of these.
    failures : list of Failure
        Clips that failed now, or whose video is damaged.
    missing : list of str
        Clips with features whose video is not there.
    changed : list of str
        Clips whose video is not the one that their features were computed from: ``extract`` computes them anew.
    seconds : float
        Duration.
    """

    path: str
    done: int = 0
    made: int = 0
    pictures: int = 0
    bytes: int = 0
    failures: list[Failure] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The summary as the command line prints it."""
        return asdict(self) | {"seconds": round(self.seconds, 3)}


def make_thumbnails(
    dataset: Dataset,
    feature_set: str | StorePath,
    videos_root: str | Path,
    *,
    clips: Iterable[Clip] | None = None,
    most: int = MOST,
    workers: int | None = None,
    timeout: float = 600.0,
    shard_format: str = DEFAULT_FORMAT,
    retry_failed: bool = False,
    progress: bool = True,
) -> ThumbnailSummary:
    """Make the thumbnails of clips that have features and no thumbnails of their file.

    Only frames that a thumbnail shows are decoded. They are those that extraction takes. A run that was stopped or
    killed resumes when it is started again.

    Parameters
    ----------
    dataset : Dataset
    feature_set : str or StorePath
        Folder of the dataset's feature set.
    videos_root : str or Path
        Folder that the clips' paths are relative to.
    clips : iterable of Clip, optional
        Default: all clips of the dataset.
    most : int
        Most thumbnails of a clip, evenly spread over its steps.
    workers : int, optional
        Decode processes. Default: one a core.
    timeout : float
        As for extraction, in seconds.
    shard_format : str
        A name of :mod:`supportset.store.format.registry`.
    retry_failed : bool
        Whether clips are decoded again whose thumbnails failed before.
    progress : bool
        Whether a live line, or log lines, appear on standard error.

    Raises
    ------
    UsageError
        The set is not of videos, or a number is impossible.
    Interrupted
        On Ctrl-C or SIGTERM.
    SupportsetError
        The set cannot be read, or the disk or a worker fails. Complete clips are stored.
    """
    if most < 1 or (workers is not None and workers < 1):
        raise UsageError(f"thumbnails: {most} pictures a clip, {workers} workers: both must be at least 1")
    began, path, videos_root = time.monotonic(), store_path(feature_set), Path(videos_root)
    stored = FeatureSet.open(path)
    if stored.card.recipe.kind != "video":
        raise UsageError(f"{path}: holds features of kind {stored.card.recipe.kind!r}: only videos have thumbnails")
    if not videos_root.is_dir():
        raise UsageError(f"{videos_root}: no such folder of videos; --videos DIR names the right one")
    clips = select_clips(dataset, Selection()) if clips is None else clips
    lacking = plan_thumbnails(clips, videos_root, stored.rows(), _rows(path), retry_failed=retry_failed)
    summary = ThumbnailSummary(
        str(thumbnails_path(path)), lacking.done, missing=lacking.missing, changed=lacking.changed
    )
    if lacking.tasks:
        setup = Setup(
            _sampling(stored.card.recipe), blank, (1, 1, 1, 3), _SLOTS,
            cpu_seconds=timeout, thumbnails=most, thumbnails_only=True,
        )  # fmt: skip
        with Progress(len(lacking.tasks), quiet=not progress, verb="thumbnails") as shown, sigterm_interrupts():
            shown.note(_announcement(dataset, lacking, path))
            try:
                with (
                    open_writer(path, setup.sampling, most, shard_format=shard_format) as writer,
                    DecodePool(setup, min(workers or cores(), len(lacking.tasks)), timeout) as pool,
                ):
                    for event in pool.run(_jobs(lacking.tasks, videos_root)):
                        if isinstance(event, ClipResult):
                            _record(event, lacking.tasks[event.number], writer, summary, shown)
            except KeyboardInterrupt:
                raise Interrupted(
                    f"stopped: {summary.made:,} of {len(lacking.tasks):,} clips have thumbnails now; "
                    "the same command resumes"
                ) from None
    summary.seconds = time.monotonic() - began
    return summary


def _rows(feature_set: StorePath) -> pa.Table:
    """Rows of the thumbnails; none where there are none yet."""
    if not has_thumbnails(feature_set):
        return SCHEMA.empty_table()
    return FeatureSet.open(thumbnails_path(feature_set)).rows()


def _sampling(recipe: Recipe) -> Sampling:
    """Sampling of a set's features; of imported ones, which may not tell it, one frame a second."""
    if recipe.weights_hash != "unknown":
        return recorded_sampling(recipe)
    fps = recipe.sampling.get("fps")
    return Sampling(fps=float(fps) if isinstance(fps, int | float) else 1.0)


def _jobs(tasks: list[Task], videos_root: Path) -> Iterator[Job]:
    for number, task in enumerate(tasks):
        yield Job(number, str(videos_root / task.source.path), task.clip.start_s, task.clip.end_s)


def _record(end: ClipResult, task: Task, writer: ThumbnailWriter, summary: ThumbnailSummary, shown: Progress) -> None:
    clip_id, outcome = task.clip.clip_id, end.outcome
    if outcome.status == OK and not end.thumbnails:
        outcome = Outcome(ERROR, NO_PICTURE)
    source = replace(task.source, hash=end.hash)
    writer.record(clip_id, end.thumbnails, **vars(outcome), source=source, seconds=end.seconds)
    shown.frames(len(end.thumbnails))
    shown.clip(outcome.status, clip_id, outcome.message)
    summary.made += bool(end.thumbnails)
    summary.pictures += len(end.thumbnails)
    summary.bytes += sum(len(each.jpeg) for each in end.thumbnails)
    if outcome.status != OK:
        summary.failures.append(Failure(clip_id, outcome.status, outcome.message, bool(end.thumbnails)))


def _announcement(dataset: Dataset, lacking: Lacking, path: StorePath) -> str:
    words = [f"{len(lacking.tasks):,} clips of {dataset.name} to do", f"{lacking.done:,} done before"]
    for clips, why in ((lacking.missing, "without a video"), (lacking.changed, "whose video is another one now")):
        if clips:
            words.append(f"{len(clips):,} {why}")
    return f"thumbnails: {', '.join(words)}; into {thumbnails_path(path)}"
