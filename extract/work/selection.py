"""Which clips a run selects, and which of them are still to do."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from supportset.extract.options import Selection
from supportset.extract.work.parts import take_part
from supportset.store.errors import UsageError
from supportset.store.format.dataset import Dataset
from supportset.store.format.status import MISSING
from supportset.store.write.writer import Source


@dataclass(frozen=True)
class Clip:
    """A row of the dataset's table: ``path`` is relative to the videos' root, None where no file was found."""

    clip_id: str
    path: str | None
    start_s: float | None
    end_s: float | None


@dataclass(frozen=True)
class Task:
    """A clip to extract, and its file as it is now."""

    clip: Clip
    source: Source


@dataclass(frozen=True)
class Work:
    """What is left to do.

    Attributes
    ----------
    tasks : sequence of Task
        Clips with a file and without features; those of one file adjacent, in the order of their starts.
    absent : list of Clip
        Clips without a file, to record as missing.
    found : int
        How many of the selected clips have a file.
    done : int
        How many of the selected clips have features of their file as it is, or a failure that is not retried.
    """

    tasks: Sequence[Task]
    absent: list[Clip]
    found: int
    done: int


def select_clips(dataset: Dataset, selection: Selection) -> list[Clip]:
    """Choose clips of a dataset, in the order of its table.

    Raises
    ------
    UsageError
        An unknown protocol, split or part, or no clip at all.
    """
    protocol, split, limit = selection.protocol, selection.split, selection.limit
    columns = (dataset.clips[name].to_pylist() for name in ("clip_id", "path", "start_s", "end_s"))
    clips = [Clip(*row) for row in zip(*columns, strict=True)]
    if protocol is not None or split is not None:
        wanted = _members(dataset, protocol, split)
        clips = [clip for clip in clips if clip.clip_id in wanted]
    if limit is not None:
        if limit < 1:
            raise UsageError(f"a limit of {limit} clips leaves nothing to do: give at least 1")
        clips = clips[:limit]
    if selection.shard is not None:
        clips = take_part(clips, *selection.shard)
    if not clips:
        where = "/".join(name for name in (protocol, split) if name)
        raise UsageError(f"dataset {dataset.name!r} has no clip" + (f" in {where}" if where else "") + " to extract")
    return clips


def plan_work(clips: Iterable[Clip], videos_root: Path, rows: pa.Table, *, retry_failed: bool = False) -> Work:
    """Compare the selected clips with the index and the disk.

    A clip is skipped if the index has its features, or a failure (which ``retry_failed`` tries again). A clip whose
    file has another size or time than the index says is always done again. A missing clip is always looked for;
    features of a clip whose file is gone stay.

    Parameters
    ----------
    clips : iterable of Clip
    videos_root : Path
    rows : pyarrow.Table
        Of the index, see :meth:`supportset.store.read.feature_set.FeatureSet.rows`.
    retry_failed : bool
    """
    known = _known(rows)
    tasks, absent, found, done = [], [], 0, 0
    for clip in clips:
        status, steps, size, mtime = known.get(clip.clip_id, (None, 0, None, None))
        source = source_of(clip, videos_root)
        if source is None:
            if steps or status == MISSING:
                done += 1
            else:
                absent.append(clip)
            continue
        found += 1
        changed = size is not None and (size, mtime) != (source.size, source.mtime_ns)
        if status is None or status == MISSING or changed or (retry_failed and not steps):
            tasks.append(Task(clip, source))
        else:
            done += 1
    return Work(by_file(tasks), absent, found, done)


class HasPath(Protocol):
    """A clip of a dataset's table, or of an annotation that was just read."""

    @property
    def path(self) -> str | None:
        """Relative to the videos' root, None where no file was found."""
        ...


def require_videos(clips: Iterable[HasPath], videos_root: Path) -> None:
    """Check, before anything is written, that a clip has a file.

    Raises
    ------
    UsageError
        The folder does not exist, or no clip has a file in it.
    """
    if not videos_root.is_dir():
        raise UsageError(f"{videos_root}: no such folder of videos; --videos DIR names the right one")
    count = 0
    for clip in clips:
        if source_of(clip, videos_root) is not None:
            return
        count += 1
    raise UsageError(
        f"{videos_root}: holds no video of the {count:,} selected clips; --videos DIR names the right folder"
    )


def by_file(tasks: list[Task]) -> list[Task]:
    """Make the clips of one file adjacent, at the place of the first of them."""
    files: dict[str, list[Task]] = {}
    for task in tasks:
        files.setdefault(task.source.path, []).append(task)
    return [task for same in files.values() for task in sorted(same, key=lambda task: task.clip.start_s or 0.0)]


def _members(dataset: Dataset, protocol: str | None, split: str | None) -> set[str]:
    members: set[str] = set()
    names = [protocol] if protocol is not None else dataset.protocols()
    fitting = 0
    for name in names:
        for part in dataset.split_names(name):
            if split is None or part == split:
                members.update(dataset.split_clips(name, part))
                fitting += 1
    if not fitting and split is not None:
        known = sorted({part for name in names for part in dataset.split_names(name)})
        where = f"protocol {protocol!r} of dataset" if protocol is not None else "dataset"
        raise UsageError(f"{where} {dataset.name!r} has no split {split!r}; it has {', '.join(known) or 'none'}")
    return members


def _known(rows: pa.Table) -> dict[str, tuple[Any, ...]]:
    """Status, steps, size and time of the source file, by clip."""
    names = ("clip_id", "status", "length", "source_size", "source_mtime_ns")
    return {row[0]: row[1:] for row in zip(*(rows[name].to_pylist() for name in names), strict=True)}


def source_of(clip: HasPath, videos_root: Path) -> Source | None:
    if clip.path is None:
        return None
    try:
        found = os.stat(videos_root / clip.path)
    except OSError:
        return None
    return Source(clip.path, found.st_size, found.st_mtime_ns)


def rows_of(rows: pa.Table, clips: Iterable[Clip]) -> pa.Table:
    """Select the rows of an index that belong to the clips."""
    return rows.filter(pc.is_in(rows["clip_id"], pa.array([clip.clip_id for clip in clips], pa.string())))
