"""Which clips have features and no thumbnails of their file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from supportset.extract.work.selection import Clip, Task, by_file, source_of


@dataclass(frozen=True)
class Lacking:
    """Clips with features, by what their thumbnails need.

    Attributes
    ----------
    tasks : list of Task
        Clips to decode, those of one file adjacent.
    done : int
        Clips that have thumbnails of their file, or failed before.
    missing : list of str
        Clips without a file.
    changed : list of str
        Clips whose file is not the one that their features were computed from: they need other features first.
    """

    tasks: list[Task]
    done: int
    missing: list[str]
    changed: list[str]


def plan_thumbnails(
    clips: Iterable[Clip], videos_root: Path, features: pa.Table, thumbnails: pa.Table, *, retry_failed: bool = False
) -> Lacking:
    """Compare the clips that have features with the thumbnails and the disk.

    Parameters
    ----------
    clips : iterable of Clip
    videos_root : Path
    features, thumbnails : pyarrow.Table
        Rows of the two sets, see :meth:`supportset.store.read.feature_set.FeatureSet.rows`.
    retry_failed : bool
        Whether clips are decoded again whose thumbnails failed before.
    """
    computed, taken = _known(features), _known(thumbnails)
    tasks: list[Task] = []
    missing, changed, done = [], [], 0
    for clip in clips:
        length, path, *stamp = computed.get(clip.clip_id, (0, None))
        if not length:
            continue
        source = source_of(clip, videos_root)
        if source is None:
            missing.append(clip.clip_id)
            continue
        now = [source.size, source.mtime_ns]
        pictures, _, *of_file = taken.get(clip.clip_id, (0, None))
        if of_file == now and (pictures or not retry_failed):
            done += 1
        elif path == clip.path and stamp != now:  # of imported features the path is that of other files
            changed.append(clip.clip_id)
        else:
            tasks.append(Task(clip, source))
    return Lacking(by_file(tasks), done, missing, changed)


def _known(rows: pa.Table) -> dict[str, tuple[int, str | None, int | None, int | None]]:
    """Rows with features, path, size and time of the source file, by clip."""
    names = ("clip_id", "length", "source_path", "source_size", "source_mtime_ns")
    return {row[0]: row[1:] for row in zip(*(rows[name].to_pylist() for name in names), strict=True)}
