"""Files that were renamed, moved or copied: their clips take over the features of the same content."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Self

import pyarrow.compute as pc

from supportset.extract.progress.progress import Progress
from supportset.extract.work.selection import Clip, Task, Work
from supportset.store.errors import SupportsetError
from supportset.store.files import StorePath, hash_file, open_folder
from supportset.store.format.card import FeatureCard, is_feature_set
from supportset.store.format.index import has_features, read_index
from supportset.store.format.shard import Array
from supportset.store.format.status import OK
from supportset.store.format.thumbnails import has_thumbnails, thumbnails_path
from supportset.store.read.feature_set import FeatureSet
from supportset.store.write.writer import FeatureWriter


@dataclass(frozen=True)
class _Donor:
    """A clip that has features, and the hash of the file that they were computed from."""

    clip_id: str
    path: str
    hash: str
    status: str
    message: str
    shard: str


def take_over(
    work: Work,
    path: StorePath,
    videos_root: Path,
    shown: Progress,
    *,
    named_after_files: bool,
    keep_damaged: bool = True,
) -> Work:
    """Give clips whose file has the content of a file that was extracted before the features of that one.

    The thumbnails of that file, if there are some, go with them.

    A file is read and hashed only if a file of its size and extension was extracted before. The clips must be the same
    part of their files: one and the same clip, or clips named after their files and the part.

    Parameters
    ----------
    work : Work
    path : StorePath
        The feature set; it may not exist yet.
    videos_root : Path
    shown : Progress
        Receives the clips that are done.
    named_after_files : bool
        Whether the ids of clips are the names of their files, as the reader ``folder`` gives them. Other ids say
        nothing about the part: then only a clip itself keeps its features.
    keep_damaged : bool
        Whether features of damaged files are taken over.

    Returns
    -------
    Work
        What is left.
    """
    if not work.tasks or not is_feature_set(path):
        return work
    feature_set = FeatureSet.open(path)
    found = list(_pairs(work, feature_set, videos_root, named_after_files, keep_damaged))
    taken: set[str] = set()
    with ExitStack() as stack:
        thumbnails = stack.enter_context(_Thumbnails(path)) if found and has_thumbnails(path) else None
        for told, pairs in groupby(sorted(found, key=lambda each: each[0]), key=lambda each: each[0]):
            # The features were made by an earlier run: its provenance goes with them.
            card = FeatureCard(feature_set.card.recipe, json.loads(told))
            with FeatureWriter(path, card, before=None if thumbnails is None else thumbnails.seal) as writer:
                for _, task, donor in pairs:
                    if (features := _read(feature_set, donor.clip_id)) is None:  # extracted from the video
                        continue
                    source = replace(task.source, hash=donor.hash)
                    about: dict[str, Any] = {"status": donor.status, "message": donor.message, "source": source}
                    if thumbnails is not None:
                        thumbnails.take(donor, task.clip.clip_id, **about)
                    writer.add(task.clip.clip_id, *features, **about)
                    taken.add(task.clip.clip_id)
                    shown.clip(donor.status, task.clip.clip_id, donor.message)
    if not taken:
        return work
    shown.note(f"extract: {len(taken):,} clips take over the features of equal files, renamed or touched since")
    tasks = [task for task in work.tasks if task.clip.clip_id not in taken]
    return Work(tasks, work.absent, work.found, work.done + len(taken))


class _Thumbnails:
    """The thumbnails of clips that take over features.

    Parameters
    ----------
    feature_set : StorePath
        It has thumbnails.
    """

    def __init__(self, feature_set: StorePath) -> None:
        self._set = FeatureSet.open(thumbnails_path(feature_set))
        rows = self._set.rows()
        self._hashes = dict(zip(rows["clip_id"].to_pylist(), rows["source_hash"].to_pylist(), strict=True))
        self._writer = FeatureWriter(self._set.path, self._set.card)
        self.seal = self._writer.seal

    def __enter__(self) -> Self:
        self._writer.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._writer.__exit__(*error)

    def take(self, donor: _Donor, clip_id: str, **about: Any) -> None:
        """Copy the thumbnails of a donor, if they are of its file; else they are made from the video."""
        if self._hashes.get(donor.clip_id) != donor.hash or donor.clip_id not in self._set:
            return
        if (found := _read(self._set, donor.clip_id)) is not None:
            self._writer.add(clip_id, *found, **about)


def _read(rows: FeatureSet, clip_id: str) -> tuple[Array, Array] | None:
    """Values and timestamps of a clip; None if they are damaged, or were replaced meanwhile."""
    try:
        return rows.read([clip_id])[0], rows.read_timestamps([clip_id])
    except SupportsetError:
        return None


def _pairs(
    work: Work, feature_set: FeatureSet, videos_root: Path, named_after_files: bool, keep_damaged: bool
) -> Iterator[tuple[str, Task, _Donor]]:
    """Clips to do, each with a clip of equal content, and the provenance of its features as JSON."""
    donors, shards = _donors(feature_set, keep_damaged), open_folder(feature_set.path).child("shards")
    provenance: dict[str, str] = {}
    for of_file, tasks in groupby(work.tasks, key=lambda task: task.source.path):
        content: str | None = None
        for task in tasks:
            fitting = [
                donor
                for donor in donors.get((task.source.size, _extension(of_file)), ())
                if donor.clip_id == task.clip.clip_id or (named_after_files and _same_part(task.clip, of_file, donor))
            ]
            if not fitting:
                continue
            content = content or _hash(task, videos_root)
            for donor in fitting:
                if donor.hash == content:
                    if donor.shard not in provenance:
                        try:
                            told = read_index(shards, donor.shard, ["clip_id"])[0].provenance
                        except SupportsetError:  # replaced meanwhile
                            continue
                        provenance[donor.shard] = json.dumps(told, sort_keys=True)
                    yield provenance[donor.shard], task, donor
                    break


def _donors(feature_set: FeatureSet, keep_damaged: bool) -> dict[tuple[int, str], list[_Donor]]:
    """Clips with features and a hash of their file, by the size and the extension of the file."""
    rows = feature_set.rows()
    rows = rows.filter(pc.and_(has_features(rows), pc.is_valid(rows["source_hash"])))
    names = ("source_size", "clip_id", "source_path", "source_hash", "status", "message", "shard")
    donors = defaultdict(list)
    for size, *facts in zip(*(rows[name].to_pylist() for name in names), strict=True):
        donor = _Donor(*facts)
        if donor.path is not None and (keep_damaged or donor.status == OK):
            donors[size, _extension(donor.path)].append(donor)
    return donors


def _same_part(clip: Clip, path: str, donor: _Donor) -> bool:
    """Whether two clips are the same part of their files, by their ids."""
    part = "" if clip.start_s is clip.end_s is None else f"@{_number(clip.start_s)}-{_number(clip.end_s)}"
    return all(
        clip_id in (f"{file}{part}", f"{os.path.splitext(file)[0]}{part}")
        for clip_id, file in ((clip.clip_id, path), (donor.clip_id, donor.path))
    )


def _number(seconds: float | None) -> str:
    return repr(seconds).removesuffix(".0")  # as in the ids that the reader of folders gives


def _hash(task: Task, videos_root: Path) -> str | None:
    """Hash of a file; None if it cannot be read, or changes meanwhile."""
    file = videos_root / task.source.path
    try:
        content, now = hash_file(file), os.stat(file)
    except (SupportsetError, OSError):
        return None
    return content if (now.st_size, now.st_mtime_ns) == (task.source.size, task.source.mtime_ns) else None


def _extension(path: str) -> str:
    return os.path.splitext(path)[1].lower()
